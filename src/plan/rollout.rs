//! How far the roll-out of a service has come, and whether it may go on: deadline, monitor, delay, and what follows from a
//! failure.
//!
//! Owns the judgement alone: `replicas` asks it before it begins to replace anything. Every gate is a condition over what
//! is observed (when a container was made and started, what it says for itself, what was kept as having served), so that a
//! restart of reeve changes none of them. What only ends by time says when.
//!
//! A service is being rolled out while replicas of another version leave, or while what is kept as serving is another
//! version: the last replica of a roll-out, and a single one, can fail, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::ObjectKey;
use super::action::{Action, DirectoryAction};
use super::facts::{Fitness, one_line};
use super::gates::Gate;
use super::planner::{Planner, after};
use super::replicas::Roster;
use super::retire::seconds;
use crate::observed::{Container, ContainerState, Pin, Refused, same_image};
use crate::spec::{FailureAction, Service};

/// What the roll-out of one service may do in this wave. The default: whatever else allows.
#[derive(Debug, Default)]
pub(super) struct Rollout {
    /// Nothing more of it is begun: why, in words.
    pub paused: Option<String>,
    /// It turns back with this wave: nothing is made any more.
    pub turns_back: bool,
    /// Slots whose new replica failed and does not hold the others.
    pub passed_over: BTreeSet<u32>,
    /// Slots whose new replica the engine has refused to make for too long. It is tried on: what was missing may be there
    /// by now.
    pub refused: BTreeSet<u32>,
    /// By slot: until when its replica may take to be ready.
    pub pending: BTreeMap<u32, Timestamp>,
    /// Until when the newest replica is watched: before that its predecessor stays, and the next one is not begun.
    pub watched: Option<Timestamp>,
    /// When the next one may be begun.
    pub delayed: Option<Timestamp>,
}

impl Rollout {
    /// Until when the newest replica is watched, and the sentence for it.
    pub fn watched_until(&self) -> Option<(Timestamp, String)> {
        self.watched.map(|until| (until, "the newest replica is watched (monitor) until it counts as good".to_owned()))
    }

    /// When the next replica may be begun, if not now, and what is waited for.
    pub fn next_at(&self) -> Option<(Timestamp, String)> {
        let delayed = self.delayed.map(|until| (until, "the next one follows after the delay".to_owned()));
        self.watched_until().into_iter().chain(delayed).max_by_key(|(until, _)| *until)
    }
}

/// A new replica that failed.
struct Failure<'a> {
    slot: u32,
    image_id: &'a str,
    /// Why, in words.
    reason: String,
    /// The last lines of it.
    log: Vec<String>,
}

/// How a new replica does.
enum Verdict {
    /// It is ready, or what it lacks is not its own fault.
    Good,
    /// It may take until then.
    Pending(Timestamp),
    /// Why, in words.
    Failed(String),
}

