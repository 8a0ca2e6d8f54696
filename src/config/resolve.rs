//! Arguments -> configuration: defaults, ranges, and the combinations that make no sense.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use toml::Table;

use super::arguments::{ModelArguments, TrainArguments};
use super::choice::{DeviceName, Freeze, RecomputeName, Redraw, Resume, Scheduler};
use super::train::{
    BatchSize, DataConfig, Device, DeviceConfig, Duration, EvalSource, EvaluationConfig, ExistingFolder,
    FormatConfig, InspectConfig, ModelSource, ObjectiveConfig, OptimizerConfig, RunConfig, ScheduleConfig,
    TrainConfig, Warmup,
};
use super::{ConfigError, flag, source};
use crate::data::ColumnMap;

/// Where a plan without `--output` says the run would be; nothing is written there.
const PLANNED_OUTPUT: &str = "asft-run";

impl TrainArguments {
    /// The configuration of a training run. `default_learning_rate` gives the rate of an objective by its name.
    ///
    /// # Errors
    /// A missing model, data or output folder, a value out of range, or settings that exclude or need each other.
    pub fn resolve(
        &self,
        default_learning_rate: fn(&str) -> Option<f64>,
    ) -> Result<TrainConfig, ConfigError> {
        if self.data.data.as_ref().is_none_or(Vec::is_empty) {
            return Err(ConfigError::Missing {
                what: "--data",
                hint: "give the file of preference pairs: --data FILE",
            });
        }
        let Some(output) = &self.run.output else {
            let hint = "give the folder for the trained model and everything the run writes: --output DIR";
            return Err(ConfigError::Missing { what: "--output", hint });
        };
        self.resolve_into(output.clone(), default_learning_rate)
    }

