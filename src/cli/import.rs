//! `reeve import`: files of Compose, registrator and consul-template as a spec.
//!
//! Reads and writes the files; what becomes of them is decided in `import`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{Exit, GlobalArguments, Output};
use crate::import::{Imported, compose, consul_template, registrator};
use crate::spec::LoadOptions;
use crate::spec::diagnostic::Diagnostics;
use crate::spec::load::Disk;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve import compose docker-compose.yml -o spec.yaml
  reeve import registrator -- -internal -tags edge consul://127.0.0.1:8500
  reeve import consul-template app.hcl -o imported/

Exit codes: 0 everything was imported, 2 something has no counterpart (it is
marked in the result and listed), 1 the files cannot be read.")]
pub struct ImportArguments {
    #[command(subcommand)]
    pub from: ImportCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Compose files, merged in their order.
    Compose(ComposeArguments),
    /// The command line of registrator.
    Registrator(RegistratorArguments),
    /// Settings, templates or the command line of consul-template.
    ConsulTemplate(ConsulTemplateArguments),
}

/// Where the result goes.
#[derive(Debug, Args)]
pub struct Destination {
    /// Write into this file (`*.yaml`, `*.yml`; further files beside it), or this folder. Default: stdout.
    #[arg(short, long = "output", value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Overwrite what is there.
    #[arg(long, requires = "output")]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve import compose docker-compose.yml
  reeve import compose docker-compose.yml docker-compose.prod.yml -o spec.yaml

Order, comments and variables are kept. What reeve does not support becomes a
comment at its place, and is listed.")]
pub struct ComposeArguments {
    /// The files; later ones are merged onto earlier ones, as Compose does with -f.
    #[arg(value_name = "FILE", required = true)]
    pub compose_files: Vec<String>,

    #[command(flatten)]
    pub destination: Destination,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve import registrator -- -explicit -ip 192.0.2.10 consul://127.0.0.1:8500
  reeve import registrator --command 'registrator -internal consul://127.0.0.1:8500'

A registrator among the services of a Compose file is found by
`reeve import compose`.")]
pub struct RegistratorArguments {
    /// The whole command line in one text; what stands before registrator in it does not count.
    #[arg(long, value_name = "COMMAND", conflicts_with = "words")]
    pub command: Option<String>,

    /// Flags and the URI, behind `--`.
    #[arg(value_name = "FLAGS", last = true, required_unless_present = "command")]
    pub words: Vec<String>,

    #[command(flatten)]
    pub destination: Destination,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve import consul-template nginx.ctmpl
  reeve import consul-template app.hcl -o imported/
  reeve import consul-template --template 'a.ctmpl:/etc/a.conf:a reload' -o new/
  reeve import consul-template -o imported/ -- -consul-addr 192.0.2.1:8500 -config app.hcl

Each template is translated from Go's language into minijinja's: a file
`NAME.j2` beside the spec.")]
pub struct ConsulTemplateArguments {
    /// Settings (`*.hcl`, `*.json`) and templates (any other file).
    #[arg(value_name = "FILE")]
    pub inputs: Vec<String>,

    /// A template as for consul-template's -template.
    #[arg(long = "template", value_name = "SOURCE:DESTINATION:COMMAND")]
    pub templates: Vec<String>,

    /// The whole command line in one text.
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,

    /// Flags of consul-template, behind `--`.
    #[arg(value_name = "FLAGS", last = true)]
    pub words: Vec<String>,

    #[command(flatten)]
    pub destination: Destination,
}

/// # Errors
/// When a file cannot be read or written, or is not what it should be.
pub fn run(global: &GlobalArguments, output: &mut Output, arguments: &ImportArguments) -> anyhow::Result<Exit> {
    let colour = global.color.coloured_stderr();
    let (result, destination) = match &arguments.from {
        ImportCommand::Compose(arguments) => (from_compose(global, arguments)?, &arguments.destination),
        ImportCommand::Registrator(arguments) => {
            let result = match &arguments.command {
                Some(command) => registrator::from_line(command),
                None => registrator::from_words(&arguments.words),
            };
            (result.map_err(|problem| Diagnostics(vec![*problem])), &arguments.destination)
        }
        ImportCommand::ConsulTemplate(arguments) => {
            let given = consul_template::Given {
                files: arguments.inputs.clone(),
                templates: arguments.templates.clone(),
                command: arguments.command.clone(),
                words: arguments.words.clone(),
            };
            anyhow::ensure!(
                given != consul_template::Given::default(),
                "nothing to import: name settings (*.hcl, *.json) or a template, or give flags behind `--`"
            );
            (consul_template::import(&given, &Disk), &arguments.destination)
        }
    };
    let mut stderr = std::io::stderr();
    let imported = match result {
        Ok(imported) => imported,
        Err(problems) => {
            let _ = writeln!(stderr, "{}", problems.render(colour));
            return Ok(Exit::Failure);
        }
    };
    match &destination.output {
        None => print(output, &imported)?,
        Some(path) => {
            for written in write(path, destination.force, &imported)? {
                output.line(format_args!("{} is written", written.display()))?;
            }
        }
    }
    let count = imported.gaps.len();
    if count == 0 {
        return Ok(Exit::Success);
    }
    let gaps = Diagnostics(imported.gaps);
    // A template that is none, for instance: the rest was imported all the same.
    let failed = gaps.errors().next().is_some();
    let gaps = gaps.render(colour);
    let things = if count == 1 { "1 thing has" } else { &format!("{count} things have") };
    let _ = writeln!(stderr, "{gaps}\n\n{things} no counterpart; the result says so at each place");
    Ok(if failed { Exit::Failure } else { Exit::Incomplete })
}

fn from_compose(
    global: &GlobalArguments,
    arguments: &ComposeArguments,
) -> anyhow::Result<Result<Imported, Diagnostics>> {
    let first = arguments.compose_files.first().map_or(Path::new("."), Path::new);
    let folder = first.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).context("the working directory cannot be found")?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let options = LoadOptions { environment, project: global.project.clone(), ..LoadOptions::default() };
    Ok(compose::import(&arguments.compose_files, &folder, &options, &Disk))
}

/// One file as it is; several with their names above.
fn print(output: &mut Output, imported: &Imported) -> std::io::Result<()> {
    match imported.files.as_slice() {
        [file] => output.text(&file.text),
        files => files.iter().try_for_each(|file| {
            let end = if file.text.ends_with('\n') { "" } else { "\n" };
            output.text(format_args!("# ==> {}\n{}{end}\n", file.name, file.text))
        }),
    }
}

/// Writes every file, or none when one of them is there already.
fn write(path: &Path, force: bool, imported: &Imported) -> anyhow::Result<Vec<PathBuf>> {
    let is_file = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") && !path.is_dir();
    let folder = match is_file {
        true => path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        false => path,
    };
    let paths: Vec<PathBuf> = (0..)
        .zip(&imported.files)
        .map(|(index, file)| if is_file && index == 0 { path.to_owned() } else { folder.join(&file.name) })
        .collect();
    if let Some(there) = paths.iter().find(|path| !force && path.exists()) {
        anyhow::bail!("{} is there already; nothing was written (--force overwrites it)", there.display());
    }
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    for (path, file) in paths.iter().zip(&imported.files) {
        std::fs::write(path, &file.text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(paths)
}
