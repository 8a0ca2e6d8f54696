//! Launches of `kernels/swiglu.cu`.

use super::CudaBackend;
use super::launch::{arguments, row_threads, stored};
use crate::backend::{Element, SwigluBackward, SwigluForward};

/// Rows by stretches of a row, and the threads of one stretch: a 16-byte piece each, or one value where F does not divide
/// into pieces.
fn geometry(element: Element, rows: usize, feed_forward: usize) -> ((usize, usize), (u32, u32)) {
    let width = 16 / element.bytes();
    let pieces = if feed_forward.is_multiple_of(width) { feed_forward / width } else { feed_forward };
    let threads = row_threads(element, pieces * width);
    ((rows, pieces.div_ceil(threads as usize)), (threads, 1))
}

/// The operation [`SwigluForward`].
pub fn forward(backend: &mut CudaBackend, a: SwigluForward) {
    assert_eq!(a.gate_up.len, 2 * a.out.len);
    assert!(a.out.len.is_multiple_of(a.feed_forward));
    let element = stored([Some(a.gate_up), Some(a.out)]);
    let (gate_up, out) = (backend.at(a.gate_up), backend.at(a.out));
    let (grid, block) = geometry(element, a.out.len / a.feed_forward, a.feed_forward);
    // SAFETY: a block per stretch of a row, whose end the kernel masks; the sizes are asserted.
    unsafe {
        backend.launch(
            |k| k.swiglu_forward.of(element),
            grid,
            block,
            arguments![gate_up, out, a.feed_forward],
        );
    }
}

/// The operation [`SwigluBackward`].
pub fn backward(backend: &mut CudaBackend, a: SwigluBackward) {
    assert_eq!((a.gate_up.len, a.dgate_up.len), (2 * a.dout.len, 2 * a.dout.len));
    assert!(a.dout.len.is_multiple_of(a.feed_forward));
    let element = stored([Some(a.gate_up), Some(a.dout), Some(a.dgate_up)]);
    let (gate_up, dout, dgate_up) = (backend.at(a.gate_up), backend.at(a.dout), backend.at(a.dgate_up));
    let (grid, block) = geometry(element, a.dout.len / a.feed_forward, a.feed_forward);
    // SAFETY: as above.
    unsafe {
        backend.launch(
            |k| k.swiglu_backward.of(element),
            grid,
            block,
            arguments![gate_up, dout, dgate_up, a.feed_forward],
        );
    }
}
