//! Which evaluation of a run is its best one, and what follows from it. The names are those of transformers'
//! `TrainingArguments` and `EarlyStoppingCallback`, and so are the rules.

use super::ConfigError;
use super::arguments::EvaluationArguments;
use super::resolve::{at_least, needs, not_negative};

/// The metric that decides.
const DEFAULT_METRIC: &str = "eval_loss";

/// Which evaluation is the best, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct BestConfig {
    /// The metric as `metrics.jsonl` names it, with `eval_`.
    pub metric: String,
    /// Whether more of it is better.
    pub greater: bool,
    /// Whether the model of the best evaluation becomes the result.
    pub load_at_end: bool,
    /// When the run gives up; `None`: never.
    pub stopping: Option<EarlyStopping>,
}

/// When a run that does not improve any more ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// After so many evaluations in a row without improvement; at least 1.
    pub patience: usize,
    /// Improvement is more than this.
    pub threshold: f64,
}

impl EvaluationArguments {
    /// What was asked for; `evaluates` says whether there are held-out pairs, `repeatedly` whether they are evaluated on the
    /// way.
    pub(super) fn best_config(
        &self,
        evaluates: bool,
        repeatedly: bool,
    ) -> Result<Option<BestConfig>, ConfigError> {
        let load_at_end = self.load_best_model_at_end.unwrap_or(false);
        let patience = at_least("early_stopping_patience", self.early_stopping_patience, 1)?;
        let threshold =
            not_negative("early_stopping_threshold", self.early_stopping_threshold.unwrap_or(0.0))?;
        if self.early_stopping_threshold.is_some() && patience.is_none() {
            return Err(needs("early_stopping_threshold", "--early-stopping-patience"));
        }
        let on_the_way =
            [("load_best_model_at_end", load_at_end), ("early_stopping_patience", patience.is_some())]
                .into_iter()
                .find_map(|(key, asked)| asked.then_some(key));
        let asked = on_the_way.or(self.metric_for_best_model.as_ref().map(|_| "metric_for_best_model"));
        let Some(asked) = asked else {
            return match self.greater_is_better {
                Some(_) => Err(needs("greater_is_better", "--metric-for-best-model")),
                None => Ok(None),
            };
        };
        if !evaluates {
            return Err(needs(asked, "--eval-data or --eval-split"));
        }
        if let Some(key) = on_the_way.filter(|_| !repeatedly) {
            return Err(needs(key, "--eval-steps"));
        }
        let metric = self.metric_for_best_model.as_deref().unwrap_or(DEFAULT_METRIC);
        let metric = format!("eval_{}", metric.strip_prefix("eval_").unwrap_or(metric));
        let greater = self.greater_is_better.or_else(|| is_better_greater(&metric)).ok_or({
            ConfigError::Missing {
                what: "--greater-is-better",
                hint: "say whether more of this --metric-for-best-model is better (--greater-is-better) or less \
                       (--greater-is-better=false); its name does not tell",
            }
        })?;
        let stopping = patience.map(|patience| EarlyStopping { patience, threshold });
        Ok(Some(BestConfig { metric, greater, load_at_end, stopping }))
    }
}

/// Which direction of a metric is the good one, where its name tells.
fn is_better_greater(metric: &str) -> Option<bool> {
    let ends = |endings: &[&str]| endings.iter().any(|ending| metric.ends_with(ending));
    if ends(&["loss", "nll", "perplexity"]) {
        Some(false)
    } else if ends(&["accuracies", "accuracy", "margins", "margin", "rewards/chosen", "logps/chosen"]) {
        Some(true)
    } else {
        None
    }
}
