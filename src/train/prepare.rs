//! From a configuration to everything that is known before a device is touched: data, steps, budget, memory plan.
//!
//! All that can be wrong with what was typed or given is found here, before step 0.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fit::{Demand, Fitted, Fitting};
use super::half::HalfFineTuning;
use super::{DiskNeed, FolderBytes, InferenceLayout, Layout, Shortfall, Target, TrainError, half, resident};
use crate::DType;
use crate::checkpoint::folder::CONFIG_FILE;
use crate::checkpoint::{ModelFolder, hub};
use crate::config::{Duration, EvalSource, ModelSource, Redraw, ReferenceMode, TrainConfig, Warmup};
use crate::data::{
    Dataset, EncodeConfig, Encoder, Extent, Group, LoadConfig, Loader, LoaderConfig, Needs, Role, Spans,
    WeightedFile,
};
use crate::model::{Budget, LlamaConfig, Precision};
use crate::objective::{self, Objective, Selection};
use crate::optim::schedule::warmup_steps;
use crate::optim::{AdamwSettings, Schedule};
use crate::progress::Progress;

/// Tokens that a sampled answer may have beyond the longest one expected.
const SAMPLE_MARGIN: usize = 8;

/// A run that could start.
#[derive(Debug)]
pub struct Prepared {
    /// The settings, with defaults that depend on data or objective filled in.
    pub config: TrainConfig,
    /// The model's sizes.
    pub model: LlamaConfig,
    /// Where the weights come from; none for random ones.
    pub folder: Option<ModelFolder>,
    /// Where the tokenizer files lie, if anywhere.
    pub tokenizer: Option<PathBuf>,
    /// The models whose log-probs are the references; none where that is the one that is trained.
    pub references: Vec<ModelFolder>,
    /// Text to tokens.
    pub encoder: Encoder,
    /// What is trained on.
    pub train: Arc<Dataset>,
    /// What is held out.
    pub eval: Option<Dataset>,
    /// What is minimised.
    pub objective: Box<dyn Objective>,
    /// How the data becomes steps.
    pub loader: LoaderConfig,
    /// Optimizer steps of the run.
    pub steps: usize,
    /// Passes over the data; a fraction where the steps end in the middle of one.
    pub epochs: f64,
    /// The learning rate.
    pub schedule: Schedule,
    /// What it is planned for.
    pub target: Target,
    /// The number formats.
    pub precision: Precision,
    /// Where everything lies.
    pub layout: Layout,
    /// By how much that is too large for the target; a run that has this cannot start.
    pub shortfall: Option<Shortfall>,
    /// What the steps come to.
    pub extent: Extent,
    /// Bytes of the model that scores the reference log-probs beforehand, where the objective needs them and the model does not
    /// stay. It is gone before the layout is taken.
    pub reference_bytes: Option<u64>,
    /// What the run writes.
    pub disk: DiskNeed,
}

impl Prepared {
    /// Loads and checks everything, for a device of the target's kind and memory.
    ///
    /// # Errors
    /// Whatever keeps a run from starting, [`TrainError::Memory`] among it.
    pub fn new(
        config: &TrainConfig,
        target: Target,
        progress: &mut dyn Progress,
    ) -> Result<Self, TrainError> {
        let mut prepared = Self::plan(config, target, progress)?;
        match prepared.shortfall.take() {
            Some(shortfall) => Err(TrainError::Memory(Box::new(shortfall))),
            None => Ok(prepared),
        }
    }

