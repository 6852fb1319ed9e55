//! What the parts of the planner share while one wave is put together.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

use super::action::{DirectoryAction, NewRegistration};
use super::context::{Context, Removals};
use super::facts::Facts;
use super::gates::Gate;
use super::pins::Pins;
use super::replicas::Roster;
use super::verdict::Judged;
use super::{Action, Change, ObjectKey, Plan, Step, Waiting};
use crate::observed::{Observed, Pin, Registration};
use crate::spec::upstream::CatalogQuery;
use crate::spec::{Spec, Upstream};

pub(super) struct Planner<'a> {
    /// What the user wrote. Only the life of pins and of what is kept depends on it.
    pub wanted: &'a Spec,
    /// The effective spec: with what the pins put in its place.
    pub spec: &'a Spec,
    pub pins: Rc<Pins<'a>>,
    pub observed: &'a Observed,
    pub facts: Facts<'a>,
    pub now: Timestamp,
    pub context: &'a Context<'a>,
    pub owner: String,
    /// The upstreams of the spec by the service that they ask Consul for.
    pub upstreams_by_service: BTreeMap<&'a str, Vec<&'a Upstream>>,
    /// The containers of the passing instances in each answer of the catalog.
    pub listed_containers: OnceCell<BTreeMap<&'a CatalogQuery, BTreeSet<&'a str>>>,
    /// Asked for every service; to tell it, both definitions are written out.
    pub networks_differing: OnceCell<BTreeSet<&'a str>>,
    /// By service of the spec; empty while Docker cannot be read.
    pub rosters: Rc<BTreeMap<&'a str, Roster<'a>>>,
    /// Ids of containers that leave traffic: draining, or about to be drained by this wave. `routes` subtracts them.
    pub retiring: BTreeSet<&'a str>,
    /// Ids of containers whose drain this wave takes back. `routes` keeps them.
    pub recalled: BTreeSet<&'a str>,
    /// Ids of registrations that leave while their container stays.
    pub retiring_registrations: BTreeSet<&'a str>,
    /// By id of a container that reeve did not make: what it is to be registered as.
    pub offers: BTreeMap<&'a str, Vec<NewRegistration>>,
    /// Why the services and upstreams that left the spec are kept for now.
    pub removals_held: Option<String>,
    /// A Consul server is being replaced in this wave: no second one.
    pub peer_replaced: bool,
    /// By upstream; only while verdicts are asked for.
    pub judged: Option<BTreeMap<String, Vec<Judged>>>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// `spec`: [`super::pins::effective`] of the wanted one.
    pub fn new(
        wanted: &'a Spec,
        spec: &'a Spec,
        observed: &'a Observed,
        now: Timestamp,
        context: &'a Context<'a>,
    ) -> Self {
        let mut upstreams_by_service: BTreeMap<&str, Vec<&Upstream>> = BTreeMap::new();
        for upstream in spec.upstreams.values() {
            if let Some(query) = &upstream.query {
                upstreams_by_service.entry(&query.service).or_default().push(upstream);
            }
        }
        Self {
            wanted,
            spec,
            pins: Rc::new(Pins::of(wanted, observed)),
            observed,
            facts: Facts::new(observed, now),
            now,
            context,
            owner: context.owner.to_string(),
            upstreams_by_service,
            listed_containers: OnceCell::new(),
            networks_differing: OnceCell::new(),
            rosters: Rc::default(),
            retiring: BTreeSet::new(),
            recalled: BTreeSet::new(),
            retiring_registrations: BTreeSet::new(),
            offers: BTreeMap::new(),
            removals_held: None,
            peer_replaced: false,
            judged: None,
            plan: Plan::default(),
        }
    }

    /// The gate is in force: it is, but in the explorer's tests.
    pub fn holds(&self, gate: Gate) -> bool {
        self.context.gates.holds(gate)
    }

    pub fn step(&mut self, object: ObjectKey, action: Action, cause: impl Into<String>) {
        self.step_with(object, action, cause, Vec::new());
    }

    pub fn step_with(&mut self, object: ObjectKey, action: Action, cause: impl Into<String>, changes: Vec<Change>) {
        self.plan.steps.push(Step { object, action, cause: cause.into(), drift: false, changes });
    }

    /// What this wave does so far.
    pub fn steps(&self) -> &[Step] {
        &self.plan.steps
    }

    /// The step just planned corrects something that was changed behind our back.
    pub fn mark_drift(&mut self) {
        if let Some(step) = self.plan.steps.last_mut() {
            step.drift = true;
        }
    }

    pub fn wait(&mut self, object: ObjectKey, kind: &'static str, reason: impl Into<String>) {
        self.wait_with(object, kind, reason, Vec::new());
    }

    pub fn wait_with(
        &mut self,
        object: ObjectKey,
        kind: &'static str,
        reason: impl Into<String>,
        details: Vec<String>,
    ) {
        self.plan.waiting.push(Waiting { object, reason: reason.into(), kind, until: None, details });
    }

    pub fn wait_until(&mut self, object: ObjectKey, kind: &'static str, reason: impl Into<String>, until: Timestamp) {
        let waiting = Waiting { object, reason: reason.into(), kind, until: Some(until), details: Vec::new() };
        self.plan.waiting.push(waiting);
    }

    /// Something may prove itself until then.
    pub fn prove_until(&mut self, until: Timestamp) {
        let known = self.plan.proven_at;
        self.plan.proven_at = Some(known.map_or(until, |known| known.max(until)));
    }

    pub fn add_record(&mut self, record: Step) {
        self.plan.records.push(record);
    }

    pub fn finish(self) -> Plan {
        self.plan
    }

    /// A spec that removes every service, or more than half of two or more, is held: half a file is valid YAML.
    pub fn hold_mass_removal(&mut self) {
        let allowed = self.context.removals == Removals::Allowed || self.context.teardown.is_some();
        let pin = Pin::AllowRemovals { spec: self.spec.digest.clone() };
        let Some(directory) = self.observed.directory.known() else {
            // Whether somebody allowed it cannot be read.
            return self.hold_if_mass(allowed);
        };
        self.hold_if_mass(allowed || directory.pins.contains(&pin));
        // A pin dies with the spec that it was made for.
        for pin in &directory.pins {
            match pin {
                Pin::AllowRemovals { spec } if *spec != self.spec.digest && self.context.teardown.is_none() => {
                    let action = DirectoryAction::RemovePin { pin: pin.clone() };
                    self.step(
                        ObjectKey::Directory,
                        Action::Directory(action),
                        "the spec that it was made for is not in force",
                    );
                }
                Pin::AllowRemovals { .. }
                | Pin::Failed { .. }
                | Pin::RolledBack { .. }
                | Pin::Hold { .. }
                | Pin::Adopted(_) => {}
            }
        }
    }

    fn hold_if_mass(&mut self, allowed: bool) {
        let mut seen: Vec<&str> = self.facts.services_seen().into_iter().collect();
        let mut leaving: Vec<&str> =
            seen.iter().copied().filter(|name| !self.spec.services.contains_key(*name)).collect();
        // All that discovery registers leaves with one key of the spec.
        let registrations = self.facts.consul.into_iter().flat_map(|consul| consul.registrations.values());
        if registrations.into_iter().any(Registration::discovered) {
            seen.push("discovery");
            leaving.extend(self.spec.discovery.is_none().then_some("discovery"));
        }
        let every = leaving.len() == seen.len();
        let most = seen.len() >= 2 && leaving.len() * 2 > seen.len();
        if allowed || leaving.is_empty() || !(every || most) || !self.holds(Gate::MassRemoval) {
            return;
        }
        self.removals_held = Some(format!(
            "the spec removes {} of {} services ({}); nothing is removed until `reeve apply --allow-removals` says that it is meant",
            leaving.len(),
            seen.len(),
            leaving.join(", ")
        ));
    }
}

/// `start + duration`, saturating: a duration from a spec can be absurd, a plan must not panic on it.
pub(super) fn after(start: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    start.saturating_add(duration).unwrap_or(Timestamp::MAX)
}
