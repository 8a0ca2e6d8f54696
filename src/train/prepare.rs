//! From a configuration to everything that is known before a device is touched: data, steps, budget, memory plan.
//!
//! All that can be wrong with what was typed or given is found here, before step 0.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{InferenceLayout, Layout, LayoutSettings, Target, TrainError};
use crate::DType;
use crate::backend::DeviceKind;
use crate::checkpoint::ModelFolder;
use crate::config::{Duration, EvalSource, ModelSource, TrainConfig, Warmup};
use crate::data::{Dataset, EncodeConfig, Encoder, Group, Loader, LoaderConfig, Role, Spans, load};
use crate::eval::largest;
use crate::generate::CacheSize;
use crate::model::{Budget, LlamaConfig, Precision, Recompute};
use crate::objective::{Objective, registry};
use crate::optim::{AdamwSettings, Schedule, schedule};

/// Tokens of a micro-batch unless something else is asked for: enough for full speed, few enough that activations stay
/// small beside the weights.
const CPU_TOKENS: usize = 2048;
/// As above. A GPU is at full speed with a quarter of it, but adds every micro-batch to f32 gradients.
const GPU_TOKENS: usize = 16384;
/// Tokens of a micro-batch on a GPU below which recomputing costs less than small products do.
const GPU_LEAST_TOKENS: usize = 4096;
/// Rows of logits at a time, at least.
const HEAD_ROWS: usize = 1024;
/// Bytes of logits above which a unit is scored twice rather than held whole.
const LARGEST_LOGITS: usize = 2 << 30;
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
    /// The model whose log-probs are the reference, where it is not the one that is trained.
    pub reference: Option<ModelFolder>,
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
}

impl Prepared {
    /// Loads and checks everything, for a device of the target's kind and memory.
    pub fn new(config: &TrainConfig, target: Target) -> Result<Self, TrainError> {
        let mut config = config.clone();
        let entry = registry::find(&config.objective.name)?;
        config.objective.name = entry.name.to_owned();
        config.objective.parameters = entry.resolve(&config.objective.parameters)?;
        let objective = entry.build(&config.objective.parameters)?;
        let Source { model, folder, tokenizer } = open_source(&config.model)?;
        target.check(&model)?;
        let precision = target.precision(config.device.formats)?;
        let reference = open_reference(&config, objective.as_ref(), &model)?;
        let encoder = encoder(&config, &model, tokenizer.as_deref())?;
        let (train, eval) = load_data(&config, &encoder)?;
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
        let warmup_steps = match config.schedule.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => schedule::warmup_steps(steps, ratio),
        };
        let schedule = Schedule {
            kind: config.schedule.scheduler.into(),
            learning_rate: config.optimizer.learning_rate,
            warmup_steps,
            total_steps: steps,
        };
        let loader = LoaderConfig {
            seed: config.run.seed,
            shuffle: config.data.shuffle,
            batch_size: config.batch.groups,
            token_budget: 0,
            row_budget: 0,
            parts: config.batch.parts,
            spans: objective.spans(),
        };
        let fitting = Fitting {
            config: &config,
            model: &model,
            train: &train,
            eval: eval.as_ref(),
            steps,
            target,
            precision,
        };
        let Fitted { loader, layout, head_rows } = fitting.choose(loader)?;
        if let Some(reference) = &reference {
            check_reference(reference, layout.activations.budget, precision, target)?;
        }
        config.device.max_tokens_per_batch = Some(loader.token_budget).filter(|&tokens| tokens > 0);
        config.device.head_rows = Some(head_rows);
        let epochs = steps as f64 / per_epoch as f64;
        Ok(Self {
            config,
            model,
            folder,
            tokenizer,
            reference,
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
        })
    }

    /// The format in which weights are saved: what was asked for, else the source's.
    pub fn save_dtype(&self) -> DType {
        let source = self.folder.as_ref().map(ModelFolder::dtype).or(self.model.torch_dtype);
        self.config.run.save_dtype.map(DType::from).or(source).unwrap_or(DType::F32)
    }
}

