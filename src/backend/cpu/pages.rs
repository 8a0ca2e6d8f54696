//! Memory by the page: for arenas, and for the panels of large products.

use memmap2::MmapMut;

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// Zeroed pages, huge ones where the system has them and at least one is asked for: a product walks through many rows at
/// a time, and each lies in a page of its own.
pub fn pages(bytes: usize) -> std::io::Result<MmapMut> {
    let map = MmapMut::map_anon(bytes.max(1))?;
    #[cfg(target_os = "linux")]
    if bytes >= HUGE
        && let Err(error) = map.advise(memmap2::Advice::HugePage)
    {
        tracing::debug!("no huge pages: {error}");
    }
    Ok(map)
}
