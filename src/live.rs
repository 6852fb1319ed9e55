//! The live world: the three backends, reeve's folder and the host, behind the two traits of `world`.
//!
//! It puts views together and hands actions on. It decides nothing.

mod trouble;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::Timestamp;

use crate::backend::consul::Consul;
use crate::backend::directory::Directory;
use crate::backend::docker::Docker;
use crate::backend::flapping::Flapping;
use crate::backend::nginx::Nginx;
use crate::backend::templates::Templates;
use crate::backend::{host, probe};
use crate::observed::{
    self, ContainerState, FRESH, Health, Interest, Observed, Probe, ProbeTarget, VIEW_TIMEOUT, View,
};
use crate::plan::Action;
use crate::settings::{NginxMode, Settings};
use crate::spec::Owner;
use trouble::Troubles;

use crate::world::{ActionError, Execute, Observe, ViewError, Wake};

/// What was looked at: names the `since` of an Unknown view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Docker,
    Consul,
    Nginx,
    Directory,
}

pub struct Live {
    docker: Docker,
    consul: Consul,
    /// `None`: `nginx.mode: off`.
    nginx: Option<Nginx>,
    directory: Directory,
    templates: Templates,
    troubles: Troubles,
    memory: Mutex<Memory>,
    /// When Docker and nginx were last looked at, if nothing has been heard of them since and nothing done to them.
    unspoiled: Arc<Mutex<BTreeMap<Part, Instant>>>,
    /// After so long everything is looked at.
    resync: Duration,
}

/// What the pass before saw, which was about the same spec.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    pub observed: &'a Observed,
    /// All that it did was to write to Consul, and this one follows from that.
    pub wrote_to_consul: bool,
    /// What woke this one says nothing of nginx.
    pub beside_nginx: bool,
}

/// What only prolongs a wait when it is lost.
#[derive(Default)]
struct Memory {
    unknown_since: BTreeMap<Part, Timestamp>,
    /// Containers (and when they were started) whose probe passed: one probe for each start.
    probed: BTreeSet<(String, Timestamp)>,
    flapping: Flapping<String>,
}

impl Live {
    pub fn new(settings: &Settings, owner: &Owner) -> Result<Self, ViewError> {
        let nginx = match settings.nginx.mode {
            NginxMode::Host => Some(Nginx::new(&settings.nginx, settings.directory.clone(), owner.clone())),
            NginxMode::Off => None,
        };
        Ok(Self {
            docker: Docker::new(&settings.docker, owner.clone(), settings.loop_.resync),
            consul: Consul::new(&settings.consul, owner.clone())?
                .on_host(host::identity())
                .that_reads_everything_after(settings.loop_.resync),
            nginx,
            directory: Directory::new(settings.directory.clone(), owner.clone()),
            templates: Templates::new(settings, owner.clone()),
            troubles: Troubles::default(),
            memory: Mutex::default(),
            unspoiled: Arc::default(),
            resync: settings.loop_.resync,
        })
    }

