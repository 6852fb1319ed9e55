//! Checks that a tree has the shape that the tables describe: known keys, and values of their kinds.
//!
//! Owns every message about an unknown key, an unsupported key and a wrong type. It also brings keys to one spelling
//! (`x-register` becomes `register`), so that merging and reading know only one. Readers can rely on what it accepted and
//! stay silent about what it refused.

use super::diagnostic::Report;
use super::suggest::did_you_mean;
use super::table::{Kind, Standing, Table};
use super::tree::{Entry, Node, Scalar, Value};
use super::units;

/// Checks one file's tree and brings its keys to one spelling.
pub fn check(node: &mut Node, table: &'static Table, report: &mut Report) {
    mapping(node, "the file", table, report);
}

/// `name`: the key, for messages.
fn value(node: &mut Node, name: &str, kind: &'static Kind, report: &mut Report) {
    if node.is_null() {
        return;
    }
    match kind {
        Kind::Any => {}
        Kind::Text => {
            if let Some(scalar) = scalar(node, name, "text", report)
                && scalar.plain
                && scalar.template.is_none()
                && matches!(scalar.text.as_str(), "true" | "false" | "True" | "False" | "TRUE" | "FALSE")
            {
                let help = format!("quote it if it is meant as text: \"{}\"", scalar.text);
                report.error_help(&node.place, format!("`{name}` must be text, but is a boolean"), help);
            }
        }
        Kind::Choice(choices) => {
            if let Some(scalar) = scalar(node, name, "text", report)
                && !choices.contains(&scalar.text.as_str())
            {
                let help = did_you_mean(&scalar.text, choices.iter().copied());
                let list = choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
                let message = match choices.len() {
                    1 => format!("`{name}` can only be {list}, not `{}`", node.shown()),
                    _ => format!("`{name}` must be one of {list}, not `{}`", node.shown()),
                };
                match help {
                    Some(help) => report.error_help(&node.place, message, help),
                    None => report.error(&node.place, message),
                }
            }
        }
        Kind::Boolean => {
            if let Some(scalar) = scalar(node, name, "`true` or `false`", report)
                && units::boolean(&scalar.text).is_none()
            {
                report.error(&node.place, format!("`{name}` must be `true` or `false`, not `{}`", node.shown()));
            }
        }
        Kind::Integer { min, max } => {
            parsed(node, name, "a whole number", report, |text| units::integer(text, *min, *max).map(|_| ()))
        }
        Kind::Cpus => parsed(node, name, "a number of CPUs", report, |text| units::cpus(text).map(|_| ())),
        Kind::Duration => parsed(node, name, "a duration", report, |text| units::duration(text).map(|_| ())),
        Kind::Size => parsed(node, name, "a size", report, |text| units::size(text).map(|_| ())),
        Kind::Command | Kind::Texts => match &mut node.value {
            Value::Sequence(items) => texts(items, name, report),
            Value::Null | Value::Scalar(_) => {}
            Value::Mapping(_) => wrong(node, name, "text or a list of texts", report),
        },
        Kind::List => match &mut node.value {
            Value::Sequence(items) => texts(items, name, report),
            Value::Null | Value::Scalar(_) | Value::Mapping(_) => wrong(node, name, "a list", report),
        },
        Kind::Pairs => match &mut node.value {
            Value::Sequence(items) => {
                for item in items.iter().filter(|item| item.text().is_none()) {
                    let message = format!("each entry of `{name}` must be text, but one is {}", item.what());
                    report.error_help(&item.place, message, "write `NAME=value`, or a mapping in place of the list");
                }
            }
            Value::Mapping(entries) => scalars(entries, report),
            Value::Null | Value::Scalar(_) => wrong(node, name, "a mapping or a list of `NAME=value`", report),
        },
        Kind::Hosts => match &mut node.value {
            Value::Sequence(items) => texts(items, name, report),
            Value::Mapping(entries) => {
                for entry in entries {
                    let key = entry.key.clone();
                    value(&mut entry.value, &key, &Kind::Texts, report);
                }
            }
            Value::Null | Value::Scalar(_) => wrong(node, name, "a mapping or a list of `name:address`", report),
        },
        Kind::Options => match &mut node.value {
            Value::Mapping(entries) => scalars(entries, report),
            Value::Null | Value::Scalar(_) | Value::Sequence(_) => wrong(node, name, "a mapping", report),
        },
        Kind::Mapping(table) => mapping(node, name, table, report),
        Kind::MapOf(kind) => match &mut node.value {
            Value::Mapping(entries) => named(entries, kind, report),
            Value::Null | Value::Scalar(_) | Value::Sequence(_) => wrong(node, name, "a mapping", report),
        },
        Kind::Named(kind) => match &mut node.value {
            Value::Mapping(entries) => named(entries, kind, report),
            Value::Sequence(items) => texts(items, name, report),
            Value::Null | Value::Scalar(_) => wrong(node, name, "a list of names or a mapping", report),
        },
        Kind::Entries { long, single, .. } => match &mut node.value {
            Value::Sequence(items) => {
                for item in items {
                    match &item.value {
                        Value::Mapping(_) => mapping(item, name, long, report),
                        Value::Scalar(_) => {}
                        Value::Null | Value::Sequence(_) => wrong_item(item, name, "text or a mapping", report),
                    }
                }
            }
            Value::Scalar(_) if *single => {}
            Value::Mapping(_) if *single => mapping(node, name, long, report),
            Value::Null | Value::Scalar(_) | Value::Mapping(_) => wrong(node, name, "a list", report),
        },
        Kind::ListOf(kind) => match &mut node.value {
            Value::Sequence(items) => items.iter_mut().for_each(|item| value(item, name, kind, report)),
            Value::Null | Value::Scalar(_) | Value::Mapping(_) => wrong(node, name, "a list", report),
        },
        Kind::Either(kinds) => match pick(kinds, node) {
            Some(kind) => value(node, name, kind, report),
            None => {
                let words: Vec<&str> = kinds.iter().map(words).collect();
                wrong(node, name, &words.join(" or "), report);
            }
        },
    }
}

