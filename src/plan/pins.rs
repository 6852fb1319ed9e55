//! What the pins of a service mean: which configuration is wanted of it in truth, and whether it is held.
//!
//! Owns the *effective* spec, from which the whole planner works: a service that was rolled back has the last configuration
//! that served in place of what the spec says, so that rolling back is a roll-out like any other. Owns the death of pins,
//! too. It must not look at how far a roll-out has come; that is `rollout`'s.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::ObjectKey;
use super::action::{Action, DirectoryAction};
use super::planner::Planner;
use crate::observed::{Configuration, Directory, Observed, Pin};
use crate::spec::{Service, Spec};

/// The living pins of one service.
#[derive(Debug, Default)]
pub(super) struct ServicePins<'a> {
    pub hold: bool,
    pub failed: Option<&'a Pin>,
    pub rolled_back: Option<&'a Pin>,
    /// The configuration that is wanted in place of the spec's. `None` although it was rolled back: nothing is kept.
    pub instead: Option<&'a Configuration>,
}

impl ServicePins<'_> {
    /// By a failure or by command.
    pub fn is_rolled_back(&self) -> bool {
        self.failed.is_some() || self.rolled_back.is_some()
    }
}

/// Every pin that names a service.
#[derive(Debug, Default)]
pub(super) struct Pins<'a> {
    by_service: BTreeMap<&'a str, ServicePins<'a>>,
    /// Those whose service is not what it was when they were made, with the reason.
    dead: Vec<(&'a Pin, String)>,
}

impl<'a> Pins<'a> {
    pub fn of(spec: &Spec, observed: &'a Observed) -> Self {
        let mut pins = Self::default();
        let Some(directory) = observed.directory.known() else { return pins };
        for pin in &directory.pins {
            let Some(name) = pin.service() else { continue };
            match death(pin, name, spec, observed) {
                Some(reason) => pins.dead.push((pin, reason)),
                None => pins.add(name, pin),
            }
        }
        pins.look_up(directory);
        pins
    }

    fn add(&mut self, name: &'a str, pin: &'a Pin) {
        let service = self.by_service.entry(name).or_default();
        match pin {
            Pin::AllowRemovals { .. } | Pin::Adopted(_) => {}
            Pin::Failed { .. } => service.failed = Some(pin),
            Pin::RolledBack { .. } => service.rolled_back = Some(pin),
            Pin::Hold { .. } => service.hold = true,
        }
    }

    fn look_up(&mut self, directory: &'a Directory) {
        for (name, service) in &mut self.by_service {
            if service.is_rolled_back() {
                service.instead = instead(directory, name, service);
            }
        }
    }

    pub fn get(&self, service: &str) -> Option<&ServicePins<'a>> {
        self.by_service.get(service)
    }
}

/// What may be wanted in place of the spec, whether or not the pins still live: by service.
pub(super) fn all_instead(directory: &Directory) -> impl Iterator<Item = (&str, &Configuration)> {
    let mut pins = Pins::default();
    for pin in &directory.pins {
        if let Some(name) = pin.service() {
            pins.add(name, pin);
        }
    }
    pins.look_up(directory);
    pins.by_service.into_iter().filter_map(|(name, service)| Some((name, service.instead?)))
}

/// The newest configuration that served and that no pin speaks against.
fn instead<'a>(directory: &'a Directory, name: &str, pins: &ServicePins<'_>) -> Option<&'a Configuration> {
    let kept = directory.kept.get(name)?;
    let avoided = |configuration: &Configuration| {
        pins.failed.into_iter().chain(pins.rolled_back).any(|pin| match pin {
            Pin::Failed { hash, image_id, .. } | Pin::RolledBack { from: hash, image_id, .. } => {
                configuration.is(hash, image_id)
            }
            Pin::AllowRemovals { .. } | Pin::Hold { .. } | Pin::Adopted(_) => false,
        })
    };
    std::iter::once(&kept.present).chain(&kept.before).find(|configuration| !avoided(configuration))
}

