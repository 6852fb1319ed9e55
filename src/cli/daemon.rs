//! Asking a running daemon of this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::StatusCode;

use crate::settings::Settings;

/// A daemon on this machine answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What listens where the settings say, and what it answered.
#[derive(Debug)]
pub struct Answer {
    pub address: SocketAddr,
    pub code: StatusCode,
    pub body: String,
}

impl Answer {
    /// For an answer that cannot be understood.
    pub fn stranger(&self, error: &serde_json::Error) -> anyhow::Error {
        anyhow::anyhow!(
            "http.listen: what answers on {} is not a reeve of this version (status {}: {error}); set http.listen as the daemon has it",
            self.address,
            self.code
        )
    }
}

/// Asks the daemon. None: the settings have no `http.listen`, or nothing listens there.
///
/// # Errors
/// When something listens and does not answer.
pub async fn ask(settings: &Settings, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Option<Answer>> {
    let Some(listen) = settings.http.listen else { return Ok(None) };
    let address = reachable(listen);
    // Without certificates: `build` would else fail where the system has none, and this is plain HTTP.
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(TIMEOUT)
        .build()
        .context("the HTTP client cannot be made")?;
    let answer = match client.get(format!("http://{address}{path}")).query(query).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("http.listen: what listens on {address} does not answer"));
        }
    };
    let code = answer.status();
    let body = answer.text().await.with_context(|| format!("http.listen: the answer of {address} broke off"))?;
    Ok(Some(Answer { address, code, body }))
}

/// An address that can be connected to: a daemon that listens everywhere listens on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}
