//! What earlier passes inspected, and when it may still be believed.
//!
//! An inspect is remembered only while the event stream is open, and only under the list entry that it belongs to: the
//! list's status text tells for how long a container has been up, so a restart whose event was lost is seen there as
//! well. Losing this memory costs calls, never truth.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::stops::{Stops, Way};
use super::wire::Listed;
use crate::observed::{Container, ContainerState, Discovered, Health};

#[derive(Default)]
pub(super) struct Memory {
    streaming: bool,
    /// Counts events, so that an inspect that began before an event is not stored after it.
    clock: u64,
    /// When the stream was last opened: what was seen before may have changed unnoticed.
    opened: u64,
    entries: BTreeMap<String, Entry>,
    spoiled: BTreeMap<String, u64>,
    /// Our containers, and those that discovery looks at, as of the last view; `None`: no view yet.
    own: Option<BTreeSet<String>>,
    /// The last view looked for containers that are not ours.
    pub(super) discovers: bool,
    pub(super) stops: Stops,
    /// Containers whose inspect failed in the last view: each is logged once.
    unreadable: BTreeSet<String>,
    /// Ids of containers without our mark that are ours all the same, as of the last view.
    pub(super) adopted: BTreeSet<String>,
}

struct Entry {
    listed: u64,
    seen: Seen,
}

/// What an inspect said.
#[derive(Clone)]
enum Seen {
    Own(Box<Container>),
    Other(Box<Discovered>),
}

impl Memory {
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }

    /// What an earlier inspect said, if nothing speaks against it.
    pub(super) fn recall(&self, listed: &Listed) -> Option<Container> {
        match self.entry(listed)? {
            Seen::Own(container) => Some(Container::clone(container)),
            Seen::Other(_) => None,
        }
    }

    /// The same for a container that is not ours.
    pub(super) fn recall_other(&self, listed: &Listed) -> Option<Discovered> {
        match self.entry(listed)? {
            Seen::Own(_) => None,
            Seen::Other(container) => Some(Discovered::clone(container)),
        }
    }

    fn entry(&self, listed: &Listed) -> Option<&Seen> {
        let entry = self.entries.get(&listed.id)?;
        (self.streaming && entry.listed == fingerprint(listed)).then_some(&entry.seen)
    }

    /// `since`: the clock before the list was read.
    pub(super) fn store(&mut self, listed: &Listed, container: &Container, since: u64) {
        let lasting = lasting(listed, &container.state, &container.health);
        self.put(listed, Seen::Own(Box::new(container.clone())), lasting, since);
    }

    pub(super) fn store_other(&mut self, listed: &Listed, container: &Discovered, way: Way, since: u64) {
        self.stops.learn(&listed.id, way);
        let lasting = lasting(listed, &container.state, &container.health);
        self.put(listed, Seen::Other(Box::new(container.clone())), lasting, since);
    }

    fn put(&mut self, listed: &Listed, seen: Seen, lasting: bool, since: u64) {
        let spoiled = self.spoiled.get(&listed.id).copied().unwrap_or_default();
        if !self.streaming || spoiled > since || self.opened > since || !lasting {
            self.entries.remove(&listed.id);
            return;
        }
        self.entries.insert(listed.id.clone(), Entry { listed: fingerprint(listed), seen });
    }

    /// An event says that this container changed.
    pub(super) fn spoil(&mut self, id: &str) {
        self.clock += 1;
        self.spoiled.insert(id.to_owned(), self.clock);
        self.entries.remove(id);
    }

    pub(super) fn stream(&mut self, open: bool) {
        self.clock += 1;
        self.opened = self.clock;
        self.streaming = open;
        self.entries.clear();
        self.spoiled.clear();
    }

    /// After a view: what is gone is forgotten.
    pub(super) fn retain(&mut self, own: BTreeSet<String>) {
        self.entries.retain(|id, _| own.contains(id));
        self.spoiled.retain(|id, _| own.contains(id));
        self.stops.retain(|id| own.contains(id));
        self.own = Some(own);
    }

    /// Could this container be ours? Yes while nothing was seen yet.
    pub(super) fn may_be_ours(&self, id: &str) -> bool {
        self.own.as_ref().is_none_or(|own| own.contains(id))
    }

    /// Remembers whose inspect failed; returns those that did not fail in the view before.
    pub(super) fn newly_unreadable(&mut self, now: BTreeSet<String>) -> BTreeSet<String> {
        let new = now.difference(&self.unreadable).cloned().collect();
        self.unreadable = now;
        new
    }
}