    /// The configuration of a plan: as [`resolve`](Self::resolve), but `--data` and `--output` may be missing.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_plan(
        &self,
        default_learning_rate: fn(&str) -> Option<f64>,
    ) -> Result<TrainConfig, ConfigError> {
        let output = self.run.output.clone().unwrap_or_else(|| PathBuf::from(PLANNED_OUTPUT));
        self.resolve_into(output, default_learning_rate)
    }

    /// The configuration of a look at the data: as [`resolve_plan`](Self::resolve_plan) with `--data`, and a folder with
    /// nothing but a tokenizer may take the model's place.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_inspect(
        &self,
        default_learning_rate: fn(&str) -> Option<f64>,
    ) -> Result<InspectConfig, ConfigError> {
        if self.data.data.as_ref().is_none_or(Vec::is_empty) {
            let hint = "give the file to look at: --data FILE";
            return Err(ConfigError::Missing { what: "--data", hint });
        }
        let mut arguments = self.clone();
        let has_model = match &mut arguments.model {
            ModelArguments { model: model @ None, init: None, tokenizer: tokenizer @ Some(_) } => {
                *model = tokenizer.take();
                false
            }
            ModelArguments { model: None, init: None, tokenizer: None } => {
                return Err(ConfigError::Missing {
                    what: "--model or --tokenizer",
                    hint: "give the model's folder, --model DIR, or one with its tokenizer files, --tokenizer DIR",
                });
            }
            _ => true,
        };
        Ok(InspectConfig { train: arguments.resolve_plan(default_learning_rate)?, has_model })
    }

    fn resolve_into(
        &self,
        output: PathBuf,
        default_learning_rate: fn(&str) -> Option<f64>,
    ) -> Result<TrainConfig, ConfigError> {
        let seed = at_least("seed", self.schedule.seed, 0)?.unwrap_or(42) as u64;
        let config = TrainConfig {
            model: self.model_source(seed)?,
            data: self.data_config()?,
            objective: self.objective_config(&output),
            batch: self.batch_size()?,
            optimizer: self.optimizer_config(default_learning_rate)?,
            schedule: self.schedule_config()?,
            evaluation: self.evaluation_config()?,
            run: self.run_config(output, seed)?,
            device: DeviceConfig {
                device: device(self.device.device)?,
                threads: at_least("threads", self.device.threads, 1)?,
                formats: FormatConfig {
                    dtype: self.device.dtype.map(Into::into),
                    optimizer_state: self.device.optimizer_state.map(Into::into),
                    head_logits: self.device.head_logits.map(Into::into),
                },
                recompute: self.device.recompute.and_then(RecomputeName::level),
                max_tokens_per_batch: at_least("max_tokens_per_batch", self.device.max_tokens_per_batch, 1)?,
                head_rows: at_least("head_rows", self.device.head_rows, 1)?,
            },
        };
        Table::try_from(config.to_arguments())
            .map_err(|error| ConfigError::Unrecordable { message: error.to_string() })?;
        Ok(config)
    }

    fn model_source(&self, seed: u64) -> Result<ModelSource, ConfigError> {
        match &self.model {
            ModelArguments { model: Some(_), init: Some(_), .. } => Err(conflict(
                "model",
                "init",
                "--model trains the weights of a folder, --init starts from random ones: choose one",
            )),
            ModelArguments { model: Some(_), tokenizer: Some(_), .. } => Err(conflict(
                "model",
                "tokenizer",
                "a --model folder brings its own tokenizer: leave --tokenizer out",
            )),
            ModelArguments { model: Some(folder), .. } => Ok(ModelSource::Folder(folder.clone())),
            ModelArguments { init: Some(_), tokenizer: None, .. }
                if self.data.template.chat_template.is_some() =>
            {
                Err(needs("chat_template", "--tokenizer"))
            }
            ModelArguments { init: Some(config), tokenizer, .. } => {
                Ok(ModelSource::Init { config: config.clone(), tokenizer: tokenizer.clone(), seed })
            }
            ModelArguments { model: None, init: None, .. } => Err(ConfigError::Missing {
                what: "--model or --init",
                hint: "give a Hugging Face Llama folder, --model DIR, or random weights, --init CONFIG.json",
            }),
        }
    }

    fn data_config(&self) -> Result<DataConfig, ConfigError> {
        let arguments = &self.data;
        let typed = arguments.data.as_deref().unwrap_or_default();
        let cache = || arguments.data_cache.clone().or_else(|| user_cache("tokens"));
        Ok(DataConfig {
            files: typed.iter().map(|typed| source::parse(typed)).collect::<Result<_, _>>()?,
            columns: columns(arguments.map.as_deref())?,
            template: arguments.template.resolve(),
            max_length: at_least("max_length", arguments.max_length, 2)?.unwrap_or(1024),
            truncation: arguments.truncation_mode.map(Into::into).unwrap_or_default(),
            drop_identical: arguments.drop_identical.unwrap_or(false),
            max_samples: at_least("max_samples", arguments.max_samples, 1)?,
            strict: arguments.strict.unwrap_or(false),
            cache: if arguments.no_cache.unwrap_or(false) { None } else { cache() },
            shuffle: !arguments.no_shuffle.unwrap_or(false),
        })
    }

    fn objective_config(&self, output: &Path) -> ObjectiveConfig {
        let arguments = &self.objective;
        ObjectiveConfig {
            name: arguments.objective.clone().unwrap_or_else(|| "asft".to_owned()),
            parameters: arguments.parameters,
            references: arguments.reference.clone().unwrap_or_default(),
            reference_mode: arguments.reference_mode.unwrap_or_default(),
            reference_cache: arguments
                .reference_cache
                .clone()
                .or_else(|| user_cache("reference"))
                .unwrap_or_else(|| output.join("reference-cache")),
        }
    }

    fn batch_size(&self) -> Result<BatchSize, ConfigError> {
        let arguments = &self.optimizer;
        let batch = at_least("batch_size", arguments.batch_size, 1)?;
        let per_part = at_least("per_device_train_batch_size", arguments.per_device_train_batch_size, 1)?;
        let parts = at_least("gradient_accumulation_steps", arguments.gradient_accumulation_steps, 1)?;
        let other_spelling = match (per_part, parts) {
            (Some(_), _) => Some("per_device_train_batch_size"),
            (None, Some(_)) => Some("gradient_accumulation_steps"),
            (None, None) => None,
        };
        if let (Some(_), Some(other)) = (batch, other_spelling) {
            let hint = "--batch-size is already the product of --per-device-train-batch-size and \
                        --gradient-accumulation-steps: give either it or those two";
            return Err(conflict("batch_size", other, hint));
        }
        match (per_part, parts) {
            (None, None) => Ok(BatchSize { groups: batch.unwrap_or(128), parts: None }),
            (None, Some(_)) => Err(needs("gradient_accumulation_steps", "--per-device-train-batch-size")),
            (Some(per_part), parts) => {
                let parts = parts.unwrap_or(1);
                let too_large =
                    || range("gradient_accumulation_steps", parts, "smaller: the batch is beyond 2^63 pairs");
                let groups = per_part.checked_mul(parts).filter(|groups| i64::try_from(*groups).is_ok());
                Ok(BatchSize { groups: groups.ok_or_else(too_large)?, parts: Some(parts) })
            }
        }
    }

    fn optimizer_config(
        &self,
        default_rate: fn(&str) -> Option<f64>,
    ) -> Result<OptimizerConfig, ConfigError> {
        let arguments = &self.optimizer;
        let learning_rate = match arguments.learning_rate {
            Some(rate) => not_negative("learning_rate", rate)?,
            None => {
                let objective = self.objective.objective.as_deref().unwrap_or("asft");
                let unknown = || ConfigError::NoLearningRate { objective: objective.to_owned() };
                default_rate(objective).ok_or_else(unknown)?
            }
        };
        let decay = |key, value: f64| {
            if (0.0..1.0).contains(&value) {
                Ok(value)
            } else {
                Err(range(key, value, "at least 0 and below 1"))
            }
        };
        let epsilon = arguments.adam_epsilon.unwrap_or(1e-8);
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(range("adam_epsilon", epsilon, "a finite number above 0"));
        }
        let half = match (arguments.freeze.unwrap_or_default(), arguments.hft_redraw) {
            (Freeze::None, None) => None,
            (Freeze::None, Some(_)) => return Err(needs("hft_redraw", "--freeze hft")),
            (Freeze::Hft, redraw) => Some(redraw.unwrap_or(Redraw::Epoch)),
        };
        let max_grad_norm = not_negative("max_grad_norm", arguments.max_grad_norm.unwrap_or(1.0))?;
        Ok(OptimizerConfig {
            learning_rate,
            weight_decay: not_negative("weight_decay", arguments.weight_decay.unwrap_or(0.0))?,
            beta1: decay("adam_beta1", arguments.adam_beta1.unwrap_or(0.9))?,
            beta2: decay("adam_beta2", arguments.adam_beta2.unwrap_or(0.999))?,
            epsilon,
            max_grad_norm: (max_grad_norm > 0.0).then_some(max_grad_norm),
            half,
            skip_nonfinite: arguments.skip_nonfinite.unwrap_or(false),
        })
    }

    fn schedule_config(&self) -> Result<ScheduleConfig, ConfigError> {
        let arguments = &self.schedule;
        let epochs = arguments.num_train_epochs.unwrap_or(1.0);
        if !(epochs > 0.0 && epochs.is_finite()) {
            return Err(range("num_train_epochs", epochs, "a finite number above 0"));
        }
        let duration = match at_least("max_steps", arguments.max_steps, 1)? {
            Some(steps) => Duration::Steps(steps),
            None => Duration::Epochs(epochs),
        };
        let warmup = match (at_least("warmup_steps", arguments.warmup_steps, 0)?, arguments.warmup_ratio) {
            (Some(_), Some(_)) => {
                let hint = "both say how long the learning rate rises: give one";
                return Err(conflict("warmup_steps", "warmup_ratio", hint));
            }
            (None, Some(ratio)) if (0.0..=1.0).contains(&ratio) => Warmup::Ratio(ratio),
            (None, Some(ratio)) => return Err(range("warmup_ratio", ratio, "from 0 to 1")),
            (steps, None) => Warmup::Steps(steps.unwrap_or(0)),
        };
        let scheduler = arguments.lr_scheduler_type.unwrap_or(Scheduler::Linear);
        Ok(ScheduleConfig { duration, scheduler, warmup })
    }

    fn evaluation_config(&self) -> Result<EvaluationConfig, ConfigError> {
        let arguments = &self.evaluation;
        let source = match (&arguments.eval_data, arguments.eval_split) {
            (Some(_), Some(_)) => {
                let hint = "held-out pairs come from a file of their own or from --data: choose one";
                return Err(conflict("eval_data", "eval_split", hint));
            }
            (Some(files), None) if files.is_empty() => EvalSource::None,
            (Some(files), None) => EvalSource::Files(files.clone()),
            (None, Some(share)) if share > 0.0 && share < 1.0 => EvalSource::Split(share),
            (None, Some(share)) => return Err(range("eval_split", share, "above 0 and below 1")),
            (None, None) => EvalSource::None,
        };
        let max_samples = at_least("max_eval_samples", arguments.max_eval_samples, 1)?;
        if max_samples.is_some() && !matches!(source, EvalSource::Files(_)) {
            return Err(needs("max_eval_samples", "--eval-data"));
        }
        let every = at_least("eval_steps", arguments.eval_steps, 0)?.filter(|steps| *steps > 0);
        let sample_answers = at_least("sample_answers", arguments.sample_answers, 0)?.unwrap_or(0);
        let best = arguments.best_config(source != EvalSource::None, every.is_some())?;
        if source == EvalSource::None {
            let asked = [("eval_steps", every.is_some()), ("sample_answers", sample_answers > 0)];
            if let Some((key, _)) = asked.iter().find(|(_, asked)| *asked) {
                return Err(needs(key, "--eval-data or --eval-split"));
            }
        }
        Ok(EvaluationConfig { source, max_samples, every, sample_answers, best })
    }

    fn run_config(&self, output: PathBuf, seed: u64) -> Result<RunConfig, ConfigError> {
        let arguments = &self.run;
        let overwrite = arguments.overwrite_output_dir.unwrap_or(false);
        let existing = match (&arguments.resume, overwrite) {
            (Some(Resume::Latest | Resume::Checkpoint(_)), true) => {
                let hint =
                    "--resume continues what is in the folder, --overwrite-output-dir deletes it: choose one";
                return Err(conflict("resume", "overwrite_output_dir", hint));
            }
            (Some(Resume::Latest), false) => ExistingFolder::ResumeLatest,
            (Some(Resume::Checkpoint(folder)), false) => ExistingFolder::Resume(folder.clone()),
            (None | Some(Resume::Off), true) => ExistingFolder::Overwrite,
            (None | Some(Resume::Off), false) => ExistingFolder::Refuse,
        };
        Ok(RunConfig {
            output,
            existing,
            seed,
            save_every: Some(at_least("save_steps", arguments.save_steps, 0)?.unwrap_or(500))
                .filter(|steps| *steps > 0),
            keep: at_least("save_total_limit", arguments.save_total_limit, 1)?,
            save_dtype: arguments.save_dtype,
            log_every: at_least("logging_steps", arguments.logging_steps, 1)?.unwrap_or(10),
            log_command: arguments.log_command.clone().filter(|command| !command.trim().is_empty()),
        })
    }
}

