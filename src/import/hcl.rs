//! The settings language of consul-template: HCL, first version, and JSON.
//!
//! Owns the syntax of both in one reader, since the first version of HCL differs from JSON in little. It must not know what
//! a key means. It is not the second version of HCL, which reads `${…}` and `%{…}` in texts as expressions: in the settings
//! of consul-template they are text (a template may stand there), so that a reader of that version would refuse or change
//! them. Every key and value knows its bytes.

use std::ops::Range;

use super::gotemplate::Fault;

/// Deepest nesting.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_range: Range<usize>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    pub kind: Kind,
    pub range: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Text(String),
    /// A number, as it is written.
    Number(String),
    Boolean(bool),
    Null,
    List(Vec<Value>),
    Block(Vec<Entry>),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) | Kind::Number(text) => Some(text),
            Kind::Boolean(true) => Some("true"),
            Kind::Boolean(false) => Some("false"),
            Kind::Null | Kind::List(_) | Kind::Block(_) => None,
        }
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.text()? {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Block(entries) => entries,
            // JSON writes a block that may be repeated as a list.
            Kind::List(values) => match values.as_slice() {
                [Value { kind: Kind::Block(entries), .. }] => entries,
                _ => &[],
            },
            Kind::Text(_) | Kind::Number(_) | Kind::Boolean(_) | Kind::Null => &[],
        }
    }
}

