//! The loop of the daemon: wait for a trigger, make a pass, publish what it saw.
//!
//! It holds nothing that must survive: backoff, the last report and the memory of having converged only serve speed,
//! logs and metrics.

pub mod backoff;
pub mod source;
pub mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::engine::{Engine, Orders, Past};
use crate::explain::Seen;
use crate::http::{Explain, Explained, Foresee, Report, Shared, Unexplained};
use crate::metrics::Metrics;
use crate::observed::{Interest, Observed, Registration};
use crate::pass::{Applied, Pass};
use crate::plan::action::{Action, ConsulAction, DockerAction, NginxAction, System};
use crate::plan::preview::Preview;
use crate::plan::{Plan, Removals, Step, Waiting, display};
use crate::status::Status;
use crate::world::{ActionError, WakeSource};
use backoff::Backoff;
use source::{SpecChange, SpecSource};
use trigger::{LastPass, Trigger, Woken};

/// What waits for something that sends no event (a probe, a port, a backend that is away) is looked at again after this.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// …and then ever more seldom, up to this.
const SELDOM_LOOK: Duration = Duration::from_secs(10);
/// A step that failed is shown as waiting after this.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How long the actions under way may take to end after SIGTERM. They are idempotent: cutting one off is a crash, which
/// everything is built to survive.
const STOP_GRACE: Duration = Duration::from_millis(1500);

/// The daemon of one project, ready to run.
pub struct Controller {
    pub engine: Arc<Engine>,
    pub source: SpecSource,
    pub metrics: Arc<Metrics>,
    pub shared: Arc<Shared>,
    pub trigger: Trigger,
    /// Plans and exports drift, and writes nothing.
    pub observe_only: bool,
}

