//! Doing what an action says: networks, volumes, images here, containers in `containers`.
//!
//! Each action is idempotent, and looks at the mark before it changes or removes anything: what an earlier look found may
//! belong to somebody else by now. But for a container that a look has seen to be ours, by its id: ids are given once.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::RemoveVolumeOptions;

use super::connection::Link;
use super::create::hash_map;
use super::error::Fault;
use super::{labels, names, pull, wire};
use crate::plan::DockerAction;
use crate::spec::{Network, Owner, Volume};
use crate::world::ActionError;

pub(super) const READ_LIMIT: Duration = Duration::from_secs(10);
/// A busy disk makes an engine slow; beyond this it hangs.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Executor<'a> {
    pub(super) link: &'a Link,
    pub(super) owner: &'a Owner,
    /// `project@node`.
    pub(super) mark: &'a str,
    pub(super) config: Option<&'a Path>,
    /// Ids of containers without our mark that are ours all the same.
    pub(super) adopted: &'a BTreeSet<String>,
    /// The container that the action is about was seen, and is ours.
    pub(super) seen_ours: bool,
}

impl Executor<'_> {
    pub(super) async fn execute(&self, action: &DockerAction) -> Result<(), ActionError> {
        match action {
            DockerAction::CreateNetwork(network) => self.create_network(network).await,
            DockerAction::RemoveNetwork { id, name } => self.remove_network(id, name).await,
            DockerAction::CreateVolume(volume) => self.create_volume(volume).await,
            DockerAction::RemoveVolume { name } => self.remove_volume(name).await,
            DockerAction::PullImage { image, platform } => {
                pull::pull(self.link, self.config, image, platform.as_deref()).await
            }
            DockerAction::CreateContainer(new) => self.create_container(new).await,
            DockerAction::StartContainer { container, name } => self.start_container(container, name).await,
            DockerAction::StopContainer { id, name, grace } => self.stop_container(id, name, *grace).await,
            DockerAction::UnpauseContainer { id, name } => self.unpause_container(id, name).await,
            DockerAction::RemoveContainer { id, name } => self.remove_container(id, name).await,
            DockerAction::ConnectNetwork { id, name, attachment } => self.connect_network(id, name, attachment).await,
            DockerAction::DisconnectNetwork { id, name, network } => self.disconnect_network(id, name, network).await,
        }
    }

    /// Names and ids become part of URLs.
    pub(super) fn check_name(what: &str, name: &str) -> Result<(), ActionError> {
        if names::is_name(name) {
            return Ok(());
        }
        let rule = "it must begin with a letter or digit and contain only letters, digits, `_`, `.` and `-`";
        Err(ActionError::Permanent(format!("{what}: `{name}` is no name that Docker allows: {rule}")))
    }

    /// In words, for a conflict.
    pub(super) fn owner_words(labels: &std::collections::BTreeMap<String, String>) -> String {
        match labels.get(labels::OWNER) {
            Some(owner) => format!("it belongs to {owner}"),
            None => "it was not made by reeve".to_owned(),
        }
    }

    pub(super) fn is_ours(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        labels.get(labels::OWNER).is_some_and(|owner| owner == self.mark)
    }

    async fn networks_named(&self, what: &str, name: &str) -> Result<Vec<wire::Network>, ActionError> {
        let text = self.link.get(READ_LIMIT, "/networks").await;
        let list = text.and_then(|text| wire::lenient_list::<wire::Network>(&text, wire::Network::IDENTITY));
        let list = list.map_err(|fault| fault.action(&format!("{what}: list networks")))?;
        Ok(list.into_iter().filter(|network| network.name == name).collect())
    }

    fn taken(&self, what: &str, kind: &str, holder: &wire::Network) -> ActionError {
        let id = short(&holder.id);
        let owner = Self::owner_words(&holder.labels);
        ActionError::Conflict(format!(
            "{what}: the name is taken by the {kind} {id}, and {owner}: remove it, or give this one another `name`, or \
             declare it `external: true` to use it"
        ))
    }

    async fn create_network(&self, network: &Network) -> Result<(), ActionError> {
        let what = format!("create network {}", network.name);
        Self::check_name(&what, &network.name)?;
        // Older engines make a second network of the same name when they are not asked beforehand.
        let holders = self.networks_named(&what, &network.name).await?;
        if holders.iter().any(|holder| self.is_ours(&holder.labels)) {
            return Ok(());
        }
        if let Some(holder) = holders.first() {
            return Err(self.taken(&what, "network", holder));
        }
        let pools = network.ipam.iter().map(|pool| IpamConfig {
            subnet: pool.subnet.clone(),
            gateway: pool.gateway.clone(),
            ip_range: pool.ip_range.clone(),
            auxiliary_addresses: hash_map(&pool.aux_addresses),
        });
        let pools: Vec<_> = pools.collect();
        let ipam = (!pools.is_empty() || network.ipam_driver.is_some()).then(|| Ipam {
            driver: network.ipam_driver.clone(),
            config: Some(pools),
            options: None,
        });
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: network.driver.clone(),
            internal: network.internal.then_some(true),
            attachable: network.attachable.then_some(true),
            enable_ipv6: network.enable_ipv6.then_some(true),
            ipam,
            options: hash_map(&network.driver_opts),
            labels: Some(labels::of_network(network, self.owner)),
            ..NetworkCreateRequest::default()
        };
        let create = async |connection: std::sync::Arc<super::connection::Connection>| {
            connection.client.create_network(request).await
        };
        let created = self.link.call(WRITE_LIMIT, create).await;
        let holders = match created {
            Ok(_) | Err(Fault::Refused { status: 409, .. }) => self.networks_named(&what, &network.name).await?,
            Err(fault) => return Err(fault.action(&what)),
        };
        let stranger = holders.iter().find(|holder| !self.is_ours(&holder.labels));
        match (stranger, created) {
            (None, _) => Ok(()),
            // Somebody made one at the same moment: two of one name confuse everybody, so ours goes.
            (Some(holder), Ok(ours)) => {
                let remove = async |connection: std::sync::Arc<super::connection::Connection>| {
                    connection.client.remove_network(&ours.id).await
                };
                self.link.call(WRITE_LIMIT, remove).await.map_err(|fault| fault.action(&what))?;
                Err(self.taken(&what, "network", holder))
            }
            (Some(holder), Err(_)) => Err(self.taken(&what, "network", holder)),
        }
    }

    async fn remove_network(&self, id: &str, name: &str) -> Result<(), ActionError> {
        let what = format!("remove network {name}");
        Self::check_name(&what, id)?;
        let found: Option<wire::Network> =
            self.link.find(READ_LIMIT, &format!("/networks/{id}")).await.map_err(|fault| fault.action(&what))?;
        let Some(network) = found else { return Ok(()) };
        if !self.is_ours(&network.labels) {
            let owner = Self::owner_words(&network.labels);
            return Err(ActionError::Conflict(format!("{what}: {} is left alone: {owner}", short(id))));
        }
        let remove = async |connection: std::sync::Arc<super::connection::Connection>| {
            connection.client.remove_network(id).await
        };
        match self.link.call(WRITE_LIMIT, remove).await {
            Err(fault) if fault.not_found() => Ok(()),
            // 403 or 409: "has active endpoints".
            Err(Fault::Refused { status: 403 | 409, message }) => {
                Err(ActionError::Transient(format!("{what}: {message}; it goes when the last container has left it")))
            }
            result => result.map_err(|fault| fault.action(&what)),
        }
    }

    async fn find_volume(&self, what: &str, name: &str) -> Result<Option<wire::Volume>, ActionError> {
        let path = format!("/volumes/{name}");
        self.link.find(READ_LIMIT, &path).await.map_err(|fault| fault.action(what))
    }

    async fn create_volume(&self, volume: &Volume) -> Result<(), ActionError> {
        let what = format!("create volume {}", volume.name);
        Self::check_name(&what, &volume.name)?;
        let taken = |labels| {
            let owner = Self::owner_words(labels);
            ActionError::Conflict(format!(
                "{what}: there is one of that name, and {owner}: remove it, or give this one another `name`, or declare \
                 it `external: true` to use it"
            ))
        };
        if let Some(holder) = self.find_volume(&what, &volume.name).await? {
            return if self.is_ours(&holder.labels) { Ok(()) } else { Err(taken(&holder.labels)) };
        }
        let request = VolumeCreateRequest {
            name: Some(volume.name.clone()),
            driver: volume.driver.clone(),
            driver_opts: hash_map(&volume.driver_opts),
            labels: Some(labels::of_volume(volume, self.owner)),
            ..VolumeCreateRequest::default()
        };
        let create = async |connection: std::sync::Arc<super::connection::Connection>| {
            connection.client.create_volume(request).await
        };
        self.link.call(WRITE_LIMIT, create).await.map_err(|fault| fault.action(&what))?;
        // The engine answers 201 for one that exists already, and leaves its labels.
        match self.find_volume(&what, &volume.name).await? {
            Some(holder) if !self.is_ours(&holder.labels) => Err(taken(&holder.labels)),
            _ => Ok(()),
        }
    }

    async fn remove_volume(&self, name: &str) -> Result<(), ActionError> {
        let what = format!("remove volume {name}");
        Self::check_name(&what, name)?;
        let Some(volume) = self.find_volume(&what, name).await? else { return Ok(()) };
        if !self.is_ours(&volume.labels) {
            let owner = Self::owner_words(&volume.labels);
            return Err(ActionError::Conflict(format!("{what}: it is left alone: {owner}")));
        }
        let remove = async |connection: std::sync::Arc<super::connection::Connection>| {
            connection.client.remove_volume(name, None::<RemoveVolumeOptions>).await
        };
        match self.link.call(WRITE_LIMIT, remove).await {
            Err(fault) if fault.not_found() => Ok(()),
            Err(Fault::Refused { status: 409, message }) => {
                Err(ActionError::Transient(format!("{what}: {message}; it goes when no container uses it")))
            }
            result => result.map_err(|fault| fault.action(&what)),
        }
    }
}

/// As the command line shows ids.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
