//! The daemon's own settings: `config/reeve.yaml`, environment, defaults.
//!
//! Owns the values and where they come from. It must not open anything that they name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl std::fmt::Debug for ConsulSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulSettings")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "set"))
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
    /// How long a load may take before it is a failure.
    pub load_timeout: Duration,
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
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    pub level: String,
}
