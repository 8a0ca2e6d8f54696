//! `asft inspect`: what training would make of rows of data, token by token or in figures.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use asft::config::TrainArguments;
use asft::train::Inspection;
use clap::Args;

use super::exit::OrUsage;
use super::inspect_stats;
use super::inspect_text;
use super::output::MessageArguments;
use super::progress::Bars;
use super::train::default_learning_rate;
use super::{ExitStatus, Layers};

/// Rows shown unless something else is asked for.
const ROWS: usize = 3;
/// Width of the text where there is no terminal to ask.
const WIDTH: usize = 100;

/// What to show, and the flags of train.
#[derive(Args, Clone, Debug)]
pub struct InspectArguments {
    /// Show the first N rows [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "row", help_heading = "Inspection")]
    rows: Option<usize>,
    /// Show this row, counted from 0 as `asft score` does. May be repeated
    #[arg(long, value_name = "ROW", help_heading = "Inspection")]
    row: Vec<usize>,
    /// Show figures about all rows instead: lengths, drops, cuts, what sharing prompts saves
    #[arg(long, conflicts_with_all = ["rows", "row"], help_heading = "Inspection")]
    stats: bool,
    /// Print JSON: one line a row, or one object of figures
    #[arg(long, help_heading = "Inspection")]
    json: bool,
    #[command(flatten)]
    train: Layers<TrainArguments>,
}

/// Shows rows or figures.
pub fn run(arguments: &InspectArguments, messages: &MessageArguments) -> anyhow::Result<ExitStatus> {
    let typed = arguments.train.merge().or_usage()?.arguments;
    let config = typed.resolve_inspect(default_learning_rate).or_usage()?;
    let inspection = Inspection::new(config).or_usage()?;
    let mut stdout = anstream::AutoStream::new(io::stdout().lock(), messages.stdout_color());
    if arguments.stats {
        let figures = inspection.figures(&mut Bars::default()).or_usage()?;
        let text = match arguments.json {
            true => format!("{}\n", inspect_stats::json(&figures)),
            false => inspect_stats::text(&figures),
        };
        write(&mut stdout, &text)?;
        return Ok(ExitStatus::Success);
    }
    let wanted = |row: usize| match arguments.row.as_slice() {
        [] => row < arguments.rows.unwrap_or(ROWS),
        rows => rows.contains(&row),
    };
    let last = arguments.row.iter().copied().max();
    let end = last.map_or(arguments.rows.unwrap_or(ROWS), |row| row.saturating_add(1));
    let (rows, read) = inspection.rows(wanted, end).or_usage()?;
    if let Some(row) = arguments.row.iter().find(|row| **row >= read) {
        return Err(anyhow::anyhow!("there is no row {row}: the data has {read} rows, counted from 0"))
            .or_usage();
    }
    let mut text = if arguments.json { String::new() } else { inspect_text::legend() };
    let mut file = None;
    for row in &rows {
        if arguments.json {
            text.push_str(&format!("{}\n", inspect_text::json(row)));
            continue;
        }
        if file != Some(&row.place.path) {
            text.push_str(&inspect_text::file_heading(row));
            file = Some(&row.place.path);
        }
        text.push_str(&inspect_text::text(row, width()));
    }
    write(&mut stdout, &text)?;
    Ok(ExitStatus::Success)
}

fn write(stdout: &mut impl Write, text: &str) -> anyhow::Result<()> {
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Columns of the terminal.
fn width() -> usize {
    let stdout = io::stdout();
    let size = terminal_size::terminal_size_of(&stdout).filter(|_| stdout.is_terminal());
    size.map_or(WIDTH, |(width, _)| usize::from(width.0))
}
