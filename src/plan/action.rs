//! Actions: what can be done to the world. Plain data.
//!
//! One action is one idempotent call to one backend, and carries the identity that it was planned against (container id,
//! expected hash), so that a stale plan gets a conflict instead of hitting something newer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::observed::{CheckStatus, ChosenPort, GenerationId, Kept, Manifest, Pin, TemplateRecord, WantedAttachment};
use crate::render::endpoints::Endpoints;
use crate::spec::container::{ConfigHash, ContainerConfig, NetworkMode};
use crate::spec::template::{CommandLine, FollowUp};
use crate::spec::{CheckKind, Network, Volume};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Docker(DockerAction),
    Consul(ConsulAction),
    Nginx(NginxAction),
    Directory(DirectoryAction),
    Template(TemplateAction),
}

impl Action {
    /// The word in plans, logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Docker(action) => action.kind(),
            Self::Consul(action) => action.kind(),
            Self::Nginx(action) => action.kind(),
            Self::Directory(action) => action.kind(),
            Self::Template(action) => action.kind(),
        }
    }

    pub fn system(&self) -> System {
        match self {
            Self::Docker(_) => System::Docker,
            Self::Consul(_) => System::Consul,
            Self::Nginx(_) => System::Nginx,
            Self::Directory(_) => System::Directory,
            Self::Template(_) => System::Templates,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum System {
    Docker,
    Consul,
    Nginx,
    Directory,
    Templates,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Consul => "consul",
            Self::Nginx => "nginx",
            Self::Directory => "directory",
            Self::Templates => "templates",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerAction {
    /// A name that exists with our mark is success; without it, a conflict.
    CreateNetwork(Network),
    RemoveNetwork {
        id: String,
        name: String,
    },
    CreateVolume(Volume),
    RemoveVolume {
        name: String,
    },
    PullImage {
        image: String,
        platform: Option<String>,
    },
    /// Creates only; `StartContainer` follows in the same wave when it can (`id` is then the name).
    CreateContainer(Box<NewContainer>),
    /// `container`: id, or the name when it was created in the same wave.
    StartContainer {
        container: String,
        name: String,
    },
    /// `grace`: between the stop signal and SIGKILL.
    StopContainer {
        id: String,
        name: String,
        grace: Duration,
    },
    UnpauseContainer {
        id: String,
        name: String,
    },
    /// Its anonymous volumes go with it. Never forced: a running container is a conflict.
    RemoveContainer {
        id: String,
        name: String,
    },
    ConnectNetwork {
        id: String,
        name: String,
        attachment: WantedAttachment,
    },
    DisconnectNetwork {
        id: String,
        name: String,
        network: String,
    },
}

impl DockerAction {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateNetwork(_) => "create_network",
            Self::RemoveNetwork { .. } => "remove_network",
            Self::CreateVolume(_) => "create_volume",
            Self::RemoveVolume { .. } => "remove_volume",
            Self::PullImage { .. } => "pull_image",
            Self::CreateContainer(_) => "create_container",
            Self::StartContainer { .. } => "start_container",
            Self::StopContainer { .. } => "stop_container",
            Self::UnpauseContainer { .. } => "unpause_container",
            Self::RemoveContainer { .. } => "remove_container",
            Self::ConnectNetwork { .. } => "connect_network",
            Self::DisconnectNetwork { .. } => "disconnect_network",
        }
    }
}

/// Everything that `docker create` needs. The backend adds the labels from these fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContainer {
    /// `<project>-<service>-<slot>-<hash8>`, or `container_name`.
    pub name: String,
    pub service: String,
    pub slot: u32,
    pub hash: ConfigHash,
    pub config: Arc<ContainerConfig>,
    /// How the engine is asked for the image: `config.image`, or an id when a rollback wants what the reference no longer
    /// points at.
    pub image: String,
    /// One for each of `config.ports`, in its order.
    pub host_ports: Vec<ChosenPort>,
    /// Id of the image at the time of planning; empty when it is pulled first.
    pub image_id: String,
    /// `config.network_mode` with `service:` resolved to a container's id.
    pub network_mode: Option<NetworkMode>,
    /// The service registers: recorded as the label `reeve.registers`.
    pub registers: bool,
    /// Recorded as the label `reeve.depends_on`, a JSON list.
    pub depends_on: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsulAction {
    /// Also updates: Consul keeps the checks' state and maintenance.
    Register(Box<NewRegistration>),
    /// The same over a record without anybody's mark, which becomes ours: what a former registrator left. Its old
    /// checks go.
    Adopt(Box<NewRegistration>),
    /// Removes a record without anybody's mark.
    RemoveUnmarked {
        id: String,
    },
    /// Maintenance on, with the reason `reeve: …`.
    Drain {
        id: String,
        reason: String,
    },
    /// Maintenance off, only if the reason is ours: a replica that is wanted again.
    LiftDrain {
        id: String,
    },
    /// Stores in `Meta` when nginx was seen not routing. Conflict unless it drains.
    StartDrainClock {
        id: String,
        at: Timestamp,
    },
    /// Takes it out of `Meta` again: nginx is seen routing to it once more.
    StopDrainClock {
        id: String,
    },
    Deregister {
        id: String,
    },
    /// Writes the TTL check `<id>:health`, when the HEALTHCHECK's state changed.
    SetHealth {
        id: String,
        status: CheckStatus,
        output: String,
    },
    /// A check that no registration wants any more.
    RemoveCheck {
        check: String,
    },
}

impl ConsulAction {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Adopt(_) => "adopt",
            Self::RemoveUnmarked { .. } => "remove_unmarked",
            Self::Drain { .. } => "drain",
            Self::LiftDrain { .. } => "lift_drain",
            Self::StartDrainClock { .. } => "start_drain_clock",
            Self::StopDrainClock { .. } => "stop_drain_clock",
            Self::Deregister { .. } => "deregister",
            Self::SetHealth { .. } => "set_health",
            Self::RemoveCheck { .. } => "remove_check",
        }
    }
}

