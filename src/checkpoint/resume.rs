//! The `asft/` folder inside a checkpoint, which makes a model folder one that training can continue from;
//! which checkpoint of a run is the newest; and pruning.
//!
//! `asft/state.json` holds what is small, `asft/optimizer.safetensors` the optimizer's tensors in f32 under
//! `m.NAME`, `v.NAME` and, where the exported weights are rounded, `master.NAME`. A resumed run gets the bits
//! that were saved.
//!
//! Boundary: writes into and reads from a checkpoint folder that is given. What the numbers mean, and whether
//! a changed setting may be resumed with, is `train`'s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::Names;
use super::export::write_json;
use super::tensor_file::TensorFile;
use super::tensor_writer::{SourceError, TensorSpec, file_bytes, write_tensors};
use super::{CheckpointError, ModelFolder, atomic};
use crate::DType;

/// Version of the layout of `asft/`. A change that an older program would misread raises it.
pub const FORMAT: u32 = 2;
/// The folder inside a checkpoint.
pub const RESUME_FOLDER: &str = "asft";
const STATE_FILE: &str = "state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Where a run stands: everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResumeState {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// That program's version.
    pub program: String,
    /// Optimizer steps done.
    pub step: usize,
    /// Epochs done, with the fraction of the current one.
    pub epoch: f64,
    /// Tokens trained on.
    pub tokens_seen: u64,
    /// Optimizer steps that the run was planned for, which is where its schedule ends.
    pub planned_steps: usize,
    /// Steps that were not finite and left out: AdamW has counted so many fewer.
    pub skipped_steps: usize,
    /// Of each parameter, in the order of the backward pass: AdamW's updates that it was not part of; empty where nothing is ever
    /// frozen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed_updates: Vec<u64>,
    /// Whether it was saved for nothing but being the best: it goes when a better one comes.
    pub only_best: bool,
    /// Fingerprint of the settings that may not change on the way.
    #[serde(with = "hex")]
    pub config_fingerprint: u64,
    /// Fingerprints of what the run reads, by the name of the setting that says where it lies.
    pub inputs: BTreeMap<String, Fingerprint>,
    /// Further entries of later versions, kept as they are.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Of a file's or a folder's content, as far as it decides what a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(#[serde(with = "hex")] pub u64);

impl ResumeState {
    /// The state at the start of a run, to be filled in.
    pub fn new(config_fingerprint: u64, inputs: BTreeMap<String, Fingerprint>) -> Self {
        ResumeState {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            step: 0,
            epoch: 0.0,
            tokens_seen: 0,
            planned_steps: 0,
            skipped_steps: 0,
            missed_updates: Vec::new(),
            only_best: false,
            config_fingerprint,
            inputs,
            more: Map::new(),
        }
    }

    /// Reads a checkpoint's state.
    pub fn read(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let path = checkpoint.join(RESUME_FOLDER).join(STATE_FILE);
        let text = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let resume = |problem| CheckpointError::Resume { path: path.clone(), problem };
        // The version first: another layout need not parse.
        let value: Value =
            serde_json::from_slice(&text).map_err(|error| resume(format!("damaged: {error}")))?;
        let format = value.get("format").and_then(Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or_else(|| "none".to_owned(), |format| format.to_string());
            let writer = value.get("program").and_then(Value::as_str).unwrap_or("unknown");
            return Err(resume(format!(
                "has format {found}, and this program reads {FORMAT}; resume with asft {writer}, which wrote it"
            )));
        }
        serde_json::from_value(value).map_err(|error| resume(format!("damaged: {error}")))
    }

    fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(STATE_FILE);
        let value = serde_json::to_value(self)
            .map_err(|error| CheckpointError::Resume { path: path.clone(), problem: error.to_string() })?;
        write_json(&path, &value)
    }
}

/// What the optimizer keeps of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Running mean of the gradient.
    M,
    /// Running mean of its square.
    V,
    /// The weight itself, where the exported one is rounded.
    Master,
}

