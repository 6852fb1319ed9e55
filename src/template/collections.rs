//! Filters on lists and maps: grouping, and what is in what.

use std::collections::BTreeMap;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error};

use super::shared::{data, problem};

type Result<T> = std::result::Result<T, Error>;

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("by_tag", by_tag);
    environment.add_filter("by_meta", by_meta);
    environment.add_filter("by_key", by_key);
    environment.add_filter("by_port", by_port);
    environment.add_filter("explode", explode);
    environment.add_filter("contains", |list: Value, item: Value| has(&list, &item));
    environment.add_filter("contains_any", |list: Value, items: Value| Ok::<_, Error>(counted(&list, &items)?.0 > 0));
    environment.add_filter("contains_all", |list: Value, items: Value| {
        counted(&list, &items).map(|(found, all)| found == all)
    });
    environment.add_filter("contains_none", |list: Value, items: Value| Ok::<_, Error>(counted(&list, &items)?.0 == 0));
    environment.add_filter("contains_not_all", |list: Value, items: Value| {
        counted(&list, &items).map(|(found, all)| found != all)
    });
}

/// Services by each of their tags.
fn by_tag(services: Value) -> Result<Value> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for service in services.try_iter()? {
        for tag in service.get_attr("Tags")?.try_iter()? {
            groups.entry(tag.to_string()).or_default().push(service.clone());
        }
    }
    Ok(map(groups))
}

/// Services by the values of these keys of their metadata, joined by `_`; `key|int` pads a number with zeros.
fn by_meta(services: Value, keys: String) -> Result<Value> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for service in services.try_iter()? {
        let meta = service.get_attr("ServiceMeta")?;
        let mut parts = Vec::new();
        for key in keys.split(',').map(str::trim) {
            let (key, number) = key.strip_suffix("|int").map_or((key, false), |key| (key, true));
            let value = meta.get_item(&Value::from(key))?;
            let value = if value.is_undefined() { String::new() } else { value.to_string() };
            parts.push(match (number, value.parse::<i64>()) {
                (true, Ok(number)) => format!("{number:05}"),
                (true, Err(_)) => {
                    return Err(problem(format!("by_meta: the metadata `{key}` of a service is not a whole number")));
                }
                (false, _) => value,
            });
        }
        groups.entry(parts.join("_")).or_default().push(service);
    }
    Ok(map(groups))
}

/// Pairs by the first folder of their key, and there by the rest of it.
fn by_key(pairs: Value) -> Result<Value> {
    let mut groups: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for pair in pairs.try_iter()? {
        let key = pair.get_attr("Key")?.to_string();
        let Some((top, rest)) = key.split_once('/') else { continue };
        let field = |name: &'static str| pair.get_attr(name).map(|value| (Value::from(name), value));
        let inner = Value::from_pairs([(Value::from("Key"), Value::from(rest)), field("Path")?, field("Value")?]);
        groups.entry(top.to_owned()).or_default().insert(rest.to_owned(), inner);
    }
    Ok(Value::from_pairs(groups.into_iter().map(|(top, inner)| (Value::from(top), Value::from_pairs(inner)))))
}

/// Services by their port.
fn by_port(services: Value) -> Result<Value> {
    let mut groups: BTreeMap<i64, Vec<Value>> = BTreeMap::new();
    for service in services.try_iter()? {
        let port = service.get_attr("Port")?.as_i64().unwrap_or_default();
        groups.entry(port).or_default().push(service);
    }
    Ok(Value::from_pairs(groups.into_iter().map(|(port, services)| (Value::from(port), Value::from(services)))))
}

fn map(groups: BTreeMap<String, Vec<Value>>) -> Value {
    Value::from_pairs(groups.into_iter().map(|(key, values)| (Value::from(key), Value::from(values))))
}

/// Pairs of a tree become maps within maps.
fn explode(pairs: Value) -> Result<Value> {
    let mut root = serde_json::Map::new();
    for pair in pairs.try_iter()? {
        let key = pair.get_attr("Key")?.to_string();
        let value = pair.get_attr("Value")?.to_string();
        let mut parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty()).collect();
        let Some(last) = parts.pop() else { continue };
        let mut folder = &mut root;
        for part in parts {
            let inner = folder.entry(part).or_insert_with(|| serde_json::Map::new().into());
            let Some(inner) = inner.as_object_mut() else {
                return Err(problem(format!("explode: {part} is a key and a folder at once")));
            };
            folder = inner;
        }
        if folder.get(last).is_some_and(serde_json::Value::is_object) {
            return Err(problem(format!("explode: {last} is a key and a folder at once")));
        }
        folder.insert(last.to_owned(), value.into());
    }
    Ok(data(&root))
}

/// A list holds the item, a map the key, a text the other text.
fn has(list: &Value, item: &Value) -> Result<bool> {
    match (list.kind(), list.as_str(), item.as_str()) {
        (ValueKind::String, Some(text), Some(part)) => Ok(text.contains(part)),
        (ValueKind::Undefined | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable, ..) => {
            Ok(list.try_iter()?.any(|one| one == *item))
        }
        _ => Err(problem("contains: it looks into lists, maps and texts")),
    }
}

/// How many of the items are in the list, and how many items there are.
fn counted(list: &Value, items: &Value) -> Result<(usize, usize)> {
    let (mut found, mut all) = (0, 0);
    for item in items.try_iter()? {
        all += 1;
        found += usize::from(has(list, &item)?);
    }
    Ok((found, all))
}
