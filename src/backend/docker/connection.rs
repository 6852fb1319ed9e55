//! The way to the engine: connecting, the version that both sides speak, and calls with a time limit.
//!
//! Connecting is lazy and repeated, because the socket may be missing when reeve starts. bollard 0.21 sends no version
//! prefix, and then an engine answers in its newest shape, whatever was negotiated; a request modifier puts the prefix
//! there. bollard decodes into enums that fail on a value they do not know, and one such container would fail the whole
//! list: what is read comes as text (`get`) and is decoded by `wire`.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::Fault;
use crate::settings::DockerSettings;

/// The newest version that this code was written against.
const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 51 };

/// For finding the engine and asking for its version.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// bollard's own limit covers only the time until an answer's head, so every call has one of ours, and bollard's is out
/// of the way: a stop takes as long as the grace period that it was given.
const BOLLARD_LIMIT_SECONDS: u64 = 24 * 60 * 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    pub(super) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not an API version"))
    }
}

/// A connected client and what was agreed with the engine.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: bollard::Docker,
    /// The version that is spoken.
    pub(super) version: ApiVersion,
    /// The engine's newest.
    pub(super) engine: ApiVersion,
}

pub(super) struct Link {
    settings: DockerSettings,
    current: Mutex<Option<Arc<Connection>>>,
}

#[derive(Deserialize)]
struct VersionAnswer {
    #[serde(rename = "ApiVersion")]
    api_version: String,
}

impl Link {
    pub(super) fn new(settings: &DockerSettings) -> Self {
        Self { settings: settings.clone(), current: Mutex::new(None) }
    }

    pub(super) fn host(&self) -> &str {
        &self.settings.host
    }

