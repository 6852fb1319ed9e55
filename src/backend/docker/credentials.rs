//! Registry credentials from the user's Docker configuration (`config.json`): its `auths`, and the helper programs that
//! it names. Nothing that is read here is ever printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::names;

const HELPER_LIMIT: Duration = Duration::from_secs(10);
/// Docker's name for its own registry in `config.json`.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// Base64 of `user:password`.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// A helper's answer.
#[derive(Deserialize)]
struct Helped {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The folder that the settings name, else Docker's own.
pub(super) fn folder(settings: Option<&Path>) -> Option<PathBuf> {
    let from_environment = || std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let from_home = || std::env::home_dir().map(|home| home.join(".docker"));
    settings.map(Path::to_owned).or_else(from_environment).or_else(from_home)
}

/// What the user's configuration says about this registry; `None`: nothing, the pull is anonymous.
/// The error is a sentence.
pub(super) async fn find(folder: &Path, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let path = folder.join("config.json");
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    // serde_json's message may quote a value: only the place is told.
    let config: ConfigFile = serde_json::from_str(&text).map_err(|error| {
        format!("{}: not Docker's configuration (line {}, column {})", path.display(), error.line(), error.column())
    })?;
    let server = if registry == names::HUB { HUB_SERVER } else { registry };
    let helper = config.helpers.get(registry).or_else(|| config.helpers.get(server)).or(config.store.as_ref());
    if let Some(helper) = helper
        && let Some(credentials) = ask(helper, server).await?
    {
        return Ok(Some(credentials));
    }
    let exact = config.auths.get(server);
    let entry =
        exact.or_else(|| config.auths.iter().find(|(key, _)| host(key) == host(server)).map(|(_, entry)| entry));
    entry.map(|entry| from_entry(entry, server)).transpose().map(Option::flatten)
}

/// Older clients wrote the registry as a URL with a path.
fn host(server: &str) -> &str {
    let plain = server.strip_prefix("https://").or(server.strip_prefix("http://")).unwrap_or(server);
    plain.split('/').next().unwrap_or(plain)
}

fn from_entry(entry: &Entry, server: &str) -> Result<Option<DockerCredentials>, String> {
    let mut credentials = DockerCredentials {
        username: entry.username.clone(),
        password: entry.password.clone(),
        identitytoken: entry.identitytoken.clone().filter(|token| !token.is_empty()),
        registrytoken: entry.registrytoken.clone().filter(|token| !token.is_empty()),
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    };
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        let decoded = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
        let (user, password) = pair.ok_or_else(|| format!("`auth` of {server} is not base64 of user:password"))?;
        credentials.username = Some(user.to_owned());
        credentials.password = Some(password.trim_end_matches('\0').to_owned());
    }
    // `docker logout` and a credential store leave empty entries.
    let any =
        credentials.username.is_some() || credentials.identitytoken.is_some() || credentials.registrytoken.is_some();
    Ok(any.then_some(credentials))
}

/// `docker-credential-<helper> get`, with the server on its standard input.
async fn ask(helper: &str, server: &str) -> Result<Option<DockerCredentials>, String> {
    let program = format!("docker-credential-{helper}");
    if !names::is_name(helper) {
        return Err(format!("`{helper}` is no name of a credential helper"));
    }
    let work = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(server.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(HELPER_LIMIT, work).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("the credential helper {program} cannot run: {error}")),
        Err(_) => {
            return Err(format!("the credential helper {program} did not answer within {} s", HELPER_LIMIT.as_secs()));
        }
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stdout);
        if words.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("the credential helper {program} failed for {server} ({})", output.status));
    }
    let helped: Helped = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("the answer of the credential helper {program} cannot be read"))?;
    let serveraddress = Some(server.to_owned());
    // The protocol's word for "the secret is an identity token".
    Ok(Some(if helped.username == "<token>" {
        DockerCredentials { identitytoken: Some(helped.secret), serveraddress, ..DockerCredentials::default() }
    } else {
        DockerCredentials {
            username: Some(helped.username),
            password: Some(helped.secret),
            serveraddress,
            ..DockerCredentials::default()
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(config: &str, registry: &str) -> Result<Option<(String, String)>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        let credentials = find(folder.path(), registry).await?;
        Ok(credentials.map(|found| (found.username.unwrap_or_default(), found.password.unwrap_or_default())))
    }

    fn pair(user: &str, password: &str) -> Result<Option<(String, String)>, String> {
        Ok(Some((user.to_owned(), password.to_owned())))
    }

    #[tokio::test]
    async fn credentials_are_found_however_the_registry_is_written() {
        // ann:se:cret
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YW5uOnNlOmNyZXQ="},
            "https://reg.example/v2/":{"username":"bob","password":"pw"},"empty.example":{}}}"#;
        assert_eq!(found(config, "docker.io").await, pair("ann", "se:cret"));
        assert_eq!(found(config, "reg.example").await, pair("bob", "pw"));
        assert_eq!(found(config, "empty.example").await, Ok(None));
        assert_eq!(found(config, "other.example").await, Ok(None));
    }

    #[tokio::test]
    async fn no_configuration_means_an_anonymous_pull() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(find(folder.path(), "docker.io").await.is_ok_and(|found| found.is_none()));
    }

    #[tokio::test]
    async fn an_unreadable_configuration_is_an_error_that_quotes_nothing() {
        let broken = found(r#"{"auths":{"a.example":{"password":12345}}}"#, "a.example").await;
        assert!(broken.is_err_and(|why| why.contains("line 1") && !why.contains("12345")));
        let no_pair = found(r#"{"auths":{"a.example":{"auth":"c2VjcmV0"}}}"#, "a.example").await;
        assert_eq!(no_pair, Err("`auth` of a.example is not base64 of user:password".to_owned()));
    }

    #[tokio::test]
    async fn a_missing_helper_is_named() {
        let config = r#"{"credsStore":"reeve-is-not-here"}"#;
        let missing = found(config, "a.example").await;
        assert!(missing.is_err_and(|why| why.contains("docker-credential-reeve-is-not-here cannot run")));
    }
}
