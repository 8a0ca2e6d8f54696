//! Launches of `kernels/rmsnorm.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments};
use crate::backend::{RmsnormBackward, RmsnormForward};

/// The operation [`RmsnormForward`].
pub fn forward(backend: &mut CudaBackend, a: RmsnormForward) {
    assert_eq!(a.residual.is_some(), a.sum.is_some(), "rmsnorm needs a residual and a sum, or neither");
    assert_eq!((a.x.len, a.out.len, a.weight.len), (a.rstd.len * a.hidden, a.rstd.len * a.hidden, a.hidden));
    let (x, residual, sum) = (backend.at(a.x), backend.at_or_null(a.residual), backend.at_or_null(a.sum));
    let (weight, out, rstd) = (backend.at(a.weight), backend.at(a.out), backend.at(a.rstd));
    // SAFETY: one block per row; the sizes are asserted.
    unsafe {
        backend.launch(
            |k| &k.rmsnorm_forward_f32,
            (a.rstd.len, 1),
            (ROW_THREADS, 1),
            arguments![x, residual, sum, weight, out, rstd, a.hidden, a.epsilon],
        );
    }
}

/// The operation [`RmsnormBackward`].
pub fn backward(backend: &mut CudaBackend, a: RmsnormBackward) {
    let rows = a.rstd.len;
    assert_eq!((a.dout.len, a.x.len, a.dx.len), (rows * a.hidden, rows * a.hidden, rows * a.hidden));
    let (dout, x, weight, rstd) =
        (backend.at(a.dout), backend.at(a.x), backend.at(a.weight), backend.at(a.rstd));
    let (dresidual, dx) = (backend.at_or_null(a.dresidual), backend.at(a.dx));
    // SAFETY: one block per row; the sizes are asserted.
    unsafe {
        backend.launch(
            |k| &k.rmsnorm_backward_f32,
            (rows, 1),
            (ROW_THREADS, 1),
            arguments![dout, x, weight, rstd, dresidual, dx, a.hidden],
        );
    }
    let Some(dweight) = a.dweight else { return };
    assert_eq!(dweight.len, a.hidden);
    let dweight = backend.at(dweight);
    // SAFETY: 32 columns per block, those beyond H masked by the kernel.
    unsafe {
        backend.launch(
            |k| &k.rmsnorm_backward_weight_f32,
            (a.hidden.div_ceil(32), 1),
            (32, 8),
            arguments![dout, x, rstd, dweight, rows, a.hidden, a.accumulate],
        );
    }
}
