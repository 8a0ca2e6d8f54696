//! Every setting of `asft train` as it is typed: a flag, an `ASFT_*` variable, and a key of the TOML file, under one name.
//!
//! The doc comments are the help text. Field names are the keys of the file; a default that stands in a help text as
//! `[default: ...]` is the one that [`TrainArguments::resolve`] fills in (a test compares the two). Numbers are wide
//! and signed here, so that a value out of range reaches the message that explains the range.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Deserializer, Serialize};

use super::choice::{DeviceName, Dtype, OptimizerStateName, RecomputeName, Resume, SaveDtype, Scheduler};
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
    /// Hugging Face folder of the Llama to train (config.json, safetensors, tokenizer files)
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    pub model: Option<PathBuf>,
    /// Start from random weights of this configuration instead, drawn from --seed
    #[arg(long, value_name = "CONFIG.json")]
    pub init: Option<PathBuf>,
    /// Folder with the tokenizer files for --init; not needed for pre-tokenised data
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
}

/// The group "Data" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Data")]
pub struct DataArguments {
    /// Preference pairs: JSON lines with prompt, chosen, rejected (strings or message lists) or
    /// prompt_input_ids, chosen_input_ids, rejected_input_ids. May be repeated
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "one_or_many")]
    pub data: Option<Vec<PathBuf>>,
    /// Longest prompt plus answer in tokens; what is beyond it is cut and counted [default: 1024]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<i64>,
    /// Take the pairs in the order of the file in every epoch
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub no_shuffle: Option<bool>,
}

/// The group "Objective" of the help text.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Objective")]
pub struct ObjectiveArguments {
    /// What to train for: asft, sft, dpo, orpo; `asft objectives` explains them [default: asft]
    #[arg(long, value_name = "NAME", visible_alias = "loss-type")]
    pub objective: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub parameters: Parameters,
    /// Reference model, for objectives that need one [default: the initial weights]
    #[arg(long, value_name = "DIR")]
    pub reference: Option<PathBuf>,
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
    /// Evaluate every N steps as well; 0 never does [default: 0]
    #[arg(long, value_name = "STEPS")]
    pub eval_steps: Option<i64>,
    /// At the end answer N held-out prompts greedily and count exact matches with the chosen answer [default: 0]
    #[arg(long, value_name = "N")]
    pub sample_answers: Option<i64>,
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
    /// Keep the newest N checkpoints [default: all]
    #[arg(long, value_name = "N")]
    pub save_total_limit: Option<i64>,
    /// Type of the saved weights [default: that of the source]
    #[arg(long, value_name = "DTYPE")]
    pub save_dtype: Option<SaveDtype>,
    /// Report every N steps on stderr; metrics.jsonl always has every step [default: 10]
    #[arg(long, value_name = "STEPS")]
    pub logging_steps: Option<i64>,
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
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<PathBuf>;
        fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
            formatter.write_str("a path or a list of paths")
        }
        fn visit_str<E>(self, value: &str) -> Result<Vec<PathBuf>, E> {
            Ok(vec![PathBuf::from(value)])
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<PathBuf>, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = items.next_element()? {
                paths.push(path);
            }
            Ok(paths)
        }
    }
    deserializer.deserialize_any(Visitor).map(Some)
}
