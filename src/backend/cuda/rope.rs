//! Launch of `kernels/rope.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments, stored};
use crate::backend::{Rope, Rotation};

/// The operation [`Rope`].
pub fn rope(backend: &mut CudaBackend, a: Rope) {
    let rows = a.positions.len;
    assert_eq!(a.x.len, rows * a.stride);
    assert!(a.heads * a.head_dim <= a.stride && a.head_dim.is_multiple_of(2));
    let element = stored([Some(a.x)]);
    let (x, positions, cos, sin) =
        (backend.at(a.x), backend.at(a.positions), backend.at(a.cos), backend.at(a.sin));
    let sign = if a.rotation == Rotation::Forward { 1.0f32 } else { -1.0 };
    // SAFETY: one warp per row, those beyond the rows masked by the kernel; positions lie within the tables, which are
    // planned for the longest sequence.
    unsafe {
        backend.launch(
            |k| k.rope.of(element),
            (rows.div_ceil(ROW_THREADS as usize / 32), 1),
            (ROW_THREADS, 1),
            arguments![x, positions, cos, sin, rows, a.stride, a.heads, a.head_dim, sign],
        );
    }
}
