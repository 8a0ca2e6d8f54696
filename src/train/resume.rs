//! Where a run goes on: which checkpoint, and whether it belongs to these settings and these inputs.
//!
//! Two passes. [`start`] looks at the run folder and at the settings, before anything is loaded; [`check`] at what only the
//! loaded data tell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::prepare::schedule;
use super::{Prepared, TrainError, reference};
use crate::checkpoint::resume::{Fingerprint, RESUME_FOLDER, ResumeState, checkpoints, find_newest};
use crate::checkpoint::run_folder::{self, ExistingRun, RUN_FILE, is_run};
use crate::checkpoint::{CheckpointError, atomic, hub};
use crate::config::{Difference, ExistingFolder, ModelSource, TrainArguments, TrainConfig};
use crate::objective;

/// Hugging Face's name for the record of a run, which is written with its result.
pub const STATE_FILE: &str = "trainer_state.json";

/// Where a run starts.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The checkpoint that it goes on from; `None`: the beginning.
    pub(super) checkpoint: Option<PathBuf>,
    /// The settings of the run that it goes on with.
    recorded: Option<Box<TrainConfig>>,
}

/// Finds out where a run starts, before anything is loaded: whether its folder may be written to, which checkpoint it goes on
/// from, and whether that was made with these settings. What the machine had decided then is taken over into `config`, so
/// that a resumed run is cut into the same micro-batches.
///
/// # Errors
/// A folder that is not to be touched, a checkpoint that is none, other settings.
pub fn start(config: &mut TrainConfig, command: &[String]) -> Result<Start, TrainError> {
    let selection = objective::select(&config.objective.name)?;
    config.objective.name = selection.name();
    config.objective.parameters = selection.resolve(&config.objective.parameters)?;
    let run = &config.run.output;
    run_folder::check(run, existing(config), command).map_err(TrainError::Output)?;
    if existing(config) != ExistingRun::Resume {
        return Ok(Start::default());
    }
    let checkpoint = find(config)?;
    let home = checkpoint.as_deref().and_then(Path::parent).unwrap_or(run);
    // A checkpoint may have been moved away from its run.
    let recorded = match recorded(home)? {
        Some(recorded) => Some(recorded),
        None => recorded(run)?,
    };
    if checkpoint.is_none() && steps_of_result(run).is_none() {
        return Ok(Start::default());
    }
    if let Some(recorded) = &recorded {
        let device = &mut config.device;
        device.max_tokens_per_batch = device.max_tokens_per_batch.or(recorded.device.max_tokens_per_batch);
        device.head_rows = device.head_rows.or(recorded.device.head_rows);
        adopt_commits(config, recorded);
        let differences = config.differences(recorded);
        if !differences.is_empty() {
            let checkpoint = checkpoint.unwrap_or_else(|| config.run.output.clone());
            return Err(TrainError::OtherSettings { checkpoint, differences });
        }
    }
    Ok(Start { checkpoint, recorded: recorded.map(Box::new) })
}

/// What is to become of a folder that exists.
pub(super) fn existing(config: &TrainConfig) -> ExistingRun {
    match config.run.existing {
        ExistingFolder::Refuse => ExistingRun::Refuse,
        ExistingFolder::Overwrite => ExistingRun::Overwrite,
        ExistingFolder::ResumeLatest | ExistingFolder::Resume(_) => ExistingRun::Resume,
    }
}

/// The checkpoint that a run is to be resumed from, if there is one.
fn find(config: &TrainConfig) -> Result<Option<PathBuf>, TrainError> {
    let run = &config.run.output;
    let resume = |path: &Path, problem: String| CheckpointError::Resume { path: path.to_owned(), problem };
    if let ExistingFolder::Resume(path) = &config.run.existing {
        if path.join(RESUME_FOLDER).is_dir() {
            return Ok(Some(path.clone()));
        }
        let problem = format!(
            "is no checkpoint: there is no folder {RESUME_FOLDER}/ in it; give a checkpoint-N folder of a run, or --resume \
             alone for the newest in --output"
        );
        return Err(resume(path, problem).into());
    }
    let newest = find_newest(run)?;
    if newest.is_none() {
        // To start from the beginning would cost the run that somebody wanted to go on with.
        if let Some((_, path)) = checkpoints(run)?.pop() {
            let problem = "and whatever else the run has for checkpoints are not whole; restore one, or start again with \
                           --overwrite-output-dir";
            return Err(resume(&path, problem.to_owned()).into());
        }
        if steps_of_result(run).is_none() {
            tracing::info!("no checkpoint in {}: starting from the beginning", run.display());
        }
    }
    Ok(newest)
}

/// Optimizer steps of the result in a run folder, if it has one. The result is written last, and its record last of all.
fn steps_of_result(run: &Path) -> Option<u64> {
    let text = std::fs::read(run.join(STATE_FILE)).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
    state.get("global_step")?.as_u64()
}

/// Whether the run folder holds the result of all steps of these settings, so that nothing is left to resume. `stopped` says
/// whether a run with that record has stopped early.
///
/// Checkpoints do not tell, since the last step need not have one. Without this a finished run with no checkpoint would be
/// trained again over its own result.
///
/// # Errors
/// There is a result of fewer steps, and no checkpoint to make it longer from.
pub(super) fn is_finished(prepared: &Prepared, start: &Start, stopped: bool) -> Result<bool, TrainError> {
    let config = &prepared.config;
    if config.run.existing != ExistingFolder::ResumeLatest {
        return Ok(false);
    }
    let Some(done) = steps_of_result(&config.run.output) else { return Ok(false) };
    let finished = stopped || done >= prepared.steps as u64;
    if !finished && start.checkpoint.is_none() {
        let run = config.run.output.clone();
        return Err(TrainError::NothingToResume { run, done, asked: prepared.steps });
    }
    Ok(finished)
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
    for (typed, recorded) in config.objective.references.iter_mut().zip(&recorded.objective.references) {
        hub::adopt_commit(typed, recorded);
    }
}

