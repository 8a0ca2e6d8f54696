//! The loop: steps, evaluations, checkpoints, and the result.
//!
//! A step is enqueued before the one before it is looked at, so the host never makes the device wait. When a step turns
//! out not to have been finite, everything after it has been a no-op, and the state that is saved is the one before it. With
//! `--skip-nonfinite` each step is looked at before the next: AdamW counts updates, so the next one depends on it.
//!
//! Boundary: what happens when. What is written is [`super::save`]'s, what is known of the run so far [`super::history`]'s.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value};

use super::facts::RunFacts;
use super::history::{BeforeAndAfter, History};
use super::log::{EvalMetrics, MetricsLog, RunShape, Skipped, StepMetrics};
use super::log_command::{LogCommand, Patience};
use super::record::Record;
use super::resume::{self, Inputs, Start};
use super::save::Reason;
use super::token_metrics::num_tokens;
use super::{
    Interrupts, PendingStep, Prepared, Sample, StepOutcome, TrainError, Trainer, reference, resident, sample,
};
use super::{begin, best, disk};
use crate::backend::{Backend, STEP_STATE_LEN};
use crate::checkpoint::ModelFolder;
use crate::checkpoint::resume::checkpoint_path;
use crate::checkpoint::run_folder::{prepare as prepare_folder, write_run_file};
use crate::config::{EvalSource, ModelSource};
use crate::data::{Loader, Step};
use crate::eval::{Evaluated, Progress, Scorer};

/// Rows named when a step was not finite.
const SHOWN_ROWS: usize = 8;
/// Sampled answers shown at each evaluation.
const SHOWN_SAMPLES: usize = 2;
/// Steps in a row that may be skipped: one fewer than ends the run.
const MOST_SKIPPED: usize = 9;
/// The run's record.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// What a finished run has to say.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The run folder.
    pub folder: PathBuf,
    /// Optimizer steps of the whole run: as many as were planned, or fewer where it stopped early.
    pub steps: usize,
    /// Whether it stopped because evaluation did not improve any more.
    pub stopped_early: bool,
    /// Steps that were done now; fewer than `steps` after a resume.
    pub steps_now: usize,
    /// Steps that were left out because they were not finite.
    pub skipped: usize,
    /// Seconds spent on them, evaluations and saves included.
    pub seconds: f64,
    /// The step whose model is the result, and the metric that it is the best at, if it was chosen by one.
    pub best: Option<(usize, String)>,
    /// The first evaluation and that of the result by metric, without `eval_`.
    pub evaluation: Vec<BeforeAndAfter>,
    /// Answers of the result that were sampled.
    pub samples: Vec<Sample>,
    /// A file of pairs that the run has not trained on, if it knows one.
    pub eval_file: Option<PathBuf>,
}

/// A run that was asked to stop, with its state saved.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// The signal that asked.
    pub signal: i32,
    /// The last step that was done.
    pub step: usize,
    /// The checkpoint after it.
    pub saved: PathBuf,
}

/// How a run ended that did not fail.
#[derive(Clone, Debug)]
pub enum Ended {
    /// All steps are done.
    Finished(Box<Outcome>),
    /// Before that, on request.
    Stopped(Stopped),
}

/// A run under way.
pub(super) struct Run<'a, B: Backend> {
    pub(super) prepared: &'a Prepared,
    pub(super) trainer: Trainer<B>,
    pub(super) log: MetricsLog,
    pub(super) samples: Option<Record>,
    pub(super) history: History,
    pub(super) inputs: Inputs,
    /// The newest checkpoint that is known to be whole.
    pub(super) last_saved: Option<PathBuf>,
    log_command: Option<LogCommand>,
    clock: Instant,
    progress: &'a mut dyn Progress,
    interrupts: &'a mut dyn Interrupts,
}

