//! From a merged tree, whose shape was checked, to typed parts of a spec with their places.
//!
//! Owns the meaning of each key. Readers stay silent about wrong types (`shape` reported them) and report what only the
//! meaning can tell. What concerns several services at once is `validate`'s.

mod deploy;
mod discovery;
mod environment;
mod grants;
mod mounts;
mod networks;
pub(super) mod ports;
mod register;
mod service;
mod templates;
mod upstreams;
pub(crate) mod words;

pub(crate) use ports::container_ports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::container::Port;
use super::diagnostic::Report;
use super::names;
use super::template::Template;
use super::tree::{Node, Place};
use super::units;
use super::upstream::Upstream;
use super::{Discovery, Network, Service, Volume};

/// Reads the files that a spec names.
pub trait Files {
    /// The bytes of a regular file.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn read(&self, path: &Path) -> Result<Vec<u8>, ReadError>;
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    Missing,
    Other(String),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("it does not exist"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// What readers share.
pub struct Context<'a> {
    pub report: &'a mut Report,
    pub project: &'a str,
    /// Relative paths begin here: the first file's folder, absolute.
    pub folder: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
    pub files: &'a dyn Files,
    /// Every file that was read or looked for.
    pub touched: BTreeSet<PathBuf>,
    pub profiles: &'a BTreeSet<String>,
    /// Credentials among the variables that were put into values, by name.
    pub concealed: &'a BTreeMap<String, String>,
    /// As [`crate::spec::LoadOptions::templates_allow`].
    pub templates_allow: Option<&'a [PathBuf]>,
}

impl Context<'_> {
    /// An absolute path without `.` and `..`. `~` is the home folder.
    pub fn path(&self, text: &str) -> PathBuf {
        let home = || self.environment.get("HOME").filter(|home| home.starts_with('/'));
        let joined = match (text, text.strip_prefix("~/"), home()) {
            ("~", _, Some(home)) => PathBuf::from(home),
            (_, Some(rest), Some(home)) => Path::new(home).join(rest),
            _ => self.folder.join(text),
        };
        normalise(&joined)
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>, ReadError> {
        self.touched.insert(path.to_owned());
        self.files.read(path)
    }
}

/// Takes `.` and `..` out of a path by text alone.
pub fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}

/// Everything that the files say, before the parts are checked against each other.
#[derive(Debug, Default)]
pub struct Draft {
    pub services: BTreeMap<String, Drafted>,
    /// By key.
    pub networks: BTreeMap<String, Network>,
    /// By key.
    pub volumes: BTreeMap<String, Volume>,
    pub upstreams: BTreeMap<String, DraftedUpstream>,
    pub discovery: Option<Discovery>,
    pub templates: BTreeMap<String, Template>,
}

