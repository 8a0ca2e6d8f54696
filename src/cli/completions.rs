//! `asft completions`: what makes a shell complete commands, flags and their values.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, ExitStatus, output};

/// Which shell.
#[derive(Args, Clone, Debug)]
#[command(after_help = "bash: asft completions bash > ~/.local/share/bash-completion/completions/asft\n\
                        zsh: asft completions zsh > DIR/_asft, for a DIR in $fpath\n\
                        fish: asft completions fish > ~/.config/fish/completions/asft.fish")]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &CompletionsArguments) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Cli::command(), "asft", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Success)
}
