//! The way over from Compose, registrator and consul-template: their files as a spec of reeve.
//!
//! Owns the translations, all of them text in, text out. It must not read or write files itself (`cli::import` hands it
//! `Files`), and must not drop anything in silence: what has no counterpart is marked at its place in the result, and listed.

pub mod compose;
pub mod consul_template;
mod fates;
mod flags;
pub mod gotemplate;
mod hcl;
mod native;
mod register;
pub mod registrator;
mod settings;
mod yaml;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::spec::diagnostic::Diagnostic;
use crate::spec::load::{Files, ReadError};
use crate::spec::tree::{Place, Source};
use crate::spec::words;

/// A file of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// A name without folders.
    pub name: String,
    pub text: String,
}

/// What an import gives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// The spec, and the files that it names.
    pub files: Vec<File>,
    /// What has no counterpart, in the order of the files; each is marked in the result too.
    pub gaps: Vec<Diagnostic>,
}

impl Imported {
    fn gap(&mut self, place: &Place, message: impl Into<String>, help: &str) {
        let gap = Diagnostic::warning(place, message);
        let gap = if help.is_empty() { gap } else { gap.with_help(help) };
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
    }

    /// `app.conf`, `app-2.conf`: a name that no file of the result has yet.
    fn free_name(&self, stem: &str, ending: &str) -> String {
        let taken = |name: &str| self.files.iter().any(|file| file.name == name);
        let names = (1..).map(|number| match number {
            1 => format!("{stem}{ending}"),
            _ => format!("{stem}-{number}{ending}"),
        });
        names.into_iter().find(|name| !taken(name)).unwrap_or_default()
    }
}

/// A fault of one of the readers, with its place.
fn fault(source: &Arc<Source>, fault: gotemplate::Fault) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(&Place::new(source, fault.range), fault.message))
}

/// A text file.
///
/// # Errors
/// When it cannot be read, or is no text.
fn text(files: &dyn Files, name: &str) -> Result<Arc<Source>, Box<Diagnostic>> {
    let bytes = files.read(Path::new(name)).map_err(|error| {
        Box::new(match error {
            ReadError::Missing => Diagnostic::of_file(name, "there is no such file"),
            ReadError::Other(reason) => Diagnostic::of_file(name, format!("the file cannot be read: {reason}")),
        })
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Arc::new(Source { name: name.to_owned(), text })),
        Err(_) => Err(Box::new(Diagnostic::of_file(name, "the file is not UTF-8 text"))),
    }
}

/// The name of a command line in messages, where a file's name stands otherwise.
const COMMAND_LINE: &str = "command line";

/// A command line with the bytes of each of its words.
#[derive(Debug, Clone)]
struct CommandLine {
    source: Arc<Source>,
    words: Vec<Word>,
}

#[derive(Debug, Clone)]
struct Word {
    text: String,
    range: Range<usize>,
}

impl CommandLine {
    /// Words that are separate already.
    fn of_words(name: &str, given: &[String]) -> Self {
        let mut text = String::new();
        let mut words = Vec::new();
        for word in given {
            if !text.is_empty() {
                text.push(' ');
            }
            let start = text.len();
            text.push_str(word);
            words.push(Word { text: word.clone(), range: start..text.len() });
        }
        Self::masked(name, text, words)
    }

    /// What is shown of the line in messages has asterisks in place of credentials.
    fn masked(name: &str, mut text: String, words: Vec<Word>) -> Self {
        let mut credential = false;
        for word in &words {
            let flag = word.text.trim_start_matches('-');
            let (flag_name, value) = flag.split_once('=').map_or((flag, None), |(flag, value)| (flag, Some(value)));
            let secret = |name: &str| ["token", "auth", "password"].iter().any(|end| name.ends_with(end));
            let hidden = match (credential, value) {
                (true, _) => word.range.clone(),
                (false, Some(value)) if word.text.starts_with('-') && secret(flag_name) => {
                    word.range.end.saturating_sub(value.len())..word.range.end
                }
                (false, _) => 0..0,
            };
            if text.get(hidden.clone()).is_some() {
                text.replace_range(hidden.clone(), &"*".repeat(hidden.len()));
            }
            credential = word.text.starts_with('-') && value.is_none() && secret(flag_name);
        }
        Self { source: Arc::new(Source { name: name.to_owned(), text }), words }
    }

    /// A line as for a shell. Whatever stands before the program itself (`docker run …`) is left out.
    ///
    /// # Errors
    /// A quote that is not closed.
    fn of_line(name: &str, line: &str, program: &str) -> Result<Self, Box<Diagnostic>> {
        let source = Arc::new(Source { name: name.to_owned(), text: line.trim().to_owned() });
        let given = words::split(&source.text)
            .map_err(|reason| Box::new(Diagnostic::error(&Place::new(&source, 0..source.text.len()), reason)))?;
        let image = |word: &str| {
            let base = word.rsplit('/').next().unwrap_or(word);
            !word.starts_with('-') && base.split([':', '@']).next() == Some(program)
        };
        let start = given.iter().position(|word| image(word)).map_or(0, |at| at + 1);
        let mut at = 0;
        let mut words = Vec::new();
        for word in given {
            // Quotes may stand within the word: then the rest of the line is as near as it gets.
            let found = source.text[at..].find(&word).map(|found| at + found);
            let range = found.map_or(at..at, |found| found..found + word.len());
            at = range.end;
            words.push(Word { text: word, range });
        }
        words.drain(..start);
        Ok(Self::masked(name, source.text.clone(), words))
    }

    fn place(&self, range: &Range<usize>) -> Place {
        Place::new(&self.source, range.clone())
    }
}
