//! A project of its own for each test, its remover, and the words to write tests with.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reeve::backend::docker::Docker;
use reeve::observed::{self, ChosenPort, Container, Interest};
use reeve::plan::DockerAction;
use reeve::plan::action::NewContainer;
use reeve::settings::DockerSettings;
use reeve::spec::container::{ContainerConfig, Port, Published};
use reeve::spec::{IpamPool, Network, Owner, Protocol, Volume};
use reeve::world::ActionError;

pub(super) use crate::support::ports::fresh as free_port;

/// It has a shell.
pub(super) const IMAGE: &str = "localhost/reeve-consul:1";

pub(super) fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

/// The engine's own command line: the other party in these tests.
pub(super) fn command(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("docker's command line runs");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A project of its own, and its remover.
pub(super) struct Scene {
    pub(super) docker: Docker,
    pub(super) owner: Owner,
    pub(super) interest: Interest,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let remove = |list: &[&str], remove: &[&str]| {
            for filter in [format!("label=reeve.owner={}", self.owner), format!("label=test={}", self.owner)] {
                let listed = Command::new("docker").args(list).args(["-q", "--filter", &filter]).output();
                let Ok(listed) = listed else { continue };
                for id in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
                    let _best_effort = Command::new("docker").args(remove).arg(id).output();
                }
            }
        };
        remove(&["ps", "-a"], &["rm", "-f", "-v"]);
        remove(&["network", "ls"], &["network", "rm"]);
        remove(&["volume", "ls"], &["volume", "rm", "-f"]);
    }
}

impl Scene {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let project = format!("dt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let owner = Owner { project, node: "test".to_owned() };
        let settings = DockerSettings { host: host(), cert_path: None, config: None };
        let interest = Interest { images: BTreeSet::from([IMAGE.to_owned()]), ..Interest::nothing(owner.clone()) };
        Self { docker: Docker::new(&settings, owner.clone(), std::time::Duration::from_secs(30)), owner, interest }
    }

    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}_{rest}", self.owner.project)
    }

    pub(super) async fn view(&self) -> observed::Docker {
        self.docker.view(&self.interest).await.expect("the engine can be read")
    }

    pub(super) async fn container(&self, name: &str) -> Option<Container> {
        self.view().await.containers.into_values().find(|container| container.name == name)
    }

    pub(super) async fn there(&self, name: &str) -> Container {
        self.container(name).await.expect("the container is there")
    }

    pub(super) async fn run(&self, action: DockerAction) {
        self.docker.execute(&action).await.unwrap_or_else(|error| panic!("{}: {error}", action.kind()));
        self.docker.execute(&action).await.unwrap_or_else(|error| panic!("{} again: {error}", action.kind()));
    }

    pub(super) async fn fail(&self, action: DockerAction) -> ActionError {
        self.docker.execute(&action).await.expect_err("refused")
    }

    /// A container that sleeps until it is told to stop.
    pub(super) fn new_container(&self, config: ContainerConfig) -> NewContainer {
        let config = ContainerConfig {
            image: IMAGE.to_owned(),
            entrypoint: config.entrypoint.clone().or(Some(words(&["sh", "-c"]))),
            command: config.command.clone().or(Some(words(&["trap 'exit 3' TERM; while :; do sleep 0.05; done"]))),
            ..config
        };
        let hash = config.hash();
        let chosen = |port: &Port| {
            let host = match port.published {
                Published::Ephemeral => 0,
                Published::Range { first, .. } => first,
            };
            ChosenPort { target: port.target, protocol: port.protocol, host_ip: port.host_ip, host }
        };
        NewContainer {
            name: format!("{}-web-1-{}", self.owner.project, hash.short()),
            service: "web".to_owned(),
            slot: 1,
            hash,
            host_ports: config.ports.iter().map(chosen).collect(),
            network_mode: config.network_mode.clone(),
            image: config.image.clone(),
            config: Arc::new(config),
            image_id: String::new(),
            registers: true,
            depends_on: std::collections::BTreeSet::new(),
        }
    }

    pub(super) async fn start(&self, config: ContainerConfig) -> Container {
        let new = self.new_container(config);
        let name = new.name.clone();
        self.run(DockerAction::CreateContainer(Box::new(new))).await;
        self.run(DockerAction::StartContainer { container: name.clone(), name: name.clone() }).await;
        self.there(&name).await
    }

    /// Declares it as well.
    pub(super) async fn network(&mut self, rest: &str, ipam: Vec<IpamPool>) -> String {
        let name = self.name(rest);
        self.interest.networks.insert(name.clone());
        self.run(DockerAction::CreateNetwork(network(&name, ipam))).await;
        name
    }
}

pub(super) fn network(name: &str, ipam: Vec<IpamPool>) -> Network {
    Network {
        name: name.to_owned(),
        external: false,
        driver: None,
        driver_opts: BTreeMap::new(),
        internal: false,
        attachable: false,
        enable_ipv6: false,
        ipam,
        ipam_driver: None,
        labels: BTreeMap::from([("kind".to_owned(), "net".to_owned())]),
    }
}

pub(super) fn volume(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        external: false,
        driver: None,
        driver_opts: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn stop(container: &Container) -> DockerAction {
    let (id, name) = (container.id.clone(), container.name.clone());
    DockerAction::StopContainer { id, name, grace: Duration::from_secs(5) }
}

pub(super) fn remove(container: &Container) -> DockerAction {
    DockerAction::RemoveContainer { id: container.id.clone(), name: container.name.clone() }
}

pub(super) fn tcp(target: u16, published: Published) -> Port {
    Port { target, protocol: Protocol::Tcp, host_ip: None, published }
}

pub(super) async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain until {what}");
}
