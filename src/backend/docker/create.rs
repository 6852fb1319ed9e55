//! From a `NewContainer` to what the engine's create call takes. Pure.
//!
//! What the engine's version cannot do is refused here with the name of the key, because an older engine would ignore it
//! without a word.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, NetworkingConfig, PortBinding, PortMap, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::connection::ApiVersion;
use super::labels;
use super::mounts::{self, Mounts};
use crate::plan::action::NewContainer;
use crate::spec::Owner;
use crate::spec::container::{EnvironmentValue, Healthcheck, NetworkAttachment, NetworkMode, Resources, Restart};

/// From here on one create call takes several networks, and a MAC address for each of them; a health check has
/// `start_interval`. Docker 25.0.
pub(super) const API_25: ApiVersion = ApiVersion::new(1, 44);

/// Everything that makes the container what it is, before its first start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Creation {
    pub(super) body: ContainerCreateBody,
    /// Networks to connect after the create call, which takes only one in an older engine.
    pub(super) later: Vec<(String, EndpointSettings)>,
}

/// The error is a sentence without the object's name.
pub(super) fn creation(
    new: &NewContainer,
    owner: &Owner,
    image_id: &str,
    version: ApiVersion,
) -> Result<Creation, String> {
    let config = &*new.config;
    let (network_mode, mut endpoints) = networks(new, version)?;
    let later = if version >= API_25 { Vec::new() } else { endpoints.split_off(endpoints.len().min(1)) };
    let Mounts { mounts, binds, tmpfs } = mounts::mounts(&config.mounts, &config.files)?;
    mounts::check_copied(config)?;
    let resources = config.resources.clone().unwrap_or_default();
    let host_config = HostConfig {
        network_mode,
        port_bindings: filled(port_bindings(new)),
        binds: filled(binds),
        mounts: filled(mounts),
        tmpfs: filled(tmpfs),
        restart_policy: config.restart.map(restart_policy),
        init: config.init,
        privileged: config.privileged,
        cap_add: filled(config.cap_add.clone()),
        cap_drop: filled(config.cap_drop.clone()),
        security_opt: filled(config.security_opt.clone()),
        readonly_rootfs: config.read_only,
        shm_size: bytes("shm_size", config.shm_size)?,
        ulimits: filled(ulimits(new)),
        sysctls: filled(config.sysctls.clone().into_iter().collect()),
        extra_hosts: filled(config.extra_hosts.clone()),
        dns: filled(config.dns.clone()),
        dns_options: filled(config.dns_opt.clone()),
        dns_search: filled(config.dns_search.clone()),
        devices: filled(devices(new)),
        log_config: config.logging.as_ref().map(|logging| HostConfigLogConfig {
            typ: logging.driver.clone(),
            config: filled(logging.options.clone().into_iter().collect()),
        }),
        ..limits(&resources)?
    };
    let body = ContainerCreateBody {
        image: Some(new.image.clone()),
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        cmd: config.command.clone(),
        entrypoint: config.entrypoint.clone(),
        env: filled(environment(new)),
        labels: Some(labels::of_container(new, owner, image_id)),
        exposed_ports: filled(exposed(new)),
        tty: config.tty,
        open_stdin: config.stdin_open,
        healthcheck: config.healthcheck.as_ref().map(|check| healthcheck(check, version)).transpose()?,
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_grace_period.map(|grace| i64::from(whole_seconds(grace))),
        host_config: Some(host_config),
        networking_config: (!endpoints.is_empty())
            .then(|| NetworkingConfig { endpoints_config: Some(endpoints.into_iter().collect()) }),
        ..ContainerCreateBody::default()
    };
    Ok(Creation { body, later })
}

/// `None` for what is empty: the engine's (or the image's) own value stays.
fn filled<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// The engine counts in whole seconds; a grace that was cut short would kill early.
pub(super) fn whole_seconds(time: Duration) -> i32 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn bytes(key: &str, value: Option<u64>) -> Result<Option<i64>, String> {
    let convert = |value: u64| i64::try_from(value).map_err(|_| format!("{key}: {value} bytes are too many"));
    value.map(convert).transpose()
}

/// The network mode, and the settings of each network in the order of their names.
#[expect(clippy::type_complexity, reason = "used by one caller, which takes it apart at once")]
fn networks(
    new: &NewContainer,
    version: ApiVersion,
) -> Result<(Option<String>, Vec<(String, EndpointSettings)>), String> {
    let mode = match &new.network_mode {
        None => None,
        Some(NetworkMode::Host) => Some("host".to_owned()),
        Some(NetworkMode::None) => Some("none".to_owned()),
        Some(NetworkMode::Bridge) => Some("bridge".to_owned()),
        Some(NetworkMode::Container(container)) => Some(format!("container:{container}")),
        Some(NetworkMode::Service(service)) => {
            return Err(format!("network_mode: no container of the service {service} is known yet"));
        }
    };
    if mode.is_some() {
        return Ok((mode, Vec::new()));
    }
    let endpoint = |(name, attachment): (&String, &NetworkAttachment)| {
        Ok((name.clone(), endpoint(name, attachment, &new.service, version)?))
    };
    let endpoints: Vec<_> = new.config.networks.iter().map(endpoint).collect::<Result<_, String>>()?;
    Ok((endpoints.first().map(|(name, _)| name.clone()), endpoints))
}

