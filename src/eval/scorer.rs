//! Scoring groups: packed within a budget, forward only, results in the order of the groups.

use super::bootstrap::{Estimate, estimate};
use crate::backend::{Backend, BackendError};
use crate::data::{Batch, BatchGroup, ByRole, Group, Reference, Roles, Spans, StepTotals, pack};
use crate::model::{Activations, Detail, Llama};
use crate::objective::{Coupling, Metrics, Objective, ReferenceNeed};
use crate::progress::Progress;
use crate::train::resident::with_references;
use crate::train::{Evaluation, InferenceLayout, score, score_in_detail};

/// A planned model that scores.
pub struct Scorer<'a, B: Backend> {
    /// The device.
    pub backend: &'a mut B,
    /// The model.
    pub model: &'a Llama,
    /// Places for a batch of the budget's size.
    pub activations: &'a Activations,
    /// What is shown meanwhile.
    pub progress: &'a mut dyn Progress,
}

impl<B: Backend> Scorer<'_, B> {
    /// Scores every group and hands each batch's spans and log-probs on, in order; `BatchGroup::group` is the index in
    /// `groups`. No group may be larger than the budget.
    pub fn each(
        &mut self,
        what: &str,
        groups: &[Group],
        spans: Spans,
        mut take: impl FnMut(&[BatchGroup], Vec<f32>),
    ) -> Result<(), BackendError> {
        self.each_batch(what, groups, spans, |scorer, batch| {
            take(&batch.groups, score(scorer.backend, scorer.model, scorer.activations, batch)?);
            Ok(())
        })
    }

    /// Packs the groups, in order, and hands every batch on.
    fn each_batch(
        &mut self,
        what: &str,
        groups: &[Group],
        spans: Spans,
        mut take: impl FnMut(&mut Self, &Batch) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let budget = self.activations.budget;
        self.progress.begin(what, groups.len());
        let mut first = 0;
        while first < groups.len() {
            let (mut next, mut tokens, mut rows) = (first, 0, 0);
            while let Some(group) = groups.get(next) {
                (tokens, rows) = (tokens + spans.tokens(group), rows + spans.rows(group));
                if next > first && (tokens > budget.tokens || rows > budget.rows) {
                    break;
                }
                next += 1;
            }
            let members: Vec<&Group> = groups[first..next].iter().collect();
            let mut batch = pack(&members, spans);
            for group in &mut batch.groups {
                group.group += first as u32;
            }
            take(self, &batch)?;
            first = next;
            self.progress.advance(first, "");
        }
        self.progress.end();
        Ok(())
    }

    /// Loss and metrics of an objective over a whole data set, as if it were one optimizer step; both answers of a pair are
    /// always included.
    pub fn evaluate(
        &mut self,
        groups: &[Group],
        objective: &dyn Objective,
    ) -> Result<Evaluated, BackendError> {
        self.evaluate_beside(&[], groups, objective)
    }

    /// The same with reference models on the device that score every batch as well.
    pub fn evaluate_beside(
        &mut self,
        references: &[InferenceLayout],
        groups: &[Group],
        objective: &dyn Objective,
    ) -> Result<Evaluated, BackendError> {
        let spans = objective.spans();
        let spans = Spans { answers: spans.answers.union(Roles::PAIR), ..spans };
        let mut evaluation = Evaluation::new(objective, StepTotals::of(groups));
        self.each_batch("evaluating", groups, spans, |scorer, batch| {
            let members = with_references(scorer.backend, references, batch, objective.reference())?;
            let Scorer { backend, model, activations, .. } = scorer;
            let scores = score_in_detail(*backend, model, activations, batch, Detail::Statistics)?;
            evaluation.add(&members, scores);
            Ok(())
        })?;
        let each = evaluation.each();
        let (loss, metrics) = evaluation.finish_held_out();
        Ok(Evaluated { intervals: intervals(objective, &each, &metrics), loss, metrics })
    }

    /// Log-probs of every answer of every group, as a reference.
    pub fn references(
        &mut self,
        what: &str,
        groups: &[Group],
        need: ReferenceNeed,
    ) -> Result<Vec<ByRole<Option<Reference>>>, BackendError> {
        let mut references: Vec<ByRole<Option<Reference>>> =
            groups.iter().map(|_| ByRole::default()).collect();
        let spans = Spans { prompt: false, answers: Roles::ALL };
        self.each(what, groups, spans, |members, log_probs| {
            for group in members {
                for (role, span) in group.answers.present() {
                    references[group.group as usize][role] = Some(need.of(&log_probs[span.range()]));
                }
            }
        })?;
        Ok(references)
    }

    /// Adds log-probs of this model to every answer of every group, as those of one more reference.
    pub fn add_references(
        &mut self,
        what: &str,
        groups: &mut [Group],
        need: ReferenceNeed,
    ) -> Result<(), BackendError> {
        let references = self.references(what, groups, need)?;
        for (group, references) in groups.iter_mut().zip(references) {
            group.push_references(references);
        }
        Ok(())
    }
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Of the whole data set, as if it were one optimizer step.
    pub loss: f64,
    /// The same.
    pub metrics: Metrics,
    /// 95% intervals by name, `loss` among them: how far these means would have come out differently with other rows of
    /// the same kind. A figure that is not a mean over rows has none.
    pub intervals: Vec<(&'static str, Estimate)>,
}

/// Which resamples the intervals of evaluations are made of: the same for all evaluations of a run, so that they differ by
/// the weights alone.
const RESAMPLING_SEED: u64 = 0;

fn intervals(
    objective: &dyn Objective,
    each: &[(f64, Metrics)],
    metrics: &Metrics,
) -> Vec<(&'static str, Estimate)> {
    let groups = each.len();
    if groups < 2 {
        return Vec::new();
    }
    let mut intervals = Vec::new();
    // Where a loss depends on all groups at once, those of single groups say nothing of other groups.
    if objective.coupling() != Coupling::Step {
        let loss = |rows: &[usize]| rows.iter().map(|&row| each[row].0).sum();
        intervals.push(("loss", estimate(groups, RESAMPLING_SEED, loss)));
    }
    for (name, _) in metrics.means() {
        let parts: Vec<(f64, f64)> =
            each.iter().map(|(_, metrics)| metrics.weighted(name).unwrap_or_default()).collect();
        if parts.iter().all(|(_, weight)| *weight == 0.0) {
            continue;
        }
        let mean = |rows: &[usize]| {
            let add = |sums: (f64, f64), &row: &usize| (sums.0 + parts[row].0, sums.1 + parts[row].1);
            let (sum, weight) = rows.iter().fold((0.0, 0.0), add);
            sum / weight
        };
        intervals.push((name, estimate(groups, RESAMPLING_SEED, mean)));
    }
    intervals
}

/// The largest group in tokens and in rows, and the longest sequence: what a budget must hold at least.
pub fn largest(groups: &[Group], spans: Spans) -> (usize, usize, usize) {
    let answers = |group: &Group| group.answers.iter().map(|answer| answer.ids.len()).max();
    let largest = |size: &dyn Fn(&Group) -> usize| groups.iter().map(size).max().unwrap_or(0);
    (
        largest(&|group| spans.tokens(group)),
        largest(&|group| spans.rows(group)),
        largest(&|group| group.prompt.len() + answers(group).unwrap_or(0)),
    )
}