/// A service with the places that later messages point at.
#[derive(Debug)]
pub struct Drafted {
    pub service: Service,
    pub profiles: Vec<String>,
    /// Its profiles are on, or it has none.
    pub active: bool,
    /// In the file's order.
    pub ports: Vec<(Port, Place)>,
    pub depends: BTreeMap<String, DependencyPlaces>,
    /// One for each of `service.register`.
    pub registers: Vec<RegisterPlaces>,
    pub health: HealthDeclared,
    /// Keys that only one replica can have, with their places.
    pub single: Vec<(&'static str, Place)>,
    /// Keys of networks and volumes that it uses.
    pub networks: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    /// The service whose network it shares.
    pub shares: Option<(String, Place)>,
}

#[derive(Debug, Clone)]
pub struct DependencyPlaces {
    pub name: Place,
    pub condition: Place,
}

#[derive(Debug, Clone)]
pub struct RegisterPlaces {
    pub all: Place,
    pub port: Place,
    pub address: Place,
    pub check: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthDeclared {
    No,
    Yes,
    Disabled,
}

#[derive(Debug)]
pub struct DraftedUpstream {
    pub upstream: Upstream,
    pub place: Place,
    pub listen: Place,
    pub service: Option<Place>,
    pub tls: Option<Place>,
    pub server_name: Place,
}

/// Reads a whole spec.
pub fn spec(root: &Node, context: &mut Context<'_>) -> Draft {
    let mut draft = Draft {
        networks: networks::declared(root, context),
        volumes: mounts::declared(root, context),
        ..Draft::default()
    };
    let grants = grants::declared(root, context);
    if let Some(services) = root.get("services") {
        for entry in services.value.entries() {
            if let Err(reason) = names::key(&entry.key) {
                let name = super::tree::shown(&entry.key);
                context.report.error(&entry.key_place, format!("`{name}` is not a service's name: {reason}"));
                continue;
            }
            let drafted = service::read(entry, &mut draft, &grants, context);
            draft.services.insert(entry.key.clone(), drafted);
        }
    }
    if let Some(upstreams) = root.get("upstreams") {
        for entry in upstreams.value.entries() {
            if let Some(drafted) = upstreams::read(entry, context) {
                draft.upstreams.insert(entry.key.clone(), drafted);
            }
        }
    }
    draft.discovery = root.get("discovery").and_then(|entry| discovery::read(&entry.value, context));
    unheard(root, &draft, context);
    templates::read(root, &mut draft, context);
    draft
}

/// Discovery reads the `SERVICE_*` of containers that are in no spec: whoever moves a service into it would lose its
/// registration without a word.
fn unheard(root: &Node, draft: &Draft, context: &mut Context<'_>) {
    let (Some(_), Some(services)) = (&draft.discovery, root.get("services")) else { return };
    for entry in services.value.entries() {
        let Some(drafted) = draft.services.get(&entry.key) else { continue };
        let config = &drafted.service.config;
        let mut names = config.environment.keys().chain(config.labels.keys());
        if !drafted.service.register.is_empty() || entry.value.get("register").is_some() {
            continue;
        }
        if let Some(name) = names.find(|name| name.starts_with("SERVICE_") && *name != "SERVICE_IGNORE") {
            let service = super::tree::shown(&entry.key);
            let message = format!("`{service}` has {name}, and no `register`: it is not registered");
            let help =
                "discovery takes containers that are in no spec; write `register`, as `reeve import compose` does";
            context.report.warning(&entry.key_place, message, help);
        }
    }
}

// What readers take from nodes. `None` for what is missing and for what `shape` refused already.

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.value(key).and_then(Node::text)
}

fn owned(node: &Node, key: &str) -> Option<String> {
    text(node, key).map(str::to_owned)
}

fn boolean(node: &Node, key: &str) -> Option<bool> {
    text(node, key).and_then(units::boolean)
}

fn integer(node: &Node, key: &str) -> Option<i64> {
    text(node, key).and_then(|text| text.trim().parse().ok())
}

fn duration(node: &Node, key: &str) -> Option<std::time::Duration> {
    text(node, key).and_then(|text| units::duration(text).ok())
}

fn size(node: &Node, key: &str) -> Option<u64> {
    text(node, key).and_then(|text| units::size(text).ok())
}

/// A text or a list of texts.
fn texts(node: &Node, key: &str) -> Vec<String> {
    node.value(key).map_or(Vec::new(), |node| node.items().iter().filter_map(Node::text).map(str::to_owned).collect())
}

/// A mapping or a list of `NAME=value`; without a value: empty.
fn pairs(node: &Node, key: &str) -> BTreeMap<String, String> {
    let Some(node) = node.value(key) else { return BTreeMap::new() };
    let mapping = super::merge::as_mapping(node.clone(), Some('='));
    let pair =
        |entry: &super::tree::Entry| (entry.key.clone(), entry.value.text().map_or(String::new(), str::to_owned));
    mapping.entries().iter().map(pair).collect()
}

/// Labels of a container, network or volume.
fn labels(node: &Node, context: &mut Context<'_>) -> BTreeMap<String, String> {
    let labels = pairs(node, "labels");
    if let Some(entry) = node.get("labels") {
        for name in labels.keys() {
            for prefix in ["reeve.", "com.docker.compose."] {
                if name.starts_with(prefix) {
                    let name = super::tree::shown(name);
                    let place = entry.value.entries().iter().find(|label| label.key == name);
                    let place = place.map_or(&entry.value.place, |label| &label.key_place);
                    let message = format!("the label `{name}` is reserved");
                    context.report.error_help(place, message, format!("labels must not begin with `{prefix}`"));
                }
            }
        }
    }
    labels
}

/// `external`: whether it is, and the name that its old form gives.
fn external(node: &Node) -> (bool, Option<String>) {
    match node.value("external") {
        None => (false, None),
        Some(value) => match value.text() {
            Some(text) => (units::boolean(text) == Some(true), None),
            None => (true, owned(value, "name")),
        },
    }
}
