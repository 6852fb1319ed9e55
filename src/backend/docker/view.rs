//! Reading the engine into `observed::Docker`.
//!
//! One list of everything says what there is; our containers are inspected when the list or an event says that they
//! changed. A container that the list names is never left out because its inspect failed: it would look as if it were
//! gone. The list's own words stand in for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;

use super::connection::Link;
use super::error::Fault;
use super::labels::{self, Marks};
use super::memory::Memory;
use super::names;
use super::stops::Way;
use super::wire::{self, Inspected, Listed};
use crate::observed::{
    Container, ContainerState, Discovered, Docker, Health, ImageSeen, Interest, NetworkSeen, Stranger, Trouble,
    VIEW_TIMEOUT, VolumeSeen,
};
use crate::world::ViewError;

/// Below `VIEW_TIMEOUT`, so that the reason that is shown is ours.
const VIEW_LIMIT: Duration = VIEW_TIMEOUT.saturating_sub(Duration::from_millis(500));
const LIST_LIMIT: Duration = Duration::from_secs(8);
/// An engine can hang on one container for minutes while it answers for all others.
const INSPECT_LIMIT: Duration = Duration::from_secs(3);
/// Inspects under way at once.
const INSPECTS: usize = 8;
/// Characters of a failed probe's output that are kept.
const OUTPUT: usize = 500;

pub(super) struct Viewer<'a> {
    pub(super) link: &'a Link,
    pub(super) memory: &'a Mutex<Memory>,
    /// `project@node`.
    pub(super) mark: &'a str,
}

