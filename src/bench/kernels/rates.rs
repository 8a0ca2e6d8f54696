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
        let copy = copy_rate(backend, sizes.copy_bytes, Probe::new(probe), timing);
        let product = product_rate(backend, sizes.square, stored, workspace, Probe::new(probe), timing);
        for arena in [0, 1, 2, 3].map(ArenaId).into_iter().chain([WORKSPACE]) {
            backend.free(arena);
        }
        Ok(Self { copy_gb_per_s: copy? / 1e9, product_tflops_per_s: product? / 1e12 })
    }
}

/// Bytes read and written per second.
fn copy_rate<B: Backend>(
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
    let measured = timing.measure(backend, probe, |backend| backend.copy(from, to))?;
    Ok(2.0 * bytes as f64 / measured.seconds)
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
    let product = Matmul { layout: Layout::Nt, a, b, c, m: square, n: square, k: square, accumulate: false };
    let measured = timing.measure(backend, probe, |backend| backend.matmul(product))?;
    Ok(2.0 * (square * len) as f64 / measured.seconds)
}

fn fill<B: Backend>(backend: &mut B, view: View) {
    let values = crate::bench::weights::normals(1, PATTERN.min(view.len));
    crate::bench::weights::repeat(backend, view, &values);
}
