//! YAML text as a tree in which every key and value knows its place in the file.
//!
//! Owns anchors, aliases, merge keys (`<<`), duplicate keys, and the budgets against input that is huge, deep or grows
//! through aliases. It must not know what a key means. Scalars stay text (with the knowledge whether they were quoted), so
//! that `1.10`, `no` and `0755` mean what the reader of a key decides, not what a YAML schema guesses.
//!
//! It builds on the parser beneath `serde-saphyr` rather than on serde: serde's data model has no place for tags
//! (`!reset`), for the difference between `"80"` and `80`, and loses the text of a number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::diagnostic::Diagnostic;

/// Largest file that is read, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Most nodes of one file, after aliases are expanded.
const MAX_NODES: usize = 300_000;

/// A file's name, as the user knows it, and its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// Where something stands in a file. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    source: Arc<Source>,
    line: u32,
    column: u32,
    start: u32,
    end: u32,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source.name, self.line, self.column)
    }
}

impl Place {
    /// The place of these bytes of the source. Offsets that are no character boundaries are moved to one.
    pub fn new(source: &Arc<Source>, bytes: Range<usize>) -> Self {
        let text = &source.text;
        let start = floor_boundary(text, bytes.start);
        let end = floor_boundary(text, bytes.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |found| found + 1);
        let line = text[..start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        Self {
            source: Arc::clone(source),
            line: saturate(line),
            column: saturate(column),
            start: saturate(start),
            end: saturate(end),
        }
    }

    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// From 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// In characters, from 1.
    pub fn column(&self) -> u32 {
        self.column
    }

    /// The lines above the one in which it begins, the nearest first.
    pub fn lines_above(&self) -> impl Iterator<Item = &str> {
        let line_start = self.source.text[..self.start as usize].rfind('\n').unwrap_or(0);
        self.source.text[..line_start].lines().rev()
    }

    /// What follows it in its line.
    pub fn rest_of_line(&self) -> &str {
        self.source.text.get(self.end as usize..).unwrap_or_default().lines().next().unwrap_or_default()
    }

    /// The text that stands there.
    pub fn slice(&self) -> &str {
        self.source.text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The place of the first occurrence of `fragment` within this one, else this one.
    pub fn within(&self, fragment: &str) -> Self {
        match self.slice().find(fragment) {
            Some(found) if !fragment.is_empty() => {
                // Counted from here, not from the beginning of the file, which may be long.
                let before = &self.slice()[..found];
                let start = self.start as usize + found;
                let column = match before.rfind('\n') {
                    None => self.column as usize + before.chars().count(),
                    Some(last) => before[last + 1..].chars().count() + 1,
                };
                Self {
                    source: Arc::clone(&self.source),
                    line: self.line.saturating_add(saturate(before.matches('\n').count())),
                    column: saturate(column),
                    start: saturate(start),
                    end: saturate(start + fragment.len()),
                }
            }
            _ => self.clone(),
        }
    }

    /// The line in which this place begins, and the bytes of that line which belong to it (at least one character).
    pub fn excerpt(&self) -> (&str, Range<usize>) {
        let text = &self.source.text;
        let start = self.start as usize;
        let line_start = text[..start].rfind('\n').map_or(0, |found| found + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |found| start + found);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let from = (start - line_start).min(line.len());
        let to = (self.end as usize).saturating_sub(line_start).clamp(from, line.len());
        let to = from + line[from..to].trim_end().len();
        if to > from {
            return (line, from..to);
        }
        // A block collection has no extent of its own: mark the word that it begins with.
        let word = line[from..].find([' ', ':', ',', ']', '}']).unwrap_or(line.len() - from);
        let word = word.max(line[from..].chars().next().map_or(0, char::len_utf8));
        (line, from..from + word)
    }
}

fn saturate(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Compose's tags for merging several files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Takes the key out.
    Reset,
    /// Replaces what an earlier file says, instead of being merged with it.
    Override,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub place: Place,
    pub tag: Option<Tag>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    /// Not quoted, so that `true` may be a boolean.
    pub plain: bool,
    /// The text before interpolation, when that changed it.
    pub template: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

impl Node {
    pub fn scalar(place: &Place, text: &str) -> Self {
        let scalar = Scalar { text: text.to_owned(), plain: false, template: None };
        Self { place: place.clone(), tag: None, value: Value::Scalar(scalar) }
    }

    pub fn null(place: &Place) -> Self {
        Self { place: place.clone(), tag: None, value: Value::Null }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The entry of a mapping, if its value is not null.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key && !entry.value.is_null())
    }

    /// The entry of a mapping, if its value is neither null nor empty text: `${NAME:-}` is how files say "unset".
    pub fn given(&self, key: &str) -> Option<&Entry> {
        self.get(key).filter(|entry| entry.value.text() != Some(""))
    }

    /// The value of a mapping's entry, if it is not null.
    pub fn value(&self, key: &str) -> Option<&Node> {
        self.get(key).map(|entry| &entry.value)
    }

    /// The entries of a mapping; of anything else, none.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::Sequence(_) => &[],
        }
    }

