//! Listen addresses: can nginx bind what it does not hold yet?
//!
//! Seen: with a port that is taken, `nginx -t` and the reload both succeed, and nothing of the new configuration is
//! loaded. So it is tried beforehand, as nginx would: with `SO_REUSEADDR`, closed at once, never listening.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketType};

use super::process::{self, ListeningSocket};
use crate::observed::ListenState;
use crate::spec::upstream::Listen;

/// The state of each wanted address. `held`: the listens of the loaded generation, which need no look. `master`: nginx's,
/// when it runs: what it holds for the user's own servers is as good as free.
pub fn states(
    wanted: &BTreeSet<Listen>,
    held: &BTreeSet<Listen>,
    master: Option<i32>,
) -> BTreeMap<Listen, ListenState> {
    let wanted_new: Vec<Listen> = wanted.difference(held).copied().collect();
    if wanted_new.is_empty() {
        return BTreeMap::new();
    }
    let sockets = process::listening();
    let of_nginx = master.map(process::sockets_of).unwrap_or_default();
    wanted_new.into_iter().map(|listen| (listen, state(listen, &sockets, &of_nginx, wanted, held))).collect()
}

fn state(
    listen: Listen,
    sockets: &[ListeningSocket],
    of_nginx: &BTreeSet<u64>,
    wanted: &BTreeSet<Listen>,
    held: &BTreeSet<Listen>,
) -> ListenState {
    let address = listen.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let same_port = || sockets.iter().filter(|socket| socket.port == listen.port);
    let own = || same_port().filter(|socket| of_nginx.contains(&socket.inode));
    if own().any(|socket| socket.address == address) {
        return ListenState::Free;
    }
    // nginx binds one wildcard for all addresses of a port. If that stays, the new address needs no socket of its own; if it
    // is the one that is given up, nginx cannot bind the new one while it still holds it.
    let wildcard =
        own().find(|socket| socket.address.is_unspecified() && socket.address.is_ipv4() == address.is_ipv4());
    if let Some(wildcard) = wildcard {
        let old = held.iter().find(|old| {
            let old_address = old.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            old.port == listen.port && old_address == wildcard.address
        });
        return match old {
            Some(old) if !wanted.contains(old) => ListenState::Taken(held_by_nginx(old.to_string())),
            _ => ListenState::Free,
        };
    }
    match try_bind(SocketAddr::new(address, listen.port)) {
        Ok(()) => ListenState::Free,
        // Whether nginx may is not told by what reeve may.
        Err(Errno::ACCESS | Errno::PERM) => ListenState::Free,
        Err(error) => {
            if let Some(own) = own().next() {
                return ListenState::Taken(held_by_nginx(SocketAddr::new(own.address, own.port).to_string()));
            }
            let overlaps = |socket: &&ListeningSocket| {
                socket.address == address || socket.address.is_unspecified() || address.is_unspecified()
            };
            let holder = same_port().find(overlaps).and_then(|socket| process::holder(socket.inode));
            let by = holder.map_or_else(String::new, |holder| format!(", by {holder}"));
            let words = match error {
                Errno::ADDRINUSE => format!("Address already in use{by}"),
                Errno::ADDRNOTAVAIL => "no interface of this host has the address".to_owned(),
                other => other.to_string(),
            };
            ListenState::Taken(words)
        }
    }
}

fn held_by_nginx(old: String) -> String {
    format!(
        "nginx itself holds {old}, and cannot change between one address and all addresses of a port in a reload: \
         remove the old listen first, or use another port"
    )
}

fn try_bind(address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = net::SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    net::sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Listen {
        match text.parse::<SocketAddr>() {
            Ok(address) => Listen { address: Some(address.ip()), port: address.port() },
            Err(_) => Listen { address: None, port: text.parse().expect("a port") },
        }
    }

    fn set(all: &[&str]) -> BTreeSet<Listen> {
        all.iter().map(|text| listen(text)).collect()
    }

    #[test]
    fn a_taken_port_is_taken_by_its_holder_and_a_free_one_is_free() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let specific = format!("127.0.0.1:{port}");
        let every = port.to_string();
        let states = states(&set(&[&specific, &every]), &BTreeSet::new(), None);
        for wanted in [&specific, &every] {
            match &states[&listen(wanted)] {
                ListenState::Taken(words) => assert!(words.contains(&format!("pid {}", std::process::id())), "{words}"),
                ListenState::Free => panic!("{wanted} is taken"),
            }
        }
        drop(listener);
        let states = super::states(&set(&[&specific]), &BTreeSet::new(), None);
        assert_eq!(states[&listen(&specific)], ListenState::Free);
        assert!(super::states(&set(&[&every]), &set(&[&every]), None).is_empty(), "what is held is not tried");
    }

    #[test]
    fn an_address_of_no_interface_is_taken_with_that_reason() {
        let states = states(&set(&["192.0.2.77:8099"]), &BTreeSet::new(), None);
        assert!(
            matches!(&states[&listen("192.0.2.77:8099")], ListenState::Taken(words) if words.contains("no interface"))
        );
    }

    #[test]
    fn what_nginx_holds_is_free_for_it_unless_the_wildcard_has_to_go() {
        let socket =
            |address: &str, port, inode| ListeningSocket { address: address.parse().expect("an IP"), port, inode };
        let sockets = [socket("0.0.0.0", 80, 7), socket("127.0.0.1", 81, 8)];
        let own = BTreeSet::from([7, 8]);
        let state = |wanted: &str, all: &[&str], held: &[&str]| {
            super::state(listen(wanted), &sockets, &own, &set(all), &set(held))
        };
        assert_eq!(state("80", &["80"], &[]), ListenState::Free, "a server of the user's own holds it");
        assert_eq!(state("127.0.0.1:80", &["127.0.0.1:80"], &[]), ListenState::Free);
        assert_eq!(state("127.0.0.1:80", &["127.0.0.1:80", "80"], &["80"]), ListenState::Free);
        assert!(matches!(state("127.0.0.1:80", &["127.0.0.1:80"], &["80"]), ListenState::Taken(_)));
    }
}
