//! Where a run goes on: which checkpoint, and whether it belongs to these settings and these data.

use std::path::{Path, PathBuf};

use super::{Prepared, TrainError};
use crate::checkpoint::resume::{ResumeState, find_newest};
use crate::checkpoint::run_folder::RUN_FILE;
use crate::config::{ExistingFolder, TrainArguments, TrainConfig};

/// The checkpoint that a run starts from, if it is to be resumed and there is one.
pub fn find(config: &TrainConfig) -> Result<Option<PathBuf>, TrainError> {
    match &config.run.existing {
        ExistingFolder::Refuse | ExistingFolder::Overwrite => Ok(None),
        ExistingFolder::Resume(path) => Ok(Some(path.clone())),
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

/// Takes over from the run file what the machine had decided, so that a resumed run is cut into the same micro-batches.
pub fn adopt(config: &mut TrainConfig) -> Result<(), TrainError> {
    if matches!(config.run.existing, ExistingFolder::Refuse | ExistingFolder::Overwrite) {
        return Ok(());
    }
    let Some(recorded) = recorded(&config.run.output)? else { return Ok(()) };
    let device = &mut config.device;
    device.max_tokens_per_batch = device.max_tokens_per_batch.or(recorded.device.max_tokens_per_batch);
    device.head_rows = device.head_rows.or(recorded.device.head_rows);
    Ok(())
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
    Ok(())
}

/// The settings in a run's `run.toml`, if it has one.
fn recorded(run: &Path) -> Result<Option<TrainConfig>, TrainError> {
    let path = run.join(RUN_FILE);
    let problem = |problem: String| TrainError::RunFile { path: path.clone(), problem };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(error.to_string())),
    };
    let arguments: TrainArguments = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
    let config = arguments.resolve(|_| None).map_err(|error| problem(error.to_string()))?;
    Ok(Some(config))
}