/// Reads a whole file.
///
/// # Errors
/// The first thing that is not HCL or JSON.
pub fn parse(source: &str) -> Result<Vec<Entry>, Fault> {
    let mut reader = Reader { source, at: 0, depth: 0 };
    reader.blank()?;
    let whole = reader.peek() == Some('{');
    if whole {
        reader.at += 1;
    }
    let entries = reader.entries(whole)?;
    reader.blank()?;
    match reader.peek() {
        None => Ok(entries),
        Some(_) => Err(reader.fault("nothing more is expected here")),
    }
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fault(&self, message: &str) -> Fault {
        let end = self.peek().map_or(self.at, |letter| self.at + letter.len_utf8());
        Fault::new(self.at..end, message)
    }

    /// Skips white space and comments.
    fn blank(&mut self) -> Result<(), Fault> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let rest = self.rest();
            if rest.starts_with('#') || rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                match rest.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return Err(self.fault("this comment has no end: `*/` is missing")),
                }
            } else {
                return Ok(());
            }
        }
    }

    /// Keys and values up to the end, or up to `}`.
    fn entries(&mut self, closed: bool) -> Result<Vec<Entry>, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault("nested too deep"));
        }
        let start = self.at;
        let mut entries = Vec::new();
        loop {
            self.blank()?;
            match self.peek() {
                None if closed => return Err(Fault::new(start.saturating_sub(1)..start, "this `{` is not closed")),
                None => break,
                Some('}') if closed => {
                    self.at += 1;
                    break;
                }
                Some(',' | ';') => self.at += 1,
                Some(_) => entries.push(self.entry()?),
            }
        }
        self.depth -= 1;
        Ok(entries)
    }

    fn entry(&mut self) -> Result<Entry, Fault> {
        let start = self.at;
        let key = self.key()?;
        let key_range = start..self.at;
        self.blank()?;
        // `template "name" { … }`: the labels are blocks around.
        let mut labels = Vec::new();
        while !matches!(self.peek(), Some('=' | ':' | '{')) {
            let from = self.at;
            if self.peek().is_none() {
                return Err(Fault::new(key_range, "this key has no value"));
            }
            let label = self.key()?;
            labels.push((label, from..self.at));
            self.blank()?;
        }
        if self.peek() != Some('{') {
            self.at += 1;
            self.blank()?;
        }
        let mut value = self.value()?;
        for (label, range) in labels.into_iter().rev() {
            let whole = range.start..value.range.end;
            let entry = Entry { key: label, key_range: range, value };
            value = Value { kind: Kind::Block(vec![entry]), range: whole };
        }
        Ok(Entry { key, key_range, value })
    }

    fn key(&mut self) -> Result<String, Fault> {
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
        let length = self.rest().find(|letter| !word(letter)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.fault("a key is expected here"));
        }
        let key = self.rest()[..length].to_owned();
        self.at += length;
        Ok(key)
    }

    fn value(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let kind = match self.peek() {
            Some('"') => Kind::Text(self.quoted()?),
            Some('{') => {
                self.at += 1;
                Kind::Block(self.entries(true)?)
            }
            Some('[') => {
                self.at += 1;
                Kind::List(self.list(start)?)
            }
            Some('<') if self.rest().starts_with("<<") => Kind::Text(self.heredoc()?),
            Some(_) => {
                let end = |letter: char| letter.is_whitespace() || matches!(letter, ',' | ']' | '}' | '#');
                let length = self.rest().find(end).unwrap_or(self.rest().len());
                let word = self.rest()[..length].to_owned();
                self.at += length;
                match word.as_str() {
                    "true" => Kind::Boolean(true),
                    "false" => Kind::Boolean(false),
                    "null" => Kind::Null,
                    _ if word
                        .starts_with(|letter: char| letter.is_ascii_digit() || matches!(letter, '-' | '+' | '.')) =>
                    {
                        Kind::Number(word)
                    }
                    _ => return Err(Fault::new(start..start + length.max(1), "a text must stand in double quotes")),
                }
            }
            None => return Err(self.fault("a value is expected here")),
        };
        Ok(Value { kind, range: start..self.at })
    }

    fn list(&mut self, start: usize) -> Result<Vec<Value>, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault("nested too deep"));
        }
        let mut values = Vec::new();
        loop {
            self.blank()?;
            match self.peek() {
                None => return Err(Fault::new(start..start + 1, "this `[` is not closed")),
                Some(']') => {
                    self.at += 1;
                    break;
                }
                Some(',') => self.at += 1,
                Some(_) => values.push(self.value()?),
            }
        }
        self.depth -= 1;
        Ok(values)
    }

    fn quoted(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let line = start..start + self.rest().find('\n').unwrap_or(self.rest().len());
        let missing = || Fault::new(line.clone(), "this text has no end: the closing \" is missing");
        let mut text = String::new();
        let mut letters = self.source[start + 1..].char_indices();
        // HCL: within `${…}` quotes do not end the text.
        let mut braces = 0_usize;
        let mut previous = ' ';
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' if braces == 0 => {
                    self.at = start + 1 + at + 1;
                    return Ok(text);
                }
                '\n' if braces == 0 => return Err(missing()),
                '\\' => {
                    let (_, escaped) = letters.next().ok_or_else(missing)?;
                    match escaped {
                        'n' => text.push('\n'),
                        'r' => text.push('\r'),
                        't' => text.push('\t'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        'u' => {
                            let digits: String = letters.by_ref().take(4).map(|(_, digit)| digit).collect();
                            let letter = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                            text.push(letter.unwrap_or(char::REPLACEMENT_CHARACTER));
                        }
                        '"' | '\\' | '/' => text.push(escaped),
                        other => text.extend(['\\', other]),
                    }
                }
                _ => {
                    match letter {
                        '{' if braces > 0 || previous == '$' => braces += 1,
                        '}' if braces > 0 => braces -= 1,
                        _ => {}
                    }
                    text.push(letter);
                }
            }
            previous = letter;
        }
        Err(missing())
    }

    /// `<<EOF`, and `<<-EOF`, whose lines lose the indentation of the closing word when all of them have it.
    fn heredoc(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let rest = self.rest();
        let head = &rest[2..rest.find('\n').unwrap_or(rest.len())];
        let indented = head.starts_with('-');
        let marker = head.trim_start_matches('-').trim();
        let fault = || Fault::new(start..start + 2 + head.len(), "this text has no end: its closing word is missing");
        if marker.is_empty() {
            return Err(fault());
        }
        let mut at = start + 2 + head.len() + 1;
        let mut lines: Vec<&str> = Vec::new();
        let margin = loop {
            let Some(left) = self.source.get(at..).filter(|left| !left.is_empty()) else { return Err(fault()) };
            let length = left.find('\n').unwrap_or(left.len());
            let line = &left[..length];
            if line.trim() == marker {
                self.at = at + length;
                break &line[..line.len() - line.trim_start().len()];
            }
            lines.push(line);
            at += length + 1;
        };
        let cut = if indented && lines.iter().all(|line| line.starts_with(margin)) { margin.len() } else { 0 };
        Ok(lines.iter().map(|line| format!("{}\n", &line[cut..])).collect())
    }
}
