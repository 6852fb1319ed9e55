//! From the text of the settings file to values with their places.
//!
//! Driven by the table: a key that it does not hold is a problem, with the nearest one as help. All problems of a file
//! are reported, not only the first.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{Problem, bytes_at};
use super::table::{self, Entry};
use super::values::nearest;

/// A value of the file.
pub struct FileValue {
    pub entry: &'static Entry,
    pub values: Vec<String>,
    pub place: Range<usize>,
}

/// What a file says.
#[derive(Default)]
pub struct Read {
    pub values: Vec<FileValue>,
    pub problems: Vec<Problem>,
    /// Places of secrets, which must not be shown when the line around them is.
    pub secrets: Vec<Range<usize>>,
}

/// Reads YAML text. A value that is null counts as not set.
pub fn read(source: &str) -> Read {
    let mut read = Read::default();
    if source.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return read;
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let result = serde_saphyr::with_deserializer_from_str_with_options(source, options, |deserializer| {
        Section { name: None, source, read: &mut read }.deserialize(deserializer)
    });
    if let Err(error) = result {
        read.problems.push(Problem {
            message: message_of(&error),
            // The parser does not say where a wrong root is; that is where the file begins.
            place: error.location().map_or_else(|| start_of(source), |location| place_of(source, &location)),
            help: None,
        });
    }
    read
}

/// The parser's message without the place, which is shown by the snippet, and in words for people who do not know the
/// parser.
fn message_of(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => return format!("duplicate key `{key}`"),
        serde_saphyr::Error::MultipleDocuments { .. } => return "a second YAML document begins here".to_owned(),
        serde_saphyr::Error::Unexpected { expected, .. } if expected.contains("string scalar") => {
            return "expected a single value".to_owned();
        }
        _ => {}
    }
    let text = error.to_string();
    let text = match text.rsplit_once(" at line ") {
        Some((message, place)) if place.starts_with(|c: char| c.is_ascii_digit()) => message.to_owned(),
        _ => text,
    };
    text.trim_start_matches("error: ").to_owned()
}

fn place_of(source: &str, location: &Location) -> Range<usize> {
    bytes_at(source, location.line(), location.column(), location.span().len())
}

/// The first line that is not a comment.
fn start_of(source: &str) -> Range<usize> {
    let lines = source.lines().take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#')).count();
    bytes_at(source, lines as u64 + 1, 1, 1)
}

/// Reads the mapping of one section, or of the whole file.
struct Section<'a> {
    name: Option<&'static str>,
    source: &'a str,
    read: &'a mut Read,
}

impl<'de> DeserializeSeed<'de> for Section<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Section<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "a mapping of keys to values in `{name}`"),
            None => f.write_str("a mapping of keys to values"),
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let full = match self.name {
                Some(section) => format!("{section}.{}", key.value),
                None => key.value.clone(),
            };
            let section = table::sections().into_iter().find(|name| self.name.is_none() && *name == key.value);
            if let Some(name) = section {
                map.next_value_seed(Section { name: Some(name), source: self.source, read: &mut *self.read })?;
                continue;
            }
            // A key with a dot in it would else find the entry of a section.
            let known = table::entry(&full).filter(|_| !key.value.contains('.'));
            let Some(entry) = known else {
                self.read.problems.push(unknown(&key, self.name, self.source));
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if entry.secret {
                self.read.problems.push(Problem {
                    message: format!("`{full}` is a secret and is never written in the settings file"),
                    place: place_of(self.source, &key.referenced),
                    help: Some(format!("use {full}_file, or the environment variable {}", entry.environment)),
                });
                if let Some(value) = map.next_value::<Option<Spanned<String>>>()? {
                    self.read.secrets.push(place_of(self.source, &value.referenced));
                }
                continue;
            }
            let (values, location) = if entry.list {
                let given = map.next_value::<Spanned<OneOrMany>>()?;
                (given.value.0, given.referenced)
            } else {
                match map.next_value::<Option<Spanned<String>>>()? {
                    Some(given) => (Some(vec![given.value]), given.referenced),
                    None => (None, key.referenced),
                }
            };
            if let Some(values) = values {
                let place = place_of(self.source, &location);
                self.read.values.push(FileValue { entry, values, place });
            }
        }
        Ok(())
    }
}

fn unknown(key: &Spanned<String>, section: Option<&str>, source: &str) -> Problem {
    let message = match section {
        Some(section) => format!("unknown key `{}` in `{section}`", key.value),
        None => format!("unknown key `{}`", key.value),
    };
    let known = table::keys(section);
    // `token_file` at the top level, `quiet` in `docker`: the right word at the wrong place.
    let elsewhere = table::ENTRIES.iter().find(|entry| {
        let (place, name) = entry.key.split_once('.').unwrap_or(("", entry.key));
        name == key.value && place != section.unwrap_or_default()
    });
    let help = match (nearest(&key.value, known.iter().copied()), elsewhere) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, Some(entry)) => match entry.key.split_once('.') {
            Some((place, _)) => format!("did you mean the one in `{place}`?"),
            None => "it belongs to the top level of the file".to_owned(),
        },
        (None, None) => match key.value.split_once('.') {
            Some((place, name)) if table::entry(&key.value).is_some() => {
                format!("write `{place}:` and below it, indented, `{name}:`")
            }
            _ => format!("known here: {}", known.join(", ")),
        },
    };
    Problem { message, place: place_of(source, &key.referenced), help: Some(help) }
}

/// A single text, or a list of them. `None`: null.
struct OneOrMany(Option<Vec<String>>);

impl<'de> serde::Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_unit<E>(self) -> Result<OneOrMany, E> {
                Ok(OneOrMany(None))
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(Some(vec![text.to_owned()])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element::<String>()? {
                    values.push(value);
                }
                Ok(OneOrMany(Some(values)))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}
