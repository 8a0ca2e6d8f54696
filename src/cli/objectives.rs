//! `asft objectives`.

use anyhow::bail;
use clap::Args;

use super::ExitStatus;

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
    print(arguments.name.as_deref(), arguments.json)
}

fn print(_name: Option<&str>, _json: bool) -> anyhow::Result<ExitStatus> {
    bail!("asft objectives is not connected yet")
}
