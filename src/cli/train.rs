//! `asft train`.

use std::fmt::Write;

use anyhow::Context;
use asft::backend::Backend;
use asft::checkpoint::CheckpointError;
use asft::config::{TrainArguments, TrainConfig};
use asft::objective;
use asft::train::{Ended, Outcome, Prepared, Sample, Start, Target, TrainError};

use super::device::{choose, on_device};
use super::exit::{OrUsage, Signal};
use super::progress::Bars;
use super::signals::Signals;
use super::{ExitStatus, Layers, output};

/// Sampled answers shown at the end.
const SHOWN_SAMPLES: usize = 4;
/// Evaluation metrics shown at the end, in words.
const SHOWN_METRICS: [(&str, &str); 5] = [
    ("loss", "loss"),
    ("rewards/accuracies", "reward accuracy"),
    ("rewards/margins", "reward margin"),
    ("logps/chosen", "log-prob of the chosen answer"),
    ("logps/rejected", "log-prob of the rejected answer"),
];

/// Trains as the merged settings say.
pub fn run(arguments: &Layers<TrainArguments>) -> anyhow::Result<ExitStatus> {
    let mut config = arguments.merge().or_usage()?.arguments.resolve(default_learning_rate).or_usage()?;
    let command: Vec<String> = std::env::args().collect();
    let start = asft::train::start(&mut config, &command).or_usage()?;
    let device = &config.device;
    let backend = choose(device.device, device.threads, device.formats.dtype)?;
    match on_device!(backend, backend => train(&config, start, backend, &command))? {
        Ended::Finished(outcome) => {
            output::print(&summary(&outcome))?;
            Ok(ExitStatus::Success)
        }
        Ended::Stopped(stopped) => {
            let signal = Signal::of(stopped.signal).unwrap_or(Signal::Terminate);
            let (name, step, saved) = (signal.name(), stopped.step, stopped.saved.display());
            tracing::info!(
                "stopped by {name} after step {step}; saved in {saved}. The same command with --resume goes on"
            );
            Ok(ExitStatus::Stopped(signal))
        }
    }
}

fn train<B: Backend>(
    config: &TrainConfig,
    start: Start,
    backend: B,
    command: &[String],
) -> anyhow::Result<Ended> {
    let (mut bars, mut signals) = (Bars::default(), Signals::default());
    let prepared = Prepared::new(config, Target::of(&backend), &mut bars).or_usage()?;
    match asft::train::run(prepared, start, backend, command, &mut bars, &mut signals) {
        Err(error) if is_usage(&error) => Err(error).or_usage(),
        outcome => outcome.context("training failed"),
    }
}

/// The learning rate of an objective when none is given.
pub fn default_learning_rate(objective: &str) -> Option<f64> {
    objective::select(objective).ok().map(|selection| selection.learning_rate().value)
}

/// What can be known before the first step ends with exit code 2, wherever it was noticed.
fn is_usage(error: &TrainError) -> bool {
    matches!(
        error,
        TrainError::Output(_)
            | TrainError::Checkpoint(CheckpointError::RunFolder { .. } | CheckpointError::Resume { .. })
            | TrainError::Disk { .. }
            | TrainError::ReferenceNotFinite { .. }
            | TrainError::ReferenceCache { .. }
            | TrainError::OtherSettings { .. }
            | TrainError::OtherInputs { .. }
            | TrainError::BeyondTheEnd { .. }
            | TrainError::NothingToResume { .. }
            | TrainError::UnknownMetric { .. }
            | TrainError::BestMissing { .. }
            | TrainError::LogCommand { .. }
            | TrainError::RunFile { .. }
    )
}

/// What a person wants to know at the end.
fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    let folder = outcome.folder.display();
    // Writing to a String cannot fail.
    let _ = match outcome.steps_now {
        0 => writeln!(text, "\nThe run had done its {} steps already.", outcome.steps),
        1 => writeln!(text, "\nTrained 1 step in {:.0} s.", outcome.seconds),
        steps => writeln!(text, "\nTrained {steps} steps in {:.0} s.", outcome.seconds),
    };
    text.push_str(&remarks(outcome));
    if !outcome.evaluation.is_empty() {
        let _ = writeln!(text, "\nHeld-out pairs{:30}before       after", "");
        for (key, words) in SHOWN_METRICS {
            let Some((_, before, after)) = outcome.evaluation.iter().find(|(name, ..)| name == key) else {
                continue;
            };
            let before = before.map_or_else(|| "-".to_owned(), |before| format!("{before:.3}"));
            let _ = writeln!(text, "  {words:36} {before:>10}  {after:>10.3}");
        }
    }
    if !outcome.samples.is_empty() {
        text.push_str(&samples(&outcome.samples));
    }
    let _ = writeln!(text, "\nModel   {folder}  (a Hugging Face folder)");
    let _ = writeln!(text, "Curves  {folder}/curves.svg");
    if !outcome.samples.is_empty() {
        let _ = writeln!(text, "Answers {folder}/samples.jsonl");
    }
    let program = std::env::args().next().unwrap_or_else(|| "asft".to_owned());
    let data =
        outcome.eval_file.as_deref().map_or_else(|| "FILE.jsonl".into(), |file| file.display().to_string());
    let _ = writeln!(text, "\nNext, what happened as a page:\n  {program} report {folder}");
    let _ = writeln!(text, "Log-probs of single answers:\n  {program} score --model {folder} --data {data}");
    text
}

/// What is not as it usually is.
fn remarks(outcome: &Outcome) -> String {
    let mut text = String::new();
    if outcome.stopped_early {
        text.push_str("It stopped early: evaluation did not improve any more.\n");
    }
    if let Some((step, metric)) = &outcome.best {
        let _ = writeln!(text, "The result is the model after step {step}, the best by {metric}.");
    }
    match outcome.skipped {
        0 => {}
        1 => text.push_str(
            "1 step was skipped, because its loss or gradient was not finite (see metrics.jsonl).\n",
        ),
        skipped => {
            let _ = writeln!(
                text,
                "{skipped} steps were skipped, because their loss or gradient was not finite (see metrics.jsonl)."
            );
        }
    }
    text
}

fn samples(samples: &[Sample]) -> String {
    let exact = samples.iter().filter(|sample| sample.exact).count();
    let mut text =
        format!("\nGreedy answers to held-out prompts: {exact} of {} exactly right\n", samples.len());
    for sample in samples.iter().take(SHOWN_SAMPLES) {
        let _ = writeln!(text, "  {}", sample.shown());
    }
    text
}
