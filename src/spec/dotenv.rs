//! Files of `NAME=value` lines: `.env` beside the spec, and `env_file` of a service.
//!
//! Owns their notation: comments, `export`, single quotes (literally), double quotes (escapes and variables), bare values
//! (variables), values over several lines in quotes. `format: raw` takes each line as it is. Values never enter a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Report};
use super::interpolate::{Bare, substitute};
use super::tree::{Place, Source};

/// How the values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Quotes, escapes, variables.
    Quoted,
    /// Each line as it is.
    Raw,
}

/// The variables of a file, in no order; of two lines for one name the later wins. `None`: the name alone, whose value is
/// the environment's.
pub fn parse(
    source: &Arc<Source>,
    format: Format,
    environment: &BTreeMap<String, String>,
    report: &mut Report,
) -> BTreeMap<String, Option<String>> {
    let mut values: BTreeMap<String, Option<String>> = BTreeMap::new();
    let text = source.text.as_str();
    let mut at = text.strip_prefix('\u{feff}').map_or(0, |_| '\u{feff}'.len_utf8());
    while at < text.len() {
        let line_end = text[at..].find('\n').map_or(text.len(), |found| at + found);
        let line = text[at..line_end].trim_end_matches('\r');
        let start = at + (line.len() - line.trim_start().len());
        at = line_end + 1;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line_place = Place::new(source, start..line_end);
        let (declared, value_start) = match line.find(['=', '\n']) {
            Some(equals) => (&line[..equals], Some(start + equals + 1)),
            None => (line, None),
        };
        let name = declared.trim();
        let name = name.strip_prefix("export ").map_or(name, str::trim);
        if !is_name(name) {
            let place = Place::new(source, start..start + declared.trim_end().len());
            report.push(
                Diagnostic::error(&place, "this line does not begin with the name of a variable")
                    .with_help("each line must be `NAME=value`, a comment (`# …`), or empty")
                    .without_value(),
            );
            continue;
        }
        let Some(value_start) = value_start else {
            values.insert(name.to_owned(), None);
            continue;
        };
        if format == Format::Raw {
            let raw = text[value_start..line_end].trim_end_matches('\r');
            values.insert(name.to_owned(), Some(raw.to_owned()));
            continue;
        }
        let lookup = |wanted: &str| values.get(wanted).cloned().flatten().or_else(|| environment.get(wanted).cloned());
        let rest = &text[value_start..];
        let skipped = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let quoted = rest[skipped..].chars().next().filter(|quote| matches!(quote, '"' | '\''));
        let value = if let Some(quote) = quoted {
            let from = value_start + skipped + 1;
            let Some(end) = closing_quote(&text[from..], quote) else {
                report.push(
                    Diagnostic::error(&line_place.within(name), format!("the value of `{name}` has no closing quote"))
                        .with_help(format!("end it with `{quote}`"))
                        .without_value(),
                );
                return values;
            };
            let inner = &text[from..from + end];
            at = text[from + end..].find('\n').map_or(text.len(), |found| from + end + found + 1);
            match quote {
                '\'' => Ok(inner.to_owned()),
                _ => substitute(&unescape(inner), Bare::Variable, &lookup).map(|done| done.text),
            }
        } else {
            let bare = text[value_start..line_end].trim_end_matches('\r');
            let bare = match bare.find(" #").or_else(|| bare.find("\t#")) {
                Some(comment) => &bare[..comment],
                None => bare,
            };
            substitute(bare.trim(), Bare::Variable, &lookup).map(|done| done.text)
        };
        match value {
            Ok(value) => {
                values.insert(name.to_owned(), Some(value));
            }
            Err(problem) => {
                let mut diagnostic =
                    Diagnostic::error(&line_place.within(name), format!("the value of `{name}`: {}", problem.message));
                diagnostic.help = problem.help;
                report.push(diagnostic.without_value());
            }
        }
    }
    values
}

fn is_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name.chars().all(plain)
}

fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            letter if letter == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// The escapes of double quotes. `\$` becomes `$$`, which the interpolation turns into a dollar.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('"') => out.push('"'),
            Some('\\') => out.push('\\'),
            Some('$') => out.push_str("$$"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, format: Format) -> (BTreeMap<String, Option<String>>, String) {
        let source = Arc::new(Source { name: ".env".to_owned(), text: text.to_owned() });
        let environment = BTreeMap::from([("HOST".to_owned(), "edge".to_owned())]);
        let mut report = Report::default();
        let values = parse(&source, format, &environment, &mut report);
        (values, report.finish().render(false))
    }

    #[test]
    fn quotes_comments_and_variables_mean_what_compose_means() {
        let (values, errors) = of(
            "# comment\nA=1\nexport B = two \nC='$A # no'\nD=\"x\\n${A} \\$y\"\nE=a # comment\nF=a#b\nG=\nH=${HOST}:${A}\nI\nJ=\"two\nlines\"\nK=last\r\n",
            Format::Quoted,
        );
        assert_eq!(errors, "");
        let get = |name: &str| values[name].as_deref();
        assert_eq!(get("A"), Some("1"));
        assert_eq!(get("B"), Some("two"));
        assert_eq!(get("C"), Some("$A # no"));
        assert_eq!(get("D"), Some("x\n1 $y"));
        assert_eq!(get("E"), Some("a"));
        assert_eq!(get("F"), Some("a#b"));
        assert_eq!(get("G"), Some(""));
        assert_eq!(get("H"), Some("edge:1"));
        assert_eq!(get("I"), None);
        assert_eq!(get("J"), Some("two\nlines"));
        assert_eq!(get("K"), Some("last"));
    }

    #[test]
    fn raw_takes_lines_as_they_are() {
        let (values, errors) = of("A=\"$HOST\" # x\n", Format::Raw);
        assert_eq!(errors, "");
        assert_eq!(values["A"].as_deref(), Some("\"$HOST\" # x"));
    }

    #[test]
    fn a_broken_line_is_named_without_its_value() {
        let (_, errors) = of("not a name=hunter2\nPASSWORD='hunter2\n", Format::Quoted);
        assert!(errors.contains(".env:1:1"), "{errors}");
        assert!(errors.contains(".env:2:1"), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
}
