//! The loop: steps, evaluations, checkpoints, and the result.
//!
//! A step is enqueued before the one before it is looked at, so the host never makes the device wait. When a step turns
//! out not to have been finite, everything after it has been a no-op, and the state that is saved is the one before it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value};

use super::card::{Evaluated, ModelCard};
use super::curves::Curves;
use super::log::{EvalMetrics, MetricsLog, RunShape, StepMetrics, TrainerState};
use super::{
    Interrupts, PendingStep, Prepared, Sample, StepOutcome, TrainError, Trainer, reference, resume, sample,
};
use crate::backend::{Backend, STEP_STATE_LEN};
use crate::checkpoint::export::is_weight_file;
use crate::checkpoint::resume::{OptimizerFile, ResumeState, Slot, checkpoint_path, prune, write_resume};
use crate::checkpoint::run_folder::{ExistingRun, prepare as prepare_folder, write_run_file};
use crate::checkpoint::{CheckpointError, ModelExport, ModelFolder, atomic};
use crate::config::{EvalSource, ExistingFolder, ModelSource};
use crate::data::{Loader, Step};
use crate::eval::{Progress, Scorer};
use crate::model::Parameter;
use crate::objective::Parameters;
use crate::optim::Moment;

/// Rows named when a step was not finite.
const SHOWN_ROWS: usize = 8;

/// What a finished run has to say.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The run folder.
    pub folder: PathBuf,
    /// Optimizer steps of the whole run.
    pub steps: usize,
    /// Steps that were done now; fewer than `steps` after a resume.
    pub steps_now: usize,
    /// Seconds spent on them, evaluations and saves included.
    pub seconds: f64,
    /// The first and the last evaluation by metric, without `eval_`.
    pub evaluation: Vec<(String, Option<f64>, f64)>,
    /// Sampled answers.
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
struct Run<'a, B: Backend> {
    prepared: &'a Prepared,
    trainer: Trainer<B>,
    log: MetricsLog,
    state: TrainerState,
    curves: Curves,
    evaluations: Vec<Map<String, Value>>,
    tokens_seen: u64,
    clock: Instant,
    progress: &'a mut dyn Progress,
    interrupts: &'a mut dyn Interrupts,
}

/// Trains. `command` is the command line as typed, for messages that say how to go on.
pub fn run<B: Backend>(
    mut prepared: Prepared,
    mut backend: B,
    command: &[String],
    progress: &mut dyn Progress,
    interrupts: &mut dyn Interrupts,
) -> Result<Ended, TrainError> {
    let folder = prepared.config.run.output.clone();
    let existing = match prepared.config.run.existing {
        ExistingFolder::Refuse => ExistingRun::Refuse,
        ExistingFolder::Overwrite => ExistingRun::Overwrite,
        ExistingFolder::ResumeLatest | ExistingFolder::Resume(_) => ExistingRun::Resume,
    };
    if resume::is_finished(&prepared)? {
        return finished(&prepared).map(|outcome| Ended::Finished(Box::new(outcome)));
    }
    let checkpoint = resume::find(&prepared.config)?;
    if let Some(checkpoint) = &checkpoint {
        resume::check(&prepared, checkpoint)?;
    }
    prepare_folder(&folder, existing, &inputs(&prepared), command).map_err(TrainError::Output)?;
    reference::fill(&mut prepared, &mut backend, progress)?;
    let prepared = &prepared;
    let mut trainer = prepared.layout.trainer(
        backend,
        crate::objective::build(&prepared.config.objective.name, &prepared.config.objective.parameters)?,
        prepared.config.optimizer.max_grad_norm,
    )?;
    let resumed =
        checkpoint.as_deref().map(|path| load_checkpoint(prepared, &mut trainer, path)).transpose()?;
    if resumed.is_none() {
        load_initial(prepared, &mut trainer)?;
    }
    announce(prepared, &trainer);
    write_run_file(&folder, &prepared.config.to_toml())?;
    let (first, tokens_seen) = resumed.map_or((1, 0), |state| (state.step + 1, state.tokens_seen));
    let metrics = folder.join("metrics.jsonl");
    let log =
        if first > 1 { MetricsLog::resume(&metrics, first - 1)? } else { MetricsLog::create(&metrics)? };
    let mut state = TrainerState::from_metrics(shape(prepared), &metrics)?;
    state.num_input_tokens_seen = tokens_seen;
    let mut run = Run {
        state,
        curves: Curves::read(&metrics)?,
        evaluations: evaluations(&metrics)?,
        prepared,
        trainer,
        log,
        tokens_seen,
        clock: Instant::now(),
        progress,
        interrupts,
    };
    let started = Instant::now();
    if let Some(stopped) = run.steps(first)? {
        return Ok(Ended::Stopped(stopped));
    }
    let samples = sample::samples(prepared, &mut run.trainer)?;
    run.save_result(&samples)?;
    Ok(Ended::Finished(Box::new(Outcome {
        folder,
        steps: prepared.steps,
        steps_now: (prepared.steps + 1).saturating_sub(first),
        seconds: started.elapsed().as_secs_f64(),
        evaluation: first_and_last(&run.evaluations),
        samples,
        eval_file: eval_file(prepared),
    })))
}

