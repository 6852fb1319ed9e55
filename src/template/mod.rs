//! Free templates: a text with the data of Consul in it. Pure.
//!
//! Owns the language that templates speak: minijinja, with functions and filters that carry consul-template's names and
//! meaning. Running a template is how its dependencies are found: it records what it asked for, and what of that was not
//! known yet. nginx's own language is `crate::render`'s; nothing here knows files, Consul or the clock.

mod absent;
mod collections;
mod filters;
mod functions;
mod printf;
mod query;
mod shared;
pub(crate) mod sprig;
#[cfg(test)]
mod tests;
mod text;
mod toml;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use jiff::Timestamp;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, Output, UndefinedBehavior};
use sha2::{Digest, Sha256};

use crate::observed::{Answers, Dependency, View};
use crate::spec::Template;
use crate::spec::container::hex;
use crate::spec::suggest::did_you_mean;
use crate::spec::template::Delimiters;
use shared::Shared;

/// Names of the functions that templates have, beside minijinja's own.
pub(crate) use absent::absent;
pub(crate) use functions::NAMES as FUNCTIONS;

/// Raised when the same template and the same data begin to render another text.
const LANGUAGE: &str = "reeve:v1:template";
/// Steps of a rendering, whatever it renders: used up by one that does not end within a second or two.
const FUEL: u64 = 5_000_000;
/// And for each entry of each answer on top of it.
const FUEL_ENTRY: u64 = 2_000;
/// The longest text that a template may render, in bytes.
pub const LONGEST_OUTPUT: usize = 16 << 20;

/// What a template did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Everything that it asked for.
    pub asked: BTreeSet<Dependency>,
    /// What of that has no answer yet. Not empty: the text is an error, and says so.
    pub missing: BTreeSet<Dependency>,
    /// The text, or why there is none: with the template's name and line.
    pub text: Result<String, String>,
}

/// Runs a template. `at`: what `timestamp()` is.
pub fn run(template: &Template, answers: &Arc<Answers>, at: Timestamp) -> Run {
    let strict = Arc::new(Shared::new(template, answers.clone(), at, false));
    let text = attempt(template, &strict);
    let (mut asked, mut missing) = strict.take();
    let unknown = |one: &Dependency| matches!(answers.get(one), Some(View::Unknown { .. }));
    if missing.is_empty() && !asked.iter().any(unknown) {
        return Run { asked, missing, text };
    }
    // Strictness would end it at the first thing that is not known: what else it asks for is found without.
    let lenient = Arc::new(Shared::new(template, answers.clone(), at, true));
    drop(attempt(template, &lenient));
    let (more, more_missing) = lenient.take();
    asked.extend(more);
    missing.extend(more_missing);
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let text = if names.is_empty() { text } else { Err(format!("no answer yet to {}", names.join(", "))) };
    Run { asked, missing, text }
}

/// Whether the text is a template at all, and calls only functions that there are.
///
/// # Errors
/// Why not, with its name and line.
pub fn check(template: &Template) -> Result<(), String> {
    let shared = Arc::new(Shared::new(template, Arc::default(), Timestamp::UNIX_EPOCH, false));
    let environment = environment(template, &shared)?;
    let compiled = environment.get_template(&template.origin).map_err(|error| error.to_string())?;
    let known: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
    // A value may be asked whether it is there; what is called has to be.
    let unknown = compiled.undeclared_variables(false).into_iter().filter(|name| !known.contains(name.as_str()));
    let first = unknown.filter_map(|name| called_in(&template.text, &name).map(|line| (line, name))).min();
    match first {
        None => Ok(()),
        Some((line, name)) => {
            let reason = counterpart(&name).unwrap_or_else(|| {
                let meant = meant(&name, &environment_names()).map(|help| format!("; {help}")).unwrap_or_default();
                format!("there is no function {name}{meant}")
            });
            Err(format!("{}:{}: {reason}", template.origin, line + 1))
        }
    }
}

