//! Start-first or stop-first: decided by what the service is when the spec does not say.

use crate::spec::container::{MountSource, NetworkMode, Published};
use crate::spec::{Service, UpdateOrder};

/// The order in which a replica of the service is replaced, and why it is not start-first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub order: UpdateOrder,
    /// In words; empty for start-first.
    pub reason: String,
}

/// `update_config.order` wins where it is possible. Unset, a service is replaced start-first only if traffic would notice
/// (it registers) and nothing of it can exist only once.
pub fn decide(service: &Service) -> Order {
    let stop_first = |reason: String| Order { order: UpdateOrder::StopFirst, reason };
    if let Some(reason) = exists_once(service) {
        return stop_first(reason);
    }
    match service.update.order {
        Some(UpdateOrder::StartFirst) => return Order { order: UpdateOrder::StartFirst, reason: String::new() },
        Some(UpdateOrder::StopFirst) => return stop_first("update_config.order says so".to_owned()),
        None => {}
    }
    if service.job {
        return stop_first("it is a job".to_owned());
    }
    if let Some(target) = writable_storage(service) {
        return stop_first(format!("{target} is a writable volume or bind"));
    }
    if service.register.is_empty() {
        // What is not registered is not routed either.
        return stop_first("it is neither registered nor routed".to_owned());
    }
    Order { order: UpdateOrder::StartFirst, reason: String::new() }
}

/// What of the service can exist only once, so that a second replica cannot start beside the old one.
fn exists_once(service: &Service) -> Option<String> {
    let config = &service.config;
    if let Some(name) = &config.container_name {
        return Some(format!("container_name {name} can exist only once"));
    }
    if let Some(name) = &config.hostname {
        return Some(format!("hostname {name} is fixed"));
    }
    if matches!(config.network_mode, Some(NetworkMode::Host)) {
        return Some("it uses the host's network".to_owned());
    }
    let fixed = config
        .networks
        .iter()
        .find(|(_, attachment)| attachment.ipv4_address.is_some() || attachment.ipv6_address.is_some());
    if let Some((network, _)) = fixed {
        return Some(format!("its address on network {network} is fixed"));
    }
    config.ports.iter().find_map(|port| match port.published {
        Published::Ephemeral => None,
        Published::Range { first, last } if first == last => Some(format!("host port {first} is fixed")),
        Published::Range { first, last } => {
            let length = u32::from(last - first) + 1;
            (length <= service.replicas).then(|| format!("host ports {first}-{last} have no spare one"))
        }
    })
}

fn writable_storage(service: &Service) -> Option<&str> {
    service.config.mounts.iter().find_map(|mount| match mount.source {
        MountSource::Volume { .. } | MountSource::Bind { .. } if !mount.read_only => Some(mount.target.as_str()),
        MountSource::Volume { .. } | MountSource::Bind { .. } | MountSource::Anonymous | MountSource::Tmpfs { .. } => {
            None
        }
    })
}
