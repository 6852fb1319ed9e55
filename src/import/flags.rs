//! Command-line flags as Go's `flag` package reads them: one dash or two, `-name value` or `-name=value`.

use super::{CommandLine, Word};

/// A flag as it was given.
#[derive(Debug, Clone)]
pub struct Flag {
    /// Without dashes.
    pub name: String,
    pub value: Option<Word>,
    /// The flag itself.
    pub word: Word,
}

impl Flag {
    pub fn text(&self) -> &str {
        self.value.as_ref().map_or("", |word| &word.text)
    }

    /// Of a flag without a value of its own: given means true.
    pub fn is_on(&self) -> bool {
        !matches!(self.text(), "false" | "0" | "f" | "F" | "FALSE" | "False")
    }

    /// As it is written.
    pub fn shown(&self) -> String {
        match &self.value {
            Some(value) if !self.word.text.contains('=') => format!("{} {}", self.word.text, value.text),
            _ => self.word.text.clone(),
        }
    }
}

/// The flags, and the words behind them. `switches`: flags that take no value of their own.
pub fn parse(line: &CommandLine, switches: &[&str]) -> (Vec<Flag>, Vec<Word>) {
    let mut flags = Vec::new();
    let mut words = line.words.iter();
    while let Some(word) = words.next() {
        let name = word.text.strip_prefix("--").or_else(|| word.text.strip_prefix('-')).unwrap_or_default();
        if name.is_empty() {
            // Go ends at the first word that is no flag; `--` ends, too, and is dropped.
            let rest = words.cloned();
            return (
                flags,
                if word.text == "--" { rest.collect() } else { std::iter::once(word.clone()).chain(rest).collect() },
            );
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => {
                let start = word.range.end.saturating_sub(value.len());
                (name, Some(Word { text: value.to_owned(), range: start..word.range.end }))
            }
            None if switches.contains(&name) => (name, None),
            None => (name, words.next().cloned()),
        };
        flags.push(Flag { name: name.to_owned(), value, word: word.clone() });
    }
    (flags, Vec::new())
}