impl Viewer<'_> {
    pub(super) async fn view(&self, interest: &Interest) -> Result<Docker, ViewError> {
        let work = async {
            let connection = self.link.connection().await.map_err(|fault| self.error("connect", &fault))?;
            let since = self.memory().clock();
            let (listed, networks, volumes, images) = tokio::try_join!(
                self.containers(),
                self.networks(interest),
                self.volumes(interest),
                self.images(interest)
            )?;
            let mut docker = Docker { api_version: connection.engine.to_string(), ..Docker::default() };
            docker.volumes = volumes;
            docker.images = images;
            docker.networks = networks;
            count_attached(&mut docker.networks, &listed);
            {
                let mut memory = self.memory();
                memory.adopted = interest.adopted.keys().cloned().collect();
                memory.discovers = interest.discovery;
            }
            self.sort_containers(listed, since, interest, &mut docker).await?;
            Ok(docker)
        };
        let late = |_| Err(self.error("read everything", &Fault::Late(VIEW_LIMIT)));
        tokio::time::timeout(VIEW_LIMIT, work).await.unwrap_or_else(late)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, what: &str, fault: &Fault) -> ViewError {
        ViewError(format!("docker at {}: {what}: {fault}", self.link.host()))
    }

    async fn containers(&self) -> Result<Vec<Listed>, ViewError> {
        let text = self.link.get(LIST_LIMIT, "/containers/json?all=1").await;
        let list = text.and_then(|text| wire::lenient_list::<Listed>(&text, Listed::IDENTITY));
        let mut list = list.map_err(|fault| self.error("list containers", &fault))?;
        if list.iter().any(|listed| listed.id.is_empty()) {
            return Err(self.error("list containers", &Fault::Broken("an entry has no id".to_owned())));
        }
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }

    async fn networks(&self, interest: &Interest) -> Result<BTreeMap<String, NetworkSeen>, ViewError> {
        let text = self.link.get(LIST_LIMIT, "/networks").await;
        let list = text.and_then(|text| wire::lenient_list::<wire::Network>(&text, wire::Network::IDENTITY));
        let mut seen: BTreeMap<String, NetworkSeen> = BTreeMap::new();
        for network in list.map_err(|fault| self.error("list networks", &fault))? {
            let ours = network.labels.get(labels::OWNER).is_some_and(|owner| owner == self.mark);
            if !ours && !interest.networks.contains(&network.name) {
                continue;
            }
            // Older engines allow two networks of one name: ours counts, then the one with the lower id, so that two
            // passes never disagree.
            let better = seen
                .get(&network.name)
                .is_none_or(|other| (!ours, network.id.as_str()) < (!other.ours, other.id.as_str()));
            if better {
                let network = NetworkSeen {
                    gateway: network.gateway(),
                    config: network.labels.get(labels::CONFIG).filter(|_| ours).cloned(),
                    id: network.id,
                    name: network.name.clone(),
                    ours,
                    attached: 0,
                };
                seen.insert(network.name.clone(), network);
            }
        }
        Ok(seen)
    }

    async fn volumes(&self, interest: &Interest) -> Result<BTreeMap<String, VolumeSeen>, ViewError> {
        let answer: Result<wire::Volumes, Fault> = self.link.read(LIST_LIMIT, "/volumes").await;
        let volumes = answer.map_err(|fault| self.error("list volumes", &fault))?.volumes;
        let seen = volumes.into_iter().filter_map(|volume| {
            let ours = volume.labels.get(labels::OWNER).is_some_and(|owner| owner == self.mark);
            (ours || interest.volumes.contains(&volume.name)).then(|| {
                let config = volume.labels.get(labels::CONFIG).filter(|_| ours).cloned();
                (volume.name.clone(), VolumeSeen { name: volume.name, ours, config })
            })
        });
        Ok(seen.collect())
    }

    async fn images(&self, interest: &Interest) -> Result<BTreeMap<String, ImageSeen>, ViewError> {
        // What is no reference cannot be there, and must not become part of a URL.
        let references: Vec<String> =
            interest.images.iter().filter(|reference| names::is_reference(reference)).cloned().collect();
        let find = |reference: String| async move {
            let path = format!("/images/{reference}/json");
            let found: Option<wire::Image> = match self.link.find(INSPECT_LIMIT, &path).await {
                // The engine does not take it for a reference: it has no such image, and the pull will say why.
                Err(fault) if fault.status() == Some(400) && !fault.lost_engine() => None,
                found => found.map_err(|fault| self.error(&format!("inspect image {reference}"), &fault))?,
            };
            let seen = found.map(|image| ImageSeen {
                healthcheck: image.config.has_healthcheck(),
                exposed: image.config.exposed(),
                id: image.id,
            });
            Ok(seen.map(|seen| (reference, seen)))
        };
        let found: Vec<_> = futures_util::stream::iter(references).map(find).buffer_unordered(INSPECTS).collect().await;
        found.into_iter().filter_map(Result::transpose).collect()
    }

    /// Ours by id, with all that an inspect tells; strangers as the list tells them.
    async fn sort_containers(
        &self,
        listed: Vec<Listed>,
        since: u64,
        interest: &Interest,
        docker: &mut Docker,
    ) -> Result<(), ViewError> {
        let mut stale = Vec::new();
        let mut others = Vec::new();
        let mut own = BTreeSet::new();
        for listed in listed {
            let owner = listed.labels.get(labels::OWNER).cloned();
            let marks = Marks::read(&listed.labels).filter(|_| owner.as_deref() == Some(self.mark));
            // What carries a mark is its owner's, whatever was decided here once.
            let adopted = || interest.adopted.get(&listed.id).filter(|_| owner.is_none()).map(Marks::from);
            let marks = marks.or_else(adopted);
            let Some(marks) = marks else {
                let stranger = stranger(&listed, owner);
                let discovered = interest.discovery && stranger.running && stranger.owner.is_none();
                docker.strangers.insert(listed.id.clone(), stranger);
                if discovered {
                    own.insert(listed.id.clone());
                    others.push(listed);
                }
                continue;
            };
            own.insert(listed.id.clone());
            match self.memory().recall(&listed) {
                Some(container) => drop(docker.containers.insert(listed.id.clone(), container)),
                None => stale.push((listed, marks)),
            }
        }
        let mut inspects = futures_util::stream::iter(stale)
            .map(|(listed, marks)| async move { (self.inspect(&listed, &marks, since).await, listed) })
            .buffer_unordered(INSPECTS);
        let mut unreadable = BTreeMap::new();
        while let Some((result, listed)) = inspects.next().await {
            match result {
                Ok(Some((container, problem))) => {
                    if let Some(problem) = problem {
                        unreadable.insert(listed.id.clone(), (container.name.clone(), problem));
                    }
                    docker.containers.insert(listed.id, container);
                }
                // Gone between the list and the inspect.
                Ok(None) => drop(own.remove(&listed.id)),
                Err(fault) => return Err(self.error(&format!("inspect container {}", listed.name()), &fault)),
            }
        }
        self.look_at_others(others, since, docker).await?;
        let mut memory = self.memory();
        memory.retain(own);
        let now = Timestamp::now();
        for container in docker.discovered.values_mut() {
            container.stopping = memory.stops.told(&container.id, &container.state, now);
        }
        for id in memory.newly_unreadable(unreadable.keys().cloned().collect()) {
            if let Some((name, problem)) = unreadable.get(&id) {
                tracing::warn!(container = %name, %problem, "cannot inspect a container; going by the list until it can");
            }
        }
        Ok(())
    }

    /// Containers without any mark of reeve's, for discovery.
    async fn look_at_others(&self, others: Vec<Listed>, since: u64, docker: &mut Docker) -> Result<(), ViewError> {
        let mut stale = Vec::new();
        for listed in others {
            match self.memory().recall_other(&listed) {
                Some(container) => drop(docker.discovered.insert(listed.id, container)),
                None => stale.push(listed),
            }
        }
        let mut inspects = futures_util::stream::iter(stale)
            .map(|listed| async move { (self.inspect_other(&listed, since).await, listed) })
            .buffer_unordered(INSPECTS);
        while let Some((result, listed)) = inspects.next().await {
            match result {
                Ok(Some(container)) => drop(docker.discovered.insert(listed.id, container)),
                Ok(None) => {}
                Err(fault) => return Err(self.error(&format!("inspect container {}", listed.name()), &fault)),
            }
        }
        Ok(())
    }

    async fn inspect_other(&self, listed: &Listed, since: u64) -> Result<Option<Discovered>, Fault> {
        let path = format!("/containers/{}/json", listed.id);
        match self.link.find::<Inspected>(INSPECT_LIMIT, &path).await {
            Ok(None) => Ok(None),
            Ok(Some(inspected)) => {
                let container = discovered(listed, &inspected);
                let way = Way::of(&inspected.config.stop_signal, inspected.config.stop_timeout);
                self.memory().store_other(listed, &container, way, since);
                Ok(Some(container))
            }
            Err(fault @ (Fault::Unreachable(_) | Fault::Settings(_))) => Err(fault),
            Err(fault) => {
                let reason = format!("container {} cannot be inspected: {fault}", listed.name());
                let running = matches!(listed.state.as_str(), "running");
                let now = Timestamp::now();
                Ok(Some(Discovered {
                    state: if running {
                        ContainerState::Running { started_at: now }
                    } else {
                        ContainerState::Paused { started_at: now }
                    },
                    unreadable: Some(reason),
                    ..discovered(listed, &Inspected::default())
                }))
            }
        }
    }

    /// `None`: it is gone. With a fault: the container as the list shows it, because it could not be inspected.
    async fn inspect(
        &self,
        listed: &Listed,
        marks: &Marks,
        since: u64,
    ) -> Result<Option<(Container, Option<Fault>)>, Fault> {
        let path = format!("/containers/{}/json", listed.id);
        match self.link.find::<Inspected>(INSPECT_LIMIT, &path).await {
            Ok(None) => Ok(None),
            Ok(Some(inspected)) => {
                let container = from_inspect(listed, marks, &inspected);
                self.memory().store(listed, &container, since);
                Ok(Some((container, None)))
            }
            // The engine itself is gone: all that was read may be old.
            Err(fault @ (Fault::Unreachable(_) | Fault::Settings(_))) => Err(fault),
            Err(fault) => Ok(Some((from_list(listed, marks, Timestamp::now()), Some(fault)))),
        }
    }
}

