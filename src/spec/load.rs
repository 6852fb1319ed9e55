//! From the text of spec files to a `Spec`: the order of the steps, and the only place that reads files.
//!
//! read → parse → interpolate → check the shape → merge → read the meaning → check it together → resolve. Each step but the
//! first is pure. A step that fails ends the way where the next one would only repeat its errors.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::credential::{name_is_credential, value_is_credential};
use super::diagnostic::{Diagnostic, Diagnostics, Report, Severity};
use super::interpolate::{Bare, Interpolation};
use super::read::{Context, Draft, normalise};
pub use super::read::{Files, ReadError};
use super::table::SPEC;
use super::tree::{self, MAX_FILE, Node, Source, shown};
use super::{Spec, dotenv, merge, names, read, resolved, shape, validate};

/// Largest config, secret or env_file, in bytes.
const MAX_CONTENT: u64 = 16 << 20;

/// What is loaded, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Files, and folders: a folder means its `*.yaml` and `*.yml`, sorted. Later files are merged onto earlier ones.
    pub files: Vec<PathBuf>,
    /// Replaces the spec's `name`.
    pub project: Option<String>,
    /// The process's environment. It wins over `.env`.
    pub environment: BTreeMap<String, String>,
    /// A plain `${VAR}` that is not set is an error.
    pub strict: bool,
    /// Profiles that are on, beside those of `COMPOSE_PROFILES`; `*` means all.
    pub profiles: BTreeSet<String>,
    /// Where nginx tells its generation: nothing of the spec may listen there.
    pub probe: Option<SocketAddr>,
    /// A template that writes into none of these folders is an error; `None`: nobody looks, and it waits when its turn comes.
    pub templates_allow: Option<Vec<PathBuf>>,
}

/// A spec, and what is worth knowing about how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub spec: Spec,
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read or looked for, absolute: a change of any of them may change the spec.
    pub files: Vec<PathBuf>,
    /// The canonical form, secrets as digests.
    pub resolved: Json,
}

/// Loads from disk.
///
/// # Errors
/// Everything that is wrong with the spec, sorted by place.
pub fn load(options: &LoadOptions) -> Result<Loaded, Diagnostics> {
    let mut texts = Vec::new();
    let mut problems = Vec::new();
    let mut touched = BTreeSet::new();
    for path in expand(&options.files, &mut problems) {
        let name = path.to_string_lossy().into_owned();
        touched.extend(std::path::absolute(&path).ok().map(|path| normalise(&path)));
        match Disk.read_up_to(&path, MAX_FILE as u64) {
            Ok(bytes) => texts.push((name, bytes)),
            Err(error) => problems.push(
                Diagnostic::of_file(&name, format!("the spec cannot be read: {error}"))
                    .with_help("give the spec's files with -f, or as `spec` in reeve.yaml"),
            ),
        }
    }
    if texts.is_empty() && problems.is_empty() {
        problems.push(
            Diagnostic::of_file("", "no spec file is given")
                .with_help("give the spec's files with -f, or as `spec` in reeve.yaml"),
        );
    }
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    let first = texts.first().map_or(Path::new("."), |(name, _)| Path::new(name));
    let folder = first.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = match std::path::absolute(folder) {
        Ok(folder) => normalise(&folder),
        Err(error) => {
            let message = format!("the working directory cannot be found: {error}");
            return Err(Diagnostics(vec![Diagnostic::of_file("", message)]));
        }
    };
    let mut loaded = load_from(&texts, &folder, options, &Disk)?;
    touched.extend(loaded.files);
    loaded.files = touched.into_iter().collect();
    Ok(loaded)
}

/// Loads texts by name, without a file system: what the spec refers to does not exist. Paths begin at `/spec`.
///
/// # Errors
/// As `load`.
pub fn load_text(texts: &[(&str, &str)], options: &LoadOptions) -> Result<Loaded, Diagnostics> {
    let texts: Vec<(String, Vec<u8>)> =
        texts.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
    load_from(&texts, Path::new("/spec"), options, &Memory::default())
}

