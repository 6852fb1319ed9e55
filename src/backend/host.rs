//! The machine that reeve runs on: its addresses, from `/proc` and the kernel's routing table. Nothing is sent anywhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use sha2::{Digest, Sha256};

use crate::observed::Host;
use crate::spec::container::hex;

/// An address for documentation (RFC 5737): connecting a UDP socket to it only asks the kernel for a route.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 9);

pub fn view() -> Host {
    let mut addresses = BTreeSet::new();
    if let Ok(text) = std::fs::read_to_string("/proc/net/fib_trie") {
        addresses.extend(local_ipv4(&text));
    }
    if let Ok(text) = std::fs::read_to_string("/proc/net/if_inet6") {
        addresses.extend(local_ipv6(&text));
    }
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default_route = has_default_route(&routes).then(source_address).flatten();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Host { addresses, default_route, name }
}

/// What tells this machine from another one that has its name: a digest, since the id itself is not for others. `None`: it
/// has no id, as in many containers.
pub fn identity() -> Option<String> {
    let text =
        ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| std::fs::read_to_string(path).ok())?;
    digest_of(text.trim())
}

fn digest_of(id: &str) -> Option<String> {
    let good = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0');
    good.then(|| hex(&Sha256::digest(format!("reeve {id}"))[..8]))
}

/// The source address that the kernel takes for the default route.
fn source_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

/// Destination and mask zero, flag "up".
fn has_default_route(routes: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    })
}

/// `|-- 192.0.2.2` followed by a line that calls it `host LOCAL`.
fn local_ipv4(fib_trie: &str) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in fib_trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
        } else if line.contains("host LOCAL") {
            addresses.extend(last.map(IpAddr::V4));
        }
    }
    addresses
}

/// 32 hexadecimal digits at the start of each line.
fn local_ipv6(if_inet6: &str) -> BTreeSet<IpAddr> {
    let of = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    if_inet6.lines().filter_map(of).map(|bits| IpAddr::V6(Ipv6Addr::from(bits))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_addresses_are_taken_from_the_routing_trie() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(local_ipv4(text), BTreeSet::from([IpAddr::from([192, 0, 2, 2])]));
    }

    #[test]
    fn an_id_of_the_machine_is_shown_to_nobody_and_what_is_none_is_none() {
        let id = "3d1219c7c4c5404aaa1f6d2a48adfda4";
        let digest = digest_of(id).expect("an id");
        assert!(digest.len() == 16 && !id.contains(&digest), "{digest}");
        assert_ne!(Some(digest), digest_of("3d1219c7c4c5404aaa1f6d2a48adfda5"));
        for none in ["", "uninitialized", "00000000000000000000000000000000", "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"] {
            assert_eq!(digest_of(none), None, "{none}");
        }
    }

    #[test]
    fn loopback_is_an_address_of_this_host() {
        assert!(view().addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn a_route_to_a_subnet_is_no_default_route() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let subnet = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(!has_default_route(&format!("{head}{subnet}")));
        assert!(has_default_route(&format!("{head}{subnet}{default}")));
    }
}
