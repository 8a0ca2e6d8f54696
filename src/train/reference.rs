//! Reference log-probs: computed once before training, without a second model in memory, and kept on disk under a
//! fingerprint of everything that decides them.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{InferenceLayout, Prepared, TrainError};
use crate::backend::Backend;
use crate::checkpoint::{ModelFolder, atomic};
use crate::config::ModelSource;
use crate::data::{Dataset, Reference};
use crate::eval::{Progress, Scorer};
use crate::model::LlamaConfig;

/// The model whose log-probs are the reference.
struct Source<'a> {
    config: &'a LlamaConfig,
    folder: Option<&'a ModelFolder>,
    seed: u64,
}

impl<'a> Source<'a> {
    /// The model in a folder, else the random weights that training starts from.
    fn of(folder: Option<&'a ModelFolder>, model: &'a LlamaConfig, trained: &ModelSource) -> Self {
        let seed = match *trained {
            ModelSource::Init { seed, .. } => seed,
            ModelSource::Folder(_) => 0,
        };
        Source { config: folder.map_or(model, ModelFolder::config), folder, seed }
    }
}

/// The fingerprint of the reference model's weights, if the objective needs a reference.
pub(super) fn weights_in_use(prepared: &Prepared) -> Option<u64> {
    prepared.objective.needs_reference().then(|| weights_fingerprint(&source(prepared)))
}

/// The data sets that are scored, under the names that messages give them.
fn datasets(prepared: &mut Prepared) -> impl Iterator<Item = (&'static str, &mut Dataset)> {
    let train = ("reference log-probs", std::sync::Arc::make_mut(&mut prepared.train));
    let eval = prepared.eval.as_mut().map(|eval| ("reference log-probs (evaluation)", eval));
    std::iter::once(train).chain(eval)
}

/// Fills in [`crate::data::Group::reference`] of training and evaluation data from the cache, as far as it has them, if the
/// objective needs them. Gives the cache's file for each data set; writes nothing.
///
/// # Errors
/// A cache that is damaged.
pub fn read<B: Backend>(prepared: &mut Prepared, backend: &B) -> Result<Vec<PathBuf>, TrainError> {
    if !prepared.objective.needs_reference() {
        return Ok(Vec::new());
    }
    let cache = prepared.config.objective.reference_cache.clone();
    let precision = prepared.precision;
    let weights = weights_fingerprint(&source(prepared));
    let device = format!("{} {:?} {:?}", backend.name(), precision.storage, precision.logits);
    let mut paths = Vec::new();
    for (what, data) in datasets(prepared) {
        let path = cache.join(format!("{:016x}.safetensors", fingerprint(weights, data, &device)));
        if let Some(sums) = read_cache(&path, data.groups.len())? {
            tracing::info!("{what}: {} pairs from {}", sums.len(), path.display());
            set(data, sums);
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Computes what [`read`] has not found, and keeps it in the files that it gave.
///
/// # Errors
/// The device; log-probs that are no numbers; a cache that cannot be written.
pub fn fill<B: Backend>(
    prepared: &mut Prepared,
    backend: &mut B,
    caches: &[PathBuf],
    progress: &mut dyn Progress,
) -> Result<(), TrainError> {
    let missing = |data: &Dataset| data.groups.iter().any(|group| group.reference.is_none());
    let mut layout = None;
    for (index, path) in caches.iter().enumerate() {
        if !datasets(prepared).nth(index).is_some_and(|(_, data)| missing(data)) {
            continue;
        }
        if layout.is_none() {
            layout = Some(load(prepared, backend)?);
        }
        let (Some(InferenceLayout { model, activations, .. }), Some((what, data))) =
            (&layout, datasets(prepared).nth(index))
        else {
            continue;
        };
        let sums = Scorer { backend, model, activations, progress }.sums(what, &data.groups)?;
        if let Some(index) = sums.iter().position(|sums| sums.iter().any(|sum| !sum.is_finite())) {
            return Err(TrainError::ReferenceNotFinite { what, row: data.groups[index].row });
        }
        write_cache(path, &sums)?;
        tracing::info!("{what}: {} pairs computed, kept in {}", sums.len(), path.display());
        set(data, sums);
    }
    Ok(())
}

fn set(data: &mut Dataset, sums: Vec<[f64; 2]>) {
    for (group, [chosen, rejected]) in data.groups.iter_mut().zip(sums) {
        group.reference = Some(Reference { chosen, rejected });
    }
}

fn source(prepared: &Prepared) -> Source<'_> {
    let folder = prepared.reference.as_ref().or(prepared.folder.as_ref());
    Source::of(folder, &prepared.model, &prepared.config.model)
}

/// Puts the reference model on the device.
fn load<B: Backend>(prepared: &Prepared, backend: &mut B) -> Result<InferenceLayout, TrainError> {
    let source = source(prepared);
    let (budget, workspace) = (prepared.layout.activations.budget, prepared.target.workspace());
    let layout = InferenceLayout::new(source.config, budget, prepared.precision, workspace);
    layout.allocate(backend)?;
    match source.folder {
        Some(folder) => layout.model.load(backend, folder)?,
        None => layout.model.initialise(backend, source.seed),
    }
    Ok(layout)
}

fn weights_fingerprint(source: &Source<'_>) -> u64 {
    let mut hash = Xxh3::new();
    let config = serde_json::Value::Object(source.config.to_json()).to_string();
    hash.update(config.as_bytes());
    match source.folder {
        Some(folder) => hash.update(&folder.fingerprint().to_le_bytes()),
        None => hash.update(format!("random {}", source.seed).as_bytes()),
    }
    hash.digest()
}

/// Weights, token ids (and with them template and truncation), backend, precision, program version.
fn fingerprint(weights: u64, data: &Dataset, backend: &str) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&weights.to_le_bytes());
    hash.update(&data.fingerprint.to_le_bytes());
    hash.update(format!("{backend} f32 {}", env!("CARGO_PKG_VERSION")).as_bytes());
    hash.digest()
}

