//! Published and exposed ports: Compose's short and long form, ranges, host addresses, protocols.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::container::{Port, Protocol, Published};
use super::super::tree::{Node, Place};
use super::{Context, text};

/// Every port once with each of two protocols.
const MOST_PORTS: usize = 2 * 65_535;

/// Why a port cannot be read: the reason, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct PortProblem {
    pub reason: String,
    pub help: Option<String>,
}

impl From<String> for PortProblem {
    fn from(reason: String) -> Self {
        Self { reason, help: None }
    }
}

impl From<&str> for PortProblem {
    fn from(reason: &str) -> Self {
        Self::from(reason.to_owned())
    }
}

/// The ports of a service in the file's order, each with its place.
pub fn read(service: &Node, context: &mut Context<'_>) -> Vec<(Port, Place)> {
    let mut ports: Vec<(Port, Place)> = Vec::new();
    let Some(node) = service.value("ports") else { return ports };
    for item in node.list() {
        let read = match item.text() {
            Some(text) => short(text),
            None if item.entries().is_empty() => continue,
            None => match text(item, "target") {
                // A target that is no port was refused with its shape.
                Some(target) if range(target, false).is_err() => continue,
                Some(target) => long(item, target),
                None => {
                    context.report.error(&item.place, "a port needs a `target`, the container port");
                    continue;
                }
            },
        };
        match read {
            Ok(read) => {
                ports.extend(read.into_iter().map(|port| (port, item.place.clone())));
                if ports.len() > MOST_PORTS {
                    context.report.error(&item.place, format!("more than {MOST_PORTS} ports of one service"));
                    return ports;
                }
            }
            Err(problem) => {
                let shown = match item.text() {
                    Some(_) => format!("`{}` is not a port", item.shown()),
                    None => "this is not a port".to_owned(),
                };
                let fields = item.entries().iter().map(|entry| &entry.value);
                let reason = fields.chain([item]).fold(problem.reason, |reason, node| node.careful(&reason));
                let message = format!("{shown}: {reason}");
                match problem.help {
                    Some(help) => context.report.error_help(&item.place, message, help),
                    None => context.report.error(&item.place, message),
                }
            }
        }
    }
    ports
}

/// `[host ip:][host port or range:]port or range[/protocol]`.
///
/// # Errors
/// Why it is none.
pub fn short(text: &str) -> Result<Vec<Port>, PortProblem> {
    let text = text.trim();
    let (addresses, protocol) = match text.rsplit_once('/') {
        Some((addresses, protocol)) => (addresses, parse_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    let (host_ip, rest) = match addresses.strip_prefix('[') {
        Some(inner) => {
            let Some((address, rest)) = inner.split_once("]:") else {
                return Err("an IPv6 address in brackets is followed by `:` and the ports".into());
            };
            (Some(address), rest)
        }
        None => match addresses.matches(':').count() {
            0 | 1 => (None, addresses),
            2 => addresses.split_once(':').map_or((None, addresses), |(address, rest)| (Some(address), rest)),
            _ => {
                return Err(PortProblem {
                    reason: "it has too many parts".to_owned(),
                    help: Some("an IPv6 address stands in brackets: `[::1]:8080:80`".to_owned()),
                });
            }
        },
    };
    let (published, target) = match rest.split_once(':') {
        Some((published, target)) => (Some(published), target),
        None => (None, rest),
    };
    if host_ip.is_some() && published.is_none() {
        return Err("a host address must be followed by a host port and a container port, or `::port`".into());
    }
    let host_ip = host_ip.map(parse_address).transpose()?;
    let published = published.filter(|published| !published.is_empty()).map(|text| range(text, true)).transpose()?;
    combine(range(target, false)?, published, protocol, host_ip)
}

fn long(item: &Node, target: &str) -> Result<Vec<Port>, PortProblem> {
    let target = range(target, false)?;
    let published = text(item, "published").filter(|text| !text.is_empty());
    let published = published.map(|text| range(text, true)).transpose()?;
    let protocol = text(item, "protocol").map_or(Ok(Protocol::Tcp), parse_protocol)?;
    let host_ip = text(item, "host_ip").filter(|text| !text.is_empty()).map(parse_address).transpose()?;
    combine(target, published, protocol, host_ip)
}

/// The container ports of an item of `ports` or `expose` as it stands in a file. `plain` makes a text without variables of
/// one, where it can.
pub(crate) fn container_ports(
    item: &Node,
    plain: &dyn Fn(&str) -> Option<String>,
) -> Option<BTreeSet<(u16, Protocol)>> {
    let ports = match item.text() {
        Some(whole) => short(&plain(whole)?),
        None => {
            let target = plain(text(item, "target")?)?;
            let protocol = text(item, "protocol").unwrap_or("tcp");
            short(&format!("{target}/{protocol}"))
        }
    };
    Some(ports.ok()?.into_iter().map(|port| (port.target, port.protocol)).collect())
}

fn combine(
    target: (u16, u16),
    published: Option<(u16, u16)>,
    protocol: Protocol,
    host_ip: Option<IpAddr>,
) -> Result<Vec<Port>, PortProblem> {
    let port = |target: u16, published: Published| Port { target, protocol, host_ip, published };
    let (first, last) = target;
    let length = last - first;
    match published {
        // Host port 0 is Docker's word for "choose one".
        None | Some((0, 0)) => Ok((first..=last).map(|target| port(target, Published::Ephemeral)).collect()),
        Some((from, to)) if length == 0 => Ok(vec![port(first, Published::Range { first: from, last: to })]),
        Some((from, to)) if to - from == length => Ok((first..=last)
            .zip(from..=to)
            .map(|(target, host)| port(target, Published::Range { first: host, last: host }))
            .collect()),
        Some((from, to)) => Err(PortProblem {
            reason: format!(
                "{} host ports ({from}-{to}) cannot be matched with {} container ports ({first}-{last})",
                u32::from(to - from) + 1,
                u32::from(length) + 1
            ),
            help: Some("make both ranges equally long, or give one container port".to_owned()),
        }),
    }
}

fn range(text: &str, zero: bool) -> Result<(u16, u16), PortProblem> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first, zero)?, number(last, zero)?),
        None => {
            let only = number(text, zero)?;
            (only, only)
        }
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err(PortProblem {
            reason: format!("the range {first}-{last} ends before it begins"),
            help: Some(format!("write `{last}-{first}`")),
        }),
    }
}