    /// Everything that watches; never returns. Dropped, it ends.
    pub async fn watch(&self, interest: tokio::sync::watch::Receiver<Interest>, wake: Wake) {
        let spoiling = |part: Part| -> Wake {
            let (wake, unspoiled) = (wake.clone(), self.unspoiled.clone());
            Arc::new(move |source, at| {
                lock(&unspoiled).remove(&part);
                wake(source, at);
            })
        };
        let nginx = async {
            match &self.nginx {
                Some(nginx) => nginx.watch(spoiling(Part::Nginx)).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(
            self.docker.watch(spoiling(Part::Docker)),
            self.consul.watch(interest, wake.clone()),
            nginx,
            self.directory.watch(wake.clone()),
            self.templates.watch(wake.clone())
        );
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The last look believed what it did not read: another one has to follow, and settles it.
    pub fn owes_a_look(&self) -> bool {
        self.consul.owes_a_look()
    }

    /// Since when something is believed that nobody has read again: a pass that reads everything is due a resync after it.
    /// `None`: the next look reads everything.
    pub fn believed_since(&self) -> Option<Instant> {
        self.docker.listed_at().into_iter().chain(self.consul.read_at()).min()
    }

    fn view<T>(&self, part: Part, result: Result<T, ViewError>) -> View<T> {
        let mut memory = self.memory();
        match result {
            Ok(value) => {
                memory.unknown_since.remove(&part);
                View::Known(value)
            }
            Err(error) => {
                let since = *memory.unknown_since.entry(part).or_insert_with(Timestamp::now);
                View::Unknown { reason: error.0, since }
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// As `observe`, but what was seen before, and of which nothing has been heard since, is not looked at again: traffic waits
    /// for this pass. After our own writes to Consul that is what has just been seen; and nginx, whatever else has changed.
    pub async fn observe_after(&self, interest: &Interest, before: Before<'_>) -> Observed {
        self.observe_with(interest, Some(before)).await
    }

    fn unchanged_nginx<'a>(&self, before: &Before<'a>) -> Option<&'a observed::Nginx> {
        let view = &before.observed.nginx;
        if let Some(nginx) = before.wrote_to_consul.then(|| self.fresh(Part::Nginx, view)).flatten() {
            return Some(nginx);
        }
        let seen_at = lock(&self.unspoiled).get(&Part::Nginx).copied()?;
        let watched = self.nginx.as_ref().is_some_and(Nginx::is_watched);
        let believed = before.beside_nginx && watched && seen_at.elapsed() < self.resync;
        view.known().filter(|nginx| believed && at_rest(nginx))
    }

    fn fresh<'a, T>(&self, part: Part, view: &'a View<T>) -> Option<&'a T> {
        let seen_at = lock(&self.unspoiled).get(&part).copied();
        view.known().filter(|_| seen_at.is_some_and(|at| at.elapsed() < FRESH))
    }

    /// Tries the declared checks of containers without HEALTHCHECK, once for each start.
    async fn probe(&self, docker: &mut observed::Docker, interest: &Interest) {
        let mut due: Vec<(String, Timestamp, std::net::IpAddr, &[ProbeTarget])> = Vec::new();
        {
            let mut memory = self.memory();
            let mut running = BTreeSet::new();
            for container in docker.containers.values_mut() {
                let (ContainerState::Running { started_at }, Health::None) = (&container.state, &container.health)
                else {
                    continue;
                };
                let key = (container.id.clone(), *started_at);
                running.insert(key.clone());
                if memory.probed.contains(&key) {
                    container.probe = Some(Probe::Passing);
                    continue;
                }
                let Some(targets) = interest.probes.get(&container.service) else { continue };
                let own = container.networks.values().find_map(|endpoint| endpoint.address.or(endpoint.address6));
                let on_host = container.network_mode == "host";
                let Some(address) = own.or(on_host.then_some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)))
                else {
                    continue;
                };
                due.push((key.0, key.1, address, targets));
            }
            memory.probed.retain(|key| running.contains(key));
        }
        let results = join_all(due.into_iter().map(|(id, started_at, address, targets)| async move {
            let mut result = Probe::Passing;
            for target in targets {
                result = probe::probe(address, target).await;
                if result != Probe::Passing {
                    break;
                }
            }
            (id, started_at, result)
        }))
        .await;
        for (id, started_at, result) in results {
            if result == Probe::Passing {
                self.memory().probed.insert((id.clone(), started_at));
            }
            if let Some(container) = docker.containers.get_mut(&id) {
                container.probe = Some(result);
            }
        }
    }
}

/// All that can become of it would be heard of: old workers go without a word.
fn at_rest(nginx: &observed::Nginx) -> bool {
    nginx.retiring_workers == 0 && matches!(nginx.loaded, observed::Loaded::Generation(_))
}

/// A view with a time limit: a backend that hangs is Unknown, and holds nothing else up.
async fn limited<T>(what: &str, view: impl Future<Output = Result<T, ViewError>>) -> Result<T, ViewError> {
    match tokio::time::timeout(VIEW_TIMEOUT, view).await {
        Ok(result) => result,
        Err(_) => Err(ViewError(format!("{what} did not answer within {} s", VIEW_TIMEOUT.as_secs()))),
    }
}

/// What is in them is whole after every statement, whoever has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observe for Live {
    async fn observe(&self, interest: &Interest) -> Observed {
        self.observe_with(interest, None).await
    }
}

