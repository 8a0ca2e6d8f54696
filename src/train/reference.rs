//! Reference log-probs: computed once before training, one reference model after the other and never beside the policy,
//! and kept on disk under a fingerprint of everything that decides them. `resident.rs` is the other way.
//!
//! A file holds the log-probs of every answer of one data set under one model: sums, or one number per scored token where
//! the objective asks for them (`*.tokens.safetensors`, which serves for sums as well). What the data bring themselves
//! (`ref_chosen_logps`, ...) is taken instead.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{InferenceLayout, Prepared, TrainError};
use crate::backend::Backend;
use crate::checkpoint::{ModelFolder, atomic};
use crate::config::{ModelSource, ReferenceMode};
use crate::data::{Answer, ByRole, Dataset, Group, Reference};
use crate::eval::{Progress, Scorer};
use crate::model::{Budget, Llama, LlamaConfig, Precision};
use crate::objective::ReferenceNeed;

/// A model whose log-probs are a reference.
pub(super) struct Source<'a> {
    config: &'a LlamaConfig,
    folder: Option<&'a ModelFolder>,
    seed: u64,
}

impl<'a> Source<'a> {
    /// Those of a run.
    pub(super) fn of(prepared: &'a Prepared) -> Vec<Self> {
        let Prepared { references, folder, model, config, .. } = prepared;
        Self::all(references, folder.as_ref(), model, &config.model)
    }

    /// The reference models; where none is named, the one that training starts from.
    fn all(
        references: &'a [ModelFolder],
        folder: Option<&'a ModelFolder>,
        model: &'a LlamaConfig,
        trained: &ModelSource,
    ) -> Vec<Self> {
        let seed = match *trained {
            ModelSource::Init { seed, .. } => seed,
            ModelSource::Folder(_) => 0,
        };
        let of = |folder: Option<&'a ModelFolder>| Source {
            config: folder.map_or(model, ModelFolder::config),
            folder,
            seed,
        };
        match references {
            [] => vec![of(folder)],
            references => references.iter().map(|folder| of(Some(folder))).collect(),
        }
    }

    /// Reads the weights into a model of these sizes.
    pub(super) fn load<B: Backend>(&self, model: &Llama, backend: &mut B) -> Result<(), TrainError> {
        match self.folder {
            Some(folder) => model.load(backend, folder)?,
            None => model.initialise(backend, self.seed),
        }
        Ok(())
    }
}

/// The fingerprint of the reference models' weights, if the objective needs a reference.
pub(super) fn weights_in_use(prepared: &Prepared) -> Option<u64> {
    let sources = Source::of(prepared);
    let fingerprints = || match &sources[..] {
        [only] => weights_fingerprint(only),
        several => {
            let bytes = several.iter().flat_map(|source| weights_fingerprint(source).to_le_bytes());
            xxh3_64(&bytes.collect::<Vec<u8>>())
        }
    };
    prepared.objective.needs_reference().then(fingerprints)
}

/// Whether the models stay on the device and score every micro-batch, so that nothing is computed beforehand.
fn is_resident(prepared: &Prepared) -> bool {
    prepared.config.objective.reference_mode == ReferenceMode::Resident
}

/// Reads the cached log-probs that [`fill`] will ask for, so that a damaged file is found before anything is written.
///
/// # Errors
/// [`TrainError::ReferenceCache`].
pub fn check<B: Backend>(prepared: &Prepared, backend: &B) -> Result<(), TrainError> {
    let need = prepared.objective.reference();
    let folder = &prepared.config.objective.reference_cache;
    if need == ReferenceNeed::None || is_resident(prepared) || !folder.is_dir() {
        return Ok(());
    }
    let device = device(backend, prepared.precision);
    for source in Source::of(prepared) {
        let weights = weights_fingerprint(&source);
        for data in std::iter::once(&*prepared.train).chain(&prepared.eval) {
            if !data.groups.iter().all(brings_references) {
                Cache::new(folder, fingerprint(weights, data, &device)).read(need, &data.groups)?;
            }
        }
    }
    Ok(())
}

/// What of the device decides the bits of log-probs.
fn device<B: Backend>(backend: &B, precision: Precision) -> String {
    format!("{} {:?} {:?}", backend.name(), precision.storage, precision.logits)
}

