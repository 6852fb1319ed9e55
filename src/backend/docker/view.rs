//! Reading the engine into `observed::Docker`.
//!
//! A look lists everything, or reads only what has changed since the last one (`memory` says which): it is the same
//! function of what is then known. Our containers are inspected when the list, an event or a write of ours says that they
//! changed. A container that the list names is never left out because its inspect failed: it would look as if it were
//! gone. The list's own words stand in for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jiff::Timestamp;

use super::connection::Link;
use super::convert::{discovered, from_inspect, from_list, stranger};
use super::dirty::{Change, same_reference};
use super::error::Fault;
use super::labels::{self, Marks};
use super::memory::{Look, Memory, Scope, Whole};
use super::names;
use super::stops::Way;
use super::wire::{self, Inspected, Listed};
use crate::observed::{
    Container, ContainerState, Discovered, Docker, ImageSeen, Interest, NetworkSeen, VIEW_TIMEOUT, VolumeSeen,
};
use crate::world::ViewError;

/// Below `VIEW_TIMEOUT`, so that the reason that is shown is ours.
const VIEW_LIMIT: Duration = VIEW_TIMEOUT.saturating_sub(Duration::from_millis(500));
const LIST_LIMIT: Duration = Duration::from_secs(8);
/// An engine can hang on one container for minutes while it answers for all others.
pub(super) const INSPECT_LIMIT: Duration = Duration::from_secs(3);
/// An engine answers for a container that it is starting when it has started (Docker 20.10: a tenth of a second or two). Its
/// event will tell of that; nothing else waits for it.
const STARTING_LIMIT: Duration = Duration::from_millis(10);
/// Inspects under way at once.
const INSPECTS: usize = 8;

pub(super) struct Viewer<'a> {
    pub(super) link: &'a Link,
    pub(super) memory: &'a Mutex<Memory>,
    /// `project@node`.
    pub(super) mark: &'a str,
    /// Everything is listed again after so long.
    pub(super) relist: Duration,
}

/// A look under way.
struct Begun<'a> {
    interest: &'a Interest,
    look: Look,
    /// The clock when it began.
    since: u64,
    /// Inspects that this look has made already, by id.
    fresh: BTreeMap<String, Inspected>,
}

