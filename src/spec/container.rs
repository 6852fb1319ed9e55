//! The configuration of a container as the spec sets it, its canonical JSON and its hash.
//!
//! Only keys that the spec sets are serialised, so that a new version of reeve, with new keys and new defaults, gives an
//! old spec the same hash and recreates nothing. The canonical JSON goes into the label `reeve.config`; secret
//! values appear in it as digests only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::is_false;

/// What a container is made from. Field names are Compose's; `serde` is the canonical form of the label.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `None` as value: passed on without a value (the image's own stays).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, EnvironmentValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// `"80/tcp"`, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Configs and secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileMount>,
    /// By Docker's name of the network. Empty with `network_mode`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, NetworkAttachment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<NetworkMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// Replaces the generated name; only for a service with one replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_opt: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// `"host:address"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_opt: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_open: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Credentials that stand within other values (`--requirepass ${PASSWORD}` in a command). They are used as they are,
    /// and appear in the canonical form as digests.
    #[serde(skip)]
    pub concealed: Vec<Secret>,
}

impl ContainerConfig {
    /// The canonical JSON: keys sorted by serde's struct order and `BTreeMap`s, secrets as digests.
    pub fn canonical(&self) -> String {
        const SERIALISES: &str = "maps have string keys and no value can fail to serialise";
        if self.concealed.is_empty() {
            return serde_json::to_string(self).expect(SERIALISES);
        }
        let mut value = serde_json::to_value(self).expect(SERIALISES);
        conceal(&mut value, &self.concealed);
        value.to_string()
    }

    /// Takes those of the credentials as concealed that stand within a value. `place`: see `Secret::new`.
    pub fn conceal(&mut self, place: impl Fn(&str) -> String, credentials: &BTreeMap<String, String>) {
        let value = serde_json::to_value(&*self).expect("maps have string keys and no value can fail to serialise");
        self.concealed = credentials
            .iter()
            .filter(|(_, text)| holds(&value, text))
            .map(|(name, text)| Secret::new(&place(name), text.clone()))
            .collect();
    }

    pub fn hash(&self) -> ConfigHash {
        ConfigHash::of(&self.canonical())
    }

    /// Every credential in it, wherever it stands.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let variables = self.environment.values().filter_map(|value| match value {
            EnvironmentValue::Secret(secret) => Some(secret),
            EnvironmentValue::Unset | EnvironmentValue::Plain(_) => None,
        });
        let files = self.files.iter().filter_map(|file| match &file.content {
            FileContent::Secret(secret) => Some(secret),
            FileContent::File { .. } | FileContent::Inline(_) => None,
        });
        variables.chain(files).chain(&self.concealed)
    }
}

/// Does a text below the value hold this text?
fn holds(value: &serde_json::Value, text: &str) -> bool {
    match value {
        serde_json::Value::String(string) => string.contains(text),
        serde_json::Value::Array(items) => items.iter().any(|item| holds(item, text)),
        serde_json::Value::Object(map) => map.values().any(|item| holds(item, text)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
    }
}

/// Replaces the secrets in all texts below the value by their digests.
fn conceal(value: &mut serde_json::Value, secrets: &[Secret]) {
    match value {
        serde_json::Value::String(string) => {
            for secret in secrets.iter().filter(|secret| string.contains(secret.reveal())).collect::<Vec<_>>() {
                *string = string.replace(secret.reveal(), secret.digest());
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| conceal(item, secrets)),
        serde_json::Value::Object(map) => map.values_mut().for_each(|item| conceal(item, secrets)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

/// `v1:<64 hex digits>`: the version of the canonical form, and the SHA-256 of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConfigHash(String);

impl ConfigHash {
    pub fn of(canonical: &str) -> Self {
        Self(format!("v1:{}", hex(&Sha256::digest(canonical.as_bytes()))))
    }

    /// What a label said; compared as text, so that an unknown version simply differs.
    pub fn from_label(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The eight digits in a replica's name.
    pub fn short(&self) -> &str {
        let digits = self.0.split_once(':').map_or(self.0.as_str(), |(_, digits)| digits);
        digits.get(..8).unwrap_or(digits)
    }
}

impl fmt::Debug for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    // One digest for each registration in every pass: no text in between.
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

/// A value that must never be printed. Its digest is keyed with the place where the value is used, so that equal
/// secrets in two places do not show as equal, and precomputed tables are of no use.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    digest: String,
}

impl Secret {
    /// `place`: for example `shop/web/environment/PASSWORD`.
    pub fn new(place: &str, value: String) -> Self {
        let mut sha = Sha256::new();
        sha.update(b"reeve:v1:secret\0");
        sha.update(place.as_bytes());
        sha.update(b"\0");
        sha.update(value.as_bytes());
        let digest = format!("secret:{}", &hex(&sha.finalize())[..16]);
        Self { value, digest }
    }

    /// The value itself; only for the call that hands it to its backend.
    pub fn reveal(&self) -> &str {
        &self.value
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// A secret that was read back: its digest, and the value that was kept beside it.
    pub(super) fn restored(digest: String, value: String) -> Self {
        Self { value, digest }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digest)
    }
}

/// From the digest: the value is not there until `restored`.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { value: String::new(), digest: String::deserialize(deserializer)? })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.digest)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvironmentValue {
    /// `NAME` alone and not set where reeve runs: no value is passed.
    Unset,
    Plain(String),
    /// The name or the value looks like a credential.
    Secret(Secret),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One published container port. `"3000-3001:4000-4001"` is two of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Container port.
    pub target: u16,
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    pub published: Published,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// Docker chooses.
    Ephemeral,
    /// Slot k gets the k-th port; `first == last` is one fixed port. Both ends included.
    Range { first: u16, last: u16 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub target: String,
    pub source: MountSource,
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// Docker's name of the volume.
    Volume {
        name: String,
        #[serde(default, skip_serializing_if = "is_false")]
        nocopy: bool,
    },
    /// A volume without a name, of this container alone.
    Anonymous,
    Bind {
        path: PathBuf,
        /// Compose's short form makes a missing folder, the long form refuses.
        #[serde(default, skip_serializing_if = "is_false")]
        create: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        propagation: Option<String>,
        /// `z` or `Z`.
        #[serde(skip_serializing_if = "Option::is_none")]
        selinux: Option<String>,
    },
    Tmpfs {
        /// Bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Options of the short form (`tmpfs: /run:exec`), as Docker takes them.
        #[serde(skip_serializing_if = "Option::is_none")]
        options: Option<String>,
    },
}

/// A config or a secret: a file put into the container, read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMount {
    pub target: String,
    pub content: FileContent,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileContent {
    /// Bind-mounted from this file of the host, read-only, as Compose does. The digest is of its bytes: an edit replaces.
    File { path: PathBuf, digest: String },
    /// From `content:`; copied in before the start.
    Inline(String),
    /// From `environment:`, or any secret that is not a file; copied in before the start.
    Secret(Secret),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// What the spec sets; the service's own name is added when the container is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local_ips: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    Host,
    None,
    /// Docker's default bridge.
    Bridge,
    /// The network of the first replica of this service of the spec.
    Service(String),
    /// The network of a container that reeve does not make, by name or id.
    Container(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]` disables the image's own; `None`: the image's own test with other times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    No,
    Always,
    UnlessStopped,
    OnFailure { max_retries: Option<u32> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host: String,
    pub container: String,
    /// `rwm`.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Compose's `deploy.resources`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Billionths of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nano_cpus: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
}