const NAMES: [&str; 2] = ["chosen", "rejected"];

fn write_cache(path: &Path, sums: &[[f64; 2]]) -> Result<(), TrainError> {
    let damaged = |problem: String| TrainError::ReferenceCache { path: path.to_owned(), problem };
    let columns =
        [0, 1].map(|column| sums.iter().flat_map(|pair| pair[column].to_le_bytes()).collect::<Vec<u8>>());
    let views = NAMES
        .iter()
        .zip(&columns)
        .map(|(name, bytes)| TensorView::new(Dtype::F64, vec![sums.len()], bytes).map(|view| (*name, view)));
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|error| damaged(error.to_string()))?;
    let bytes = serialize(views, None).map_err(|error| damaged(error.to_string()))?;
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder).map_err(|error| damaged(error.to_string()))?;
    }
    Ok(atomic::save_bytes(path, &bytes)?)
}

/// The cached sums, or nothing where there is no such file.
fn read_cache(path: &Path, groups: usize) -> Result<Option<Vec<[f64; 2]>>, TrainError> {
    let damaged = |problem: String| TrainError::ReferenceCache { path: path.to_owned(), problem };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(damaged(error.to_string())),
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut sums = vec![[0.0; 2]; groups];
    for (column, name) in NAMES.iter().enumerate() {
        let tensor = file.tensor(name).map_err(|error| damaged(error.to_string()))?;
        if tensor.dtype() != Dtype::F64 || tensor.shape() != [groups] {
            return Err(damaged(format!("{name} is not {groups} numbers")));
        }
        for (pair, bytes) in sums.iter_mut().zip(tensor.data().chunks_exact(8)) {
            pair[column] = f64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
        }
    }
    Ok(Some(sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_gives_the_same_bits_back_and_refuses_another_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/sums.safetensors");
        assert!(read_cache(&path, 2).unwrap().is_none());
        let sums = vec![[-1.0 / 3.0, f64::MIN_POSITIVE], [-0.0, -1e300]];
        write_cache(&path, &sums).unwrap();
        let back = read_cache(&path, 2).unwrap().unwrap();
        assert_eq!(format!("{back:?}"), format!("{sums:?}"));
        assert!(read_cache(&path, 3).unwrap_err().to_string().contains("is not 3 numbers"));
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(read_cache(&path, 2).unwrap_err().to_string().contains("delete it"));
    }
}