/// Whether another model can score the reference log-probs within the same batches and memory; it is on the device
/// before the policy is, never beside it.
fn check_reference(
    reference: &ModelFolder,
    budget: Budget,
    precision: Precision,
    target: Target,
) -> Result<(), TrainError> {
    target.check(reference.config())?;
    let (longest, positions) = (budget.positions, reference.config().max_position_embeddings);
    if longest > positions {
        return Err(TrainError::ReferencePositions { path: reference.dir().to_owned(), longest, positions });
    }
    let layout = InferenceLayout::new(reference.config(), budget, precision, target.workspace());
    let needed = layout.plan.total_bytes() as u64;
    match target.memory {
        Some(available) if available < needed => {
            Err(TrainError::Memory { needed, available, tokens: budget.tokens, longest })
        }
        _ => Ok(()),
    }
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

fn open_source(source: &ModelSource) -> Result<Source, TrainError> {
    Ok(match source {
        ModelSource::Folder(path) => {
            let folder = ModelFolder::open(path)?;
            Source { model: folder.config().clone(), folder: Some(folder), tokenizer: Some(path.clone()) }
        }
        ModelSource::Init { config, tokenizer, .. } => {
            Source { model: LlamaConfig::from_file(config)?, folder: None, tokenizer: tokenizer.clone() }
        }
    })
}

fn open_reference(
    config: &TrainConfig,
    objective: &dyn Objective,
    model: &LlamaConfig,
) -> Result<Option<ModelFolder>, TrainError> {
    let Some(path) = &config.objective.reference else { return Ok(None) };
    if !objective.needs_reference() {
        return Err(TrainError::NoUseForReference { objective: objective.name() });
    }
    let folder = ModelFolder::open(path)?;
    let (ours, theirs) = (model.vocab_size, folder.config().vocab_size);
    if ours != theirs {
        return Err(TrainError::ReferenceVocabulary { path: path.clone(), ours, theirs });
    }
    Ok(Some(folder))
}

fn encoder(
    config: &TrainConfig,
    model: &LlamaConfig,
    tokenizer: Option<&Path>,
) -> Result<Encoder, TrainError> {
    let settings = EncodeConfig {
        vocab_size: model.vocab_size,
        max_length: Some(config.data.max_length),
        eos_ids: model.eos_token_ids.clone(),
        keep_text: false,
    };
    Ok(match tokenizer {
        Some(folder) => Encoder::from_folder(folder, settings)?,
        None => Encoder::new(None, None, settings),
    })
}

fn load_data(config: &TrainConfig, encoder: &Encoder) -> Result<(Dataset, Option<Dataset>), TrainError> {
    let data = load(&config.data.files, encoder)?;
    report("training data", &data);
    Ok(match &config.evaluation.source {
        EvalSource::None => (data, None),
        EvalSource::Files(files) => {
            let eval = load(files, encoder)?;
            report("evaluation data", &eval);
            (data, Some(eval))
        }
        EvalSource::Split(share) => {
            let (train, eval) = data.split(*share, config.run.seed)?;
            tracing::info!(
                "held out {} of {} pairs",
                eval.groups.len(),
                eval.groups.len() + train.groups.len()
            );
            (train, Some(eval))
        }
    })
}

/// Says what loading did; nothing is cut or dropped silently.
fn report(what: &str, data: &Dataset) {
    let report = &data.report;
    let kinds = [
        (report.kinds.conversation, "conversations"),
        (report.kinds.text, "plain text"),
        (report.kinds.tokens, "token ids"),
    ];
    let kinds: Vec<&str> = kinds.iter().filter(|(count, _)| *count > 0).map(|(_, name)| *name).collect();
    tracing::info!(
        "{what}: {} pairs of {} rows ({}), longest sequence {} tokens",
        data.groups.len(),
        report.rows,
        kinds.join(", "),
        report.longest
    );
    if !report.dropped.is_empty() {
        tracing::warn!("{what}: {} rows dropped: {}", report.dropped.len(), report.dropped_summary());
    }
    report.warn(what);
}

/// The search for micro-batches and a recompute level whose plan fits.
struct Fitting<'a> {
    config: &'a TrainConfig,
    model: &'a LlamaConfig,
    train: &'a Arc<Dataset>,
    eval: Option<&'a Dataset>,
    steps: usize,
    target: Target,
    precision: Precision,
}

