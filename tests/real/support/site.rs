//! A site of a test's own: project, ports, folder, settings, Consul agent, nginx. Dropped, also by a panic, it is taken
//! down completely, and a failed test's log and status are printed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use tempfile::TempDir;

use super::agent::{Agent, Api};
use super::docker::{self, Container};
use super::nginx::Nginx;
use super::ports::Ports;
use super::program::{self, Begun, Daemon, Elsewhere, Outcome};
use super::{check, eventually, http};

pub struct Site {
    pub project: String,
    pub node: String,
    pub ports: Ports,
    pub agent: Agent,
    pub nginx: Nginx,
    /// Added to the settings file.
    pub more_settings: String,
    pub nginx_start: bool,
    /// `nginx.endpoints`.
    pub nginx_endpoints: String,
    pub nginx_binary: String,
    pub docker_host: Option<String>,
    folder: TempDir,
    // Last: the others are gone when the next test takes the place.
    _turn: Option<Turn>,
}

impl Site {
    /// With a Consul agent that has a leader. `name`: short, of the test.
    pub fn new(name: &str) -> Self {
        let mut site = Self::without_consul(name);
        site.agent.start();
        site
    }

    /// A second one in the same test. It does not wait for its turn: two tests that each hold one and wait for another
    /// would wait for ever.
    pub fn beside(&self, name: &str) -> Self {
        let mut site = Self::make(name, None);
        site.agent.start();
        site
    }

    /// Nothing listens where the settings name the agent.
    pub fn without_consul(name: &str) -> Self {
        Self::make(name, Some(Turn::take()))
    }

    fn make(name: &str, turn: Option<Turn>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}x{number}", std::process::id());
        let project = format!("t{name}{unique}");
        let folder = tempfile::Builder::new().prefix("reeve-test-").tempdir().expect("a temporary folder");
        open_for_workers(folder.path());
        let ports = Ports::claim();
        let node = format!("node{unique}");
        let agent = Agent::new(folder.path(), &format!("agent{unique}"), ports.consul());
        let nginx = Nginx::new(folder.path().join("nginx"), folder.path().join("state"));
        let site = Self {
            project,
            node,
            ports,
            agent,
            nginx,
            more_settings: String::new(),
            nginx_start: true,
            nginx_endpoints: "reload".to_owned(),
            nginx_binary: super::nginx::BINARY.to_owned(),
            docker_host: None,
            folder,
            _turn: turn,
        };
        site.write_settings();
        site
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn settings(&self) -> PathBuf {
        self.folder().join("reeve.yaml")
    }

    pub fn spec(&self) -> PathBuf {
        self.folder().join("spec.yaml")
    }

    pub fn state(&self) -> &Path {
        &self.nginx.state
    }

    pub fn owner(&self) -> String {
        format!("{}@{}", self.project, self.node)
    }

    /// The port on which the shop's upstream listens.
    pub fn listen(&self) -> u16 {
        self.ports.listen(0)
    }

    /// Writes the settings file anew, after a field was changed.
    pub fn write_settings(&self) {
        let folder = self.folder().display();
        let docker =
            self.docker_host.as_ref().map(|host| format!("docker: {{ host: \"{host}\" }}\n")).unwrap_or_default();
        let text = format!(
            "node: {node}\nspec: [{folder}/spec.yaml]\ndirectory: {folder}/state\n{docker}\
             consul: {{ address: \"{consul}\"{ca} }}\n\
             nginx:\n  binary: {binary}\n  config: {config}\n  start: {start}\n  probe: 127.0.0.1:{probe}\n\
             \x20 endpoints: {endpoints}\n\
             http: {{ listen: \"127.0.0.1:{http}\" }}\nlock: {folder}/<project>.lock\n{more}",
            node = self.node,
            consul = self.consul_address(self.consul_port()),
            ca = self.agent.tls.as_ref().map(|tls| format!(", ca_file: {}", tls.ca().display())).unwrap_or_default(),
            binary = self.nginx_binary,
            config = self.nginx.config().display(),
            start = self.nginx_start,
            probe = self.ports.probe(),
            endpoints = self.nginx_endpoints,
            http = self.ports.http(),
            more = self.more_settings,
        );
        fs::write(self.settings(), text).expect("the settings are written");
    }

