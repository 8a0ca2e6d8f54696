//! Launches of `kernels/embedding.cu`.

use super::CudaBackend;
use super::launch::{arguments, row_threads, stored};
use crate::backend::{Element, EmbeddingBackward, EmbeddingForward};

/// Threads of a block of the backward pass.
const BACKWARD_THREADS: usize = 128;

/// The operation [`EmbeddingForward`].
pub fn forward(backend: &mut CudaBackend, a: EmbeddingForward) {
    assert_eq!(a.out.len, a.ids.len * a.hidden);
    let element = stored([Some(a.table), Some(a.out)]);
    let (ids, table, out) = (backend.at(a.ids), backend.at(a.table), backend.at(a.out));
    let (grid, block) = ((a.ids.len, 1), (row_threads(element, a.hidden), 1));
    let Some(mix) = a.mix else {
        // SAFETY: one block per row of `out`, whose size is asserted; ids are below V, as the operation asks.
        return unsafe {
            backend.launch(
                |k| k.embedding_forward.of(element),
                grid,
                block,
                arguments![ids, table, out, a.hidden],
            );
        };
    };
    assert_eq!(mix.ids.len, a.ids.len);
    let others = backend.at(mix.ids);
    // SAFETY: as above, and there are as many second ids.
    unsafe {
        backend.launch(
            |k| k.embedding_mixed_forward.of(element),
            grid,
            block,
            arguments![ids, others, mix.weight, table, out, a.hidden],
        );
    }
}

/// The operation [`EmbeddingBackward`].
pub fn backward(backend: &mut CudaBackend, a: EmbeddingBackward) {
    assert_eq!(a.token_offsets.len, a.token_ids.len + 1);
    assert_eq!(a.dtable.element, Element::F32, "gradients of weights are f32");
    let element = stored([Some(a.dout)]);
    let (ids, offsets, rows) =
        (backend.at(a.token_ids), backend.at(a.token_offsets), backend.at(a.token_rows));
    let (dout, dtable) = (backend.at(a.dout), backend.at(a.dtable));
    let columns_per_thread = if a.hidden.is_multiple_of(4) { 4 } else { 1 };
    let stretches = a.hidden.div_ceil(BACKWARD_THREADS * columns_per_thread);
    let (grid, block) = ((a.token_ids.len, stretches), (BACKWARD_THREADS as u32, 1));
    let Some(scale) = a.scale else {
        // SAFETY: blocks per distinct id and stretch of columns; the lists are the loader's, checked against T when they
        // were made.
        return unsafe {
            backend.launch(
                |k| k.embedding_backward.of(element),
                grid,
                block,
                arguments![ids, offsets, rows, dout, dtable, a.hidden],
            );
        };
    };
    assert_eq!(scale.len, a.token_rows.len);
    let scale = backend.at(scale);
    // SAFETY: as above, with lists made from the loader's, and a factor for each of their entries.
    unsafe {
        backend.launch(
            |k| k.embedding_mixed_backward.of(element),
            grid,
            block,
            arguments![ids, offsets, rows, scale, dout, dtable, a.hidden],
        );
    }
}
