//! The settings of `asft eval pairs` and `asft eval mt-bench`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

use super::arguments::TemplateArguments;
use super::choice::{DeviceName, Dtype};
use super::resolve::{at_least, device, needs, not_negative};
use super::{ConfigError, Device, FormatConfig};
use crate::data::TemplateConfig;
use crate::generate::Sampling;

/// What somebody typed for `asft eval pairs`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Evaluation")]
pub struct EvalPairsArguments {
    /// Hugging Face folder of a Llama. May be repeated: one column each
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    pub model: Option<Vec<PathBuf>>,
    /// Preference pairs: JSON lines as for asft train
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Model that rewards and divergence are measured against
    #[arg(long, value_name = "DIR")]
    pub reference: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub template: TemplateArguments,
    /// Longest prompt plus answer in tokens; what is beyond it is cut [default: nothing is cut]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<i64>,
    /// Let each model answer the first N prompts, and compare with the chosen answers [default: 0]
    #[arg(long, value_name = "N")]
    pub generate: Option<i64>,
    /// Most tokens of an answer [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub max_new_tokens: Option<i64>,
    /// Divides the logits of answers; 0 takes the most probable token, 1 draws from the model itself [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub temperature: Option<f64>,
    /// Seed of the resamples and of drawn answers [default: 42]
    #[arg(long, value_name = "N")]
    pub seed: Option<i64>,
    /// Print JSON lines, one per model, instead of a table
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub json: Option<bool>,
    /// Write the answers here, one JSON line each
    #[arg(long, value_name = "FILE.jsonl")]
    pub answers: Option<PathBuf>,
    /// Where to compute [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU backend; the results do not depend on it [default: every core]
    #[arg(long, value_name = "N")]
    pub threads: Option<i64>,
    /// What weights and activations are stored in [default: bf16 on a GPU, f32 on the CPU]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    /// What the head's logits are stored in [default: f32]
    #[arg(long, value_name = "DTYPE")]
    pub head_logits: Option<Dtype>,
    /// Most tokens in a packed batch [default: what memory allows]
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens_per_batch: Option<i64>,
}

/// Everything that `asft eval pairs` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalPairsConfig {
    /// Hugging Face folders of the models; at least one.
    pub models: Vec<PathBuf>,
    /// File of pairs.
    pub data: PathBuf,
    /// Folder of the reference.
    pub reference: Option<PathBuf>,
    /// How conversations become text.
    pub template: TemplateConfig,
    /// Bound on prompt + answer in tokens, at least 2; `None`: no bound.
    pub max_length: Option<usize>,
    /// Prompts that are answered.
    pub generate: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// How answers are drawn; its seed is that of the resamples as well.
    pub sampling: Sampling,
    /// JSON lines instead of a table.
    pub json: bool,
    /// File for the answers.
    pub answers: Option<PathBuf>,
    /// The device.
    pub device: Device,
    /// Threads of the CPU backend; `None`: every core.
    pub threads: Option<usize>,
    /// Number formats.
    pub formats: FormatConfig,
    /// Bound on the tokens of a packed batch; `None`: by the memory plan.
    pub max_tokens_per_batch: Option<usize>,
}