    /// Endpoints change without a reload.
    pub fn use_lua(&mut self) {
        self.nginx.load_lua();
        self.nginx_endpoints = "lua".to_owned();
        self.write_settings();
    }

    /// The agent is asked by TLS.
    pub fn use_tls(&mut self) {
        self.agent.kill();
        self.agent.use_tls(self.ports.consul_tls());
        self.agent.start();
        self.write_settings();
    }

    /// On which reeve asks it.
    pub fn consul_port(&self) -> u16 {
        self.agent.tls.as_ref().map_or(self.ports.consul()[0], |tls| tls.port)
    }

    fn consul_address(&self, port: u16) -> String {
        format!("http{}://127.0.0.1:{port}", if self.agent.tls.is_some() { "s" } else { "" })
    }

    /// Not on its own port, but on that of a proxy before it.
    pub fn ask_consul_through(&self, port: u16) {
        let text = fs::read_to_string(self.settings()).expect("the settings");
        let text = text.replace(&self.consul_address(self.consul_port()), &self.consul_address(port));
        fs::write(self.settings(), text).expect("the settings are written");
    }

    pub fn lock_file(&self) -> PathBuf {
        self.folder().join(format!("{}.lock", self.project))
    }

    /// As an editor does it: the whole file, at once.
    pub fn write_spec(&self, spec: &impl ToString) {
        let new = self.folder().join("spec.yaml.new");
        fs::write(&new, spec.to_string()).expect("the spec is written");
        fs::rename(new, self.spec()).expect("the spec is put in place");
    }

    pub fn reeve(&self, arguments: &[&str]) -> Outcome {
        program::run(self.folder(), &self.settings(), arguments)
    }

    pub fn reeve_elsewhere(&self, host: &Elsewhere<'_>, arguments: &[&str]) -> Outcome {
        program::run_elsewhere(self.folder(), &self.settings(), host, arguments)
    }

    /// Until it dies after an action; see `program::run_until_crash`. A code of `None`: it has died.
    pub fn reeve_until_crash(&self, point: &str, arguments: &[&str]) -> Outcome {
        program::run_until_crash(self.folder(), &self.settings(), point, arguments)
    }

    pub fn begin(&self, arguments: &[&str]) -> Begun {
        program::begin(self.folder(), &self.settings(), arguments)
    }

    /// Writes the spec and applies it; with success.
    #[track_caller]
    pub fn apply(&self, spec: &impl ToString) -> Outcome {
        self.write_spec(spec);
        self.reeve(&["apply", "--timeout", "60s"]).success()
    }

    /// Starts the daemon, without waiting for anything.
    pub fn start(&self, arguments: &[&str]) -> Daemon {
        Daemon::start(self.folder(), &self.settings(), self.ports.http(), arguments)
    }

    /// Writes the spec, starts the daemon and waits until everything is as the spec says.
    #[track_caller]
    pub fn run(&self, spec: &impl ToString) -> Daemon {
        self.run_until(spec, Daemon::converged)
    }

    #[track_caller]
    pub fn run_until(&self, spec: &impl ToString, reached: impl Fn(&Daemon) -> Result<(), String>) -> Daemon {
        self.write_spec(spec);
        let daemon = self.start(&[]);
        eventually("the daemon gets there", || reached(&daemon));
        daemon
    }

    pub fn consul(&self) -> Api {
        self.agent.api()
    }

    pub fn containers(&self) -> Vec<Container> {
        docker::containers(&self.owner())
    }