/// What it finds.
struct Fitted {
    loader: LoaderConfig,
    layout: Layout,
    /// Rows of logits at a time, before they are bounded by the rows that there are: those depend on how long the run
    /// is, and a run that is made longer must keep to the same chunks.
    head_rows: usize,
}

impl Fitting<'_> {
    fn choose(&self, loader: LoaderConfig) -> Result<Fitted, TrainError> {
        let spans = Spans { rejected: true, ..loader.spans };
        let (least_tokens, least_rows, longest) = largest(&self.train.groups, spans);
        let held_out: &[Group] = self.eval.map_or(&[], |eval| &eval.groups);
        let (eval_tokens, eval_rows, eval_longest) = largest(held_out, spans);
        let longest = longest.max(eval_longest);
        let positions = self.model.max_position_embeddings;
        if longest > positions {
            return Err(TrainError::TooLong { longest, positions });
        }
        let (least_tokens, least_rows) = (least_tokens.max(eval_tokens), least_rows.max(eval_rows));
        let cache = self.cache(held_out);
        let head_rows = head_rows(self.config, self.model, self.precision, least_rows);
        // Prescribed parts are not to be cut any further.
        let sizes = match (self.config.device.max_tokens_per_batch, loader.parts) {
            (Some(tokens), _) => Sizes::only(tokens),
            (None, Some(_)) => Sizes::only(0),
            (None, None) => Sizes::of(self.target, least_tokens),
        };
        let mut smallest = None;
        for (token_budget, recompute) in sizes.tries(self.config.device.recompute) {
            let loader = LoaderConfig { token_budget, ..loader.clone() };
            let extent = Loader::measure(self.train.clone(), loader.clone(), 1, self.steps)?;
            let (tokens, rows) = (extent.tokens.max(least_tokens), extent.rows.max(least_rows));
            let sampled = cache.map_or(0, |cache| cache.length);
            let budget = Budget {
                tokens,
                rows,
                head_rows: head_rows.min(rows).max(1),
                positions: longest.max(sampled),
                rungs: self.target.rungs(tokens, head_rows.min(rows)),
            };
            let settings = layout_settings(self.config, budget, self.precision, self.target);
            let layout = Layout::new(self.model, LayoutSettings { recompute, cache, ..settings });
            let (needed, free) = (layout.plan.total_bytes() as u64, self.target.memory.unwrap_or(u64::MAX));
            if needed <= free {
                tracing::debug!("micro-batches of {token_budget} tokens, recompute {}", recompute.name());
                return Ok(Fitted { loader, layout, head_rows });
            }
            smallest = Some(TrainError::Memory { needed, available: free, tokens, longest });
        }
        Err(smallest.unwrap_or_else(|| unreachable!("there is at least one try")))
    }

    /// Room for the sampled answers: the longest prompt among them, and the longest answer expected.
    fn cache(&self, held_out: &[Group]) -> Option<CacheSize> {
        let sampled = &held_out[..self.config.evaluation.sample_answers.min(held_out.len())];
        let prompt = sampled.iter().map(|group| group.prompt.len()).max()?;
        let length = (prompt + sample_length(sampled)).min(self.model.max_position_embeddings);
        Some(CacheSize { sequences: sampled.len(), length })
    }
}

/// Token budgets worth trying.
struct Sizes {
    /// The first try.
    most: usize,
    /// As far as it pays to go before more is recomputed.
    fast: usize,
    /// As far as it is possible to go.
    least: usize,
}

