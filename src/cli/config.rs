//! `asft config`: the resolved settings of a training run as TOML, each with where it comes from.

use asft::config::{Merged, TrainArguments};
use asft::objective;
use clap::Arg;

use super::exit::OrUsage;
use super::train::default_learning_rate;
use super::{ExitStatus, Layers, output};

/// Prints what `asft train` would write to `run.toml`, with origins as comments, and as comments the settings that have no
/// value. What train cannot do without may be missing.
pub fn run(arguments: &Layers<TrainArguments>) -> anyhow::Result<ExitStatus> {
    let mut merged = arguments.merge().or_usage()?;
    let model = &mut merged.arguments.model;
    match (&model.model, &model.init, &model.tokenizer) {
        (None, None, None) => model.model = Some("MODEL".into()),
        // Only --init goes with a tokenizer of its own.
        (None, None, Some(_)) => model.init = Some("CONFIG.json".into()),
        _ => {}
    }
    let mut config = merged.arguments.resolve_plan(default_learning_rate).or_usage()?;
    let objective = &mut config.objective;
    match objective::select(&objective.name).and_then(|selection| selection.resolve(&objective.parameters)) {
        Ok(parameters) => objective.parameters = parameters,
        Err(error) => tracing::warn!("{error}"),
    }
    let origin = |key: &str| match (merged.origins.get(key), key) {
        (Some(origin), _) => Some(origin.to_string()),
        (None, "output") => Some("a placeholder: asft train needs --output".to_owned()),
        (None, "model" | "init") => Some("a placeholder: asft train needs --model or --init".to_owned()),
        (None, _) => Some("default".to_owned()),
    };
    output::print(&config.to_annotated_toml(origin, |argument| Some(without_value(argument, &merged))))?;
    Ok(ExitStatus::Success)
}

/// The comment for a setting that the resolved configuration has no value of.
fn without_value(argument: &Arg, merged: &Merged<TrainArguments>) -> String {
    let key = argument.get_id().as_str();
    if let Some(origin) = merged.origins.get(key) {
        return format!("{key}: given ({origin}), but how a run starts is not recorded");
    }
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let default = help.rsplit_once("[default: ").and_then(|(_, default)| default.strip_suffix(']'));
    match (key, default) {
        ("data", _) => format!("{key}: missing; asft train needs --data"),
        (_, Some(default)) => format!("{key}: {default} (default)"),
        (_, None) => format!("{key}: not set (default)"),
    }
}
