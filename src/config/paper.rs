//! The settings of `asft paper`.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::choice::DeviceName;
use super::resolve::{at_least, not_negative, range};

/// What somebody typed for `asft paper`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Figures")]
pub struct PaperArguments {
    /// Folder for the drawings, tables and the page
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Folder for the runs behind them; runs that are there are not repeated [default: runs in --output]
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Hugging Face folder of a Llama to start from [default: a small one, trained from random weights on the chosen answers]
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    pub model: Option<PathBuf>,
    /// Preference pairs to train on: everything but the surfaces needs them
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Held-out pairs for the margins [default: a tenth of --data]
    #[arg(long, value_name = "FILE")]
    pub eval_data: Option<PathBuf>,
    /// FastChat's question.jsonl, for the answers
    #[arg(long, value_name = "FILE.jsonl")]
    pub questions: Option<PathBuf>,
    /// Chat template for a model without one: llama3, chatml or a file
    #[arg(long, value_name = "TEMPLATE")]
    pub chat_template: Option<String>,
    /// Seeds of the margins, from 1 [default: 3]
    #[arg(long, value_name = "N")]
    pub seeds: Option<i64>,
    /// Optimizer steps of a run of the margins [default: 100]
    #[arg(long, value_name = "N")]
    pub max_steps: Option<i64>,
    /// Optimizer steps that make the small model [default: 400]
    #[arg(long, value_name = "N")]
    pub warm_up_steps: Option<i64>,
    /// Pairs per optimizer step [default: 16]
    #[arg(long, value_name = "PAIRS")]
    pub batch_size: Option<i64>,
    /// Peak learning rate of every objective [default: 3e-4 for the small model, 1e-6 for a given one]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Weight of the preference term of ASFT and ORPO [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub lambda: Option<f64>,
    /// DPO's beta [default: 0.1]
    #[arg(long, value_name = "NUMBER")]
    pub beta: Option<f64>,
    /// Longest prompt plus answer in tokens [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<i64>,
    /// Optimizer steps of a run of the cost, over half as many batches [default: 20]
    #[arg(long, value_name = "N")]
    pub cost_steps: Option<i64>,
    /// Runs of each way of training, for the cost [default: 3]
    #[arg(long, value_name = "N")]
    pub cost_runs: Option<i64>,
    /// Most tokens of an answer [default: 64]
    #[arg(long, value_name = "TOKENS")]
    pub max_new_tokens: Option<i64>,
    /// Where to compute [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU backend [default: every core]
    #[arg(long, value_name = "N")]
    pub threads: Option<i64>,
}

/// Everything that `asft paper` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct PaperConfig {
    /// Folder for the results.
    pub output: PathBuf,
    /// Folder for the runs.
    pub runs: PathBuf,
    /// The model to start from; `None`: a small one is made.
    pub model: Option<PathBuf>,
    /// Pairs to train on.
    pub data: Option<PathBuf>,
    /// Held-out pairs.
    pub eval_data: Option<PathBuf>,
    /// MT-Bench's questions.
    pub questions: Option<PathBuf>,
    /// A chat template.
    pub chat_template: Option<String>,
    /// Seeds 1 to this.
    pub seeds: u64,
    /// Steps of a run of the margins.
    pub max_steps: usize,
    /// Steps that make the small model.
    pub warm_up_steps: usize,
    /// Pairs per step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weight of ASFT's and ORPO's preference term.
    pub lambda: f64,
    /// DPO's beta.
    pub beta: f64,
    /// Longest sequence.
    pub max_length: usize,
    /// Steps of a run of the cost.
    pub cost_steps: usize,
    /// Repetitions of the cost.
    pub cost_runs: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// The flags that choose device and threads, for every run.
    pub device: Vec<String>,
}

impl PaperArguments {
    /// The configuration of a set of figures.
    ///
    /// # Errors
    /// A missing folder, or a value out of range.
    pub fn resolve(&self) -> Result<PaperConfig, ConfigError> {
        let output = self.output.clone().ok_or(ConfigError::Missing {
            what: "--output",
            hint: "give the folder for the figures: --output DIR",
        })?;
        let count = |key, value, default| Ok::<_, ConfigError>(at_least(key, value, 1)?.unwrap_or(default));
        let positive = |key, value: f64| match not_negative(key, value)? {
            0.0 => Err(range(key, value, "above 0")),
            value => Ok(value),
        };
        let rate = if self.model.is_some() { 1e-6 } else { 3e-4 };
        Ok(PaperConfig {
            runs: self.runs.clone().unwrap_or_else(|| output.join("runs")),
            output,
            model: self.model.clone(),
            data: self.data.clone(),
            eval_data: self.eval_data.clone(),
            questions: self.questions.clone(),
            chat_template: self.chat_template.clone(),
            seeds: count("seeds", self.seeds, 3)? as u64,
            max_steps: count("max_steps", self.max_steps, 100)?,
            warm_up_steps: count("warm_up_steps", self.warm_up_steps, 400)?,
            batch_size: count("batch_size", self.batch_size, 16)?,
            learning_rate: positive("learning_rate", self.learning_rate.unwrap_or(rate))?,
            lambda: positive("lambda", self.lambda.unwrap_or(1.0))?,
            beta: positive("beta", self.beta.unwrap_or(0.1))?,
            max_length: at_least("max_length", self.max_length, 2)?.unwrap_or(512),
            cost_steps: count("cost_steps", self.cost_steps, 20)?,
            cost_runs: count("cost_runs", self.cost_runs, 3)?,
            max_new_tokens: count("max_new_tokens", self.max_new_tokens, 64)?,
            device: self.device_flags()?,
        })
    }

    fn device_flags(&self) -> Result<Vec<String>, ConfigError> {
        let mut flags = Vec::new();
        if let Some(device) = self.device {
            let name = match device {
                DeviceName::Auto => "auto",
                DeviceName::Cpu => "cpu",
                DeviceName::Cuda => "cuda",
            };
            flags.extend(["--device".to_owned(), name.to_owned()]);
        }
        if let Some(threads) = at_least("threads", self.threads, 1)? {
            flags.extend(["--threads".to_owned(), threads.to_string()]);
        }
        Ok(flags)
    }
}
