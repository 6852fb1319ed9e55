//! Merges the trees of several files, in order, as Compose merges `-f a -f b`.
//!
//! Owns the rules, which follow from the kind that the tables give a key: mappings merge key by key, sequences append what
//! is new, `environment` and its like merge by name in either form, commands replace. `!reset` takes out, `!override`
//! replaces. Every node keeps the place where it was written.

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
        (Value::Mapping(mut entries), Value::Mapping(more)) => {
            for entry in more {
                match entries.iter().position(|known| known.key == entry.key) {
                    Some(at) => {
                        let known = entries.remove(at);
                        let Entry { key, key_place, value } = entry;
                        let null = value.is_null() && value.tag.is_none();
                        let kept_place = if null { known.key_place } else { key_place };
                        let value = merge_value(known.value, value, kind(&key));
                        entries.insert(at, Entry { key, key_place: kept_place, value });
                    }
                    None => entries.push(entry),
                }
            }
            Node { place: base.place, tag: base.tag, value: Value::Mapping(entries) }
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
    for item in into_items(over) {
        if !items.iter().any(|known| known.text() == item.text()) {
            items.push(item);
        }
    }
    Node { place, tag, value: Value::Sequence(items) }
}

fn by_identity(base: Node, over: Node, identity: Identity) -> Node {
    let place = base.place.clone();
    let tag = base.tag;
    let mut items = into_items(base);
    for item in into_items(over) {
        let name = identify(&item, identity);
        match items.iter().position(|known| name.is_some() && identify(known, identity) == name) {
            Some(at) => items[at] = item,
            None => items.push(item),
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
        match entries.iter_mut().find(|known| known.key == entry.key) {
            Some(known) => *known = entry,
            None => entries.push(entry),
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