impl<'a> Planner<'a> {
    /// Judges the roll-out of a service, says what is to be said of it, and turns it back if that is wanted.
    pub(super) fn roll_out(&mut self, service: &'a Service, roster: &Roster<'a>) -> Rollout {
        let mut rollout = Rollout::default();
        let replaced = roster.leaving.iter().any(|leaving| leaving.outdated && !leaving.surplus);
        let missing = usize::try_from(service.replicas).is_ok_and(|wanted| roster.current.len() < wanted);
        let recorded = self.recorded(service);
        if service.job || roster.all_at_once || !(replaced || missing || !recorded) {
            return rollout;
        }
        let object = || ObjectKey::Service(service.name.clone());
        if let (true, Some(why)) = (replaced, self.observed.directory.reason()) {
            // gate `pins_known`: somebody may have held it, or rolled it back.
            if self.holds(Gate::PinsKnown) {
                let reason = format!("nothing of it is replaced, since reeve's folder cannot be read: {why}");
                self.wait(object(), "directory_unknown", reason);
                rollout.paused = Some("reeve's folder cannot be read".to_owned());
            }
        }
        let pins = self.pins.get(&service.name);
        if pins.is_some_and(|pins| pins.is_rolled_back() && pins.instead.is_none()) && self.holds(Gate::RolledBack) {
            // gate `rolled_back`: what is wanted in its place is lost, and the failed one must not be rolled out again.
            rollout.paused = Some("it was rolled back, and nothing that served before is kept".to_owned());
        }
        let under_way = replaced || self.served_another(service);
        let mut failed: Vec<Failure<'a>> = Vec::new();
        for container in roster.current.values().copied() {
            match self.verdict(service, roster, container) {
                Verdict::Good => {}
                Verdict::Pending(until) => drop(rollout.pending.insert(container.slot, until)),
                Verdict::Failed(reason) if under_way => {
                    let log = container.trouble.as_ref().map(|trouble| trouble.log.clone()).unwrap_or_default();
                    failed.push(Failure { slot: container.slot, image_id: &container.image_id, reason, log });
                }
                Verdict::Failed(_) => {}
            }
        }
        if under_way {
            for (slot, reason) in self.not_made(service, roster) {
                rollout.refused.insert(slot);
                failed.push(Failure { slot, image_id: self.wanted_image(service), reason, log: Vec::new() });
            }
        }
        self.clocks(service, roster, &mut rollout);
        if let Some(until) = rollout.watched.filter(|_| !recorded && !replaced && !missing) {
            let reason = format!("watched for {} (monitor) until it counts as good", seconds(service.update.monitor));
            self.wait_until(object(), "monitor", reason, until);
        }
        if let Some(first) = failed.first() {
            rollout.passed_over = failed.iter().map(|failure| failure.slot).collect();
            self.failed(service, first, &mut rollout);
        }
        rollout
    }

    /// What is kept as serving is this version.
    pub(super) fn recorded(&self, service: &Service) -> bool {
        let image_id = self.wanted_image(service);
        self.observed
            .directory
            .known()
            .and_then(|directory| directory.kept.get(&service.name))
            .is_some_and(|kept| kept.present.is(&service.hash, image_id))
    }

    fn served_another(&self, service: &Service) -> bool {
        let directory = self.observed.directory.known();
        directory.is_some_and(|directory| directory.kept.contains_key(&service.name)) && !self.recorded(service)
    }