/// Everything that the agent needs. The backend adds the owner to `Meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRegistration {
    /// `<node>:<replica>:<port>/<proto>`.
    pub id: String,
    /// Name of the Consul service.
    pub name: String,
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub service: String,
    pub slot: u32,
    pub container: String,
    /// The check `<id>:declared`.
    pub check: Option<WantedCheck>,
    /// The TTL check `<id>:health`, for a container with a HEALTHCHECK.
    pub health: bool,
    /// Kept when it is an update.
    pub drain_start: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedCheck {
    pub kind: WantedKind,
    /// Means nothing for a TTL.
    pub interval: Duration,
    /// `None`: Consul's own.
    pub timeout: Option<Duration>,
    /// Consul removes a registration that was critical for so long.
    pub deregister_after: Option<Duration>,
    /// What it counts as until it has run once.
    pub initial: CheckStatus,
    /// The address that the agent asks, which may differ from the registered one.
    pub address: String,
    pub port: u16,
    /// Digest of all of this: stored in `Meta`, compared by the planner.
    pub digest: String,
}

/// What a check does. A spec can declare some of these; the others come from registrator's `SERVICE_CHECK_*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedKind {
    Http {
        tls: bool,
        path: String,
        /// `None`: GET.
        method: Option<String>,
        skip_verify: bool,
    },
    Tcp,
    Grpc {
        /// May be empty.
        service: String,
        tls: bool,
        skip_verify: bool,
    },
    /// The agent runs this, without a shell.
    Command {
        words: Vec<String>,
    },
    /// Somebody tells the agent within this time, again and again.
    Ttl {
        within: Duration,
    },
}