impl Slot {
    /// The slots of a checkpoint whose weights are exported in `dtype`: f32 weights are their own masters.
    pub fn of_export(dtype: DType) -> &'static [Slot] {
        if dtype == DType::F32 { &[Slot::M, Slot::V] } else { &[Slot::M, Slot::V, Slot::Master] }
    }

    /// The tensor's name in the file.
    pub fn tensor(self, parameter: &str) -> String {
        let slot = match self {
            Slot::M => "m",
            Slot::V => "v",
            Slot::Master => "master",
        };
        format!("{slot}.{parameter}")
    }
}

/// The owner of the optimizer's tensors: `(slot, parameter, start, out)` fills `out` with the elements from
/// `start` on, in the order that [`TensorSource`](super::TensorSource) describes.
pub type SlotSource<'a> = dyn FnMut(Slot, &str, usize, &mut [f32]) -> Result<(), SourceError> + 'a;

/// Writes `asft/` into a checkpoint folder: the state, and for each parameter (name and shape) the given
/// slots.
pub fn write_resume(
    checkpoint: &Path,
    state: &ResumeState,
    parameters: &[(String, Vec<usize>)],
    slots: &[Slot],
    values: &mut SlotSource<'_>,
) -> Result<(), CheckpointError> {
    let folder = checkpoint.join(RESUME_FOLDER);
    fs::create_dir_all(&folder).map_err(CheckpointError::io("create", &folder))?;
    let mut tensors = Vec::with_capacity(parameters.len() * slots.len());
    let mut owners = HashMap::with_capacity(tensors.capacity());
    for (slot, name, tensor) in slot_tensors(parameters, slots) {
        owners.insert(tensor.name.clone(), (slot, name));
        tensors.push(tensor);
    }
    let mut source = |tensor: &str, start: usize, out: &mut [f32]| {
        let (slot, parameter) = owners[tensor];
        values(slot, parameter, start, out)
    };
    write_tensors(&folder.join(OPTIMIZER_FILE), &tensors, &[("format", "pt")], &mut source)?;
    state.write(&folder)
}

/// Bytes of the file of optimizer tensors that [`write_resume`] would write.
pub fn optimizer_file_bytes(
    parameters: &[(String, Vec<usize>)],
    slots: &[Slot],
) -> Result<u64, CheckpointError> {
    let tensors: Vec<TensorSpec> = slot_tensors(parameters, slots).map(|(.., tensor)| tensor).collect();
    file_bytes(Path::new(OPTIMIZER_FILE), &tensors, &[("format", "pt")])
}

/// Parameter by parameter: the owner of the values may keep a parameter's slots together.
fn slot_tensors<'a>(
    parameters: &'a [(String, Vec<usize>)],
    slots: &'a [Slot],
) -> impl Iterator<Item = (Slot, &'a str, TensorSpec)> {
    parameters.iter().flat_map(move |(name, shape)| {
        slots.iter().map(move |&slot| {
            let tensor = TensorSpec { name: slot.tensor(name), dtype: DType::F32, shape: shape.clone() };
            (slot, name.as_str(), tensor)
        })
    })
}

/// The optimizer's tensors of a checkpoint, checked against the parameters of the run that continues.
#[derive(Debug)]
pub struct OptimizerFile {
    file: TensorFile,
}

impl OptimizerFile {
    /// Opens a checkpoint's optimizer file, which must hold the given slots of the given parameters (name and
    /// shape), in f32, and nothing else.
    pub fn open(
        checkpoint: &Path,
        parameters: &[(String, Vec<usize>)],
        slots: &[Slot],
    ) -> Result<Self, CheckpointError> {
        let path = checkpoint.join(RESUME_FOLDER).join(OPTIMIZER_FILE);
        let file = TensorFile::open(&path)?;
        let mut missing = Vec::new();
        let mut expected = HashSet::new();
        for (name, shape) in parameters {
            for slot in slots {
                let tensor = slot.tensor(name);
                match file.tensors().get(&tensor) {
                    None => missing.push(tensor.clone()),
                    Some(info) if info.dtype() != Some(DType::F32) || info.shape != *shape => {
                        let found = format!("is {} {:?}", info.dtype_name, info.shape);
                        let problem = format!("{found}, but the model to be trained needs F32 {shape:?}");
                        return Err(CheckpointError::tensor(&path, &tensor, problem));
                    }
                    Some(_) => {}
                }
                expected.insert(tensor);
            }
        }
        if !missing.is_empty() {
            let hint = "; the checkpoint is of another model, or of weights saved in another format";
            return Err(CheckpointError::MissingTensors { path, tensors: Names(missing), hint });
        }
        let mut extra: Vec<String> =
            file.tensors().keys().filter(|name| !expected.contains(*name)).cloned().collect();
        if !extra.is_empty() {
            extra.sort();
            let hint = "; the checkpoint is of another model, or of weights saved in another format";
            return Err(CheckpointError::ExtraTensors { path, tensors: Names(extra), hint });
        }
        Ok(OptimizerFile { file })
    }