/// Trains, from where [`resume::start`] says. `command` is the command line as typed, for messages that say how to go on.
pub fn run<B: Backend>(
    mut prepared: Prepared,
    start: Start,
    mut backend: B,
    command: &[String],
    progress: &mut dyn Progress,
    interrupts: &mut dyn Interrupts,
) -> Result<Ended, TrainError> {
    let folder = prepared.config.run.output.clone();
    if let Some(outcome) = finished(&prepared, &start)? {
        return Ok(Ended::Finished(Box::new(outcome)));
    }
    let inputs = resume::inputs(&prepared);
    resume::check(&prepared, &start, &inputs)?;
    begin::check_best(&prepared, &start)?;
    best::check_metric(&prepared)?;
    disk::check(&prepared)?;
    reference::check(&prepared, &backend)?;
    let existing = resume::existing(&prepared.config);
    prepare_folder(&folder, existing, &paths_read(&prepared), command).map_err(TrainError::Output)?;
    reference::fill(&mut prepared, &mut backend, progress)?;
    let prepared = &prepared;
    let mut trainer = prepared.layout.trainer(
        backend,
        crate::objective::build(&prepared.config.objective.name, &prepared.config.objective.parameters)?,
        prepared.config.optimizer.max_grad_norm,
    )?;
    trainer.half = prepared.half();
    let first = begin::load(prepared, &start, &mut trainer)?;
    resident::load(prepared, &mut trainer.backend)?;
    begin::announce(prepared, &trainer);
    write_run_file(&folder, &prepared.config.to_toml())?;
    RunFacts::of(prepared, &trainer.backend.name()).save(&folder)?;
    let (log, samples, history) = begin::records(prepared, &start, first)?;
    let run = Run {
        log_command: log_command(prepared)?,
        last_saved: start.checkpoint,
        prepared,
        trainer,
        log,
        samples,
        history,
        inputs,
        clock: Instant::now(),
        progress,
        interrupts,
    };
    run.complete(first)
}

/// What the run in the folder has to say if it has nothing left to do: nothing is computed and nothing written.
fn finished(prepared: &Prepared, start: &Start) -> Result<Option<Outcome>, TrainError> {
    let config = &prepared.config;
    let metrics = config.run.output.join(METRICS_FILE);
    let history = || History::read(shape(prepared), config.evaluation.best.clone(), &metrics, usize::MAX);
    // Another run's record need not have the metric that is asked for now.
    let may_have_stopped = config.evaluation.best.as_ref().is_some_and(|best| best.stopping.is_some());
    let stopped = may_have_stopped && history().is_ok_and(|history| history.is_over());
    if !resume::is_finished(prepared, start, stopped)? {
        return Ok(None);
    }
    let history = history()?;
    let (run, steps) = (&config.run.output, history.state.global_step);
    tracing::info!("the run in {} has done its {steps} steps already; nothing to do", run.display());
    let skipped = history.skipped();
    Ok(Some(outcome(prepared, &history, skipped)?))
}

/// What a run has to say that has come to its end.
fn outcome(prepared: &Prepared, history: &History, skipped: usize) -> Result<Outcome, TrainError> {
    let folder = prepared.config.run.output.clone();
    let step = history.result_step();
    let best = history.best.as_ref().filter(|best| best.config().load_at_end);
    Ok(Outcome {
        steps: history.state.global_step,
        stopped_early: history.is_over() && history.state.global_step < prepared.steps,
        steps_now: 0,
        skipped,
        seconds: 0.0,
        best: best.map(|best| (step, best.config().metric.clone())),
        evaluation: history.first_and_at(step),
        samples: sample::recorded(&folder, step)?,
        eval_file: match &prepared.config.evaluation.source {
            EvalSource::Files(files) => files.first().cloned(),
            EvalSource::None | EvalSource::Split(_) => None,
        },
        folder,
    })
}

/// Files and folders that the run reads, which it must not delete.
fn paths_read(prepared: &Prepared) -> Vec<&Path> {
    let config = &prepared.config;
    let mut paths: Vec<&Path> = config.data.files.iter().map(|file| file.path.as_path()).collect();
    if let EvalSource::Files(files) = &config.evaluation.source {
        paths.extend(files.iter().map(PathBuf::as_path));
    }
    if let ModelSource::Init { config, .. } = &config.model {
        paths.push(config);
    }
    paths.extend(prepared.folder.as_ref().map(ModelFolder::dir));
    paths.extend(prepared.tokenizer.as_deref());
    paths.extend(prepared.references.iter().map(ModelFolder::dir));
    paths
}

pub(super) fn shape(prepared: &Prepared) -> RunShape {
    let config = &prepared.config;
    RunShape {
        max_steps: prepared.steps,
        num_train_epochs: prepared.epochs.ceil() as usize,
        train_batch_size: config.batch.groups,
        logging_steps: config.run.log_every,
        eval_steps: config.evaluation.every.unwrap_or(0),
        save_steps: config.run.save_every.unwrap_or(0),
    }
}