/// Loads bytes by name, with the files that they refer to from anywhere. `folder`: absolute, where relative paths begin.
///
/// # Errors
/// As `load`.
pub fn load_from(
    texts: &[(String, Vec<u8>)],
    folder: &Path,
    options: &LoadOptions,
    files: &dyn Files,
) -> Result<Loaded, Diagnostics> {
    let mut report = Report::default();
    let mut touched = BTreeSet::new();
    let environment = environment(folder, options, files, &mut touched, &mut report);

    let mut trees: Vec<Node> = Vec::new();
    for (name, bytes) in texts {
        match parse(name, bytes) {
            Ok(tree) => trees.push(tree),
            Err(problems) => problems.into_iter().for_each(|problem| report.push(problem)),
        }
    }
    if report.failed() {
        return Err(report.finish());
    }

    let Some(project) = project(&trees, folder, options, &environment, &mut report) else {
        return Err(report.finish());
    };
    // Compose offers the project's name to the files.
    let mut environment = environment;
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), project.clone());
    let lookup = |name: &str| environment.get(name).cloned();
    let mut merged: Option<Node> = None;
    let mut interpolation = Interpolation::new(&lookup, options.strict);
    for mut tree in trees {
        interpolation.file(&mut tree, &mut report);
        shape::check(&mut tree, &SPEC, &mut report);
        merged = Some(match merged {
            None => tree,
            Some(base) => merge::merge(base, tree, &SPEC),
        });
    }
    let Some(mut root) = merged else {
        return Err(Diagnostics(vec![Diagnostic::of_file("", "no spec file is given")]));
    };
    // A value that could not be interpolated is missing now; reading on would only tell what follows from that.
    if interpolation.failed {
        return Err(report.finish());
    }
    merge::sweep(&mut root);

    let profiles = profiles(options, &environment);
    let concealed = concealed(&interpolation.used, &environment);
    let mut context = Context {
        report: &mut report,
        project: &project,
        folder,
        environment: &environment,
        files,
        touched,
        profiles: &profiles,
        concealed: &concealed,
        templates_allow: options.templates_allow.as_deref(),
    };
    let mut draft = read::spec(&root, &mut context);
    let touched = std::mem::take(&mut context.touched);
    let declares = ["services", "upstreams", "templates", "discovery"].iter().any(|key| root.get(key).is_some());
    if !declares && !report.failed() {
        let help = "it needs `services`, `upstreams`, `templates` or `discovery`";
        let name = texts.first().map_or("", |(name, _)| name);
        report.push(Diagnostic::of_file(name, "the spec declares nothing").with_help(help));
    }
    validate::validate(&mut draft, options.probe, &mut report);
    let failed = report.failed();
    let diagnostics = report.finish();
    if failed {
        return Err(diagnostics);
    }
    let warnings = diagnostics.0.into_iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).collect();
    let (spec, resolved) = finish(&project, draft);
    Ok(Loaded { spec, warnings, files: touched.into_iter().collect(), resolved })
}

/// The process's environment on top of `.env` beside the first file.
fn environment(
    folder: &Path,
    options: &LoadOptions,
    files: &dyn Files,
    touched: &mut BTreeSet<PathBuf>,
    report: &mut Report,
) -> BTreeMap<String, String> {
    let path = folder.join(".env");
    let mut environment = BTreeMap::new();
    match files.read(&path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => {
                let source = Arc::new(Source { name: ".env".to_owned(), text });
                let values = dotenv::parse(&source, dotenv::Format::Quoted, &options.environment, report);
                environment.extend(values.into_iter().filter_map(|(name, value)| Some((name, value?))));
            }
            Err(_) => report.push(Diagnostic::of_file(".env", "the file is not UTF-8 text")),
        },
        Err(ReadError::Missing) => {}
        Err(ReadError::Other(reason)) => {
            report.push(Diagnostic::of_file(".env", format!("the file cannot be read: {reason}")));
        }
    }
    touched.insert(path);
    environment.extend(options.environment.clone());
    environment
}

