//! The settings of `asft generate`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

use super::arguments::TemplateArguments;
use super::choice::{DeviceName, Dtype};
use super::resolve::{at_least, conflict, device, not_negative, range};
use super::{ConfigError, Device, FormatConfig};
use crate::data::TemplateConfig;
use crate::generate::Sampling;

/// What somebody typed for `asft generate`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateArguments {
    /// Hugging Face folder of the Llama that answers
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path", help_heading = "Prompts")]
    pub model: Option<PathBuf>,
    /// Answer this; without any prompt, a chat on the terminal
    #[arg(long, value_name = "TEXT", help_heading = "Prompts")]
    pub prompt: Option<String>,
    /// Answer every prompt of a file: a .txt with one per line, else rows with "prompt" or "messages" as asft train reads them
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    pub prompts: Option<PathBuf>,
    /// The same with token ids, one JSON list per line; for folders without a tokenizer
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    pub prompt_ids: Option<PathBuf>,
    /// Chat, even where the input is not a terminal
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = "Prompts")]
    pub chat: Option<bool>,
    #[command(flatten)]
    #[serde(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub template: TemplateArguments,
    /// Continue strings as they are, without the chat template
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = "Prompts")]
    pub raw: Option<bool>,
    /// What the system says first
    #[arg(long, value_name = "TEXT", help_heading = "Prompts")]
    pub system: Option<String>,
    /// Text that every answer is made to begin with
    #[arg(long, value_name = "TEXT", help_heading = "Prompts")]
    pub prefix: Option<String>,
    /// Answers to each prompt; the prompt is computed once [default: 1]
    #[arg(long, value_name = "N", visible_alias = "num-return-sequences", help_heading = "Sampling")]
    pub n: Option<i64>,
    /// Divides the logits; 0 takes the most probable token [default: 0]
    #[arg(long, value_name = "NUMBER", help_heading = "Sampling")]
    pub temperature: Option<f64>,
    /// Draw from the N most probable tokens only; 0: from all [default: 0]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub top_k: Option<i64>,
    /// Draw from the most probable tokens that together have this probability [default: 1]
    #[arg(long, value_name = "SHARE", help_heading = "Sampling")]
    pub top_p: Option<f64>,
    /// Draw from tokens at least this times as probable as the most probable one [default: 0]
    #[arg(long, value_name = "SHARE", help_heading = "Sampling")]
    pub min_p: Option<f64>,
    /// Divides positive logits of tokens that were there before, multiplies negative ones [default: 1]
    #[arg(long, value_name = "NUMBER", help_heading = "Sampling")]
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws; the same seed gives the same text, whatever else is answered with it [default: 42]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub seed: Option<i64>,
    /// Most tokens of an answer [default: 512]
    #[arg(long, value_name = "TOKENS", help_heading = "End of an answer")]
    pub max_new_tokens: Option<i64>,
    /// Text that ends an answer and is not part of it. May be repeated
    #[arg(long, value_name = "TEXT", help_heading = "End of an answer")]
    pub stop: Option<Vec<String>>,
    /// Token id that ends an answer, beside the model's own. May be repeated
    #[arg(long, value_name = "ID", help_heading = "End of an answer")]
    pub stop_token: Option<Vec<i64>>,
    /// Go on behind the model's own end tokens
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = "End of an answer")]
    pub ignore_eos: Option<bool>,
    /// Write here, one JSON line per answer [default: stdout]
    #[arg(long, value_name = "FILE.jsonl", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// JSON lines instead of text for --prompt
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = "Output")]
    pub json: Option<bool>,
    /// Where to compute [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Device")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU backend; the results do not depend on it [default: every core]
    #[arg(long, value_name = "N", help_heading = "Device")]
    pub threads: Option<i64>,
    /// What weights, activations and the cache are stored in [default: bf16 on a GPU, f32 on the CPU]
    #[arg(long, value_name = "DTYPE", help_heading = "Device")]
    pub dtype: Option<Dtype>,
    /// What the head's logits are stored in [default: f32]
    #[arg(long, value_name = "DTYPE", help_heading = "Device")]
    pub head_logits: Option<Dtype>,
    /// Most answers made side by side [default: 64, or what memory allows]
    #[arg(long, value_name = "N", help_heading = "Device")]
    pub batch_size: Option<i64>,
    /// Longest chat in tokens; the memory for it is taken at the start [default: 4096, or the model's positions]
    #[arg(long, value_name = "TOKENS", help_heading = "Device")]
    pub context: Option<i64>,
}

/// Where prompts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptSource {
    /// One that was typed.
    Text(String),
    /// A file of text, messages or JSON rows.
    File(PathBuf),
    /// A file of token ids.
    Ids(PathBuf),
    /// Turn by turn.
    Chat,
}

