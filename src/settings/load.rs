//! Which value wins: default < Docker's own variables < settings file < `REEVE_…` < command line.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::{self, FileValue};
use super::problem::{self, Problem};
use super::table::{self, ENTRIES, Given};
use super::values::nearest;
use super::{Settings, values};

/// Where settings come from. Kept by the daemon, so that SIGHUP loads from the same places.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    /// `--config`. It must exist then.
    pub config: Option<PathBuf>,
    pub environment: BTreeMap<String, String>,
    /// Values of the command line, by key (`log.level`).
    pub overrides: BTreeMap<&'static str, Vec<String>>,
    /// Relative paths of the environment and the command line are relative to it.
    pub current_directory: PathBuf,
    /// Default of `node`.
    pub host_name: String,
}

impl fmt::Debug for Sources {
    /// The environment's values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("config", &self.config)
            .field("environment", &self.environment.keys())
            .field("overrides", &self.overrides)
            .field("current_directory", &self.current_directory)
            .field("host_name", &self.host_name)
            .finish()
    }
}

impl Sources {
    /// Of this process: its environment, its folder, the host's name.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn of_this_process(config: Option<PathBuf>) -> Result<Self, SettingsError> {
        let current_directory = std::env::current_dir()
            .map_err(|error| SettingsError(format!("the current directory cannot be read: {error}")))?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { config, environment, overrides: BTreeMap::new(), current_directory, host_name })
    }

    /// A variable that is set to something.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The settings file and its text; `None` when there is none at the usual places and none was named.
    fn file(&self) -> Result<Option<(PathBuf, String)>, SettingsError> {
        let named = self
            .config
            .clone()
            .map(|path| (path, "--config"))
            .or_else(|| self.variable("REEVE_CONFIG").map(|path| (PathBuf::from(path), "REEVE_CONFIG")));
        if let Some((path, by)) = named {
            let full = self.current_directory.join(&path);
            return match std::fs::read_to_string(&full) {
                Ok(text) => Ok(Some((path, text))),
                Err(error) => Err(SettingsError(format!(
                    "the settings file {} (named by {by}) cannot be read: {error}",
                    path.display()
                ))),
            };
        }
        for place in ["config/reeve.yaml", "/etc/reeve/reeve.yaml"] {
            match std::fs::read_to_string(self.current_directory.join(place)) {
                Ok(text) => return Ok(Some((PathBuf::from(place), text))),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => {
                    return Err(SettingsError(format!("the settings file {place} cannot be read: {error}")));
                }
            }
        }
        Ok(None)
    }
}

/// Settings, and what a person should know about how they came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub settings: Settings,
    /// The settings file, as it was named or found.
    pub file: Option<PathBuf>,
    /// Complete sentences, for the log.
    pub warnings: Vec<String>,
}

/// Why there are no settings: complete, several lines with the file's text when the file is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

impl Settings {
    /// Reads and checks all settings. Called again at SIGHUP.
    ///
    /// # Errors
    /// Every problem that was found, each with its place.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut settings = Self::defaults("");
        let mut errors: Vec<String> = Vec::new();
        let current = sources.current_directory.as_path();
        if let Some(home) = sources.variable("HOME") {
            settings.docker.config = Some(Path::new(home).join(".docker"));
        }
        for entry in ENTRIES {
            let Some((name, value)) = entry.also.and_then(|name| Some((name, sources.variable(name)?))) else {
                continue;
            };
            let given = Given { values: &[value.to_owned()], base: current };
            if let Err(why) = (entry.set)(&mut settings, &given) {
                errors.push(format!("error: {name}: {why}"));
            }
        }

        let file = sources.file()?;
        let mut places: BTreeMap<&str, Range<usize>> = BTreeMap::new();
        let mut problems: Vec<Problem> = Vec::new();
        let mut secrets: Vec<Range<usize>> = Vec::new();
        if let Some((path, text)) = &file {
            let full = current.join(path);
            let base = base_of(&full);
            let read = file::read(text);
            problems = read.problems;
            secrets = read.secrets;
            for FileValue { entry, values, place } in read.values {
                // A URL with a user and a password.
                if values.iter().any(|value| value.contains("://") && value.contains('@')) {
                    secrets.push(place.clone());
                }
                if let Err(why) = (entry.set)(&mut settings, &Given { values: &values, base }) {
                    problems.push(Problem {
                        message: format!("{}: {why}", entry.key),
                        place: place.clone(),
                        help: None,
                    });
                }
                places.insert(entry.key, place);
            }
        }

