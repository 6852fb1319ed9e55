//! What earlier looks read, and when it may still be believed.
//!
//! While the event stream is open, a look reads again only what an event or our own write has marked (`dirty`): what it
//! costs does not grow with what there is. Everything is listed anew at the start, after the stream broke, after any
//! error, when the interest is another one, and again and again after a while: what was missed all the same is seen then.
//! An inspect is remembered under the list entry that it belongs to: the list's status text tells for how long a container
//! has been up, so a restart whose event was lost is seen by the next list as well. Losing this memory costs calls, never
//! truth.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use super::dirty::{Change, Dirty};
use super::stops::{Stops, Way};
use super::wire::{self, Listed};
use crate::observed::{Container, ContainerState, Discovered, Health, ImageSeen, Interest};

/// What a failing probe says changes without an event. It is for people: so often, and for so many in one look, it is read
/// again.
const RESTLESS_AFTER: Duration = Duration::from_secs(1);
const RESTLESS_AT_ONCE: usize = 8;

#[derive(Default)]
pub(super) struct Memory {
    streaming: bool,
    /// Counts events and our own writes, so that what was read before one of them is not believed after it.
    clock: u64,
    /// When the stream was last opened: what was seen before may have changed unnoticed.
    opened: u64,
    entries: BTreeMap<String, Entry>,
    /// Everything, as of the last look. `None`: the next look has to list.
    whole: Option<Whole>,
    dirty: Dirty,
    /// Containers whose end the engine has told, and of which it does not yet tell more: it holds on to them while it takes
    /// their network down, and an inspect waits for that.
    ended: BTreeSet<String>,
    /// Containers that an action of ours is stopping: nobody is in a hurry to hear of their end.
    stopping: BTreeSet<String>,
    /// Containers of others that may be about to start: the engine answers for such a one when it has started, and tells that
    /// by an event.
    starting: BTreeSet<String>,
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

/// What the engine has, raw: what becomes of it depends on the interest.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) scope: Scope,
    /// When the lists were asked for.
    pub(super) listed_at: Instant,
    /// Every container by id, as a list or a later inspect tells.
    pub(super) containers: BTreeMap<String, Listed>,
    /// By id: older engines allow two of one name.
    pub(super) networks: BTreeMap<String, wire::Network>,
    pub(super) volumes: BTreeMap<String, wire::Volume>,
    pub(super) images: BTreeMap<String, ImageSeen>,
}

/// As much of an interest as a look at the engine depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
    pub(super) images: BTreeSet<String>,
    discovery: bool,
    adopted: BTreeSet<String>,
}

impl Scope {
    pub(super) fn of(interest: &Interest) -> Self {
        Self {
            networks: interest.networks.clone(),
            volumes: interest.volumes.clone(),
            images: interest.images.clone(),
            discovery: interest.discovery,
            adopted: interest.adopted.keys().cloned().collect(),
        }
    }
}

struct Entry {
    /// Digest of the list entry.
    listed: u64,
    /// The list entry would show that it has changed.
    lasting: bool,
    /// What it says of itself changes without an event: the words of its last probe.
    restless: bool,
    /// Something says that it has changed since.
    spoiled: bool,
    at: Instant,
    seen: Seen,
}

/// What an inspect said.
#[derive(Clone)]
enum Seen {
    Own(Box<Container>),
    Other(Box<Discovered>),
}

/// How a look came to the entries of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The engine has just listed everything: an earlier inspect is believed while the list says the same.
    Whole,
    /// What has changed was read anew: all the rest is as it was.
    Part,
}

impl Memory {
    /// A look begins: the clock, and what was known with what has changed since, when that is enough. It is taken out, so
    /// that a look that fails or is cut off is followed by one that lists.
    pub(super) fn begin(
        &mut self,
        scope: &Scope,
        relist: Duration,
        now: Instant,
    ) -> (u64, Option<(Whole, Vec<Change>)>) {
        let whole = self.whole.take().filter(|whole| {
            self.streaming && whole.scope == *scope && now.saturating_duration_since(whole.listed_at) < relist
        });
        let part = whole.zip(self.dirty.changes()).map(|(whole, mut changes)| {
            let gone = |change: &Change| matches!(change, Change::Container(id) if changes.contains(&Change::Gone(id.clone())));
            let restless: Vec<Change> = self.restless(now).filter(|change| !gone(change)).collect();
            changes.extend(restless);
            (whole, changes)
        });
        (self.clock, part)
    }