fn eval_file(prepared: &Prepared) -> Option<PathBuf> {
    match &prepared.config.evaluation.source {
        EvalSource::Files(files) => files.first().cloned(),
        EvalSource::None | EvalSource::Split(_) => None,
    }
}

/// What there is to say of a run that has nothing left to do: nothing is computed and nothing written.
fn finished(prepared: &Prepared) -> Result<Outcome, TrainError> {
    let folder = prepared.config.run.output.clone();
    tracing::info!(
        "the run in {} has done its {} steps already; nothing to do",
        folder.display(),
        prepared.steps
    );
    let evaluations = evaluations(&folder.join("metrics.jsonl"))?;
    Ok(Outcome {
        steps: prepared.steps,
        steps_now: 0,
        seconds: 0.0,
        evaluation: first_and_last(&evaluations),
        samples: sample::read(&folder.join(sample::FILE)),
        eval_file: eval_file(prepared),
        folder,
    })
}

/// Files and folders that the run reads, which it must not delete.
fn inputs(prepared: &Prepared) -> Vec<&Path> {
    let config = &prepared.config;
    let mut inputs: Vec<&Path> = config.data.files.iter().map(PathBuf::as_path).collect();
    if let EvalSource::Files(files) = &config.evaluation.source {
        inputs.extend(files.iter().map(PathBuf::as_path));
    }
    if let ModelSource::Init { config, .. } = &config.model {
        inputs.push(config);
    }
    inputs.extend(prepared.folder.as_ref().map(ModelFolder::dir));
    inputs.extend(prepared.tokenizer.as_deref());
    inputs.extend(prepared.reference.as_ref().map(ModelFolder::dir));
    inputs
}

fn shape(prepared: &Prepared) -> RunShape {
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

fn evaluations(metrics: &Path) -> Result<Vec<Map<String, Value>>, TrainError> {
    let lines: Vec<Map<String, Value>> = super::log::lines(metrics)?.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line.contains_key("eval_loss")).collect())
}

/// What computes, and in which formats.
fn announce<B: Backend>(prepared: &Prepared, trainer: &Trainer<B>) {
    let precision = prepared.precision;
    tracing::info!(
        "{} parameters on {}: weights and activations in {}, optimizer state in {}; the backward pass computes again: {}",
        trainer.model.table.count(),
        trainer.backend.name(),
        precision.operands.name(),
        precision.optimizer.name(),
        trainer.activations.recompute.name()
    );
}

