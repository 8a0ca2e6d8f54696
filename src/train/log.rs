//! The run's own record: `metrics.jsonl` with every optimizer step and every evaluation, and
//! `trainer_state.json` in Hugging Face's shape for plotters that read it.
//!
//! `metrics.jsonl` is the record; `trainer_state.json` follows from it, so that a resumed run rebuilds the one
//! from the other. A number that is not finite is written as `null`: JSON has no other word for it.
//!
//! Boundary: writes what it is told. What is measured, and when, is the loop's.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Number, Value};

pub use super::record::{LogError, lines, truncate_after};
use super::record::{Record, step_of};
use crate::checkpoint::{CheckpointError, atomic};

/// One optimizer step, measured.
#[derive(Clone, Copy, Debug)]
pub struct StepMetrics<'a> {
    /// 1-based.
    pub step: usize,
    /// Epochs done after this step.
    pub epoch: f64,
    /// Loss of the step's groups before the update.
    pub loss: f64,
    /// The rate this step's update used.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// The objective's metrics, under TRL's names.
    pub objective: &'a [(&'a str, f64)],
    /// Tokens of all sequences up to this step, a prompt once for each answer: TRL's `num_tokens`.
    pub num_tokens: u64,
    /// Tokens processed per second of this step.
    pub tokens_per_second: f64,
    /// Most memory held at any time so far.
    pub peak_memory_bytes: u64,
    /// Wall-clock time of this step.
    pub step_seconds: f64,
    /// Steps that were not finite and left out, where that is asked for.
    pub skipped: Option<Skipped>,
}

/// Steps that were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Whether this one was.
    pub this: bool,
    /// How many up to this one, itself included.
    pub so_far: usize,
}

/// One evaluation, measured.
#[derive(Clone, Copy, Debug)]
pub struct EvalMetrics<'a> {
    /// Optimizer steps done before it; 0 before training.
    pub step: usize,
    /// Names without the `eval_` they are written with.
    pub values: &'a [(&'a str, f64)],
    /// 95% intervals under the same names; written as one object under [`INTERVALS`].
    pub intervals: &'a [(&'a str, [f64; 2])],
}

/// Key of an evaluation's intervals: an object of `[low, high]` by name without `eval_`.
pub const INTERVALS: &str = "eval_intervals";

/// Key of how many tokens there were so far.
pub(super) const NUM_TOKENS: &str = "num_tokens";
/// Key of how many steps were left out so far.
const SKIPPED_STEPS: &str = "skipped_steps";
/// Key that only the line of a step that was left out has.
const SKIPPED: &str = "skipped";

/// Whether a line is that of a step that was left out.
pub fn is_skipped(line: &Map<String, Value>) -> bool {
    line.get(SKIPPED).and_then(Value::as_bool).unwrap_or(false)
}

/// The open `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsLog {
    record: Record,
}

impl MetricsLog {
    /// Starts an empty record.
    pub fn create(path: &Path) -> Result<Self, LogError> {
        Record::create(path).map(|record| MetricsLog { record })
    }

    /// Continues the record of a run that goes on after `step`: lines beyond it are cut.
    pub fn resume(path: &Path, step: usize) -> Result<Self, LogError> {
        Record::resume(path, step).map(|record| MetricsLog { record })
    }

    /// Appends an optimizer step and returns the line's entries.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<Map<String, Value>, LogError> {
        let mut line = Map::new();
        line.insert("step".into(), metrics.step.into());
        line.insert("epoch".into(), number(metrics.epoch));
        line.insert("loss".into(), number(metrics.loss));
        line.insert("learning_rate".into(), number(metrics.learning_rate));
        line.insert("grad_norm".into(), number(metrics.grad_norm));
        line.extend(metrics.objective.iter().map(|(name, value)| ((*name).to_owned(), number(*value))));
        line.insert(NUM_TOKENS.into(), metrics.num_tokens.into());
        line.insert("tokens_per_second".into(), number(metrics.tokens_per_second));
        line.insert("peak_memory_bytes".into(), metrics.peak_memory_bytes.into());
        line.insert("step_seconds".into(), number(metrics.step_seconds));
        if let Some(skipped) = metrics.skipped {
            line.insert(SKIPPED_STEPS.into(), skipped.so_far.into());
            if skipped.this {
                line.insert(SKIPPED.into(), true.into());
            }
        }
        self.record.append(&line)?;
        Ok(line)
    }

    /// Appends an evaluation and returns the line's entries.
    pub fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<Map<String, Value>, LogError> {
        let mut line = Map::new();
        line.insert("step".into(), metrics.step.into());
        line.extend(metrics.values.iter().map(|(name, value)| (format!("eval_{name}"), number(*value))));
        if !metrics.intervals.is_empty() {
            let interval = |(name, [low, high]): &(&str, [f64; 2])| {
                ((*name).to_owned(), Value::Array(vec![number(*low), number(*high)]))
            };
            line.insert(INTERVALS.into(), Value::Object(metrics.intervals.iter().map(interval).collect()));
        }
        self.record.append(&line)?;
        Ok(line)
    }

    /// Makes the lines so far durable; see [`Record::sync`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.record.sync()
    }
}

