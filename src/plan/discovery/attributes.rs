//! Which `SERVICE_*` variable counts for a port.
//!
//! `SERVICE_80_NAME` is port 80's alone and counts more than `SERVICE_NAME`. Beginning in upper case, the rest in any.

use std::collections::BTreeMap;

pub(crate) const PREFIX: &str = "SERVICE_";

/// What is said for one port, by the name without its prefix and port, in lower case.
pub(crate) struct Attributes<'a> {
    values: BTreeMap<String, Value<'a>>,
}

struct Value<'a> {
    text: &'a str,
    /// It is said for this port alone.
    own: bool,
}

impl<'a> Attributes<'a> {
    pub fn of(variables: &'a BTreeMap<String, String>, port: u16) -> Self {
        let port = port.to_string();
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { continue };
            let (key, own) = match of_port(&key) {
                Some((number, rest)) if number == port => (rest.to_owned(), true),
                Some(_) => continue,
                None => (key, false),
            };
            if own || values.get(&key).is_none_or(|known| !known.own) {
                values.insert(key, Value { text, own });
            }
        }
        Self { values }
    }

    /// Empty is as good as not said.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).map(|value| value.text).filter(|text| !text.is_empty())
    }

    /// All that is said, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.text))
    }

    /// It is said for this port alone.
    pub fn own(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.own && !value.text.is_empty())
    }

    /// It is said, and does not say no. (To registrator, `false` is as good a yes as any.)
    pub fn says(&self, key: &str) -> bool {
        self.get(key).is_some_and(|text| !matches!(text.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0"))
    }
}

/// `80_name` is of port 80.
fn of_port(key: &str) -> Option<(&str, &str)> {
    let (number, rest) = key.split_once('_')?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some((number, rest))
}

/// Ports that a variable names, `SERVICE_8080_NAME`.
pub(crate) fn named_ports(variables: &BTreeMap<String, String>) -> impl Iterator<Item = u16> + '_ {
    variables.iter().filter(|(_, text)| !text.is_empty()).filter_map(|(name, _)| {
        let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
        let (number, rest) = of_port(&key)?;
        number.parse().ok().filter(|port| *port > 0 && rest == "name")
    })
}
