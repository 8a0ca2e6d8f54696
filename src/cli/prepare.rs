//! `asft prepare`: new data files from data files, one subcommand per recipe.

use std::path::PathBuf;

use asft::config::ConfigError;
use asft::data::ColumnMap;
use asft::prepare::{Output, PrepareError, Report, Task};
use clap::{Args, Subcommand};

use super::ExitStatus;
use super::exit::OrUsage;
use super::progress::Bars;

/// What is prepared.
#[derive(Args, Clone, Debug)]
pub struct PrepareArguments {
    #[command(subcommand)]
    recipe: Recipe,
}

#[derive(Clone, Debug, Subcommand)]
enum Recipe {
    /// Rows with their prompt in a column of its own, whatever shape they had
    ExtractPrompt(FileArguments),
}

/// Which file becomes which.
#[derive(Args, Clone, Debug)]
pub struct FileArguments {
    /// The rows to start from, in any form and shape that asft train reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The file to write: JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,
    /// A column by its name in the file: prompt=question. The new file has the usual names. May be repeated
    #[arg(long, value_name = "COLUMN=NAME")]
    map: Vec<String>,
    /// Stop at rows that cannot be used instead of leaving them out
    #[arg(long)]
    strict: bool,
}

impl FileArguments {
    /// What was typed, checked.
    pub fn task(&self) -> anyhow::Result<Task> {
        let columns = ColumnMap::new(self.map.iter().map(String::as_str));
        let columns = columns.map_err(|source| ConfigError::Columns { source })?;
        let output = Output { path: self.output.clone(), overwrite: self.overwrite };
        Ok(Task { data: self.data.clone(), columns, output, strict: self.strict })
    }
}

/// Writes the new file and logs what became of the rows.
pub fn run(arguments: &PrepareArguments) -> anyhow::Result<ExitStatus> {
    let bars = &mut Bars::default();
    match &arguments.recipe {
        Recipe::ExtractPrompt(files) => finish(asft::prepare::extract_prompt(&files.task()?, bars)),
    }
}

fn finish(outcome: Result<Report, PrepareError>) -> anyhow::Result<ExitStatus> {
    match outcome {
        Ok(report) => {
            report.log();
            Ok(ExitStatus::Success)
        }
        Err(error) if error.is_usage() => Err(error).or_usage(),
        Err(error) => Err(error.into()),
    }
}