/// The line, from 0, in which a function of this name is called first.
fn called_in(text: &str, name: &str) -> Option<usize> {
    let word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '.';
    text.lines().position(|line| {
        line.match_indices(name)
            .any(|(at, _)| !line[..at].ends_with(word) && line[at + name.len()..].trim_start().starts_with('('))
    })
}

/// Whether these delimiters can be told apart.
///
/// # Errors
/// Why not.
pub fn syntax(delimiters: &Delimiters) -> Result<SyntaxConfig, String> {
    let mut builder = SyntaxConfig::builder();
    let Delimiters { block, variable, comment } = delimiters;
    builder.block_delimiters(block.0.clone(), block.1.clone());
    builder.variable_delimiters(variable.0.clone(), variable.1.clone());
    builder.comment_delimiters(comment.0.clone(), comment.1.clone());
    // As Go's templates: what stands in the text stays in it.
    builder.keep_trailing_newline(true);
    builder.build().map_err(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned))
}

/// Digest of the template and of the data that it asked for. `asked`: from a run on the same answers.
pub fn inputs(template: &Template, asked: &BTreeSet<Dependency>, answers: &Answers) -> String {
    let mut sha = Sha256::new();
    let mut add = |part: &str| {
        sha.update(part.len().to_le_bytes());
        sha.update(part.as_bytes());
    };
    let Delimiters { block, variable, comment } = &template.delimiters;
    for part in [LANGUAGE, &template.text, &block.0, &block.1, &variable.0, &variable.1, &comment.0, &comment.1] {
        add(part);
    }
    add(if template.error_on_missing { "strict" } else { "empty" });
    for dependency in asked {
        add(&dependency.to_string());
        match answers.get(dependency) {
            Some(View::Known(answer)) => add(&answer.data.to_string()),
            Some(View::Unknown { .. }) | None => add("unknown"),
        }
    }
    hex(&sha.finalize())
}

/// Digest of a rendered text, as [`crate::observed::FileSeen::digest`].
pub fn digest(text: &[u8]) -> String {
    hex(&Sha256::digest(text))
}

fn environment(template: &Template, shared: &Arc<Shared>) -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax(&template.delimiters)?);
    let behaviour = if shared.lenient { UndefinedBehavior::Chainable } else { UndefinedBehavior::Strict };
    environment.set_undefined_behavior(behaviour);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let lenient = shared.lenient;
    environment.set_formatter(move |out, _, value| write_value(out, value, lenient));
    let entries: usize = shared.answers.values().filter_map(View::known).map(|answer| answer.entries.len()).sum();
    let entries = u64::try_from(entries).unwrap_or(u64::MAX);
    environment.set_fuel(Some(FUEL.saturating_add(FUEL_ENTRY.saturating_mul(entries))));
    // With it, errors carry the values of variables, secrets among them.
    environment.set_debug(false);
    functions::add(&mut environment, shared);
    filters::add(&mut environment, shared);
    environment
        .add_template_owned(template.origin.clone(), template.text.to_string())
        .map_err(|error| explained(&error, template, &environment_names()))?;
    Ok(environment)
}

fn attempt(template: &Template, shared: &Arc<Shared>) -> Result<String, String> {
    let environment = environment(template, shared)?;
    let explain = |error: &minijinja::Error| explained(error, template, &environment_names());
    let compiled = environment.get_template(&template.origin).map_err(|error| explain(&error))?;
    let mut output = Limited { bytes: Vec::new(), over: false };
    let result = compiled.render_captured_to((), &mut output).map(drop);
    if output.over {
        let limit = LONGEST_OUTPUT >> 20;
        return Err(format!(
            "{}: it renders more than {limit} MiB: does a loop go over the wrong list?",
            template.origin
        ));
    }
    result.map_err(|error| explain(&error))?;
    String::from_utf8(output.bytes).map_err(|_| format!("{}: it renders something that is not UTF-8", template.origin))
}

