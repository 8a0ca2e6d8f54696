//! Every setting of `asft train` as it is typed: a flag, an `ASFT_*` variable, and a key of the TOML file, under one name.
//!
//! The doc comments are the help text. Field names are the keys of the file; a default that stands in a help text as
//! `[default: ...]` is the one that [`TrainArguments::resolve`] fills in (a test compares the two). Numbers are wide
//! and signed here, so that a value out of range reaches the message that explains the range.

use std::marker::PhantomData;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Deserializer, Serialize};

use super::choice::{
    DeviceName, Dtype, Freeze, OptimizerStateName, RecomputeName, Redraw, ReferenceMode, Resume, SaveDtype,
    Scheduler, TruncationMode,
};
use crate::data::{TemplateChoice, TemplateConfig, TemplateDate};
use crate::objective::Parameters;

/// What somebody typed for `asft train` and `asft plan`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "the fields are the groups of the help text; each group documents its settings"
)]
pub struct TrainArguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub objective: ObjectiveArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub optimizer: OptimizerArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub schedule: ScheduleArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub evaluation: EvaluationArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceArguments,
}

/// The group "Model" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Model")]
pub struct ModelArguments {
    /// Hugging Face folder of the Llama to train (config.json, safetensors, tokenizer files), or ORG/NAME of one
    /// in the local Hugging Face cache
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    pub model: Option<PathBuf>,
    /// Start from random weights of this configuration instead, drawn from --seed
    #[arg(long, value_name = "CONFIG.json")]
    pub init: Option<PathBuf>,
    /// Folder (or ORG/NAME) with the tokenizer files for --init; not needed for pre-tokenised data
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
}

/// The group "Data" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Data")]
pub struct DataArguments {
    /// Rows with prompt, chosen, rejected (strings or message lists), or chosen, rejected that hold the prompt, or
    /// *_input_ids; for sft also messages, or prompt, completion. JSON lines or a JSON list, also .gz and .zst, or
    /// Parquet. May be repeated; FILE:0.5 takes half of a file's rows, FILE:2 takes each twice
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    #[serde(deserialize_with = "one_or_many")]
    pub data: Option<Vec<PathBuf>>,
    /// A column by its name in the files: prompt=question. May be repeated
    #[arg(long, value_name = "COLUMN=NAME")]
    #[serde(deserialize_with = "one_or_many_names")]
    pub map: Option<Vec<String>>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub template: TemplateArguments,
    /// Longest prompt plus answer in tokens [default: 1024]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<i64>,
    /// What becomes of a longer answer: its end is cut, or the row is dropped; both are counted [default: keep_start]
    #[arg(long, value_name = "MODE")]
    pub truncation_mode: Option<TruncationMode>,
    /// Drop pairs whose two answers have the same tokens
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub drop_identical: Option<bool>,
    /// Read only the first N rows of each --data file
    #[arg(long, value_name = "N")]
    pub max_samples: Option<i64>,
    /// Stop at rows that cannot be used instead of dropping them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub strict: Option<bool>,
    /// Neither keep token ids for later runs nor use those that are kept
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub no_cache: Option<bool>,
    /// Folder that keeps token ids for later runs [default: asft/tokens in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub data_cache: Option<PathBuf>,
    /// Take the pairs in the order of the file in every epoch
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub no_shuffle: Option<bool>,
}

/// How conversations become text, for every command that reads rows.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateArguments {
    /// Chat template in place of the model folder's, for a base model: llama3, chatml, or a file of Jinja. The trained model
    /// carries it
    #[arg(long, value_name = "NAME|FILE")]
    pub chat_template: Option<PathBuf>,
    /// The date that the template's strftime_now gives [default: none: templates that ask for today print their fixed date]
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub template_date: Option<TemplateDate>,
}

impl TemplateArguments {
    /// What they mean.
    pub fn resolve(&self) -> TemplateConfig {
        let choice = self.chat_template.as_deref().map(TemplateChoice::parse);
        TemplateConfig { choice, date: self.template_date }
    }

    /// The arguments that mean this.
    pub(super) fn of(config: &TemplateConfig) -> Self {
        let chat_template = config.choice.as_ref().map(TemplateChoice::to_path);
        Self { chat_template, template_date: config.date }
    }
}