/// Fills in the reference log-probs of training and evaluation data, as far as the objective needs them and the data do
/// not bring them.
pub fn fill<B: Backend>(
    prepared: &mut Prepared,
    backend: &mut B,
    progress: &mut dyn Progress,
) -> Result<(), TrainError> {
    let need = prepared.objective.reference();
    if need == ReferenceNeed::None || is_resident(prepared) {
        return Ok(());
    }
    let sources =
        Source::all(&prepared.references, prepared.folder.as_ref(), &prepared.model, &prepared.config.model);
    let mut datasets = vec![("reference log-probs", std::sync::Arc::make_mut(&mut prepared.train))];
    datasets.extend(prepared.eval.as_mut().map(|eval| ("reference log-probs (evaluation)", eval)));
    for (what, data) in &datasets {
        check_given(what, data, need)?;
    }
    datasets.retain(|(what, data)| {
        let given = data.groups.iter().all(brings_references);
        if given {
            tracing::info!("{what}: {} rows bring their own", data.groups.len());
        }
        !given
    });
    let (precision, workspace) = (prepared.precision, prepared.target.workspace());
    let budget = prepared.layout.activations.budget;
    let device = device(backend, precision);
    for source in &sources {
        let mut model = Loaded { source, precision, workspace, layout: None };
        let weights = weights_fingerprint(source);
        for (what, data) in &mut datasets {
            let cache =
                Cache::new(&prepared.config.objective.reference_cache, fingerprint(weights, data, &device));
            let references = match cache.read(need, &data.groups)? {
                Some(references) => {
                    tracing::info!("{what}: {} rows from {}", references.len(), cache.path(need).display());
                    references
                }
                None => {
                    let layout = model.load(backend, budget)?;
                    let (model, activations) = (&layout.model, &layout.activations);
                    let mut scorer = Scorer { backend, model, activations, progress };
                    let references = scorer.references(what, &data.groups, need)?;
                    check_finite(what, &data.groups, &references)?;
                    cache.write(need, &references)?;
                    let (rows, path) = (references.len(), cache.path(need));
                    tracing::info!("{what}: {rows} rows computed, kept in {}", path.display());
                    references
                }
            };
            for (group, references) in data.groups.iter_mut().zip(references) {
                group.push_references(references);
            }
        }
    }
    Ok(())
}

/// Sums that the data bring are no use where every token's log-prob is asked for.
fn check_given(what: &'static str, data: &Dataset, need: ReferenceNeed) -> Result<(), TrainError> {
    let is_sum = |group: &&Group| {
        let mut answers = group.annotations().answers.iter();
        answers.any(|(_, given)| matches!(given.references.first(), Some(Reference::Sum(_))))
    };
    match data.groups.iter().find(is_sum).filter(|_| need == ReferenceNeed::Tokens) {
        Some(group) => Err(TrainError::ReferenceSums { what, place: data.place(group) }),
        None => Ok(()),
    }
}

/// Whether every answer has its log-probs from the data.
fn brings_references(group: &Group) -> bool {
    let given = group.annotations();
    group.answers.iter().all(|answer| !given.answers[answer.role].references.is_empty())
}

fn check_finite(
    what: &'static str,
    groups: &[Group],
    references: &[ByRole<Option<Reference>>],
) -> Result<(), TrainError> {
    let finite = |row: &ByRole<Option<Reference>>| row.present().all(|(_, r)| r.sum().is_finite());
    match references.iter().position(|row| !finite(row)) {
        Some(index) => Err(TrainError::ReferenceNotFinite { what, row: groups[index].row }),
        None => Ok(()),
    }
}

/// The reference model on the device, from the first time it is needed.
struct Loaded<'a> {
    source: &'a Source<'a>,
    precision: Precision,
    workspace: usize,
    layout: Option<InferenceLayout>,
}

impl Loaded<'_> {
    fn load<B: Backend>(&mut self, backend: &mut B, budget: Budget) -> Result<&InferenceLayout, TrainError> {
        if self.layout.is_none() {
            let layout = InferenceLayout::new(self.source.config, budget, self.precision, self.workspace);
            layout.allocate(backend)?;
            self.source.load(&layout.model, backend)?;
            self.layout = Some(layout);
        }
        Ok(self.layout.as_ref().unwrap_or_else(|| unreachable!("set above")))
    }
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

/// The files of one data set under one model: a tensor for each role, the answers of all groups that have it one after
/// the other.
struct Cache {
    sums: PathBuf,
    tokens: PathBuf,
}

impl Cache {
    fn new(folder: &Path, fingerprint: u64) -> Self {
        Self {
            sums: folder.join(format!("{fingerprint:016x}.safetensors")),
            tokens: folder.join(format!("{fingerprint:016x}.tokens.safetensors")),
        }
    }

    fn path(&self, need: ReferenceNeed) -> &Path {
        if need == ReferenceNeed::Tokens { &self.tokens } else { &self.sums }
    }

