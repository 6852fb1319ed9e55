//! `reeve completions`: for bash, zsh, fish and others.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Exit, Output};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve completions bash > /etc/bash_completion.d/reeve
  reeve completions zsh > \"${fpath[1]}/_reeve\"
  reeve completions fish > ~/.config/fish/completions/reeve.fish")]
pub struct CompletionsArguments {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// # Errors
/// When it cannot be printed.
pub fn run(output: &mut Output, arguments: &CompletionsArguments) -> anyhow::Result<Exit> {
    // Into memory first: the generator panics when its writer fails, and a closed pipe does.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "reeve", &mut script);
    output.text(String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