    /// The items of a sequence, or a scalar or mapping as the only one.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            Value::Null => &[],
            Value::Scalar(_) | Value::Mapping(_) => std::slice::from_ref(self),
        }
    }

    /// The items of a sequence; of anything else, none.
    pub fn list(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            Value::Null | Value::Scalar(_) | Value::Mapping(_) => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The text of a scalar for a message: what the file says, not what an interpolation made of it.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) => shown(scalar.template.as_ref().unwrap_or(&scalar.text)),
            Value::Null => "null".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// A reason that may quote parts of this scalar: without them when the text came out of a variable.
    pub fn careful(&self, reason: &str) -> String {
        let Value::Scalar(Scalar { text, template: Some(_), .. }) = &self.value else { return reason.to_owned() };
        let careful = |(at, part): (usize, &str)| match at % 2 {
            0 => part.to_owned(),
            _ if text.contains(part) || part.contains(text.as_str()) => "`…`".to_owned(),
            _ => format!("`{part}`"),
        };
        reason.split('`').enumerate().map(careful).collect()
    }

    /// What it is, in words.
    pub fn what(&self) -> &'static str {
        match &self.value {
            Value::Null => "empty",
            Value::Scalar(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// Text for a message: control characters escaped, cut to a readable length.
pub fn shown(text: &str) -> String {
    let escape = |letter: char| match letter {
        '"' | '\'' | '\\' => vec![letter],
        _ => letter.escape_debug().collect(),
    };
    let mut short: String = text.chars().take(60).flat_map(escape).collect();
    if text.chars().count() > 60 {
        short.push('…');
    }
    short
}

/// Reads one file.
///
/// # Errors
/// Everything that is wrong with it as YAML: the first syntax error, or all duplicate keys.
pub fn parse(source: &Arc<Source>) -> Result<Node, Vec<Diagnostic>> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH + 2,
        block_nesting_limit: MAX_DEPTH + 2,
        emit_comments: false
    };
    let mut builder = Builder {
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        nodes: 0,
        document: None,
        documents: 0,
        problems: Vec::new(),
    };
    for event in Parser::new_from_str_with_options(&source.text, options) {
        let (event, span) = match event {
            Ok(pair) => pair,
            Err(error) => {
                builder.problems.push(scan_error(source, &error));
                return Err(builder.problems);
            }
        };
        let bytes = match (span.start.byte_offset(), span.end.byte_offset()) {
            (Some(start), Some(end)) => start..end,
            _ => 0..0,
        };
        // Lines and columns are counted by the parser; counting them anew for each node would be quadratic.
        let place = Place {
            source: Arc::clone(source),
            line: saturate(span.start.line().max(1)),
            column: saturate(span.start.col() + 1),
            start: saturate(floor_boundary(&source.text, bytes.start)),
            end: saturate(floor_boundary(&source.text, bytes.end.max(bytes.start))),
        };
        if let Err(problem) = builder.event(event, place) {
            builder.problems.push(*problem);
            return Err(builder.problems);
        }
    }
    match (builder.problems.is_empty(), builder.document) {
        (false, _) => Err(builder.problems),
        (true, Some(document)) => Ok(document),
        (true, None) => Err(vec![Diagnostic::of_file(&source.name, "the file is empty")]),
    }
}