    /// Since when something is believed without having been listed again.
    pub(super) fn listed_at(&self) -> Option<Instant> {
        self.whole.as_ref().map(|whole| whole.listed_at)
    }

    /// A few of those whose words change without an event, the oldest first.
    fn restless(&self, now: Instant) -> impl Iterator<Item = Change> + use<> {
        let due = |entry: &Entry| entry.restless && now.saturating_duration_since(entry.at) >= RESTLESS_AFTER;
        let mut due: Vec<_> = self.entries.iter().filter(|(_, one)| due(one)).map(|(id, one)| (one.at, id)).collect();
        due.sort_unstable();
        let due: Vec<_> = due.into_iter().take(RESTLESS_AT_ONCE).map(|(_, id)| Change::Container(id.clone())).collect();
        due.into_iter()
    }

    /// A look that began at `since` has ended well. `whole`: what it saw, if nothing of that is in doubt. `own`: what is
    /// not among these any more is forgotten.
    pub(super) fn end(&mut self, since: u64, whole: Option<Whole>, own: BTreeSet<String>) {
        self.entries.retain(|id, _| own.contains(id));
        self.stops.retain(|id| own.contains(id));
        self.own = Some(own);
        self.whole = whole.filter(|_| self.streaming && self.opened <= since);
        self.dirty.seen(since);
    }

    /// What an earlier inspect said, if nothing speaks against it.
    pub(super) fn recall(&self, listed: &Listed, look: Look) -> Option<Container> {
        let Seen::Own(container) = self.entry(listed, look)? else { return None };
        let mut container = Container::clone(container);
        if self.ended.contains(&listed.id) {
            container.state = ContainerState::Restarting;
        }
        Some(container)
    }

    /// The same for a container that is not ours.
    pub(super) fn recall_other(&self, listed: &Listed, look: Look) -> Option<Discovered> {
        let Seen::Other(container) = self.entry(listed, look)? else { return None };
        let mut container = Discovered::clone(container);
        if self.ended.contains(&listed.id) {
            container.state = ContainerState::Restarting;
        }
        Some(container)
    }

    fn entry(&self, listed: &Listed, look: Look) -> Option<&Seen> {
        let entry = self.entries.get(&listed.id)?;
        let good = match look {
            _ if self.ended.contains(&listed.id) => true,
            _ if entry.spoiled => false,
            Look::Whole => entry.lasting && entry.listed == fingerprint(listed),
            Look::Part => true,
        };
        (self.streaming && good).then_some(&entry.seen)
    }

    /// `since`: the clock before the look began.
    pub(super) fn store(&mut self, listed: &Listed, container: &Container, since: u64) {
        let restless = restless(&container.state, &container.health);
        self.put(listed, Seen::Own(Box::new(container.clone())), restless, since);
    }

    pub(super) fn store_other(&mut self, listed: &Listed, container: &Discovered, way: Way, since: u64) {
        self.stops.learn(&listed.id, way);
        let restless = restless(&container.state, &container.health);
        self.put(listed, Seen::Other(Box::new(container.clone())), restless, since);
    }

    fn put(&mut self, listed: &Listed, seen: Seen, restless: bool, since: u64) {
        if !self.streaming || self.opened > since {
            self.entries.remove(&listed.id);
            return;
        }
        let spoiled = self.dirty.container(&listed.id).is_some_and(|at| at > since);
        // Not while the status counts seconds: a container that restarted just now looks as it did.
        let lasting = !restless && !listed.status.is_empty() && !listed.status.contains("second");
        let entry = Entry { listed: fingerprint(listed), lasting, restless, spoiled, at: Instant::now(), seen };
        self.entries.insert(listed.id.clone(), entry);
    }