fn load_initial<B: Backend>(prepared: &Prepared, trainer: &mut Trainer<B>) -> Result<(), TrainError> {
    match (&prepared.folder, &prepared.config.model) {
        (Some(folder), _) => trainer.model.load(&mut trainer.backend, folder)?,
        (None, ModelSource::Init { seed, .. }) => trainer.model.initialise(&mut trainer.backend, *seed),
        (None, ModelSource::Folder(path)) => {
            trainer.model.load(&mut trainer.backend, &ModelFolder::open(path)?)?
        }
    }
    Ok(())
}

/// Name and shape of every parameter, in the order of the files.
fn parameters(prepared: &Prepared) -> Vec<(String, Vec<usize>)> {
    prepared.layout.model.table.forward_order().map(|p| (p.name.clone(), p.shape.clone())).collect()
}

fn load_checkpoint<B: Backend>(
    prepared: &Prepared,
    trainer: &mut Trainer<B>,
    checkpoint: &Path,
) -> Result<ResumeState, TrainError> {
    let state = ResumeState::read(checkpoint)?;
    let slots = Slot::of_export(prepared.save_dtype());
    let file = OptimizerFile::open(checkpoint, &parameters(prepared), slots)?;
    let Trainer { backend, model, optimizer, .. } = trainer;
    for (slot, moment) in [(Slot::M, Moment::First), (Slot::V, Moment::Second)] {
        let read = |parameter: &Parameter, values: &mut [f32]| file.read(slot, &parameter.name, values);
        optimizer.write_moment(backend, &model.table, moment, read)?;
    }
    if slots.contains(&Slot::Master) {
        let mut values = Vec::new();
        for parameter in model.table.forward_order() {
            values.resize(parameter.elements(), 0.0f32);
            file.read(Slot::Master, &parameter.name, &mut values)?;
            model.write_weight(backend, parameter, &values);
        }
    } else {
        model.load(backend, &ModelFolder::open(checkpoint)?)?;
    }
    tracing::info!("resuming after step {} from {}", state.step, checkpoint.display());
    Ok(state)
}

/// A step that has been enqueued but not looked at.
struct InFlight<T> {
    pending: PendingStep<T>,
    step: usize,
    epoch: f64,
    learning_rate: f64,
    tokens: usize,
    rows: Vec<usize>,
    /// Time spent on enqueueing it; waiting for it comes on top.
    seconds: f64,
}

