//! Settings that belong into reeve.yaml, shown as comments in the imported spec.
//!
//! A spec cannot hold them, and an import must not change the settings of a running daemon.

use super::yaml;

#[derive(Debug, Default)]
pub struct Settings {
    /// Key with its section, value, where it came from.
    lines: Vec<(String, String, String)>,
}

impl Settings {
    /// `from`: what said so, for a comment.
    pub fn set(&mut self, key: &str, value: &str, from: &str) {
        self.lines.retain(|(known, ..)| known != key);
        // A host with a port needs no quotes.
        let address = value.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-:/".contains(letter));
        let simple = address && value.contains(['.', '/']) && !value.ends_with(':') && value.parse::<f64>().is_err();
        let value = if simple { value.to_owned() } else { yaml::scalar(value) };
        self.lines.push((key.to_owned(), value, from.to_owned()));
    }

    pub fn list<T: AsRef<str>>(&mut self, key: &str, values: &[T], from: &str) {
        self.lines.push((key.to_owned(), yaml::list(values), from.to_owned()));
    }

    /// A value that the user has to fill in.
    pub fn hint(&mut self, key: &str, value: &str, what: &str) {
        self.set(key, value, what);
    }

    /// The lines as a comment, and a blank line; nothing when there are none.
    pub fn comment(&self) -> String {
        if self.lines.is_empty() {
            return String::new();
        }
        let mut text = "# For reeve.yaml:\n#\n".to_owned();
        let mut sections: Vec<&str> = Vec::new();
        for (key, ..) in &self.lines {
            let section = key.split_once('.').map_or("", |(section, _)| section);
            if !sections.contains(&section) {
                sections.push(section);
            }
        }
        for section in sections {
            let indent = if section.is_empty() { "" } else { "  " };
            if !section.is_empty() {
                text.push_str(&format!("#   {section}:\n"));
            }
            for (key, value, from) in &self.lines {
                let (own, name) = key.split_once('.').unwrap_or(("", key));
                if own == section {
                    let line = format!("{indent}{name}: {value}");
                    text.push_str(&format!("#   {line:<40} # {from}\n"));
                }
            }
        }
        text.push('\n');
        text
    }
}