fn fingerprint(listed: &Listed) -> u64 {
    let mut hasher = DefaultHasher::new();
    listed.hash(&mut hasher);
    hasher.finish()
}

/// Does the list entry tell enough to notice that the inspect has become stale? Not while the status counts seconds (a
/// container that restarted just now looks as it did), nor while the text of a probe matters.
fn lasting(listed: &Listed, state: &ContainerState, health: &Health) -> bool {
    let settled = match health {
        Health::None | Health::Healthy => true,
        Health::Starting | Health::Unhealthy(_) => false,
    };
    let steady = match state {
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Exited { .. } => true,
        ContainerState::Paused { .. }
        | ContainerState::Restarting
        | ContainerState::Removing
        | ContainerState::Dead => false,
    };
    settled && steady && !listed.status.contains("second")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::container::ConfigHash;

    fn listed(status: &str) -> Listed {
        Listed { id: "a".to_owned(), state: "running".to_owned(), status: status.to_owned(), ..Listed::default() }
    }

    fn container() -> Container {
        Container {
            id: "a".to_owned(),
            name: "web".to_owned(),
            service: "web".to_owned(),
            slot: 1,
            hash: ConfigHash::of("{}"),
            config: "{}".to_owned(),
            image_id: String::new(),
            chosen_ports: Vec::new(),
            registers: false,
            depends_on: BTreeSet::new(),
            state: ContainerState::Created,
            health: Health::None,
            networks: BTreeMap::new(),
            published: Vec::new(),
            probe: None,
            created_at: None,
            restarts: 0,
            trouble: None,
            network_mode: "bridge".to_owned(),
        }
    }

    fn streaming() -> Memory {
        let mut memory = Memory::default();
        memory.stream(true);
        memory
    }

    #[test]
    fn an_inspect_is_believed_while_the_list_says_the_same() {
        let mut memory = streaming();
        memory.store(&listed("Up 2 hours"), &container(), memory.clock());
        assert!(memory.recall(&listed("Up 2 hours")).is_some());
        assert!(memory.recall(&listed("Up 3 hours")).is_none());
    }

    #[test]
    fn an_inspect_is_not_believed_without_an_event_stream() {
        let mut memory = Memory::default();
        memory.store(&listed("Up 2 hours"), &container(), memory.clock());
        assert!(memory.recall(&listed("Up 2 hours")).is_none());
        let mut memory = streaming();
        memory.store(&listed("Up 2 hours"), &container(), memory.clock());
        memory.stream(false);
        memory.stream(true);
        assert!(memory.recall(&listed("Up 2 hours")).is_none());
    }

    #[test]
    fn an_event_during_an_inspect_makes_it_worthless() {
        let mut memory = streaming();
        let before = memory.clock();
        memory.spoil("a");
        memory.store(&listed("Up 2 hours"), &container(), before);
        assert!(memory.recall(&listed("Up 2 hours")).is_none());
    }

    #[test]
    fn a_young_container_is_inspected_every_time() {
        let mut memory = streaming();
        memory.store(&listed("Up 4 seconds"), &container(), memory.clock());
        assert!(memory.recall(&listed("Up 4 seconds")).is_none());
        let unhealthy = Container { health: Health::Unhealthy("no".to_owned()), ..container() };
        memory.store(&listed("Up 2 hours (unhealthy)"), &unhealthy, memory.clock());
        assert!(memory.recall(&listed("Up 2 hours (unhealthy)")).is_none());
    }
}
