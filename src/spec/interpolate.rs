//! Variables in values: `$NAME`, `${NAME}`, `${NAME:-default}`, `-`, `:?`, `?`, `:+`, `+`, nested, and `$$` for a dollar.
//!
//! Owns Compose's rules, and one exception: within `upstreams` a bare `$name` is nginx's own variable and stays as it is;
//! `${NAME}` is replaced there too, and `$$` is a dollar everywhere. It must not put a value into a message.

use std::collections::BTreeSet;

use super::diagnostic::{Diagnostic, Report};
use super::tree::{Node, Value, shown};

/// What a bare `$name` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// A variable, as in Compose.
    Variable,
    /// Text: nginx's variable.
    Text,
}

/// Deepest nesting of `${A:-${B:-…}}`.
const MAX_NESTING: usize = 16;

/// Looks a variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Text with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct Substituted {
    pub text: String,
    /// Plain references to variables that are not set, which became empty.
    pub missing: BTreeSet<String>,
}

/// Why a text cannot be interpolated.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub help: Option<String>,
    /// The part of the text that is at fault.
    pub fragment: String,
}

/// Replaces the variables of one text.
///
/// # Errors
/// A `$` that begins nothing, an unclosed brace, or a variable that is required and not set.
pub fn substitute(text: &str, bare: Bare, lookup: Lookup<'_>) -> Result<Substituted, Problem> {
    let mut out = Substituted { text: String::new(), missing: BTreeSet::new() };
    expand(text, bare, lookup, 0, &mut out)?;
    Ok(out)
}

fn expand(text: &str, bare: Bare, lookup: Lookup<'_>, depth: usize, out: &mut Substituted) -> Result<(), Problem> {
    let mut rest = text;
    while let Some(found) = rest.find('$') {
        out.text.push_str(&rest[..found]);
        rest = &rest[found..];
        let after = &rest[1..];
        if let Some(next) = after.strip_prefix('$') {
            out.text.push('$');
            rest = next;
        } else if let Some(inner) = after.strip_prefix('{') {
            let Some(end) = closing_brace(inner) else {
                return Err(Problem {
                    message: "`${` without its `}`".to_owned(),
                    help: Some("write `$$` for a `$` that begins no variable".to_owned()),
                    fragment: "${".to_owned(),
                });
            };
            reference(&inner[..end], bare, lookup, depth, out)?;
            rest = &inner[end + 1..];
        } else {
            let length = name_length(after);
            match (bare, length) {
                (Bare::Text, _) => {
                    out.text.push('$');
                    rest = after;
                }
                (Bare::Variable, 0) => {
                    return Err(Problem {
                        message: "a `$` that begins no variable".to_owned(),
                        help: Some("write `$$` for a `$` itself".to_owned()),
                        fragment: rest.chars().take(2).collect(),
                    });
                }
                (Bare::Variable, length) => {
                    plain(&after[..length], lookup, out);
                    rest = &after[length..];
                }
            }
        }
    }
    out.text.push_str(rest);
    Ok(())
}

fn plain(name: &str, lookup: Lookup<'_>, out: &mut Substituted) {
    match lookup(name) {
        Some(value) => out.text.push_str(&value),
        None => {
            out.missing.insert(name.to_owned());
        }
    }
}

/// What stands between `${` and `}`.
fn reference(inner: &str, bare: Bare, lookup: Lookup<'_>, depth: usize, out: &mut Substituted) -> Result<(), Problem> {
    let invalid = |message: String| Problem {
        message,
        help: Some("reeve knows `${NAME}`, `${NAME:-default}`, `-`, `:?`, `?`, `:+`, `+` and `$$`".to_owned()),
        fragment: format!("${{{inner}}}"),
    };
    if depth >= MAX_NESTING {
        return Err(invalid(format!("variables nested more than {MAX_NESTING} levels deep")));
    }
    let length = name_length(inner);
    if length == 0 {
        return Err(invalid("a variable's name must begin with a letter or `_`".to_owned()));
    }
    let (name, operator) = inner.split_at(length);
    if operator.is_empty() {
        plain(name, lookup, out);
        return Ok(());
    }
    let value = lookup(name);
    let (empty_counts, operator) = match operator.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, operator),
    };
    let set = value.filter(|value| !(empty_counts && value.is_empty()));
    let Some(kind) = operator.chars().next().filter(|kind| matches!(kind, '-' | '?' | '+')) else {
        return Err(invalid(format!("`${{{}}}` is not a way to write a variable", shown(inner))));
    };
    let operand = &operator[1..];
    match (kind, set) {
        ('-', Some(value)) => out.text.push_str(&value),
        ('-', None) | ('+', Some(_)) => expand(operand, bare, lookup, depth + 1, out)?,
        ('?', Some(value)) => out.text.push_str(&value),
        ('?', None) => {
            let reason = match (operand.is_empty(), empty_counts) {
                (false, _) => format!(": {}", shown(operand)),
                (true, true) => " or is empty".to_owned(),
                (true, false) => String::new(),
            };
            return Err(Problem {
                message: format!("the required variable `{name}` is not set{reason}"),
                help: Some(format!("set `{name}` in the environment or in `.env` beside the first spec file")),
                fragment: format!("${{{inner}}}"),
            });
        }
        _ => {}
    }
    Ok(())
}

fn name_length(text: &str) -> usize {
    match text.chars().next() {
        Some(first) if first.is_ascii_alphabetic() || first == '_' => {
            text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len())
        }
        _ => 0,
    }
}

/// Where the `}` of this `${` stands, counting those of nested references.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1usize;
    let mut dollar = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            '{' if dollar => open += 1,
            _ => {}
        }
        dollar = letter == '$';
    }
    None
}