        let mut from_environment: BTreeMap<&str, String> = BTreeMap::new();
        for entry in ENTRIES {
            let Some(value) = sources.variable(entry.environment) else { continue };
            let values: Vec<String> =
                if entry.list { value.split(':').map(str::to_owned).collect() } else { vec![value.to_owned()] };
            if let Err(why) = (entry.set)(&mut settings, &Given { values: &values, base: current }) {
                errors.push(format!("error: {}: {why}", entry.environment));
            }
            places.remove(entry.key);
            from_environment.insert(entry.key, entry.environment.to_owned());
        }
        for (key, values) in &sources.overrides {
            let Some(entry) = table::entry(key) else { continue };
            if let Err(why) = (entry.set)(&mut settings, &Given { values, base: current }) {
                errors.push(format!("error: {key} on the command line: {why}"));
            }
            places.remove(key);
            from_environment.insert(key, format!("{key} on the command line"));
        }

        if settings.node.is_empty() {
            match values::node(&sources.host_name) {
                Ok(node) => settings.node = node,
                Err(_) => errors.push(format!(
                    "error: node: the host's name `{}` cannot be used; set `node` in the settings file or REEVE_NODE (letters, digits, `.`, `_` and `-`)",
                    sources.host_name
                )),
            }
        }
        for (key, message) in contradictions(&settings) {
            match places.get(key) {
                Some(place) => {
                    problems.push(Problem { message: format!("{key}: {message}"), place: place.clone(), help: None })
                }
                None => {
                    let name = from_environment.get(key).cloned().unwrap_or_else(|| key.to_owned());
                    errors.push(format!("error: {name}: {message}"));
                }
            }
        }
        if settings.consul.token.is_none()
            && let Some(path) = &settings.consul.token_file
        {
            match read_token(path) {
                Ok(token) => settings.consul.token = Some(token),
                Err(why) => errors.push(format!("error: consul.token_file {}: {why}", path.display())),
            }
        }

        if let Some((path, text)) = &file {
            let path = path.display().to_string();
            let text = problem::masked(text, &secrets);
            problems.sort_by_key(|problem| problem.place.start);
            errors.splice(0..0, problems.iter().map(|problem| problem.render(&path, &text)));
        }
        if !errors.is_empty() {
            return Err(SettingsError(errors.join("\n\n")));
        }
        Ok(Loaded { settings, file: file.map(|(path, _)| path), warnings: unknown_variables(sources) })
    }
}

/// What single values cannot tell: the key at fault, and why.
fn contradictions(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if let Some(listen) = settings.http.listen {
        if !listen.ip().is_loopback() && !settings.http.allow_remote {
            found.push((
                "http.listen",
                format!(
                    "{listen} can be reached by other machines, and there is no authentication; write 127.0.0.1:{}, or set http.allow_remote: true",
                    listen.port()
                ),
            ));
        }
        if listen == settings.nginx.probe {
            found.push(("http.listen", format!("{listen} is nginx.probe's address, too; each needs its own port")));
        }
    }
    if settings.loop_.quiet > settings.loop_.max_wait {
        found.push((
            "loop.quiet",
            format!(
                "{} is longer than loop.max_wait ({}), so that it would never be reached",
                values::format_duration(settings.loop_.quiet),
                values::format_duration(settings.loop_.max_wait)
            ),
        ));
    }
    let consul = &settings.consul;
    match (&consul.cert_file, &consul.key_file) {
        (Some(_), None) => {
            found.push(("consul.cert_file", "a client certificate needs consul.key_file".to_owned()));
        }
        (None, Some(_)) => {
            found.push(("consul.key_file", "a client key needs consul.cert_file".to_owned()));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    found
}

/// A token, without the line's end. The text itself never appears in the error.
fn read_token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err("is empty; it must hold the token".to_owned());
    }
    if token.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("holds more than one word; it must hold the token alone".to_owned());
    }
    Ok(token.to_owned())
}

/// A variable with our prefix that is not ours is most likely mistyped, and would else do nothing without a word.
fn unknown_variables(sources: &Sources) -> Vec<String> {
    let known = || ENTRIES.iter().map(|entry| entry.environment).chain(["REEVE_CONFIG"]);
    sources
        .environment
        .keys()
        .filter(|name| name.starts_with("REEVE_") && known().all(|known| known != name.as_str()))
        .map(|name| {
            // The prefix would make every name look near.
            let short = |name: &'static str| name.trim_start_matches("REEVE_");
            let word = name.trim_start_matches("REEVE_").to_lowercase();
            let lower: Vec<String> = known().map(|name| short(name).to_lowercase()).collect();
            let help = nearest(&word, lower.iter().map(String::as_str))
                .map(|near| format!("; did you mean REEVE_{}?", near.to_uppercase()))
                .unwrap_or_default();
            format!("the environment variable {name} is not a setting and is ignored{help}")
        })
        .collect()
}

/// The folder that relative paths in a settings file are relative to: its own, or, when that is called `config`, the one
/// around it, so that a project's `config/reeve.yaml` can say `manifests/shop.yaml`, wherever it is started from.
fn base_of(file: &Path) -> &Path {
    let folder = file.parent().unwrap_or(Path::new("/"));
    match folder.parent() {
        Some(around) if folder.file_name().is_some_and(|name| name == "config") => around,
        Some(_) | None => folder,
    }
}
