//! What is wrong with a spec, and where: errors and warnings with file, line, column, the line itself and a caret.
//!
//! Owns the words' form, not the words. It must not show a credential: lines are masked before they are kept, and values
//! that came out of an interpolation are never quoted (`tree::Node::shown`).

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::credential::mask_line;
use super::tree::Place;

/// Longest line that is shown whole, in bytes.
const LONGEST_LINE: usize = 1000;
/// Most bytes that are shown of what is marked in a longer line.
const LONGEST_MARK: usize = 80;

/// How many errors a line of a log tells; the file has to be looked at anyway.
const LINED: usize = 3;

/// How many diagnostics are shown; a file that is wrong throughout would fill the screen otherwise.
const SHOWN: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing to say about a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// As the user named it; empty when no file is to blame.
    pub file: String,
    /// From 1; 0: no place in the file is known.
    pub line: u32,
    /// In characters, from 1; 0 together with `line`.
    pub column: u32,
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// The line at fault, with credentials masked, and the bytes of it that the caret marks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    range: Range<usize>,
    /// The line was too long: only what is marked is kept.
    cropped: bool,
}

impl Excerpt {
    fn of(line: &str, range: Range<usize>) -> Self {
        if line.len() <= LONGEST_LINE {
            return Self { text: mask_line(line), range, cropped: false };
        }
        // Not a window around it: the name that tells a credential could be outside.
        let mut end = range.end.min(range.start + LONGEST_MARK);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let marked = &line[range.start..end];
        let start = '…'.len_utf8();
        Self { text: format!("…{marked}…"), range: start..start + marked.len(), cropped: true }
    }
}

impl Diagnostic {
    pub(crate) fn at(severity: Severity, place: &Place, message: impl Into<String>) -> Self {
        let (line, range) = place.excerpt();
        Self {
            severity,
            file: place.file().to_owned(),
            line: place.line(),
            column: place.column(),
            message: message.into(),
            help: None,
            excerpt: Some(Excerpt::of(line, range)),
        }
    }

    pub(crate) fn error(place: &Place, message: impl Into<String>) -> Self {
        Self::at(Severity::Error, place, message)
    }

    pub(crate) fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self::at(Severity::Warning, place, message)
    }

    /// An error about a file as a whole; `file` may be empty.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            help: None,
            excerpt: None,
        }
    }

    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// For a line of `NAME=value`, whose value may be a credential whatever its name says: only the name is shown.
    pub fn without_value(mut self) -> Self {
        if let Some(excerpt) = &mut self.excerpt {
            let kept = excerpt.text.find('=').map_or(0, |equals| equals + 1);
            excerpt.text.truncate(kept);
            excerpt.text.push('…');
            let end = excerpt.text.len();
            excerpt.range = excerpt.range.start.min(kept)..excerpt.range.end.clamp(1, end);
            if !excerpt.text.is_char_boundary(excerpt.range.end) {
                excerpt.range.end = end;
            }
        }
        self
    }

    /// What, where and what to do in one line, for a log: `shop.yaml:6:13: 3 host ports for 4 replicas (each needs one)`.
    pub fn line(&self) -> String {
        let place = match (self.file.as_str(), self.line) {
            ("", _) => String::new(),
            (file, 0) => format!("{file}: "),
            (file, line) => format!("{file}:{line}:{}: ", self.column),
        };
        let help = self.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{place}{}{help}", self.message)
    }

    /// The whole text: what, where, the line with a caret, what to do. No line break at the end.
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(self.message.as_str()).elements(std::iter::empty::<Origin<'_>>());
        if let Some(excerpt) = &self.excerpt {
            let mut snippet = Snippet::source(excerpt.text.as_str());
            match excerpt.cropped {
                // The renderer would count the column in what is left of the line.
                true => {
                    let (line, column) = (usize::try_from(self.line), usize::try_from(self.column));
                    let origin = Origin::path(self.file.as_str()).line(line.unwrap_or(1));
                    group = group.element(origin.char_column(column.unwrap_or(1)));
                }
                false => snippet = snippet.path(self.file.as_str()),
            }
            let snippet = snippet
                .line_start(usize::try_from(self.line).unwrap_or(1))
                .annotation(AnnotationKind::Primary.span(excerpt.range.clone()));
            group = group.element(snippet);
        } else if !self.file.is_empty() {
            group = group.element(Origin::path(self.file.as_str()));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let text = renderer.render(&[group]);
        // Trailing blanks would make golden files and copies of the text hard to compare.
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// All that is wrong with a spec, sorted by place. Holds at least one error when it is returned as one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The errors in one line, for a log.
    pub fn line(&self) -> String {
        let mut parts: Vec<String> = self.errors().take(LINED).map(Diagnostic::line).collect();
        match self.errors().count() - parts.len() {
            0 => {}
            more => parts.push(format!("and {more} more (`reeve validate` shows them)")),
        }
        parts.join("; ")
    }

    /// The text of all, a blank line between each two.
    pub fn render(&self, colour: bool) -> String {
        // Warnings must not push errors out of sight.
        let crowded = self.0.len() > SHOWN && self.errors().next().is_some();
        let shown = self.0.iter().filter(|diagnostic| !crowded || diagnostic.severity == Severity::Error);
        let mut parts: Vec<String> = shown.take(SHOWN).map(|diagnostic| diagnostic.render(colour)).collect();
        if self.0.len() > parts.len() {
            parts.push(format!("and {} more", self.0.len() - parts.len()));
        }
        parts.join("\n\n")
    }

    /// One line for logs and status: the first error with its place, and how many more there are.
    pub fn summary(&self) -> String {
        let Some(first) = self.errors().next().or(self.0.first()) else { return String::new() };
        let place = match (first.file.is_empty(), first.line) {
            (true, _) => String::new(),
            (false, 0) => format!("{}: ", first.file),
            (false, line) => format!("{}:{line}:{}: ", first.file, first.column),
        };
        let help = first.help.as_ref().map_or(String::new(), |help| format!(" ({help})"));
        let more = match self.errors().count().saturating_sub(1) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!("{place}{}{help}{more}", first.message)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Most errors, and most warnings, that are kept: a file that is wrong in a hundred thousand places is told in a few.
const KEPT: usize = 500;

/// Collects diagnostics while a spec is read, so that a user sees all mistakes at once.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Report {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let list = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        // One mistake may be seen from two sides, through an anchor that is used twice for instance.
        if list.len() < KEPT && !list.contains(&diagnostic) {
            list.push(diagnostic);
        }
    }

    pub fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.push(Diagnostic::error(place, message));
    }

    pub fn error_help(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::error(place, message).with_help(help));
    }

    pub fn warning(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::warning(place, message).with_help(help));
    }

    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Sorted by file, line and column; what has no line comes first in its file.
    pub fn finish(self) -> Diagnostics {
        let mut all = self.errors;
        all.extend(self.warnings);
        all.sort_by(|a, b| {
            (&a.file, a.line, a.column, a.severity, &a.message)
                .cmp(&(&b.file, b.line, b.column, b.severity, &b.message))
        });
        Diagnostics(all)
    }
}