impl Controller {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (interest_sender, interest) = watch::channel(Interest::of(self.source.spec(), &self.engine.owner));
        let metrics = self.metrics.clone();
        let wake = self.trigger.handle(Arc::new(move |source| metrics.observe_event(source)));
        let engine = self.engine.clone();
        let watching = engine.world().watch(interest, wake.clone());
        let files = self.source.watch(wake);
        let looping = self.passes(interest_sender, &stop);
        tokio::select! {
            () = looping => {}
            // A watcher never ends by itself; if it did, the timer alone would drive the loop.
            () = watching => error!("the watchers ended; ending, so that a supervisor starts the daemon anew"),
            () = files => error!("the watcher of the spec's files ended; ending, so that a supervisor starts the daemon anew"),
        }
    }

    async fn passes(&mut self, interest: watch::Sender<Interest>, stop: &CancellationToken) {
        let settings = self.engine.settings.loop_.clone();
        let mut state = LoopState::default();
        self.metrics.spec(true, &self.source.spec().digest);
        self.trigger.wake(WakeSource::Signal, Timestamp::now());
        // The first pass is not part of a burst.
        let mut last = LastPass { ended: Instant::now(), took: Some(Duration::ZERO) };
        loop {
            let believed_since = self.engine.world().believed_since();
            let deadline = state.next_look(believed_since.map_or(last.ended, |at| at.min(last.ended)), settings.resync);
            let woken = tokio::select! {
                woken = self.trigger.wait(last, settings.quiet, settings.max_wait, deadline) => woken,
                () = stop.cancelled() => return,
            };
            for source in &woken.sources {
                self.metrics.observe_wake(*source);
            }
            self.shared.heartbeat();
            self.take_spec(&mut state, &interest);
            let changed_at = match (state.changed_at, woken.changed_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            state.changed_at = changed_at;
            let pass = self.stoppable_pass(&mut state, &woken, stop).await;
            let Some(pass) = pass else { return };
            last = LastPass { ended: Instant::now(), took: pass.applied.is_empty().then_some(pass.took) };
            self.after_pass(&mut state, pass);
        }
    }

    /// A pass that ends soon after `stop`; `None`: it was cut off.
    async fn stoppable_pass(&mut self, state: &mut LoopState, woken: &Woken, stop: &CancellationToken) -> Option<Pass> {
        let engine = self.engine.clone();
        let spec = self.source.spec().clone();
        let orders = Orders { removals: Removals::Held, teardown: None, dry: self.observe_only };
        let settled = state.settled.clone();
        let shared = self.shared.clone();
        let report = move |applied: &Applied| {
            shared.heartbeat();
            log_applied(applied);
        };
        let select = |plan: &mut Plan| {
            if let Some(settled) = settled.as_ref().filter(|settled| settled.digest == spec.digest) {
                settled.mark_drift(plan);
            } else {
                plan.steps.iter_mut().for_each(|step| step.drift = false);
            }
        };
        let last = state.last.take();
        let past = Past { backoff: &mut state.backoff, last: last.as_deref(), beside_nginx: woken.beside_nginx() };
        let pass = engine.pass(&spec, orders, past, stop, select, &report);
        let mut pass = Box::pin(pass);
        let mut pass = tokio::select! {
            pass = &mut pass => pass,
            () = stop.cancelled() => tokio::time::timeout(STOP_GRACE, pass).await.ok()?,
        };
        pass.changed_at = state.changed_at;
        Some(pass)
    }

    fn after_pass(&mut self, state: &mut LoopState, pass: Pass) {
        // Kept until the next one, for whoever asks for an explanation.
        let pass = Arc::new(pass);
        state.last = Some(pass.clone());
        let reloaded = pass.applied.iter().any(|applied| {
            matches!(applied.kind, "reload" | "start_nginx" | "set_endpoints") && applied.result.is_ok()
        });
        if reloaded && let Some(changed_at) = state.changed_at.take() {
            let took = Timestamp::now().duration_since(changed_at);
            self.metrics.observe_change_to_loaded(Duration::try_from(took).unwrap_or_default());
        }
        let status = Status::of(&pass.spec, &pass.observed, &pass.plan, &pass.held);
        self.metrics.observe_pass(&pass, &status);
        let owes_a_look = self.engine.world().owes_a_look();
        let converged = pass.plan.converged() && pass.held.is_empty() && !owes_a_look;
        if converged || pass.led_to_nothing() {
            state.changed_at = None;
        }
        if converged {
            if !state.converged {
                info!(project = pass.spec.project, "converged: everything is as the spec says");
            }
            state.settled = Some(Arc::new(Settled::of(&pass)));
        } else if let Some(settled) = &mut state.settled
            && pass.applied.iter().any(|applied| applied.kind == "switch_generation" && applied.result.is_ok())
        {
            // To go back to it may be our own doing from now on: a replica that was unhealthy is healthy again.
            Arc::make_mut(settled).generation = None;
        }
        state.converged = converged;
        state.log_changes(&pass);
        if self.observe_only {
            state.log_planned(&pass.plan);
        }
        state.look_again(&pass);
        self.publish(state, &pass, status);
        let progressed = pass.applied.iter().any(|applied| match &applied.result {
            Ok(()) | Err(ActionError::Conflict(_) | ActionError::Refused(_)) => true,
            Err(ActionError::Transient(_) | ActionError::Permanent(_)) => false,
        });
        // After a reload, what came meanwhile is waited for as ever: in a burst each pass would be a reload.
        match (progressed, reloaded) {
            (true, false) => self.trigger.go_on(),
            (true, true) => self.trigger.wake(WakeSource::OwnWrite, Timestamp::now()),
            (false, _) if owes_a_look => self.trigger.wake(WakeSource::OwnWrite, Timestamp::now()),
            (false, _) => {}
        }
    }

    fn explainer(&self, pass: &Arc<Pass>) -> Explain {
        let (engine, pass, observe_only) = (self.engine.clone(), pass.clone(), self.observe_only);
        let orders = Orders { removals: Removals::Held, teardown: None, dry: true };
        Arc::new(move |name, actions| {
            let Pass { spec, observed, plan, held, .. } = pass.as_ref();
            let seen = Seen { owner: &engine.owner, spec, observed, plan, held, now: Timestamp::now() };
            let node = engine.owner.node.clone();
            match engine.explain(name, &seen, orders, actions) {
                Ok(explanation) => Ok(Explained { at: pass.started_at, node, observe_only, explanation }),
                Err(error) => {
                    Err(Unexplained { error: error.to_string(), node, project: engine.owner.project.clone() })
                }
            }
        })
    }

    fn foreseer(&self, pass: &Arc<Pass>) -> Foresee {
        let (engine, pass, observe_only) = (self.engine.clone(), pass.clone(), self.observe_only);
        let orders = Orders { removals: Removals::Held, teardown: None, dry: false };
        Arc::new(move || {
            // What is left after a pass that applied its wave is the next pass's to say; a quiet pass has no later waves.
            if pass.plan.steps.is_empty() || observe_only {
                let context = engine.context(orders);
                display::json(&Preview::of(&pass.spec, &pass.observed, Timestamp::now(), &context))
            } else {
                display::wave_json(&pass.plan)
            }
        })
    }

    fn publish(&self, state: &LoopState, pass: &Arc<Pass>, status: Status) {
        let report = Report {
            at: pass.started_at,
            node: self.engine.owner.node.clone(),
            observe_only: self.observe_only,
            spec_refused: state.spec_refused.clone(),
            status,
        };
        if let Err(error) = self.shared.publish(&report, self.foreseer(pass), Some(self.explainer(pass))) {
            error!(%error, "the status cannot be published");
        }
    }

    /// Takes a changed spec when its files have been quiet, keeps the last good one when they are invalid.
    fn take_spec(&mut self, state: &mut LoopState, interest: &watch::Sender<Interest>) {
        match self.source.poll() {
            SpecChange::None => {}
            SpecChange::Same => {
                if state.spec_refused.take().is_some() {
                    info!("the spec is valid again, and the same as before");
                }
                self.metrics.spec(true, &self.source.spec().digest);
            }
            SpecChange::Changed => {
                state.spec_refused = None;
                let spec = self.source.spec();
                info!(project = spec.project, digest = &spec.digest[..spec.digest.len().min(12)], "the spec changed");
                self.metrics.spec(true, &spec.digest);
                interest.send_replace(Interest::of(spec, &self.engine.owner));
            }
            SpecChange::Invalid { shown, line } => {
                error!("the changed spec is invalid; the last good one stays in force: {line}");
                state.spec_refused = Some(shown);
                self.metrics.spec(false, &self.source.spec().digest);
            }
        }
        for warning in self.source.take_warnings() {
            warn!("{warning}");
        }
    }
}