    fn write(&self, need: ReferenceNeed, references: &[ByRole<Option<Reference>>]) -> Result<(), TrainError> {
        let path = self.path(need);
        let damaged = |problem: String| TrainError::ReferenceCache { path: path.to_owned(), problem };
        let columns = ByRole::from_fn(|role| {
            let mut bytes = Vec::new();
            for reference in references.iter().filter_map(|row| row[role].as_ref()) {
                match reference {
                    Reference::Sum(sum) => bytes.extend(sum.to_le_bytes()),
                    Reference::Tokens(logps) => {
                        bytes.extend(logps.iter().flat_map(|logp| logp.to_le_bytes()))
                    }
                }
            }
            bytes
        });
        let dtype = if need == ReferenceNeed::Tokens { Dtype::F32 } else { Dtype::F64 };
        let views = columns.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(role, bytes)| {
            let length = bytes.len() / size_of_dtype(dtype);
            TensorView::new(dtype, vec![length], bytes).map(|view| (role.name(), view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|error| damaged(error.to_string()))?;
        let bytes = serialize(views, None).map_err(|error| damaged(error.to_string()))?;
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(|error| damaged(error.to_string()))?;
        }
        Ok(atomic::save_bytes(path, &bytes)?)
    }

    /// What is cached for these groups, or nothing where there is no file that serves.
    fn read(
        &self,
        need: ReferenceNeed,
        groups: &[Group],
    ) -> Result<Option<Vec<ByRole<Option<Reference>>>>, TrainError> {
        let forms = [(&self.sums, Dtype::F64), (&self.tokens, Dtype::F32)];
        for (path, dtype) in forms.into_iter().skip(usize::from(need == ReferenceNeed::Tokens)) {
            let damaged = |problem: String| TrainError::ReferenceCache { path: path.clone(), problem };
            match std::fs::read(path) {
                Ok(bytes) => return read_file(&bytes, dtype, groups).map(Some).map_err(damaged),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(damaged(error.to_string())),
            }
        }
        Ok(None)
    }
}

fn size_of_dtype(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 8 }
}

fn read_file(bytes: &[u8], dtype: Dtype, groups: &[Group]) -> Result<Vec<ByRole<Option<Reference>>>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let numbers = |answer: &Answer| if dtype == Dtype::F32 { answer.scored_tokens() } else { 1 };
    let mut rows: Vec<ByRole<Option<Reference>>> = groups.iter().map(|_| ByRole::default()).collect();
    for role in crate::data::Role::ALL {
        let answers = || groups.iter().map(|group| group.answer(role));
        let expected: usize = answers().flatten().map(numbers).sum();
        if expected == 0 {
            continue;
        }
        let tensor = file.tensor(role.name()).map_err(|error| error.to_string())?;
        if tensor.dtype() != dtype || tensor.shape() != [expected] {
            return Err(format!("{} is not {expected} numbers", role.name()));
        }
        let mut rest = tensor.data();
        for (row, answer) in rows.iter_mut().zip(answers()) {
            let Some(answer) = answer else { continue };
            let (own, others) = rest.split_at(numbers(answer) * size_of_dtype(dtype));
            rest = others;
            row[role] = Some(match dtype {
                Dtype::F32 => {
                    Reference::Tokens(own.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
                }
                _ => Reference::Sum(own.first_chunk().map_or(f64::NAN, |bytes| f64::from_le_bytes(*bytes))),
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Role;

    fn group(row: usize, tokens: [usize; 2]) -> Group {
        let answers = [Role::Chosen, Role::Rejected].into_iter().zip(tokens);
        let answers = answers.map(|(role, len)| Answer { role, ids: vec![1; len], scored: None, text: None });
        Group { row, prompt: vec![2], answers: answers.collect(), annotations: None }
    }

    fn row(chosen: Reference, rejected: Reference) -> ByRole<Option<Reference>> {
        let mut row = ByRole::default();
        (row[Role::Chosen], row[Role::Rejected]) = (Some(chosen), Some(rejected));
        row
    }

    #[test]
    fn a_cache_gives_the_same_bits_back_and_refuses_another_length() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("new"), 7);
        let groups = [group(0, [2, 1]), group(1, [1, 3])];
        assert!(cache.read(ReferenceNeed::Sums, &groups).unwrap().is_none());
        let tokens = |logps: &[f32]| Reference::Tokens(logps.into());
        let by_token = vec![
            row(tokens(&[-0.1, -1.0 / 3.0]), tokens(&[-0.0])),
            row(tokens(&[-1e-30]), tokens(&[-3.0, -0.25, -1e30])),
        ];
        cache.write(ReferenceNeed::Tokens, &by_token).unwrap();
        // Log-probs of tokens serve where sums are asked for.
        for need in [ReferenceNeed::Tokens, ReferenceNeed::Sums] {
            assert_eq!(format!("{:?}", cache.read(need, &groups).unwrap().unwrap()), format!("{by_token:?}"));
        }
        let sums = vec![
            row(Reference::Sum(-1.0 / 3.0), Reference::Sum(f64::MIN_POSITIVE)),
            row(Reference::Sum(-0.0), Reference::Sum(-1e300)),
        ];
        cache.write(ReferenceNeed::Sums, &sums).unwrap();
        assert_eq!(
            format!("{:?}", cache.read(ReferenceNeed::Sums, &groups).unwrap().unwrap()),
            format!("{sums:?}")
        );
        let more = [groups[0].clone(), groups[1].clone(), group(2, [1, 1])];
        let error = cache.read(ReferenceNeed::Sums, &more).unwrap_err().to_string();
        assert!(error.contains("is not 3 numbers"), "{error}");
        std::fs::write(cache.path(ReferenceNeed::Tokens), b"nonsense").unwrap();
        let error = cache.read(ReferenceNeed::Tokens, &groups).unwrap_err().to_string();
        assert!(error.contains("delete it"), "{error}");
    }
}