fn scan_error(source: &Arc<Source>, error: &granit_parser::ScanError) -> Diagnostic {
    let marker = error.marker();
    let start = marker.byte_offset().unwrap_or_else(|| {
        source.text.char_indices().nth(marker.index()).map_or(source.text.len(), |(offset, _)| offset)
    });
    let place = Place::new(source, start..start);
    match error.kind() {
        granit_parser::ErrorKind::RecursionLimitExceeded => too_deep(&place),
        granit_parser::ErrorKind::UnknownAnchor => {
            let (line, range) = place.excerpt();
            let name = line[range].trim_start_matches('*').to_owned();
            Diagnostic::error(&place, format!("the anchor `{}` is not defined above this line", shown(&name)))
                .with_help(format!("`&{}` must stand before what it names", shown(&name)))
        }
        _ => {
            let mut diagnostic = Diagnostic::error(&place, format!("this is not valid YAML: {}", error.info()));
            let (line, _) = place.excerpt();
            if line.trim_start_matches(' ').starts_with('\t') {
                diagnostic = diagnostic.with_help("YAML does not allow tabs for indentation: use spaces");
            }
            diagnostic
        }
    }
}

fn too_deep(place: &Place) -> Diagnostic {
    Diagnostic::error(place, format!("nested more than {MAX_DEPTH} levels deep"))
        .with_help("no spec needs that; is this the right file?")
}

/// A mapping or sequence that is not complete yet.
struct Frame {
    place: Place,
    tag: Option<Tag>,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, seen: BTreeSet<String>, merges: Vec<Node>, key: Option<Key> },
}

struct Key {
    text: String,
    place: Place,
    merge: bool,
}

struct Builder {
    stack: Vec<Frame>,
    /// Complete anchored nodes with their number of nodes.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    document: Option<Node>,
    documents: usize,
    problems: Vec<Diagnostic>,
}

type Problem = Box<Diagnostic>;