    /// Reads one slot of one parameter, row-major.
    pub fn read(&self, slot: Slot, parameter: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.file.read(&slot.tensor(parameter), out)
    }
}

/// The folder of the checkpoint after `step`.
pub fn checkpoint_path(run: &Path, step: usize) -> PathBuf {
    run.join(format!("checkpoint-{step}"))
}

/// Every `checkpoint-N` folder of a run, whole or not, by step.
pub fn checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>, CheckpointError> {
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CheckpointError::io("list", run)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(CheckpointError::io("list", run))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not "checkpoint-007": pruning by a name that is not ours would surprise.
        let step = name.strip_prefix("checkpoint-").and_then(|step| step.parse::<usize>().ok());
        if let Some(step) = step.filter(|step| checkpoint_path(run, *step) == path && path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest whole checkpoint of a run: model folder and `asft/` with consistent headers, and the state of
/// the step in its name. What is not whole is passed over with a warning that says why. First puts back what
/// an interrupted save left aside.
pub fn find_newest(run: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    atomic::recover(run)?;
    for (step, path) in checkpoints(run)?.into_iter().rev() {
        match check_whole(step, &path) {
            Ok(_) => return Ok(Some(path)),
            Err(error) => tracing::warn!("{}: passed over, not a whole checkpoint: {error}", path.display()),
        }
    }
    Ok(None)
}

fn check_whole(step: usize, checkpoint: &Path) -> Result<ResumeState, CheckpointError> {
    let state = ResumeState::read(checkpoint)?;
    if state.step != step {
        let path = checkpoint.join(RESUME_FOLDER).join(STATE_FILE);
        return Err(CheckpointError::Resume {
            path,
            problem: format!("is the state after step {}", state.step),
        });
    }
    TensorFile::open(&checkpoint.join(RESUME_FOLDER).join(OPTIMIZER_FILE))?;
    ModelFolder::open(checkpoint)?;
    Ok(state)
}

/// Removes the oldest whole checkpoints of a run until `limit` are left, and whatever the limit those that were saved only for
/// being the best and are not any more; returns them. The newest and the one of step `best` stay even where that exceeds
/// the limit; a checkpoint that is not whole neither counts nor is touched. To be called after a save, never before it.
pub fn prune(run: &Path, limit: usize, best: Option<usize>) -> Result<Vec<PathBuf>, CheckpointError> {
    let whole = checkpoints(run)?.into_iter();
    let whole = whole.filter_map(|(step, path)| Some((step, check_whole(step, &path).ok()?.only_best, path)));
    let whole: Vec<(usize, bool, PathBuf)> = whole.collect();
    let newest = whole.last().map(|(step, ..)| *step);
    let (outdated, mut others): (Vec<_>, Vec<_>) = whole
        .into_iter()
        .partition(|(step, only_best, _)| *only_best && Some(*step) != best && Some(*step) != newest);
    let mut surplus = others.len().saturating_sub(limit);
    others.retain(|(step, ..)| {
        let goes = surplus > 0 && Some(*step) != best && Some(*step) != newest;
        surplus -= usize::from(goes);
        goes
    });
    let mut going: Vec<_> = outdated.into_iter().chain(others).collect();
    going.sort();
    let removed: Vec<PathBuf> = going.into_iter().map(|(.., path)| path).collect();
    for path in &removed {
        atomic::remove_folder(path)?;
    }
    Ok(removed)
}

/// A u64 as 16 hexadecimal digits: JSON readers that keep numbers as f64 would round it.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16)
            .map_err(|_| de::Error::custom(format_args!("{text:?} is not hexadecimal")))
    }
}
