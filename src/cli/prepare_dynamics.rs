//! `asft prepare training-dynamics`: every checkpoint scores the rows, one after the other.

use std::path::PathBuf;

use asft::backend::Backend;
use asft::checkpoint::{ModelFolder, hub};
use asft::config::{DeviceName, Dtype, ScoreArguments, ScoreConfig, TemplateArguments, TruncationMode};
use asft::data::{Group, Role, Roles, Spans};
use asft::eval::Scorer;
use asft::prepare::{Report, confidence, training_dynamics};
use clap::Args;

use super::device::{choose, on_device};
use super::exit::OrUsage;
use super::prepare::FileArguments;
use super::progress::Bars;
use super::score;

/// The answer of a demonstration, or the chosen one of a pair.
const SPANS: Spans = Spans { prompt: false, answers: Roles::CHOSEN };

#[derive(Args, Clone, Debug)]
pub struct DynamicsArguments {
    #[command(flatten)]
    files: FileArguments,
    /// A checkpoint of a training run on this data, as a Hugging Face folder. Once for each
    #[arg(long, value_name = "DIR", required = true)]
    model: Vec<PathBuf>,
    #[command(flatten)]
    template: TemplateArguments,
    /// Longest prompt plus answer in tokens [default: no bound]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<i64>,
    /// What becomes of a longer answer: its end is cut, or the row is left out [default: keep_start]
    #[arg(long, value_name = "MODE")]
    truncation_mode: Option<TruncationMode>,
    /// Where to compute [default: auto]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceName>,
    /// Threads of the CPU backend; the results do not depend on it [default: every core]
    #[arg(long, value_name = "N")]
    threads: Option<i64>,
    /// What weights and activations are stored in; on the CPU, what matrix products round them to [default: bf16 on a GPU,
    /// f32 on the CPU]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<Dtype>,
    /// Most tokens in a packed batch [default: what memory allows]
    #[arg(long, value_name = "TOKENS")]
    max_tokens_per_batch: Option<i64>,
}

/// One checkpoint and the rows as it reads them.
struct Checkpoint {
    config: ScoreConfig,
    folder: ModelFolder,
    groups: Vec<Group>,
}

impl DynamicsArguments {
    fn score_config(&self, model: &PathBuf) -> anyhow::Result<ScoreConfig> {
        let arguments = ScoreArguments {
            model: Some(model.clone()),
            data: Some(self.files.data().to_owned()),
            map: Some(self.files.map().to_vec()),
            template: self.template.clone(),
            max_length: self.max_length,
            truncation_mode: self.truncation_mode,
            device: self.device,
            threads: self.threads,
            dtype: self.dtype,
            max_tokens_per_batch: self.max_tokens_per_batch,
            ..ScoreArguments::default()
        };
        arguments.resolve().or_usage()
    }
}

/// Scores, and writes the new file.
pub fn run(arguments: &DynamicsArguments) -> anyhow::Result<Result<Report, asft::prepare::PrepareError>> {
    let task = arguments.files.task()?;
    if let Err(error) = task.output.check() {
        return Ok(Err(error));
    }
    let (mut rows, mut checkpoints) = (Vec::new(), Vec::<Checkpoint>::new());
    for model in &arguments.model {
        let config = arguments.score_config(model)?;
        let folder = ModelFolder::open(&hub::locate(&config.model).or_usage()?.folder).or_usage()?;
        let (read, groups) = score::rows(&config, &folder, SPANS).or_usage()?;
        match checkpoints.first() {
            None => rows = read,
            Some(first) if first.groups == groups => {}
            Some(first) => {
                let (one, other) = (first.folder.dir().display(), folder.dir().display());
                return Err(anyhow::anyhow!(
                    "the model in {other} reads the rows as other tokens than the one in {one}; give checkpoints of one run"
                ))
                .or_usage();
            }
        }
        checkpoints.push(Checkpoint { config, folder, groups });
    }
    let Some(first) = checkpoints.first() else { return Err(anyhow::anyhow!("no --model")).or_usage() };
    let backend = choose(first.config.device, first.config.threads, first.config.formats.dtype)?;
    let means = on_device!(backend, backend => mean_log_probs(&checkpoints, backend))?;
    let mut means = means.into_iter();
    let confidences: Vec<Result<f64, String>> = rows
        .iter()
        .map(|row| match row {
            Ok(_) => confidence(&means.next().unwrap_or_default())
                .ok_or_else(|| "a perplexity that is no finite number".to_owned()),
            Err(skipped) => Err(skipped.reason.to_string()),
        })
        .collect();
    Ok(training_dynamics(&task, &confidences, &mut Bars::default()))
}

/// Of every usable row, the mean log-prob per token under each checkpoint.
fn mean_log_probs<B: Backend>(checkpoints: &[Checkpoint], mut backend: B) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut means: Vec<Vec<f64>> = Vec::new();
    for Checkpoint { config, folder, groups } in checkpoints {
        means.resize(groups.len(), Vec::new());
        if groups.is_empty() {
            continue;
        }
        let layout = score::loaded(config, folder, groups, SPANS, &mut backend)?;
        let (model, activations, progress) = (&layout.model, &layout.activations, &mut Bars::default());
        let mut scorer = Scorer { backend: &mut backend, model, activations, progress };
        let what = format!("scoring with {}", folder.dir().display());
        scorer.each(&what, groups, SPANS, |members, log_probs| {
            for member in members {
                let Some(span) = member.answers[Role::Chosen] else { continue };
                let sum: f64 = log_probs[span.range()].iter().map(|&logp| f64::from(logp)).sum();
                means[member.group as usize].push(sum / f64::from(span.len));
            }
        })?;
    }
    Ok(means)
}
