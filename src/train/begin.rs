//! The state in which a run begins or goes on: weights, the optimizer's moments, the records.

use std::path::Path;

use super::history::History;
use super::log::MetricsLog;
use super::record::{Record, truncate_after};
use super::resume::{self, Start};
use super::run::{METRICS_FILE, shape};
use super::{Prepared, TrainError, Trainer, sample};
use crate::backend::Backend;
use crate::checkpoint::resume::{OptimizerFile, ResumeState, Slot, checkpoint_path};
use crate::checkpoint::{CheckpointError, ModelFolder};
use crate::config::ModelSource;
use crate::model::Parameter;
use crate::optim::Moment;

/// Whether a run that is to end with its best model still has it.
pub(super) fn check_best(prepared: &Prepared, start: &Start) -> Result<(), TrainError> {
    let Some(checkpoint) = &start.checkpoint else { return Ok(()) };
    let Some(best) = prepared.config.evaluation.best.clone().filter(|best| best.load_at_end) else {
        return Ok(());
    };
    let (metrics, done) = (checkpoint.with_file_name(METRICS_FILE), ResumeState::read(checkpoint)?.step);
    let history = History::read(shape(prepared), Some(best), &metrics, done)?;
    let path = history.state.best_global_step.map(|step| checkpoint_path(&prepared.config.run.output, step));
    match path.filter(|path| !path.is_dir()) {
        Some(path) => Err(TrainError::BestMissing { path }),
        None => Ok(()),
    }
}

/// Weights, and the optimizer's state where there is a checkpoint; gives the first step to be done.
pub(super) fn load<B: Backend>(
    prepared: &Prepared,
    start: &Start,
    trainer: &mut Trainer<B>,
) -> Result<usize, TrainError> {
    let Some(checkpoint) = &start.checkpoint else {
        load_initial(prepared, trainer)?;
        return Ok(1);
    };
    let state = ResumeState::read(checkpoint)?;
    load_checkpoint(prepared, trainer, checkpoint)?;
    trainer.skipped = state.skipped_steps;
    let updates = (state.step - state.skipped_steps) as u64;
    if let Some(half) = &mut trainer.half
        && !half.resume(state.missed_updates, updates)
    {
        let problem = "its missed_updates are not those of this model's parameters".to_owned();
        return Err(CheckpointError::Resume { path: checkpoint.clone(), problem }.into());
    }
    resume::set_later_aside(&prepared.config.run.output, state.step)?;
    tracing::info!("resuming after step {} from {}", state.step, checkpoint.display());
    Ok(state.step + 1)
}

/// The run's records, new or cut where the run goes on, and what they say.
pub(super) fn records(
    prepared: &Prepared,
    start: &Start,
    first: usize,
) -> Result<(MetricsLog, Option<Record>, History), TrainError> {
    let config = &prepared.config;
    let (run, done) = (&config.run.output, first - 1);
    if let Some(checkpoint) = &start.checkpoint {
        resume::bring_records(checkpoint, run, [METRICS_FILE, sample::FILE])?;
    }
    let (metrics, samples) = (run.join(METRICS_FILE), run.join(sample::FILE));
    let is_sampled = config.evaluation.sample_answers > 0 && prepared.eval.is_some();
    let (log, samples) = if done == 0 {
        if samples.exists() {
            std::fs::remove_file(&samples).map_err(CheckpointError::io("remove", &samples))?;
        }
        (MetricsLog::create(&metrics)?, is_sampled.then(|| Record::create(&samples)))
    } else {
        truncate_after(&samples, done)?;
        (MetricsLog::resume(&metrics, done)?, is_sampled.then(|| Record::resume(&samples, done)))
    };
    let mut history = History::read(shape(prepared), config.evaluation.best.clone(), &metrics, done)?;
    if let Some(checkpoint) = &start.checkpoint {
        let state = &mut history.state;
        state.num_input_tokens_seen = ResumeState::read(checkpoint)?.tokens_seen;
        if let Some(step) = state.best_global_step {
            let best = checkpoint_path(run, step);
            let name = best.file_name().map(|name| name.to_string_lossy().into_owned());
            state.best_model_checkpoint = name.filter(|_| best.is_dir());
        }
    }
    Ok((log, samples.transpose()?, history))
}

/// What computes, and in which formats.
pub(super) fn announce<B: Backend>(prepared: &Prepared, trainer: &Trainer<B>) {
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
pub(super) fn parameters(prepared: &Prepared) -> Vec<(String, Vec<usize>)> {
    prepared.layout.model.table.forward_order().map(|p| (p.name.clone(), p.shape.clone())).collect()
}

/// Weights and moments of a checkpoint.
pub(super) fn load_checkpoint<B: Backend>(
    prepared: &Prepared,
    trainer: &mut Trainer<B>,
    checkpoint: &Path,
) -> Result<(), TrainError> {
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
    Ok(())
}
