//! Launches of `kernels/rmsnorm.cu`.

use super::CudaBackend;
use super::launch::{arguments, stored};
use crate::backend::{Element, RMSNORM_PARTS, RmsnormBackward, RmsnormForward};

/// Rows that one partial sum of the weight's gradient covers at least: the fewer parts, the fewer bytes.
const ROWS_PER_PART: usize = 32;
/// Threads of a block whose threads own columns.
const COLUMN_THREADS: usize = 64;

/// Threads for a row: they keep two 16-byte pieces each in registers, and a second one only where there are more than
/// 256 pieces.
fn threads(element: Element, hidden: usize) -> u32 {
    let pieces = hidden.div_ceil(16 / element.bytes()) as u32;
    if pieces > 512 { 512 } else { pieces.next_multiple_of(32).clamp(32, 256) }
}

/// The operation [`RmsnormForward`].
pub fn forward(backend: &mut CudaBackend, a: RmsnormForward) {
    assert_eq!(a.residual.is_some(), a.sum.is_some(), "rmsnorm needs a residual and a sum, or neither");
    assert_eq!((a.x.len, a.out.len, a.weight.len), (a.rstd.len * a.hidden, a.rstd.len * a.hidden, a.hidden));
    let element = stored([Some(a.x), a.residual, a.sum, Some(a.weight), Some(a.out)]);
    let (x, residual, sum) = (backend.at(a.x), backend.at_or_null(a.residual), backend.at_or_null(a.sum));
    let (weight, out, rstd) = (backend.at(a.weight), backend.at(a.out), backend.at(a.rstd));
    // SAFETY: one block per row; the sizes are asserted.
    unsafe {
        backend.launch(
            |k| k.rmsnorm_forward.of(element),
            (a.rstd.len, 1),
            (threads(element, a.hidden), 1),
            arguments![x, residual, sum, weight, out, rstd, a.hidden, a.epsilon],
        );
    }
}

/// The operation [`RmsnormBackward`].
pub fn backward(backend: &mut CudaBackend, a: RmsnormBackward) {
    let rows = a.rstd.len;
    assert_eq!((a.dout.len, a.x.len, a.dx.len), (rows * a.hidden, rows * a.hidden, rows * a.hidden));
    let element = stored([Some(a.dout), Some(a.x), Some(a.weight), a.dresidual, Some(a.dx)]);
    let parts = rows.div_ceil(ROWS_PER_PART).min(RMSNORM_PARTS);
    let partial = a.partial.first(parts * a.hidden);
    let (dout, x, weight, rstd) =
        (backend.at(a.dout), backend.at(a.x), backend.at(a.weight), backend.at(a.rstd));
    let (dresidual, dx, partial) = (backend.at_or_null(a.dresidual), backend.at(a.dx), backend.at(partial));
    // SAFETY: one block per part, which stays within the rows; the sizes are asserted, `partial` is cut to the parts.
    unsafe {
        backend.launch(
            |k| k.rmsnorm_backward.of(element),
            (parts, 1),
            (threads(element, a.hidden), 1),
            arguments![dout, x, weight, rstd, dresidual, dx, partial, rows, a.hidden],
        );
    }
    let Some(dweight) = a.dweight else { return };
    assert_eq!(dweight.len, a.hidden);
    let dweight = backend.at(dweight);
    // SAFETY: one thread per column, those beyond H masked by the kernel.
    unsafe {
        backend.launch(
            |k| &k.rmsnorm_backward_weight,
            (a.hidden.div_ceil(COLUMN_THREADS), 1),
            (COLUMN_THREADS as u32, 1),
            arguments![partial, dweight, parts, a.hidden, a.accumulate],
        );
    }
}