    /// As [`Prepared::new`], but a run that does not fit is no error: it has its smallest layout and a
    /// [`shortfall`](Self::shortfall).
    ///
    /// # Errors
    /// As [`Prepared::new`], but for [`TrainError::Memory`].
    pub fn plan(
        config: &TrainConfig,
        target: Target,
        progress: &mut dyn Progress,
    ) -> Result<Self, TrainError> {
        let mut config = config.clone();
        let selection = objective::select(&config.objective.name)?;
        config.objective.name = selection.name();
        config.objective.parameters = selection.resolve(&config.objective.parameters)?;
        let objective = selection.build(&config.objective.parameters)?;
        let Source { model, folder, tokenizer } = open_source(&mut config.model)?;
        target.check(&model)?;
        let precision = target.precision(config.device.formats)?;
        if config.optimizer.half.is_some() {
            half::check(&model, precision.optimizer)?;
        }
        let references = open_references(&mut config, &selection, &model)?;
        let resident = resident_models(&config, objective.as_ref(), &references, &model)?;
        let needs = needs(&selection, objective.as_ref());
        let encoder = encoder(&config, Some(&model), tokenizer.as_deref(), needs)?;
        let (train, eval) = load_data(&config, &encoder, progress)?;
        let finish = |data: Dataset| finish(data, &selection, config.data.max_length);
        let (train, eval) = (finish(train)?, eval.map(finish).transpose()?);
        if !resident.is_empty() {
            resident::check(std::iter::once(&train).chain(&eval))?;
        }
        let train = Arc::new(train);
        let per_epoch = Loader::steps_per_epoch(train.groups.len(), config.batch.groups);
        let steps = match config.schedule.duration {
            Duration::Steps(steps) => steps,
            Duration::Epochs(epochs) => (epochs * per_epoch as f64).ceil().max(1.0) as usize,
        };
        if config.batch.groups > train.groups.len() {
            let (batch, pairs) = (config.batch.groups, train.groups.len());
            tracing::warn!(
                "--batch-size {batch} is more than the {pairs} pairs there are: every epoch is one step"
            );
        }
        let schedule = schedule(&config, steps);
        let mut loader = LoaderConfig {
            seed: config.run.seed,
            shuffle: config.data.shuffle,
            batch_size: config.batch.groups,
            token_budget: 0,
            row_budget: 0,
            parts: config.batch.parts,
            spans: Spans { answers: objective.learns_from(), ..objective.spans() },
            scored: (objective.learns_from() != objective.spans().answers).then(|| objective.spans()),
            mixing: objective.mixing(),
        };
        let demand = Demand::Data {
            train: train.clone(),
            held_out: Cow::Borrowed(eval.as_ref().map_or(&[], |eval| &eval.groups)),
            loader: loader.clone(),
            steps,
        };
        let inputs = objective.inputs();
        let fitting =
            Fitting { config: &config, model: &model, references: &resident, target, inputs, demand };
        let (Fitted { token_budget, head_rows, extent, layout }, shortfall) = fitting.choose(precision)?;
        loader.token_budget = token_budget;
        let budget = layout.activations.budget;
        let mut reference_bytes = match (references.is_empty(), objective.needs_reference()) {
            (true, true) => Some(scoring_bytes(&model, budget, precision, target)),
            _ => None,
        };
        for reference in &references {
            let bytes = check_reference(reference, budget, precision, target)?;
            reference_bytes = reference_bytes.max(Some(bytes));
        }
        // Those that stay are part of the layout.
        reference_bytes = reference_bytes.filter(|_| resident.is_empty());
        config.device.max_tokens_per_batch = Some(loader.token_budget).filter(|&tokens| tokens > 0);
        config.device.head_rows = Some(head_rows);
        let epochs = steps as f64 / per_epoch as f64;
        let dtype = save_dtype(&config, folder.as_ref(), &model);
        let disk = DiskNeed::new(FolderBytes::new(&model, dtype, tokenizer.as_deref())?, &config, steps);
        Ok(Self {
            config,
            model,
            folder,
            tokenizer,
            references,
            encoder,
            train,
            eval,
            objective,
            loader,
            steps,
            epochs,
            schedule,
            target,
            precision,
            layout,
            shortfall,
            extent,
            reference_bytes,
            disk,
        })
    }

    /// The rounds of half fine-tuning, where that is asked for.
    pub fn half(&self) -> Option<HalfFineTuning> {
        let per_epoch = Loader::steps_per_epoch(self.train.groups.len(), self.config.batch.groups);
        let steps = match self.config.optimizer.half? {
            Redraw::Epoch => per_epoch,
            Redraw::Steps(steps) => steps as usize,
        };
        Some(HalfFineTuning::new(self.config.run.seed, steps, &self.layout.model.table))
    }

    /// The format in which weights are saved: what was asked for, else the source's.
    pub fn save_dtype(&self) -> DType {
        save_dtype(&self.config, self.folder.as_ref(), &self.model)
    }
}

/// Whether another model can score the reference log-probs within the same batches and memory; it is on the device
/// before the policy is, never beside it. Gives the bytes it takes.
fn check_reference(
    reference: &ModelFolder,
    budget: Budget,
    precision: Precision,
    target: Target,
) -> Result<u64, TrainError> {
    target.check(reference.config())?;
    let (longest, positions) = (budget.positions, reference.config().max_position_embeddings);
    if longest > positions {
        return Err(TrainError::ReferencePositions { path: reference.dir().to_owned(), longest, positions });
    }
    let needed = scoring_bytes(reference.config(), budget, precision, target);
    match target.memory {
        Some(available) if available < needed => {
            let (path, tokens) = (reference.dir().to_owned(), budget.tokens);
            Err(TrainError::ScoringMemory { path, needed, available, tokens })
        }
        _ => Ok(needed),
    }
}

/// The learning rate over a run of so many steps.
pub(super) fn schedule(config: &TrainConfig, steps: usize) -> Schedule {
    let warmup_steps = match config.schedule.warmup {
        Warmup::Steps(steps) => steps,
        Warmup::Ratio(ratio) => warmup_steps(steps, ratio),
    };
    Schedule {
        kind: config.schedule.scheduler.into(),
        learning_rate: config.optimizer.learning_rate,
        warmup_steps,
        total_steps: steps,
    }
}

