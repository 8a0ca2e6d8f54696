//! The settings of `asft score`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

use super::arguments::{TemplateArguments, one_or_many_names};
use super::choice::{DeviceName, Dtype, TruncationMode};
use super::resolve::{at_least, columns, device};
use super::{ConfigError, Device, FormatConfig};
use crate::data::{ColumnMap, TemplateConfig, Truncation};

/// What somebody typed for `asft score`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Scoring")]
pub struct ScoreArguments {
    /// Hugging Face folder of the Llama that scores, or ORG/NAME of one in the local Hugging Face cache
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    pub model: Option<PathBuf>,
    /// Rows to score: JSON lines as for asft train
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Write here, one JSON line per row [default: stdout]
    #[arg(long, value_name = "FILE.jsonl")]
    pub output: Option<PathBuf>,
    /// Add the log-prob of every token
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub tokens: Option<bool>,
    /// A column by its name in the file: prompt=question. May be repeated
    #[arg(long, value_name = "COLUMN=NAME")]
    #[serde(deserialize_with = "one_or_many_names")]
    pub map: Option<Vec<String>>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub template: TemplateArguments,
    /// Longest prompt plus answer in tokens [default: no bound]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<i64>,
    /// What becomes of a longer answer: its end is cut, or the row is skipped [default: keep_start]
    #[arg(long, value_name = "MODE")]
    pub truncation_mode: Option<TruncationMode>,
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
    /// What the head's logits are stored in [default: as --dtype]
    #[arg(long, value_name = "DTYPE")]
    pub head_logits: Option<Dtype>,
    /// Most tokens in a packed batch [default: what memory allows]
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens_per_batch: Option<i64>,
}

/// Everything that `asft score` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreConfig {
    /// Hugging Face folder of the model.
    pub model: PathBuf,
    /// File of rows.
    pub data: PathBuf,
    /// File for the scores; `None`: stdout.
    pub output: Option<PathBuf>,
    /// Whether each token's log-prob is written as well.
    pub tokens: bool,
    /// Columns that go by other names.
    pub columns: ColumnMap,
    /// How conversations become text.
    pub template: TemplateConfig,
    /// Bound on prompt + answer in tokens, at least 2; `None`: no bound.
    pub max_length: Option<usize>,
    /// What becomes of longer answers.
    pub truncation: Truncation,
    /// The device.
    pub device: Device,
    /// Threads of the CPU backend; `None`: every core.
    pub threads: Option<usize>,
    /// Number formats.
    pub formats: FormatConfig,
    /// Bound on the tokens of a packed batch; `None`: by the memory plan.
    pub max_tokens_per_batch: Option<usize>,
}

impl ScoreArguments {
    /// The configuration of a scoring run.
    ///
    /// # Errors
    /// A missing model or file, or a value out of range.
    pub fn resolve(&self) -> Result<ScoreConfig, ConfigError> {
        let model = self.model.clone().ok_or(ConfigError::Missing {
            what: "--model",
            hint: "give the folder of the model that scores: --model DIR",
        })?;
        let data = self.data.clone().ok_or(ConfigError::Missing {
            what: "--data",
            hint: "give the file of rows to score: --data FILE",
        })?;
        Ok(ScoreConfig {
            model,
            data,
            output: self.output.clone(),
            tokens: self.tokens.unwrap_or(false),
            columns: columns(self.map.as_deref())?,
            template: self.template.resolve(),
            max_length: at_least("max_length", self.max_length, 2)?,
            truncation: self.truncation_mode.map(Into::into).unwrap_or_default(),
            device: device(self.device)?,
            formats: FormatConfig {
                dtype: self.dtype.map(Into::into),
                optimizer_state: None,
                head_logits: self.head_logits.map(Into::into),
            },
            threads: at_least("threads", self.threads, 1)?,
            max_tokens_per_batch: at_least("max_tokens_per_batch", self.max_tokens_per_batch, 1)?,
        })
    }
}