    /// The present connection, or a new one.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Fault> {
        if let Some(connection) = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(connection);
        }
        let connection = Arc::new(limited(CONNECT_LIMIT, connect(&self.settings)).await?);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    /// The next call connects anew and asks for the version again.
    pub(super) fn forget(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One call with a limit on all of it, the body included.
    pub(super) async fn call<T, F, E>(
        &self,
        limit: Duration,
        call: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, E>>,
        Fault: From<E>,
    {
        let connection = self.connection().await?;
        let result = limited(limit, async { call(connection).await.map_err(Fault::from) }).await;
        if result.as_ref().is_err_and(Fault::lost_engine) {
            self.forget();
        }
        result
    }

    /// The body of a GET, as text. `path` begins with `/` and may have a query.
    pub(super) async fn get(&self, limit: Duration, path: &str) -> Result<String, Fault> {
        self.call(limit, async |connection| connection.get(path).await).await
    }

    /// As `get`, decoded.
    pub(super) async fn read<T: DeserializeOwned>(&self, limit: Duration, path: &str) -> Result<T, Fault> {
        decode(&self.get(limit, path).await?)
    }

    /// As `read`; `None` for what is not there.
    pub(super) async fn find<T: DeserializeOwned>(&self, limit: Duration, path: &str) -> Result<Option<T>, Fault> {
        match self.read(limit, path).await {
            Ok(value) => Ok(Some(value)),
            Err(fault) if fault.not_found() => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

impl Connection {
    async fn get(&self, path: &str) -> Result<String, Fault> {
        raw_get(&self.client, &format!("/v{}{path}", self.version)).await
    }
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Broken(error.to_string()))
}

/// `ping` is the one call of bollard that hands a body back as text; the modifier points it elsewhere.
async fn raw_get(client: &bollard::Docker, path: &str) -> Result<String, Fault> {
    let path = path.to_owned();
    let client = client.clone().with_request_modifier(move |request| with_path(request, |_| path.clone()));
    Ok(client.ping().await?)
}

fn with_path(mut request: bollard::BollardRequest, path: impl FnOnce(&str) -> String) -> bollard::BollardRequest {
    let whole = request.uri().to_string();
    let old = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let base = whole.strip_suffix(old.as_str()).unwrap_or(&whole);
    if let Ok(uri) = format!("{base}{}", path(&old)).parse() {
        *request.uri_mut() = uri;
    }
    // The engine reads URL-safe base64 here and takes anything else for "no credentials"; bollard writes the plain one.
    if let Some(credentials) = request.headers_mut().get_mut("x-registry-auth") {
        let safe = credentials.to_str().map(|text| text.replace('+', "-").replace('/', "_"));
        if let Some(safe) = safe.ok().and_then(|text| text.parse().ok()) {
            *credentials = safe;
            credentials.set_sensitive(true);
        }
    }
    request
}

async fn connect(settings: &DockerSettings) -> Result<Connection, Fault> {
    let client = client(settings)?;
    let answer = raw_get(&client, "/version").await.map_err(|fault| match fault {
        Fault::Broken(why) if settings.cert_path.is_none() && !settings.host.starts_with("unix:") => {
            Fault::Broken(format!("{why} (does this port want TLS? then set docker.cert_path)"))
        }
        fault => fault,
    })?;
    let answer: VersionAnswer = decode(&answer)?;
    let engine: ApiVersion = answer.api_version.parse().map_err(Fault::Broken)?;
    let version = engine.min(NEWEST);
    let prefix = format!("/v{version}");
    let client = client.with_request_modifier(move |request| with_path(request, |path| format!("{prefix}{path}")));
    Ok(Connection { client, version, engine })
}

fn client(settings: &DockerSettings) -> Result<bollard::Docker, Fault> {
    let host = settings.host.as_str();
    let version = bollard::API_DEFAULT_VERSION;
    let scheme = host.split_once("://").map_or("", |(scheme, _)| scheme);
    match (scheme, settings.cert_path.as_deref()) {
        ("unix", _) => Ok(bollard::Docker::connect_with_unix(host, BOLLARD_LIMIT_SECONDS, version)?),
        ("tcp" | "https", Some(folder)) => tls_client(host, folder),
        ("tcp" | "http", None) => Ok(bollard::Docker::connect_with_http(host, BOLLARD_LIMIT_SECONDS, version)?),
        ("https", None) => Err(Fault::Settings(format!(
            "docker.host is {host}, and docker.cert_path (DOCKER_CERT_PATH) is not set: name the folder with ca.pem, \
             cert.pem and key.pem"
        ))),
        _ => Err(Fault::Settings(format!(
            "docker.host is `{host}`: it must begin with unix://, tcp://, http:// or https://"
        ))),
    }
}

fn tls_client(host: &str, folder: &Path) -> Result<bollard::Docker, Fault> {
    let file = |name: &str| {
        let path = folder.join(name);
        // bollard does not say why a file cannot be read, and reads the key only while it connects.
        std::fs::File::open(&path)
            .map_err(|error| Fault::Settings(format!("docker.cert_path: cannot read {}: {error}", path.display())))?;
        Ok::<_, Fault>(path)
    };
    let (ca, certificate, key) = (file("ca.pem")?, file("cert.pem")?, file("key.pem")?);
    // rustls panics without one; an error means that there is one.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let version = bollard::API_DEFAULT_VERSION;
    Ok(bollard::Docker::connect_with_ssl(host, &key, &certificate, &ca, BOLLARD_LIMIT_SECONDS, version)?)
}

/// The only await on the engine without a limit is the event stream's.
pub(super) async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Fault::Late(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text: &str| text.parse::<ApiVersion>().expect("a version");
        assert!(version("1.9") < version("1.41"));
        assert!(version("1.41") < version("2.0"));
        assert_eq!(version("1.44").to_string(), "1.44");
        assert!("1".parse::<ApiVersion>().is_err());
        assert!("1.x".parse::<ApiVersion>().is_err());
    }

    fn settings(host: &str, cert_path: Option<&str>) -> DockerSettings {
        DockerSettings { host: host.to_owned(), cert_path: cert_path.map(Into::into), config: None }
    }

    fn reason(host: &str, cert_path: Option<&str>) -> String {
        client(&settings(host, cert_path)).err().map(|fault| fault.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_host_that_cannot_work_is_named_with_what_to_do() {
        assert_eq!(
            reason("unix:///nowhere/docker.sock", None),
            "the engine cannot be reached: there is no socket /nowhere/docker.sock. Is dockerd running, and is \
             docker.host right?"
        );
        assert!(reason("ssh://host", None).contains("must begin with unix://"));
        assert!(reason("https://host:2376", None).contains("docker.cert_path"));
        assert!(reason("tcp://host:2376", Some("/nowhere")).contains("cannot read /nowhere/ca.pem: No such file"));
    }
}
