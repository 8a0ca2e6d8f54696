//! A checked configuration of `asft train`: what `run.toml` holds and what the rest of the program reads.

use std::path::PathBuf;

use clap::{Arg, Args, Command};
use toml::{Table, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::arguments::{
    DataArguments, DeviceArguments, EvaluationArguments, ModelArguments, ObjectiveArguments,
    OptimizerArguments, RunArguments, ScheduleArguments, TemplateArguments, TrainArguments,
};
use super::best::BestConfig;
use super::choice::{DeviceName, Freeze, Redraw, ReferenceMode, Resume, SaveDtype, Scheduler};
use super::source;
use crate::backend::Element;
use crate::data::{ColumnMap, TemplateConfig, Truncation, WeightedFile};
use crate::model::{OptimizerState, Recompute};
use crate::objective::Parameters;

/// Everything that `asft train` needs to know; made by [`TrainArguments::resolve`].
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Where the weights come from.
    pub model: ModelSource,
    /// What is trained on.
    pub data: DataConfig,
    /// What is trained for.
    pub objective: ObjectiveConfig,
    /// How many pairs make an optimizer step.
    pub batch: BatchSize,
    /// AdamW and clipping.
    pub optimizer: OptimizerConfig,
    /// How long, and the learning rate over that time.
    pub schedule: ScheduleConfig,
    /// What is measured on held-out pairs, and when.
    pub evaluation: EvaluationConfig,
    /// The run folder and what is written to it.
    pub run: RunConfig,
    /// Where the work is done.
    pub device: DeviceConfig,
}

/// Everything that `asft inspect` needs to know; made by [`TrainArguments::resolve_inspect`].
#[derive(Clone, Debug, PartialEq)]
pub struct InspectConfig {
    /// The run whose data are looked at.
    pub train: TrainConfig,
    /// Whether its model's folder holds a model; otherwise only a tokenizer.
    pub has_model: bool,
}

/// Where the initial weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A Hugging Face folder.
    Folder(PathBuf),
    /// Random weights.
    Init {
        /// The model's `config.json`.
        config: PathBuf,
        /// Folder of the tokenizer; pre-tokenised data needs none.
        tokenizer: Option<PathBuf>,
        /// Seed of the weights ([`RunConfig::seed`]).
        seed: u64,
    },
}

/// What is trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct DataConfig {
    /// Files of rows, in order, with their weights. Empty only in a configuration for a plan.
    pub files: Vec<WeightedFile>,
    /// Columns that go by other names.
    pub columns: ColumnMap,
    /// How conversations become text.
    pub template: TemplateConfig,
    /// Bound on prompt + answer, in tokens; at least 2.
    pub max_length: usize,
    /// What becomes of longer answers.
    pub truncation: Truncation,
    /// Whether pairs of identical answers are dropped.
    pub drop_identical: bool,
    /// Rows read of each file; `None`: all.
    pub max_samples: Option<usize>,
    /// Whether a row that cannot be used stops the run.
    pub strict: bool,
    /// Folder that keeps token ids from run to run; `None`: none are kept.
    pub cache: Option<PathBuf>,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
}

/// What is trained for.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveConfig {
    /// Name as typed; the objectives know which names exist.
    pub name: String,
    /// The parameters that were given.
    pub parameters: Parameters,
    /// Folders of the reference models; none: the initial weights.
    pub references: Vec<PathBuf>,
    /// Where reference log-probs come from.
    pub reference_mode: ReferenceMode,
    /// Folder that keeps reference log-probs from run to run.
    pub reference_cache: PathBuf,
}

/// How many groups (preference pairs) make an optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    /// Groups per optimizer step; at least 1.
    pub groups: usize,
    /// `Some(G)`: in exactly G micro-batches; `None`: in as many as the token budget asks for.
    pub parts: Option<usize>,
}

/// AdamW (decoupled weight decay) and clipping by the global norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay rate of tensors with two or more dimensions.
    pub weight_decay: f64,
    /// Decay of the mean, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean square, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the mean square; above 0.
    pub epsilon: f64,
    /// Largest global gradient norm; `None`: no clipping.
    pub max_grad_norm: Option<f64>,
    /// When half fine-tuning draws another half; `None`: everything is learnt.
    pub half: Option<Redraw>,
    /// Whether a step that is not finite is left out instead of ending the run.
    pub skip_nonfinite: bool,
}

/// How long to train, and the learning rate over that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleConfig {
    /// The end of training.
    pub duration: Duration,
    /// The learning rate after the warm-up.
    pub scheduler: Scheduler,
    /// The warm-up.
    pub warmup: Warmup,
}

