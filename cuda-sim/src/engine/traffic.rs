//! Counting of one warp instruction's memory traffic: sectors of global memory, wavefronts of shared memory.

use super::lower::lanes;
use super::registers::LANES;
use super::report::{GlobalTraffic, SharedTraffic};

/// Bytes of a sector, the unit in which global memory moves.
const SECTOR: u64 = 32;
/// Banks of shared memory, each four bytes wide.
const BANKS: u64 = 32;

/// Counts an access of `bytes` bytes in every lane of `mask`.
pub(crate) fn count_global(traffic: &mut GlobalTraffic, addresses: &[u64; LANES], mask: u32, bytes: u64) {
    traffic.requests += 1;
    traffic.bytes += bytes * u64::from(mask.count_ones());
    let first = mask.trailing_zeros() as usize;
    // The usual patterns: neighbouring lanes at neighbouring addresses, or all lanes at one.
    let start = addresses[first.min(LANES - 1)];
    let contiguous = (0..LANES).all(|lane| {
        mask >> lane & 1 == 0
            || addresses[lane].wrapping_sub(start) == (lane.wrapping_sub(first) as u64) * bytes
    });
    if contiguous && (mask >> first).wrapping_add(1) & mask >> first == 0 {
        let length = bytes * u64::from(mask.count_ones());
        traffic.unique_bytes += length;
        traffic.sectors += (start + length - 1) / SECTOR - start / SECTOR + 1;
        return;
    }
    let mut sorted = [0u64; LANES];
    let mut count = 0;
    for lane in lanes(mask) {
        sorted[count] = addresses[lane];
        count += 1;
    }
    sorted[..count].sort_unstable();
    let (mut covered, mut next_sector) = (0u64, 0u64);
    for &address in &sorted[..count] {
        let end = address + bytes;
        traffic.unique_bytes += end - address.max(covered).min(end);
        covered = covered.max(end);
        let (low, high) = ((address / SECTOR).max(next_sector), (end - 1) / SECTOR + 1);
        traffic.sectors += high.saturating_sub(low);
        next_sector = next_sector.max(high);
    }
}

/// Counts an access of `bytes` bytes in every lane of `mask`. A pass serves 128 bytes: all lanes of a 4-byte access,
/// half of them at 8 bytes, a quarter at 16; within a pass, one word per bank.
pub(crate) fn count_shared(traffic: &mut SharedTraffic, addresses: &[u64; LANES], mask: u32, bytes: u64) {
    traffic.requests += 1;
    traffic.bytes += bytes * u64::from(mask.count_ones());
    let per_pass = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    // The usual patterns need no sorting: neighbouring lanes at neighbouring addresses, or all lanes at one.
    let start = addresses[0];
    let step = if addresses[1] == start { 0 } else { bytes };
    if mask == u32::MAX
        && start.is_multiple_of(bytes)
        && (0..LANES).all(|l| addresses[l] == start + l as u64 * step)
    {
        traffic.wavefronts += (LANES / per_pass) as u64;
        return;
    }
    let mut first = 0;
    while first < LANES {
        let group = lane_range(first, per_pass) & mask;
        if group != 0 {
            let wavefronts = wavefronts(addresses, group, bytes);
            traffic.wavefronts += wavefronts;
            traffic.bank_conflicts += wavefronts - 1;
        }
        first += per_pass;
    }
}

fn lane_range(first: usize, count: usize) -> u32 {
    (((1u64 << count) - 1) << first) as u32
}

/// The most distinct words that one bank has to serve.
fn wavefronts(addresses: &[u64; LANES], mask: u32, bytes: u64) -> u64 {
    let words_per_lane = bytes.div_ceil(4);
    let mut words = [0u64; LANES];
    let mut count = 0;
    for lane in lanes(mask) {
        for word in 0..words_per_lane {
            if count < LANES {
                words[count] = addresses[lane] / 4 + word;
                count += 1;
            }
        }
    }
    let words = &mut words[..count];
    words.sort_unstable();
    let mut per_bank = [0u64; BANKS as usize];
    let mut last = u64::MAX;
    for &word in words.iter() {
        if word != last {
            per_bank[(word % BANKS) as usize] += 1;
            last = word;
        }
    }
    per_bank.into_iter().max().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(f: impl Fn(u64) -> u64) -> [u64; LANES] {
        std::array::from_fn(|lane| f(lane as u64))
    }

    fn global(addresses: [u64; LANES], mask: u32, bytes: u64) -> GlobalTraffic {
        let mut traffic = GlobalTraffic::default();
        count_global(&mut traffic, &addresses, mask, bytes);
        traffic
    }

    #[test]
    fn sectors_of_the_textbook_patterns() {
        assert_eq!(global(addresses(|l| 256 + 4 * l), u32::MAX, 4).sectors, 4);
        assert_eq!(global(addresses(|l| 260 + 4 * l), u32::MAX, 4).sectors, 5);
        assert_eq!(global(addresses(|l| 256 + 8 * l), u32::MAX, 4).sectors, 8);
        assert_eq!(global(addresses(|l| 256 + 128 * l), u32::MAX, 4).sectors, 32);
        assert_eq!(global(addresses(|l| 256 + 4 * (31 - l)), u32::MAX, 4).sectors, 4);
        let broadcast = global(addresses(|_| 256), u32::MAX, 4);
        assert_eq!((broadcast.sectors, broadcast.bytes, broadcast.unique_bytes), (1, 128, 4));
        let holes = global(addresses(|l| 256 + 4 * l), 0x0f0f, 4);
        assert_eq!((holes.sectors, holes.unique_bytes), (2, 32));
        assert_eq!(global(addresses(|l| 256 + 16 * l), u32::MAX, 16).sectors, 16);
    }

    #[test]
    fn wavefronts_of_the_textbook_patterns() {
        let count = |addresses: [u64; LANES], bytes| {
            let mut traffic = SharedTraffic::default();
            count_shared(&mut traffic, &addresses, u32::MAX, bytes);
            (traffic.wavefronts, traffic.bank_conflicts)
        };
        assert_eq!(count(addresses(|l| 4 * l), 4), (1, 0));
        assert_eq!(count(addresses(|_| 0), 4), (1, 0));
        assert_eq!(count(addresses(|l| 128 * l), 4), (32, 31));
        assert_eq!(count(addresses(|l| 132 * l), 4), (1, 0));
        assert_eq!(count(addresses(|l| 8 * l), 4), (2, 1));
        assert_eq!(count(addresses(|l| 16 * l), 16), (4, 0));
        assert_eq!(count(addresses(|l| 2 * l), 2), (1, 0));
    }
}
