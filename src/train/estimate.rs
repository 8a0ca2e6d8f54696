//! How much a prepared run will compute, from the sizes of its groups.

use super::Prepared;
use crate::data::{Group, Roles, Spans, Work};
use crate::model::Flops;

/// Floating-point operations of a whole run ([`Flops`] says what counts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Of all steps, nothing computed again.
    pub training: Flops,
    /// What the steps compute again for want of memory.
    pub recomputed: Flops,
    /// Of the pass without gradients that comes first where the objective feeds the model its own predictions.
    pub scoring: Flops,
    /// Of one evaluation.
    pub evaluation: Flops,
    /// Evaluations.
    pub evaluations: usize,
    /// Of the reference log-probs, unless they are found in the cache.
    pub reference: Flops,
}

impl Estimate {
    /// Everything.
    pub fn total(&self) -> u64 {
        let evaluations = self.evaluation.total() * self.evaluations as u64;
        let steps = self.training.total() + self.recomputed.total() + self.scoring.total();
        steps + evaluations + self.reference.total()
    }
}

impl Prepared {
    /// What the run will compute.
    pub fn estimate(&self) -> Estimate {
        let (model, work) = (&self.model, self.extent.work);
        let held_out: &[Group] = self.eval.as_ref().map_or(&[], |eval| &eval.groups);
        let work_of =
            |groups: &[Group], spans| groups.iter().map(|group| Work::of_group(group, spans)).sum::<Work>();
        let spans = self.objective.spans();
        let spans = Spans { answers: spans.answers.union(Roles::PAIR), ..spans };
        let scored = Spans { prompt: false, answers: Roles::ALL };
        let reference = if self.objective.needs_reference() {
            let work = work_of(&self.train.groups, scored) + work_of(held_out, scored);
            match &self.references[..] {
                [] => Flops::forward(model, work),
                folders => folders.iter().map(|folder| Flops::forward(folder.config(), work)).sum(),
            }
        } else {
            Flops::default()
        };
        Estimate {
            training: Flops::training(model, work),
            recomputed: Flops::recomputed(model, work, self.layout.activations.recompute),
            scoring: match self.objective.inputs().are_predicted() {
                true => Flops::forward(model, work),
                false => Flops::default(),
            },
            evaluation: Flops::forward(model, work_of(held_out, spans)),
            evaluations: if self.eval.is_some() { self.evaluations() } else { 0 },
            reference,
        }
    }

    /// Before the first step, after the last, and at the interval between.
    fn evaluations(&self) -> usize {
        2 + self.config.evaluation.every.map_or(0, |every| self.steps.saturating_sub(1) / every)
    }
}
