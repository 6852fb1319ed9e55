//! What is known of a container besides what Docker says: what it is registered as, and what routes to it.
//!
//! Asked several times for every container in every pass, so it is gathered once, and found by a hash: a sorted map of ten
//! thousand ids compares a dozen of them for one answer, each somewhere else in memory. Only ever asked, never gone through,
//! since the order is another one in every run.

use std::ops::Range;

use foldhash::{HashMap, HashMapExt};

use crate::observed::{Consul, Container, Docker, Registration};

#[derive(Default)]
pub(super) struct About<'a> {
    all: Vec<OfContainer<'a>>,
    by_id: HashMap<&'a str, usize>,
    /// By where the observation keeps it: its id is a text to be read, hashed and compared, which takes longer than the rest.
    by_place: HashMap<*const Container, usize>,
    /// Those of one container side by side.
    registrations: Vec<&'a Registration>,
}

#[derive(Default)]
pub(super) struct OfContainer<'a> {
    /// `None`: it is not one of ours, or gone.
    pub container: Option<&'a Container>,
    registrations: Range<usize>,
    /// The upstreams in which *every* live worker routes to it. `None`: no live worker sends it any request.
    pub routes: Option<Vec<&'a str>>,
}

impl<'a> About<'a> {
    /// `routes`: by the id of a container.
    pub fn of(docker: Option<&'a Docker>, consul: Option<&'a Consul>, routes: HashMap<&'a str, Vec<&'a str>>) -> Self {
        let count = docker.map_or(0, |docker| docker.containers.len());
        let mut about = Self {
            all: Vec::with_capacity(count),
            by_id: HashMap::with_capacity(count),
            by_place: HashMap::with_capacity(count),
            registrations: Vec::new(),
        };
        for container in docker.iter().flat_map(|docker| docker.containers.values()) {
            about.by_id.insert(&container.id, about.all.len());
            about.by_place.insert(std::ptr::from_ref(container), about.all.len());
            about.all.push(OfContainer { container: Some(container), ..OfContainer::default() });
        }
        let registrations = consul.iter().flat_map(|consul| consul.registrations.values());
        let mut registrations: Vec<(usize, &Registration)> =
            registrations.map(|registration| (about.entry(&registration.container), registration)).collect();
        // Stable: those of one container stay in the order of their ids.
        registrations.sort_by_key(|(index, _)| *index);
        for (place, (index, _)) in registrations.iter().enumerate() {
            let range = &mut about.all[*index].registrations;
            let first = if range.end == 0 { place } else { range.start };
            *range = first..place + 1;
        }
        about.registrations = registrations.into_iter().map(|(_, registration)| registration).collect();
        for (container, upstreams) in routes {
            let index = about.entry(container);
            about.all[index].routes = Some(upstreams);
        }
        about
    }

    fn entry(&mut self, id: &'a str) -> usize {
        *self.by_id.entry(id).or_insert_with(|| {
            self.all.push(OfContainer::default());
            self.all.len() - 1
        })
    }

    /// Of a container that need not be one of ours.
    pub fn id(&self, id: &str) -> Option<&OfContainer<'a>> {
        self.all.get(*self.by_id.get(id)?)
    }

    /// Of one that was observed, or of a copy of it.
    pub fn container(&self, container: &Container) -> Option<&OfContainer<'a>> {
        match self.by_place.get(&std::ptr::from_ref(container)) {
            Some(index) => self.all.get(*index),
            None => self.id(&container.id),
        }
    }

    pub fn registrations(&self, of: Option<&OfContainer<'a>>) -> &[&'a Registration] {
        of.and_then(|of| self.registrations.get(of.registrations.clone())).unwrap_or_default()
    }
}
