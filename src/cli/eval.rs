//! `asft eval`: one subcommand per kind of evaluation.

use asft::config::{EvalPairsArguments, JudgeArguments, MtBenchArguments};
use clap::{Args, Subcommand};

use super::{ExitStatus, Layers, PLACES, eval_judge, eval_mt_bench, eval_pairs};

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
    /// MT-Bench: answers to both turns, in the format that FastChat's judge reads
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    MtBench(Box<Layers<MtBenchArguments>>),
    /// Ratings of MT-Bench's answers by a language model behind an OpenAI-compatible endpoint
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Judge(Box<Layers<JudgeArguments>>),
}

/// Evaluates.
pub fn run(arguments: &EvalArguments) -> anyhow::Result<ExitStatus> {
    match &arguments.kind {
        Kind::Pairs(arguments) => eval_pairs::run(arguments),
        Kind::MtBench(arguments) => eval_mt_bench::run(arguments),
        Kind::Judge(arguments) => eval_judge::run(arguments),
    }
}