/// The first of the kinds that takes the node's shape.
pub fn pick(kinds: &'static [Kind], node: &Node) -> Option<&'static Kind> {
    let fits: Vec<&Kind> = kinds.iter().filter(|kind| takes(kind, node)).collect();
    // Text and boolean both are scalars: a plain `true` is the boolean.
    let boolean = node.text().is_some_and(|text| units::boolean(text).is_some());
    let exact = fits.iter().find(|kind| matches!(kind, Kind::Boolean)).filter(|_| boolean);
    exact.or(fits.first()).copied()
}

fn takes(kind: &Kind, node: &Node) -> bool {
    let (scalar, sequence, mapping) = match kind {
        Kind::Any => (true, true, true),
        Kind::Text
        | Kind::Choice(_)
        | Kind::Boolean
        | Kind::Integer { .. }
        | Kind::Cpus
        | Kind::Duration
        | Kind::Size => (true, false, false),
        Kind::Command | Kind::Texts => (true, true, false),
        Kind::List | Kind::ListOf(_) => (false, true, false),
        Kind::Pairs | Kind::Hosts | Kind::Named(_) => (false, true, true),
        Kind::Options | Kind::Mapping(_) | Kind::MapOf(_) => (false, false, true),
        Kind::Entries { single, .. } => (*single, true, *single),
        Kind::Either(kinds) => return kinds.iter().any(|kind| takes(kind, node)),
    };
    match node.value {
        Value::Null => true,
        Value::Scalar(_) => scalar,
        Value::Sequence(_) => sequence,
        Value::Mapping(_) => mapping,
    }
}

fn words(kind: &Kind) -> &'static str {
    match kind {
        Kind::Any => "anything",
        Kind::Text | Kind::Choice(_) => "text",
        Kind::Boolean => "`true` or `false`",
        Kind::Integer { .. } => "a whole number",
        Kind::Cpus => "a number",
        Kind::Duration => "a duration",
        Kind::Size => "a size",
        Kind::Command | Kind::Texts => "text or a list of texts",
        Kind::List | Kind::ListOf(_) | Kind::Entries { .. } => "a list",
        Kind::Pairs | Kind::Hosts | Kind::Named(_) => "a list or a mapping",
        Kind::Options | Kind::Mapping(_) | Kind::MapOf(_) => "a mapping",
        Kind::Either(_) => "one of several forms",
    }
}

