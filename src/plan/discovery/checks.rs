//! The check of a registration, from `SERVICE_CHECK_*`. One for each, and the first of registrator's order counts.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::attributes::Attributes;
use crate::observed::{CheckStatus, Discovered};
use crate::plan::action::{WantedCheck, WantedKind};
use crate::spec::container::hex;
use crate::spec::units;
use crate::spec::words;

/// Registrator's.
const INTERVAL: Duration = Duration::from_secs(10);
const PATH: usize = 1024;

/// `registered`: address and port that the service gets; `asked`: those that the agent is to ask.
pub(super) fn of(
    container: &Discovered,
    attributes: &Attributes<'_>,
    port: u16,
    registered: (&str, u16),
    asked: (String, u16),
) -> Result<Option<WantedCheck>, String> {
    let Some(kind) = kind(container, attributes, port, registered)? else { return Ok(None) };
    let interval = duration(attributes, "check_interval")?.unwrap_or(INTERVAL);
    let timeout = duration(attributes, "check_timeout")?;
    let deregister_after = duration(attributes, "check_deregister_after")?;
    let initial = match attributes.get("check_initial_status") {
        // As Consul has it: what was never checked does not pass.
        None | Some("critical") => CheckStatus::Critical,
        Some("passing") => CheckStatus::Passing,
        Some("warning") => CheckStatus::Warning,
        Some(_) => return Err("SERVICE_CHECK_INITIAL_STATUS must be passing, warning or critical".to_owned()),
    };
    let (address, port) = asked;
    let said = (&kind, interval, timeout, deregister_after, &address, port);
    let text = serde_json::to_string(&said).expect("a check has string keys only and cannot fail to serialise");
    let digest = hex(&Sha256::digest(text)[..8]);
    Ok(Some(WantedCheck { kind, interval, timeout, deregister_after, initial, address, port, digest }))
}

fn kind(
    container: &Discovered,
    attributes: &Attributes<'_>,
    port: u16,
    registered: (&str, u16),
) -> Result<Option<WantedKind>, String> {
    let skip_verify = attributes.says("check_tls_skip_verify");
    for (key, tls) in [("check_http", false), ("check_https", true)] {
        if let Some(given) = attributes.get(key) {
            let path = path(given, key)?;
            let method = method(attributes, &format!("{key}_method"))?;
            return Ok(Some(WantedKind::Http { tls, path, method, skip_verify: tls && skip_verify }));
        }
    }
    if let Some(line) = attributes.get("check_cmd") {
        // What runs is a program of registrator's image of Consul.
        let begin = ["check-cmd".to_owned(), container.id.chars().take(12).collect(), port.to_string()];
        let words = begin.into_iter().chain(command(line, "CMD")?).collect();
        return Ok(Some(WantedKind::Command { words }));
    }
    if let Some(line) = attributes.get("check_script") {
        let (address, port) = registered;
        let fill = |word: String| word.replace("$SERVICE_IP", address).replace("$SERVICE_PORT", &port.to_string());
        let words = command(line, "SCRIPT")?.into_iter().map(fill).collect();
        return Ok(Some(WantedKind::Command { words }));
    }
    if let Some(within) = duration(attributes, "check_ttl")? {
        return Ok(Some(WantedKind::Ttl { within }));
    }
    if attributes.says("check_tcp") {
        return Ok(Some(WantedKind::Tcp));
    }
    if attributes.says("check_grpc") {
        let tls = attributes.says("check_grpc_use_tls");
        return Ok(Some(WantedKind::Grpc { service: String::new(), tls, skip_verify: tls && skip_verify }));
    }
    Ok(None)
}

fn path(path: &str, key: &str) -> Result<String, String> {
    let bad = path.chars().any(|letter| letter.is_control() || letter == ' ') || path.len() > PATH;
    if !path.starts_with('/') || bad {
        let variable = key.to_ascii_uppercase();
        return Err(format!("SERVICE_{variable} must be a path that begins with `/` and holds no blanks"));
    }
    Ok(path.to_owned())
}

fn method(attributes: &Attributes<'_>, key: &str) -> Result<Option<String>, String> {
    let Some(method) = attributes.get(key) else { return Ok(None) };
    let upper = method.to_ascii_uppercase();
    match upper.len() <= 20 && upper.bytes().all(|byte| byte.is_ascii_uppercase()) {
        true => Ok(Some(upper)),
        false => Err(format!("SERVICE_{} is no method of HTTP", key.to_ascii_uppercase())),
    }
}

/// The words of a command line. Nothing of it reaches a shell.
fn command(line: &str, which: &str) -> Result<Vec<String>, String> {
    let fail = |reason: &str| Err(format!("SERVICE_CHECK_{which} cannot be split into words: {reason}"));
    match words::split(line) {
        Ok(words) if words.first().is_none_or(String::is_empty) => fail("it names no program"),
        Ok(words) if words.iter().any(|word| word.contains('\0')) => fail("it holds a NUL"),
        Ok(words) => Ok(words),
        Err(reason) => fail(&reason),
    }
}

fn duration(attributes: &Attributes<'_>, key: &str) -> Result<Option<Duration>, String> {
    let Some(text) = attributes.get(key) else { return Ok(None) };
    match units::duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
        Ok(_) => Err(format!("SERVICE_{} must be more than 0", key.to_ascii_uppercase())),
        Err(reason) => Err(format!("SERVICE_{} is no duration: {reason}", key.to_ascii_uppercase())),
    }
}