/// What the loop remembers between passes.
#[derive(Default)]
struct LoopState {
    backoff: Backoff,
    /// The last pass.
    last: Option<Arc<Pass>>,
    converged: bool,
    /// Why the spec's files, as they are now, are not taken.
    spec_refused: Option<String>,
    /// What was there when the present spec was last converged on; what differs from it without a change of the spec is
    /// drift.
    settled: Option<Arc<Settled>>,
    /// Time of the oldest change that is not loaded yet.
    changed_at: Option<Timestamp>,
    /// What was waiting in the last pass, to log only what is new.
    waiting: BTreeSet<(String, String)>,
    /// What the last pass would have done, had it not only observed.
    planned: BTreeSet<String>,
    /// Objects whose roll-out had failed in the last pass.
    failed: BTreeSet<String>,
    /// Backends that could not be read in the last pass, with the reason.
    unknown: BTreeMap<&'static str, String>,
    /// When to look again by time alone.
    next: Option<Instant>,
    /// How long the present wait has been looked at.
    pause: Option<Duration>,
}

impl LoopState {
    /// `read`: when everything was last read. A pass that read only what had changed does not put the resync off.
    fn next_look(&self, read: Instant, resync: Duration) -> Instant {
        let resync = read + resync;
        self.next.map_or(resync, |next| next.min(resync))
    }

    fn look_again(&mut self, pass: &Pass) {
        let now = Timestamp::now();
        let until = pass
            .held
            .iter()
            .map(|(_, _, next)| *next)
            .chain(pass.plan.waiting.iter().filter_map(|waiting| waiting.until))
            .chain(pass.plan.proven_at)
            // What failed just now is held by the next pass, which nothing else may wake.
            .chain(self.backoff.next(now))
            .min()
            .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        // A pass that failed says so only when the next one finds its steps held.
        let failed =
            |applied: &Applied| matches!(applied.result, Err(ActionError::Transient(_) | ActionError::Permanent(_)));
        let until = match pass.applied.iter().any(failed) {
            true => Some(until.map_or(AFTER_FAILURE, |until| until.min(AFTER_FAILURE))),
            false => until,
        };
        let open = pass.plan.waiting.iter().any(|waiting| waiting.blocks() && waiting.until.is_none());
        let moved = !pass.applied.is_empty();
        self.pause = match (open, self.pause) {
            (false, _) => None,
            (true, Some(pause)) if !moved => Some(pause.mul_f64(1.5).min(SELDOM_LOOK)),
            (true, _) => Some(FIRST_LOOK),
        };
        let pause = match (self.pause, until) {
            (Some(pause), Some(until)) => Some(pause.min(until)),
            (pause, until) => pause.or(until),
        };
        self.next = pause.map(|pause| Instant::now() + pause);
    }