impl Sizes {
    /// One size and no other.
    fn only(tokens: usize) -> Self {
        Self { most: tokens, fast: tokens, least: tokens }
    }

    /// From what is fast on the target down to its largest group.
    fn of(target: Target, largest_group: usize) -> Self {
        let (most, fast) = match target.kind {
            DeviceKind::Cpu => (CPU_TOKENS, largest_group),
            DeviceKind::Cuda => (GPU_TOKENS, GPU_LEAST_TOKENS),
        };
        Self { most: most.max(largest_group), fast: fast.max(largest_group), least: largest_group }
    }

    /// Token budget and recompute level, the fastest first.
    fn tries(&self, level: Option<Recompute>) -> Vec<(usize, Recompute)> {
        let levels = level.map_or(Recompute::ALL.to_vec(), |level| vec![level]);
        let halved = |from: usize, to: usize| {
            std::iter::successors(Some(from), move |&tokens| (tokens > to).then(|| (tokens / 2).max(to)))
        };
        let fast = levels.iter().flat_map(|&level| halved(self.most, self.fast).map(move |t| (t, level)));
        let slow = levels
            .last()
            .into_iter()
            .flat_map(|&level| halved(self.fast, self.least).skip(1).map(move |tokens| (tokens, level)));
        fast.chain(slow).collect()
    }
}

/// The settings of a layout that the configuration decides, without sampled answers.
fn layout_settings(
    config: &TrainConfig,
    budget: Budget,
    precision: Precision,
    target: Target,
) -> LayoutSettings {
    LayoutSettings {
        budget,
        optimizer: adamw(config),
        precision,
        recompute: config.device.recompute.unwrap_or_default(),
        cache: None,
        workspace: target.workspace(),
    }
}

/// Rows of logits at a time: as asked for, else enough for the largest unit, within bounds.
fn head_rows(config: &TrainConfig, model: &LlamaConfig, precision: Precision, largest_unit: usize) -> usize {
    let affordable = (LARGEST_LOGITS / (model.vocab_size * precision.storage.bytes())).max(HEAD_ROWS);
    config.device.head_rows.unwrap_or(HEAD_ROWS.max(largest_unit.min(affordable)))
}

/// Tokens that a sampled answer may have.
pub fn sample_length(groups: &[Group]) -> usize {
    let chosen = |group: &Group| group.answer(Role::Chosen).map_or(0, |answer| answer.ids.len());
    groups.iter().map(chosen).max().unwrap_or(0) + SAMPLE_MARGIN
}

/// The layout of a run whose data are not known yet: sequences of the full `--max-length`, micro-batches as large as they
/// would be at most. Where nothing fits, the smallest.
pub fn plan_without_data(config: &TrainConfig, target: Target) -> Result<Layout, TrainError> {
    let model = open_source(&config.model)?.model;
    target.check(&model)?;
    let precision = target.precision(config.device.formats)?;
    let group = 2 * config.data.max_length;
    let sizes = match config.device.max_tokens_per_batch {
        Some(tokens) => Sizes::only(tokens.max(group)),
        None => Sizes::of(target, group),
    };
    let mut layouts = sizes.tries(config.device.recompute).into_iter().map(|(tokens, recompute)| {
        let head_rows = head_rows(config, &model, precision, group).min(tokens);
        let positions = config.data.max_length;
        let rungs = target.rungs(tokens, head_rows);
        let budget = Budget { tokens, rows: tokens, head_rows, positions, rungs };
        let settings = layout_settings(config, budget, precision, target);
        Layout::new(&model, LayoutSettings { recompute, ..settings })
    });
    let fits = |layout: &Layout| target.memory.is_none_or(|free| layout.plan.total_bytes() as u64 <= free);
    let mut smallest = None;
    Ok(loop {
        match layouts.next() {
            Some(layout) if fits(&layout) => break layout,
            Some(layout) => smallest = Some(layout),
            None => break smallest.unwrap_or_else(|| unreachable!("there is at least one try")),
        }
    })
}
