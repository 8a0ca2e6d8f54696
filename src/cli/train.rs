//! `asft train`.

use anyhow::bail;
use asft::config::{TrainArguments, TrainConfig};

use super::exit::OrUsage;
use super::{ExitStatus, Layers};

/// Trains as the merged settings say.
pub fn run(arguments: &Layers<TrainArguments>) -> anyhow::Result<ExitStatus> {
    let config = arguments.merge().or_usage()?.arguments.resolve(default_learning_rate).or_usage()?;
    train(&config)
}

fn train(_config: &TrainConfig) -> anyhow::Result<ExitStatus> {
    bail!("asft train is not connected yet")
}

/// Learning rates from the papers' best runs: asft and sft 6e-6 (2502.01237, appendix A), dpo and orpo 1e-6 (TRL).
pub fn default_learning_rate(objective: &str) -> Option<f64> {
    match objective {
        "asft" | "sft" => Some(6e-6),
        "dpo" | "orpo" => Some(1e-6),
        _ => None,
    }
}
