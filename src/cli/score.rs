//! `asft score`.

use anyhow::bail;
use asft::config::{ScoreArguments, ScoreConfig};

use super::exit::OrUsage;
use super::{ExitStatus, Layers};

/// Scores as the merged settings say.
pub fn run(arguments: &Layers<ScoreArguments>) -> anyhow::Result<ExitStatus> {
    let config = arguments.merge().or_usage()?.arguments.resolve().or_usage()?;
    score(&config)
}

fn score(_config: &ScoreConfig) -> anyhow::Result<ExitStatus> {
    bail!("asft score is not connected yet")
}
