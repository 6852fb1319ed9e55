//! Random specs: services and routes that are wished for, and the text of the spec that wishes them.

use std::fmt::Write as _;

use proptest::prelude::*;

#[derive(Debug, Clone)]
pub struct ServiceWish {
    pub replicas: u32,
    pub image: u8,
    pub parallelism: u32,
    pub stop_first: Option<bool>,
    pub healthcheck: bool,
    pub volume: bool,
    pub depends: bool,
    pub ports: PortsWish,
    /// Also an upstream for it.
    pub routed: Option<RouteWish>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortsWish {
    None,
    Ephemeral,
    Range { spare: u16 },
}

#[derive(Debug, Clone)]
pub struct RouteWish {
    pub drain: u32,
    pub keep: bool,
}

fn service() -> impl Strategy<Value = ServiceWish> {
    let ports = prop_oneof![
        Just(PortsWish::None),
        Just(PortsWish::Ephemeral),
        (0_u16..3).prop_map(|spare| PortsWish::Range { spare }),
    ];
    let route = proptest::option::of((0_u32..20, any::<bool>()).prop_map(|(drain, keep)| RouteWish { drain, keep }));
    let update = (0_u32..4, proptest::option::of(any::<bool>()));
    (0_u32..5, 1_u8..3, update, any::<bool>(), any::<bool>(), any::<bool>(), ports, route).prop_map(
        |(replicas, image, (parallelism, stop_first), healthcheck, volume, depends, ports, routed)| ServiceWish {
            replicas,
            image,
            parallelism,
            stop_first,
            healthcheck,
            volume,
            depends,
            ports,
            routed,
        },
    )
}

/// Some of three services, by place.
pub fn wishes() -> impl Strategy<Value = Vec<Option<ServiceWish>>> {
    proptest::collection::vec(proptest::option::weighted(0.8, service()), 3)
        .prop_filter("a spec declares something", |wishes| wishes.iter().any(Option::is_some))
}

const NAMES: [&str; 3] = ["api", "store", "web"];

/// `reversed`: the same in another order.
pub fn text(wishes: &[Option<ServiceWish>], reversed: bool) -> String {
    let mut services = Vec::new();
    let mut upstreams = Vec::new();
    let mut volumes = String::new();
    for (index, wish) in wishes.iter().enumerate() {
        let Some(wish) = wish else { continue };
        let name = NAMES[index];
        let mut text = format!("  {name}:\n    image: localhost/{name}:{}\n", wish.image);
        let order = match wish.stop_first {
            Some(true) => ", order: stop-first",
            Some(false) => ", order: start-first",
            None => "",
        };
        let update = format!("{{ parallelism: {}{order} }}", wish.parallelism);
        let _ = writeln!(text, "    deploy: {{ replicas: {}, update_config: {update} }}", wish.replicas);
        let first = 8000 + 100 * u16::try_from(index).expect("three");
        let ports = match wish.ports {
            PortsWish::None if wish.routed.is_none() => None,
            PortsWish::None | PortsWish::Ephemeral => Some("80".to_owned()),
            PortsWish::Range { spare } => {
                let last = first + u16::try_from(wish.replicas.max(1)).expect("few") - 1 + spare;
                Some(if last == first { format!("{first}:80") } else { format!("{first}-{last}:80") })
            }
        };
        if let Some(ports) = ports {
            let _ = writeln!(text, "    ports: [\"{ports}\"]");
        }
        if wish.healthcheck {
            text.push_str("    healthcheck: { test: [CMD, check], interval: 1s }\n");
        }
        if wish.volume {
            let _ = writeln!(text, "    volumes: [\"{name}:/data\"]");
            let _ = writeln!(volumes, "  {name}: {{}}");
        }
        if let (true, Some(Some(_))) = (wish.depends, index.checked_sub(1).map(|before| &wishes[before])) {
            let _ = writeln!(text, "    depends_on: [{}]", NAMES[index - 1]);
        }
        if let Some(route) = &wish.routed {
            text.push_str("    register: { check: { http: /, interval: 5s, timeout: 1s } }\n");
            let keep = if route.keep { ", when_empty: keep" } else { "" };
            let listen = 9000 + index;
            upstreams
                .push(format!("  {name}: {{ service: {name}, listen: {listen}, drain: {}s{keep} }}\n", route.drain));
        }
        services.push(text);
    }
    if reversed {
        services.reverse();
        upstreams.reverse();
    }
    let mut text = format!("name: shop\nservices:\n{}", services.concat());
    if !upstreams.is_empty() {
        let _ = write!(text, "upstreams:\n{}", upstreams.concat());
    }
    if !volumes.is_empty() {
        let _ = write!(text, "volumes:\n{volumes}");
    }
    text
}
