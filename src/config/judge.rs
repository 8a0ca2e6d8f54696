//! The settings of `asft eval judge`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ConfigError;
use super::resolve::{at_least, not_negative, range};

/// What somebody typed for `asft eval judge`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Evaluation")]
pub struct JudgeArguments {
    /// Answers of a model, as asft eval mt-bench writes them; the file's name is the model's. May be repeated
    #[arg(long, value_name = "FILE.jsonl")]
    pub answers: Option<Vec<PathBuf>>,
    /// Answers that the others are compared with, in pairs, instead of rating each by itself
    #[arg(long, value_name = "FILE.jsonl")]
    pub baseline: Option<PathBuf>,
    /// FastChat's question.jsonl
    #[arg(long, value_name = "FILE.jsonl")]
    pub questions: Option<PathBuf>,
    /// FastChat's judge_prompts.jsonl
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: Option<PathBuf>,
    /// Reference answers to questions of math, reasoning and coding: FastChat's reference_answer/gpt-4.jsonl
    #[arg(long, value_name = "FILE.jsonl")]
    pub references: Option<PathBuf>,
    /// File for the judgments, in FastChat's model_judgment format; those that are there are kept
    #[arg(long, value_name = "FILE.jsonl")]
    pub output: Option<PathBuf>,
    /// OpenAI-compatible address of the judge: https://HOST/v1
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Name of the judge there
    #[arg(long, value_name = "NAME")]
    pub judge_model: Option<String>,
    /// Environment variable that holds the key; without it none is sent
    #[arg(long, value_name = "NAME")]
    pub key_variable: Option<String>,
    /// Most tokens of a judgment [default: 2048]
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens: Option<i64>,
    /// Fields laid over those of each call, null to leave one out: {"max_tokens": null, "max_completion_tokens": 2048}
    #[arg(long, value_name = "JSON")]
    pub request_fields: Option<String>,
    /// Calls at a time [default: 1]
    #[arg(long, value_name = "N")]
    pub parallel: Option<i64>,
    /// Tries of one call before it is given up [default: 8]
    #[arg(long, value_name = "N")]
    pub attempts: Option<i64>,
    /// Wait after the first failed try, doubled after each other up to a minute [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub retry_wait: Option<f64>,
    /// Longest that one try may take [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Print the table as JSON lines, one per model
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub json: Option<bool>,
}

/// Everything that `asft eval judge` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeConfig {
    /// Files of answers; at least one.
    pub answers: Vec<PathBuf>,
    /// Answers to compare with.
    pub baseline: Option<PathBuf>,
    /// File of questions.
    pub questions: PathBuf,
    /// File of prompts.
    pub prompts: PathBuf,
    /// File of reference answers.
    pub references: Option<PathBuf>,
    /// File for the judgments.
    pub output: PathBuf,
    /// Address of the judge.
    pub endpoint: String,
    /// Its name there.
    pub judge_model: String,
    /// Variable with the key.
    pub key_variable: Option<String>,
    /// Most tokens of a judgment.
    pub max_tokens: usize,
    /// Fields laid over those of each call.
    pub request_fields: Map<String, Value>,
    /// Calls at a time.
    pub parallel: usize,
    /// Tries of one call.
    pub attempts: usize,
    /// Wait after the first failed try.
    pub retry_wait: Duration,
    /// Longest that one try may take.
    pub timeout: Duration,
    /// JSON lines instead of a table.
    pub json: bool,
}

/// Seconds that no wait is longer than: a day.
const LONGEST: f64 = 86400.0;

impl JudgeArguments {
    /// The configuration of a judgment.
    ///
    /// # Errors
    /// A missing file, address or name, or a value out of range.
    pub fn resolve(&self) -> Result<JudgeConfig, ConfigError> {
        let missing = |what, hint| ConfigError::Missing { what, hint };
        let answers = self.answers.clone().filter(|answers| !answers.is_empty());
        let endpoint = self.endpoint.clone();
        let seconds = |key, value: Option<f64>, default: f64| {
            let value = not_negative(key, value.unwrap_or(default))?;
            if value > LONGEST { Err(range(key, value, "at most a day, 86400")) } else { Ok(value) }
        };
        let timeout = seconds("timeout", self.timeout, 600.0)?;
        if timeout == 0.0 {
            return Err(range("timeout", timeout, "above 0"));
        }
        Ok(JudgeConfig {
            answers: answers.ok_or_else(|| {
                missing("--answers", "give the answers that asft eval mt-bench wrote: --answers FILE.jsonl")
            })?,
            baseline: self.baseline.clone(),
            questions: self.questions.clone().ok_or_else(|| {
                missing("--questions", "give FastChat's file of questions: --questions question.jsonl")
            })?,
            prompts: self.prompts.clone().ok_or_else(|| {
                missing("--prompts", "give FastChat's file of prompts: --prompts judge_prompts.jsonl")
            })?,
            references: self.references.clone(),
            output: self.output.clone().ok_or_else(|| {
                missing(
                    "--output",
                    "give the file for the judgments: --output model_judgment/JUDGE_single.jsonl",
                )
            })?,
            endpoint: endpoint.ok_or_else(|| {
                missing(
                    "--endpoint",
                    "give the judge's address, such as --endpoint https://api.openai.com/v1",
                )
            })?,
            judge_model: self.judge_model.clone().ok_or_else(|| {
                missing("--judge-model", "give the judge's name at its endpoint: --judge-model NAME")
            })?,
            key_variable: self.key_variable.clone(),
            max_tokens: at_least("max_tokens", self.max_tokens, 1)?.unwrap_or(2048),
            request_fields: self.fields()?,
            parallel: at_least("parallel", self.parallel, 1)?.unwrap_or(1),
            attempts: at_least("attempts", self.attempts, 1)?.unwrap_or(8),
            retry_wait: Duration::from_secs_f64(seconds("retry_wait", self.retry_wait, 1.0)?),
            timeout: Duration::from_secs_f64(timeout),
            json: self.json.unwrap_or(false),
        })
    }

    fn fields(&self) -> Result<Map<String, Value>, ConfigError> {
        let Some(text) = &self.request_fields else { return Ok(Map::new()) };
        serde_json::from_str(text)
            .map_err(|error| range("request_fields", text, format!("a JSON object ({error})")))
    }
}