/// Bytes that a model takes to score batches of this budget.
fn scoring_bytes(model: &LlamaConfig, budget: Budget, precision: Precision, target: Target) -> u64 {
    InferenceLayout::new(model, budget, precision, target.workspace()).plan.total_bytes() as u64
}

fn save_dtype(config: &TrainConfig, folder: Option<&ModelFolder>, model: &LlamaConfig) -> DType {
    let source = folder.map(ModelFolder::dtype).or(model.torch_dtype);
    config.run.save_dtype.map(DType::from).or(source).unwrap_or(DType::F32)
}

/// The settings of the optimizer.
pub fn adamw(config: &TrainConfig) -> AdamwSettings {
    AdamwSettings {
        beta1: config.optimizer.beta1,
        beta2: config.optimizer.beta2,
        epsilon: config.optimizer.epsilon,
        weight_decay: config.optimizer.weight_decay,
        seed: config.run.seed,
    }
}

struct Source {
    model: LlamaConfig,
    folder: Option<ModelFolder>,
    tokenizer: Option<PathBuf>,
}

/// Opens the model; a name of the Hub becomes pinned to the snapshot that was found.
fn open_source(source: &mut ModelSource) -> Result<Source, TrainError> {
    Ok(match source {
        ModelSource::Folder(path) => {
            let folder = ModelFolder::open(&hub::locate_and_pin(path)?)?;
            let tokenizer = Some(folder.dir().to_owned());
            Source { model: folder.config().clone(), folder: Some(folder), tokenizer }
        }
        ModelSource::Init { config, tokenizer, .. } => {
            let tokenizer = tokenizer.as_mut().map(hub::locate_and_pin).transpose()?;
            Source { model: LlamaConfig::from_file(config)?, folder: None, tokenizer }
        }
    })
}

/// The folder of the tokenizer files, and the model's configuration unless the folder has none: what data need of a model.
pub(super) fn open_tokenizer(
    source: &mut ModelSource,
    has_model: bool,
) -> Result<(Option<PathBuf>, Option<LlamaConfig>), TrainError> {
    Ok(match source {
        ModelSource::Folder(path) => {
            let folder = hub::locate_and_pin(path)?;
            let model = has_model.then(|| LlamaConfig::from_file(&folder.join(CONFIG_FILE))).transpose()?;
            (Some(folder), model)
        }
        ModelSource::Init { config, tokenizer, .. } => {
            let folder = tokenizer.as_mut().map(hub::locate_and_pin).transpose()?;
            (folder, Some(LlamaConfig::from_file(config)?))
        }
    })
}

fn open_references(
    config: &mut TrainConfig,
    selection: &Selection,
    model: &LlamaConfig,
) -> Result<Vec<ModelFolder>, TrainError> {
    let (paths, most) = (&mut config.objective.references, selection.max_references());
    if paths.len() > most {
        let objective = selection.name();
        return Err(match most {
            0 => TrainError::NoUseForReference { objective },
            most => TrainError::TooManyReferences { objective, given: paths.len(), most },
        });
    }
    let open = |path: &mut PathBuf| {
        let folder = ModelFolder::open(&hub::locate_and_pin(path)?)?;
        let (ours, theirs) = (model.vocab_size, folder.config().vocab_size);
        if ours != theirs {
            return Err(TrainError::ReferenceVocabulary { path: path.clone(), ours, theirs });
        }
        Ok(folder)
    };
    paths.iter_mut().map(open).collect()
}

/// The sizes of the reference models that are to stay on the device.
fn resident_models(
    config: &TrainConfig,
    objective: &dyn Objective,
    references: &[ModelFolder],
    model: &LlamaConfig,
) -> Result<Vec<LlamaConfig>, TrainError> {
    match (config.objective.reference_mode, objective.needs_reference()) {
        (ReferenceMode::Cached, _) => Ok(Vec::new()),
        (ReferenceMode::Resident, false) => {
            Err(TrainError::NoUseForReferenceMode { objective: objective.name().to_owned() })
        }
        (ReferenceMode::Resident, true) if references.is_empty() => Ok(vec![model.clone()]),
        (ReferenceMode::Resident, true) => {
            Ok(references.iter().map(|reference| reference.config().clone()).collect())
        }
    }
}

/// What an objective needs of every row.
pub(super) fn needs(selection: &Selection, objective: &dyn Objective) -> Needs {
    // What has no weight is not read, and a mismatched completion is another row's.
    let answers = objective.spans().answers.with(Role::Mismatched, false);
    Needs { answers, annotations: selection.annotations(), reference: objective.needs_reference() }
}

