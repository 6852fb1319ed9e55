//! One problem in the settings file, shown with file, line, column, the line itself and a caret.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A problem at a place of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    /// Bytes of the file's text.
    pub place: Range<usize>,
    /// Shown beside the caret.
    pub help: Option<String>,
}

impl Problem {
    /// The complete text of the problem, without colour.
    pub fn render(&self, path: &str, source: &str) -> String {
        let mut annotation = AnnotationKind::Primary.span(self.place.clone());
        if let Some(help) = &self.help {
            annotation = annotation.label(help);
        }
        let snippet = Snippet::source(source).path(path).annotation(annotation);
        let report = &[Level::ERROR.primary_title(&self.message).element(snippet)];
        Renderer::plain().render(report)
    }
}

/// The text with stars at these places; every other byte keeps its place.
pub fn masked(source: &str, secrets: &[Range<usize>]) -> String {
    let mut text = source.to_owned();
    for place in secrets {
        text.replace_range(place.clone(), &"*".repeat(place.len()));
    }
    text
}

/// The bytes at a line and column (both from 1, the column in characters) of a text; `length` characters, at least one
/// unless the text ends there, never over the end of the line.
pub fn bytes_at(source: &str, line: u64, column: u64, length: u64) -> Range<usize> {
    let line_index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = source.split_inclusive('\n').take(line_index).map(str::len).sum();
    let text = source.get(start..).unwrap_or_default();
    let text = text.split(['\n', '\r']).next().unwrap_or_default();
    let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    let take = usize::try_from(length.max(1)).unwrap_or(usize::MAX);
    let offset = |characters: usize| text.char_indices().nth(characters).map_or(text.len(), |(offset, _)| offset);
    let from = offset(skip);
    let to = offset(skip.saturating_add(take));
    start + from..start + to
}
