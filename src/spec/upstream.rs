//! Upstreams: what nginx routes to. Plain data; `render` turns it into nginx's language.
//!
//! These types are serialised into the manifest of a generation, so that a later pass can tell what is loaded and keep
//! the last good configuration of an upstream. Unknown keys in an old manifest are ignored, missing ones get defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::is_false;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upstream {
    pub name: String,
    /// Where the endpoints come from; `None` only with `redirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<CatalogQuery>,
    pub listen: Listen,
    /// Empty: the default server of the address (`_`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_name: Vec<String>,
    /// Location prefix; starts with `/`.
    pub path: String,
    #[serde(default)]
    pub balance: Balance,
    pub drain: Duration,
    #[serde(default)]
    pub when_empty: WhenEmpty,
    /// Request headers that are set (or, with an empty value, removed) for the upstream, beside the default ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Bytes; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Idle connections that each worker keeps open to the endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u32>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub websocket: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub grpc: bool,
    /// From a fixed list of allowed names; values were checked when the spec was read, and are quoted when rendered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub directives: BTreeMap<String, String>,
}

/// What is asked of Consul for one upstream. Also the key of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CatalogQuery {
    pub service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Consul's filter expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl fmt::Display for CatalogQuery {
    /// consul-template's notation: `tag.service@datacenter|filter`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = &self.tag {
            write!(f, "{tag}.")?;
        }
        f.write_str(&self.service)?;
        if let Some(datacenter) = &self.datacenter {
            write!(f, "@{datacenter}")?;
        }
        if let Some(filter) = &self.filter {
            write!(f, "|{filter}")?;
        }
        Ok(())
    }
}

/// A listen address of nginx. `None`: every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listen {
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "{}", self.port),
            Some(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    #[default]
    RoundRobin,
    LeastConn,
    IpHash,
    Random,
    /// nginx's `random two`: of two that are drawn, the one with fewer requests under way.
    RandomTwo,
    /// nginx's `hash KEY consistent`.
    Hash(String),
}

/// What an upstream answers that has no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenEmpty {
    /// This HTTP status.
    Status(u16),
    /// The last endpoints stay.
    Keep,
}

impl Default for WhenEmpty {
    fn default() -> Self {
        Self::Status(503)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    Off,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The location answers with a redirect and needs no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redirect {
    /// `https` (same host and path over TLS), or a URL; `$host` and `$request_uri` may occur in it.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Timeouts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Duration>,
}