impl From<&CheckKind> for WantedKind {
    fn from(kind: &CheckKind) -> Self {
        match kind {
            CheckKind::Http { path } => Self::Http { tls: false, path: path.clone(), method: None, skip_verify: false },
            CheckKind::Tcp => Self::Tcp,
            CheckKind::Grpc { service } => Self::Grpc { service: service.clone(), tls: false, skip_verify: false },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NginxAction {
    /// Writes the folder, and checks it (`nginx -t`). A refusal is recorded beside it.
    WriteGeneration(Box<NewGeneration>),
    /// Points `current` at it, atomically.
    SwitchGeneration {
        id: GenerationId,
    },
    /// Reloads, and waits until it is seen loaded. Conflict when `current` is another one. What cannot be loaded is recorded
    /// beside the generation, and `current` goes back to the one that is loaded.
    Reload {
        expect: GenerationId,
    },
    /// Starts nginx, and waits until the generation is seen loaded. A refusal is recorded beside it.
    Start {
        expect: GenerationId,
    },
    /// The endpoints of the loaded generation, which Lua balances: into its file, then into the running nginx. All of them
    /// together: workers have the old set or the new one. Conflict when another generation is loaded.
    SetEndpoints {
        expect: GenerationId,
        endpoints: Endpoints,
    },
    /// QUIT to workers without a master, which block the ports.
    QuitOrphans {
        pids: Vec<i32>,
    },
    RemoveGeneration {
        id: GenerationId,
    },
}

impl NginxAction {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::WriteGeneration(_) => "write_generation",
            Self::SwitchGeneration { .. } => "switch_generation",
            Self::Reload { .. } => "reload",
            Self::Start { .. } => "start_nginx",
            Self::SetEndpoints { .. } => "set_endpoints",
            Self::QuitOrphans { .. } => "quit_orphans",
            Self::RemoveGeneration { .. } => "remove_generation",
        }
    }
}

/// A complete generation, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGeneration {
    pub id: GenerationId,
    /// Without `files`' digests; the backend adds them.
    pub manifest: Manifest,
    /// Text by file name; `reeve.conf` includes the others.
    pub files: BTreeMap<String, Arc<str>>,
    /// Source of the template: kept, so that it can be used again when its successor is broken.
    pub template: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryAction {
    AddPin {
        pin: Pin,
    },
    RemovePin {
        pin: Pin,
    },
    /// What serves now, and what served before it: the whole of what is kept of a service. Bookkeeping: see
    /// `Plan::records`.
    Keep {
        service: String,
        kept: Arc<Kept>,
    },
    /// Nothing is kept any more of a service that is gone. Bookkeeping, too.
    Forget {
        service: String,
    },
}

impl DirectoryAction {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AddPin { .. } => "add_pin",
            Self::RemovePin { .. } => "remove_pin",
            Self::Keep { .. } => "keep",
            Self::Forget { .. } => "forget",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateAction {
    /// Stages the file beside its destination, checks it, notes that its command is pending, and puts it in place.
    Write(Box<NewFile>),
    /// Runs what follows, and takes the mark off each template whose file is still the one that it ran for.
    Run(Box<TemplateRun>),
    /// Bookkeeping: see `Plan::records`.
    Note { name: String, record: Arc<TemplateRecord> },
}

impl TemplateAction {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Write(_) => "write_template",
            Self::Run(_) => "run_command",
            Self::Note { .. } => "note_template",
        }
    }
}

/// A rendered file.
#[derive(Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Of the template.
    pub name: String,
    /// With every link resolved: a conflict when that is another path by now.
    pub real: PathBuf,
    /// Digest of what it replaces; `None`: nothing. A conflict when something else stands there by now.
    pub expect: Option<String>,
    pub text: Arc<str>,
    /// The last twelve bits.
    pub mode: u32,
    /// `None`: reeve's own.
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub check: Option<CommandLine>,
    pub backup: bool,
    /// Noted before the file is put in place.
    pub record: TemplateRecord,
}

/// Without the text, which may hold a secret.
impl std::fmt::Debug for NewFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewFile")
            .field("name", &self.name)
            .field("real", &self.real)
            .field("expect", &self.expect)
            .field("mode", &self.mode)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRun {
    /// Templates for which it is pending, with the digests of their files.
    pub templates: BTreeMap<String, String>,
    pub follow_up: FollowUp,
    /// Names by id of the containers that get the signal, if it goes to a service.
    pub containers: BTreeMap<String, String>,
}