/// The end of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duration {
    /// After this many optimizer steps; at least 1.
    Steps(usize),
    /// After this many passes over the data; above 0, may be a fraction.
    Epochs(f64),
}

/// How the learning rate rises from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// Over this many optimizer steps.
    Steps(usize),
    /// Over this share of all optimizer steps, rounded up (transformers' rule); in [0, 1].
    Ratio(f64),
}

/// What is measured on held-out pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationConfig {
    /// The held-out pairs.
    pub source: EvalSource,
    /// Rows read of each file of held-out pairs; `None`: all.
    pub max_samples: Option<usize>,
    /// Steps between evaluations besides those before the first step and after the last; `None`: only those two.
    pub every: Option<usize>,
    /// Held-out prompts to answer greedily at every evaluation.
    pub sample_answers: usize,
    /// Which evaluation is the best one, and what follows from it; `None`: nobody asks.
    pub best: Option<BestConfig>,
}

/// Where held-out pairs come from.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalSource {
    /// There are none: no evaluation.
    None,
    /// Files of their own.
    Files(Vec<PathBuf>),
    /// This share of the training pairs, which are then not trained on; in (0, 1).
    Split(f64),
}

/// The run folder and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConfig {
    /// The folder. A configuration for a plan may have a name here that nothing is ever written to.
    pub output: PathBuf,
    /// What to do where the folder exists. Not recorded in `run.toml`: it says how to start, not what the run is.
    pub existing: ExistingFolder,
    /// Seed of the shuffle, the evaluation split and random weights.
    pub seed: u64,
    /// Steps between checkpoints; `None`: only the result is saved.
    pub save_every: Option<usize>,
    /// Checkpoints to keep; `None`: all.
    pub keep: Option<usize>,
    /// Type of the saved weights; `None`: that of the source.
    pub save_dtype: Option<SaveDtype>,
    /// Steps between lines on stderr and in `log_history`.
    pub log_every: usize,
    /// A shell command that gets every line of `metrics.jsonl` on stdin.
    pub log_command: Option<String>,
}

/// What to do with a run folder that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExistingFolder {
    /// Refuse.
    Refuse,
    /// Delete it, if it holds a `run.toml` of asft.
    Overwrite,
    /// Continue from its newest complete checkpoint.
    ResumeLatest,
    /// Continue from this checkpoint.
    Resume(PathBuf),
}

/// Where the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// The device.
    pub device: Device,
    /// Threads of the CPU backend; `None`: every core.
    pub threads: Option<usize>,
    /// Number formats.
    pub formats: FormatConfig,
    /// What the backward pass computes again; `None`: by the memory plan.
    pub recompute: Option<Recompute>,
    /// Bound on the tokens of a micro-batch; `None`: by the memory plan.
    pub max_tokens_per_batch: Option<usize>,
    /// Response rows whose logits are in memory at once; `None`: by the memory plan.
    pub head_rows: Option<usize>,
}

/// Number formats that were asked for; `None`: the device's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatConfig {
    /// Weights and activations: f32 or bf16.
    pub dtype: Option<Element>,
    /// What AdamW keeps.
    pub optimizer_state: Option<OptimizerState>,
    /// Logits of the head: f32 or bf16.
    pub head_logits: Option<Element>,
}

/// A device that this build has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The best one there is.
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

impl From<Device> for DeviceName {
    fn from(device: Device) -> Self {
        match device {
            Device::Auto => Self::Auto,
            Device::Cpu => Self::Cpu,
            Device::Cuda => Self::Cuda,
        }
    }
}

/// One setting in which two configurations differ, with both values as TOML (`-`: not set).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting.
    pub key: String,
    /// Its value in the one that was compared.
    pub ours: String,
    /// Its value in the other.
    pub theirs: String,
}

/// What may change when a run is resumed: its end, the intervals, where it runs and where it lies, who is told, and what becomes of a
/// step that fails. Everything else decides the bits of the result.
const MAY_CHANGE: &[&str] = &[
    "strict",
    "no_cache",
    "data_cache",
    "num_train_epochs",
    "max_steps",
    "early_stopping_patience",
    "early_stopping_threshold",
    "skip_nonfinite",
    "log_command",
    "eval_steps",
    "sample_answers",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "output",
    "reference_mode",
    "reference_cache",
    "device",
    "threads",
    "dtype",
    "optimizer_state",
    "head_logits",
    "recompute",
];

/// Paths of what a run reads. A checkpoint remembers what was found there ([`crate::checkpoint::resume::ResumeState::inputs`]), so
/// the same files may be called by another name.
const INPUTS: &[&str] = &["model", "init", "tokenizer", "data", "eval_data", "reference"];

