//! What a replica should be registered as, compared with what it is registered as.
//!
//! Owns the id, the digest of a check, and the comparison. It is made for every replica in every pass, so nothing is written
//! out to be compared only: memory that is asked for ten thousand times is what such a pass then waits for. What follows from
//! a difference is `registrations`'.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::action::{NewRegistration, WantedCheck, WantedKind};
use crate::observed::{CheckSeen, CheckStatus, Container, Health, Registration};
use crate::spec::{Check, Protocol, Register, Service};

/// A `register` of a service, and what is the same for all its replicas.
pub(super) struct Declared<'a> {
    pub register: &'a Register,
    /// The declared check's digest, begun: only the address differs from replica to replica.
    pub digest: Option<CheckDigest>,
}

impl<'a> Declared<'a> {
    pub fn of(service: &'a Service) -> Vec<Self> {
        let of = |register: &'a Register| Self { register, digest: register.check.as_ref().map(CheckDigest::of) };
        service.register.iter().map(of).collect()
    }
}

/// The digest of a check's definition and of the address that is checked.
pub(super) struct CheckDigest(Sha256);

impl CheckDigest {
    fn of(check: &Check) -> Self {
        let json = serde_json::to_string(check).expect("a check has string keys only and cannot fail to serialise");
        Self(Sha256::new().chain_update("[").chain_update(json))
    }

    pub fn at(&self, address: &str, port: u16) -> CheckedAt {
        let address = serde_json::to_string(address).expect("a text cannot fail to serialise");
        let digest = self.0.clone().chain_update(format!(",{address},{port}]")).finalize();
        CheckedAt(digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }
}

/// A finished [`CheckDigest`]; its text is what `Meta` holds.
#[derive(Clone, Copy)]
pub(super) struct CheckedAt(u64);

impl fmt::Display for CheckedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The id of a replica's registration: `<node>:<replica>:<port>/<proto>`.
pub(super) struct RegistrationId<'r> {
    pub node: &'r str,
    pub container: &'r str,
    /// Of the container.
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for RegistrationId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}/{}", self.node, self.container, self.port, self.protocol)
    }
}

/// Whether something would be written out as exactly this text: asked for every replica in every pass, where to write it
/// out first costs more than everything else that is compared.
pub(super) fn reads(wanted: impl fmt::Display, text: &str) -> bool {
    struct Rest<'t>(&'t str);
    impl fmt::Write for Rest<'_> {
        fn write_str(&mut self, piece: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(piece).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(text);
    write!(rest, "{wanted}").is_ok() && rest.0.is_empty()
}

/// What a replica should be registered as. The spec's part is borrowed: this is compared for every replica in every pass,
/// and copied only to be written.
pub(super) struct Wanted<'w> {
    pub container: &'w Container,
    pub register: &'w Register,
    pub address: String,
    pub port: u16,
    /// Where the declared check asks, when that is not where the replica is registered.
    pub checked: Option<IpAddr>,
    /// Of the declared check, if there is one.
    pub digest: Option<CheckedAt>,
}

impl Wanted<'_> {
    fn health(&self) -> bool {
        self.container.health != Health::None
    }

    /// An update would change nothing.
    pub fn is(&self, seen: &Registration) -> bool {
        seen.name == self.register.name
            && seen.address == self.address
            && seen.port == self.port
            && seen.tags == self.register.tags
            && seen.meta == self.register.meta
            && seen.container == self.container.id
            && match (self.digest, &seen.check_digest) {
                (Some(digest), Some(seen)) => reads(digest, seen),
                (digest, seen) => digest.is_none() && seen.is_none(),
            }
            && own_check(seen, DECLARED).is_some() == self.digest.is_some()
            && own_check(seen, HEALTH).is_some() == self.health()
    }

    pub fn written(self, id: &str) -> NewRegistration {
        let health = self.health();
        let check = self.register.check.as_ref().zip(self.digest).map(|(check, digest)| {
            let (address, port) = match self.checked {
                Some(own) => (own.to_string(), self.register.port),
                None => (self.address.clone(), self.port),
            };
            WantedCheck {
                kind: WantedKind::from(&check.kind),
                interval: check.interval,
                timeout: Some(check.timeout),
                deregister_after: check.deregister_after,
                // Its container is healthy, or reeve's own probe has passed.
                initial: CheckStatus::Passing,
                address,
                port,
                digest: digest.to_string(),
            }
        });
        NewRegistration {
            id: id.to_owned(),
            name: self.register.name.clone(),
            address: self.address,
            port: self.port,
            tags: self.register.tags.clone(),
            meta: self.register.meta.clone(),
            service: self.container.service.clone(),
            slot: self.container.slot,
            container: self.container.id.clone(),
            check,
            health,
            drain_start: None,
        }
    }
}

/// What stands behind the registration's id in the id of its declared check, and of the one that follows the HEALTHCHECK.
pub(super) const DECLARED: &str = ":declared";
pub(super) const HEALTH: &str = ":health";

pub(super) fn own_check<'r>(registration: &'r Registration, which: &str) -> Option<&'r CheckSeen> {
    let mut checks = registration.checks.iter();
    let found = checks.find(|(id, _)| id.strip_prefix(registration.id.as_str()) == Some(which));
    found.map(|(_, check)| check)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::container::hex;
    use crate::spec::{CheckAddress, CheckKind};

    /// Another digest would have every registration written anew by the next version.
    #[test]
    fn the_digest_of_a_check_that_is_begun_once_is_the_digest_of_its_whole_definition() {
        let check = Check {
            kind: CheckKind::Http { path: "/a\"b".to_owned() },
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(1500),
            deregister_after: None,
            address: CheckAddress::Auto,
        };
        let begun = CheckDigest::of(&check);
        for (address, port) in [("172.17.0.2", 80), ("2001:db8::2", 8080), ("a\"b", 1)] {
            let whole = serde_json::to_string(&(&check, address, port)).expect("it is plain data");
            let digest = begun.at(address, port);
            assert_eq!(digest.to_string(), hex(&Sha256::digest(whole))[..16], "{address}");
        }
    }

    #[test]
    fn only_the_exact_text_reads_as_what_would_be_written() {
        let id = RegistrationId { node: "edge", container: "shop-web-1-abc", port: 80, protocol: Protocol::Tcp };
        assert!(reads(&id, &id.to_string()));
        for other in
            ["", "edge", "edge:shop-web-1-abc:80/tcp2", "edge:shop-web-1-abc:080/tcp", "edge:shop-web-1-abc:80/udp"]
        {
            assert!(!reads(&id, other), "{other}");
        }
    }
}
