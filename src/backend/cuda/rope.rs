//! Launch of `kernels/rope.cu`.

use super::CudaBackend;
use super::launch::arguments;
use crate::backend::{Rope, Rotation};

/// The operation [`Rope`].
pub fn rope(backend: &mut CudaBackend, a: Rope) {
    assert_eq!(a.x.len, a.positions.len * a.stride);
    assert!(a.heads * a.head_dim <= a.stride);
    let (x, positions, cos, sin) =
        (backend.at(a.x), backend.at(a.positions), backend.at(a.cos), backend.at(a.sin));
    let sign = if a.rotation == Rotation::Forward { 1.0f32 } else { -1.0 };
    // SAFETY: one block per row; positions lie within the tables, which are planned for the longest sequence.
    unsafe {
        backend.launch(
            |k| &k.rope_f32,
            (a.positions.len, 1),
            (128, 1),
            arguments![x, positions, cos, sin, a.stride, a.heads, a.head_dim, sign],
        );
    }
}
