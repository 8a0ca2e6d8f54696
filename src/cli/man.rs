//! `asft man`: the help as pages for man(1).

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::{Man, generate_to};

use super::exit::OrUsage;
use super::{Cli, ExitStatus, output};

/// Which page, and where to.
#[derive(Args, Clone, Debug)]
#[command(after_help = "asft man train | man -l -\nasft man --output ~/.local/share/man/man1")]
pub struct ManArguments {
    /// The command whose page is printed; without one, the program's
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    command: Vec<String>,
    /// Write all pages into this folder instead: asft.1, asft-train.1, ...
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints a page, or writes all.
pub fn run(arguments: &ManArguments) -> anyhow::Result<ExitStatus> {
    let mut program = Cli::command().disable_help_subcommand(true);
    if let Some(folder) = &arguments.output {
        fs_err::create_dir_all(folder).or_usage()?;
        let written = generate_to(program, folder);
        written.with_context(|| format!("cannot write the pages into {}", folder.display()))?;
        return Ok(ExitStatus::Success);
    }
    // Gives the commands below their whole names.
    program.build();
    let mut command = &program;
    for word in &arguments.command {
        let name = command.get_bin_name().unwrap_or("asft").to_owned();
        command = command
            .find_subcommand(word)
            .with_context(|| format!("{name} has no command \"{word}\"; {name} --help lists them"))
            .or_usage()?;
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).context("cannot make the page")?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(ExitStatus::Success)
}
