//! The command line: arguments, output, exit codes, log set-up. One file for each command.
//!
//! It decides nothing about the world: a command loads settings and spec, calls the parts that do the work, and prints.

pub mod adopt;
mod adopt_registrator;
pub mod apply;
pub mod arguments;
pub mod completions;
pub mod daemon;
pub mod destroy;
pub mod explain;
pub mod hold;
pub mod import;
pub mod logging;
pub mod output;
pub mod passes;
pub mod pinning;
pub mod plan;
pub mod project;
pub mod render;
pub mod rollback;
pub mod run;
pub mod saved;
pub mod schema;
pub mod signals;
pub mod status;
pub mod validate;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

pub use arguments::{Arguments, Command, GlobalArguments};
pub use logging::Logging;
pub use output::{Color, Output, Progress};

use crate::settings::{Loaded, Settings, Sources};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// `plan --detailed-exitcode`: there is something to do.
    Changes,
    /// It has said itself what is wrong: `validate` with invalid files.
    Failure,
    /// `import`: something has no counterpart.
    Incomplete,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Changes | Exit::Incomplete => Self::from(2),
            Exit::Failure => Self::FAILURE,
        }
    }
}

/// What every command gets: the settings, where they came from, and where to print.
#[derive(Debug)]
pub struct Context {
    pub global: GlobalArguments,
    /// For loading the settings again at SIGHUP.
    pub sources: Sources,
    pub settings: Settings,
    pub logging: Logging,
    pub output: Output,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // Help and version go to stdout, errors to stderr; neither may fail because nobody reads.
            let _ = message.print();
            // Not clap's 2, which means "changes" to whoever runs `plan --detailed-exitcode`.
            return if message.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let color = arguments.global.color;
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error, color);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { global, command } = arguments;
    let mut output = Output::stdout(global.color);
    // These need no settings, and must work where the settings are broken.
    match &command {
        Command::Completions(arguments) => return completions::run(&mut output, arguments),
        Command::Schema => return schema::run(&mut output),
        Command::Import(arguments) => return import::run(&global, &mut output, arguments),
        Command::Run(_)
        | Command::Plan(_)
        | Command::Apply(_)
        | Command::Status(_)
        | Command::Explain(_)
        | Command::Adopt(_)
        | Command::Rollback(_)
        | Command::Hold(_)
        | Command::Release(_)
        | Command::Validate(_)
        | Command::Render(_)
        | Command::Destroy(_) => {}
    }
    let mut sources = Sources::of_this_process(global.config.clone())?;
    sources.overrides = global.overrides();
    let Loaded { mut settings, file, warnings } = Settings::load(&sources)?;
    let daemon = matches!(command, Command::Run(_));
    if !daemon && global.log_level.is_none() {
        // The settings' level is the daemon's; a command that a person waits for says what it has to say on stdout.
        settings.log.level = "warn".to_owned();
    }
    // reqwest and bollard panic without one. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let logging = Logging::begin(&settings.log, global.color)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match file {
        Some(file) => tracing::debug!(file = %file.display(), "settings were read"),
        None => tracing::debug!("no settings file was found, every default holds"),
    }
    let mut context = Context { global, sources, settings, logging, output };
    match &command {
        Command::Run(arguments) => run::run(&mut context, arguments),
        Command::Plan(arguments) => plan::run(&mut context, arguments),
        Command::Apply(arguments) => apply::run(&mut context, arguments),
        Command::Status(arguments) => status::run(&mut context, arguments),
        Command::Explain(arguments) => explain::run(&mut context, arguments),
        Command::Adopt(arguments) => adopt::run(&mut context, arguments),
        Command::Rollback(arguments) => rollback::run(&mut context, arguments),
        Command::Hold(arguments) => hold::hold(&mut context, arguments),
        Command::Release(arguments) => hold::release(&mut context, arguments),
        Command::Validate(arguments) => validate::run(&mut context, arguments),
        Command::Render(arguments) => render::run(&mut context, arguments),
        Command::Destroy(arguments) => destroy::run(&mut context, arguments),
        Command::Completions(arguments) => completions::run(&mut context.output, arguments),
        Command::Schema => schema::run(&mut context.output),
        Command::Import(arguments) => import::run(&context.global, &mut context.output, arguments),
    }
}

/// Prints an error with its whole chain of causes. Text that shows a place in a file is complete already.
fn report(error: &anyhow::Error, color: Color) {
    let style = color.style_of_stderr();
    let text = format!("{error:#}");
    let text = match text.strip_prefix("error: ") {
        Some(text) => format!("{}: {text}", style.error("error")),
        None => format!("{}: {text}", style.error("error")),
    };
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// The runtime of a command. Few threads: the work is waiting.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("reeve").enable_all().build()
}