    /// An event, or our own write, says that this has to be read again.
    pub(super) fn spoil(&mut self, change: Change) {
        self.clock += 1;
        if let Change::Container(id) | Change::Gone(id) = &change
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.spoiled = true;
        }
        self.dirty.mark(change, self.clock);
    }

    /// The engine tells that it has ended: from now on it is seen as such, on the event's word alone. True: whoever hears of
    /// this is to ask the engine, and to say (`told`) when it answers.
    pub(super) fn ended(&mut self, id: &str) -> bool {
        let known = self.streaming && self.entries.contains_key(id);
        known && !self.stopping.contains(id) && self.ended.insert(id.to_owned())
    }

    /// As `spoil`, and what the engine tells from now on is later than the event of an end: it answers for the container, which
    /// has begun anew or is gone, or a write of ours has ended.
    pub(super) fn told(&mut self, change: Change) {
        if let Change::Container(id) | Change::Gone(id) = &change {
            self.ended.remove(id);
            self.starting.remove(id);
        }
        self.spoil(change);
    }

    /// Its end is told by an event alone so far.
    pub(super) fn awaits(&self, id: &str) -> bool {
        self.ended.contains(id)
    }

    /// One that is not ours was made, or got a network while it does not run.
    pub(super) fn may_start(&mut self, id: &str) {
        self.starting.insert(id.to_owned());
    }

    /// No look waits long for it.
    pub(super) fn starts(&self, id: &str) -> bool {
        self.starting.contains(id)
    }

    /// The engine answers for it.
    pub(super) fn answered(&mut self, id: &str) {
        self.starting.remove(id);
    }

    /// A look has seen it, and that it is ours.
    pub(super) fn saw_ours(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| matches!(entry.seen, Seen::Own(_)))
    }

    /// An action of ours begins to stop it, or has come to its end.
    pub(super) fn stopping(&mut self, id: &str, now: bool) {
        match now {
            true => drop(self.stopping.insert(id.to_owned())),
            false => drop(self.stopping.remove(id)),
        }
    }

    pub(super) fn stream(&mut self, open: bool) {
        self.clock += 1;
        self.opened = self.clock;
        self.streaming = open;
        self.entries.clear();
        self.ended.clear();
        self.starting.clear();
        self.whole = None;
        // What is read from now on is later than all that was marked.
        self.dirty.seen(self.clock);
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

/// Does it change without an event?
fn restless(state: &ContainerState, health: &Health) -> bool {
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
    !(settled && steady)
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
            networks: crate::observed::Networks::new(),
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
        memory.store(&listed("Up 2 hours"), &container(), memory.clock);
        assert!(memory.recall(&listed("Up 2 hours"), Look::Whole).is_some());
        assert!(memory.recall(&listed("Up 3 hours"), Look::Whole).is_none());
    }

    #[test]
    fn an_inspect_is_not_believed_without_an_event_stream() {
        let mut memory = Memory::default();
        memory.store(&listed("Up 2 hours"), &container(), memory.clock);
        assert!(memory.recall(&listed("Up 2 hours"), Look::Whole).is_none());
        let mut memory = streaming();
        memory.store(&listed("Up 2 hours"), &container(), memory.clock);
        memory.stream(false);
        memory.stream(true);
        assert!(memory.recall(&listed("Up 2 hours"), Look::Whole).is_none());
    }

    #[test]
    fn an_event_during_an_inspect_makes_it_worthless() {
        let mut memory = streaming();
        let before = memory.clock;
        memory.spoil(Change::Container("a".to_owned()));
        memory.store(&listed("Up 2 hours"), &container(), before);
        assert!(memory.recall(&listed("Up 2 hours"), Look::Whole).is_none());
    }

    #[test]
    fn the_end_that_an_action_of_ours_brings_about_is_nobodys_news() {
        let mut memory = streaming();
        memory.store(&listed("Up 2 hours"), &container(), memory.clock);
        memory.stopping("a", true);
        assert!(!memory.ended("a"));
        memory.stopping("a", false);
        memory.told(Change::Container("a".to_owned()));
        assert!(memory.recall(&listed("Up 2 hours"), Look::Part).is_none(), "it is read again");
        assert!(memory.ended("a"));
        let state = memory.recall(&listed("Up 2 hours"), Look::Part).map(|container| container.state);
        assert_eq!(state, Some(ContainerState::Restarting));
        memory.told(Change::Container("a".to_owned()));
        assert!(!memory.awaits("a"));
        assert!(memory.recall(&listed("Up 2 hours"), Look::Part).is_none(), "it is read again");
    }

    #[test]
    fn a_young_container_is_inspected_every_time() {
        let mut memory = streaming();
        memory.store(&listed("Up 4 seconds"), &container(), memory.clock);
        assert!(memory.recall(&listed("Up 4 seconds"), Look::Whole).is_none());
        let unhealthy = Container { health: Health::Unhealthy("no".to_owned()), ..container() };
        memory.store(&listed("Up 2 hours (unhealthy)"), &unhealthy, memory.clock);
        assert!(memory.recall(&listed("Up 2 hours (unhealthy)"), Look::Whole).is_none());
    }
}
