//! `asft objectives`.

use std::fmt::Write;

use asft::data::Role;
use asft::objective::registry::{self, Entry, OBJECTIVES};
use asft::objective::{parameters::flag, registry::find};
use clap::Args;
use serde_json::{Value, json};

use super::exit::OrUsage;
use super::{ExitStatus, output};

/// What to print of the objectives.
#[derive(Args, Clone, Debug)]
pub struct ObjectivesArguments {
    /// Explain this one instead of listing all
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Lists the objectives, or explains one.
pub fn run(arguments: &ObjectivesArguments) -> anyhow::Result<ExitStatus> {
    let entries: Vec<&Entry> = match &arguments.name {
        Some(name) => vec![find(name).or_usage()?],
        None => OBJECTIVES.to_vec(),
    };
    let text = if arguments.json {
        format!("{}\n", Value::Array(entries.into_iter().map(json_of).collect()))
    } else if arguments.name.is_some() {
        entries.into_iter().map(explained).collect()
    } else {
        list(&entries)
    };
    output::print(&text)?;
    Ok(ExitStatus::Success)
}

/// The objective with its default parameters, for what only an instance knows.
fn coupling(entry: &Entry) -> &'static str {
    registry::build(entry.name, &Default::default()).map_or("", |objective| objective.coupling().as_str())
}

/// The columns that every row must have beside the prompt.
fn columns(entry: &Entry) -> Vec<&'static str> {
    let own = entry.answers.iter().filter(|role| *role != Role::Mismatched).map(Role::name);
    own.chain(entry.annotations.iter().flat_map(|annotation| annotation.columns(entry.answers)).copied())
        .collect()
}

fn json_of(entry: &Entry) -> Value {
    let parameters: Vec<Value> = entry
        .parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name(),
                "default": parameter.default(),
                "accepts": parameter.accepts(),
                "help": parameter.help(),
            })
        })
        .collect();
    json!({
        "name": entry.name,
        "aliases": entry.aliases,
        "formula": entry.formula,
        "reference": entry.reference,
        "parameters": parameters,
        "coupling": coupling(entry),
        "columns": columns(entry),
    })
}

fn list(entries: &[&Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let reference = if entry.reference { "  (needs a reference model)" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:17} {}{reference}", entry.name, entry.formula);
    }
    text.push_str(
        "\nasft objectives NAME explains one. A weighted sum is an objective too: dpo:0.8,sft:0.2\n",
    );
    text
}

fn explained(entry: &Entry) -> String {
    let mut text = format!("{}\n  loss        {}\n  use it when {}\n", entry.name, entry.formula, entry.when);
    let reference = match entry.max_references {
        0 => "none",
        1 => "needs a reference model's log-probs",
        _ => "needs the log-probs of one or several reference models",
    };
    let _ = writeln!(text, "  rows hold   prompt, {}", columns(entry).join(", "));
    let _ = writeln!(text, "  reference   {reference}\n  coupling    {}", coupling(entry));
    if registry::build(entry.name, &Default::default())
        .is_ok_and(|objective| objective.inputs().are_predicted())
    {
        text.push_str("  inputs      mixed with the model's own predictions: one forward pass more\n");
    }
    let rate = entry.learning_rate;
    let _ = writeln!(text, "  default learning rate {:e} ({})", rate.value, rate.source);
    if !entry.aliases.is_empty() {
        let _ = writeln!(text, "  also called {}", entry.aliases.join(", "));
    }
    for parameter in entry.parameters {
        let (default, accepts) = (parameter.default(), parameter.accepts());
        let _ = writeln!(
            text,
            "  {:16} {} ({accepts}; default {default})",
            flag(parameter.name()),
            parameter.help()
        );
    }
    text
}
