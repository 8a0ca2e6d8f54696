//! Launches of `kernels/gather.cu`.

use super::CudaBackend;
use super::launch::{arguments, row_threads, stored};
use crate::backend::{CopyRows, GatherRows, ScatterRows};

/// The operation [`GatherRows`].
pub fn gather(backend: &mut CudaBackend, a: GatherRows) {
    assert_eq!(a.out.len, a.rows.len * a.hidden);
    let element = stored([Some(a.source), Some(a.out)]);
    let (source, rows, scale) = (backend.at(a.source), backend.at(a.rows), backend.at_or_null(a.scale));
    let out = backend.at(a.out);
    assert!(a.second.is_none_or(|second| (second.rows.len, second.weights.len) == (a.rows.len, a.rows.len)));
    let second_rows = backend.at_or_null(a.second.map(|second| second.rows));
    let weights = backend.at_or_null(a.second.map(|second| second.weights));
    // SAFETY: one block per output row; the rows are the loader's, below T.
    unsafe {
        backend.launch(
            |k| k.gather_rows.of(element),
            (a.rows.len, 1),
            (row_threads(element, a.hidden), 1),
            arguments![source, rows, second_rows, weights, scale, out, a.hidden],
        );
    }
}

/// The operation [`ScatterRows`].
pub fn scatter(backend: &mut CudaBackend, a: ScatterRows) {
    assert_eq!(a.out.len, (a.offsets.len - 1) * a.hidden);
    let element = stored([Some(a.source), Some(a.out)]);
    let (source, offsets, rows) = (backend.at(a.source), backend.at(a.offsets), backend.at(a.rows));
    assert!(a.weights.is_none_or(|weights| weights.len == a.rows.len));
    let weights = backend.at_or_null(a.weights);
    let (scale, out) = (backend.at_or_null(a.scale), backend.at(a.out));
    // SAFETY: one block per output row; the lists are the loader's, below R.
    unsafe {
        backend.launch(
            |k| k.scatter_rows.of(element),
            (a.offsets.len - 1, 1),
            (row_threads(element, a.hidden), 1),
            arguments![source, offsets, rows, weights, scale, out, a.hidden],
        );
    }
}

/// The operation [`CopyRows`].
pub fn copy(backend: &mut CudaBackend, a: CopyRows) {
    assert!(a.source_column + a.width <= a.source_stride && a.out_column + a.width <= a.out_stride);
    let element = stored([Some(a.source), Some(a.out)]);
    let (source, rows, out) = (backend.at(a.source), backend.at(a.rows), backend.at(a.out));
    // SAFETY: one block per source row; the rows of `out` are the caller's, within its view.
    unsafe {
        backend.launch(
            |k| k.copy_rows.of(element),
            (a.rows.len, 1),
            (row_threads(element, a.width), 1),
            arguments![
                source,
                a.source_stride,
                a.source_column,
                rows,
                out,
                a.out_stride,
                a.out_column,
                a.width
            ],
        );
    }
}