fn parse(name: &str, bytes: &[u8]) -> Result<Node, Vec<Diagnostic>> {
    if bytes.len() > MAX_FILE {
        let message = format!("the file has {} MiB; a spec has at most {} MiB", bytes.len() >> 20, MAX_FILE >> 20);
        return Err(vec![Diagnostic::of_file(name, message).with_help("is this the right file?")]);
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            let message = format!("the file is not UTF-8 text (byte {} in line {line})", error.valid_up_to() + 1);
            return Err(vec![Diagnostic::of_file(name, message).with_help("is this the right file?")]);
        }
    };
    if text.contains('\0') {
        let message = "the file holds NUL bytes: it is not text";
        return Err(vec![Diagnostic::of_file(name, message).with_help("is this the right file?")]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    tree::parse(&Arc::new(Source { name: name.to_owned(), text: text.to_owned() }))
}

/// The project's name: the option, `COMPOSE_PROJECT_NAME`, the last file's `name`, or the folder's name.
fn project(
    trees: &[Node],
    folder: &Path,
    options: &LoadOptions,
    environment: &BTreeMap<String, String>,
    report: &mut Report,
) -> Option<String> {
    let given = options.project.clone().or_else(|| environment.get("COMPOSE_PROJECT_NAME").cloned());
    if let Some(name) = given.filter(|name| !name.is_empty()) {
        if let Err(reason) = names::project(&name) {
            let message = format!("`{}` is not a project's name: {reason}", shown(&name));
            report.push(Diagnostic::of_file("", message));
            return None;
        }
        return Some(name);
    }
    if let Some(entry) = trees.iter().rev().find_map(|tree| tree.get("name")) {
        let mut node = entry.value.clone();
        let lookup = |name: &str| environment.get(name).cloned();
        // What is wrong with the variables is reported when the whole file is interpolated.
        let mut quiet = Report::default();
        Interpolation::new(&lookup, false).node(&mut node, Bare::Variable, &mut quiet);
        let name = node.text().unwrap_or_default();
        return match (names::project(name), quiet.failed()) {
            (Ok(()), _) => Some(name.to_owned()),
            (Err(reason), false) => {
                let shown = node.shown();
                report.error(&entry.value.place, format!("`{shown}` is not a project's name: {reason}"));
                None
            }
            (Err(_), true) => {
                quiet.finish().0.into_iter().for_each(|diagnostic| report.push(diagnostic));
                None
            }
        };
    }
    let name = folder.file_name().map_or(String::new(), |name| names::normalise_project(&name.to_string_lossy()));
    if name.is_empty() {
        let message = "the project has no name, and its folder's name has no letter that a name could be made of";
        report.push(Diagnostic::of_file("", message).with_help("write `name: …` at the top of the spec"));
        return None;
    }
    Some(name)
}

fn profiles(options: &LoadOptions, environment: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut profiles = options.profiles.clone();
    if let Some(list) = environment.get("COMPOSE_PROFILES") {
        profiles.extend(list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    profiles
}

/// Shorter values are words that occur by chance, and no secrets.
const SHORTEST_CONCEALED: usize = 6;

/// The credentials that an interpolation may have put into any value, a command for instance.
fn concealed(used: &BTreeSet<String>, environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    environment
        .iter()
        .filter(|(name, value)| used.contains(*name) && value.len() >= SHORTEST_CONCEALED)
        .filter(|(name, value)| name_is_credential(name) || value_is_credential(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The spec of the active services, with the networks and volumes that they use.
fn finish(project: &str, draft: Draft) -> (Spec, Json) {
    let Draft { services, mut networks, mut volumes, upstreams, discovery, templates } = draft;
    let active: BTreeMap<_, _> = services.into_iter().filter(|(_, drafted)| drafted.active).collect();
    networks.retain(|key, _| active.values().any(|drafted| drafted.networks.contains(key)));
    volumes.retain(|key, _| active.values().any(|drafted| drafted.volumes.contains(key)));
    let mut spec = Spec {
        project: project.to_owned(),
        services: active.into_iter().map(|(name, drafted)| (name, drafted.service)).collect(),
        networks: networks.into_values().map(|network| (network.name.clone(), network)).collect(),
        volumes: volumes.into_values().map(|volume| (volume.name.clone(), volume)).collect(),
        upstreams: upstreams.into_iter().map(|(name, drafted)| (name, drafted.upstream)).collect(),
        discovery,
        templates: templates.into_iter().map(|(name, template)| (name, Arc::new(template))).collect(),
        digest: String::new(),
    };
    let resolved = resolved::resolved(&spec);
    spec.digest = resolved::digest(&resolved);
    (spec, resolved)
}

/// Folders become the spec files in them.
fn expand(paths: &[PathBuf], problems: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let name = path.to_string_lossy().into_owned();
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                problems.push(Diagnostic::of_file(&name, format!("the folder cannot be read: {error}")));
                continue;
            }
        };
        let yaml = |path: &PathBuf| {
            let extension = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            extension && !hidden && path.is_file()
        };
        let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(yaml).collect();
        if found.is_empty() {
            problems.push(
                Diagnostic::of_file(&name, "the folder holds no spec")
                    .with_help("reeve reads the `*.yaml` and `*.yml` files of a folder"),
            );
        }
        found.sort();
        files.extend(found);
    }
    files
}

/// The file system. Only regular files are read, and only up to a limit: a pipe or a device would never end.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Disk {
    fn read_up_to(self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::Missing,
            _ => ReadError::Other(error.to_string()),
        };
        let metadata = std::fs::metadata(path).map_err(fail)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "it is a folder" } else { "it is not a regular file" };
            return Err(ReadError::Other(what.to_owned()));
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(fail)?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
        match bytes.len() as u64 > limit {
            true => Err(ReadError::Other(format!("it is larger than {} MiB", limit >> 20))),
            false => Ok(bytes),
        }
    }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<Vec<u8>, ReadError> {
        self.read_up_to(path, MAX_CONTENT)
    }
}

/// Files in memory, by absolute path.
#[derive(Debug, Clone, Default)]
pub struct Memory(pub BTreeMap<PathBuf, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &Path) -> Result<Vec<u8>, ReadError> {
        self.0.get(path).cloned().ok_or(ReadError::Missing)
    }
}

/// The JSON Schema of a spec, for editors.
pub fn schema() -> Json {
    super::schema::schema()
}