    /// One line for what is new, nothing for what is as before.
    fn log_changes(&mut self, pass: &Pass) {
        let unknown = unknown_views(&pass.observed);
        for (backend, reason) in &unknown {
            if !self.unknown.contains_key(backend) {
                warn!(backend, "cannot be read: {reason}; nothing that depends on it is changed");
            }
        }
        for backend in self.unknown.keys().filter(|backend| !unknown.contains_key(*backend)) {
            info!(backend, "can be read again");
        }
        self.unknown = unknown;
        let waiting: BTreeSet<(String, String)> =
            quiet(pass).map(|waiting| (waiting.object.to_string(), waiting.reason.clone())).collect();
        for (object, reason) in waiting.difference(&self.waiting) {
            info!("{object}: waits: {reason}");
        }
        // A probe's words can change from one pass to the next: once for each object is enough.
        let failed = pass.plan.waiting.iter().filter(|waiting| waiting.kind == "roll_failed");
        let failed: BTreeMap<String, &Waiting> = failed.map(|waiting| (waiting.object.to_string(), waiting)).collect();
        for (object, waiting) in failed.iter().filter(|(object, _)| !self.failed.contains(*object)) {
            let log: String = waiting.details.iter().map(|line| format!("\n  | {line}")).collect();
            warn!("{object}: {}{log}", waiting.reason);
        }
        self.failed = failed.into_keys().collect();
        self.waiting = waiting;
    }

    /// For one that only observes: the first day of a migration is read in its log.
    fn log_planned(&mut self, plan: &Plan) {
        let line = |step: &Step| format!("{}: {}: {}", step.object, display::verb(&step.action), step.cause);
        let planned: BTreeSet<String> = plan.steps.iter().map(line).collect();
        for line in planned.difference(&self.planned) {
            info!("would do: {line}");
        }
        self.planned = planned;
    }
}

/// What waits, but for failed roll-outs, which are said louder.
fn quiet(pass: &Pass) -> impl Iterator<Item = &Waiting> {
    pass.plan.waiting.iter().filter(|waiting| waiting.kind != "roll_failed")
}

fn unknown_views(observed: &Observed) -> BTreeMap<&'static str, String> {
    [
        (System::Docker, observed.docker.reason()),
        (System::Consul, observed.consul.reason()),
        (System::Nginx, observed.nginx.reason()),
        (System::Directory, observed.directory.reason()),
    ]
    .into_iter()
    .filter_map(|(system, reason)| Some((system.name(), reason?.to_owned())))
    .collect()
}

/// The world as it was when everything was as the spec says.
#[derive(Clone)]
struct Settled {
    digest: String,
    /// Ids.
    containers: BTreeSet<String>,
    /// What discovery has registered, by id: of which container, and at which address and port.
    discovered: BTreeMap<String, (String, String, u16)>,
    /// Hash of the generation that `current` pointed at, as long as we have not switched it since.
    generation: Option<String>,
}

impl Settled {
    fn of(pass: &Pass) -> Self {
        let docker = pass.observed.docker.known();
        let containers = docker.into_iter().flat_map(|docker| docker.containers.keys().cloned()).collect();
        let registrations = pass.observed.consul.known().into_iter().flat_map(|consul| consul.registrations.values());
        let place = |seen: &Registration| (seen.id.clone(), (seen.container.clone(), seen.address.clone(), seen.port));
        let discovered = registrations.filter(|seen| seen.discovered()).map(place).collect();
        let current = pass.observed.nginx.known().and_then(|nginx| nginx.current.as_ref());
        Self { digest: pass.spec.digest.clone(), containers, discovered, generation: current.map(|id| id.hash.clone()) }
    }

