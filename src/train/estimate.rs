//! How much a prepared run will compute, from the sizes of its groups.

use super::{Prepared, half};
use crate::config::ReferenceMode;
use crate::data::{Group, Loader, Roles, Spans, Work};
use crate::model::Flops;
use crate::objective::Coupling;

/// Floating-point operations of a whole run ([`Flops`] says what counts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Of all steps, nothing computed again.
    pub training: Flops,
    /// What the steps compute again for want of memory.
    pub recomputed: Flops,
    /// Of the pass without gradients that comes first, where the objective couples all groups of a step or feeds the model its
    /// own predictions.
    pub scoring: Flops,
    /// Of one evaluation, that of resident reference models included.
    pub evaluation: Flops,
    /// Evaluations.
    pub evaluations: usize,
    /// Of the reference log-probs: once before training, unless they are found in the cache; of resident models in all steps.
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
        let evaluated = work_of(held_out, spans);
        // Where the pass with gradients leaves nothing out, the same micro-batches are scored first.
        let first_pass = if self.loader.scored.is_some() { self.extent.scoring } else { work };
        let is_coupled = self.objective.coupling() == Coupling::Step;
        let resident = |work| -> Flops {
            let references = self.layout.references.iter();
            references.map(|reference| Flops::forward(&reference.model.config, work)).sum()
        };
        Estimate {
            training: self.training(work),
            recomputed: Flops::recomputed(model, work, self.layout.activations.recompute),
            scoring: if is_coupled || self.objective.inputs().are_predicted() {
                Flops::forward(model, first_pass)
            } else {
                Flops::default()
            },
            evaluation: [Flops::forward(model, evaluated), resident(evaluated)].into_iter().sum(),
            evaluations: if self.eval.is_some() { self.evaluations() } else { 0 },
            reference: match self.config.objective.reference_mode {
                ReferenceMode::Resident => resident(if is_coupled { first_pass } else { work }),
                ReferenceMode::Cached => self.scored_beforehand(held_out),
            },
        }
    }

    /// All steps. A frozen matrix has a product with the activations and one with their gradients, and none for its own.
    fn training(&self, work: Work) -> Flops {
        let all = Flops::training(&self.model, work);
        let Some(half) = self.half() else { return all };
        let by_step = Loader::tokens_by_step(self.train.clone(), self.loader.clone(), self.steps);
        // The same loader was measured before, so there is nothing left that could be wrong with it.
        let tokens = by_step.unwrap_or_default();
        let frozen =
            |step| half::frozen_elements(&self.model, &half.frozen_at(step, self.model.num_hidden_layers));
        let mut round = None;
        let spared = tokens.iter().zip(1..).map(|(tokens, step)| {
            let elements = match round {
                Some((number, elements)) if number == half.round_of(step) => elements,
                _ => round.insert((half.round_of(step), frozen(step))).1,
            };
            2 * elements * tokens
        });
        Flops { blocks: all.blocks - spared.sum::<u64>(), ..all }
    }

    /// Every answer of every row, by each reference model in turn.
    fn scored_beforehand(&self, held_out: &[Group]) -> Flops {
        if !self.objective.needs_reference() {
            return Flops::default();
        }
        let spans = Spans { prompt: false, answers: Roles::ALL };
        let groups = self.train.groups.iter().chain(held_out);
        let work = groups.map(|group| Work::of_group(group, spans)).sum();
        match &self.references[..] {
            [] => Flops::forward(&self.model, work),
            folders => folders.iter().map(|folder| Flops::forward(folder.config(), work)).sum(),
        }
    }

    /// Before the first step, after the last, and at the interval between.
    fn evaluations(&self) -> usize {
        2 + self.config.evaluation.every.map_or(0, |every| self.steps.saturating_sub(1) / every)
    }
}
