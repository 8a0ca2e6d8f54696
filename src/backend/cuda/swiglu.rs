//! Launches of `kernels/swiglu.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments};
use crate::backend::{SwigluBackward, SwigluForward};

/// Blocks of a grid-stride loop at most: a few waves of the largest device.
const BLOCKS: usize = 2048;

fn grid(elements: usize) -> (usize, usize) {
    (elements.div_ceil(ROW_THREADS as usize).min(BLOCKS), 1)
}

/// The operation [`SwigluForward`].
pub fn forward(backend: &mut CudaBackend, a: SwigluForward) {
    assert_eq!(a.gate_up.len, 2 * a.out.len);
    let (gate_up, out) = (backend.at(a.gate_up), backend.at(a.out));
    let elements = a.out.len as u64;
    // SAFETY: the kernel bounds its loop by the elements, whose number is asserted.
    unsafe {
        backend.launch(
            |k| &k.swiglu_forward_f32,
            grid(a.out.len),
            (ROW_THREADS, 1),
            arguments![gate_up, out, elements, a.feed_forward],
        );
    }
}

/// The operation [`SwigluBackward`].
pub fn backward(backend: &mut CudaBackend, a: SwigluBackward) {
    assert_eq!((a.gate_up.len, a.dgate_up.len), (2 * a.dout.len, 2 * a.dout.len));
    let (gate_up, dout, dgate_up) = (backend.at(a.gate_up), backend.at(a.dout), backend.at(a.dgate_up));
    let elements = a.dout.len as u64;
    // SAFETY: as above.
    unsafe {
        backend.launch(
            |k| &k.swiglu_backward_f32,
            grid(a.dout.len),
            (ROW_THREADS, 1),
            arguments![gate_up, dout, dgate_up, elements, a.feed_forward],
        );
    }
}
