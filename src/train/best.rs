//! The best evaluation of a run so far, and whether the run has stopped improving: the rules of transformers'
//! `load_best_model_at_end` and `EarlyStoppingCallback`.
//!
//! Everything follows from the lines of `metrics.jsonl`, so a resumed run reads it out of its record. The evaluation before
//! the first step does not take part: it is not a result of the run.

use serde_json::{Map, Value};

use super::record::step_of;
use super::{Prepared, TrainError, token_metrics};
use crate::config::BestConfig;
use crate::data::{Answer, ByRole, Reference, Roles, Spans, StepTotals, pack};

/// One evaluation's figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Optimizer steps done before it.
    pub step: usize,
    /// The value of the metric.
    pub value: f64,
}

/// Watches the evaluations.
#[derive(Clone, Debug)]
pub struct Best {
    config: BestConfig,
    best: Option<Evaluation>,
    /// Evaluations in a row without improvement.
    waited: usize,
}

impl Best {
    /// Before the first evaluation.
    pub fn new(config: BestConfig) -> Self {
        Self { config, best: None, waited: 0 }
    }

    /// What was asked for.
    pub fn config(&self) -> &BestConfig {
        &self.config
    }

    /// The best evaluation so far.
    pub fn evaluation(&self) -> Option<Evaluation> {
        self.best
    }

    /// Takes in the line of an evaluation. A value that is not finite is never better.
    ///
    /// # Errors
    /// The evaluation has no such metric.
    pub fn record(&mut self, line: &Map<String, Value>) -> Result<(), TrainError> {
        let metric = &self.config.metric;
        let Some(value) = line.get(metric) else {
            let known = line.keys().filter(|key| key.starts_with("eval_")).cloned().collect();
            return Err(TrainError::UnknownMetric { metric: metric.clone(), known });
        };
        let Some(step) = step_of(line).filter(|&step| step > 0) else { return Ok(()) };
        let threshold = self.config.stopping.map_or(0.0, |stopping| stopping.threshold);
        // How much better than the best so far; below 0 where it is worse.
        let gain = value.as_f64().map(|value| match self.best {
            None => f64::INFINITY,
            Some(best) if self.config.greater => value - best.value,
            Some(best) => best.value - value,
        });
        self.waited = if gain.is_some_and(|gain| gain > threshold) { 0 } else { self.waited + 1 };
        if let Some(value) = value.as_f64().filter(|_| gain.is_some_and(|gain| gain > 0.0)) {
            self.best = Some(Evaluation { step, value });
        }
        Ok(())
    }

    /// Whether the run is to stop: as many evaluations as its patience allows have brought no improvement.
    pub fn is_over(&self) -> bool {
        self.config.stopping.is_some_and(|stopping| self.waited >= stopping.patience)
    }
}

/// Whether an evaluation will measure the metric, found out before one is made: which figures there are does not depend on
/// the log-probs.
pub(super) fn check_metric(prepared: &Prepared) -> Result<(), TrainError> {
    let (Some(config), Some(eval)) = (&prepared.config.evaluation.best, &prepared.eval) else {
        return Ok(());
    };
    let mut groups = eval.groups.clone();
    if prepared.objective.needs_reference() {
        for group in &mut groups {
            let tokens = |answer: &Answer| Reference::Tokens(vec![-1.0; answer.scored_tokens()].into());
            group.push_references(ByRole::from_fn(|role| group.answer(role).map(tokens)));
        }
    }
    let spans = prepared.objective.spans();
    let spans = Spans { answers: spans.answers.union(Roles::PAIR), ..spans };
    let batch = pack(&groups.iter().collect::<Vec<_>>(), spans);
    let mut evaluation = super::Evaluation::new(prepared.objective.as_ref(), StepTotals::of(&groups));
    evaluation.add(&batch.groups, vec![-1.0; batch.gather.len()]);
    let (_, metrics) = evaluation.finish_held_out();
    let mut known = vec!["eval_loss".to_owned()];
    let of_objective = metrics.means().into_iter().map(|(name, _)| name);
    known.extend(of_objective.chain(token_metrics::OF_EVALUATIONS).map(|name| format!("eval_{name}")));
    if known.contains(&config.metric) {
        return Ok(());
    }
    Err(TrainError::UnknownMetric { metric: config.metric.clone(), known })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EarlyStopping;

    /// The best step and the step at which the run stops.
    fn watched(
        greater: bool,
        patience: usize,
        threshold: f64,
        values: &[f64],
    ) -> (Option<usize>, Option<usize>) {
        let stopping = Some(EarlyStopping { patience, threshold });
        let mut best =
            Best::new(BestConfig { metric: "eval_x".to_owned(), greater, load_at_end: false, stopping });
        for (step, &value) in values.iter().enumerate() {
            let line = serde_json::json!({ "step": step, "eval_x": value });
            best.record(line.as_object().unwrap()).unwrap();
            if best.is_over() {
                return (best.evaluation().map(|best| best.step), Some(step));
            }
        }
        (best.evaluation().map(|best| best.step), None)
    }

    #[test]
    fn the_evaluation_before_training_does_not_take_part() {
        assert_eq!(watched(false, 3, 0.0, &[0.0]), (None, None));
        assert_eq!(watched(false, 3, 0.0, &[0.0, 5.0, 4.0]), (Some(2), None));
    }

    #[test]
    fn patience_counts_evaluations_without_improvement() {
        assert_eq!(watched(false, 2, 0.0, &[9.0, 5.0, 4.0, 4.0, 4.5, 1.0]), (Some(2), Some(4)));
        assert_eq!(watched(true, 2, 0.0, &[9.0, 5.0, 4.0, 6.0, 5.0, 6.0]), (Some(3), Some(5)));
        // Better by no more than the threshold is the best, but no improvement (transformers' rule).
        assert_eq!(watched(false, 2, 0.5, &[9.0, 5.0, 4.75, 4.5, 1.0]), (Some(3), Some(3)));
        assert_eq!(
            watched(false, 1, 0.0, &[9.0, 5.0, f64::NAN]),
            (Some(1), Some(2)),
            "NaN is written as null"
        );
        assert_eq!(watched(false, 2, 0.0, &[9.0, f64::NAN, 3.0]), (Some(2), None));
    }

    #[test]
    fn an_unknown_metric_is_told_the_known_ones() {
        let config =
            BestConfig { metric: "eval_los".into(), greater: false, load_at_end: true, stopping: None };
        let line = serde_json::json!({ "step": 0, "eval_loss": 1.0, "eval_nll_loss": 1.0 });
        let error = Best::new(config).record(line.as_object().unwrap()).unwrap_err().to_string();
        assert!(error.contains("eval_loss, eval_nll_loss"), "{error}");
    }
}