/// Also stopped ones: they could not start again if their network went.
fn count_attached(networks: &mut BTreeMap<String, NetworkSeen>, listed: &[Listed]) {
    for container in listed {
        for (name, endpoint) in container.network_settings.endpoints() {
            if let Some(network) = networks.get_mut(&name)
                && (endpoint.network_id.is_empty() || endpoint.network_id == network.id)
            {
                network.attached += 1;
            }
        }
    }
}

fn stranger(listed: &Listed, owner: Option<String>) -> Stranger {
    Stranger {
        name: listed.name().to_owned(),
        owner,
        running: matches!(listed.state.as_str(), "running" | "paused" | "restarting"),
        published: listed.published(),
        networks: listed.network_settings.endpoints(),
    }
}

fn discovered(listed: &Listed, inspected: &Inspected) -> Discovered {
    Discovered {
        id: listed.id.clone(),
        name: listed.name().to_owned(),
        image: inspected.config.image.clone(),
        variables: inspected.config.variables("SERVICE_"),
        exposed: inspected.config.exposed(),
        published: inspected.network_settings.published(),
        networks: inspected.network_settings.endpoints(),
        network_mode: inspected.host_config.network_mode.clone(),
        state: state(inspected),
        health: health(inspected),
        stopping: None,
        unreadable: None,
    }
}