impl Viewer<'_> {
    /// One at a time, or an older look could overwrite what a newer one remembers.
    pub(super) async fn view(&self, interest: &Interest) -> Result<Docker, ViewError> {
        let work = async {
            let now = Instant::now();
            let scope = Scope::of(interest);
            // First of all: whatever fails from here on is followed by a look that lists.
            let (since, part) = self.memory().begin(&scope, self.relist, now);
            let connection = self.link.connection().await.map_err(|fault| self.error("connect", &fault))?;
            let begun = |look, fresh| Begun { interest, look, since, fresh };
            let version = connection.engine.to_string();
            if let Some((mut whole, mut changes)) = part {
                // The event tells enough of what has ended until the engine does: it would be waited for.
                changes.retain(|change| match change {
                    Change::Container(id) => !(self.memory().awaits(id) && whole.containers.contains_key(id)),
                    _ => true,
                });
                let (_, fresh) = tokio::try_join!(self.ping_unless(&changes), self.renew(&mut whole, &changes))?;
                if let Some(fresh) = fresh
                    && let Some(docker) = self.docker(whole, begun(Look::Part, fresh), &version).await?
                {
                    return Ok(docker);
                }
            }
            let (containers, networks, volumes, images) =
                tokio::try_join!(self.containers(), self.networks(), self.volumes(interest), self.images(interest))?;
            let whole = Whole { scope, listed_at: now, containers, networks, volumes, images };
            let docker = self.docker(whole, begun(Look::Whole, BTreeMap::new()), &version).await?;
            docker.ok_or_else(|| self.error("read everything", &Fault::Broken("nothing came of it".to_owned())))
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

    /// An engine that hangs sends no events either, and leaves its stream open: what it said before is not what it says.
    /// One that is asked for a container, and is waited for, tells by its answer.
    async fn ping_unless(&self, changes: &[Change]) -> Result<(), ViewError> {
        let tells = |change: &Change| matches!(change, Change::Container(id) if !self.memory().starts(id));
        if changes.iter().any(tells) {
            return Ok(());
        }
        self.link.get(LIST_LIMIT, "/_ping").await.map(drop).map_err(|fault| self.error("ping", &fault))
    }

    /// What is known, as the interest wants to see it. `None`: not all of it can be read one by one.
    async fn docker(&self, mut whole: Whole, begun: Begun<'_>, version: &str) -> Result<Option<Docker>, ViewError> {
        let interest = begun.interest;
        let mut docker = Docker { api_version: version.to_owned(), ..Docker::default() };
        docker.volumes = self.volumes_seen(&whole, interest);
        docker.images.clone_from(&whole.images);
        docker.networks = self.networks_seen(&whole, interest);
        {
            let mut memory = self.memory();
            memory.adopted = interest.adopted.keys().cloned().collect();
            memory.discovers = interest.discovery;
        }
        let (look, since) = (begun.look, begun.since);
        let (own, certain) = self.sort_containers(&mut whole, begun, &mut docker).await?;
        if look == Look::Part && !certain {
            return Ok(None);
        }
        count_attached(&mut docker.networks, whole.containers.values());
        let mut memory = self.memory();
        memory.end(since, certain.then_some(whole), own);
        let now = Timestamp::now();
        for container in docker.discovered.values_mut() {
            container.stopping = memory.stops.told(&container.id, &container.state, now);
        }
        Ok(Some(docker))
    }

    async fn containers(&self) -> Result<BTreeMap<String, Listed>, ViewError> {
        let text = self.link.get(LIST_LIMIT, "/containers/json?all=1").await;
        let list = text.and_then(|text| wire::lenient_list::<Listed>(&text, Listed::IDENTITY));
        let list = list.map_err(|fault| self.error("list containers", &fault))?;
        if list.iter().any(|listed| listed.id.is_empty()) {
            return Err(self.error("list containers", &Fault::Broken("an entry has no id".to_owned())));
        }
        Ok(list.into_iter().map(|listed| (listed.id.clone(), listed)).collect())
    }

    async fn networks(&self) -> Result<BTreeMap<String, wire::Network>, ViewError> {
        let list = self.networks_by("").await.map_err(|fault| self.error("list networks", &fault))?;
        Ok(list.into_iter().map(|network| (network.id.clone(), network)).collect())
    }

    /// `query`: nothing, or a filter. An engine that tells of one network by its id tells all of its containers, too; the
    /// list does not.
    async fn networks_by(&self, query: &str) -> Result<Vec<wire::Network>, Fault> {
        let text = self.link.get(LIST_LIMIT, &format!("/networks{query}")).await?;
        wire::lenient_list(&text, wire::Network::IDENTITY)
    }

    fn networks_seen(&self, whole: &Whole, interest: &Interest) -> BTreeMap<String, NetworkSeen> {
        let mut seen: BTreeMap<String, NetworkSeen> = BTreeMap::new();
        for network in whole.networks.values() {
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
                    id: network.id.clone(),
                    name: network.name.clone(),
                    ours,
                    attached: 0,
                };
                seen.insert(network.name.clone(), network);
            }
        }
        seen
    }

    async fn volumes(&self, interest: &Interest) -> Result<BTreeMap<String, wire::Volume>, ViewError> {
        let answer: Result<wire::Volumes, Fault> = self.link.read(LIST_LIMIT, "/volumes").await;
        let volumes = answer.map_err(|fault| self.error("list volumes", &fault))?.volumes;
        let relevant = volumes.into_iter().filter(|volume| self.relevant(volume, interest));
        Ok(relevant.map(|volume| (volume.name.clone(), volume)).collect())
    }

    fn owns(&self, volume: &wire::Volume) -> bool {
        volume.labels.get(labels::OWNER).is_some_and(|owner| owner == self.mark)
    }

    fn relevant(&self, volume: &wire::Volume, interest: &Interest) -> bool {
        self.owns(volume) || interest.volumes.contains(&volume.name)
    }

    fn volumes_seen(&self, whole: &Whole, interest: &Interest) -> BTreeMap<String, VolumeSeen> {
        let relevant = whole.volumes.values().filter(|volume| self.relevant(volume, interest));
        let seen = relevant.map(|volume| {
            let ours = self.owns(volume);
            let config = volume.labels.get(labels::CONFIG).filter(|_| ours).cloned();
            (volume.name.clone(), VolumeSeen { name: volume.name.clone(), ours, config })
        });
        seen.collect()
    }

    async fn images(&self, interest: &Interest) -> Result<BTreeMap<String, ImageSeen>, ViewError> {
        self.images_of(interest.images.iter()).await
    }

    /// Those that the engine has of these references.
    async fn images_of(
        &self,
        references: impl Iterator<Item = &String>,
    ) -> Result<BTreeMap<String, ImageSeen>, ViewError> {
        // What is no reference cannot be there, and must not become part of a URL.
        let references: Vec<String> = references.filter(|reference| names::is_reference(reference)).cloned().collect();
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

    /// Reads again what has changed, and puts it into the whole; the inspects by id. `None`: something cannot be read alone.
    async fn renew(
        &self,
        whole: &mut Whole,
        changes: &[Change],
    ) -> Result<Option<BTreeMap<String, Inspected>>, ViewError> {
        let mut containers = BTreeSet::new();
        let mut images = BTreeSet::new();
        let mut others = Vec::new();
        for change in changes {
            match change {
                Change::Container(key) => drop(containers.insert(key.clone())),
                Change::Gone(id) => drop(whole.containers.remove(id)),
                Change::AnyImage | Change::ImageId(_) | Change::Image(_) => {
                    images.extend(whole.scope.images.iter().filter(|one| concerns(change, one, whole)).cloned());
                }
                Change::NetworkId(_) | Change::NetworkName(_) | Change::Volume(_) => others.push(change),
            }
        }
        let found = self.images_of(images.iter()).await?;
        whole.images.retain(|reference, _| !images.contains(reference));
        whole.images.extend(found);
        for change in others {
            if let Err(fault) = self.renew_other(whole, change).await {
                return self.alone("read what has changed", fault);
            }
        }
        match self.renew_containers(&mut whole.containers, containers).await {
            Ok(fresh) => Ok(Some(fresh)),
            Err(fault) => self.alone("inspect a container", fault),
        }
    }

    /// What cannot be read alone is read with everything else, unless the engine itself is gone.
    fn alone<T>(&self, what: &str, fault: Fault) -> Result<Option<T>, ViewError> {
        match fault {
            Fault::Unreachable(_) | Fault::Settings(_) => Err(self.error(what, &fault)),
            Fault::Late(_) | Fault::Broken(_) | Fault::Refused { .. } | Fault::Stream(_) => Ok(None),
        }
    }

    async fn renew_other(&self, whole: &mut Whole, change: &Change) -> Result<(), Fault> {
        let (filter, value) = match change {
            Change::NetworkId(id) => ("id", id),
            Change::NetworkName(name) => ("name", name),
            Change::Volume(name) => ("", name),
            Change::Container(_) | Change::Gone(_) | Change::ImageId(_) | Change::Image(_) | Change::AnyImage => {
                return Ok(());
            }
        };
        if !names::is_name(value) {
            return Err(Fault::Broken(format!("`{value}` cannot be asked for")));
        }
        if filter.is_empty() {
            let found: Option<wire::Volume> = self.link.find(INSPECT_LIMIT, &format!("/volumes/{value}")).await?;
            whole.volumes.remove(value);
            whole.volumes.extend(found.map(|volume| (volume.name.clone(), volume)));
            return Ok(());
        }
        // `{"id":["…"]}`; the engine takes it for a part of the id or name.
        let query = format!("?filters=%7B%22{filter}%22%3A%5B%22{value}%22%5D%7D");
        let of = |network: &wire::Network| value == if filter == "id" { &network.id } else { &network.name };
        let found = self.networks_by(&query).await?;
        whole.networks.retain(|_, network| !of(network));
        whole.networks.extend(found.into_iter().filter(of).map(|network| (network.id.clone(), network)));
        Ok(())
    }

    /// `due`: ids and names. Whoever had a name that is seen to be another's now is read, too: its own event may still be on
    /// its way.
    async fn renew_containers(
        &self,
        rows: &mut BTreeMap<String, Listed>,
        mut due: BTreeSet<String>,
    ) -> Result<BTreeMap<String, Inspected>, Fault> {
        let named = |rows: &BTreeMap<String, Listed>, name: &str| -> Vec<String> {
            rows.values().filter(|row| row.name() == name).map(|row| row.id.clone()).collect()
        };
        let ids: Vec<String> =
            due.iter().filter(|key| !rows.contains_key(*key)).flat_map(|key| named(rows, key)).collect();
        due.extend(ids);
        let mut done = BTreeSet::new();
        let mut fresh = BTreeMap::new();
        while !due.is_empty() {
            let inspect = |key: String| async move {
                if !names::is_name(&key) {
                    return Err(Fault::Broken(format!("`{key}` cannot be asked for")));
                }
                let path = format!("/containers/{key}/json");
                let find = self.link.find::<Inspected>(INSPECT_LIMIT, &path);
                if !self.memory().starts(&key) {
                    return Ok(Some((key, find.await?)));
                }
                let Ok(found) = tokio::time::timeout(STARTING_LIMIT, find).await else {
                    // It is as it was until the engine tells otherwise, and stays marked.
                    self.memory().spoil(Change::Container(key));
                    return Ok(None);
                };
                self.memory().answered(&key);
                Ok(Some((key, found?)))
            };
            // What we made just now is marked by its name and, once its event has come, by its id, too: asked once.
            let ids = due.extract_if(.., |key| names::is_id(key)).collect::<BTreeSet<_>>();
            let asked = if ids.is_empty() { std::mem::take(&mut due) } else { ids };
            done.extend(asked.iter().cloned());
            let mut answers = futures_util::stream::iter(asked).map(inspect).buffer_unordered(INSPECTS);
            while let Some(answer) = answers.next().await {
                let Some((key, found)) = answer? else { continue };
                let Some(inspected) = found else {
                    rows.remove(&key);
                    fresh.remove(&key);
                    continue;
                };
                let row = Listed::of(&inspected);
                if row.id.is_empty() {
                    return Err(Fault::Broken("an answer has no id".to_owned()));
                }
                done.insert(row.id.clone());
                due.remove(row.name());
                due.extend(named(rows, row.name()).into_iter().filter(|id| *id != row.id && !done.contains(id)));
                fresh.insert(row.id.clone(), inspected);
                rows.insert(row.id.clone(), row);
            }
        }
        Ok(fresh)
    }

    /// Ours by id, with all that an inspect tells; strangers as the list tells them. Ids of those that were inspected, and
    /// whether every inspect succeeded.
    async fn sort_containers(
        &self,
        whole: &mut Whole,
        begun: Begun<'_>,
        docker: &mut Docker,
    ) -> Result<(BTreeSet<String>, bool), ViewError> {
        let Begun { interest, look, since, mut fresh } = begun;
        let mut stale = Vec::new();
        let mut others = Vec::new();
        let mut own = BTreeSet::new();
        for listed in whole.containers.values() {
            let owner = listed.labels.get(labels::OWNER).cloned();
            let marks = Marks::read(&listed.labels).filter(|_| owner.as_deref() == Some(self.mark));
            // What carries a mark is its owner's, whatever was decided here once.
            let adopted = || interest.adopted.get(&listed.id).filter(|_| owner.is_none()).map(Marks::from);
            let marks = marks.or_else(adopted);
            let Some(marks) = marks else {
                let stranger = stranger(listed, owner);
                let discovered = interest.discovery && stranger.running && stranger.owner.is_none();
                docker.strangers.insert(listed.id.clone(), stranger);
                if discovered {
                    own.insert(listed.id.clone());
                    others.push(listed);
                }
                continue;
            };
            own.insert(listed.id.clone());
            let known = match fresh.remove(&listed.id) {
                Some(inspected) => Some(self.take(listed, &marks, &inspected, since)),
                None => self.memory().recall(listed, look),
            };
            match known {
                Some(container) => drop(docker.containers.insert(listed.id.clone(), container)),
                None => stale.push((listed.clone(), marks)),
            }
        }
        let mut inspects = futures_util::stream::iter(stale)
            .map(|(listed, marks)| async move { (self.inspect(&listed, &marks, since).await, listed) })
            .buffer_unordered(INSPECTS);
        let mut unreadable = BTreeMap::new();
        let mut gone = Vec::new();
        while let Some((result, listed)) = inspects.next().await {
            match result {
                Ok(Some((container, problem))) => {
                    if let Some(problem) = problem {
                        unreadable.insert(listed.id.clone(), (container.name.clone(), problem));
                    }
                    docker.containers.insert(listed.id.clone(), container);
                }
                // Gone between the list and the inspect.
                Ok(None) => gone.push(listed.id.clone()),
                Err(fault) => return Err(self.error(&format!("inspect container {}", listed.name()), &fault)),
            }
        }
        drop(inspects);
        gone.extend(self.look_at_others(others, &fresh, look, since, docker).await?);
        for id in &gone {
            own.remove(id);
            whole.containers.remove(id);
        }
        let certain = unreadable.is_empty() && docker.discovered.values().all(|one| one.unreadable.is_none());
        for id in self.memory().newly_unreadable(unreadable.keys().cloned().collect()) {
            if let Some((name, problem)) = unreadable.get(&id) {
                tracing::warn!(container = %name, %problem, "cannot inspect a container; going by the list until it can");
            }
        }
        Ok((own, certain))
    }

    /// Containers without any mark of reeve's, for discovery; ids of those that are gone.
    async fn look_at_others(
        &self,
        others: Vec<&Listed>,
        fresh: &BTreeMap<String, Inspected>,
        look: Look,
        since: u64,
        docker: &mut Docker,
    ) -> Result<Vec<String>, ViewError> {
        let mut stale = Vec::new();
        for listed in others {
            let known = match fresh.get(&listed.id) {
                Some(inspected) => Some(self.take_other(listed, inspected, since)),
                None => self.memory().recall_other(listed, look),
            };
            match known {
                Some(container) => drop(docker.discovered.insert(listed.id.clone(), container)),
                None => stale.push(listed.clone()),
            }
        }
        let mut inspects = futures_util::stream::iter(stale)
            .map(|listed| async move { (self.inspect_other(&listed, since).await, listed) })
            .buffer_unordered(INSPECTS);
        let mut gone = Vec::new();
        while let Some((result, listed)) = inspects.next().await {
            match result {
                Ok(Some(container)) => drop(docker.discovered.insert(listed.id.clone(), container)),
                Ok(None) => gone.push(listed.id.clone()),
                Err(fault) => return Err(self.error(&format!("inspect container {}", listed.name()), &fault)),
            }
        }
        Ok(gone)
    }

    fn take(&self, listed: &Listed, marks: &Marks, inspected: &Inspected, since: u64) -> Container {
        let container = from_inspect(listed, marks, inspected);
        self.memory().store(listed, &container, since);
        container
    }

    fn take_other(&self, listed: &Listed, inspected: &Inspected, since: u64) -> Discovered {
        let container = discovered(listed, inspected);
        let way = Way::of(&inspected.config.stop_signal, inspected.config.stop_timeout);
        self.memory().store_other(listed, &container, way, since);
        container
    }

    async fn inspect_other(&self, listed: &Listed, since: u64) -> Result<Option<Discovered>, Fault> {
        let path = format!("/containers/{}/json", listed.id);
        match self.link.find::<Inspected>(INSPECT_LIMIT, &path).await {
            Ok(None) => Ok(None),
            Ok(Some(inspected)) => Ok(Some(self.take_other(listed, &inspected, since))),
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
            Ok(Some(inspected)) => Ok(Some((self.take(listed, marks, &inspected, since), None))),
            // The engine itself is gone: all that was read may be old.
            Err(fault @ (Fault::Unreachable(_) | Fault::Settings(_))) => Err(fault),
            Err(fault) => Ok(Some((from_list(listed, marks, Timestamp::now()), Some(fault)))),
        }
    }
}

/// Also stopped ones: they could not start again if their network went.
fn count_attached<'a>(networks: &mut BTreeMap<String, NetworkSeen>, listed: impl Iterator<Item = &'a Listed>) {
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

/// May this change of an image concern that reference?
fn concerns(change: &Change, reference: &str, whole: &Whole) -> bool {
    let seen = whole.images.get(reference);
    match change {
        Change::AnyImage => true,
        Change::ImageId(id) => seen.is_some_and(|seen| seen.id == *id),
        Change::Image(name) => seen.is_none() || same_reference(name, reference),
        Change::Container(_) | Change::Gone(_) | Change::NetworkId(_) | Change::NetworkName(_) | Change::Volume(_) => {
            false
        }
    }
}
