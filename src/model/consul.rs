//! What an action does in Consul: to the agent's registrations, and to the catalog's answers, at once.
//!
//! The model is quicker than Consul, where the catalog follows the agent: the tests' world delays it, this does not.

use jiff::Timestamp;

use crate::observed::{CheckSeen, CheckStatus, Consul, Instance, Maintenance, Registration};
use crate::plan::action::{ConsulAction, NewRegistration};
use crate::spec::Owner;

impl Consul {
    pub(super) fn after(&mut self, action: &ConsulAction, owner: &Owner, now: Timestamp) {
        match action {
            ConsulAction::Register(new) => self.registered(new, owner),
            ConsulAction::Adopt(new) => {
                self.strangers.remove(&new.id);
                self.registered(new, owner);
            }
            ConsulAction::RemoveUnmarked { id } => {
                self.strangers.remove(id);
                for catalog in self.catalog.values_mut().filter_map(|view| view.known_mut()) {
                    catalog.instances.retain(|instance| instance.id != *id);
                }
            }
            ConsulAction::Drain { id, reason } => {
                if let Some(registration) = self.registrations.get_mut(id)
                    && registration.maintenance == Maintenance::Off
                {
                    registration.maintenance = Maintenance::Draining { reason: reason.clone() };
                    registration.drain_start = None;
                    self.in_catalog(id, now, |instance| instance.maintenance = true);
                }
            }
            ConsulAction::LiftDrain { id } => {
                if let Some(registration) = self.registrations.get_mut(id)
                    && !matches!(registration.maintenance, Maintenance::Operator { .. })
                {
                    registration.maintenance = Maintenance::Off;
                    registration.drain_start = None;
                    self.in_catalog(id, now, |instance| instance.maintenance = false);
                }
            }
            ConsulAction::StartDrainClock { id, at } => {
                if let Some(registration) = self.registrations.get_mut(id)
                    && matches!(registration.maintenance, Maintenance::Draining { .. })
                {
                    // A repetition does not push the end back.
                    registration.drain_start.get_or_insert(*at);
                }
            }
            ConsulAction::StopDrainClock { id } => {
                if let Some(registration) = self.registrations.get_mut(id) {
                    registration.drain_start = None;
                }
            }
            ConsulAction::Deregister { id } => {
                self.registrations.remove(id);
                for catalog in self.catalog.values_mut().filter_map(|view| view.known_mut()) {
                    let before = catalog.instances.len();
                    catalog.instances.retain(|instance| instance.id != *id);
                    if catalog.instances.len() < before {
                        catalog.shrunk_at = now;
                    }
                }
            }
            ConsulAction::SetHealth { id, status, output } => {
                let Some(registration) = self.registrations.get_mut(id) else { return };
                let check = registration.checks.entry(format!("{id}:health"));
                let seen = CheckSeen { status: *status, output: output.clone() };
                *check.or_insert_with(|| seen.clone()) = seen.clone();
                let passing = all_pass(registration);
                let doubtful = !passing && registration.checks.values().all(doubtful_or_passing);
                self.in_catalog(id, now, |instance| (instance.passing, instance.doubtful) = (passing, doubtful));
            }
            ConsulAction::RemoveCheck { check } => {
                for registration in self.registrations.values_mut() {
                    registration.checks.remove(check);
                }
            }
        }
    }

    /// This registration was written, and synced.
    pub fn registered(&mut self, new: &NewRegistration, owner: &Owner) {
        let old = self.registrations.remove(&new.id);
        let maintenance = old.as_ref().map_or(Maintenance::Off, |old| old.maintenance.clone());
        let declared = format!("{}:declared", new.id);
        let mut wanted: Vec<String> = Vec::new();
        if new.check.is_some() {
            wanted.push(declared.clone());
        }
        if new.health {
            wanted.push(format!("{}:health", new.id));
        }
        // A check that stays keeps its state.
        let checks = wanted
            .into_iter()
            .map(|id| {
                let kept = old.as_ref().and_then(|old| old.checks.get(&id)).cloned();
                let initial =
                    new.check.as_ref().filter(|_| id == declared).map_or(CheckStatus::Passing, |one| one.initial);
                let seen = kept.unwrap_or(CheckSeen { status: initial, output: String::new() });
                (id, seen)
            })
            .collect();
        let registration = Registration {
            id: new.id.clone(),
            name: new.name.clone(),
            address: new.address.clone(),
            port: new.port,
            tags: new.tags.clone(),
            meta: new.meta.clone(),
            service: new.service.clone(),
            slot: new.slot,
            container: new.container.clone(),
            check_digest: new.check.as_ref().map(|check| check.digest.clone()),
            drain_start: new.drain_start,
            maintenance: maintenance.clone(),
            checks,
        };
        let passing = all_pass(&registration);
        let doubtful = !passing && registration.checks.values().all(doubtful_or_passing);
        self.registrations.insert(new.id.clone(), registration);
        for (query, view) in &mut self.catalog {
            let Some(catalog) = view.known_mut() else { continue };
            catalog.instances.retain(|instance| instance.id != new.id);
            let selected = query.service == new.name
                && query.tag.as_ref().is_none_or(|tag| new.tags.contains(tag))
                && query.datacenter.as_ref().is_none_or(|datacenter| *datacenter == self.agent.datacenter);
            // A filter expression is Consul's; the model takes it as matching.
            if selected {
                catalog.instances.push(Instance {
                    id: new.id.clone(),
                    node: self.agent.node.clone(),
                    address: new.address.clone(),
                    port: new.port,
                    passing,
                    doubtful,
                    maintenance: maintenance != Maintenance::Off,
                    weight: 1,
                    owner: Some(owner.to_string()),
                    container: Some(new.container.clone()),
                    trouble: None,
                });
            }
        }
    }

    fn in_catalog(&mut self, id: &str, now: Timestamp, change: impl Fn(&mut Instance)) {
        for catalog in self.catalog.values_mut().filter_map(|view| view.known_mut()) {
            let count = |instances: &[Instance]| instances.iter().filter(|i| i.passing && !i.maintenance).count();
            let before = count(&catalog.instances);
            catalog.instances.iter_mut().filter(|instance| instance.id == *id).for_each(&change);
            if count(&catalog.instances) < before {
                catalog.shrunk_at = now;
            }
        }
    }
}

pub(super) fn all_pass(registration: &Registration) -> bool {
    registration.checks.values().all(|check| check.status == CheckStatus::Passing)
}

/// A check that has not run says nothing.
fn doubtful_or_passing(check: &CheckSeen) -> bool {
    check.status == CheckStatus::Passing || check.output.is_empty()
}