fn log_command(prepared: &Prepared) -> Result<Option<LogCommand>, TrainError> {
    let run = &prepared.config.run;
    let start = |command: &String| LogCommand::start(command, &run.output, Patience::default());
    run.log_command.as_ref().map(start).transpose()
}

/// A step that has been enqueued but not looked at.
struct InFlight<T> {
    pending: PendingStep<T>,
    step: usize,
    epoch: f64,
    learning_rate: f64,
    tokens: usize,
    /// The same as TRL counts.
    num_tokens: u64,
    rows: Vec<usize>,
    /// Time spent on enqueueing it; waiting for it comes on top.
    seconds: f64,
}

impl<B: Backend> Run<'_, B> {
    /// All that is left of the run: steps `first` to the last, and the result.
    fn complete(mut self, first: usize) -> Result<Ended, TrainError> {
        let started = Instant::now();
        if let Some(stopped) = self.steps(first)? {
            return Ok(Ended::Stopped(stopped));
        }
        let step = self.load_best()?;
        self.save_result(step)?;
        let outcome = outcome(self.prepared, &self.history, self.trainer.skipped)?;
        Ok(Ended::Finished(Box::new(Outcome {
            steps_now: (outcome.steps + 1).saturating_sub(first),
            seconds: started.elapsed().as_secs_f64(),
            ..outcome
        })))
    }

    /// Steps `first` to the last, with everything that happens between them; fewer if evaluation does not improve any more or
    /// somebody asks to stop.
    fn steps(&mut self, first: usize) -> Result<Option<Stopped>, TrainError> {
        let prepared = self.prepared;
        let last = prepared.steps;
        self.trainer.backend.write(self.trainer.state, &[0.0f64; STEP_STATE_LEN]);
        self.interrupts.watch();
        if first == 1 {
            self.evaluate(0)?;
        }
        if first > last || self.history.is_over() {
            let done = self.history.state.global_step;
            tracing::info!("the run has done its {done} steps already; nothing to do");
            return Ok(None);
        }
        self.progress.begin("training", last);
        self.restart_clock();
        let mut in_flight = VecDeque::new();
        for step in Loader::new(prepared.train.clone(), prepared.loader.clone(), first, last)? {
            let index = step.index;
            in_flight.push_back(self.enqueue(&step)?);
            let due = |every: Option<usize>| every.is_some_and(|every| index.is_multiple_of(every));
            let evaluate = due(prepared.config.evaluation.every) || index == last;
            let save = due(prepared.config.run.save_every);
            let stop = self.interrupts.requested().filter(|_| index < last);
            let looks_ahead = !prepared.config.optimizer.skip_nonfinite;
            let keep = usize::from(looks_ahead && !evaluate && !save && stop.is_none());
            while in_flight.len() > keep {
                if let Some(oldest) = in_flight.pop_front() {
                    self.finish(oldest)?;
                }
            }
            if index == last || stop.is_some() {
                self.progress.end();
            }
            if evaluate {
                self.evaluate(index)?;
            }
            if save || stop.is_some() {
                self.save_checkpoint(index, Reason::Asked)?;
            } else if evaluate && index < last && self.is_result_so_far(index) {
                self.save_checkpoint(index, Reason::Best)?;
            }
            if let Some(signal) = stop {
                let saved = checkpoint_path(&prepared.config.run.output, index);
                return Ok(Some(Stopped { signal, step: index, saved }));
            }
            if evaluate && index < last && self.history.is_over() {
                self.progress.end();
                tracing::info!("stopping early after step {index}: {}", self.history.why_over());
                break;
            }
        }
        Ok(None)
    }

    /// Whether the model after `step` would be the result if nothing better came.
    fn is_result_so_far(&self, step: usize) -> bool {
        let loads_best = self.prepared.config.evaluation.best.as_ref().is_some_and(|best| best.load_at_end);
        loads_best && self.history.is_best(step)
    }

    fn enqueue(&mut self, step: &Step) -> Result<InFlight<B::Ticket>, TrainError> {
        let learning_rate = self.prepared.schedule.learning_rate(step.index);
        if self.prepared.config.optimizer.skip_nonfinite {
            self.trainer.clear_bad();
        }
        // Not by where the run ends: a longer one has the same lines up to there.
        self.trainer.measures_logits = step.index.is_multiple_of(self.prepared.config.run.log_every);
        let pending = self.trainer.step(step, learning_rate)?;
        Ok(InFlight {
            pending,
            seconds: self.lap(),
            step: step.index,
            epoch: step.epoch,
            learning_rate,
            num_tokens: num_tokens(step),
            tokens: step.batches.iter().map(|batch| batch.ids.len()).sum(),
            rows: step.batches.iter().flat_map(|batch| batch.groups.iter().map(|group| group.row)).collect(),
        })
    }

    /// Seconds since the clock was last looked at.
    fn lap(&mut self) -> f64 {
        std::mem::replace(&mut self.clock, Instant::now()).elapsed().as_secs_f64()
    }

    /// What was done since the clock was last looked at does not count as time of a step.
    pub(super) fn restart_clock(&mut self) {
        self.clock = Instant::now();
    }

    /// Waits for a step and records it.
    fn finish(&mut self, step: InFlight<B::Ticket>) -> Result<(), TrainError> {
        let InFlight { pending, seconds, tokens, .. } = step;
        let Trainer { backend, objective, .. } = &mut self.trainer;
        let outcome = pending.finish(backend, objective.as_ref())?;
        let skips = self.prepared.config.optimizer.skip_nonfinite;
        let this = outcome.bad || !outcome.loss.is_finite();
        // A loss that the device has not noticed has been learnt from already.
        if this && !(skips && outcome.bad) {
            return self.stop_not_finite(step.step, &step.rows);
        }
        self.trainer.skipped += usize::from(this);
        let seconds = seconds + self.lap();
        let means = outcome.metrics.means();
        let num_tokens = self.history.num_tokens + step.num_tokens;
        let line = self.log.step(&StepMetrics {
            step: step.step,
            epoch: step.epoch,
            loss: outcome.loss,
            learning_rate: step.learning_rate,
            grad_norm: outcome.gradient_norm,
            objective: &means,
            num_tokens,
            tokens_per_second: tokens as f64 / seconds,
            peak_memory_bytes: self.trainer.backend.peak_memory().unwrap_or(0),
            step_seconds: seconds,
            skipped: skips.then_some(Skipped { this, so_far: self.trainer.skipped }),
        });
        let line = self.or_remedy(|| METRICS_FILE.to_owned(), line.map_err(Into::into))?;
        let is_entry = self.record(&line)?;
        if this {
            return self.skip(step.step, &step.rows);
        }
        self.history.state.num_input_tokens_seen += tokens as u64;
        let accuracy = outcome.metrics.mean("rewards/accuracies");
        let accuracy = accuracy.map(|a| format!(", accuracy {a:.2}")).unwrap_or_default();
        self.progress.advance(step.step, &format!("loss {:.4}{accuracy}", outcome.loss));
        if is_entry || step.step == self.prepared.steps {
            tracing::info!(
                "step {}/{}: loss {:.4}{accuracy}, gradient norm {:.2}, learning rate {:.2e}, {:.0} tokens/s",
                step.step,
                self.prepared.steps,
                outcome.loss,
                outcome.gradient_norm,
                step.learning_rate,
                tokens as f64 / seconds
            );
        }
        if step.step == 1 {
            self.check_first_loss(&outcome);
        }
        Ok(())
    }

    /// Takes in a line of `metrics.jsonl` and hands it on; says whether it completed an entry of the log history.
    fn record(&mut self, line: &Map<String, Value>) -> Result<bool, TrainError> {
        if let Some(command) = &mut self.log_command {
            command.send(Value::Object(line.clone()).to_string());
        }
        self.history.take(line)
    }

    /// With the initial weights as reference the first loss is the same whatever the data (DPO's is ln 2): a check of the
    /// whole path.
    fn check_first_loss(&self, outcome: &StepOutcome) {
        let Some(expected) = self.trainer.objective.loss_at_reference() else { return };
        if !self.prepared.config.objective.references.is_empty() {
            return;
        }
        let loss = outcome.loss;
        let name = if expected == std::f64::consts::LN_2 { "ln 2 = " } else { "" };
        if (loss - expected).abs() < 1e-6 * expected.abs().max(1.0) {
            tracing::info!("first loss {loss:.6}, {name}{expected:.6}: policy and reference agree");
        } else {
            tracing::warn!(
                "first loss {loss:.6} instead of {name}{expected:.6}: policy and reference differ"
            );
        }
    }

    /// Ends the run at a step that was not finite, with the state before it saved.
    fn stop_not_finite(&mut self, step: usize, rows: &[usize]) -> Result<(), TrainError> {
        self.progress.end();
        let before = step - 1;
        let mut saved = checkpoint_path(&self.prepared.config.run.output, before);
        if !saved.exists() {
            saved = self.save_checkpoint(before, Reason::Asked)?;
        }
        Err(TrainError::NotFinite { step, rows: self.located(rows), saved })
    }

    /// Reports a step that was left out; too many of them in a row end the run.
    fn skip(&mut self, step: usize, rows: &[usize]) -> Result<(), TrainError> {
        let (so_far, in_a_row) = (self.trainer.skipped, self.history.skipped_in_a_row);
        tracing::warn!(
            "step {step} is skipped: its loss or gradient was not finite ({}); skipped so far: {so_far}",
            self.located(rows)
        );
        self.progress.advance(step, "skipped");
        if in_a_row <= MOST_SKIPPED {
            return Ok(());
        }
        self.progress.end();
        let saved = self.save_checkpoint(step, Reason::Asked)?;
        Err(TrainError::NeverFinite { first: step + 1 - in_a_row, last: step, saved })
    }

    /// The first rows of a step, by file and line.
    fn located(&self, rows: &[usize]) -> String {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let shown = rows.iter().take(SHOWN_ROWS).map(|&row| match self.prepared.train.report.locate(row) {
            Some(place) => place.to_string(),
            None => format!("row {row}"),
        });
        let mut shown: Vec<String> = shown.collect();
        if rows.len() > SHOWN_ROWS {
            shown.push(format!("and {} more", rows.len() - SHOWN_ROWS));
        }
        shown.join(", ")
    }

    /// Loss, metrics and sampled answers on the held-out pairs.
    fn evaluate(&mut self, step: usize) -> Result<(), TrainError> {
        let Some(eval) = &self.prepared.eval else { return Ok(()) };
        let Trainer { backend, model, activations, references, objective, .. } = &mut self.trainer;
        let mut scorer = Scorer { backend, model, activations, progress: &mut crate::eval::Silent };
        let Evaluated { loss, metrics, intervals } =
            scorer.evaluate_beside(references, &eval.groups, objective.as_ref())?;
        let mut values = vec![("loss", loss)];
        values.extend(metrics.means());
        let intervals: Vec<(&str, [f64; 2])> =
            intervals.iter().map(|(name, interval)| (*name, [interval.low, interval.high])).collect();
        let line = self.log.evaluation(&EvalMetrics { step, values: &values, intervals: &intervals });
        let line = self.or_remedy(|| METRICS_FILE.to_owned(), line.map_err(Into::into))?;
        self.record(&line)?;
        let shown = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let accuracy =
            shown("rewards/accuracies").map(|a| format!(", reward accuracy {a:.3}")).unwrap_or_default();
        let best = if self.history.is_best(step) { " (the best so far)" } else { "" };
        tracing::info!("evaluation after step {step}: loss {loss:.4}{accuracy}{best}");
        self.sample(step)?;
        self.restart_clock();
        Ok(())
    }

    /// Answers held-out prompts, into the record of samples.
    fn sample(&mut self, step: usize) -> Result<(), TrainError> {
        let samples = sample::samples(self.prepared, &mut self.trainer, step)?;
        let Some(record) = self.samples.as_mut().filter(|_| !samples.is_empty()) else { return Ok(()) };
        let written = samples.iter().try_for_each(|sample| record.append(&sample.line()));
        self.or_remedy(|| sample::FILE.to_owned(), written.map_err(Into::into))?;
        let exact = samples.iter().filter(|sample| sample.exact).count();
        tracing::info!("sampled answers after step {step}: {exact} of {} exactly right", samples.len());
        for sample in samples.iter().take(SHOWN_SAMPLES) {
            tracing::info!("  {}", sample.shown());
        }
        Ok(())
    }

    /// Puts the weights on the device that are to be the result, and gives their step.
    fn load_best(&mut self) -> Result<usize, TrainError> {
        let (step, last) = (self.history.result_step(), self.history.state.global_step);
        if step != last {
            let checkpoint = checkpoint_path(&self.prepared.config.run.output, step);
            begin::load_checkpoint(self.prepared, &mut self.trainer, &checkpoint)?;
            tracing::info!("the result is the best model, that of {}", checkpoint.display());
        }
        Ok(step)
    }
}
