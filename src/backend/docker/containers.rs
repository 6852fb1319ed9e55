//! Doing what an action says with a container.
//!
//! Creation is one unit: the create call, the networks that an older engine takes only afterwards, the files that are
//! copied in. What fails half-way is taken away again; what a crash left half-way is finished or refused by the next
//! action, never started.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, KillContainerOptions, RemoveContainerOptions,
    StartContainerOptions, StopContainerOptions, UploadToContainerOptions,
};

use super::connection::Connection;
use super::create::{self, Creation};
use super::error::Fault;
use super::execute::{Executor, READ_LIMIT, WRITE_LIMIT, short};
use super::labels::{self, Marks};
use super::wire::{self, Inspected, Listed};
use super::{mounts, names};
use crate::observed::WantedAttachment;
use crate::plan::action::NewContainer;
use crate::world::ActionError;

impl Executor<'_> {
    /// `None`: there is no such container.
    async fn inspect(&self, what: &str, container: &str) -> Result<Option<Inspected>, ActionError> {
        Self::check_name(what, container)?;
        let path = format!("/containers/{container}/json");
        self.link.find(READ_LIMIT, &path).await.map_err(|fault| fault.action(what))
    }

    /// As `inspect`, and a conflict when it is not ours.
    async fn inspect_ours(&self, what: &str, container: &str) -> Result<Option<Inspected>, ActionError> {
        let found = self.inspect(what, container).await?;
        match found {
            Some(found) if !self.is_ours(&found.config.labels) && !self.adopted.contains(&found.id) => {
                let owner = Self::owner_words(&found.config.labels);
                Err(ActionError::Conflict(format!("{what}: container {} is left alone: {owner}", short(&found.id))))
            }
            found => Ok(found),
        }
    }

    /// Is it there, and ours? An id is given once and its labels never change: what a look has seen to be ours is so, and is
    /// not asked for again, a hundred times when a hundred are stopped.
    async fn there(&self, what: &str, id: &str) -> Result<bool, ActionError> {
        Self::check_name(what, id)?;
        Ok(self.seen_ours || self.inspect_ours(what, id).await?.is_some())
    }

    pub(super) async fn create_container(&self, new: &NewContainer) -> Result<(), ActionError> {
        let what = format!("create container {}", new.name);
        Self::check_name(&what, &new.name)?;
        let image = &new.image;
        if !names::is_reference(image) {
            return Err(ActionError::Permanent(format!("{what}: `{image}` is no image reference")));
        }
        let found: Option<wire::Image> =
            self.link.find(READ_LIMIT, &format!("/images/{image}/json")).await.map_err(|fault| fault.action(&what))?;
        let Some(found) = found else {
            return Err(ActionError::Conflict(format!("{what}: the engine has no image {image}")));
        };
        if !new.image_id.is_empty() && new.image_id != found.id {
            return Err(ActionError::Conflict(format!(
                "{what}: {image} was tagged anew since the plan: it is {} now, and was {}",
                found.id, new.image_id
            )));
        }
        let connection = self.link.connection().await.map_err(|fault| fault.action(&what))?;
        let permanent = |why| ActionError::Permanent(format!("{what}: {why}"));
        let Creation { body, later } =
            create::creation(new, self.owner, &found.id, connection.version).map_err(permanent)?;
        let archive = mounts::archive(&new.config.files).map_err(permanent)?;
        let options = CreateContainerOptions {
            name: Some(new.name.clone()),
            platform: new.config.platform.clone().unwrap_or_default(),
        };
        let call = async |connection: Arc<Connection>| connection.client.create_container(Some(options), body).await;
        match self.link.call(WRITE_LIMIT, call).await {
            Ok(created) => {
                let completed = self.complete(&what, &created.id, later, archive).await;
                if completed.is_err() {
                    // All or nothing. If this fails too, the start refuses what is incomplete.
                    let _best_effort = self.remove(&created.id).await;
                }
                completed
            }
            Err(Fault::Refused { status: 409, message }) => {
                self.adopt(&what, new, &found.id, &message, later, archive).await
            }
            Err(fault) => Err(fault.action(&what)),
        }
    }

    /// The name is taken: by what an earlier try of this very action made, or by something else.
    async fn adopt(
        &self,
        what: &str,
        new: &NewContainer,
        image_id: &str,
        message: &str,
        later: Vec<(String, EndpointSettings)>,
        archive: Option<Vec<u8>>,
    ) -> Result<(), ActionError> {
        let Some(holder) = self.inspect(what, &new.name).await? else {
            return Err(ActionError::Conflict(format!("{what}: {message}")));
        };
        let labels = &holder.config.labels;
        let marks = Marks::read(labels).filter(|_| self.is_ours(labels));
        let (id, image) = (short(&holder.id), &holder.config.image);
        match marks {
            Some(marks) if marks.hash == new.hash && marks.image_id == image_id => {
                if !started(&holder) {
                    let endpoints = holder.network_settings.endpoints();
                    let missing = later.into_iter().filter(|(name, _)| !endpoints.contains_key(name)).collect();
                    self.complete(what, &holder.id, missing, archive).await?;
                }
                Ok(())
            }
            Some(marks) => Err(ActionError::Conflict(format!(
                "{what}: the name is taken by our container {id} (image {image}), which was made from another \
                 configuration ({}): it has to go first",
                marks.hash
            ))),
            None => Err(ActionError::Conflict(format!(
                "{what}: the name is taken by container {id} (image {image}), and {}: remove or rename it, or set \
                 another container_name or project name",
                Self::owner_words(labels)
            ))),
        }
    }

    /// What belongs to a creation beside the create call. Doing it again is harmless before the first start.
    async fn complete(
        &self,
        what: &str,
        id: &str,
        networks: Vec<(String, EndpointSettings)>,
        archive: Option<Vec<u8>>,
    ) -> Result<(), ActionError> {
        for (network, endpoint) in networks {
            let what = format!("{what}: connect to network {network}");
            self.connect(&what, id, &network, endpoint).await?;
        }
        let Some(archive) = archive else { return Ok(()) };
        let options = UploadToContainerOptions { path: "/".to_owned(), ..UploadToContainerOptions::default() };
        let call = async |connection: Arc<Connection>| {
            connection.client.upload_to_container(id, Some(options), bollard::body_full(archive.into())).await
        };
        let uploaded = self.link.call(WRITE_LIMIT, call).await;
        uploaded.map_err(|fault| fault.action(&format!("{what}: copy configs and secrets in")))
    }

    async fn connect(
        &self,
        what: &str,
        id: &str,
        network: &str,
        endpoint: EndpointSettings,
    ) -> Result<(), ActionError> {
        Self::check_name(what, network)?;
        let request = NetworkConnectRequest { container: id.to_owned(), endpoint_config: Some(endpoint) };
        let call = async |connection: Arc<Connection>| connection.client.connect_network(network, request).await;
        match self.link.call(WRITE_LIMIT, call).await {
            Err(Fault::Refused { message, .. }) if message.contains("already exists in network") => Ok(()),
            Err(Fault::Refused { status, message }) if address_in_use(&message) => {
                Err(ActionError::Transient(format!("{what}: {message} ({status}): {FIXED_ADDRESS}")))
            }
            result => result.map_err(|fault| fault.action(what)),
        }
    }

    pub(super) async fn start_container(&self, container: &str, name: &str) -> Result<(), ActionError> {
        let what = format!("start container {name}");
        let Some(found) = self.inspect_ours(&what, container).await? else {
            return Err(ActionError::Conflict(format!("{what}: it is gone")));
        };
        self.check_files(&what, &found).await?;
        let call = async |connection: Arc<Connection>| {
            connection.client.start_container(&found.id, None::<StartContainerOptions>).await
        };
        match self.link.call(WRITE_LIMIT, call).await {
            Err(Fault::Refused { message, .. }) if address_in_use(&message) => {
                Err(ActionError::Transient(format!("{what}: {}", self.address_words(&message).await)))
            }
            result => result.map_err(|fault| fault.action(&what)),
        }
    }

    /// A container whose creation was cut short must not run without its configs and secrets.
    async fn check_files(&self, what: &str, found: &Inspected) -> Result<(), ActionError> {
        let marks = Marks::read(&found.config.labels);
        for path in marks.filter(|_| !started(found)).into_iter().flat_map(|marks| marks.files) {
            let options = ContainerArchiveInfoOptions { path: path.clone() };
            let call = async |connection: Arc<Connection>| {
                connection.client.get_container_archive_info(&found.id, Some(options)).await
            };
            match self.link.call(READ_LIMIT, call).await {
                Ok(_) => {}
                Err(fault) if fault.not_found() => {
                    self.remove(&found.id).await.map_err(|fault| fault.action(what))?;
                    return Err(ActionError::Conflict(format!(
                        "{what}: its creation was interrupted before {path} was copied in; it was removed and has to be \
                         created again"
                    )));
                }
                Err(fault) => return Err(fault.action(what)),
            }
        }
        Ok(())
    }

    /// Who holds the port or address that a start was refused for, and what to do.
    async fn address_words(&self, message: &str) -> String {
        let Some((address, port)) = host_port(message) else { return format!("{message}: {FIXED_ADDRESS}") };
        let text = self.link.get(READ_LIMIT, "/containers/json").await;
        let list = text.and_then(|text| wire::lenient_list::<Listed>(&text, Listed::IDENTITY)).unwrap_or_default();
        let holds = |listed: &&Listed| {
            let meets = |host_ip: Option<IpAddr>| {
                host_ip.is_none_or(|held| held == address || held.is_unspecified() || address.is_unspecified())
            };
            listed.published().iter().any(|held| held.host == port && meets(held.host_ip))
        };
        let holder = match list.iter().find(holds) {
            Some(listed) => format!("container {}", listed.name()),
            None => format!("a program outside Docker (`ss -lnp 'sport = :{port}'` shows it)"),
        };
        format!("host port {port} is held by {holder}: free it, or change `ports` ({message})")
    }

    pub(super) async fn stop_container(&self, id: &str, name: &str, grace: Duration) -> Result<(), ActionError> {
        let what = format!("stop container {name}");
        if !self.there(&what, id).await? {
            return Ok(());
        }
        let seconds = create::whole_seconds(grace);
        let options = StopContainerOptions { t: Some(seconds), ..StopContainerOptions::default() };
        let limit = grace.saturating_add(WRITE_LIMIT);
        let call = async |connection: Arc<Connection>| connection.client.stop_container(id, Some(options)).await;
        match self.link.call(limit, call).await {
            Err(fault) if fault.not_found() => Ok(()),
            result => result.map_err(|fault| fault.action(&what)),
        }
    }

    pub(super) async fn signal_container(&self, id: &str, name: &str, signal: &str) -> Result<(), ActionError> {
        let what = format!("send {signal} to container {name}");
        match self.inspect_ours(&what, id).await? {
            Some(found) if found.state.running => {}
            Some(_) | None => return Ok(()),
        }
        let options = KillContainerOptions { signal: format!("SIG{signal}") };
        let call = async |connection: Arc<Connection>| connection.client.kill_container(id, Some(options)).await;
        match self.link.call(WRITE_LIMIT, call).await {
            Err(fault) if fault.not_found() => Ok(()),
            Err(Fault::Refused { message, .. }) if message.contains("is not running") => Ok(()),
            result => result.map_err(|fault| fault.action(&what)),
        }
    }

    pub(super) async fn unpause_container(&self, id: &str, name: &str) -> Result<(), ActionError> {
        let what = format!("unpause container {name}");
        let Some(found) = self.inspect_ours(&what, id).await? else {
            return Err(ActionError::Conflict(format!("{what}: it is gone")));
        };
        if !found.state.paused {
            return Ok(());
        }
        let call = async |connection: Arc<Connection>| connection.client.unpause_container(id).await;
        match self.link.call(WRITE_LIMIT, call).await {
            Err(Fault::Refused { message, .. }) if message.contains("is not paused") => Ok(()),
            result => result.map_err(|fault| fault.action(&what)),
        }
    }

    pub(super) async fn remove_container(&self, id: &str, name: &str) -> Result<(), ActionError> {
        let what = format!("remove container {name}");
        if !self.there(&what, id).await? {
            return Ok(());
        }
        self.remove(id).await.map_err(|fault| fault.action(&what))
    }

    /// Not forced: the engine refuses while it runs. Its volumes without a name go with it.
    async fn remove(&self, id: &str) -> Result<(), Fault> {
        let options = RemoveContainerOptions { v: true, force: false, link: false };
        let call = async |connection: Arc<Connection>| connection.client.remove_container(id, Some(options)).await;
        match self.link.call(WRITE_LIMIT, call).await {
            Err(fault) if fault.not_found() => Ok(()),
            Err(Fault::Refused { status: 409, message }) if message.contains("already in progress") => Ok(()),
            result => result,
        }
    }

    pub(super) async fn connect_network(
        &self,
        id: &str,
        name: &str,
        wanted: &WantedAttachment,
    ) -> Result<(), ActionError> {
        let what = format!("connect container {name} to network {}", wanted.network);
        let Some(found) = self.inspect_ours(&what, id).await? else {
            return Err(ActionError::Conflict(format!("{what}: the container is gone")));
        };
        let connection = self.link.connection().await.map_err(|fault| fault.action(&what))?;
        let service = found.config.labels.get(labels::SERVICE).map_or("", String::as_str);
        let endpoint = create::endpoint(&wanted.network, &wanted.attachment, service, connection.version)
            .map_err(|why| ActionError::Permanent(format!("{what}: {why}")))?;
        Self::check_name(&what, &wanted.network)?;
        if let Some(endpoint) = found.network_settings.endpoints().get(&wanted.network) {
            let path = format!("/networks/{}", wanted.network);
            let present: Option<wire::Network> =
                self.link.find(READ_LIMIT, &path).await.map_err(|fault| fault.action(&what))?;
            // A network that was removed and made anew while the container was stopped: the container still refers to
            // the old one by its id, and cannot start until it has left it.
            if present.is_some_and(|present| !endpoint.network_id.is_empty() && present.id != endpoint.network_id) {
                self.disconnect(&what, id, &wanted.network).await?;
            }
        }
        self.connect(&what, id, &wanted.network, endpoint).await
    }

    pub(super) async fn disconnect_network(&self, id: &str, name: &str, network: &str) -> Result<(), ActionError> {
        let what = format!("disconnect container {name} from network {network}");
        Self::check_name(&what, network)?;
        let Some(found) = self.inspect_ours(&what, id).await? else { return Ok(()) };
        if !found.network_settings.endpoints().contains_key(network) {
            return Ok(());
        }
        self.disconnect(&what, id, network).await
    }

    async fn disconnect(&self, what: &str, id: &str, network: &str) -> Result<(), ActionError> {
        let request = NetworkDisconnectRequest { container: id.to_owned(), force: None };
        let call = async |connection: Arc<Connection>| connection.client.disconnect_network(network, request).await;
        match self.link.call(WRITE_LIMIT, call).await {
            Err(fault) if fault.not_found() => Ok(()),
            Err(Fault::Refused { message, .. }) if message.contains("is not connected") => Ok(()),
            result => result.map_err(|fault| fault.action(what)),
        }
    }
}

