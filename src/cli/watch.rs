//! `asft watch`: a run on the terminal while it grows.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use asft::report::watch::Watched;
use asft::train::Interrupts;
use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};

use super::exit::{OrUsage, Signal};
use super::signals::Signals;
use super::{ExitStatus, output};

/// How often the record is looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// Columns and rows of a frame where there is no terminal.
const SIZE: (u16, u16) = (100, 30);

/// Which run.
#[derive(Args, Clone, Debug)]
pub struct WatchArguments {
    /// Folder of a training run (the --output of asft train), under way or finished
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one frame and end, as when stdout is not a terminal
    #[arg(long)]
    once: bool,
}

/// Shows the run until q, Esc or Ctrl-C, or a signal that asks to stop.
pub fn run(arguments: &WatchArguments) -> anyhow::Result<ExitStatus> {
    let folder = &arguments.run;
    if !folder.is_dir() {
        return Err(anyhow!("{} is not a folder; give the --output of asft train", folder.display()))
            .or_usage();
    }
    let mut watched = Watched::new(folder).or_usage()?;
    if arguments.once || !stdout().is_terminal() {
        let (width, height) = if stdout().is_terminal() {
            let size = terminal_size::terminal_size();
            size.map_or(SIZE, |(width, height)| (width.0, height.0.saturating_sub(1)))
        } else {
            SIZE
        };
        output::print(&frame(&watched, width, height)?)?;
        return Ok(ExitStatus::Success);
    }
    // A signal that ended the program at once would leave the terminal without echo and on its second screen.
    let mut signals = Signals::default();
    signals.watch();
    // Restores the terminal on panic as well.
    let mut terminal = ratatui::try_init().context("cannot draw on this terminal")?;
    let ended = follow(&mut terminal, &mut watched, &signals);
    ratatui::restore();
    ended
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    watched: &mut Watched,
    signals: &Signals,
) -> anyhow::Result<ExitStatus> {
    loop {
        if let Some(signal) = signals.requested().and_then(Signal::of) {
            return Ok(ExitStatus::Stopped(signal));
        }
        terminal.draw(|frame| watched.draw(frame))?;
        // A resize is an event: the next round draws in the new size.
        if event::poll(INTERVAL)? {
            if let Event::Key(key) = event::read()?
                && leaves(key)
            {
                return Ok(ExitStatus::Success);
            }
        } else {
            watched.update()?;
        }
    }
}

fn leaves(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || (control && key.code == KeyCode::Char('c'))
}

/// A frame as lines of text.
fn frame(watched: &Watched, width: u16, height: u16) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| watched.draw(frame))?;
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width.max(1)));
    let line = |cells: &[ratatui::buffer::Cell]| {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned() + "\n"
    };
    let text: String = lines.map(line).collect();
    Ok(text.trim_end().to_owned() + "\n")
}
