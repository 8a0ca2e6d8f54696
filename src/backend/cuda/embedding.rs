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
    let others = a.mix.map(|mix| mix.ids);
    assert!(others.is_none_or(|others| others.len == a.ids.len));
    let weight = a.mix.map_or(0.0, |mix| mix.weight);
    let (ids, others) = (backend.at(a.ids), backend.at_or_null(others));
    let (table, out) = (backend.at(a.table), backend.at(a.out));
    // SAFETY: one block per row of `out`, whose size is asserted, as is that of the second ids; ids are below V, as the
    // operation asks.
    unsafe {
        backend.launch(
            |k| k.embedding_forward.of(element),
            (a.ids.len, 1),
            (row_threads(element, a.hidden), 1),
            arguments![ids, others, weight, table, out, a.hidden],
        );
    }
}

/// The operation [`EmbeddingBackward`].
pub fn backward(backend: &mut CudaBackend, a: EmbeddingBackward) {
    assert_eq!(a.token_offsets.len, a.token_ids.len + 1);
    assert_eq!(a.dtable.element, Element::F32, "gradients of weights are f32");
    assert!(a.scale.is_none_or(|scale| scale.len == a.token_rows.len));
    let element = stored([Some(a.dout)]);
    let (ids, offsets, rows) =
        (backend.at(a.token_ids), backend.at(a.token_offsets), backend.at(a.token_rows));
    let (scale, dout, dtable) = (backend.at_or_null(a.scale), backend.at(a.dout), backend.at(a.dtable));
    let columns_per_thread = if a.hidden.is_multiple_of(4) { 4 } else { 1 };
    let stretches = a.hidden.div_ceil(BACKWARD_THREADS * columns_per_thread);
    // SAFETY: blocks per distinct id and stretch of columns; the lists are the loader's, checked against T when they were
    // made.
    unsafe {
        backend.launch(
            |k| k.embedding_backward.of(element),
            (a.token_ids.len, stretches),
            (BACKWARD_THREADS as u32, 1),
            arguments![ids, offsets, rows, scale, dout, dtable, a.hidden],
        );
    }
}