/// What turns rows into tokens. Without a model, nothing bounds its vocabulary.
pub(super) fn encoder(
    config: &TrainConfig,
    model: Option<&LlamaConfig>,
    tokenizer: Option<&Path>,
    needs: Needs,
) -> Result<Encoder, TrainError> {
    let settings = EncodeConfig {
        vocab_size: model.map_or(usize::MAX, |model| model.vocab_size),
        max_length: Some(config.data.max_length),
        truncation: config.data.truncation,
        drop_identical: config.data.drop_identical,
        needs,
        columns: config.data.columns.clone(),
        eos_ids: model.map(|model| model.eos_token_ids.clone()).unwrap_or_default(),
        keep_text: false,
        template: config.data.template.clone(),
    };
    Ok(match tokenizer {
        Some(folder) => Encoder::from_folder(folder, settings)?,
        None => Encoder::new(None, None, settings),
    })
}

/// How the training data are loaded.
pub(super) fn load_config(config: &TrainConfig) -> LoadConfig {
    LoadConfig {
        sources: config.data.files.clone(),
        max_rows: config.data.max_samples,
        strict: config.data.strict,
        seed: config.run.seed,
        cache: config.data.cache.clone(),
    }
}

fn load_data(
    config: &TrainConfig,
    encoder: &Encoder,
    progress: &mut dyn Progress,
) -> Result<(Dataset, Option<Dataset>), TrainError> {
    let load = load_config(config);
    let data = load.load(encoder, progress)?;
    data.report.log("training data", data.groups.len());
    Ok(match &config.evaluation.source {
        EvalSource::None => (data, None),
        EvalSource::Files(files) => {
            let sources = files.iter().map(WeightedFile::whole).collect();
            let load = LoadConfig { sources, max_rows: config.evaluation.max_samples, ..load };
            let eval = load.load(encoder, progress)?;
            eval.report.log("evaluation data", eval.groups.len());
            (data, Some(eval))
        }
        EvalSource::Split(share) => {
            let (train, eval) = data.split(*share, config.run.seed)?;
            let (held_out, left) = (eval.groups.len(), train.groups.len());
            tracing::info!("held out {held_out} pairs; {left} are trained on");
            (train, Some(eval))
        }
    })
}

/// What only the whole of a data set can be given or asked.
fn finish(data: Dataset, selection: &Selection, max_length: usize) -> Result<Dataset, TrainError> {
    let length = |group: &Group| group.annotations().prompt_embedding.as_ref().map(|e| e.len());
    if let Some((first, expected)) = data.groups.first().and_then(|group| Some((group, length(group)?)))
        && let Some(other) = data.groups.iter().find(|group| length(group) != Some(expected))
    {
        let (first, other, found) = (data.place(first), data.place(other), length(other).unwrap_or(0));
        return Err(TrainError::EmbeddingLengths { first, expected, other, found });
    }
    if selection.answers().contains(Role::Mismatched) {
        return Ok(data.with_mismatched(Some(max_length)));
    }
    Ok(data)
}

/// Tokens that a sampled answer may have.
pub fn sample_length(groups: &[Group]) -> usize {
    let chosen = |group: &Group| group.answer(Role::Chosen).map_or(0, |answer| answer.first_turn().len());
    groups.iter().map(chosen).max().unwrap_or(0) + SAMPLE_MARGIN
}

/// What is known of a run before its data are.
#[derive(Debug)]
pub struct Outline {
    /// Where everything would lie.
    pub layout: Layout,
    /// By how much that is too large for the target.
    pub shortfall: Option<Shortfall>,
    /// Bytes of the folders it would write.
    pub folders: FolderBytes,
}

/// The outline of a run whose data are not known yet: sequences of the full `--max-length`, micro-batches as large as they
/// would be at most.
///
/// # Errors
/// The model, the references, the objective; formats that the target does not compute in.
pub fn plan_without_data(config: &TrainConfig, target: Target) -> Result<Outline, TrainError> {
    let mut config = config.clone();
    let selection = objective::select(&config.objective.name)?;
    let objective = selection.build(&selection.resolve(&config.objective.parameters)?)?;
    let Source { model, folder, tokenizer } = open_source(&mut config.model)?;
    target.check(&model)?;
    let references = open_references(&mut config, &selection, &model)?;
    let resident = resident_models(&config, objective.as_ref(), &references, &model)?;
    let precision = target.precision(config.device.formats)?;
    let config = &config;
    let inputs = objective.inputs();
    let demand = Demand::Unknown { mixed: objective.mixing().is_some() };
    let fitting = Fitting { config, model: &model, references: &resident, target, inputs, demand };
    let (fitted, shortfall) = fitting.choose(precision)?;
    let dtype = save_dtype(config, folder.as_ref(), &model);
    let folders = FolderBytes::new(&model, dtype, tokenizer.as_deref())?;
    Ok(Outline { layout: fitted.layout, shortfall, folders })
}
