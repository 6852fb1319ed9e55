//! Configs and secrets: where their content comes from, and where a service mounts them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::super::container::{FileContent, FileMount, Secret, hex};
use super::super::names;
use super::super::suggest::did_you_mean;
use super::super::tree::{Entry, Node, shown};
use super::{Context, ReadError, owned, text};

/// The top level's configs and secrets, by key.
#[derive(Debug, Default)]
pub struct Grants {
    configs: BTreeMap<String, Option<Content>>,
    secrets: BTreeMap<String, Option<Content>>,
}

#[derive(Debug, Clone)]
enum Content {
    File { path: PathBuf, bytes: Vec<u8> },
    Text { text: String, secret: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Config,
    Secret,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }
}

/// Reads the top level. A file is read only when something mounts it, but a wrong declaration is always an error.
pub fn declared(root: &Node, context: &mut Context<'_>) -> Grants {
    Grants { configs: section(root, Kind::Config, context), secrets: section(root, Kind::Secret, context) }
}

fn section(root: &Node, kind: Kind, context: &mut Context<'_>) -> BTreeMap<String, Option<Content>> {
    let mut all = BTreeMap::new();
    let key = match kind {
        Kind::Config => "configs",
        Kind::Secret => "secrets",
    };
    let Some(section) = root.value(key) else { return all };
    for entry in section.entries() {
        if let Err(reason) = names::key(&entry.key) {
            let message = format!("`{}` is not a {}'s name: {reason}", shown(&entry.key), kind.word());
            context.report.error(&entry.key_place, message);
        }
        all.insert(entry.key.clone(), content(entry, kind, context));
    }
    all
}

fn content(entry: &Entry, kind: Kind, context: &mut Context<'_>) -> Option<Content> {
    let node = &entry.value;
    let given: Vec<&str> =
        ["file", "environment", "content"].into_iter().filter(|key| node.get(key).is_some()).collect();
    let [given] = given.as_slice() else {
        let message =
            format!("the {} `{}` needs exactly one of `file`, `environment`, `content`", kind.word(), entry.key);
        // With an unsupported source alone, `shape` has said what to do.
        if !given.is_empty() || !context.report.failed() {
            context.report.error(&entry.key_place, message);
        }
        return None;
    };
    let value = text(node, given)?;
    match *given {
        "file" => {
            let path = context.path(value);
            match context.read(&path) {
                Ok(bytes) => Some(Content::File { path, bytes }),
                Err(error) => {
                    let place = node.value("file").map_or(&entry.key_place, |node| &node.place);
                    let message = format!("the file of the {} `{}` cannot be read: {error}", kind.word(), entry.key);
                    let help = match error {
                        ReadError::Missing => "paths are relative to the first spec file's folder",
                        ReadError::Other(_) => "it must be a regular file that reeve can read",
                    };
                    context.report.error_help(place, message, help);
                    None
                }
            }
        }
        "environment" => match context.environment.get(value) {
            Some(text) => Some(Content::Text { text: text.clone(), secret: true }),
            None => {
                let place = node.value("environment").map_or(&entry.key_place, |node| &node.place);
                let message = format!("the variable `{}` of the {} is not set", shown(value), kind.word());
                context.report.error_help(place, message, "set it in the environment or in `.env`");
                None
            }
        },
        _ => Some(Content::Text { text: value.to_owned(), secret: kind == Kind::Secret }),
    }
}

/// What a service mounts, sorted by target.
pub fn mounted(service: &str, node: &Node, grants: &Grants, context: &mut Context<'_>) -> Vec<FileMount> {
    let mut files: Vec<FileMount> = Vec::new();
    for (kind, key, declared) in
        [(Kind::Config, "configs", &grants.configs), (Kind::Secret, "secrets", &grants.secrets)]
    {
        let Some(list) = node.value(key) else { continue };
        for item in list.list() {
            if let Some(file) = mount(service, item, kind, declared, context) {
                if files.iter().any(|known| known.target == file.target) {
                    let message = format!("two files are mounted at `{}`", shown(&file.target));
                    context.report.error_help(&item.place, message, "give one of them another `target`");
                }
                files.push(file);
            }
        }
    }
    files.sort_by(|a, b| a.target.cmp(&b.target));
    files
}

fn mount(
    service: &str,
    item: &Node,
    kind: Kind,
    declared: &BTreeMap<String, Option<Content>>,
    context: &mut Context<'_>,
) -> Option<FileMount> {
    let word = kind.word();
    let (source, source_place) = match item.text() {
        Some(source) => (source, &item.place),
        None => match item.get("source") {
            Some(entry) => (entry.value.text()?, &entry.value.place),
            None => {
                if !item.entries().is_empty() {
                    context.report.error(&item.place, format!("a {word} of a service needs a `source`"));
                }
                return None;
            }
        },
    };
    let Some(content) = declared.get(source) else {
        let message = format!("the {word} `{}` is not declared", shown(source));
        let help = did_you_mean(source, declared.keys().map(String::as_str))
            .unwrap_or_else(|| format!("declare it in the top-level `{word}s`"));
        context.report.error_help(source_place, message, help);
        return None;
    };
    let default = match kind {
        Kind::Config => "/",
        Kind::Secret => "/run/secrets/",
    };
    let target = match text(item, "target") {
        Some(target) if target.starts_with('/') => target.to_owned(),
        Some(target) => format!("{default}{target}"),
        None => format!("{default}{source}"),
    };
    let mode = match item.get("mode") {
        Some(entry) => {
            let parsed = entry.value.text().and_then(octal);
            if parsed.is_none() {
                let message = format!("`{}` is not a file mode", entry.value.shown());
                context.report.error_help(&entry.value.place, message, "write it in octal: `0440`");
            }
            parsed
        }
        None => None,
    };
    let (uid, gid) = (owned(item, "uid"), owned(item, "gid"));
    let content = content.as_ref()?;
    if matches!(content, Content::File { .. }) && (uid.is_some() || gid.is_some() || mode.is_some()) {
        let message = format!("`uid`, `gid` and `mode` have no effect on a {word} from a file");
        context.report.warning(&item.place, message, "the file is bind-mounted as it is; change it on the host");
    }
    let place = format!("{}/{service}/{word}s/{source}", context.project);
    let content = match content {
        Content::File { path, bytes } => {
            let digest = match kind {
                Kind::Config => hex(&Sha256::digest(bytes)),
                // Keyed, so that a short secret cannot be found from its digest by a table.
                Kind::Secret => Secret::new(&place, hex(bytes)).digest().to_owned(),
            };
            FileContent::File { path: path.clone(), digest }
        }
        Content::Text { text, secret: true } => FileContent::Secret(Secret::new(&place, text.clone())),
        Content::Text { text, secret: false } => FileContent::Inline(text.clone()),
    };
    Some(FileMount { target, content, uid, gid, mode })
}

/// `0440`, `0o440` or `440`, in octal.
pub fn octal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777)
}
