//! `asft config`: the resolved settings of a training run as TOML, each with where it comes from.

use asft::config::TrainArguments;

use super::exit::OrUsage;
use super::train::default_learning_rate;
use super::{ExitStatus, Layers, output};

/// Prints what `asft train` would write to `run.toml`, with origins as comments. `--data` and `--output` may be missing.
pub fn run(arguments: &Layers<TrainArguments>) -> anyhow::Result<ExitStatus> {
    let merged = arguments.merge().or_usage()?;
    let config = merged.arguments.resolve_plan(default_learning_rate).or_usage()?;
    let origin = |key: &str| match (merged.origins.get(key), key) {
        (Some(origin), _) => Some(origin.to_string()),
        (None, "output") => Some("a placeholder: asft train needs --output".to_owned()),
        (None, _) => Some("default".to_owned()),
    };
    output::print(&config.to_annotated_toml(origin))?;
    Ok(ExitStatus::Success)
}