    /// Id of the image that new replicas are made from; empty when the engine does not have it.
    pub(super) fn wanted_image(&self, service: &Service) -> &'a str {
        let image = self.facts.docker.and_then(|docker| docker.images.get(service.image()));
        image.map_or("", |image| image.id.as_str())
    }

    /// Times that count from the start of the newest replica.
    fn clocks(&self, service: &Service, roster: &Roster<'a>, rollout: &mut Rollout) {
        let newest = roster.current.values().filter_map(|container| match container.state {
            ContainerState::Running { started_at } => Some(started_at),
            _ => None,
        });
        let Some(newest) = newest.max() else { return };
        let until = |duration: Duration| Some(after(newest, duration)).filter(|until| *until > self.now);
        // gate `monitor`: a replica that dies soon after it was ready takes the next one with it.
        rollout.watched = until(service.update.monitor).filter(|_| self.holds(Gate::Monitor));
        // gate `delay`: replicas follow each other faster than the spec says.
        rollout.delayed = until(service.update.delay).filter(|_| self.holds(Gate::Delay));
    }

    fn verdict(&self, service: &'a Service, roster: &Roster<'a>, container: &'a Container) -> Verdict {
        let monitor = service.update.monitor;
        if let Some(reason) = self.restarted(service, container) {
            return Verdict::Failed(reason);
        }
        if self.ready(service, roster, container) {
            return Verdict::Good;
        }
        let Some(fault) = self.fault(service, container) else { return Verdict::Good };
        let deadline = self.deadline(service);
        let served = self.facts.ever_routed(&container.id);
        if served || !self.facts.registrations(container).is_empty() {
            // It was fit once. Within the time in which it is watched that is the roll-out's failure, later its own.
            let ran = match container.state {
                ContainerState::Running { started_at } | ContainerState::Paused { started_at } => {
                    Some((started_at, self.now))
                }
                ContainerState::Exited { started_at, finished_at, .. } => started_at.zip(finished_at),
                _ => None,
            };
            if let Some((started, ended)) = ran
                && !monitor.is_zero()
                && after(started, monitor) > ended
            {
                // Somebody started it anew by hand (what Docker restarts by itself was told above): it may yet be ready.
                let starting = matches!(self.facts.fitness(container, Some(service)), Fitness::Starting(_));
                let until = after(started, deadline);
                if starting && until > self.now && self.holds(Gate::Deadline) {
                    return Verdict::Pending(until);
                }
                return Verdict::Failed(format!("{fault}, within the {} for which it is watched", seconds(monitor)));
            }
            if served {
                // A registration begins as passing, so that one whose check never passes was routed for a moment, too. It
                // must not hold the roll-out for ever without a word.
                return match self.failing_since(container).map(|since| after(since, deadline)) {
                    None => Verdict::Good,
                    Some(until) if until > self.now && self.holds(Gate::Deadline) => Verdict::Pending(until),
                    Some(_) => Verdict::Failed(format!("{fault}; it has not passed for {}", seconds(deadline))),
                };
            }
        }
        if container.state == ContainerState::Created {
            // Its clock runs from one failed attempt to another: time in which nobody tried to start it does not count.
            return match self.refused(&container.name) {
                None => Verdict::Good,
                Some(refused) if refused.lasts(deadline) => Verdict::Failed(refused_for(refused, deadline)),
                Some(refused) => Verdict::Pending(after(refused.first, deadline)),
            };
        }
        let Some(created) = container.created_at else { return Verdict::Good };
        // From its creation: a container that crashes again and again is started ever anew.
        match after(created, deadline) {
            until if until > self.now && self.holds(Gate::Deadline) => Verdict::Pending(until),
            _ => Verdict::Failed(format!("{fault}; it was not ready within {}", seconds(deadline))),
        }
    }

    /// The engine's refusals to make or to start the replica of this name, if somebody still tries.
    fn refused(&self, name: &str) -> Option<&'a Refused> {
        let refused = &self.observed.directory.known()?.refused;
        refused.get(name).filter(|refused| refused.goes_on(self.now))
    }

    /// Slots without a replica that the engine has refused to make for longer than the deadline: why, in words.
    fn not_made(&self, service: &Service, roster: &Roster<'a>) -> Vec<(u32, String)> {
        let Some(directory) = self.observed.directory.known() else { return Vec::new() };
        let deadline = self.deadline(service);
        let image_id = self.wanted_image(service);
        let refused = directory.refused.values().filter_map(|refused| Some((refused.new.as_ref()?, refused)));
        let lasting = refused.filter(|(new, refused)| {
            (&new.service, &new.hash) == (&service.name, &service.hash)
                && same_image(&new.image_id, image_id)
                && (1..=service.replicas).contains(&new.slot)
                && !roster.current.contains_key(&new.slot)
                && refused.goes_on(self.now)
                && refused.lasts(deadline)
        });
        lasting.map(|(new, refused)| (new.slot, refused_for(refused, deadline))).collect()
    }

    /// How long a new replica may take to be ready.
    fn deadline(&self, service: &Service) -> Duration {
        let image = self.facts.docker.and_then(|docker| docker.images.get(service.image()));
        service.deadline(image.is_some_and(|image| image.healthcheck))
    }

    /// Docker started it again within the time in which it is watched, and it is watched anew.
    fn restarted(&self, service: &Service, container: &Container) -> Option<String> {
        let monitor = service.update.monitor;
        let ContainerState::Running { started_at } = container.state else { return None };
        if container.restarts == 0 || monitor.is_zero() || after(started_at, monitor) <= self.now {
            return None;
        }
        // How long it ran each time, at most.
        let lived = started_at.duration_since(container.created_at?);
        let lived = Duration::try_from(lived).unwrap_or_default() / container.restarts;
        let times = if container.restarts == 1 { "once".to_owned() } else { format!("{} times", container.restarts) };
        (lived <= monitor).then(|| {
            format!(
                "it ended, and Docker started it again {times}, within the {} for which it is watched",
                seconds(monitor)
            )
        })
    }

    /// Why the container is not fit, as far as that is its own doing. That it is not registered or routed yet is not.
    fn fault(&self, service: &Service, container: &Container) -> Option<String> {
        let name = &container.name;
        let probe = container.trouble.as_ref().and_then(|trouble| trouble.probe.as_deref());
        match self.facts.fitness(container, Some(service)) {
            Fitness::NotRunning(_)
                if container.state == ContainerState::Created && self.dependency_missing(service).is_some() =>
            {
                None
            }
            Fitness::NotRunning(reason) | Fitness::Unhealthy(reason) => Some(format!("replica {name}: {reason}")),
            Fitness::Starting(reason) => match probe {
                Some(probe) if !probe.is_empty() => Some(format!("replica {name}: {reason}: {}", one_line(probe))),
                _ => Some(format!("replica {name}: {reason}")),
            },
            Fitness::Healthy => Some(format!("replica {name}: {}", self.failing_check(container)?)),
        }
    }

    /// What Consul says of a check of the container that has run and does not pass.
    pub(super) fn failing_check(&self, container: &Container) -> Option<String> {
        let check = self.facts.registrations(container).iter().find_map(|registration| registration.failing())?;
        Some(format!("Consul's check fails: {}", one_line(&check.output)))
    }

    /// Since when a check of the container fails, as far as that was watched.
    fn failing_since(&self, container: &Container) -> Option<Timestamp> {
        let failing = &self.facts.consul?.failing;
        self.facts.registrations(container).iter().filter_map(|one| failing.get(&one.id)).min().copied()
    }

    /// A new replica failed: what that means for the others.
    fn failed(&mut self, service: &'a Service, failure: &Failure<'a>, rollout: &mut Rollout) {
        let object = ObjectKey::Service(service.name.clone());
        let Failure { image_id, reason, log, .. } = failure;
        let log = log.clone();
        let what = format!("the roll-out to {} ({}) failed: {reason}", service.config.image, service.hash);
        let rolled_back = self.pins.get(&service.name).is_some_and(|pins| pins.is_rolled_back());
        let stays = "nothing more of it is replaced; it goes on when the replica is ready, or with another spec";
        let text = match service.update.failure_action {
            FailureAction::Continue => {
                return self.wait_with(
                    object,
                    "roll_failed",
                    format!("{what}; the other slots go on (failure_action: continue)"),
                    log,
                );
            }
            FailureAction::Pause => format!("{what}; {stays}"),
            // gate `one_way_back`: what failed and what served are rolled out in turn for ever.
            FailureAction::Rollback if rolled_back && self.holds(Gate::OneWayBack) => {
                format!("{what}; that was the rollback: {stays}")
            }
            FailureAction::Rollback => {
                let directory = self.observed.directory.known();
                let kept = directory.and_then(|directory| directory.kept.get(&service.name));
                match kept.and_then(|kept| kept.other_than(&service.hash, image_id)) {
                    None => format!("{what}; nothing that served before is kept to roll back to: {stays}"),
                    Some(configuration) => {
                        let title = configuration.title();
                        let pin = Pin::Failed {
                            service: service.name.clone(),
                            hash: service.hash.clone(),
                            digest: service.digest(),
                            image_id: (*image_id).to_owned(),
                            at: self.now,
                            reason: reason.clone(),
                            log: log.clone(),
                        };
                        let action = Action::Directory(DirectoryAction::AddPin { pin });
                        self.step(object.clone(), action, format!("{what}; back to {title}"));
                        rollout.turns_back = true;
                        format!("{what}; it is rolled back to {title}")
                    }
                }
            }
        };
        rollout.passed_over.clear();
        self.wait_with(object, "roll_failed", text, log);
        // gate `paused`: one replica after the other is replaced by one that fails.
        if self.holds(Gate::Paused) {
            rollout.paused = Some("the roll-out has failed".to_owned());
        }
    }
}

fn refused_for(refused: &Refused, deadline: Duration) -> String {
    format!("Docker has refused it again and again for {}: {}", seconds(deadline), one_line(&refused.error))
}
