//! Launches of `kernels/gradient_norm.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments};
use crate::backend::{GradientNorm, NORM_BLOCK};

/// Threads of the one block that adds the partial sums.
const FINISH_THREADS: u32 = 1024;

/// The operation [`GradientNorm`].
pub fn gradient_norm(backend: &mut CudaBackend, a: GradientNorm) {
    let blocks = a.gradients.len.div_ceil(NORM_BLOCK);
    assert_eq!(a.partial.len, blocks);
    let (gradients, partial, state) = (backend.at(a.gradients), backend.at(a.partial), backend.at(a.state));
    assert!(gradients.is_multiple_of(16), "gradients that are not read 16 bytes at a time");
    let elements = a.gradients.len as u64;
    // SAFETY: one block per partial sum, bounded by the elements.
    unsafe {
        backend.launch(
            |k| &k.gradient_norm_partial_f32,
            (blocks, 1),
            (ROW_THREADS, 1),
            arguments![gradients, partial, elements],
        );
    }
    let max_norm = a.max_norm.unwrap_or(0.0);
    // SAFETY: one block over all partial sums.
    unsafe {
        backend.launch(
            |k| &k.gradient_norm_finish,
            (1, 1),
            (FINISH_THREADS, 1),
            arguments![partial, blocks, max_norm, state],
        );
    }
}
