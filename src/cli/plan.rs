//! `asft plan`.

use anyhow::bail;
use asft::config::{TrainArguments, TrainConfig};
use clap::Args;

use super::exit::OrUsage;
use super::train::default_learning_rate;
use super::{ExitStatus, Layers};

/// The flags of train, and how to print.
#[derive(Args, Clone, Debug)]
pub struct PlanArguments {
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Settings")]
    json: bool,
    #[command(flatten)]
    train: Layers<TrainArguments>,
}

/// Plans the run of the merged settings.
pub fn run(arguments: &PlanArguments) -> anyhow::Result<ExitStatus> {
    let config =
        arguments.train.merge().or_usage()?.arguments.resolve_plan(default_learning_rate).or_usage()?;
    plan(&config, arguments.json)
}

fn plan(_config: &TrainConfig, _json: bool) -> anyhow::Result<ExitStatus> {
    bail!("asft plan is not connected yet")
}
