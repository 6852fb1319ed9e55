//! Names, ids, tags and metadata, as registrator makes them; and what Consul would not take, as a reason.

use std::collections::BTreeMap;

use super::attributes::Attributes;
use super::places::Place;
use crate::observed::Discovered;
use crate::spec::discovery::Discovery;
use crate::spec::{Protocol, names};

/// Consul takes 64 pairs of `Meta`; reeve's own are among them.
const META_PAIRS: usize = 56;
const META_VALUE: usize = 512;
const TAG: usize = 255;
const ID: usize = 255;

/// `SERVICE_NAME`, else the image's name; with the port behind it when it is one of several, unless the name is for this
/// port alone.
pub(super) fn name(
    container: &Discovered,
    attributes: &Attributes<'_>,
    port: u16,
    group: bool,
) -> Result<String, String> {
    let (base, source) = match attributes.get("name") {
        Some(name) => (name, "SERVICE_NAME"),
        None => (base_name(&container.image)?, "the image's name"),
    };
    let name = if group && !attributes.own("name") { format!("{base}-{port}") } else { base.to_owned() };
    names::consul(&name).map_err(|reason| {
        format!("{:?} (by {source}) is not a name for a Consul service: {reason}; set SERVICE_NAME", short(&name))
    })?;
    Ok(name)
}

/// `foo` of `registry:5000/a/foo:1` and of `a/foo@sha256:…`.
pub(crate) fn base_name(image: &str) -> Result<&str, String> {
    let last = image.rsplit('/').next().unwrap_or_default();
    let base = last.split([':', '@']).next().unwrap_or_default();
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_id = image.starts_with("sha256:") || (matches!(image.len(), 12 | 64) && hex(image));
    if by_id || base.is_empty() {
        return Err("its image is given by an id, which is no name: set SERVICE_NAME".to_owned());
    }
    Ok(base)
}

/// `<hostname>:<container>:<port>`, and the protocol behind it unless that is TCP.
pub(super) fn registrator_id(host: &str, container: &Discovered, place: &Place) -> String {
    let id = format!("{host}:{}:{}", container.name, place.port);
    if place.protocol == Protocol::Tcp { id } else { format!("{id}:{}", place.protocol) }
}

pub(super) fn check_id(id: &str) -> Result<(), String> {
    match id.len() > ID || id.chars().any(|letter| letter.is_control() || letter == '`') {
        true => Err(format!("SERVICE_ID must be at most {ID} bytes, without control characters and backquotes")),
        false => Ok(()),
    }
}

/// Those of `SERVICE_TAGS` in their order, then those of the spec, then `udp`; each once.
pub(super) fn tags(
    discovery: &Discovery,
    attributes: &Attributes<'_>,
    protocol: Protocol,
) -> Result<Vec<String>, String> {
    let own = split_tags(attributes.get("tags").unwrap_or_default());
    let more = discovery.tags.iter().cloned().chain((protocol == Protocol::Udp).then(|| "udp".to_owned()));
    let mut tags: Vec<String> = Vec::new();
    for tag in own.into_iter().chain(more) {
        if tag.len() > TAG || tag.chars().any(char::is_control) {
            return Err(format!(
                "SERVICE_TAGS has the tag {:?}: a tag is at most {TAG} bytes without control characters",
                short(&tag)
            ));
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// At each comma that no backslash precedes; `\,` is a comma. What is empty falls away, blanks stay.
pub(crate) fn split_tags(text: &str) -> Vec<String> {
    let mut tags = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ',' => tags.push(String::new()),
            '\\' if letters.peek() == Some(&',') => {
                letters.next();
                push(&mut tags, ',');
            }
            letter => push(&mut tags, letter),
        }
    }
    tags.retain(|tag| !tag.is_empty());
    tags
}

fn push(tags: &mut [String], letter: char) {
    if let Some(last) = tags.last_mut() {
        last.push(letter);
    }
}

/// Only what the spec allows: anything may be in a `SERVICE_*`, a password too, and everybody reads the catalog.
pub(super) fn meta(discovery: &Discovery, attributes: &Attributes<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut meta = BTreeMap::new();
    for key in &discovery.metadata {
        let Some(value) = attributes.get(key) else { continue };
        let variable = key.to_ascii_uppercase();
        if value.len() > META_VALUE {
            return Err(format!("SERVICE_{variable} has {} bytes; Consul takes at most {META_VALUE}", value.len()));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("SERVICE_{variable} holds a line break or another control character"));
        }
        meta.insert(key.clone(), value.to_owned());
    }
    match meta.len() > META_PAIRS {
        true => {
            Err(format!("it has {} pairs of metadata; Consul takes at most {META_PAIRS} beside reeve's", meta.len()))
        }
        false => Ok(meta),
    }
}

fn short(text: &str) -> String {
    if text.chars().count() > 60 { text.chars().take(60).chain(['…']).collect() } else { text.to_owned() }
}