impl TrainConfig {
    /// The configuration as arguments that give it back: every setting with a value, none twice.
    pub fn to_arguments(&self) -> TrainArguments {
        let (model, init, tokenizer) = match &self.model {
            ModelSource::Folder(folder) => (Some(folder.clone()), None, None),
            ModelSource::Init { config, tokenizer, .. } => (None, Some(config.clone()), tokenizer.clone()),
        };
        TrainArguments {
            model: ModelArguments { model, init, tokenizer },
            data: DataArguments {
                data: Some(self.data.files.iter().map(source::typed).collect())
                    .filter(|files: &Vec<PathBuf>| !files.is_empty()),
                map: Some(self.data.columns.entries().collect()).filter(|map: &Vec<_>| !map.is_empty()),
                template: TemplateArguments::of(&self.data.template),
                max_length: Some(integer(self.data.max_length)),
                truncation_mode: Some(self.data.truncation.into()),
                drop_identical: Some(self.data.drop_identical),
                max_samples: self.data.max_samples.map(integer),
                strict: Some(self.data.strict),
                no_cache: Some(self.data.cache.is_none()),
                data_cache: self.data.cache.clone(),
                no_shuffle: Some(!self.data.shuffle),
            },
            objective: ObjectiveArguments {
                objective: Some(self.objective.name.clone()),
                parameters: self.objective.parameters,
                reference: Some(self.objective.references.clone()).filter(|folders| !folders.is_empty()),
                reference_mode: Some(self.objective.reference_mode),
                reference_cache: Some(self.objective.reference_cache.clone()),
            },
            optimizer: self.optimizer_arguments(),
            schedule: self.schedule_arguments(),
            evaluation: self.evaluation_arguments(),
            run: self.run_arguments(),
            device: DeviceArguments {
                device: Some(self.device.device.into()),
                threads: self.device.threads.map(integer),
                dtype: self.device.formats.dtype.map(Into::into),
                optimizer_state: self.device.formats.optimizer_state.map(Into::into),
                head_logits: self.device.formats.head_logits.map(Into::into),
                recompute: self.device.recompute.map(Into::into),
                max_tokens_per_batch: self.device.max_tokens_per_batch.map(integer),
                head_rows: self.device.head_rows.map(integer),
            },
        }
    }

    fn optimizer_arguments(&self) -> OptimizerArguments {
        let BatchSize { groups, parts } = self.batch;
        let optimizer = &self.optimizer;
        OptimizerArguments {
            batch_size: parts.is_none().then_some(integer(groups)),
            per_device_train_batch_size: parts.map(|parts| integer(groups / parts)),
            gradient_accumulation_steps: parts.map(integer),
            learning_rate: Some(optimizer.learning_rate),
            weight_decay: Some(optimizer.weight_decay),
            adam_beta1: Some(optimizer.beta1),
            adam_beta2: Some(optimizer.beta2),
            adam_epsilon: Some(optimizer.epsilon),
            max_grad_norm: Some(optimizer.max_grad_norm.unwrap_or(0.0)),
            freeze: optimizer.half.map(|_| Freeze::Hft),
            hft_redraw: optimizer.half,
            skip_nonfinite: Some(optimizer.skip_nonfinite),
        }
    }

    fn schedule_arguments(&self) -> ScheduleArguments {
        let (max_steps, num_train_epochs) = match self.schedule.duration {
            Duration::Steps(steps) => (Some(integer(steps)), None),
            Duration::Epochs(epochs) => (None, Some(epochs)),
        };
        let (warmup_steps, warmup_ratio) = match self.schedule.warmup {
            Warmup::Steps(steps) => (Some(integer(steps)), None),
            Warmup::Ratio(ratio) => (None, Some(ratio)),
        };
        let seed = i64::try_from(self.run.seed).unwrap_or(i64::MAX);
        let lr_scheduler_type = Some(self.schedule.scheduler);
        ScheduleArguments {
            num_train_epochs,
            max_steps,
            lr_scheduler_type,
            warmup_steps,
            warmup_ratio,
            seed: Some(seed),
        }
    }

    fn evaluation_arguments(&self) -> EvaluationArguments {
        let (eval_data, eval_split) = match &self.evaluation.source {
            EvalSource::None => (None, None),
            EvalSource::Files(files) => (Some(files.clone()), None),
            EvalSource::Split(share) => (None, Some(*share)),
        };
        let best = self.evaluation.best.as_ref();
        let stopping = best.and_then(|best| best.stopping);
        EvaluationArguments {
            eval_data,
            eval_split,
            max_eval_samples: self.evaluation.max_samples.map(integer),
            eval_steps: Some(integer(self.evaluation.every.unwrap_or(0))),
            sample_answers: Some(integer(self.evaluation.sample_answers)),
            load_best_model_at_end: Some(best.is_some_and(|best| best.load_at_end)),
            metric_for_best_model: best.map(|best| best.metric.clone()),
            greater_is_better: best.map(|best| best.greater),
            early_stopping_patience: stopping.map(|stopping| integer(stopping.patience)),
            early_stopping_threshold: stopping.map(|stopping| stopping.threshold),
        }
    }