    pub fn container_of(&self, service: &str, slot: u32) -> Option<Container> {
        self.containers().into_iter().find(|one| one.service == service && one.slot == slot)
    }

    #[track_caller]
    pub fn container(&self, service: &str, slot: u32) -> Container {
        self.container_of(service, slot).unwrap_or_else(|| panic!("no replica {slot} of {service}"))
    }

    pub fn registrations(&self) -> BTreeSet<String> {
        self.consul().registrations(&self.owner())
    }

    /// The id which the registration of this container has.
    pub fn registration_id(&self, container: &Container, port: u16) -> String {
        format!("{}:{}:{port}/tcp", self.node, container.name)
    }

    /// The names in the answers of `requests` requests to the upstream on this port.
    pub fn served_by(&self, listen: u16, requests: usize) -> Result<BTreeSet<String>, String> {
        let mut names = BTreeSet::new();
        for _ in 0..requests {
            let answer = http::get(listen, "/").map_err(|error| error.to_string())?;
            check(answer.status == 200, || format!("{}: {}", answer.status, answer.body))?;
            // `web <name> (v<version>)`
            names.insert(answer.body.split(' ').nth(1).unwrap_or_default().to_owned());
        }
        Ok(names)
    }

    /// Every replica of the service answers through the upstream on this port, and nobody else does.
    pub fn serves(&self, listen: u16, service: &str, replicas: usize) -> Result<(), String> {
        let running = self.containers().into_iter().filter(|one| one.service == service && one.state == "running");
        let wanted: BTreeSet<String> = running.map(|one| one.hostname().to_owned()).collect();
        check(wanted.len() == replicas, || format!("{} of {replicas} replicas run", wanted.len()))?;
        let seen = self.served_by(listen, replicas * 4)?;
        check(seen == wanted, || format!("answers of {seen:?}, but {wanted:?} run"))
    }

    /// What serves of the service is kept: from now on another version can be rolled back from.
    pub fn keeps(&self, service: &str) {
        let kept = self.state().join(format!("kept/{service}.json"));
        eventually("what serves is kept", || check(kept.exists(), || format!("no {}", kept.display())));
    }

    /// What nginx says that it has loaded.
    pub fn loaded(&self) -> Option<String> {
        let answer = http::get(self.ports.probe(), "/").ok()?;
        answer.body.split(' ').next().map(str::to_owned)
    }

    /// nginx has loaded what `current` includes.
    pub fn loaded_is_current(&self) -> Result<(), String> {
        let (loaded, current) = (self.loaded(), self.nginx.generation());
        check(loaded.is_some() && loaded == current, || format!("loaded {loaded:?}, current {current:?}"))
    }

    fn describe(&self) {
        let tail = |path: PathBuf, lines: usize| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        eprintln!("\n===== {}: the daemon's log\n{}", self.project, tail(self.folder().join("reeve.log"), 60));
        let status = self.reeve(&["status"]);
        eprintln!("===== reeve status\n{}{}", status.stdout, status.stderr);
        eprintln!("===== nginx's error log\n{}", tail(self.nginx.folder.join("logs/error.log"), 15));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.describe();
        }
        // By the marks and not by `reeve destroy`: a clean-up must not depend on what is tested, nor wait for drains.
        docker::remove_all(&format!("reeve.owner={}", self.owner()));
        docker::remove_all(&format!("{}={}", docker::STRANGER, self.project));
        self.nginx.quit();
        self.agent.kill();
    }
}

/// nginx's workers run as another user, and their folders are below ours.
fn open_for_workers(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a folder of ours");
}

/// Only so many sites are up at once: more would make each other miss their limits on a small machine.
struct Turn;

const TURNS: usize = 3;
static TAKEN: Mutex<usize> = Mutex::new(0);
static RETURNED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = RETURNED.wait_while(taken, |taken| *taken >= TURNS).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RETURNED.notify_one();
    }
}