fn mapping(node: &mut Node, name: &str, table: &'static Table, report: &mut Report) {
    let Value::Mapping(entries) = &mut node.value else {
        if !node.is_null() {
            wrong(node, name, "a mapping", report);
        }
        return;
    };
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    for mut entry in std::mem::take(entries) {
        let Some(key) = table.key(&entry.key) else {
            if table.extensions && entry.key.starts_with("x-") {
                continue;
            }
            unknown(&entry, table, report);
            continue;
        };
        match key.standing {
            Standing::Supported | Standing::Own => {
                if let Some(other) = kept.iter().find(|other| other.key == key.name) {
                    let help = format!("line {} says it too; keep one of them", other.key_place.line());
                    let message = format!("`{}` is given both with and without `x-`", key.name);
                    report.error_help(&entry.key_place, message, help);
                    continue;
                }
                key.name.clone_into(&mut entry.key);
                value(&mut entry.value, key.name, &key.kind, report);
                kept.push(entry);
            }
            Standing::Unsupported => {
                let message = format!("`{}` is known to Compose, but reeve does not support it", key.name);
                report.error_help(&entry.key_place, message, key.doc);
                // Kept, so that a reader can tell "missing" from "given in a way that was refused".
                kept.push(entry);
            }
        }
    }
    *entries = kept;
}

fn unknown(entry: &Entry, table: &'static Table, report: &mut Report) {
    let shown = super::tree::shown(&entry.key);
    let message = format!("unknown key `{shown}` in {}", table.name);
    let meant = did_you_mean(&entry.key, table.usable().map(|key| key.name));
    let help = meant.or_else(|| home(entry, table)).unwrap_or_else(|| {
        let names: Vec<&str> = table.usable().map(|key| key.name).collect();
        match names.len() {
            0..=12 => format!("it can have: {}", names.join(", ")),
            _ => "a key of your own must begin with `x-`".to_owned(),
        }
    });
    report.error_help(&entry.key_place, message, help);
}

/// Where a key belongs that stands one level too high: `replicas` below `deploy`, a whole service below `services`.
fn home(entry: &Entry, table: &'static Table) -> Option<String> {
    let within = |table: &'static Table, name: &str| table.usable().any(|key| key.name == name);
    let below = table.usable().find(|key| match &key.kind {
        Kind::Mapping(below) => within(below, &entry.key),
        Kind::MapOf(Kind::Mapping(below)) => match &entry.value.value {
            Value::Mapping(entries) => entries.iter().any(|entry| within(below, &entry.key)),
            Value::Null | Value::Scalar(_) | Value::Sequence(_) => false,
        },
        _ => false,
    })?;
    Some(format!("it belongs under `{}`", below.name))
}

fn named(entries: &mut [Entry], kind: &'static Kind, report: &mut Report) {
    for entry in entries {
        let key = entry.key.clone();
        if let Kind::Mapping(table) = kind
            && matches!(entry.value.value, Value::Scalar(_) | Value::Sequence(_))
            && table.usable().any(|one| one.name == key)
        {
            let message = format!("`{key}` must be a mapping, but is {}", entry.value.what());
            let help = format!("if it is meant as the `{key}` of {}, it is indented too little", table.name);
            report.error_help(&entry.value.place, message, help);
            continue;
        }
        value(&mut entry.value, &key, kind, report);
    }
}

fn texts(items: &mut [Node], name: &str, report: &mut Report) {
    for item in items {
        if item.text().is_none() {
            wrong_item(item, name, "text", report);
        }
    }
}

fn scalars(entries: &[Entry], report: &mut Report) {
    for entry in entries {
        if matches!(entry.value.value, Value::Sequence(_) | Value::Mapping(_)) {
            wrong(&entry.value, &entry.key, "text", report);
        }
    }
}

fn scalar<'n>(node: &'n Node, name: &str, wanted: &str, report: &mut Report) -> Option<&'n Scalar> {
    match &node.value {
        Value::Scalar(scalar) => Some(scalar),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => {
            wrong(node, name, wanted, report);
            None
        }
    }
}

fn parsed(node: &Node, name: &str, wanted: &str, report: &mut Report, parse: impl Fn(&str) -> Result<(), String>) {
    if let Some(scalar) = scalar(node, name, wanted, report)
        && let Err(reason) = parse(&scalar.text)
    {
        let message = format!("`{name}` must be {wanted}, not `{}`", node.shown());
        report.error_help(&node.place, message, node.careful(&reason));
    }
}

fn wrong(node: &Node, name: &str, wanted: &str, report: &mut Report) {
    let name = super::tree::shown(name);
    report.error(&node.place, format!("`{name}` must be {wanted}, but is {}", node.what()));
}

fn wrong_item(node: &Node, name: &str, wanted: &str, report: &mut Report) {
    report.error(&node.place, format!("each entry of `{name}` must be {wanted}, but one is {}", node.what()));
}
