//! Merges the trees of several files, in order, as Compose merges `-f a -f b`.
//!
//! Owns the rules, which follow from the kind that the tables give a key: mappings merge key by key, sequences append what
//! is new, `environment` and its like merge by name in either form, commands replace. `!reset` takes out, `!override`
//! replaces. Every node keeps the place where it was written.

use std::collections::{BTreeMap, BTreeSet};

use super::shape::pick;
use super::table::{Identity, Kind, Table};
use super::tree::{Entry, Node, Tag, Value};

/// The later file on top of the earlier one.
pub fn merge(base: Node, over: Node, table: &'static Table) -> Node {
    table_merge(base, over, table)
}

/// Takes out what `!reset` marks, after the last merge.
pub fn sweep(node: &mut Node) {
    match &mut node.value {
        Value::Mapping(entries) => {
            entries.retain(|entry| entry.value.tag != Some(Tag::Reset));
            entries.iter_mut().for_each(|entry| sweep(&mut entry.value));
        }
        Value::Sequence(items) => {
            items.retain(|item| item.tag != Some(Tag::Reset));
            items.iter_mut().for_each(sweep);
        }
        Value::Null | Value::Scalar(_) => {}
    }
}

fn merge_value(base: Node, over: Node, kind: &'static Kind) -> Node {
    match over.tag {
        Some(Tag::Reset | Tag::Override) => return over,
        None => {}
    }
    if base.tag == Some(Tag::Reset) {
        return over;
    }
    if over.is_null() {
        return base;
    }
    if base.is_null() {
        return over;
    }
    match kind {
        Kind::Text
        | Kind::Choice(_)
        | Kind::Boolean
        | Kind::Integer { .. }
        | Kind::Cpus
        | Kind::Duration
        | Kind::Size
        | Kind::Command => over,
        Kind::Any => merge_any(base, over),
        Kind::Texts | Kind::List => append_new(base, over),
        Kind::Pairs => entries_merge(as_mapping(base, Some('=')), as_mapping(over, Some('=')), |_| &Kind::Text),
        Kind::Options => entries_merge(base, over, |_| &Kind::Text),
        Kind::Hosts => append_new(as_hosts(base), as_hosts(over)),
        Kind::Mapping(table) => table_merge(base, over, table),
        Kind::MapOf(kind) => entries_merge(base, over, |_| kind),
        Kind::Named(kind) => entries_merge(as_mapping(base, None), as_mapping(over, None), |_| kind),
        Kind::Entries { identity, .. } => by_identity(base, over, *identity),
        Kind::ListOf(_) => append(base, over),
        Kind::Either(kinds) => match (pick(kinds, &base), pick(kinds, &over)) {
            (Some(was), Some(is)) if std::ptr::eq(was, is) => merge_value(base, over, is),
            _ => over,
        },
    }
}

fn table_merge(base: Node, over: Node, table: &'static Table) -> Node {
    if let Some(key) = table.whole_when
        && let (Some(was), Some(is)) = (base.value(key), over.value(key))
        && was.text() != is.text()
    {
        return over;
    }
    entries_merge(base, over, |name| table.key(name).map_or(&Kind::Any, |key| &key.kind))
}

fn entries_merge(base: Node, over: Node, kind: impl Fn(&str) -> &'static Kind) -> Node {
    match (base.value, over.value) {
        (Value::Mapping(entries), Value::Mapping(more)) => {
            let places: BTreeMap<String, usize> =
                entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
            let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
            for entry in more {
                let known = places.get(&entry.key).and_then(|at| Some((*at, entries[*at].take()?)));
                match known {
                    Some((at, known)) => {
                        let Entry { key, key_place, value } = entry;
                        let null = value.is_null() && value.tag.is_none();
                        let kept_place = if null { known.key_place } else { key_place };
                        let value = merge_value(known.value, value, kind(&key));
                        entries[at] = Some(Entry { key, key_place: kept_place, value });
                    }
                    None => entries.push(Some(entry)),
                }
            }
            let value = Value::Mapping(entries.into_iter().flatten().collect());
            Node { place: base.place, tag: base.tag, value }
        }
        (_, value) => Node { place: over.place, tag: over.tag, value },
    }
}

fn merge_any(base: Node, over: Node) -> Node {
    match (&base.value, &over.value) {
        (Value::Mapping(_), Value::Mapping(_)) => entries_merge(base, over, |_| &Kind::Any),
        (Value::Sequence(_), Value::Sequence(_)) => append(base, over),
        _ => over,
    }
}

fn append(base: Node, over: Node) -> Node {
    let place = base.place.clone();
    let tag = base.tag;
    let mut items = into_items(base);
    items.extend(into_items(over));
    Node { place, tag, value: Value::Sequence(items) }
}