/// The group "Objective" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Objective")]
pub struct ObjectiveArguments {
    /// What to train for: asft, sft, dpo, orpo, ... (`asft objectives` lists and explains them), or a weighted sum such as
    /// dpo:0.8,sft:0.2 [default: asft]
    #[arg(long, value_name = "NAME", visible_alias = "loss-type")]
    pub objective: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub parameters: Parameters,
    /// Reference model (a folder or ORG/NAME), for objectives that need one; may be repeated for mrpo [default: the initial
    /// weights]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "one_or_many")]
    pub reference: Option<Vec<PathBuf>>,
    /// Where reference log-probs come from: computed once before training and kept, or from the model itself, which then stays in
    /// memory and scores every micro-batch (the same numbers) [default: cached]
    #[arg(long, value_name = "MODE")]
    pub reference_mode: Option<ReferenceMode>,
    /// Folder that keeps reference log-probs for later runs [default: asft/reference in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub reference_cache: Option<PathBuf>,
}

/// The group "Optimisation" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Optimisation")]
pub struct OptimizerArguments {
    /// Pairs per optimizer step, cut into micro-batches as memory allows [default: 128]
    #[arg(long, value_name = "PAIRS")]
    pub batch_size: Option<i64>,
    /// Pairs per micro-batch: with --gradient-accumulation-steps another way to say --batch-size
    #[arg(long, value_name = "PAIRS")]
    pub per_device_train_batch_size: Option<i64>,
    /// Micro-batches per optimizer step, with --per-device-train-batch-size [default there: 1]
    #[arg(long, value_name = "N")]
    pub gradient_accumulation_steps: Option<i64>,
    /// Highest learning rate [default: by objective; asft 6e-6, dpo and orpo 1e-6]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay; 1-dimensional tensors have none [default: 0]
    #[arg(long, value_name = "RATE")]
    pub weight_decay: Option<f64>,
    /// Decay of AdamW's mean [default: 0.9]
    #[arg(long, value_name = "NUMBER")]
    pub adam_beta1: Option<f64>,
    /// Decay of AdamW's mean square [default: 0.999]
    #[arg(long, value_name = "NUMBER")]
    pub adam_beta2: Option<f64>,
    /// Added to the root of AdamW's mean square [default: 1e-8]
    #[arg(long, value_name = "NUMBER")]
    pub adam_epsilon: Option<f64>,
    /// Largest global gradient norm; 0 turns clipping off [default: 1]
    #[arg(long, value_name = "NORM")]
    pub max_grad_norm: Option<f64>,
    /// Leave about half of every layer's parameters as they are, another half every round (Half Fine-Tuning): less work, less
    /// forgetting [default: none]
    #[arg(long, value_name = "PARAMETERS")]
    pub freeze: Option<Freeze>,
    /// When another half is drawn: every epoch, or every N optimizer steps [default there: epoch]
    #[arg(long, value_name = "epoch|STEPS", value_parser = Redraw::parse)]
    pub hft_redraw: Option<Redraw>,
    /// Leave out the update of a step whose loss or gradient is not finite and go on, instead of stopping there; ten in a row
    /// stop the run all the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub skip_nonfinite: Option<bool>,
}

/// The group "Schedule" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Schedule")]
pub struct ScheduleArguments {
    /// Passes over the data; may be a fraction [default: 1]
    #[arg(long, value_name = "EPOCHS")]
    pub num_train_epochs: Option<f64>,
    /// Optimizer steps; beats --num-train-epochs
    #[arg(long, value_name = "STEPS")]
    pub max_steps: Option<i64>,
    /// Shape of the learning rate after the warm-up [default: linear]
    #[arg(long, value_name = "NAME")]
    pub lr_scheduler_type: Option<Scheduler>,
    /// Steps over which the learning rate rises from 0 [default: 0]
    #[arg(long, value_name = "STEPS")]
    pub warmup_steps: Option<i64>,
    /// The same as a share of all steps, rounded up
    #[arg(long, value_name = "SHARE")]
    pub warmup_ratio: Option<f64>,
    /// Seed of the shuffle, the split and the random weights [default: 42]
    #[arg(long, value_name = "N")]
    pub seed: Option<i64>,
}