impl EvalPairsArguments {
    /// The configuration of an evaluation.
    ///
    /// # Errors
    /// A missing model or file, a value out of range, or a setting of answers without answers.
    pub fn resolve(&self) -> Result<EvalPairsConfig, ConfigError> {
        let models = self.model.clone().filter(|models| !models.is_empty()).ok_or(ConfigError::Missing {
            what: "--model",
            hint: "give the folder of the model that is evaluated: --model DIR",
        })?;
        let data = self.data.clone().ok_or(ConfigError::Missing {
            what: "--data",
            hint: "give the file of preference pairs: --data FILE",
        })?;
        let generate = at_least("generate", self.generate, 0)?.unwrap_or(0);
        let of_answers = [
            ("max_new_tokens", self.max_new_tokens.is_some()),
            ("temperature", self.temperature.is_some()),
            ("answers", self.answers.is_some()),
        ];
        if let Some((key, _)) = of_answers.into_iter().find(|(_, given)| *given && generate == 0) {
            return Err(needs(key, "--generate"));
        }
        Ok(EvalPairsConfig {
            models,
            data,
            reference: self.reference.clone(),
            template: self.template.resolve(),
            max_length: at_least("max_length", self.max_length, 2)?,
            generate,
            max_new_tokens: at_least("max_new_tokens", self.max_new_tokens, 1)?.unwrap_or(512),
            sampling: Sampling {
                temperature: not_negative("temperature", self.temperature.unwrap_or(0.0))?,
                seed: at_least("seed", self.seed, 0)?.unwrap_or(42) as u64,
                ..Sampling::GREEDY
            },
            json: self.json.unwrap_or(false),
            answers: self.answers.clone(),
            device: device(self.device)?,
            threads: at_least("threads", self.threads, 1)?,
            formats: FormatConfig {
                dtype: self.dtype.map(Into::into),
                optimizer_state: None,
                head_logits: self.head_logits.map(Into::into).or(Some(crate::backend::Element::F32)),
            },
            max_tokens_per_batch: at_least("max_tokens_per_batch", self.max_tokens_per_batch, 1)?,
        })
    }
}

/// What somebody typed for `asft eval mt-bench`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Evaluation")]
pub struct MtBenchArguments {
    /// Hugging Face folder of a Llama with a chat template. May be repeated
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    pub model: Option<Vec<PathBuf>>,
    /// FastChat's question.jsonl
    #[arg(long, value_name = "FILE.jsonl")]
    pub questions: Option<PathBuf>,
    /// Folder for the answers, one file per model; answers that are there are kept
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub template: TemplateArguments,
    /// Most tokens of an answer [default: 1024]
    #[arg(long, value_name = "TOKENS")]
    pub max_new_tokens: Option<i64>,
    /// Seed of the draws [default: 42]
    #[arg(long, value_name = "N")]
    pub seed: Option<i64>,
    /// Where to compute [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU backend; the results do not depend on it [default: every core]
    #[arg(long, value_name = "N")]
    pub threads: Option<i64>,
    /// What weights, activations and the cache are stored in [default: bf16 on a GPU, f32 on the CPU]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
}

/// Everything that `asft eval mt-bench` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtBenchConfig {
    /// Hugging Face folders of the models; at least one.
    pub models: Vec<PathBuf>,
    /// File of questions.
    pub questions: PathBuf,
    /// Folder for the answers.
    pub output: PathBuf,
    /// How conversations become text.
    pub template: TemplateConfig,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// The device.
    pub device: Device,
    /// Threads of the CPU backend; `None`: every core.
    pub threads: Option<usize>,
    /// Number formats.
    pub formats: FormatConfig,
}

impl MtBenchArguments {
    /// The configuration of a run of MT-Bench.
    ///
    /// # Errors
    /// A missing model, file or folder, or a value out of range.
    pub fn resolve(&self) -> Result<MtBenchConfig, ConfigError> {
        let models = self.model.clone().filter(|models| !models.is_empty()).ok_or(ConfigError::Missing {
            what: "--model",
            hint: "give the folder of the model that answers: --model DIR",
        })?;
        let questions = self.questions.clone().ok_or(ConfigError::Missing {
            what: "--questions",
            hint: "give FastChat's file of questions: --questions question.jsonl",
        })?;
        let output = self.output.clone().ok_or(ConfigError::Missing {
            what: "--output",
            hint: "give the folder for the answers, FastChat's data/mt_bench/model_answer: --output DIR",
        })?;
        Ok(MtBenchConfig {
            models,
            questions,
            output,
            template: self.template.resolve(),
            max_new_tokens: at_least("max_new_tokens", self.max_new_tokens, 1)?.unwrap_or(1024),
            seed: at_least("seed", self.seed, 0)?.unwrap_or(42) as u64,
            device: device(self.device)?,
            threads: at_least("threads", self.threads, 1)?,
            formats: FormatConfig {
                dtype: self.dtype.map(Into::into),
                optimizer_state: None,
                head_logits: None,
            },
        })
    }
}