    /// It was in force, nobody wanted anything else since, and it has to be put in force again.
    fn was_in_force(&self, action: &NginxAction) -> bool {
        let id = match action {
            NginxAction::WriteGeneration(new) => &new.id,
            NginxAction::SwitchGeneration { id } => id,
            NginxAction::Reload { expect } | NginxAction::Start { expect } => expect,
            // The planner can tell.
            NginxAction::SetEndpoints { .. }
            | NginxAction::QuitOrphans { .. }
            | NginxAction::RemoveGeneration { .. } => return false,
        };
        self.generation.as_ref() == Some(&id.hash)
    }

    /// A step that puts right what somebody changed, or what broke, is drift. What only follows from it (the registration
    /// of a replica that was made anew, an endpoint more) is not, nor what follows from a container's health.
    fn mark_drift(&self, plan: &mut Plan) {
        let mut created: BTreeSet<String> = BTreeSet::new();
        let switched: BTreeSet<_> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Nginx(NginxAction::SwitchGeneration { id }) => Some(id.clone()),
                _ => None,
            })
            .collect();
        for step in &mut plan.steps {
            step.drift = match &step.action {
                Action::Docker(action) => match action {
                    DockerAction::CreateContainer(new) => {
                        created.insert(new.name.clone());
                        true
                    }
                    DockerAction::StartContainer { name, .. } => !created.contains(name),
                    DockerAction::UnpauseContainer { .. }
                    | DockerAction::ConnectNetwork { .. }
                    | DockerAction::DisconnectNetwork { .. }
                    | DockerAction::CreateNetwork(_)
                    | DockerAction::CreateVolume(_)
                    | DockerAction::RemoveNetwork { .. }
                    | DockerAction::RemoveVolume { .. } => true,
                    DockerAction::PullImage { .. }
                    | DockerAction::StopContainer { .. }
                    | DockerAction::RemoveContainer { .. } => false,
                },
                Action::Consul(action) => match action {
                    ConsulAction::Register(new) => {
                        // A container that came, got well or moved is no drift: nobody changed what was registered.
                        let before = self.discovered.get(&new.id).map(|(id, at, port)| (id, at, *port));
                        self.containers.contains(&new.container)
                            || before == Some((&new.container, &new.address, new.port))
                    }
                    ConsulAction::LiftDrain { .. } | ConsulAction::RemoveCheck { .. } => true,
                    // Of a container that somebody removed. An observer comes to no later step that would tell of it.
                    ConsulAction::Deregister { .. } => step.drift,
                    ConsulAction::Adopt(_) | ConsulAction::RemoveUnmarked { .. } => false,
                    ConsulAction::Drain { .. }
                    | ConsulAction::StartDrainClock { .. }
                    | ConsulAction::StopDrainClock { .. }
                    | ConsulAction::SetHealth { .. } => false,
                },
                // Written only to see whether nginx accepts it.
                Action::Nginx(NginxAction::WriteGeneration(new)) if !switched.contains(&new.id) => false,
                Action::Nginx(action) => step.drift || self.was_in_force(action),
                Action::Directory(_) => false,
                // The planner can tell, from what was noted.
                Action::Template(_) => step.drift,
            };
        }
    }
}

pub(crate) fn log_applied(applied: &Applied) {
    let object = applied.object.to_string();
    let kind = applied.kind.replace('_', " ");
    let took_ms = u64::try_from(applied.took.as_millis()).unwrap_or(u64::MAX);
    match &applied.result {
        Ok(()) if applied.is_record() => debug!(action = applied.kind, took_ms, "{object}: {kind}: {}", applied.cause),
        Ok(()) => info!(action = applied.kind, drift = applied.drift, took_ms, "{object}: {kind}: {}", applied.cause),
        Err(ActionError::Conflict(error)) => {
            info!(action = applied.kind, "{object}: {kind}: the world moved on: {error}")
        }
        Err(ActionError::Transient(error)) => {
            warn!(action = applied.kind, "{object}: {kind} failed, and is tried again: {error}")
        }
        Err(ActionError::Permanent(error)) => error!(action = applied.kind, "{object}: {kind} failed: {error}"),
        Err(ActionError::Refused(error)) => warn!(action = applied.kind, "{object}: {kind}: {error}"),
    }
}
