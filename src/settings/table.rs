//! The table of all settings: key in the file, environment variable, meaning, parser.
//!
//! One line here is all that a new setting needs beside its field: the file's reader, the environment's reader, the
//! "did you mean" and the test of the commented example go through this table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values;
use super::{EndpointsMode, LogFormat, NginxMode, Settings};

/// When a changed value comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// At SIGHUP.
    AtReload,
    AtRestart,
}

/// A value as it was given: its text (several only for a list), and the folder that a relative path in it is relative to.
#[derive(Debug)]
pub struct Given<'a> {
    pub values: &'a [String],
    pub base: &'a Path,
}

impl Given<'_> {
    fn text(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }

    fn path(&self) -> PathBuf {
        self.base.join(self.text())
    }
}

/// One setting.
pub struct Entry {
    /// `consul.token_file`: section and key in the file.
    pub key: &'static str,
    pub environment: &'static str,
    /// A variable of Docker's own that counts when neither the file nor `environment` says anything.
    pub also: Option<&'static str>,
    /// Several values: a YAML list, or `:` between them in the environment.
    pub list: bool,
    /// Never in the file.
    pub secret: bool,
    pub takes: Takes,
    /// For people, one sentence without a full stop.
    pub meaning: &'static str,
    pub(super) set: fn(&mut Settings, &Given<'_>) -> Result<(), String>,
    /// As it is written in the file; `None`: not set. Never a secret.
    pub(super) get: fn(&Settings) -> Option<String>,
}

impl Entry {
    const fn new(
        key: &'static str,
        environment: &'static str,
        meaning: &'static str,
        set: fn(&mut Settings, &Given<'_>) -> Result<(), String>,
        get: fn(&Settings) -> Option<String>,
    ) -> Self {
        Self { key, environment, also: None, list: false, secret: false, takes: Takes::AtReload, meaning, set, get }
    }

    const fn also(mut self, variable: &'static str) -> Self {
        self.also = Some(variable);
        self
    }

    const fn list(mut self) -> Self {
        self.list = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn at_restart(mut self) -> Self {
        self.takes = Takes::AtRestart;
        self
    }

    /// The value in `settings` as it is written in the file; `None` when it is not set or is a secret.
    pub fn value(&self, settings: &Settings) -> Option<String> {
        (self.get)(settings)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("environment", &self.environment).finish_non_exhaustive()
    }
}

fn shown(path: &Path) -> Option<String> {
    Some(path.display().to_string())
}

fn shown_if(path: Option<&PathBuf>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

const MODES: [(&str, NginxMode); 2] = [("host", NginxMode::Host), ("off", NginxMode::Off)];
const ENDPOINTS: [(&str, EndpointsMode); 3] =
    [("auto", EndpointsMode::Auto), ("reload", EndpointsMode::Reload), ("lua", EndpointsMode::Lua)];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Every setting, in the order of the commented example.
pub const ENTRIES: &[Entry] = &[
    Entry::new(
        "node",
        "REEVE_NODE",
        "Name of this host in the owner mark and in registration ids",
        |settings, given| values::node(given.text()).map(|node| settings.node = node),
        |settings| Some(settings.node.clone()),
    )
    .at_restart(),
    Entry::new(
        "spec",
        "REEVE_SPEC",
        "Spec files, merged in this order, and folders of them",
        |settings, given| {
            if given.values.iter().any(|value| value.is_empty()) {
                return Err("names an empty path".to_owned());
            }
            settings.spec = given.values.iter().map(|value| given.base.join(value)).collect();
            Ok(())
        },
        |settings| {
            let paths: Vec<String> = settings.spec.iter().map(|path| path.display().to_string()).collect();
            Some(format!("[{}]", paths.join(", ")))
        },
    )
    .list(),
    Entry::new(
        "advertise",
        "REEVE_ADVERTISE",
        "Address under which published ports are registered",
        |settings, given| values::host(given.text()).map(|host| settings.advertise = Some(host)),
        |settings| settings.advertise.clone(),
    ),
    Entry::new(
        "directory",
        "REEVE_DIRECTORY",
        "Folder for generations, history and pins",
        |settings, given| {
            settings.directory = given.path();
            Ok(())
        },
        |settings| shown(&settings.directory),
    )
    .at_restart(),
    Entry::new(
        "docker.host",
        "REEVE_DOCKER_HOST",
        "Address of the Docker engine",
        |settings, given| values::docker_host(given.text()).map(|host| settings.docker.host = host),
        |settings| Some(settings.docker.host.clone()),
    )
    .also("DOCKER_HOST"),
    Entry::new(
        "docker.cert_path",
        "REEVE_DOCKER_CERT_PATH",
        "Folder with ca.pem, cert.pem and key.pem, for an engine behind TLS",
        |settings, given| {
            settings.docker.cert_path = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.docker.cert_path.as_ref()),
    )
    .also("DOCKER_CERT_PATH"),
    Entry::new(
        "docker.config",
        "REEVE_DOCKER_CONFIG",
        "Folder with Docker's config.json, which holds the credentials of registries",
        |settings, given| {
            settings.docker.config = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.docker.config.as_ref()),
    )
    .also("DOCKER_CONFIG"),
    Entry::new(
        "consul.address",
        "REEVE_CONSUL_ADDRESS",
        "Address of the local Consul agent",
        |settings, given| values::consul_address(given.text()).map(|address| settings.consul.address = address),
        |settings| Some(settings.consul.address.clone()),
    ),
    Entry::new(
        "consul.token",
        "REEVE_CONSUL_TOKEN",
        "Consul's ACL token; the environment is the only place for it",
        |settings, given| {
            settings.consul.token = Some(given.text().to_owned());
            Ok(())
        },
        |_| None,
    )
    .secret(),
    Entry::new(
        "consul.token_file",
        "REEVE_CONSUL_TOKEN_FILE",
        "File with Consul's ACL token",
        |settings, given| {
            settings.consul.token_file = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.consul.token_file.as_ref()),
    ),
    Entry::new(
        "consul.ca_file",
        "REEVE_CONSUL_CA_FILE",
        "Certificate authority of the agent, PEM",
        |settings, given| {
            settings.consul.ca_file = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.consul.ca_file.as_ref()),
    ),
    Entry::new(
        "consul.cert_file",
        "REEVE_CONSUL_CERT_FILE",
        "Client certificate for the agent, PEM",
        |settings, given| {
            settings.consul.cert_file = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.consul.cert_file.as_ref()),
    ),
    Entry::new(
        "consul.key_file",
        "REEVE_CONSUL_KEY_FILE",
        "Key of the client certificate, PEM",
        |settings, given| {
            settings.consul.key_file = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.consul.key_file.as_ref()),
    ),
    Entry::new(
        "nginx.mode",
        "REEVE_NGINX_MODE",
        "host: the nginx of this machine; off: upstreams are not managed",
        |settings, given| values::one_of(given.text(), &MODES).map(|mode| settings.nginx.mode = mode),
        |settings| MODES.iter().find(|(_, mode)| *mode == settings.nginx.mode).map(|(word, _)| (*word).to_owned()),
    ),
    Entry::new(
        "nginx.binary",
        "REEVE_NGINX_BINARY",
        "nginx itself: a path, or a name that is looked up in PATH",
        |settings, given| {
            let text = given.text();
            settings.nginx.binary = if text.contains('/') { given.path() } else { PathBuf::from(text) };
            Ok(())
        },
        |settings| shown(&settings.nginx.binary),
    ),
    Entry::new(
        "nginx.config",
        "REEVE_NGINX_CONFIG",
        "nginx's main configuration, whose http block includes reeve's line",
        |settings, given| {
            settings.nginx.config = given.path();
            Ok(())
        },
        |settings| shown(&settings.nginx.config),
    ),
    Entry::new(
        "nginx.prefix",
        "REEVE_NGINX_PREFIX",
        "nginx's prefix (`nginx -p`), which relative paths in its main configuration are resolved against",
        |settings, given| {
            settings.nginx.prefix = Some(given.path());
            Ok(())
        },
        |settings| settings.nginx.prefix.as_deref().and_then(shown),
    ),
    Entry::new(
        "nginx.start",
        "REEVE_NGINX_START",
        "Start nginx when it does not run",
        |settings, given| values::boolean(given.text()).map(|start| settings.nginx.start = start),
        |settings| Some(settings.nginx.start.to_string()),
    ),
    Entry::new(
        "nginx.probe",
        "REEVE_NGINX_PROBE",
        "Loopback address where nginx tells which generation it has loaded",
        |settings, given| {
            let address = values::socket_address(given.text())?;
            if !address.ip().is_loopback() {
                return Err(format!(
                    "`{address}` is not a loopback address, and the probe must not be reachable from outside; write 127.0.0.1:{}",
                    address.port()
                ));
            }
            if address.port() == 0 {
                return Err("needs a fixed port, because it is part of nginx's configuration".to_owned());
            }
            settings.nginx.probe = address;
            Ok(())
        },
        |settings| Some(settings.nginx.probe.to_string()),
    ),
    Entry::new(
        "nginx.template",
        "REEVE_NGINX_TEMPLATE",
        "Template of a generation, in place of the built-in one",
        |settings, given| {
            settings.nginx.template = Some(given.path());
            Ok(())
        },
        |settings| shown_if(settings.nginx.template.as_ref()),
    ),
    Entry::new(
        "nginx.endpoints",
        "REEVE_NGINX_ENDPOINTS",
        "How a change of endpoints reaches nginx: reload, lua (without a reload), or auto (lua where it works)",
        |settings, given| values::one_of(given.text(), &ENDPOINTS).map(|mode| settings.nginx.endpoints = mode),
        |settings| {
            let word = ENDPOINTS.iter().find(|(_, mode)| *mode == settings.nginx.endpoints);
            word.map(|(word, _)| (*word).to_owned())
        },
    ),
    Entry::new(
        "nginx.load_timeout",
        "REEVE_NGINX_LOAD_TIMEOUT",
        "How long nginx may take to load a generation",
        |settings, given| {
            values::duration_between(given.text(), Duration::from_secs(1), HOUR)
                .map(|duration| settings.nginx.load_timeout = duration)
        },
        |settings| Some(values::format_duration(settings.nginx.load_timeout)),
    ),
    Entry::new(
        "nginx.max_worker_generations",
        "REEVE_NGINX_MAX_WORKER_GENERATIONS",
        "A reload is held while so many generations of old workers still finish their requests",
        |settings, given| values::count(given.text()).map(|count| settings.nginx.max_worker_generations = count),
        |settings| Some(settings.nginx.max_worker_generations.to_string()),
    ),
    Entry::new(
        "loop.quiet",
        "REEVE_LOOP_QUIET",
        "After a change, a pass waits until nothing more has changed for this long",
        |settings, given| {
            values::duration_between(given.text(), Duration::ZERO, MINUTE)
                .map(|duration| settings.loop_.quiet = duration)
        },
        |settings| Some(values::format_duration(settings.loop_.quiet)),
    ),
    Entry::new(
        "loop.max_wait",
        "REEVE_LOOP_MAX_WAIT",
        "A pass never waits longer than this for quiet",
        |settings, given| {
            values::duration_between(given.text(), Duration::ZERO, MINUTE)
                .map(|duration| settings.loop_.max_wait = duration)
        },
        |settings| Some(values::format_duration(settings.loop_.max_wait)),
    ),
    Entry::new(
        "loop.resync",
        "REEVE_LOOP_RESYNC",
        "A full pass at least this often, whatever was heard",
        |settings, given| {
            values::duration_between(given.text(), Duration::from_secs(1), HOUR)
                .map(|duration| settings.loop_.resync = duration)
        },
        |settings| Some(values::format_duration(settings.loop_.resync)),
    ),
    Entry::new(
        "loop.distrust_percent",
        "REEVE_LOOP_DISTRUST_PERCENT",
        "Share of an upstream's endpoints that may vanish from the catalog at once and be believed, in percent",
        |settings, given| values::percent(given.text()).map(|percent| settings.loop_.distrust_percent = percent),
        |settings| Some(settings.loop_.distrust_percent.to_string()),
    ),
    Entry::new(
        "loop.distrust_for",
        "REEVE_LOOP_DISTRUST_FOR",
        "How long a larger loss must last until it is believed",
        |settings, given| {
            values::duration_between(given.text(), Duration::ZERO, HOUR)
                .map(|duration| settings.loop_.distrust_for = duration)
        },
        |settings| Some(values::format_duration(settings.loop_.distrust_for)),
    ),
    Entry::new(
        "http.listen",
        "REEVE_HTTP_LISTEN",
        "Address of the daemon's own HTTP server (metrics, health, status), or off",
        |settings, given| {
            settings.http.listen =
                if given.text() == "off" { None } else { Some(values::socket_address(given.text())?) };
            Ok(())
        },
        |settings| Some(settings.http.listen.map_or_else(|| "off".to_owned(), |address| address.to_string())),
    )
    .at_restart(),
    Entry::new(
        "http.allow_remote",
        "REEVE_HTTP_ALLOW_REMOTE",
        "Let http.listen be an address that other machines reach; there is no authentication",
        |settings, given| values::boolean(given.text()).map(|allow| settings.http.allow_remote = allow),
        |settings| Some(settings.http.allow_remote.to_string()),
    )
    .at_restart(),
    Entry::new(
        "log.format",
        "REEVE_LOG_FORMAT",
        "text or json",
        |settings, given| values::one_of(given.text(), &FORMATS).map(|format| settings.log.format = format),
        |settings| {
            FORMATS.iter().find(|(_, format)| *format == settings.log.format).map(|(word, _)| (*word).to_owned())
        },
    )
    .at_restart(),
    Entry::new(
        "log.level",
        "REEVE_LOG_LEVEL",
        "off, error, warn, info, debug or trace, or a list with module=level",
        |settings, given| values::log_level(given.text()).map(|level| settings.log.level = level),
        |settings| Some(settings.log.level.clone()),
    ),
    Entry::new(
        "templates.allow",
        "REEVE_TEMPLATES_ALLOW",
        "Folders in which templates may write their files",
        |settings, given| {
            if let Some(value) = given.values.iter().find(|value| !value.starts_with('/')) {
                return Err(format!("`{value}` is not an absolute path"));
            }
            settings.templates.allow = given.values.iter().map(PathBuf::from).collect();
            Ok(())
        },
        |settings| {
            let paths: Vec<String> = settings.templates.allow.iter().map(|path| path.display().to_string()).collect();
            Some(format!("[{}]", paths.join(", ")))
        },
    )
    .list()
    .at_restart(),
    Entry::new(
        "lock",
        "REEVE_LOCK",
        "Lock of the one writer; <project> stands for the project's name",
        |settings, given| {
            settings.lock = given.path().display().to_string();
            Ok(())
        },
        |settings| Some(settings.lock.clone()),
    )
    .at_restart(),
];

/// The entry of this key.
pub fn entry(key: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.key == key)
}

/// Names of the sections (`docker`, `consul`, …), each once.
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = ENTRIES.iter().filter_map(|entry| Some(entry.key.split_once('.')?.0)).collect();
    sections.dedup();
    sections
}

/// The keys of a section (`None`: the top level, sections among them).
pub fn keys(section: Option<&str>) -> Vec<&'static str> {
    match section {
        Some(section) => ENTRIES
            .iter()
            .filter_map(|entry| entry.key.split_once('.').filter(|(prefix, _)| *prefix == section))
            .map(|(_, key)| key)
            .collect(),
        None => ENTRIES.iter().map(|entry| entry.key).filter(|key| !key.contains('.')).chain(sections()).collect(),
    }
}
