//! What the device does at best, seen in the same run: a large copy and a large square product.

use serde::Serialize;

use crate::backend::{ArenaId, Backend, BackendError, Element, Layout, Matmul, View, WORKSPACE};
use crate::bench::timing::{Probe, Timing};

/// Sizes of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSizes {
    /// Bytes of the copied run.
    pub copy_bytes: usize,
    /// Rows and columns of the matrices.
    pub square: usize,
}

/// The two rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// 10^9 bytes read and written per second.
    pub copy_gb_per_s: f64,
    /// 10^12 operations per second, operands and result in the format of activations.
    pub product_tflops_per_s: f64,
}

/// Normals to fill the operands with: a GPU is faster on zeros, and slower on uniform bits.
const PATTERN: usize = 65_537;

impl Rates {
    /// Takes memory, measures, gives it back.
    pub fn measure<B: Backend>(
        backend: &mut B,
        sizes: RateSizes,
        stored: Element,
        workspace: usize,
        timing: Timing,
    ) -> Result<Self, BackendError> {
        let probe = View { arena: ArenaId(0), element: Element::F64, offset: 0, len: 1 };
        backend.allocate(probe.arena, probe.bytes())?;
        let copy = copy_bytes_per_second(backend, sizes.copy_bytes, Probe::new(probe), timing);
        let product = product_rate(backend, sizes.square, stored, workspace, Probe::new(probe), timing);
        for arena in [0, 1, 2, 3].map(ArenaId).into_iter().chain([WORKSPACE]) {
            backend.free(arena);
        }
        Ok(Self { copy_gb_per_s: copy? / 1e9, product_tflops_per_s: product? / 1e12 })
    }
}

/// Bytes read and written per second by a copy of `bytes` bytes. Takes memory under low arena numbers and gives it back, so
/// it comes before a plan is allocated.
///
/// # Errors
/// A device without room, or one that fails.
pub fn copy_rate<B: Backend>(backend: &mut B, bytes: usize, timing: Timing) -> Result<f64, BackendError> {
    let probe = View { arena: ArenaId(0), element: Element::F64, offset: 0, len: 1 };
    backend.allocate(probe.arena, probe.bytes())?;
    let rate = copy_bytes_per_second(backend, bytes, Probe::new(probe), timing);
    for arena in [0, 1, 2].map(ArenaId) {
        backend.free(arena);
    }
    rate
}

/// Bytes read and written per second.
fn copy_bytes_per_second<B: Backend>(
    backend: &mut B,
    bytes: usize,
    probe: Probe,
    timing: Timing,
) -> Result<f64, BackendError> {
    let view = |arena| View { arena: ArenaId(arena), element: Element::U8, offset: 0, len: bytes };
    let (from, to) = (view(1), view(2));
    for view in [from, to] {
        backend.allocate(view.arena, bytes)?;
    }
    // A system may map memory that nobody has written to one page of zeros.
    let pattern: Vec<u8> = (0..PATTERN).map(|index| (index % 251) as u8).collect();
    for start in (0..bytes).step_by(PATTERN) {
        let len = PATTERN.min(bytes - start);
        backend.write(from.slice(start..start + len), &pattern[..len]);
    }
    let measured = timing.measure(backend, probe, |backend| backend.copy(from, to))?;
    check_copied(backend, from, to)?;
    Ok(2.0 * bytes as f64 / measured.seconds)
}

/// A rate of something that has not been copied would be worse than none: both ends must have arrived.
fn check_copied<B: Backend>(backend: &mut B, from: View, to: View) -> Result<(), BackendError> {
    let len = PATTERN.min(from.len);
    for range in [0..len, from.len - len..from.len] {
        let (mut sent, mut arrived) = (vec![0u8; len], vec![0u8; len]);
        backend.read(from.slice(range.clone()), &mut sent)?;
        backend.read(to.slice(range.clone()), &mut arrived)?;
        if let Some(at) = (0..len).find(|&at| sent[at] != arrived[at]) {
            let (at, reason) = (range.start + at, "another byte arrived than was sent");
            return Err(BackendError::Device {
                operation: "copying between arenas".to_owned(),
                reason: format!("byte {at}: {reason}"),
            });
        }
    }
    Ok(())
}

/// Operations per second.
fn product_rate<B: Backend>(
    backend: &mut B,
    square: usize,
    stored: Element,
    workspace: usize,
    probe: Probe,
    timing: Timing,
) -> Result<f64, BackendError> {
    let len = square * square;
    let view = |arena| View { arena: ArenaId(arena), element: stored, offset: 0, len };
    let [a, b, c] = [1, 2, 3].map(view);
    for view in [a, b, c] {
        backend.allocate(view.arena, view.bytes())?;
    }
    if workspace > 0 {
        backend.allocate(WORKSPACE, workspace)?;
    }
    for view in [a, b] {
        fill(backend, view);
    }
    let product = Matmul {
        layout: Layout::Nt,
        a,
        a_stride: square,
        b,
        c,
        m: square,
        n: square,
        k: square,
        accumulate: false,
    };
    let measured = timing.measure(backend, probe, |backend| backend.matmul(product))?;
    Ok(2.0 * (square * len) as f64 / measured.seconds)
}

fn fill<B: Backend>(backend: &mut B, view: View) {
    let values = crate::bench::weights::normals(1, PATTERN.min(view.len));
    crate::bench::weights::repeat(backend, view, &values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;

    #[test]
    fn both_rates_are_measured_and_all_memory_is_given_back() {
        let mut backend = CpuBackend::new(2).unwrap();
        let timing = Timing { rounds: 1, round_seconds: 1e-3 };
        // Longer than a task's share and no multiple of it.
        let sizes = RateSizes { copy_bytes: (5 << 20) + 3, square: 64 };
        let rates = Rates::measure(&mut backend, sizes, Element::F32, 0, timing).unwrap();
        assert!(rates.copy_gb_per_s > 0.0 && rates.product_tflops_per_s > 0.0, "{rates:?}");
        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let view = View { arena: ArenaId(1), element: Element::U8, offset: 0, len: 1 };
            let _ = backend.read(view, &mut [0u8]);
        }));
        assert!(gone.is_err(), "the copy's arena is still there");
    }

    #[test]
    fn what_has_not_arrived_is_noticed() {
        let mut backend = CpuBackend::new(1).unwrap();
        let view = |arena| View { arena: ArenaId(arena), element: Element::U8, offset: 0, len: 300_000 };
        let (from, to) = (view(1), view(2));
        for view in [from, to] {
            backend.allocate(view.arena, view.len).unwrap();
        }
        backend.write(from.slice(299_998..299_999), &[7u8]);
        let error = check_copied(&mut backend, from, to).unwrap_err().to_string();
        assert!(error.contains("byte 299998"), "{error}");
        backend.copy(from, to);
        check_copied(&mut backend, from, to).unwrap();
    }
}
