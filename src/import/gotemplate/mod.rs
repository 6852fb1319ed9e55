//! A template of consul-template (Go's `text/template`) as a template of reeve (minijinja).
//!
//! Owns the translation: `lex` and `parse` read Go, `translate` writes minijinja, `functions` knows what is called what. It
//! must not read files nor run a template. Whatever keeps its meaning is translated; whatever does not is marked at its place
//! and listed, and the template then names a function that does not exist: it fails, rather than saying something else than
//! before.

mod code;
mod functions;
mod lex;
mod parse;
mod scope;
mod sprig;
mod translate;

use std::ops::Range;

pub use lex::Fault;

/// How a template is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The file's name, for comments in the result.
    pub name: String,
    /// Go's delimiters of an action: `{{` and `}}` by default.
    pub delimiters: (String, String),
}

impl Options {
    /// With Go's usual delimiters.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), delimiters: ("{{".to_owned(), "}}".to_owned()) }
    }
}

/// Something that has no counterpart in reeve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Bytes of the source.
    pub range: Range<usize>,
    pub reason: String,
}

/// A translated template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    pub text: String,
    pub gaps: Vec<Gap>,
}

/// Translates a template.
///
/// # Errors
/// When Go itself would not read it.
pub fn translate(source: &str, options: &Options) -> Result<Translated, Fault> {
    let (left, right) = &options.delimiters;
    let statements = parse::parse(source, left, right)?;
    let (text, gaps) = translate::Translator::new(source, options, &statements).finish(&statements);
    Ok(Translated { text, gaps })
}