/// Why the pin is of no use any more.
fn death(pin: &Pin, name: &str, spec: &Spec, observed: &Observed) -> Option<String> {
    let image_id = match pin {
        Pin::AllowRemovals { .. } => return None,
        Pin::Failed { image_id, .. } | Pin::RolledBack { image_id, .. } => image_id.as_str(),
        Pin::Hold { .. } => "",
        Pin::Adopted(adopted) => {
            let docker = observed.docker.known()?;
            let gone = !docker.containers.contains_key(&adopted.container);
            return gone.then(|| "the container that was adopted is gone".to_owned());
        }
    };
    let Some(service) = spec.services.get(name) else {
        // A held one that left the spec stays as long as it is there.
        let docker = observed.docker.known()?;
        let there = docker.containers.values().any(|container| container.service == name);
        return (!there || !matches!(pin, Pin::Hold { .. })).then(|| format!("{name} is not in the spec any more"));
    };
    // Not by the container alone: a roll-out fails by a wrong check as well, and mending that changes no container.
    if !pin.is_for(service) {
        return Some(format!("the spec says something else of {name} by now"));
    }
    let present = observed.docker.known().and_then(|docker| docker.images.get(&service.config.image));
    let tagged_anew = present.is_some_and(|image| !image_id.is_empty() && image.id != image_id);
    tagged_anew.then(|| format!("{} was tagged anew since", service.config.image))
}

/// The spec with what the pins put in place of what it says.
pub fn effective<'s>(spec: &'s Spec, observed: &Observed) -> Cow<'s, Spec> {
    let pins = Pins::of(spec, observed);
    let mut effective = Cow::Borrowed(spec);
    for (name, pins) in &pins.by_service {
        let (Some(wanted), Some(configuration)) = (spec.services.get(*name), pins.instead) else { continue };
        let changed = effective.to_mut();
        changed.services.insert((*name).to_owned(), service_of(configuration, wanted, spec, observed));
        // What the spec still declares is the spec's.
        for (name, network) in &configuration.networks {
            changed.networks.entry(name.clone()).or_insert_with(|| network.clone());
        }
        for (name, volume) in &configuration.volumes {
            changed.volumes.entry(name.clone()).or_insert_with(|| volume.clone());
        }
    }
    effective
}

fn service_of(configuration: &Configuration, wanted: &Service, spec: &Spec, observed: &Observed) -> Service {
    let mut service = Service::clone(&configuration.service);
    service.replicas = wanted.replicas;
    service.job = wanted.job;
    // What is not there any more cannot be waited for.
    service.depends_on.retain(|name, _| spec.services.contains_key(name));
    let present = observed.docker.known().and_then(|docker| docker.images.get(&service.config.image));
    let same = present.is_some_and(|image| image.id == configuration.image_id);
    service.image_id = Some(configuration.image_id.clone()).filter(|id| !same && !id.is_empty());
    service
}

impl<'a> Planner<'a> {
    /// Nothing of the service is corrected.
    pub(super) fn held(&self, service: &str) -> bool {
        self.context.teardown.is_none() && self.pins.get(service).is_some_and(|pins| pins.hold)
    }

    /// Removes pins that are of no use any more, and says what the others do.
    pub(super) fn pins(&mut self) {
        let dead: Vec<(Pin, String)> =
            self.pins.dead.iter().map(|(pin, reason)| (Pin::clone(pin), reason.clone())).collect();
        for (pin, reason) in dead {
            self.step(ObjectKey::Directory, Action::Directory(DirectoryAction::RemovePin { pin }), reason);
        }
        if self.context.teardown.is_some() {
            return;
        }
        let pins = self.pins.clone();
        for (name, pins) in &pins.by_service {
            let object = ObjectKey::Service((*name).to_owned());
            if pins.hold {
                let reason = format!(
                    "held: nothing of it is corrected, until the spec says something else of it or `reeve release {name}`"
                );
                self.wait(object.clone(), "held", reason);
            }
            let Some(pin) = pins.failed.or(pins.rolled_back) else { continue };
            let wanted = self.wanted.services.get(*name).map_or("", |service| service.config.image.as_str());
            let instead = match pins.instead {
                Some(configuration) => format!("{} is wanted in its place", configuration.title()),
                None => "nothing that served before is kept, and so it stays as it is".to_owned(),
            };
            let until = format!("until the spec says something else of it or `reeve release {name}`");
            match pin {
                Pin::Failed { reason, log, hash, .. } => {
                    let reason = format!("the roll-out to {wanted} ({hash}) failed: {reason}; {instead}, {until}");
                    self.wait_with(object, "roll_failed", reason, log.clone());
                }
                Pin::RolledBack { from, .. } => {
                    let reason = format!("{wanted} ({from}) was rolled back by `reeve rollback`; {instead}, {until}");
                    self.wait(object, "rolled_back", reason);
                }
                Pin::AllowRemovals { .. } | Pin::Hold { .. } | Pin::Adopted(_) => {}
            }
        }
    }
}