/// A JSON number, or `null` for what JSON cannot say.
fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// `trainer_state.json`: the fields of transformers' `TrainerState`, in its order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainerState {
    /// Step of the best evaluation.
    pub best_global_step: Option<usize>,
    /// Value of the best evaluation.
    pub best_metric: Option<f64>,
    /// Folder of the best checkpoint.
    pub best_model_checkpoint: Option<String>,
    /// Epochs done.
    pub epoch: f64,
    /// Steps between evaluations; 0 for none.
    pub eval_steps: usize,
    /// Optimizer steps done.
    pub global_step: usize,
    /// Never.
    pub is_hyper_param_search: bool,
    /// Always.
    pub is_local_process_zero: bool,
    /// Always.
    pub is_world_process_zero: bool,
    /// One entry per `logging_steps` steps, with the mean of what was measured in them, and one per evaluation.
    pub log_history: Vec<Map<String, Value>>,
    /// Steps per entry; 0 for none.
    pub logging_steps: usize,
    /// Optimizer steps of the whole run.
    pub max_steps: usize,
    /// Tokens trained on.
    pub num_input_tokens_seen: u64,
    /// Epochs of the whole run, begun ones counted whole.
    pub num_train_epochs: usize,
    /// Steps between checkpoints; 0 for none.
    pub save_steps: usize,
    /// Hugging Face's callbacks; there are none here.
    pub stateful_callbacks: Map<String, Value>,
    /// Floating-point operations done.
    pub total_flos: f64,
    /// Groups per optimizer step.
    pub train_batch_size: usize,
    /// Of a hyper-parameter search.
    pub trial_name: Option<String>,
    /// Of a hyper-parameter search.
    pub trial_params: Option<Value>,
    /// Sum and count of every measurement since the last entry.
    #[serde(skip)]
    pending: Vec<(String, f64, usize)>,
}

/// What a run knows of its length before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunShape {
    /// Optimizer steps of the whole run.
    pub max_steps: usize,
    /// Epochs of the whole run, begun ones counted whole.
    pub num_train_epochs: usize,
    /// Groups per optimizer step.
    pub train_batch_size: usize,
    /// Steps per entry of the log history; 0 for none.
    pub logging_steps: usize,
    /// Steps between evaluations; 0 for none.
    pub eval_steps: usize,
    /// Steps between checkpoints; 0 for none.
    pub save_steps: usize,
}

impl TrainerState {
    /// The state before the first step.
    pub fn new(shape: RunShape) -> Self {
        TrainerState {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: shape.eval_steps,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: shape.logging_steps,
            max_steps: shape.max_steps,
            num_input_tokens_seen: 0,
            num_train_epochs: shape.num_train_epochs,
            save_steps: shape.save_steps,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: shape.train_batch_size,
            trial_name: None,
            trial_params: None,
            pending: Vec::new(),
        }
    }

    /// The state after the steps of a record, as it was when they were made.
    pub fn from_metrics(shape: RunShape, path: &Path) -> Result<Self, LogError> {
        let mut state = Self::new(shape);
        for line in lines(path)? {
            state.record(&line?);
        }
        Ok(state)
    }

    /// Takes in a line of `metrics.jsonl`, of a step or of an evaluation. Returns the entry that it added to
    /// the history, if it did.
    pub fn record(&mut self, line: &Map<String, Value>) -> Option<&Map<String, Value>> {
        let step = step_of(line)?;
        if line.keys().any(|key| key.starts_with("eval_")) {
            let mut entry = line.clone();
            // Plotters of Hugging Face's state expect numbers.
            entry.remove(INTERVALS);
            entry.insert("epoch".into(), number(self.epoch));
            return Some(self.push(entry));
        }
        self.global_step = step;
        self.epoch = value_of(line, "epoch");
        if !is_skipped(line) {
            self.accumulate(line);
        }
        if self.logging_steps == 0 || !step.is_multiple_of(self.logging_steps) {
            return None;
        }
        let means = self.pending.drain(..).map(|(key, sum, count)| (key, number(sum / count as f64)));
        let mut entry: Map<String, Value> = means.collect();
        entry.insert("step".into(), step.into());
        entry.insert("epoch".into(), number(self.epoch));
        // As in Hugging Face's log, these two are the last step's.
        for key in ["learning_rate", "grad_norm"] {
            entry.insert(key.into(), number(value_of(line, key)));
        }
        // And these count from the beginning.
        for key in [NUM_TOKENS, SKIPPED_STEPS] {
            if let Some(count) = line.get(key) {
                entry.insert(key.into(), count.clone());
            }
        }
        Some(self.push(entry))
    }

    fn accumulate(&mut self, line: &Map<String, Value>) {
        const NOT_AVERAGED: [&str; 9] = [
            "step",
            "epoch",
            "learning_rate",
            "grad_norm",
            "tokens_per_second",
            "peak_memory_bytes",
            "step_seconds",
            NUM_TOKENS,
            SKIPPED_STEPS,
        ];
        for key in line.keys().filter(|key| !NOT_AVERAGED.contains(&key.as_str())) {
            let value = value_of(line, key);
            match self.pending.iter_mut().find(|(name, ..)| name == key) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + value, *count + 1),
                None => self.pending.push((key.clone(), value, 1)),
            }
        }
    }

    fn push(&mut self, mut entry: Map<String, Value>) -> &Map<String, Value> {
        entry.sort_keys();
        self.log_history.push(entry);
        &self.log_history[self.log_history.len() - 1]
    }

    /// Writes the file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| CheckpointError::file(path, format!("cannot be written as JSON: {error}")))?;
        atomic::save_bytes(path, (text + "\n").as_bytes())
    }
}

/// A line's number; `null` was none.
fn value_of(line: &Map<String, Value>, key: &str) -> f64 {
    line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
}