impl Builder {
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Box::new(
                        Diagnostic::error(&place, "a second YAML document in one file")
                            .with_help("put it into a file of its own and pass both with -f"),
                    ));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag_text = tag.as_ref().map(|tag| tag.original());
                let core = tag.as_ref().and_then(|tag| tag.core_suffix()).map(str::to_owned);
                let (tag, core) = self.tag(tag_text.as_deref(), core.as_deref(), &place)?;
                let plain = style == ScalarStyle::Plain && core.as_deref() != Some("str");
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = match null {
                    true => Value::Null,
                    false => Value::Scalar(Scalar { text: text.into_owned(), plain, template: None }),
                };
                self.node(Node { place, tag, value }, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                let tag_text = tag.as_ref().map(|tag| tag.original());
                let core = tag.as_ref().and_then(|tag| tag.core_suffix()).map(str::to_owned);
                let (tag, _) = self.tag(tag_text.as_deref(), core.as_deref(), &place)?;
                self.open(Frame { place, tag, anchor, content: Content::Sequence(Vec::new()) })?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let tag_text = tag.as_ref().map(|tag| tag.original());
                let core = tag.as_ref().and_then(|tag| tag.core_suffix()).map(str::to_owned);
                let (tag, _) = self.tag(tag_text.as_deref(), core.as_deref(), &place)?;
                let content =
                    Content::Mapping { entries: Vec::new(), seen: BTreeSet::new(), merges: Vec::new(), key: None };
                self.open(Frame { place, tag, anchor, content })?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.stack.pop() {
                    let anchor = frame.anchor;
                    let node = close(frame);
                    self.node(node, anchor)?;
                }
            }
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id) else {
                    return Err(Box::new(Diagnostic::error(&place, "an alias to something that contains the alias")));
                };
                let (node, size) = (node.clone(), *size);
                self.spend(size, &place)?;
                self.node(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Compose's own tags, and the name of one of YAML's core tags.
    fn tag(
        &self,
        tag: Option<&str>,
        core: Option<&str>,
        place: &Place,
    ) -> Result<(Option<Tag>, Option<String>), Problem> {
        match (tag, core) {
            (None, _) => Ok((None, None)),
            (Some("!reset"), _) => Ok((Some(Tag::Reset), None)),
            (Some("!override"), _) => Ok((Some(Tag::Override), None)),
            (Some(_), Some(core @ ("str" | "int" | "float" | "bool" | "null" | "map" | "seq"))) => {
                Ok((None, Some(core.to_owned())))
            }
            (Some("!"), _) => Ok((None, Some("str".to_owned()))),
            (Some(other), _) => Err(Box::new(
                Diagnostic::error(place, format!("unknown YAML tag `{}`", shown(other)))
                    .with_help("reeve knows `!reset` and `!override`, as Compose does"),
            )),
        }
    }

    fn spend(&mut self, nodes: usize, place: &Place) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Box::new(
                Diagnostic::error(place, format!("more than {MAX_NODES} values, aliases expanded"))
                    .with_help("no spec needs that; is an anchor used within itself over and over?"),
            ));
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame) -> Result<(), Problem> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(Box::new(too_deep(&frame.place)));
        }
        if let Some(Frame { content: Content::Mapping { key: None, .. }, .. }) = self.stack.last() {
            return Err(Box::new(Diagnostic::error(&frame.place, "the key of a mapping must be text")));
        }
        self.stack.push(frame);
        Ok(())
    }

    /// Puts a complete node where it belongs.
    fn node(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.spend(1, &node.place)?;
        if anchor != 0 {
            let size = count(&node);
            self.spend(size, &node.place)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.document = Some(node);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, seen, merges, key } => match key.take() {
                None => {
                    let (text, merge) = match node.value {
                        Value::Scalar(Scalar { text, plain, .. }) => {
                            let merge = plain && text == "<<";
                            (text, merge)
                        }
                        Value::Null => (node.place.slice().to_owned(), false),
                        Value::Sequence(_) | Value::Mapping(_) => {
                            let problem = Diagnostic::error(&node.place, "the key of a mapping must be text");
                            return Err(Box::new(problem));
                        }
                    };
                    *key = Some(Key { text, place: node.place, merge });
                }
                Some(Key { text, place, merge }) => {
                    if !seen.insert(text.clone()) {
                        let first = entries.iter().find(|entry| entry.key == text).map(|entry| entry.key_place.line());
                        let first = first.map_or(String::new(), |line| format!("it is given first in line {line}; "));
                        let problem = Diagnostic::error(&place, format!("`{}` is given twice", shown(&text)))
                            .with_help(format!("{first}YAML allows a key only once in a mapping"));
                        self.problems.push(problem);
                    } else if merge {
                        let valid = match &node.value {
                            Value::Mapping(_) => true,
                            Value::Sequence(items) => items.iter().all(|item| matches!(item.value, Value::Mapping(_))),
                            Value::Null => true,
                            Value::Scalar(_) => false,
                        };
                        if !valid {
                            let problem = Diagnostic::error(&place, "`<<` merges a mapping or a list of mappings");
                            return Err(Box::new(problem.with_help("write `<<: *name` with the name of an anchor")));
                        }
                        merges.push(node);
                    } else {
                        entries.push(Entry { key: text, key_place: place, value: node });
                    }
                }
            },
        }
        Ok(())
    }
}

/// A complete collection. Merge keys give what the mapping itself does not say; of several, the first wins.
fn close(frame: Frame) -> Node {
    let value = match frame.content {
        Content::Sequence(items) => Value::Sequence(items),
        Content::Mapping { mut entries, mut seen, merges, key: _ } => {
            for merged in merges.into_iter().flat_map(|node| match node.value {
                Value::Sequence(items) => items,
                _ => vec![node],
            }) {
                if let Value::Mapping(more) = merged.value {
                    entries.extend(more.into_iter().filter(|entry| seen.insert(entry.key.clone())));
                }
            }
            Value::Mapping(entries)
        }
    };
    Node { place: frame.place, tag: frame.tag, value }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar(_) => 0,
        Value::Sequence(items) => items.iter().map(count).sum(),
        Value::Mapping(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