    fn run_arguments(&self) -> RunArguments {
        let (overwrite_output_dir, resume) = match &self.run.existing {
            ExistingFolder::Refuse => (None, None),
            ExistingFolder::Overwrite => (Some(true), None),
            ExistingFolder::ResumeLatest => (None, Some(Resume::Latest)),
            ExistingFolder::Resume(folder) => (None, Some(Resume::Checkpoint(folder.clone()))),
        };
        RunArguments {
            output: Some(self.run.output.clone()),
            overwrite_output_dir,
            resume,
            save_steps: Some(integer(self.run.save_every.unwrap_or(0))),
            save_total_limit: self.run.keep.map(integer),
            save_dtype: self.run.save_dtype,
            logging_steps: Some(integer(self.run.log_every)),
            log_command: self.run.log_command.clone(),
        }
    }

    /// The text of `run.toml`: every setting with its final value, under the headings of `--help`. It is a configuration
    /// file: `asft train --config run.toml` gives this configuration again.
    pub fn to_toml(&self) -> String {
        self.to_annotated_toml(|_| None, |_| None)
    }

    /// [`to_toml`](Self::to_toml) with a comment after each value, such as where it came from, and a comment in place of each
    /// setting that has none.
    pub fn to_annotated_toml(
        &self,
        comment: impl Fn(&str) -> Option<String>,
        without_value: impl Fn(&Arg) -> Option<String>,
    ) -> String {
        let table = self.table();
        let command = TrainArguments::augment_args(Command::new("asft"));
        let mut text = format!("# asft {}: the settings of a run.\n", env!("CARGO_PKG_VERSION"));
        let mut heading = None;
        for argument in command.get_arguments() {
            let key = argument.get_id().as_str();
            let comment = comment(key).map(|comment| format!("  # {comment}")).unwrap_or_default();
            let line = match table.get(key) {
                Some(value) => format!("{key} = {}{comment}\n", written(value)),
                None => match without_value(argument) {
                    Some(words) => format!("# {words}\n"),
                    None => continue,
                },
            };
            if heading != argument.get_help_heading() {
                heading = argument.get_help_heading();
                text.push_str(&format!("\n# {}\n", heading.unwrap_or_default()));
            }
            text.push_str(&line);
        }
        text
    }

    /// Identifies the run: two configurations with the same fingerprint make the same weights of the same inputs, up to where
    /// they end. The end, the intervals, the device, the inputs' paths and the folders written to are not part of it.
    pub fn fingerprint(&self) -> u64 {
        let mut lines: Vec<String> =
            self.decisive().iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        lines.sort_unstable();
        xxh3_64(lines.concat().as_bytes())
    }

    /// The settings in which two configurations differ and that may not change when a run is resumed. Empty if and only if
    /// the fingerprints are equal.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let (ours, theirs) = (self.decisive(), other.decisive());
        let only_theirs = theirs.keys().filter(|key| !ours.contains_key(*key));
        let shown = |value: Option<&Value>| value.map_or("-".to_owned(), written);
        ours.keys()
            .chain(only_theirs)
            .filter(|key| ours.get(*key) != theirs.get(*key))
            .map(|key| Difference {
                key: key.clone(),
                ours: shown(ours.get(key)),
                theirs: shown(theirs.get(key)),
            })
            .collect()
    }

    fn decisive(&self) -> Table {
        let decides = |key: &str| !MAY_CHANGE.contains(&key) && !INPUTS.contains(&key);
        self.table().into_iter().filter(|(key, _)| decides(key)).collect()
    }

    /// A setting as `run.toml` shows it; `-`: not set.
    pub fn shown(&self, key: &str) -> String {
        self.table().get(key).map_or_else(|| "-".to_owned(), written)
    }

    /// The settings that `run.toml` records.
    fn table(&self) -> Table {
        let mut arguments = self.to_arguments();
        arguments.run.overwrite_output_dir = None;
        arguments.run.resume = None;
        Table::try_from(arguments)
            .expect("every path came from TOML text, and every other type is one of TOML's")
    }
}

/// A value as TOML, small numbers as 6e-6; every number reads back as the same bits.
fn written(value: &Value) -> String {
    match value {
        Value::Float(number) if *number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
        value => value.to_string(),
    }
}

fn integer(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
