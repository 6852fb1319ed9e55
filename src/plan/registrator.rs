//! What a former registrator left in the agent, and what becomes of each entry when reeve takes its place.
//!
//! Registrator marks nothing as its own, so what it left is told by its ids alone: `<hostname>:<container>:<port>`, with this
//! host's name. Another host's entries, and those with anybody's mark, are never among them.

use jiff::Timestamp;

use super::action::NewRegistration;
use super::context::Context;
use super::discovery::Claim;
use super::planner::Planner;
use crate::observed::Observed;
use crate::spec::{Protocol, Spec};

/// An entry of the agent without a mark, in the form of registrator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub id: String,
    /// Of the Consul service.
    pub name: String,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Discovery registers the container under this id: it becomes ours in one write.
    Take(Box<NewRegistration>),
    /// With the reason.
    Remove(String),
    /// With the reason.
    Leave(String),
}

/// By id.
///
/// # Errors
/// The spec has no `discovery`, or Docker or Consul cannot be read: then which entries have a container is not known.
pub fn left(spec: &Spec, observed: &Observed, now: Timestamp, context: &Context<'_>) -> Result<Vec<Left>, String> {
    let Some(discovery) = &spec.discovery else {
        return Err("the spec has no `discovery`, which registers what registrator did: add it first, with \
                    `ids: registrator` if the entries are to keep their ids"
            .to_owned());
    };
    let unknown = |reason: Option<&str>| reason.unwrap_or_default().to_owned();
    let Some(docker) = observed.docker.known() else {
        return Err(format!("Docker cannot be read: {}", unknown(observed.docker.reason())));
    };
    let Some(consul) = observed.consul.known() else {
        return Err(format!("Consul cannot be read: {}", unknown(observed.consul.reason())));
    };
    let planner = Planner::new(spec, spec, observed, now, context);
    let claims = planner.claims();
    let host = discovery.hostname.as_deref().unwrap_or(&observed.host.name);
    let unmarked = consul.strangers.iter().filter(|(_, stranger)| stranger.owner.is_none());
    let mut all = Vec::new();
    for (id, stranger) in unmarked {
        let claim = claims.iter().find(|claim| claim.id == *id);
        let fate = match (claim, parts(id, host)) {
            (Some(claim), Some(_)) => take(claim),
            // An id of the user's choice is nobody's form: it is taken only with the same name.
            (Some(claim), None) if claim.wanted.as_ref().is_ok_and(|one| one.name == stranger.name) => take(claim),
            (_, None) => continue,
            (None, Some((name, port, protocol))) => {
                let registered = |id: &str| consul.registrations.contains_key(id);
                let same = |claim: &&Claim<'_>| {
                    claim.container.name == name && (claim.port, claim.protocol) == (port, protocol)
                };
                let ours = docker.containers.values().find(|container| container.name == name);
                let theirs = docker.strangers.values().find(|stranger| stranger.name == name && stranger.running);
                if let Some(claim) = claims.iter().find(same) {
                    match registered(&claim.id) {
                        true => Fate::Remove(format!("reeve registers it as {}", claim.id)),
                        false => {
                            Fate::Leave(format!("reeve has not registered it yet as {}: `reeve apply` first", claim.id))
                        }
                    }
                } else if let Some(container) = ours {
                    let own = format!("{}:{}:{port}/{protocol}", context.owner.node, container.name);
                    match registered(&own) {
                        true => Fate::Remove(format!("reeve registers it as {own}")),
                        false => Fate::Leave(format!(
                            "its container is a replica of {0}, which is not registered as {own}: give the service \
                             `register` for port {port} in the spec and run `reeve apply` first",
                            container.service
                        )),
                    }
                } else if theirs.is_some() {
                    Fate::Leave(format!("container {name} runs, and discovery does not register this port of it"))
                } else {
                    Fate::Remove(format!("no container {name} runs here"))
                }
            }
        };
        all.push(Left { id: id.clone(), name: stranger.name.clone(), fate });
    }
    Ok(all)
}

fn take(claim: &Claim<'_>) -> Fate {
    let container = &claim.container.name;
    match (&claim.wanted, claim.container.unfit()) {
        (Err(reason), _) => Fate::Leave(format!("container {container}: {reason}")),
        (Ok(_), Some(reason)) => Fate::Leave(format!("container {container}: {reason}")),
        (Ok(wanted), None) => Fate::Take(wanted.clone()),
    }
}

/// Container, port and protocol of `<host>:<container>:<port>[:udp]`.
fn parts<'i>(id: &'i str, host: &str) -> Option<(&'i str, u16, Protocol)> {
    let rest = id.strip_prefix(host)?.strip_prefix(':')?;
    let (name, rest) = rest.split_once(':')?;
    let (port, protocol) = match rest.split_once(':') {
        None => (rest, Protocol::Tcp),
        Some((port, "udp")) => (port, Protocol::Udp),
        Some(_) => return None,
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !name.is_empty()).then_some(())?;
    Some((name, port.parse().ok()?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registrators_form_with_this_hosts_name_is_meant() {
        assert_eq!(parts("host1:redis-1:6379", "host1"), Some(("redis-1", 6379, Protocol::Tcp)));
        assert_eq!(parts("host1:dns:53:udp", "host1"), Some(("dns", 53, Protocol::Udp)));
        for other in [
            "host2:redis-1:6379",
            "host11:redis-1:6379",
            "host1:redis-1:6379/tcp",
            "host1:redis-1:http",
            "host1:redis-1",
            "host1::6379",
            "host1:redis-1:6379:tcp",
            "host1:redis-1:70000",
            "redis-1",
        ] {
            assert_eq!(parts(other, "host1"), None, "{other}");
        }
    }
}