/// Replaces the variables of trees, and remembers which were used.
pub struct Interpolation<'a> {
    pub lookup: Lookup<'a>,
    /// A plain reference to a variable that is not set is an error.
    pub strict: bool,
    /// Variables that were not set and told of: once is enough.
    pub warned: BTreeSet<String>,
    /// Variables whose values are in the tree now.
    pub used: BTreeSet<String>,
    /// Something could not be replaced, and is missing now.
    pub failed: bool,
}

impl<'a> Interpolation<'a> {
    pub fn new(lookup: Lookup<'a>, strict: bool) -> Self {
        Self { lookup, strict, warned: BTreeSet::new(), used: BTreeSet::new(), failed: false }
    }

    /// Replaces the variables in all values of a file; keys are left alone, as Compose leaves them.
    pub fn file(&mut self, root: &mut Node, report: &mut Report) {
        if let Value::Mapping(entries) = &mut root.value {
            for entry in entries {
                let bare = match entry.key.as_str() {
                    "upstreams" | "x-upstreams" => Bare::Text,
                    _ => Bare::Variable,
                };
                self.node(&mut entry.value, bare, report);
            }
        }
    }

    /// Replaces the variables below one node.
    pub fn node(&mut self, node: &mut Node, bare: Bare, report: &mut Report) {
        let scalar = match &mut node.value {
            Value::Null => return,
            Value::Sequence(items) => {
                return items.retain_mut(|item| {
                    let empty = item.is_null();
                    self.node(item, bare, report);
                    // One that could not be replaced goes: an empty entry is a mistake of its own in most lists.
                    empty || !item.is_null()
                });
            }
            Value::Mapping(entries) => {
                return entries.iter_mut().for_each(|entry| self.node(&mut entry.value, bare, report));
            }
            Value::Scalar(scalar) if !scalar.text.contains('$') => return,
            Value::Scalar(scalar) => scalar,
        };
        let used = std::cell::RefCell::new(BTreeSet::new());
        let lookup = |name: &str| {
            let value = (self.lookup)(name);
            if value.is_some() {
                used.borrow_mut().insert(name.to_owned());
            }
            value
        };
        let done = substitute(&scalar.text, bare, &lookup);
        self.used.extend(used.into_inner());
        match done {
            Ok(done) => {
                if scalar.text != done.text {
                    scalar.template = Some(std::mem::replace(&mut scalar.text, done.text));
                }
                for name in &done.missing {
                    self.missing(node, name, report);
                }
            }
            Err(problem) => {
                let mut diagnostic = Diagnostic::error(&node.place.within(&problem.fragment), problem.message);
                diagnostic.help = problem.help;
                report.push(diagnostic);
                self.failed = true;
                // What is left would only cause errors that follow from this one.
                node.value = Value::Null;
            }
        }
    }

    fn missing(&mut self, node: &Node, name: &str, report: &mut Report) {
        let place = place_of(node, name);
        let message = format!("the variable `{name}` is not set");
        let set = format!("set it in the environment or in `.env`, or write `${{{name}:-default}}`");
        if self.strict {
            report.push(Diagnostic::error(&place, message).with_help(set));
            self.failed = true;
        } else if self.warned.insert(name.to_owned()) {
            report.warning(&place, message, format!("it is taken as empty; {set}"));
        }
    }
}

fn place_of(node: &Node, name: &str) -> super::tree::Place {
    let braced = node.place.within(&format!("${{{name}"));
    match braced == node.place {
        true => node.place.within(&format!("${name}")),
        false => node.place.within(&format!("${{{name}}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A".to_owned()),
            _ => None,
        };
        substitute(text, Bare::Variable, &lookup).map(|done| done.text).map_err(|problem| problem.message)
    }

    #[test]
    fn every_form_of_compose_is_replaced() {
        for (text, wanted) in [
            ("$A-x", "alpha-x"),
            ("${A}x", "alphax"),
            ("$$A", "$A"),
            ("$$$$", "$$"),
            ("${UNSET}", ""),
            ("${UNSET-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${EMPTY:-d}", "d"),
            ("${UNSET:-${A}}", "alpha"),
            ("${UNSET:-${ALSO:-${A}/x}}", "alpha/x"),
            ("${UNSET:-a}b}", "ab}"),
            ("${A:+yes}", "yes"),
            ("${EMPTY:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${UNSET+yes}", ""),
            ("${A:?must}", "alpha"),
            ("${EMPTY?must}", ""),
            ("${UNSET:-http://x:80}", "http://x:80"),
            ("${UNSET:--}", "-"),
            ("$DOLLAR", "$A"),
            ("no variable", "no variable"),
        ] {
            assert_eq!(of(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_begins_no_variable_is_refused() {
        for text in ["$", "a$ b", "$5", "${", "${A", "${}", "${A!b}", "${5}", "${A:}", "${A b}"] {
            assert!(of(text).is_err(), "{text}");
        }
        assert_eq!(of("${UNSET:?tell me}"), Err("the required variable `UNSET` is not set: tell me".to_owned()));
        assert!(of("${EMPTY:?}").is_err());
        assert!(of(&format!("{}x{}", "${U:-".repeat(40), "}".repeat(40))).is_err());
    }

    #[test]
    fn within_upstreams_a_bare_name_is_nginx_variable() {
        let lookup = |_: &str| Some("value".to_owned());
        let done = substitute("$host $$uri ${NAME} $", Bare::Text, &lookup).expect("nothing is wrong with it");
        assert_eq!(done.text, "$host $uri value $");
    }
}
