//! What `upstreams` would say in place of a template for nginx.
//!
//! A hint, for a reader: it takes what it knows, and whatever else the template says is not looked at.

use super::yaml;

/// Of a translated template that lists the instances of a service, as one line; `None`: it is no such template.
pub(super) fn native(translated: &str) -> Option<String> {
    let (name, rest) = translated.match_indices("upstream ").find_map(|(at, head)| {
        let begins = translated.get(..at)?.rsplit('\n').next()?.trim().is_empty();
        let (name, rest) = translated.get(at + head.len()..)?.split_once('{')?;
        let name = name.trim();
        (begins && !name.is_empty() && good(name)).then_some((name, rest))
    })?;
    let query = rest.split_once("service(\"")?.1.split_once('"')?.0;
    let query = query.split(['|', '@', '~']).next().unwrap_or_default();
    let (tag, service) = query.rsplit_once('.').map_or((None, query), |(tag, service)| (Some(tag), service));
    if service.is_empty() || !good(service) {
        return None;
    }
    let tag = tag.filter(|tag| good(tag)).map(|tag| format!(", tag: {tag}")).unwrap_or_default();
    let mut more = String::new();
    // Of several servers nobody knows here which one routes to it.
    if translated.split_whitespace().filter(|word| *word == "listen").count() == 1 {
        let port = |word: &String| word.rsplit(':').next()?.parse::<u16>().ok();
        if let Some(port) = directive(translated, "listen").and_then(|words| port(words.first()?)) {
            more.push_str(&format!(", listen: {port}"));
        }
        let names = directive(translated, "server_name").unwrap_or_default();
        if !names.is_empty() && names.iter().all(|name| good(name) && name != "_") {
            more.push_str(&format!(", server_name: {}", yaml::list(names)));
        }
        let log = directive(translated, "access_log").unwrap_or_default();
        if let [path] = log.as_slice()
            && path.starts_with('/')
        {
            more.push_str(&format!(", access_log: {}", yaml::scalar(path)));
        }
    }
    Some(format!("upstreams: {{ {name}: {{ service: {service}{tag}{more} }} }}"))
}

fn good(word: &str) -> bool {
    word.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.'))
}

/// The words of the first directive of this name, up to its semicolon.
fn directive(text: &str, name: &str) -> Option<Vec<String>> {
    let line = text.lines().map(str::trim).find(|line| line.split_whitespace().next() == Some(name))?;
    let (words, _) = line[name.len()..].split_once(';')?;
    Some(words.split_whitespace().map(str::to_owned).collect())
}
