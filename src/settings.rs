//! The daemon's own settings: where each value comes from, and the values.
//!
//! Owns the values, their defaults, their names in `config/reeve.yaml` and in the environment (`table`), and the order in
//! which these win (`load`). It reads the settings file and the token's file, and opens nothing else that they name:
//! whether an address answers or a folder is writable is for the module that uses it.

mod file;
mod load;
mod problem;
mod table;
mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use load::{Loaded, SettingsError, Sources};
pub use table::{ENTRIES, Entry, Takes};
pub use values::{format_duration, parse_duration};

/// All settings, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of this host in the owner mark and in registration ids.
    pub node: String,
    /// Spec files and folders.
    pub spec: Vec<PathBuf>,
    /// Address under which published ports are registered. `None`: the default route's, else the network's gateway.
    pub advertise: Option<String>,
    pub directory: PathBuf,
    pub docker: DockerSettings,
    pub consul: ConsulSettings,
    pub nginx: NginxSettings,
    pub loop_: LoopSettings,
    pub http: HttpSettings,
    pub log: LogSettings,
    pub templates: TemplateSettings,
    /// `<project>` in it is replaced by the project's name.
    pub lock: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerSettings {
    /// `unix://…`, `tcp://…`, or `https://…`.
    pub host: String,
    /// Folder with `ca.pem`, `cert.pem`, `key.pem` for TLS.
    pub cert_path: Option<PathBuf>,
    /// The user's Docker configuration (registry credentials): a folder with `config.json`.
    pub config: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct ConsulSettings {
    /// `http://…`, `https://…` or `unix://…`.
    pub address: String,
    pub token: Option<String>,
    /// Where `token` was read from, unless the environment set it; read again when settings are.
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl std::fmt::Debug for ConsulSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulSettings")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("token_file", &self.token_file)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NginxMode {
    Host,
    Off,
}

/// How a change of endpoints reaches nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndpointsMode {
    /// By Lua where that works, else by reloads.
    #[default]
    Auto,
    /// They stand in the configuration.
    Reload,
    /// By Lua, and nothing new is loaded where that does not work.
    Lua,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxSettings {
    pub mode: NginxMode,
    pub binary: PathBuf,
    /// The main configuration.
    pub config: PathBuf,
    /// nginx's prefix (`-p`), which relative paths in the main configuration are resolved against. `None`: the one that it
    /// was built with.
    pub prefix: Option<PathBuf>,
    /// Start nginx when it does not run.
    pub start: bool,
    /// Where nginx tells which generation it has loaded. Loopback only.
    pub probe: SocketAddr,
    /// The template of a generation; `None`: the built-in one.
    pub template: Option<PathBuf>,
    /// How a change of endpoints reaches nginx.
    pub endpoints: EndpointsMode,
    /// How long a load may take before it is a failure.
    pub load_timeout: Duration,
    /// A reload is held while so many generations of workers still finish their requests.
    pub max_worker_generations: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopSettings {
    pub quiet: Duration,
    pub max_wait: Duration,
    pub resync: Duration,
    /// Share of an upstream's endpoints that may vanish from the catalog at once and be believed, in percent.
    pub distrust_percent: u8,
    /// How long a larger loss must last until it is believed.
    pub distrust_for: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// `None`: no HTTP server.
    pub listen: Option<SocketAddr>,
    /// `listen` may be an address that other machines reach.
    pub allow_remote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where templates may write unless the settings say otherwise.
pub const TEMPLATE_FOLDERS: [&str; 5] = ["/etc", "/opt", "/srv", "/usr/local/etc", "/var/lib"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSettings {
    /// Folders in which destinations of templates may lie. Absolute.
    pub allow: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    /// A level, or a list of `level` and `module=level`.
    pub level: String,
}

impl Settings {
    /// Every default, for a host of this name.
    pub fn defaults(node: &str) -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            node: node.to_owned(),
            spec: Vec::new(),
            advertise: None,
            directory: PathBuf::from("/var/lib/reeve"),
            docker: DockerSettings { host: "unix:///var/run/docker.sock".to_owned(), cert_path: None, config: None },
            consul: ConsulSettings {
                address: "http://127.0.0.1:8500".to_owned(),
                token: None,
                token_file: None,
                ca_file: None,
                cert_file: None,
                key_file: None,
            },
            nginx: NginxSettings {
                mode: NginxMode::Host,
                binary: PathBuf::from("nginx"),
                config: PathBuf::from("/etc/nginx/nginx.conf"),
                prefix: None,
                start: false,
                probe: loopback(9465),
                template: None,
                endpoints: EndpointsMode::Auto,
                load_timeout: Duration::from_secs(10),
                max_worker_generations: 10,
            },
            loop_: LoopSettings {
                quiet: Duration::from_millis(50),
                max_wait: Duration::from_secs(1),
                resync: Duration::from_secs(30),
                distrust_percent: 50,
                distrust_for: Duration::from_secs(10),
            },
            http: HttpSettings { listen: Some(loopback(9464)), allow_remote: false },
            log: LogSettings { format: LogFormat::Text, level: "info".to_owned() },
            templates: TemplateSettings { allow: TEMPLATE_FOLDERS.map(PathBuf::from).to_vec() },
            lock: "/run/reeve/<project>.lock".to_owned(),
        }
    }

    /// Path of the lock file of this project's one writer.
    pub fn lock_path(&self, project: &str) -> PathBuf {
        PathBuf::from(self.lock.replace("<project>", project))
    }

    /// Takes over what a reload may change, and returns the keys of what differs and is left for a restart. Another
    /// `node` or `directory` in a running daemon would make it the owner of nothing, and build everything once more.
    pub fn reload(&mut self, new: Self) -> Vec<&'static str> {
        let left = ENTRIES
            .iter()
            .filter(|entry| entry.takes == Takes::AtRestart && (entry.get)(self) != (entry.get)(&new))
            .map(|entry| entry.key)
            .collect();
        let old = std::mem::replace(self, new);
        let LogSettings { format, level: _ } = old.log;
        self.node = old.node;
        self.directory = old.directory;
        self.http = old.http;
        self.log.format = format;
        self.lock = old.lock;
        self.templates = old.templates;
        left
    }
}

#[cfg(test)]
mod tests;