fn from_inspect(listed: &Listed, marks: &Marks, inspected: &Inspected) -> Container {
    let mut container = skeleton(listed, marks);
    container.name = inspected.name.trim_start_matches('/').to_owned();
    container.state = state(inspected);
    container.health = health(inspected);
    container.networks = inspected.network_settings.endpoints();
    container.published = inspected.network_settings.published();
    container.created_at = wire::time(&inspected.created);
    container.restarts = inspected.restart_count;
    container.trouble = failed_probe(inspected).map(|probe| Arc::new(Trouble { probe: Some(probe), log: Vec::new() }));
    container.network_mode = inspected.host_config.network_mode.clone();
    container
}

/// The list tells no start time; `now` only prolongs what waits for some time to pass.
fn from_list(listed: &Listed, marks: &Marks, now: Timestamp) -> Container {
    let mut container = skeleton(listed, marks);
    let status = listed.status.as_str();
    container.state = match listed.state.as_str() {
        "created" => ContainerState::Created,
        "paused" => ContainerState::Paused { started_at: now },
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        "dead" => ContainerState::Dead,
        "exited" => ContainerState::Exited { code: exit_code(status), started_at: None, finished_at: None },
        "running" => ContainerState::Running { started_at: now },
        _ if status.starts_with("Up") => ContainerState::Running { started_at: now },
        _ => ContainerState::Exited { code: exit_code(status), started_at: None, finished_at: None },
    };
    container.health = if status.contains("(healthy)") {
        Health::Healthy
    } else if status.contains("(unhealthy)") {
        Health::Unhealthy("the engine's list says so; the container cannot be inspected".to_owned())
    } else if status.contains("(health:") {
        Health::Starting
    } else {
        Health::None
    };
    container
}

fn skeleton(listed: &Listed, marks: &Marks) -> Container {
    Container {
        id: listed.id.clone(),
        name: listed.name().to_owned(),
        service: marks.service.clone(),
        slot: marks.slot,
        hash: marks.hash.clone(),
        config: marks.config.clone(),
        image_id: marks.image_id.clone(),
        chosen_ports: marks.chosen_ports.clone(),
        registers: marks.registers,
        depends_on: marks.depends_on.clone(),
        state: ContainerState::Created,
        health: Health::None,
        networks: listed.network_settings.endpoints(),
        published: listed.published(),
        probe: None,
        created_at: Timestamp::from_second(listed.created).ok(),
        restarts: 0,
        trouble: None,
        network_mode: listed.host_config.network_mode.clone(),
    }
}

/// `Exited (137) 3 seconds ago`. What does not tell its code did not end well.
fn exit_code(status: &str) -> i64 {
    let code = status.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(code, _)| code);
    code.and_then(|code| code.parse().ok()).unwrap_or(-1)
}

