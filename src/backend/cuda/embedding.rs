//! Launches of `kernels/embedding.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments};
use crate::backend::{EmbeddingBackward, EmbeddingForward};

/// The operation [`EmbeddingForward`].
pub fn forward(backend: &mut CudaBackend, a: EmbeddingForward) {
    assert_eq!(a.out.len, a.ids.len * a.hidden);
    let (ids, table, out) = (backend.at(a.ids), backend.at(a.table), backend.at(a.out));
    let grid = (a.ids.len, 1);
    // SAFETY: one block per row of `out`, whose size is asserted; ids are below V, as the operation asks.
    unsafe {
        backend.launch(
            |k| &k.embedding_forward_f32,
            grid,
            (ROW_THREADS, 1),
            arguments![ids, table, out, a.hidden],
        );
    }
}

/// The operation [`EmbeddingBackward`].
pub fn backward(backend: &mut CudaBackend, a: EmbeddingBackward) {
    assert_eq!(a.token_offsets.len, a.token_ids.len + 1);
    let (ids, offsets, rows) =
        (backend.at(a.token_ids), backend.at(a.token_offsets), backend.at(a.token_rows));
    let (dout, dtable) = (backend.at(a.dout), backend.at(a.dtable));
    let grid = (a.token_ids.len, 1);
    // SAFETY: one block per distinct id; the lists are the loader's, checked against T when they were made.
    unsafe {
        backend.launch(
            |k| &k.embedding_backward_f32,
            grid,
            (ROW_THREADS, 1),
            arguments![ids, offsets, rows, dout, dtable, a.hidden],
        );
    }
}
