//! The command line: one file per command.
//!
//! A command turns its arguments into a configuration, hands it to the library and prints the result. stdout is for
//! results alone; everything else (log, progress, errors) goes to stderr.

mod bench;
mod bench_kernels;
mod bench_step;
mod chat;
mod completions;
mod config;
mod device;
mod eval;
mod eval_judge;
mod eval_mt_bench;
mod eval_pairs;
mod exit;
mod export;
mod generate;
mod info;
mod inspect;
mod inspect_stats;
mod inspect_text;
mod man;
mod names;
mod objectives;
pub mod output;
mod paper;
mod paper_runs;
mod plan;
mod plan_json;
mod plan_table;
mod prepare;
mod prepare_dynamics;
mod progress;
mod report;
mod score;
mod signals;
mod train;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;

use asft::config::{
    Arguments, ConfigError, GenerateArguments, Merged, ScoreArguments, TrainArguments, merge,
};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::ExitStatus;

/// Align Llama-3-class models on preference pairs.
///
/// Aligned Supervised Fine-Tuning (arXiv 2409.10571) and the objectives it is compared with, in one program.
#[derive(Debug, Parser)]
#[command(name = "asft", version, long_version = info::LONG_VERSION.as_str(), max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub messages: output::MessageArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on preference pairs
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Train(Box<Layers<TrainArguments>>),
    /// Log-probs of answers under a model, one JSON line per row
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Score(Layers<ScoreArguments>),
    /// Answers to prompts, or a chat
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Generate(Box<Layers<GenerateArguments>>),
    /// Whether it worked: metrics of models on data
    Eval(eval::EvalArguments),
    /// What became of training runs, as a page: curves, evaluations, answers, settings
    Report(report::ReportArguments),
    /// A training run on the terminal, while it is under way or afterwards
    Watch(watch::WatchArguments),
    /// What a training run would need: takes the flags of train, starts nothing
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Plan(Box<plan::PlanArguments>),
    /// What training would make of rows of data, token by token or in figures: takes the flags of train
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Inspect(Box<inspect::InspectArguments>),
    /// The settings of a training run and where each comes from: takes the flags of train
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Config(Box<Layers<TrainArguments>>),
    /// The objectives, with their formulas and parameters
    Objectives(objectives::ObjectivesArguments),
    /// New data files from data files: prompts made explicit, splits, recipes of the literature
    Prepare(prepare::PrepareArguments),
    /// A model for another program: one GGUF file for llama.cpp
    Export(export::ExportArguments),
    /// How fast this machine is: training steps and single operations on random weights
    Bench(Box<bench::BenchArguments>),
    /// The figures of ASFT's paper, as far as this machine can make them
    #[command(after_help = PLACES, allow_negative_numbers = true)]
    Paper(Box<paper::PaperCommand>),
    /// What this program is, what it finds on this machine, and which device it would take
    Info(info::InfoArguments),
    /// A script that lets a shell complete commands, flags and values
    Completions(completions::CompletionsArguments),
    /// The manual as pages for man
    Man(man::ManArguments),
}

const PLACES: &str = "A setting is taken from its flag, else from the environment (ASFT_BATCH_SIZE for --batch-size), \
                      else from the file of --config (batch_size = 32), else it has its default. \
                      \"_\" and \"-\" are the same in the names of flags. Paths are relative to the current folder.";

/// Settings from flags, and the file that they are laid over.
#[derive(Args, Clone, Debug)]
pub struct Layers<A: Args> {
    /// TOML file of settings, such as the run.toml of an earlier run; its keys are the flags' names
    #[arg(long, value_name = "FILE.toml", env = "ASFT_CONFIG", hide_env = true, help_heading = "Settings")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: A,
}

impl<A: Arguments> Layers<A> {
    /// Flags over environment over file; what looks like a mistake is logged.
    fn merge(&self) -> Result<Merged<A>, ConfigError> {
        let merged = merge(&self.flags, std::env::vars_os(), self.config.as_deref())?;
        for warning in &merged.warnings {
            tracing::warn!("{warning}");
        }
        Ok(merged)
    }
}

impl Cli {
    /// Reads a command line, with `_` for `-` allowed in the names of flags.
    pub fn from_command_line(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments = names::with_dashes(arguments);
        let command = Self::command().color(output::color_of_command_line(&arguments));
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitStatus> {
        match self.command {
            Command::Train(arguments) => train::run(&arguments),
            Command::Score(arguments) => score::run(&arguments),
            Command::Generate(arguments) => generate::run(&arguments),
            Command::Eval(arguments) => eval::run(&arguments),
            Command::Report(arguments) => report::run(&arguments),
            Command::Watch(arguments) => watch::run(&arguments),
            Command::Plan(arguments) => plan::run(&arguments),
            Command::Inspect(arguments) => inspect::run(&arguments, &self.messages),
            Command::Config(arguments) => config::run(&arguments),
            Command::Objectives(arguments) => objectives::run(&arguments),
            Command::Prepare(arguments) => prepare::run(&arguments),
            Command::Export(arguments) => export::run(&arguments),
            Command::Bench(arguments) => bench::run(&arguments),
            Command::Paper(command) => paper::run(&command),
            Command::Info(arguments) => info::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man(arguments) => man::run(&arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_contradiction_in_the_definitions() {
        Cli::command().debug_assert();
    }
}
