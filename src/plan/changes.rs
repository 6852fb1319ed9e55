//! `old => new`: which fields differ between the configuration that a replica was made from and the one that is wanted.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Change;
use crate::spec::container::{Port, Protocol, Published};

/// Compares two canonical JSON texts. Nested objects are compared key by key (`environment.MODE`), and lists of what has a
/// place in the container place by place (`files./etc/app.conf`); everything else as a whole. Secrets are digests in both,
/// and are not shown even so.
pub fn between(old: &str, new: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    let old = serde_json::from_str(old).unwrap_or(Value::Null);
    let new = serde_json::from_str(new).unwrap_or(Value::Null);
    collect("", Some(&old), Some(&new), &mut changes);
    changes
}

fn collect(field: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) {
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let nested = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
            collect(&nested, old.get(key), new.get(key), changes);
        }
        return;
    }
    if let (Some(old_by), Some(new_by)) = (old.and_then(by_target), new.and_then(by_target)) {
        let targets: BTreeSet<&str> = old_by.keys().chain(new_by.keys()).copied().collect();
        for target in targets {
            let nested = format!("{field}.{target}");
            collect(&nested, old_by.get(target).copied(), new_by.get(target).copied(), changes);
        }
        return;
    }
    let side = |value: Option<&Value>| value.map(|value| text(field, value));
    changes.push(Change { field: field.to_owned(), old: side(old), new: side(new) });
}

/// The entries of a list by their `target`, when each has one of its own.
fn by_target(list: &Value) -> Option<BTreeMap<&str, &Value>> {
    let list = list.as_array()?;
    let entries: Option<BTreeMap<&str, &Value>> =
        list.iter().map(|entry| Some((entry.get("target")?.as_str()?, entry))).collect();
    entries.filter(|entries| entries.len() == list.len())
}

fn text(field: &str, value: &Value) -> String {
    match value {
        Value::String(text) if text.starts_with("secret:") => "(secret)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(ports) if field == "ports" => {
            let ports: Option<Vec<String>> = ports.iter().map(port).collect();
            ports.map_or_else(|| value.to_string(), |ports| ports.join(", "))
        }
        other => other.to_string(),
    }
}

/// A published port as Compose's short form writes it.
fn port(value: &Value) -> Option<String> {
    let port: Port = serde_json::from_value(value.clone()).ok()?;
    let host_ip = port.host_ip.map(|address| format!("{address}:")).unwrap_or_default();
    let published = match port.published {
        Published::Ephemeral => String::new(),
        Published::Range { first, last } if first == last => format!("{first}:"),
        Published::Range { first, last } => format!("{first}-{last}:"),
    };
    let protocol = if port.protocol == Protocol::Tcp { String::new() } else { format!("/{}", port.protocol) };
    Some(format!("\"{host_ip}{published}{}{protocol}\"", port.target))
}

/// The names of the top-level fields among the changes, for a cause: `image, environment`.
pub fn fields(changes: &[Change]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for change in changes {
        let name = change.field.split('.').next().unwrap_or(&change.field);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_fields_are_named_one_by_one_and_secrets_are_not_shown() {
        let old = r#"{"image":"web:1","environment":{"MODE":"a","PASSWORD":"secret:12"}}"#;
        let new = r#"{"image":"web:2","environment":{"MODE":"a","PASSWORD":"secret:34"},"init":true}"#;
        let changes = between(old, new);
        let lines: Vec<String> =
            changes.iter().map(|c| format!("{} {:?} {:?}", c.field, c.old.as_deref(), c.new.as_deref())).collect();
        assert_eq!(
            lines,
            [
                r#"environment.PASSWORD Some("(secret)") Some("(secret)")"#,
                r#"image Some("\"web:1\"") Some("\"web:2\"")"#,
                r#"init None Some("true")"#,
            ]
        );
        assert_eq!(fields(&changes), "environment, image, init");
    }

    #[test]
    fn of_many_files_only_the_one_that_differs_is_named_and_secrets_are_not_shown() {
        let old =
            r#"{"files":[{"content":{"inline":"a"},"target":"/a"},{"content":{"inline":"secret:12"},"target":"/s"}]}"#;
        let new =
            r#"{"files":[{"content":{"inline":"b"},"target":"/a"},{"content":{"inline":"secret:34"},"target":"/s"}]}"#;
        let lines: Vec<String> = between(old, new)
            .iter()
            .map(|change| format!("{}: {:?} => {:?}", change.field, change.old.as_deref(), change.new.as_deref()))
            .collect();
        assert_eq!(
            lines,
            [
                r#"files./a.content.inline: Some("\"a\"") => Some("\"b\"")"#,
                r#"files./s.content.inline: Some("(secret)") => Some("(secret)")"#,
            ]
        );
    }
}
