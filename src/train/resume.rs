//! Where a run goes on: which checkpoint, and whether it belongs to these settings and these data.

use std::path::{Path, PathBuf};

use super::{Prepared, TrainError};
use crate::checkpoint::resume::{RESUME_FOLDER, ResumeState, find_newest};
use crate::checkpoint::run_folder::{RUN_FILE, is_run};
use crate::checkpoint::{CheckpointError, hub};
use crate::config::{ExistingFolder, ModelSource, TrainArguments, TrainConfig};

/// Hugging Face's name for the record of a run, which is written with its result.
pub const STATE_FILE: &str = "trainer_state.json";

/// The checkpoint that a run starts from, if it is to be resumed and there is one.
pub fn find(config: &TrainConfig) -> Result<Option<PathBuf>, TrainError> {
    match &config.run.existing {
        ExistingFolder::Refuse | ExistingFolder::Overwrite => Ok(None),
        ExistingFolder::Resume(path) if path.join(RESUME_FOLDER).is_dir() => Ok(Some(path.clone())),
        ExistingFolder::Resume(path) => Err(CheckpointError::Resume {
            path: path.clone(),
            problem: format!(
                "is no checkpoint: there is no folder {RESUME_FOLDER}/ in it; give a checkpoint-N folder of a run, or \
                 --resume alone for the newest in --output"
            ),
        }
        .into()),
        ExistingFolder::ResumeLatest => {
            let newest = find_newest(&config.run.output)?;
            if newest.is_none() {
                tracing::info!(
                    "no checkpoint in {}: starting from the beginning",
                    config.run.output.display()
                );
            }
            Ok(newest)
        }
    }
}

/// Whether the run folder holds the result of all steps of these settings, so that nothing is left to resume.
///
/// The result is written last, so its `trainer_state.json` tells; checkpoints do not, since the last step need not have
/// one. Without this a finished run with no checkpoint would be trained again over its own result.
pub fn is_finished(prepared: &Prepared) -> Result<bool, TrainError> {
    let config = &prepared.config;
    if config.run.existing != ExistingFolder::ResumeLatest {
        return Ok(false);
    }
    let run = &config.run.output;
    let state: Option<serde_json::Value> =
        std::fs::read(run.join(STATE_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let done = state.and_then(|state| state.get("global_step")?.as_u64());
    if done.is_none_or(|done| done < prepared.steps as u64) {
        return Ok(false);
    }
    let Some(recorded) = recorded(run)? else { return Ok(false) };
    let differences = config.differences(&recorded);
    if differences.is_empty() {
        return Ok(true);
    }
    Err(TrainError::OtherSettings { checkpoint: run.clone(), differences })
}

/// Takes over from the run file what the machine had decided, so that a resumed run is cut into the same micro-batches.
pub fn adopt(config: &mut TrainConfig) -> Result<(), TrainError> {
    if matches!(config.run.existing, ExistingFolder::Refuse | ExistingFolder::Overwrite) {
        return Ok(());
    }
    let Some(recorded) = recorded(&config.run.output)? else { return Ok(()) };
    let device = &mut config.device;
    device.max_tokens_per_batch = device.max_tokens_per_batch.or(recorded.device.max_tokens_per_batch);
    device.head_rows = device.head_rows.or(recorded.device.head_rows);
    adopt_commits(config, &recorded);
    Ok(())
}

/// A model of the Hugging Face cache stays the one that the run began with, even if its branch has moved since.
fn adopt_commits(config: &mut TrainConfig, recorded: &TrainConfig) {
    match (&mut config.model, &recorded.model) {
        (ModelSource::Folder(typed), ModelSource::Folder(recorded))
        | (
            ModelSource::Init { tokenizer: Some(typed), .. },
            ModelSource::Init { tokenizer: Some(recorded), .. },
        ) => hub::adopt_commit(typed, recorded),
        _ => {}
    }
    if let (Some(typed), Some(recorded)) = (&mut config.objective.reference, &recorded.objective.reference) {
        hub::adopt_commit(typed, recorded);
    }
}

/// Whether a checkpoint was made with these settings and these data.
pub fn check(prepared: &Prepared, checkpoint: &Path) -> Result<(), TrainError> {
    let state = ResumeState::read(checkpoint)?;
    let config = &prepared.config;
    if state.config_fingerprint != config.fingerprint() {
        let recorded = recorded(&config.run.output)?;
        let differences = recorded.map(|recorded| config.differences(&recorded)).unwrap_or_default();
        return Err(TrainError::OtherSettings { checkpoint: checkpoint.to_owned(), differences });
    }
    if state.data_fingerprint != prepared.train.fingerprint {
        return Err(TrainError::OtherData { checkpoint: checkpoint.to_owned() });
    }
    if state.template_fingerprint != prepared.encoder.template_fingerprint() {
        let template = prepared.encoder.template().map(|template| template.origin().clone());
        return Err(TrainError::OtherTemplate { checkpoint: checkpoint.to_owned(), template });
    }
    Ok(())
}

/// The settings in a run's `run.toml`, if it has one of asft.
fn recorded(run: &Path) -> Result<Option<TrainConfig>, TrainError> {
    if !is_run(run)? {
        return Ok(None);
    }
    let path = run.join(RUN_FILE);
    let problem = |problem: String| TrainError::RunFile { path: path.clone(), problem };
    let text = std::fs::read_to_string(&path).map_err(|error| problem(error.to_string()))?;
    let arguments: TrainArguments = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
    let config = arguments.resolve(|_| None).map_err(|error| problem(error.to_string()))?;
    Ok(Some(config))
}