impl Live {
    async fn observe_with(&self, interest: &Interest, before: Option<Before<'_>>) -> Observed {
        // First of all: a rollback wants more than the spec tells.
        let directory = self.directory.view();
        let mut interest = Cow::Borrowed(interest);
        if let Some(directory) = directory.as_ref().ok().filter(|directory| !directory.pins.is_empty()) {
            interest.to_mut().widen(directory);
        }
        let interest = &*interest;
        // What the pins say is part of what is looked for.
        let same = |seen: &Observed| directory.as_ref().is_ok_and(|now| seen.directory.known() == Some(now));
        let before = before.filter(|before| same(before.observed));
        let nginx_before = before.and_then(|before| self.unchanged_nginx(&before));
        let before = before.filter(|before| before.wrote_to_consul).map(|before| before.observed);
        let began = Instant::now();
        // Each in a place of its own: together they are too much for a thread's stack.
        let docker = async {
            if let Some(docker) = before.and_then(|before| self.fresh(Part::Docker, &before.docker)) {
                return Ok(docker.clone());
            }
            lock(&self.unspoiled).insert(Part::Docker, began);
            let mut docker = limited("Docker", Box::pin(self.docker.view(interest))).await?;
            self.probe(&mut docker, interest).await;
            let good =
                |one: &observed::Container| one.state.running() && matches!(one.health, Health::None | Health::Healthy);
            let seen = docker.containers.values().map(|one| (one.id.clone(), good(one)));
            docker.flapping = self.memory().flapping.observe(seen, Timestamp::now());
            let kept = directory.as_ref().ok();
            self.troubles.attach(&self.docker, &mut docker, interest, kept, Timestamp::now()).await;
            Ok(docker)
        };
        let nginx = async {
            if let Some(nginx) = nginx_before {
                return Ok(nginx.clone());
            }
            lock(&self.unspoiled).insert(Part::Nginx, began);
            match &self.nginx {
                Some(nginx) => limited("nginx", Box::pin(nginx.view(interest))).await,
                None => Ok(observed::Nginx::off(Timestamp::now())),
            }
        };
        let before = before.and_then(|before| before.consul.known());
        let consul = limited("Consul", Box::pin(self.consul.view_after(interest, before)));
        let templates = Box::pin(self.templates.view(interest, &self.consul));
        // nginx first: its look goes on in another thread while the requests of the others are made.
        let (nginx, docker, consul, templates) = tokio::join!(nginx, docker, consul, templates);
        Observed {
            docker: self.view(Part::Docker, docker),
            consul: self.view(Part::Consul, consul),
            nginx: self.view(Part::Nginx, nginx),
            directory: self.view(Part::Directory, directory),
            host: host::view(),
            templates,
        }
    }
}

impl Execute for Live {
    async fn execute(&self, action: &Action) -> Result<(), ActionError> {
        if !matches!(action, Action::Consul(_)) {
            lock(&self.unspoiled).clear();
        }
        let result = match action {
            Action::Docker(action) => {
                let result = self.docker.execute(action).await;
                self.directory.note(action, &result);
                result
            }
            Action::Consul(action) => self.consul.execute(action).await,
            Action::Nginx(action) => match &self.nginx {
                Some(nginx) => nginx.execute(action).await,
                None => Err(ActionError::Conflict("nginx.mode is off".to_owned())),
            },
            Action::Directory(action) => self.directory.execute(action),
            Action::Template(action) => self.templates.execute(action, &self.docker).await,
        };
        #[cfg(debug_assertions)]
        crate::crash::after(action);
        result
    }
}

/// Where generations are, absolute: the text of a generation names its own files.
pub fn generations_folder(directory: &Path) -> std::path::PathBuf {
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned()).join("generations")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::action::{ConsulAction, DockerAction};

    #[test]
    fn nginx_is_not_at_rest_without_a_generation_of_ours_or_while_workers_go() {
        let id = observed::GenerationId { hash: "0123456789ab".to_owned(), number: 1 };
        let mut nginx = observed::Nginx::off(Timestamp::UNIX_EPOCH);
        assert!(!at_rest(&nginx));
        nginx.loaded = observed::Loaded::Generation(id);
        assert!(at_rest(&nginx));
        nginx.retiring_workers = 1;
        assert!(!at_rest(&nginx));
    }

    #[tokio::test]
    async fn what_was_just_seen_is_believed_until_something_is_heard_of_it_or_done_to_anything_but_consul() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings::defaults("edge-1");
        settings.directory = folder.path().to_owned();
        settings.docker.host = format!("unix://{}/no.sock", folder.path().display());
        settings.consul.address = format!("unix://{}/no.sock", folder.path().display());
        let owner = Owner { project: "shop".to_owned(), node: "edge-1".to_owned() };
        let live = Live::new(&settings, &owner).expect("nothing is contacted");
        let view = View::Known(());
        let unknown: View<()> = View::Unknown { reason: "gone".to_owned(), since: Timestamp::UNIX_EPOCH };
        let look = || lock(&live.unspoiled).extend([(Part::Docker, Instant::now()), (Part::Nginx, Instant::now())]);
        assert!(live.fresh(Part::Docker, &view).is_none(), "it was never looked at");
        look();
        assert!(live.fresh(Part::Docker, &view).is_some());
        assert!(live.fresh(Part::Docker, &unknown).is_none(), "unknown is looked at again");
        let failed = live.execute(&Action::Consul(ConsulAction::RemoveUnmarked { id: "web".to_owned() })).await;
        assert!(failed.is_err());
        assert!(live.fresh(Part::Nginx, &view).is_some(), "a write to Consul changes neither");
        let failed = live.execute(&Action::Docker(DockerAction::RemoveVolume { name: "data".to_owned() })).await;
        assert!(failed.is_err());
        assert!(live.fresh(Part::Docker, &view).is_none() && live.fresh(Part::Nginx, &view).is_none());
        lock(&live.unspoiled).insert(Part::Docker, Instant::now().checked_sub(FRESH).expect("the machine runs"));
        assert!(live.fresh(Part::Docker, &view).is_none(), "it is too old");
    }
}
