//! Reference models that stay on the device beside the policy and score every micro-batch before it is learnt from: the online
//! form of what [`super::reference`] computes once and keeps. Both give the same bits, since a row's log-prob does not depend on
//! what it is packed with.
//!
//! A resident model has weights of its own and no gradients; its activations lie where the policy's do, whose forward pass
//! comes after and overwrites them.

use super::reference::Source;
use super::{InferenceLayout, Prepared, TrainError, score};
use crate::backend::{Backend, BackendError};
use crate::data::{Batch, BatchGroup, Dataset, Group};
use crate::objective::ReferenceNeed;

/// Loads the weights of the models that stay on the device.
pub(super) fn load<B: Backend>(prepared: &Prepared, backend: &mut B) -> Result<(), TrainError> {
    let sources = Source::of(prepared);
    match prepared.layout.references.len() {
        0 => {}
        1 => tracing::info!("the reference model stays on the device and scores every micro-batch"),
        several => {
            tracing::info!("{several} reference models stay on the device and score every micro-batch")
        }
    }
    for (reference, source) in prepared.layout.references.iter().zip(&sources) {
        source.load(&reference.model, backend)?;
    }
    Ok(())
}

/// Refuses data that bring log-probs of a reference model where the model itself is to score them.
pub(super) fn check<'a>(data: impl IntoIterator<Item = &'a Dataset>) -> Result<(), TrainError> {
    let brings = |group: &&Group| group.annotations().answers.iter().any(|(_, a)| !a.references.is_empty());
    match data.into_iter().find_map(|data| Some((data, data.groups.iter().find(brings)?))) {
        Some((data, group)) => Err(TrainError::ReferenceColumns { place: data.place(group) }),
        None => Ok(()),
    }
}

/// The groups of a micro-batch with the log-probs that the resident models give their answers, as those of further references.
/// Waits for the device unless there are none.
pub(crate) fn with_references<B: Backend>(
    backend: &mut B,
    references: &[InferenceLayout],
    batch: &Batch,
    need: ReferenceNeed,
) -> Result<Vec<BatchGroup>, BackendError> {
    let mut groups = batch.groups.clone();
    for InferenceLayout { model, activations, .. } in references {
        let logps = score(backend, model, activations, batch)?;
        for group in &mut groups {
            let answers = group.answers.map(|span| Some(need.of(&logps[span?.range()])));
            group.push_references(answers);
        }
    }
    Ok(groups)
}
