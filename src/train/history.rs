//! What a run knows of itself, all of it out of the lines of `metrics.jsonl`: the state in Hugging Face's shape, the curves, the
//! evaluations and the best of them. A resumed run reads it from its record; a running one adds line by line.

use std::path::Path;

use serde_json::{Map, Value};

use super::TrainError;
use super::best::{Best, Evaluation};
use super::curves::Curves;
use super::log::{NUM_TOKENS, RunShape, TrainerState, is_skipped, lines};
use super::record::step_of;
use crate::config::BestConfig;

/// The record so far, digested.
#[derive(Clone, Debug)]
pub struct History {
    /// `trainer_state.json`.
    pub state: TrainerState,
    /// `curves.svg`.
    pub curves: Curves,
    /// The lines of evaluations.
    pub evaluations: Vec<Map<String, Value>>,
    /// The best of them, where somebody asks.
    pub best: Option<Best>,
    /// Tokens of all steps as TRL counts them.
    pub num_tokens: u64,
    /// The latest steps in a row that were left out.
    pub skipped_in_a_row: usize,
    skipped: usize,
}

/// What an evaluation found: metric without `eval_`, its value before the first step, its value then.
pub type BeforeAndAfter = (String, Option<f64>, f64);

impl History {
    /// Before the first line.
    pub fn new(shape: RunShape, best: Option<BestConfig>) -> Self {
        Self {
            state: TrainerState::new(shape),
            curves: Curves::default(),
            evaluations: Vec::new(),
            best: best.map(Best::new),
            num_tokens: 0,
            skipped_in_a_row: 0,
            skipped: 0,
        }
    }

    /// After the lines of a record up to `step`; a record that is not there has none.
    pub fn read(
        shape: RunShape,
        best: Option<BestConfig>,
        path: &Path,
        step: usize,
    ) -> Result<Self, TrainError> {
        let mut history = Self::new(shape, best);
        if path.exists() {
            for line in lines(path)? {
                let line = line?;
                if step_of(&line).is_some_and(|line| line > step) {
                    break;
                }
                history.take(&line)?;
            }
        }
        Ok(history)
    }

    /// Takes in a line; says whether it completed an entry of the log history.
    pub fn take(&mut self, line: &Map<String, Value>) -> Result<bool, TrainError> {
        self.curves.push(line);
        let is_entry = self.state.record(line).is_some();
        if !line.contains_key("eval_loss") {
            self.num_tokens = line.get(NUM_TOKENS).and_then(Value::as_u64).unwrap_or(self.num_tokens);
            self.skipped += usize::from(is_skipped(line));
            self.skipped_in_a_row = if is_skipped(line) { self.skipped_in_a_row + 1 } else { 0 };
            return Ok(is_entry);
        }
        self.evaluations.push(line.clone());
        if let Some(best) = &mut self.best {
            best.record(line)?;
            let evaluation = best.evaluation();
            let state = &mut self.state;
            if state.best_global_step != evaluation.map(|best| best.step) {
                state.best_global_step = evaluation.map(|best| best.step);
                state.best_metric = evaluation.map(|best| best.value);
                state.best_model_checkpoint = None;
            }
        }
        Ok(is_entry)
    }

    /// Whether evaluation has not improved for as long as the run may wait.
    pub fn is_over(&self) -> bool {
        self.best.as_ref().is_some_and(Best::is_over)
    }

    /// Steps that were left out.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Why there are to be no more steps, in words.
    pub fn why_over(&self) -> String {
        let Some(best) = &self.best else { return String::new() };
        let metric = &best.config().metric;
        let patience = best.config().stopping.map_or(0, |stopping| stopping.patience);
        match best.evaluation() {
            Some(Evaluation { step, value }) => format!(
                "{metric} has not improved in {patience} evaluations; the best is {value:.4} after step {step}"
            ),
            None => format!("{metric} was not finite in {patience} evaluations"),
        }
    }

    /// Whether the best evaluation so far is that after `step`.
    pub fn is_best(&self, step: usize) -> bool {
        self.state.best_global_step == Some(step)
    }

    /// The step whose model is the result: the best one's, where it is to be, else the last.
    pub fn result_step(&self) -> usize {
        let best = self.best.as_ref().filter(|best| best.config().load_at_end);
        let best = best.and_then(|best| Some(best.evaluation()?.step));
        best.unwrap_or(self.state.global_step)
    }

    /// Every evaluation metric before the first step and as the last evaluation up to `step` has it.
    pub fn first_and_at(&self, step: usize) -> Vec<BeforeAndAfter> {
        let up_to = |line: &&Map<String, Value>| step_of(line).is_some_and(|line| line <= step);
        let Some(last) = self.evaluations.iter().rfind(up_to) else { return Vec::new() };
        let first = self.evaluations.first().filter(|first| !std::ptr::eq(*first, last));
        let metrics =
            last.iter().filter_map(|(key, value)| Some((key.strip_prefix("eval_")?, key, value.as_f64()?)));
        metrics
            .map(|(name, key, after)| {
                (name.to_owned(), first.and_then(|line| line.get(key)?.as_f64()), after)
            })
            .collect()
    }
}
