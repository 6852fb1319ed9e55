//! The endpoints of a generation whose upstreams Lua balances: one text, which nginx loads at its start and which reeve
//! sends it when it changes. Pure.
//!
//! Owns the text in both directions, so that what is read back is what was written; `config/endpoints.lua` reads the same.
//! The first line tells a hash (what the probe answers) and a checksum (so that Lua finds an edit by itself).
//!
//! ```text
//! reeve endpoints 0123456789ab 89abcdef
//! upstream http_backend
//! 192.0.2.10 8080 1 <container, or ->
//! ;
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::observed::{Balancer, Endpoint, Manifest, RoutedUpstream, Shared};
use crate::spec::container::hex;

/// By the upstream's name in the spec.
pub type Endpoints = BTreeMap<String, Shared<Vec<Endpoint>>>;

/// What the probe answers instead of a hash while nginx has no endpoints: the file could not be read at its start.
pub const NONE: &str = "none";

/// Does Lua balance it, where Lua balances at all? Names are resolved by nginx's own balancer only, when it loads them.
pub fn by_lua(routed: &RoutedUpstream) -> bool {
    let address = |endpoint: &Endpoint| endpoint.address.parse::<IpAddr>().is_ok();
    routed.upstream.redirect.is_none() && routed.endpoints.iter().all(address)
}

/// The endpoints that are no part of the generation's other files.
pub fn of(upstreams: &BTreeMap<String, RoutedUpstream>) -> Endpoints {
    let balanced = upstreams.iter().filter(|(_, routed)| by_lua(routed));
    balanced.map(|(name, routed)| (name.clone(), routed.endpoints.clone())).collect()
}

/// Those of a generation, if it is one whose endpoints stand in a text of their own.
pub fn of_manifest(manifest: &Manifest) -> Option<Endpoints> {
    (manifest.balancer == Balancer::Lua).then(|| of(&manifest.upstreams))
}

/// Would `replace` change anything?
pub fn differ(manifest: &Manifest, endpoints: &Endpoints) -> bool {
    let other = |(name, set): (&String, &Shared<Vec<Endpoint>>)| {
        manifest.upstreams.get(name).is_some_and(|routed| routed.endpoints != *set)
    };
    endpoints.iter().any(other)
}

/// Puts endpoints in the place of those that the generation was made with. Upstreams that the set lacks keep theirs.
pub fn replace(manifest: &mut Manifest, endpoints: &Endpoints) {
    for (name, routed) in &mut manifest.upstreams {
        if let Some(endpoints) = endpoints.get(name) {
            // Equal ones stay those that other manifests share.
            if routed.endpoints != *endpoints {
                routed.endpoints.clone_from(endpoints);
            }
        }
    }
}

fn body(endpoints: &Endpoints) -> String {
    let mut text = String::new();
    for (name, endpoints) in endpoints {
        let mut write = || -> std::fmt::Result {
            writeln!(text, "upstream {name}")?;
            for one in endpoints {
                let container = one.container.as_deref().unwrap_or("-");
                writeln!(text, "{} {} {} {container}", one.address, one.port, one.weight.max(1))?;
            }
            writeln!(text, ";")
        };
        write().expect("writing to memory cannot fail");
    }
    text
}

/// 12 hexadecimal digits over all of it.
pub fn hash(endpoints: &Endpoints) -> String {
    digest(&body(endpoints))
}

fn digest(body: &str) -> String {
    hex(&Sha256::digest(body.as_bytes())[..6])
}

pub fn text(endpoints: &Endpoints) -> String {
    let body = body(endpoints);
    format!("reeve endpoints {} {:08x}\n{body}", digest(&body), crc32(body.as_bytes()))
}

/// The hash, and the endpoints; `None`: it is not whole, or somebody has edited it.
pub fn parse(text: &str) -> Option<(String, Endpoints)> {
    let (head, body) = text.split_once('\n')?;
    let (hash, check) = head.strip_prefix("reeve endpoints ")?.split_once(' ')?;
    if digest(body) != hash || format!("{:08x}", crc32(body.as_bytes())) != check {
        return None;
    }
    let mut endpoints = Endpoints::new();
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        let name = line.strip_prefix("upstream ")?;
        let mut members = Vec::new();
        loop {
            let line = lines.next()?;
            if line == ";" {
                break;
            }
            let mut words = line.split(' ');
            let address = words.next()?.to_owned();
            let (port, weight) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let container = words.next().filter(|container| *container != "-").map(str::to_owned);
            members.push(Endpoint { address, port, weight, container });
        }
        endpoints.insert(name.to_owned(), members.into());
    }
    Some((hash.to_owned(), endpoints))
}

/// The checksum that nginx's Lua offers: `ngx.crc32_long`.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Endpoints {
        let one = |address: &str, container: Option<&str>| Endpoint {
            address: address.to_owned(),
            port: 8080,
            weight: 2,
            container: container.map(str::to_owned),
        };
        let members = vec![one("192.0.2.1", Some("c1")), one("2001:db8::1", None)];
        Endpoints::from([("site".to_owned(), members.into()), ("none".to_owned(), Shared::default())])
    }

    #[test]
    fn what_was_written_is_read_back_and_an_edit_is_not_believed() {
        let text = text(&some());
        assert_eq!(parse(&text), Some((hash(&some()), some())));
        for (from, to) in [("8080", "8081"), ("192.0.2.1", "192.0.2.9"), (";\n", "")] {
            assert_eq!(parse(&text.replacen(from, to, 1)), None, "{from}");
        }
        assert_eq!(parse(&text[..text.len() - 3]), None, "half of it");
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_checksum_is_the_one_that_lua_computes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