fn state(inspected: &Inspected) -> ContainerState {
    let state = &inspected.state;
    // An engine that says "running" without a time: the wait is prolonged, not cut short.
    let started_at = || wire::time(&state.started_at).unwrap_or_else(Timestamp::now);
    let exited = || ContainerState::Exited {
        code: state.exit_code,
        started_at: wire::time(&state.started_at),
        finished_at: wire::time(&state.finished_at),
    };
    match state.status.as_str() {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running { started_at: started_at() },
        "paused" => ContainerState::Paused { started_at: started_at() },
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        "exited" => exited(),
        "dead" => ContainerState::Dead,
        // A word that this code does not know; the flags are older than the word.
        _ if state.dead => ContainerState::Dead,
        _ if state.restarting => ContainerState::Restarting,
        _ if state.paused => ContainerState::Paused { started_at: started_at() },
        _ if state.running => ContainerState::Running { started_at: started_at() },
        _ if wire::time(&state.started_at).is_none() => ContainerState::Created,
        _ => exited(),
    }
}

fn health(inspected: &Inspected) -> Health {
    let Some(health) = &inspected.state.health else { return Health::None };
    match health.status.as_str() {
        "" | "none" => Health::None,
        "healthy" => Health::Healthy,
        "unhealthy" => {
            let output = health.log.last().map_or("", |log| log.output.trim());
            Health::Unhealthy(output.chars().take(OUTPUT).collect())
        }
        // What this code does not know is not healthy yet.
        _ => Health::Starting,
    }
}

/// What the last run of a HEALTHCHECK that has not passed yet, or fails, said.
fn failed_probe(inspected: &Inspected) -> Option<String> {
    let health = inspected.state.health.as_ref().filter(|health| health.status != "healthy")?;
    let last = health.log.last().filter(|last| last.exit_code != 0)?;
    let output = last.output.trim();
    let said = if output.is_empty() { format!("exit code {}", last.exit_code) } else { output.to_owned() };
    Some(said.chars().take(OUTPUT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(json: &str) -> Inspected {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn every_state_of_the_engine_is_told_apart() {
        let at = |status: &str| {
            state(&inspected(&format!(
                r#"{{"State":{{"Status":"{status}","ExitCode":3,"StartedAt":"2026-11-23T10:00:00Z",
                    "FinishedAt":"2026-11-23T11:00:00Z"}}}}"#
            )))
        };
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(at("created"), ContainerState::Created);
        assert_eq!(at("running"), ContainerState::Running { started_at: time("2026-11-23T10:00:00Z") });
        assert_eq!(at("paused"), ContainerState::Paused { started_at: time("2026-11-23T10:00:00Z") });
        assert_eq!(at("restarting"), ContainerState::Restarting);
        assert_eq!(at("removing"), ContainerState::Removing);
        assert_eq!(at("dead"), ContainerState::Dead);
        let finished_at = Some(time("2026-11-23T11:00:00Z"));
        assert_eq!(
            at("exited"),
            ContainerState::Exited { code: 3, started_at: Some(time("2026-11-23T10:00:00Z")), finished_at }
        );
    }

    #[test]
    fn an_unknown_state_is_read_from_the_flags() {
        let with = |flags: &str| state(&inspected(&format!(r#"{{"State":{{"Status":"quiesced",{flags}}}}}"#)));
        assert!(with(r#""Running":true,"StartedAt":"2026-11-23T10:00:00Z""#).running());
        assert_eq!(with(r#""Dead":true"#), ContainerState::Dead);
        assert_eq!(with(r#""StartedAt":"0001-01-01T00:00:00Z""#), ContainerState::Created);
        assert!(matches!(with(r#""StartedAt":"2026-11-23T10:00:00Z","ExitCode":1"#), ContainerState::Exited { .. }));
    }

    #[test]
    fn an_unhealthy_container_tells_what_its_last_probe_said() {
        let unhealthy = inspected(
            r#"{"State":{"Health":{"Status":"unhealthy","Log":[{"Output":"old"},{"Output":" refused \n"}]}}}"#,
        );
        assert_eq!(health(&unhealthy), Health::Unhealthy("refused".to_owned()));
        assert_eq!(health(&inspected(r#"{"State":{"Health":null}}"#)), Health::None);
        assert_eq!(health(&inspected(r#"{"State":{"Health":{"Status":"starting"}}}"#)), Health::Starting);
    }

    #[test]
    fn the_exit_code_is_in_the_lists_words() {
        assert_eq!(exit_code("Exited (137) 3 seconds ago"), 137);
        assert_eq!(exit_code("Exited"), -1);
    }
}