/// Whether a checkpoint was made with these settings and of these inputs, and lies before the end; says what becomes of the
/// schedule where the end has moved.
pub(super) fn check(prepared: &Prepared, start: &Start, inputs: &Inputs) -> Result<(), TrainError> {
    let Some(checkpoint) = &start.checkpoint else { return Ok(()) };
    let state = ResumeState::read(checkpoint)?;
    let config = &prepared.config;
    if state.config_fingerprint != config.fingerprint() {
        let recorded = start.recorded.as_deref();
        let differences = recorded.map(|recorded| config.differences(recorded)).unwrap_or_default();
        return Err(TrainError::OtherSettings { checkpoint: checkpoint.clone(), differences });
    }
    let differences = other_inputs(prepared, start, [inputs, &state.inputs]);
    if !differences.is_empty() {
        return Err(TrainError::OtherInputs { checkpoint: checkpoint.clone(), differences });
    }
    if state.step > prepared.steps {
        let (checkpoint, done, asked) = (checkpoint.clone(), state.step, prepared.steps);
        return Err(TrainError::BeyondTheEnd { checkpoint, done, asked });
    }
    announce_new_end(prepared, &state);
    Ok(())
}

/// Fingerprints of what a run reads, by the setting that says where it lies.
pub(super) type Inputs = BTreeMap<String, Fingerprint>;

/// The fingerprints of this run's inputs. Reads all weights of a reference model.
pub(super) fn inputs(prepared: &Prepared) -> Inputs {
    let mut inputs = Inputs::new();
    let mut add = |setting: &str, content: u64| inputs.insert(setting.to_owned(), Fingerprint(content));
    // The weights come from the checkpoint; of the model, what the architecture is decides the rest.
    let architecture = serde_json::Value::Object(prepared.model.to_json()).to_string();
    add("model", xxhash_rust::xxh3::xxh3_64(architecture.as_bytes()));
    add("data", prepared.train.fingerprint);
    if let Some(template) = prepared.encoder.template_fingerprint() {
        add("chat_template", template);
    }
    if let Some(eval) = &prepared.eval {
        add("eval_data", eval.fingerprint);
    }
    if let Some(weights) = reference::weights_in_use(prepared) {
        add("reference", weights);
    }
    inputs
}

/// The inputs whose content is not that which the checkpoint was made of.
fn other_inputs(prepared: &Prepared, start: &Start, [ours, theirs]: [&Inputs; 2]) -> Vec<Difference> {
    let shown = |config: Option<&TrainConfig>, key: &str, content: Option<&Fingerprint>| {
        let path = config.map_or_else(String::new, |config| config.shown(key) + " ");
        content.map_or("-".to_owned(), |content| format!("{path}({:08x})", content.0 >> 32))
    };
    let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .map(|key| Difference {
            key: key.clone(),
            ours: shown(Some(&prepared.config), key, ours.get(key)),
            theirs: shown(start.recorded.as_deref(), key, theirs.get(key)),
        })
        .collect()
}

/// A run with another end follows the schedule of its new length from where it goes on: steps behind it had other rates
/// than a run of that length would have had.
fn announce_new_end(prepared: &Prepared, state: &ResumeState) {
    let (planned, steps, next) = (state.planned_steps, prepared.steps, state.step + 1);
    if planned == steps || next > steps {
        return;
    }
    let kind = prepared.schedule.kind.name();
    let [before, now] =
        [planned, steps].map(|steps| schedule(&prepared.config, steps).learning_rate(next.min(steps)));
    if before == now {
        tracing::info!(
            "the run was planned for {planned} steps and now has {steps}; learning rate {now:.2e} as before"
        );
    } else {
        tracing::warn!(
            "the run was planned for {planned} steps and now has {steps}: from step {next} on the learning rate is that of \
             the {kind} schedule over {steps} steps ({now:.2e} at step {next} instead of {before:.2e}), so the result is not \
             that of a run which had {steps} steps from the beginning"
        );
    }
}

/// Checkpoints beyond the step from which a run goes on belong to a future that it may not have: they are set aside, so that
/// the newest checkpoint is always one of this course of the run.
pub(super) fn set_later_aside(run: &Path, step: usize) -> Result<(), CheckpointError> {
    for (_, path) in checkpoints(run)?.into_iter().filter(|(later, _)| *later > step) {
        let aside = path.with_extension("set-aside");
        if aside.exists() {
            atomic::remove_folder(&aside)?;
        }
        std::fs::rename(&path, &aside).map_err(CheckpointError::io("set aside", &path))?;
        tracing::warn!(
            "{} lies beyond step {step}, from where the run goes on: set aside as {}",
            path.display(),
            aside.display()
        );
    }
    Ok(())
}

/// Brings the records of a run along whose checkpoint is gone on with in another folder.
pub(super) fn bring_records(checkpoint: &Path, run: &Path, names: [&str; 2]) -> Result<(), CheckpointError> {
    for name in names {
        let (from, to) = (checkpoint.with_file_name(name), run.join(name));
        if from.exists() && !to.exists() {
            std::fs::copy(&from, &to).map_err(CheckpointError::io("copy records to", &to))?;
        }
    }
    Ok(())
}

/// The settings in the `run.toml` of a folder, if it has one of asft.
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
