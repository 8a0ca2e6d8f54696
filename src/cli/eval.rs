//! `asft eval`: one subcommand per kind of evaluation.

use asft::config::EvalPairsArguments;
use clap::{Args, Subcommand};

use super::{ExitStatus, Layers, PLACES, eval_pairs};

/// What is evaluated.
#[derive(Args, Clone, Debug)]
pub struct EvalArguments {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Clone, Debug, Subcommand)]
enum Kind {
    /// Preference pairs: accuracies, margins, log-probs, a reference, and answers against the chosen ones
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Pairs(Box<Layers<EvalPairsArguments>>),
}

/// Evaluates.
pub fn run(arguments: &EvalArguments) -> anyhow::Result<ExitStatus> {
    match &arguments.kind {
        Kind::Pairs(arguments) => eval_pairs::run(arguments),
    }
}
