//! consul-template's short forms: `tag.name@dc~near|status,…` and what is like it.

use std::collections::BTreeSet;

use super::shared::problem;
use crate::observed::Dependency;

const STATUSES: [&str; 5] = ["any", "passing", "warning", "critical", "maintenance"];

type Parsed<T> = Result<T, minijinja::Error>;

/// `[tag.]name[@datacenter][~near][|status,…]`. `dots`: they are the name's, and there is no tag.
pub(super) fn service(text: &str, dots: bool) -> Parsed<Dependency> {
    let (rest, filter) = match text.split_once('|') {
        Some((rest, filter)) => (rest, Some(filter)),
        None => (text, None),
    };
    let mut statuses = BTreeSet::new();
    for status in filter.unwrap_or("passing").split(',').map(str::trim).filter(|status| !status.is_empty()) {
        if !STATUSES.contains(&status) {
            return Err(problem(format!(
                "service(): `{}` is not a status; it can be {}",
                short(status),
                STATUSES.join(", ")
            )));
        }
        statuses.insert(status.to_owned());
    }
    if statuses.contains("any") || filter.is_some_and(|filter| filter.trim().is_empty()) {
        statuses.clear();
    }
    let (rest, datacenter, near) = places("service", rest)?;
    let (tag, name) = match rest.rsplit_once('.').filter(|_| !dots) {
        Some((tag, name)) => (Some(word("service", "tag", tag, "=:.-_")?), name),
        None => (None, rest),
    };
    let name = word("service", "name", name, if dots { ".-_" } else { "-_" })?;
    Ok(Dependency::Service { name, tag, datacenter, near, statuses })
}

pub(super) fn services(text: &str) -> Parsed<Dependency> {
    let (rest, datacenter, near) = places("services", text)?;
    if !rest.is_empty() || near.is_some() {
        return Err(problem("services() takes nothing but \"@datacenter\""));
    }
    Ok(Dependency::Services { datacenter })
}

pub(super) fn nodes(text: &str) -> Parsed<Dependency> {
    let (rest, datacenter, near) = places("nodes", text)?;
    if !rest.is_empty() {
        return Err(problem("nodes() takes nothing but \"@datacenter~near\""));
    }
    Ok(Dependency::Nodes { datacenter, near })
}

pub(super) fn node(text: &str) -> Parsed<Dependency> {
    let (rest, datacenter, near) = places("node", text)?;
    if near.is_some() {
        return Err(problem("node() takes nothing but \"name@datacenter\""));
    }
    let name = if rest.is_empty() { None } else { Some(word("node", "name", rest, ".-_")?) };
    Ok(Dependency::Node { name, datacenter })
}

/// A path of the key-value store, without the slash in front.
pub(super) fn key(function: &str, text: &str) -> Parsed<(String, Option<String>)> {
    let (path, datacenter) = match text.rsplit_once('@') {
        Some((path, datacenter)) => (path, Some(word(function, "datacenter", datacenter, "-_")?)),
        None => (text, None),
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(problem(format!("{function}(): the path holds `.` or `..`")));
    }
    if path.chars().any(char::is_control) {
        return Err(problem(format!("{function}(): the path holds a control character")));
    }
    Ok((path.to_owned(), datacenter))
}

/// The rest, `@datacenter`, `~near`.
fn places<'t>(function: &str, text: &'t str) -> Parsed<(&'t str, Option<String>, Option<String>)> {
    let (text, near) = match text.split_once('~') {
        Some((text, near)) => (text, Some(word(function, "node", near, ".-_")?)),
        None => (text, None),
    };
    match text.split_once('@') {
        Some((text, datacenter)) => Ok((text, Some(word(function, "datacenter", datacenter, "-_")?), near)),
        None => Ok((text, None, near)),
    }
}

fn word(function: &str, what: &str, text: &str, more: &str) -> Parsed<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
    if text.is_empty() || !text.chars().all(good) {
        let allowed: Vec<String> = more.chars().map(String::from).collect();
        return Err(problem(format!(
            "{function}(): `{}` is not the {what} of anything: it can hold letters, digits and {}",
            short(text),
            allowed.join(" ")
        )));
    }
    Ok(text.to_owned())
}

fn short(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}