/// The group "Evaluation" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Evaluation")]
pub struct EvaluationArguments {
    /// Held-out pairs, evaluated before the first step and after the last. May be repeated
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "one_or_many")]
    pub eval_data: Option<Vec<PathBuf>>,
    /// Hold out this share of --data instead
    #[arg(long, value_name = "SHARE")]
    pub eval_split: Option<f64>,
    /// Read only the first N rows of each --eval-data file
    #[arg(long, value_name = "N")]
    pub max_eval_samples: Option<i64>,
    /// Evaluate every N steps as well; 0 never does [default: 0]
    #[arg(long, value_name = "STEPS")]
    pub eval_steps: Option<i64>,
    /// At every evaluation answer the first N held-out prompts greedily, into samples.jsonl, and count exact matches with the
    /// chosen answers [default: 0]
    #[arg(long, value_name = "N")]
    pub sample_answers: Option<i64>,
    /// Make the model of the best evaluation the result, not that of the last step; needs --eval-steps. Its checkpoint is
    /// saved whatever --save-steps says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub load_best_model_at_end: Option<bool>,
    /// What the best evaluation is best at: a metric of metrics.jsonl, with or without its eval_ [default: eval_loss, where
    /// the best is asked for]
    #[arg(long, value_name = "METRIC")]
    pub metric_for_best_model: Option<String>,
    /// Whether more of that metric is better [default: by its name; less of a loss, more of accuracies and margins]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub greater_is_better: Option<bool>,
    /// Stop after N evaluations in a row without improvement; needs --eval-steps
    #[arg(long, value_name = "N")]
    pub early_stopping_patience: Option<i64>,
    /// What counts as improvement: more than this [default there: 0]
    #[arg(long, value_name = "NUMBER")]
    pub early_stopping_threshold: Option<f64>,
}

/// The group "Run folder" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Run folder")]
pub struct RunArguments {
    /// Folder of the run: the trained model, metrics.jsonl, run.toml, curves.svg, checkpoint-N/
    #[arg(long, value_name = "DIR", visible_alias = "output-dir")]
    pub output: Option<PathBuf>,
    /// Delete the folder first if it holds a run.toml of asft
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub overwrite_output_dir: Option<bool>,
    /// Continue from this checkpoint, without DIR from the newest of --output
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "true",
          value_parser = Resume::parse, visible_alias = "resume-from-checkpoint")]
    pub resume: Option<Resume>,
    /// Save a checkpoint every N steps; 0 saves only the result [default: 500]
    #[arg(long, value_name = "STEPS")]
    pub save_steps: Option<i64>,
    /// Keep the newest N checkpoints, and the best one [default: all]
    #[arg(long, value_name = "N")]
    pub save_total_limit: Option<i64>,
    /// Type of the saved weights [default: that of the source]
    #[arg(long, value_name = "DTYPE")]
    pub save_dtype: Option<SaveDtype>,
    /// Report every N steps on stderr; metrics.jsonl always has every step [default: 10]
    #[arg(long, value_name = "STEPS")]
    pub logging_steps: Option<i64>,
    /// Start this shell command and write every line of metrics.jsonl to its stdin as well
    #[arg(long, value_name = "COMMAND")]
    pub log_command: Option<String>,
}

/// The group "Device" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Device")]
pub struct DeviceArguments {
    /// Where to compute [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU backend; the results do not depend on it [default: every core]
    #[arg(long, value_name = "N")]
    pub threads: Option<i64>,
    /// What weights and activations are stored in; on the CPU, what matrix products round them to [default: bf16 on a GPU,
    /// f32 on the CPU]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    /// What AdamW keeps of each parameter [default: f32]
    #[arg(long, value_name = "STATE")]
    pub optimizer_state: Option<OptimizerStateName>,
    /// What the head's logits are stored in [default: as --dtype]
    #[arg(long, value_name = "DTYPE")]
    pub head_logits: Option<Dtype>,
    /// What the backward pass computes again instead of keeping it [default: auto]
    #[arg(long, value_name = "LEVEL")]
    pub recompute: Option<RecomputeName>,
    /// Most tokens in a micro-batch [default: what memory allows]
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens_per_batch: Option<i64>,
    /// Response tokens whose logits are in memory at once [default: by the memory plan]
    #[arg(long, value_name = "TOKENS")]
    pub head_rows: Option<i64>,
}

/// A list of paths, or one path without the brackets.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    deserializer.deserialize_any(OneOrMany("a path or a list of paths", PhantomData)).map(Some)
}

/// A list of `column=name`, or one without the brackets.
pub(super) fn one_or_many_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let expected = "a string such as \"prompt=question\" or a list of such strings";
    deserializer.deserialize_any(OneOrMany(expected, PhantomData)).map(Some)
}

/// Reads one string or a list of strings; the text says what is expected.
struct OneOrMany<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de> + for<'a> From<&'a str>> serde::de::Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(self.0)
    }

    fn visit_str<E>(self, value: &str) -> Result<Vec<T>, E> {
        Ok(vec![T::from(value)])
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        Ok(values)
    }
}