/// A folder of ours in the user's cache folder (XDG's rule), so that runs share what they computed.
fn user_cache(name: &str) -> Option<PathBuf> {
    let from_variable =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let from_home = || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache"));
    from_variable.or_else(from_home).map(|cache| cache.join("asft").join(name))
}

/// The columns that go by other names.
pub(super) fn columns(map: Option<&[String]>) -> Result<ColumnMap, ConfigError> {
    let entries = map.unwrap_or_default().iter().map(String::as_str);
    ColumnMap::new(entries).map_err(|source| ConfigError::Columns { source })
}

/// The device of a typed name.
pub(super) fn device(name: Option<DeviceName>) -> Result<Device, ConfigError> {
    match name {
        None | Some(DeviceName::Auto) => Ok(Device::Auto),
        Some(DeviceName::Cpu) => Ok(Device::Cpu),
        Some(DeviceName::Cuda) => Ok(Device::Cuda),
    }
}

/// A count from `minimum` up.
pub(super) fn at_least(key: &str, value: Option<i64>, minimum: i64) -> Result<Option<usize>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    let count = usize::try_from(value).ok().filter(|_| value >= minimum);
    count.map(Some).ok_or_else(|| range(key, value, format!("at least {minimum}")))
}

pub(super) fn not_negative(key: &str, value: f64) -> Result<f64, ConfigError> {
    if value >= 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(range(key, value, "a finite number, at least 0"))
    }
}

pub(super) fn range(key: &str, value: impl Display, must: impl Into<String>) -> ConfigError {
    ConfigError::Range { flag: flag(key), value: value.to_string(), must: must.into() }
}

pub(super) fn conflict(first: &str, second: &str, hint: &'static str) -> ConfigError {
    ConfigError::Conflict { first: flag(first), second: flag(second), hint }
}

pub(super) fn needs(first: &str, second: &'static str) -> ConfigError {
    ConfigError::Needs { first: flag(first), second }
}