fn append_new(base: Node, over: Node) -> Node {
    let place = base.place.clone();
    let tag = base.tag;
    let mut items = into_items(base);
    let mut seen: BTreeSet<String> = items.iter().filter_map(Node::text).map(str::to_owned).collect();
    items.extend(
        into_items(over).into_iter().filter(|item| item.text().is_none_or(|text| seen.insert(text.to_owned()))),
    );
    Node { place, tag, value: Value::Sequence(items) }
}

fn by_identity(base: Node, over: Node, identity: Identity) -> Node {
    let place = base.place.clone();
    let tag = base.tag;
    let mut items = into_items(base);
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        places.extend(identify(item, identity).map(|name| (name, at)));
    }
    for item in into_items(over) {
        let name = identify(&item, identity);
        match name.as_ref().and_then(|name| places.get(name)) {
            Some(at) => items[*at] = item,
            None => {
                places.extend(name.map(|name| (name, items.len())));
                items.push(item);
            }
        }
    }
    Node { place, tag, value: Value::Sequence(items) }
}

fn into_items(node: Node) -> Vec<Node> {
    match node.value {
        Value::Sequence(items) => items,
        Value::Null => Vec::new(),
        Value::Scalar(_) | Value::Mapping(_) => vec![node],
    }
}

/// What makes an entry the same as another one.
fn identify(item: &Node, identity: Identity) -> Option<String> {
    let field = |name: &str| item.value(name).and_then(Node::text).map(str::to_owned);
    match (identity, item.text()) {
        (Identity::Port, Some(text)) => Some(text.trim_end_matches("/tcp").to_owned()),
        (Identity::Port, None) => {
            let mut text = field("target")?;
            if let Some(published) = field("published") {
                text = format!("{published}:{text}");
            }
            if let Some(host_ip) = field("host_ip") {
                text = format!("{host_ip}:{text}");
            }
            match field("protocol") {
                Some(protocol) if protocol != "tcp" => Some(format!("{text}/{protocol}")),
                _ => Some(text),
            }
        }
        (Identity::Volume, Some(text)) => {
            let mut parts = text.split(':');
            let first = parts.next();
            parts.next().or(first).map(|target| trimmed(target).to_owned())
        }
        (Identity::Volume, None) => field("target").map(|target| trimmed(&target).to_owned()),
        (Identity::Grant, Some(text)) => Some(text.to_owned()),
        (Identity::Grant, None) => {
            let target = field("target");
            let base = target.as_deref().map(|target| target.trim_start_matches("/run/secrets/").to_owned());
            base.or_else(|| field("source"))
        }
        (Identity::Device, Some(text)) => {
            let mut parts = text.split(':');
            let first = parts.next();
            parts.next().or(first).map(str::to_owned)
        }
        (Identity::Device, None) => field("target").or_else(|| field("source")),
        (Identity::Path, Some(text)) => Some(text.to_owned()),
        (Identity::Path, None) => field("path"),
    }
}

fn trimmed(target: &str) -> &str {
    match target.trim_end_matches('/') {
        "" => target,
        trimmed => trimmed,
    }
}

/// A list of `NAME=value` (or of names, without a separator) as the mapping that says the same.
pub fn as_mapping(node: Node, separator: Option<char>) -> Node {
    let Value::Sequence(items) = node.value else { return node };
    let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for item in items {
        let Value::Scalar(scalar) = &item.value else { continue };
        let parts = separator.and_then(|separator| scalar.text.split_once(separator));
        let (key, value) = match parts {
            Some((key, value)) => {
                let mut node = Node::scalar(&item.place, value);
                if let Value::Scalar(inner) = &mut node.value {
                    inner.template.clone_from(&scalar.template);
                }
                (key.to_owned(), node)
            }
            None => (scalar.text.clone(), Node::null(&item.place)),
        };
        let entry = Entry { key, key_place: item.place.clone(), value };
        // In a list the last one wins, as Docker reads it.
        match places.get(&entry.key) {
            Some(at) => entries[*at] = entry,
            None => {
                places.insert(entry.key.clone(), entries.len());
                entries.push(entry);
            }
        }
    }
    Node { place: node.place, tag: node.tag, value: Value::Mapping(entries) }
}

