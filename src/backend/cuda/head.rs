//! Launches of `kernels/head.cu`.

use super::CudaBackend;
use super::launch::{ROW_THREADS, arguments};
use crate::backend::{HeadRows, TargetLogits};

/// The operation [`TargetLogits`].
pub fn target_logits(backend: &mut CudaBackend, a: TargetLogits) {
    assert_eq!((a.x.len, a.out.len), (a.targets.len * a.hidden, a.targets.len));
    let (x, weight) = (backend.at(a.x), backend.at(a.weight));
    let (targets, out) = (backend.at(a.targets), backend.at(a.out));
    // SAFETY: one block per row; targets are below V, as the operation asks.
    unsafe {
        backend.launch(
            |k| &k.target_logits_f32,
            (a.targets.len, 1),
            (ROW_THREADS, 1),
            arguments![x, weight, targets, out, a.hidden],
        );
    }
}

/// The operation [`HeadRows`].
pub fn rows(backend: &mut CudaBackend, a: HeadRows) {
    let rows = a.targets.len;
    assert_eq!(a.logits.len, rows * a.vocabulary);
    assert_eq!((a.target_logits.len, a.logp.len, a.lse.len, a.argmax.len), (rows, rows, rows, rows));
    let (logits, target_logits, targets) =
        (backend.at(a.logits), backend.at(a.target_logits), backend.at(a.targets));
    let in_place = a.unit.inspect(|&unit| assert_eq!(unit, a.logits, "the unit gradient's place"));
    let write_gradient = in_place.is_some();
    let (logp, lse, argmax) = (backend.at(a.logp), backend.at(a.lse), backend.at(a.argmax));
    // SAFETY: one block per row; the sizes are asserted.
    unsafe {
        backend.launch(
            |k| &k.head_rows_f32,
            (rows, 1),
            (ROW_THREADS, 1),
            arguments![logits, target_logits, targets, logp, lse, argmax, a.vocabulary, write_gradient],
        );
    }
}