fn number(text: &str, zero: bool) -> Result<u16, PortProblem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(0) if !zero => Err("0 is not a port".into()),
        Ok(port) if digits => Ok(port),
        _ if digits => Err(format!("`{}` is more than 65535", super::super::tree::shown(text)).into()),
        _ if text.is_empty() => Err("a port number is missing".into()),
        _ => Err(format!("`{}` is not a number", super::super::tree::shown(text)).into()),
    }
}

/// `tcp`, `udp` or `sctp`.
///
/// # Errors
/// What it is not.
pub fn parse_protocol(text: &str) -> Result<Protocol, PortProblem> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("the protocol must be tcp, udp or sctp, not `{}`", super::super::tree::shown(text)).into()),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, PortProblem> {
    let inner = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    inner.parse().map_err(|_| format!("`{}` is not an IP address", super::super::tree::shown(text)).into())
}

/// Exposed ports as `80/tcp`, sorted.
pub fn expose(service: &Node, context: &mut Context<'_>) -> Vec<String> {
    let mut ports: Vec<(u16, Protocol)> = Vec::new();
    let Some(node) = service.value("expose") else { return Vec::new() };
    for item in node.items() {
        let Some(text) = item.text() else { continue };
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        match parse_protocol(protocol).and_then(|protocol| Ok((range(numbers, false)?, protocol))) {
            Ok(((first, last), protocol)) => ports.extend((first..=last).map(|port| (port, protocol))),
            Err(problem) => {
                let message = format!("`{}` is not a port to expose: {}", item.shown(), item.careful(&problem.reason));
                context.report.error(&item.place, message);
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(u16, Protocol, Option<String>, Published)> {
        let ports = short(text).unwrap_or_else(|problem| panic!("{text}: {}", problem.reason));
        ports
            .into_iter()
            .map(|port| (port.target, port.protocol, port.host_ip.map(|ip| ip.to_string()), port.published))
            .collect()
    }

    fn fixed(port: u16) -> Published {
        Published::Range { first: port, last: port }
    }

    #[test]
    fn every_short_form_of_compose_is_read() {
        let local = || Some("127.0.0.1".to_owned());
        assert_eq!(of("80"), [(80, Protocol::Tcp, None, Published::Ephemeral)]);
        assert_eq!(of("8080:80"), [(80, Protocol::Tcp, None, fixed(8080))]);
        assert_eq!(of("53:53/udp"), [(53, Protocol::Udp, None, fixed(53))]);
        assert_eq!(of("127.0.0.1:8080:80"), [(80, Protocol::Tcp, local(), fixed(8080))]);
        assert_eq!(of("127.0.0.1::80"), [(80, Protocol::Tcp, local(), Published::Ephemeral)]);
        assert_eq!(of("[::1]:8080:80"), [(80, Protocol::Tcp, Some("::1".to_owned()), fixed(8080))]);
        assert_eq!(of("0:80"), [(80, Protocol::Tcp, None, Published::Ephemeral)]);
        assert_eq!(of("81-84:80"), [(80, Protocol::Tcp, None, Published::Range { first: 81, last: 84 })]);
        assert_eq!(
            of("3000-3001:4000-4001"),
            [(4000, Protocol::Tcp, None, fixed(3000)), (4001, Protocol::Tcp, None, fixed(3001))]
        );
        assert_eq!(of("80-81").len(), 2);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            ":",
            "a",
            "80/",
            "80/http",
            "0",
            "65536",
            "-80",
            "80-",
            "84-81:80",
            "1-3:1-2",
            "1:2:3:4",
            "::1:80:80",
            "300.0.0.1:80:80",
            "127.0.0.1:80",
            "80:",
            "+80",
            "[::1]80",
            "8080:80:tcp",
            "99999999999",
        ] {
            assert!(short(text).is_err(), "{text}");
        }
    }
}