/// The settings of one network. `service` becomes an alias, so that the others find it as they do with Compose.
pub(super) fn endpoint(
    network: &str,
    attachment: &NetworkAttachment,
    service: &str,
    version: ApiVersion,
) -> Result<EndpointSettings, String> {
    if attachment.mac_address.is_some() && version < API_25 {
        return Err(format!(
            "networks.{network}.mac_address needs API version {API_25} (Docker 25.0), and this engine offers {version}: \
             leave it out, or update the engine"
        ));
    }
    // The engine refuses aliases on its own predefined networks.
    let predefined = matches!(network, "bridge" | "host" | "none");
    let mut aliases: Vec<String> = Vec::new();
    if !predefined {
        let all = std::iter::once(service).chain(attachment.aliases.iter().map(String::as_str));
        let mut seen = BTreeSet::new();
        aliases.extend(all.filter(|alias| seen.insert(*alias)).map(str::to_owned));
    }
    let ipam = EndpointIpamConfig {
        ipv4_address: attachment.ipv4_address.clone(),
        ipv6_address: attachment.ipv6_address.clone(),
        link_local_ips: filled(attachment.link_local_ips.clone()),
    };
    Ok(EndpointSettings {
        aliases: filled(aliases),
        ipam_config: filled(ipam),
        mac_address: attachment.mac_address.clone(),
        ..EndpointSettings::default()
    })
}

/// From the planner's choice, which has one entry for each of the spec's ports.
fn port_bindings(new: &NewContainer) -> PortMap {
    let mut bindings = PortMap::new();
    for port in &new.host_ports {
        let binding = PortBinding {
            host_ip: port.host_ip.map(|address| address.to_string()),
            // Empty: the engine chooses.
            host_port: Some(if port.host == 0 { String::new() } else { port.host.to_string() }),
        };
        let key = format!("{}/{}", port.target, port.protocol);
        bindings.entry(key).or_insert_with(|| Some(Vec::new())).get_or_insert_default().push(binding);
    }
    bindings
}

/// A published port must be exposed as well: older engines do not do it by themselves.
fn exposed(new: &NewContainer) -> Vec<String> {
    let published = new.host_ports.iter().map(|port| format!("{}/{}", port.target, port.protocol));
    let exposed: BTreeSet<_> = published.chain(new.config.expose.iter().cloned()).collect();
    exposed.into_iter().collect()
}

fn environment(new: &NewContainer) -> Vec<String> {
    let line = |(name, value): (&String, &EnvironmentValue)| match value {
        EnvironmentValue::Unset => name.clone(),
        EnvironmentValue::Plain(value) => format!("{name}={value}"),
        EnvironmentValue::Secret(secret) => format!("{name}={}", secret.reveal()),
    };
    new.config.environment.iter().map(line).collect()
}

fn healthcheck(check: &Healthcheck, version: ApiVersion) -> Result<HealthConfig, String> {
    if check.start_interval.is_some() && version < API_25 {
        return Err(format!(
            "healthcheck.start_interval needs API version {API_25} (Docker 25.0), and this engine offers {version}: \
             leave it out, or update the engine"
        ));
    }
    Ok(HealthConfig {
        test: check.test.clone(),
        interval: check.interval.map(nanoseconds),
        timeout: check.timeout.map(nanoseconds),
        retries: check.retries.map(i64::from),
        start_period: check.start_period.map(nanoseconds),
        start_interval: check.start_interval.map(nanoseconds),
    })
}

fn restart_policy(restart: Restart) -> RestartPolicy {
    let (name, retries) = match restart {
        Restart::No => (RestartPolicyNameEnum::NO, None),
        Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        Restart::OnFailure { max_retries } => (RestartPolicyNameEnum::ON_FAILURE, max_retries),
    };
    RestartPolicy { name: Some(name), maximum_retry_count: retries.map(i64::from) }
}

fn ulimits(new: &NewContainer) -> Vec<ResourcesUlimits> {
    let limits = new.config.ulimits.iter();
    limits
        .map(|(name, limit)| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(limit.soft),
            hard: Some(limit.hard),
        })
        .collect()
}

fn devices(new: &NewContainer) -> Vec<DeviceMapping> {
    let devices = new.config.devices.iter();
    devices
        .map(|device| DeviceMapping {
            path_on_host: Some(device.host.clone()),
            path_in_container: Some(device.container.clone()),
            cgroup_permissions: Some(device.permissions.clone()),
        })
        .collect()
}

fn limits(resources: &Resources) -> Result<HostConfig, String> {
    Ok(HostConfig {
        nano_cpus: resources.nano_cpus,
        memory: bytes("deploy.resources.limits.memory", resources.memory)?,
        memory_reservation: bytes("deploy.resources.reservations.memory", resources.memory_reservation)?,
        pids_limit: resources.pids,
        ..HostConfig::default()
    })
}

/// As a map for the calls that take one.
pub(super) fn hash_map(map: &std::collections::BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    filled(map.clone().into_iter().collect())
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