const FIXED_ADDRESS: &str = "another container has the address that the spec fixes (ipv4_address, ipv6_address): free \
                             it, or change the spec";

/// Was it ever started? What was not has no start time.
fn started(found: &Inspected) -> bool {
    found.state.running || wire::time(&found.state.started_at).is_some()
}

/// "Bind for 0.0.0.0:80 failed: port is already allocated", "listen tcp4 0.0.0.0:80: bind: address already in use",
/// "Address already in use" (a fixed address of a container).
fn address_in_use(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("already in use") || message.contains("already allocated")
}

/// The first host address and port in an engine's message: `0.0.0.0:80`, `0.0.0.0:80:172.17.0.2:80/tcp:`, `[::]:80`.
fn host_port(message: &str) -> Option<(IpAddr, u16)> {
    let parse = |word: &str| {
        let word = word.trim_matches(|c: char| matches!(c, ',' | ';' | '"' | '\'' | '(' | ')'));
        let word = word.trim_end_matches(':').split('/').next().unwrap_or(word);
        if let Ok(address) = word.parse::<SocketAddr>() {
            return Some((address.ip(), address.port()));
        }
        // docker-proxy's `:::80` is `[::]:80`.
        if let Some(port) = word.strip_prefix(":::") {
            return Some((IpAddr::from([0_u16; 8]), port.parse().ok()?));
        }
        let mut parts = word.splitn(3, ':');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    message.split_whitespace().find_map(parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_found_in_every_engines_words() {
        let any = IpAddr::from([0, 0, 0, 0]);
        let messages = [
            "driver failed programming external connectivity on endpoint x (0a1b): Bind for 0.0.0.0:8081 failed: port \
             is already allocated",
            "driver failed programming external connectivity on endpoint x (0a1b): Error starting userland proxy: \
             listen tcp4 0.0.0.0:8081: bind: address already in use",
            "failed to set up container networking: driver failed programming external connectivity on endpoint x \
             (0a1b): failed to bind host port for 0.0.0.0:8081:172.17.0.2:80/tcp: address already in use",
            "failed to bind host port 0.0.0.0:8081/tcp: address already in use",
        ];
        for message in messages {
            assert!(address_in_use(message), "{message}");
            assert_eq!(host_port(message), Some((any, 8081)), "{message}");
        }
        assert_eq!(host_port("listen tcp6 [::]:81: bind: x"), Some((IpAddr::from([0_u16; 8]), 81)));
        assert!(address_in_use("Address already in use"));
        assert_eq!(host_port("Address already in use"), None);
    }
}