/// A mapping of host names to addresses as the list that says the same.
pub fn as_hosts(node: Node) -> Node {
    let Value::Mapping(entries) = node.value else { return node };
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        for address in entry.value.items() {
            if let Some(text) = address.text() {
                items.push(Node::scalar(&entry.key_place, &format!("{}:{text}", entry.key)));
            }
        }
    }
    Node { place: node.place, tag: node.tag, value: Value::Sequence(items) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::table::SPEC;
    use super::super::tree::{Source, parse};
    use super::*;

    /// A tree as text: scalars with their line, so that a test sees whose value stayed.
    fn text(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Scalar(scalar) => scalar.text.clone(),
            Value::Sequence(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", ")),
            Value::Mapping(entries) => {
                let pair = |entry: &Entry| format!("{}: {}", entry.key, text(&entry.value));
                format!("{{{}}}", entries.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn tree(body: &str) -> Node {
        let text = format!("services: {{ web: {{ {body} }} }}");
        parse(&Arc::new(Source { name: "a".to_owned(), text })).expect("the test's YAML is valid")
    }

    /// What the service says after the files are merged.
    fn merged(files: &[&str]) -> String {
        let mut trees = files.iter().map(|body| tree(body));
        let first = trees.next().expect("a test gives files");
        let mut root = trees.fold(first, |base, over| merge(base, over, &SPEC));
        sweep(&mut root);
        let services = root.value("services").and_then(|services| services.value("web"));
        text(services.expect("no test takes the service out"))
    }

    #[test]
    fn scalars_and_commands_are_replaced() {
        assert_eq!(merged(&["image: a, user: u", "image: b"]), "{image: b, user: u}");
        assert_eq!(merged(&["command: [a, b]", "command: c"]), "{command: c}");
        assert_eq!(
            merged(&["healthcheck: { test: [CMD, a], retries: 1 }", "healthcheck: { test: [CMD, b] }"]),
            "{healthcheck: {test: [CMD, b], retries: 1}}"
        );
    }

    #[test]
    fn environment_merges_by_name_in_either_form() {
        let wanted = "{environment: {A: 1, B: 3, C: null}}";
        assert_eq!(merged(&["environment: { A: 1, B: 2 }", "environment: [B=3, C]"]), wanted);
        assert_eq!(merged(&["environment: [A=1, B=2]", "environment: { B: 3, C: }"]), wanted);
    }

    #[test]
    fn sequences_append_what_is_new() {
        assert_eq!(merged(&["expose: ['1', '2']", "expose: ['2', '3']"]), "{expose: [1, 2, 3]}");
        assert_eq!(merged(&["dns: a", "dns: [a, b]"]), "{dns: [a, b]}");
        assert_eq!(merged(&["ports: ['80:80']", "ports: ['80:80/tcp', '81:80']"]), "{ports: [80:80/tcp, 81:80]}");
        assert_eq!(
            merged(&["ports: ['8080:80']", "ports: [{ target: 80, published: 8080 }]"]),
            "{ports: [{target: 80, published: 8080}]}"
        );
    }

    #[test]
    fn mounts_are_the_same_when_their_target_is() {
        assert_eq!(
            merged(&["volumes: ['a:/x', 'b:/y']", "volumes: [{ source: c, target: /x/ }]"]),
            "{volumes: [{source: c, target: /x/}, b:/y]}"
        );
        assert_eq!(merged(&["volumes: ['a:/x:ro']", "volumes: ['b:/x']"]), "{volumes: [b:/x]}");
    }

    #[test]
    fn lists_of_names_and_mappings_merge_as_mappings() {
        assert_eq!(
            merged(&["networks: [a]", "networks: { b: { aliases: [x] } }"]),
            "{networks: {a: null, b: {aliases: [x]}}}"
        );
        assert_eq!(
            merged(&["depends_on: [a]", "depends_on: { a: { condition: service_healthy } }"]),
            "{depends_on: {a: {condition: service_healthy}}}"
        );
        assert_eq!(merged(&["extra_hosts: ['a:1']", "extra_hosts: { b: '2' }"]), "{extra_hosts: [a:1, b:2]}");
    }

    #[test]
    fn logging_is_replaced_when_the_driver_differs() {
        let base = "logging: { driver: a, options: { x: 1 } }";
        let both = "{logging: {driver: a, options: {x: 1, y: 2}}}";
        assert_eq!(merged(&[base, "logging: { options: { y: 2 } }"]), both);
        assert_eq!(merged(&[base, "logging: { driver: b }"]), "{logging: {driver: b}}");
        assert_eq!(merged(&[base, "logging: { driver: a, options: { y: 2 } }"]), both);
    }

    #[test]
    fn reset_takes_out_and_override_replaces() {
        assert_eq!(merged(&["image: a, ports: ['1:1']", "ports: !reset []"]), "{image: a}");
        assert_eq!(merged(&["image: a, ports: ['1:1']", "ports: !override ['2:2']"]), "{image: a, ports: [2:2]}");
        assert_eq!(merged(&["ports: ['1:1']", "ports: !reset []", "ports: ['3:3']"]), "{ports: [3:3]}");
        assert_eq!(merged(&["image: a, environment: { A: 1, B: 2 }", "environment: { A: !reset null }"]), {
            "{image: a, environment: {B: 2}}"
        });
    }

    #[test]
    fn nothing_in_a_later_file_changes_nothing() {
        assert_eq!(merged(&["image: a, ports: ['1:1']", "image: , ports:"]), "{image: a, ports: [1:1]}");
    }
}