/// As Go prints it: `true`, not `True`.
fn write_value(out: &mut Output<'_>, value: &Value, lenient: bool) -> Result<(), minijinja::Error> {
    let written = match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) if lenient => Ok(()),
        (ValueKind::Undefined, _) => return Err(ErrorKind::UndefinedError.into()),
        (_, Some(text)) => out.write_str(text),
        _ => out.write_str(&shared::text(value)),
    };
    written.map_err(|error| minijinja::Error::new(ErrorKind::WriteFailure, "no room").with_source(error))
}

/// Refuses what is too long, instead of filling the memory.
struct Limited {
    bytes: Vec<u8>,
    over: bool,
}

impl Write for Limited {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > LONGEST_OUTPUT {
            self.over = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment_names() -> Vec<&'static str> {
    functions::NAMES.iter().chain(filters::NAMES).chain(sprig::NAMES).copied().collect()
}

/// Name, line, what is wrong, what was meant, and the line itself: never a value, which may be a secret.
fn explained(error: &minijinja::Error, template: &Template, names: &[&'static str]) -> String {
    let place = error.line().map_or_else(|| template.origin.clone(), |line| format!("{}:{line}", template.origin));
    let own = shared::own(error);
    let detail = error.detail().unwrap_or_default();
    let mut reason = match (own, error.kind()) {
        (Some(own), _) => own,
        (None, ErrorKind::OutOfFuel) => "it does not end: it has used up all steps that it may take".to_owned(),
        (None, ErrorKind::TemplateNotFound | ErrorKind::BadInclude) => {
            "include, import and extends have no other template to use; file(\"path\") reads a file".to_owned()
        }
        (None, ErrorKind::UndefinedError) => {
            "undefined value; `| default(…)` and `is defined` tell what to do without".to_owned()
        }
        (None, kind @ (ErrorKind::UnknownFilter | ErrorKind::UnknownFunction | ErrorKind::UnknownTest)) => {
            let word =
                detail.strip_suffix(" is unknown").and_then(|words| words.rsplit(' ').next()).unwrap_or_default();
            let meant = meant(word, names).map(|help| format!("; {help}")).unwrap_or_default();
            let reason = if detail.is_empty() { kind.to_string() } else { detail.to_owned() };
            match counterpart(word) {
                Some(instead) => instead,
                None => format!("{reason}{meant}"),
            }
        }
        (None, kind @ (ErrorKind::SyntaxError | ErrorKind::InvalidDelimiter | ErrorKind::UnknownMethod)) => {
            if detail.is_empty() { kind.to_string() } else { format!("{kind}: {detail}") }
        }
        (None, kind) => kind.to_string(),
    };
    let line = error.line().and_then(|line| template.text.lines().nth(line.checked_sub(1)?));
    if let Some(line) = line {
        reason.push_str("\n    ");
        reason.extend(line.trim().chars().take(160));
    }
    format!("{place}: {reason}")
}

fn meant(word: &str, names: &[&'static str]) -> Option<String> {
    // consul-template's own name, in the case of Go.
    let same = names.iter().find(|name| name.replace('_', "").eq_ignore_ascii_case(word));
    let same = same.map(|name| format!("did you mean `{name}`?"));
    same.or_else(|| did_you_mean(word, names.iter().copied()))
}

/// Of a function of consul-template that is not here: what to do.
fn counterpart(name: &str) -> Option<String> {
    if let Some(of_sprig) = name.strip_prefix("sprig_") {
        return Some(match sprig::counterpart(of_sprig) {
            Ok(instead) => format!("`{name}` is {instead} here"),
            Err(reason) => format!("`{name}` has no counterpart here: {reason}"),
        });
    }
    let instead = match name {
        "no_counterpart" => "`reeve import` did not find any; its comment beside it says why, and what to do",
        _ => absent(name)?,
    };
    Some(format!("`{name}` has no counterpart here: {instead}"))
}
