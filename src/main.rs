//! The `asft` program: parse, run, exit code.

mod cli;

use std::process::ExitCode;

use cli::{Cli, output};

fn main() -> ExitCode {
    let cli = match Cli::from_command_line(std::env::args_os()) {
        Ok(cli) => cli,
        // clap prints help and version to stdout (exit code 0) and everything else to stderr (2).
        Err(error) => error.exit(),
    };
    let messages = output::Messages::new(&cli.messages);
    messages.install_log();
    match cli.run() {
        Ok(status) => status.into(),
        Err(error) => messages.report(&error),
    }
}