impl<B: Backend> Run<'_, B> {
    /// Steps `first` to the last, with everything that happens between them; fewer if somebody asks to stop.
    fn steps(&mut self, first: usize) -> Result<Option<Stopped>, TrainError> {
        let prepared = self.prepared;
        let last = prepared.steps;
        self.trainer.backend.write(self.trainer.state, &[0.0f64; STEP_STATE_LEN]);
        self.interrupts.watch();
        if first == 1 {
            self.evaluate(0)?;
        }
        if first > last {
            tracing::info!("the run has done its {last} steps already; nothing to do");
            return Ok(None);
        }
        self.progress.begin("training", last);
        self.clock = Instant::now();
        let mut in_flight = VecDeque::new();
        for step in Loader::new(prepared.train.clone(), prepared.loader.clone(), first, last)? {
            let index = step.index;
            in_flight.push_back(self.enqueue(&step));
            let due = |every: Option<usize>| every.is_some_and(|every| index.is_multiple_of(every));
            let (evaluate, save) =
                (due(prepared.config.evaluation.every), due(prepared.config.run.save_every));
            let stop = self.interrupts.requested().filter(|_| index < last);
            let keep = usize::from(index < last && !evaluate && !save && stop.is_none());
            while in_flight.len() > keep {
                if let Some(oldest) = in_flight.pop_front() {
                    self.finish(oldest)?;
                }
            }
            if index == last || stop.is_some() {
                self.progress.end();
            }
            if evaluate || index == last {
                self.evaluate(index)?;
            }
            if save || stop.is_some() {
                self.save_checkpoint(index)?;
            }
            if let Some(signal) = stop {
                let saved = checkpoint_path(&prepared.config.run.output, index);
                return Ok(Some(Stopped { signal, step: index, saved }));
            }
        }
        Ok(None)
    }

    fn enqueue(&mut self, step: &Step) -> InFlight<B::Ticket> {
        let learning_rate = self.prepared.schedule.learning_rate(step.index);
        let pending = self.trainer.step(step, learning_rate);
        InFlight {
            pending,
            seconds: self.lap(),
            step: step.index,
            epoch: step.epoch,
            learning_rate,
            tokens: step.batches.iter().map(|batch| batch.ids.len()).sum(),
            rows: step.batches.iter().flat_map(|batch| batch.groups.iter().map(|group| group.row)).collect(),
        }
    }

    /// Seconds since the clock was last looked at.
    fn lap(&mut self) -> f64 {
        std::mem::replace(&mut self.clock, Instant::now()).elapsed().as_secs_f64()
    }

    /// Waits for a step and records it.
    fn finish(&mut self, step: InFlight<B::Ticket>) -> Result<(), TrainError> {
        let Trainer { backend, objective, .. } = &mut self.trainer;
        let outcome = step.pending.finish(backend, objective.as_ref())?;
        if outcome.bad || !outcome.loss.is_finite() {
            return self.stop_not_finite(step.step, &step.rows);
        }
        self.tokens_seen += step.tokens as u64;
        let seconds = step.seconds + self.lap();
        let means = outcome.metrics.means();
        let line = self.log.step(&StepMetrics {
            step: step.step,
            epoch: step.epoch,
            loss: outcome.loss,
            learning_rate: step.learning_rate,
            grad_norm: outcome.gradient_norm,
            objective: &means,
            tokens_per_second: step.tokens as f64 / seconds,
            peak_memory_bytes: self.trainer.backend.peak_memory().unwrap_or(0),
            step_seconds: seconds,
        })?;
        self.curves.push(&line);
        let accuracy = outcome.metrics.mean("rewards/accuracies");
        let accuracy = accuracy.map(|a| format!(", accuracy {a:.2}")).unwrap_or_default();
        self.progress.advance(step.step, &format!("loss {:.4}{accuracy}", outcome.loss));
        if self.state.record(&line).is_some() || step.step == self.prepared.steps {
            tracing::info!(
                "step {}/{}: loss {:.4}{accuracy}, gradient norm {:.2}, learning rate {:.2e}, {:.0} tokens/s",
                step.step,
                self.prepared.steps,
                outcome.loss,
                outcome.gradient_norm,
                step.learning_rate,
                step.tokens as f64 / seconds
            );
        }
        self.state.num_input_tokens_seen = self.tokens_seen;
        if step.step == 1 {
            self.check_first_loss(&outcome);
        }
        Ok(())
    }

    /// With the initial weights as reference, DPO's first loss is ln 2 whatever the data: a check of the whole path.
    fn check_first_loss(&self, outcome: &StepOutcome) {
        let config = &self.prepared.config.objective;
        if !self.prepared.objective.needs_reference() || config.reference.is_some() {
            return;
        }
        let (loss, expected) = (outcome.loss, std::f64::consts::LN_2);
        if (loss - expected).abs() < 1e-6 {
            tracing::info!("first loss {loss:.6}, ln 2 = {expected:.6}: policy and reference agree");
        } else {
            tracing::warn!(
                "first loss {loss:.6} instead of ln 2 = {expected:.6}: policy and reference differ"
            );
        }
    }

    fn stop_not_finite(&mut self, step: usize, rows: &[usize]) -> Result<(), TrainError> {
        self.progress.end();
        let before = step - 1;
        let saved = checkpoint_path(&self.prepared.config.run.output, before);
        if !saved.exists() {
            self.save_checkpoint(before)?;
        }
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let shown = rows.iter().take(SHOWN_ROWS).map(|&row| match self.prepared.train.report.locate(row) {
            Some((path, line)) => format!("{}:{line}", path.display()),
            None => format!("row {row}"),
        });
        let mut shown: Vec<String> = shown.collect();
        if rows.len() > SHOWN_ROWS {
            shown.push(format!("and {} more", rows.len() - SHOWN_ROWS));
        }
        Err(TrainError::NotFinite { step, rows: shown.join(", "), saved })
    }

    /// Loss and metrics on the held-out pairs.
    fn evaluate(&mut self, step: usize) -> Result<(), TrainError> {
        let Some(eval) = &self.prepared.eval else { return Ok(()) };
        let Trainer { backend, model, activations, objective, .. } = &mut self.trainer;
        let mut scorer = Scorer { backend, model, activations, progress: &mut crate::eval::Silent };
        let (loss, metrics) = scorer.evaluate(&eval.groups, objective.as_ref())?;
        let mut values = vec![("loss", loss)];
        values.extend(metrics.means());
        let line = self.log.evaluation(&EvalMetrics { step, values: &values })?;
        self.curves.push(&line);
        self.state.record(&line);
        let shown = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let accuracy =
            shown("rewards/accuracies").map(|a| format!(", reward accuracy {a:.3}")).unwrap_or_default();
        tracing::info!("evaluation after step {step}: loss {loss:.4}{accuracy}");
        self.evaluations.push(line);
        self.clock = Instant::now();
        Ok(())
    }

    /// `checkpoint-N/`: a complete folder and the resume state.
    fn save_checkpoint(&mut self, step: usize) -> Result<(), TrainError> {
        self.log.sync()?;
        let run = self.prepared.config.run.output.clone();
        let path = checkpoint_path(&run, step);
        atomic::save_folder(&path, |folder| -> Result<(), TrainError> {
            self.write_model(folder)?;
            self.state.save(&folder.join(resume::STATE_FILE))?;
            self.write_card(folder, false)?;
            self.write_resume(folder, step)
        })?;
        if let Some(limit) = self.prepared.config.run.keep {
            prune(&run, limit, None)?;
        }
        tracing::info!("saved {}", path.display());
        self.clock = Instant::now();
        Ok(())
    }

    fn write_model(&mut self, folder: &Path) -> Result<(), CheckpointError> {
        let prepared = self.prepared;
        let Trainer { backend, model, .. } = &mut self.trainer;
        let export = ModelExport::new(&prepared.model, prepared.save_dtype(), prepared.tokenizer.as_deref());
        export.write(folder, &mut |name: &str, start: usize, out: &mut [f32]| {
            Ok(model.read_weight(backend, name, start, out)?)
        })
    }

    fn write_resume(&mut self, folder: &Path, step: usize) -> Result<(), TrainError> {
        let prepared = self.prepared;
        let mut state = ResumeState::new(prepared.config.fingerprint(), prepared.train.fingerprint);
        (state.step, state.epoch, state.tokens_seen) = (step, self.state.epoch, self.tokens_seen);
        let Trainer { backend, model, optimizer, .. } = &mut self.trainer;
        let slots = Slot::of_export(prepared.save_dtype());
        let mut values = |slot: Slot, name: &str, start: usize, out: &mut [f32]| {
            let place = model.table.span(&[name.to_owned()]).start + start;
            match slot {
                Slot::M => optimizer.read_moment(backend, Moment::First, place, out)?,
                Slot::V => optimizer.read_moment(backend, Moment::Second, place, out)?,
                Slot::Master => model.read_weight(backend, name, start, out)?,
            }
            Ok(())
        };
        Ok(write_resume(folder, &state, &parameters(prepared), slots, &mut values)?)
    }

    /// The result at the top of the run folder.
    fn save_result(&mut self, samples: &[Sample]) -> Result<(), TrainError> {
        let run = self.prepared.config.run.output.clone();
        let belongs = |name: &str| is_weight_file(name);
        atomic::save_into(&run, belongs, |folder| -> Result<(), TrainError> {
            self.write_model(folder)?;
            self.state.save(&folder.join(resume::STATE_FILE))?;
            self.write_card(folder, true)?;
            let subtitle = format!("{}, {} steps", self.prepared.objective.name(), self.prepared.steps);
            let svg = self.curves.to_svg(&name_of(&run), &subtitle);
            atomic::save_bytes(&folder.join("curves.svg"), svg.as_bytes())?;
            if !samples.is_empty() {
                let lines: String = samples.iter().map(|sample| json_line(sample) + "\n").collect();
                atomic::save_bytes(&folder.join(sample::FILE), lines.as_bytes())?;
            }
            Ok(())
        })
    }

    /// The card; `is_run` says whether the files of the run lie beside it.
    fn write_card(&self, folder: &Path, is_run: bool) -> Result<(), CheckpointError> {
        let prepared = self.prepared;
        let config = &prepared.config;
        let evaluation = first_and_last(&self.evaluations);
        let evaluation: Vec<Evaluated<'_>> = evaluation
            .iter()
            .map(|(metric, before, after)| Evaluated { metric, before: *before, after: *after })
            .collect();
        let files: Vec<&Path> = config.data.files.iter().map(PathBuf::as_path).collect();
        let eval_files: Vec<&Path> = match &config.evaluation.source {
            EvalSource::Files(files) => files.iter().map(PathBuf::as_path).collect(),
            EvalSource::None | EvalSource::Split(_) => Vec::new(),
        };
        let base = match &config.model {
            ModelSource::Folder(path) => Some(name_of(path)),
            ModelSource::Init { .. } => None,
        };
        let name = name_of(&config.run.output);
        let mut hyper_parameters = vec![
            ("steps", prepared.steps.to_string()),
            ("epochs", format!("{:.2}", prepared.epochs)),
            ("pairs per step", config.batch.groups.to_string()),
            ("learning rate", config.optimizer.learning_rate.to_string()),
            (
                "schedule",
                format!(
                    "{}, {} warm-up steps",
                    prepared.schedule.kind.name(),
                    prepared.schedule.warmup_steps
                ),
            ),
            ("seed", config.run.seed.to_string()),
        ];
        hyper_parameters.extend(objective_parameters(&config.objective.parameters));
        let card = ModelCard {
            name: &name,
            base_model: base.as_deref(),
            objective: prepared.objective.name(),
            hyper_parameters: &hyper_parameters,
            data: &files,
            eval_data: &eval_files,
            evaluation: &evaluation,
            chat: prepared.encoder.template().is_some(),
            is_run,
        };
        atomic::save_bytes(&folder.join("README.md"), card.to_markdown().as_bytes())
    }
}

/// Every evaluation metric before the first step and at the last evaluation.
fn first_and_last(evaluations: &[Map<String, Value>]) -> Vec<(String, Option<f64>, f64)> {
    let Some(last) = evaluations.last() else { return Vec::new() };
    let first = evaluations.first().filter(|_| evaluations.len() > 1);
    let metrics =
        last.iter().filter_map(|(key, value)| Some((key.strip_prefix("eval_")?, key, value.as_f64()?)));
    metrics
        .map(|(name, key, after)| (name.to_owned(), first.and_then(|line| line.get(key)?.as_f64()), after))
        .collect()
}

/// The objective's parameters in use, by name.
fn objective_parameters(parameters: &Parameters) -> Vec<(&'static str, String)> {
    let values = serde_json::to_value(parameters).unwrap_or_default();
    parameters.typed().into_iter().map(|name| (name, values[name].to_string().replace('"', ""))).collect()
}

fn json_line(sample: &Sample) -> String {
    serde_json::to_string(sample).unwrap_or_else(|_| unreachable!("strings and a boolean are JSON"))
}

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