/// Everything that `asft generate` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// Hugging Face folder of the model.
    pub model: PathBuf,
    /// Where prompts come from.
    pub source: PromptSource,
    /// How conversations become text.
    pub template: TemplateConfig,
    /// Strings are continued as they are.
    pub raw: bool,
    /// What the system says first.
    pub system: Option<String>,
    /// Text that every answer begins with; may be empty.
    pub prefix: String,
    /// Answers to each prompt.
    pub samples: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Texts that end an answer; none is empty.
    pub stop: Vec<String>,
    /// Tokens that end an answer, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// Whether the model's own end tokens end nothing.
    pub ignore_eos: bool,
    /// File for the answers; `None`: stdout.
    pub output: Option<PathBuf>,
    /// JSON lines also where text would be shown.
    pub json: bool,
    /// The device.
    pub device: Device,
    /// Threads of the CPU backend; `None`: every core.
    pub threads: Option<usize>,
    /// Number formats.
    pub formats: FormatConfig,
    /// Most answers side by side; `None`: by memory.
    pub batch_size: Option<usize>,
    /// Longest chat in tokens; `None`: the default.
    pub context: Option<usize>,
}

impl GenerateArguments {
    /// The configuration of a generation. `terminal` says whether somebody can chat.
    ///
    /// # Errors
    /// A missing model or prompt, several sources of prompts, or a value out of range.
    pub fn resolve(&self, terminal: bool) -> Result<GenerateConfig, ConfigError> {
        let model = self.model.clone().ok_or(ConfigError::Missing {
            what: "--model",
            hint: "give the folder of the model that answers: --model DIR",
        })?;
        let source = self.source(terminal)?;
        let samples = at_least("n", self.n, 1)?.unwrap_or(1);
        if source == PromptSource::Chat && samples > 1 {
            return Err(conflict("n", "chat", "a chat has one answer to each turn"));
        }
        let stop = self.stop.clone().unwrap_or_default();
        if stop.iter().any(String::is_empty) {
            return Err(range("stop", "\"\"", "a text of at least one character"));
        }
        let token = |&id: &i64| {
            u32::try_from(id)
                .map_err(|_| range("stop_token", id, "a token id: at least 0, at most 4294967295"))
        };
        Ok(GenerateConfig {
            model,
            source,
            template: self.template.resolve(),
            raw: self.raw.unwrap_or(false),
            system: self.system.clone(),
            prefix: self.prefix.clone().unwrap_or_default(),
            samples,
            sampling: self.sampling()?,
            max_new_tokens: at_least("max_new_tokens", self.max_new_tokens, 1)?.unwrap_or(512),
            stop,
            stop_tokens: self.stop_token.iter().flatten().map(token).collect::<Result<_, _>>()?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            output: self.output.clone(),
            json: self.json.unwrap_or(false),
            device: device(self.device)?,
            threads: at_least("threads", self.threads, 1)?,
            formats: FormatConfig {
                dtype: self.dtype.map(Into::into),
                optimizer_state: None,
                head_logits: self.head_logits.map(Into::into),
            },
            batch_size: at_least("batch_size", self.batch_size, 1)?,
            context: at_least("context", self.context, 2)?,
        })
    }

    fn source(&self, terminal: bool) -> Result<PromptSource, ConfigError> {
        let chat = self.chat.unwrap_or(false);
        let given = [
            ("prompt", self.prompt.clone().map(PromptSource::Text)),
            ("prompts", self.prompts.clone().map(PromptSource::File)),
            ("prompt_ids", self.prompt_ids.clone().map(PromptSource::Ids)),
            ("chat", chat.then_some(PromptSource::Chat)),
        ];
        let mut given = given.into_iter().filter_map(|(key, source)| Some((key, source?)));
        match (given.next(), given.next()) {
            (Some((first, _)), Some((second, _))) => {
                Err(conflict(first, second, "prompts come from one place: choose one"))
            }
            (Some((_, source)), None) => Ok(source),
            (None, _) if terminal => Ok(PromptSource::Chat),
            (None, _) => Err(ConfigError::Missing {
                what: "--prompt",
                hint: "give --prompt TEXT, --prompts FILE or --prompt-ids FILE; a chat needs a terminal, or --chat",
            }),
        }
    }

    fn sampling(&self) -> Result<Sampling, ConfigError> {
        let share = |key: &str, value: Option<f64>, default: f64| match value.unwrap_or(default) {
            value if (0.0..=1.0).contains(&value) => Ok(value),
            value => Err(range(key, value, "between 0 and 1")),
        };
        let repetition_penalty = not_negative("repetition_penalty", self.repetition_penalty.unwrap_or(1.0))?;
        if repetition_penalty == 0.0 {
            return Err(range("repetition_penalty", 0, "above 0"));
        }
        Ok(Sampling {
            temperature: not_negative("temperature", self.temperature.unwrap_or(0.0))?,
            top_k: at_least("top_k", self.top_k, 0)?.filter(|&k| k > 0),
            top_p: share("top_p", self.top_p, 1.0)?,
            min_p: share("min_p", self.min_p, 0.0)?,
            repetition_penalty,
            seed: at_least("seed", self.seed, 0)?.unwrap_or(42) as u64,
        })
    }
}
