//! Launch of `kernels/adamw.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments};
use crate::backend::{Adamw, AdamwFactors};

/// Blocks of the grid-stride loop at most.
const BLOCKS: usize = 4096;

/// The operation [`Adamw`].
pub fn adamw(backend: &mut CudaBackend, a: Adamw) {
    let len = a.parameters.len;
    assert_eq!((a.gradients.len, a.first_moment.len, a.second_moment.len), (len, len, len));
    let (parameters, gradients) = (backend.at(a.parameters), backend.at(a.gradients));
    let (first, second, state) =
        (backend.at(a.first_moment), backend.at(a.second_moment), backend.at(a.state));
    let elements = len as u64;
    let AdamwFactors { beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon } = a.factors();
    // SAFETY: the kernel bounds its loop by the elements, whose number is asserted.
    unsafe {
        backend.launch(
            |k| &k.adamw_f32,
            (len.div_ceil(ROW_THREADS as usize).min(BLOCKS), 1),
            (ROW_THREADS, 1),
            arguments![
                parameters, gradients, first, second, state, elements, beta1, rest1, beta2, rest2, step_size,
                correction, keep, epsilon
            ],
        );
    }
}
