//! What the last look read, and what has to be read again.
//!
//! A blocking query tells by its index that nothing has changed, so what it watches is as the last look saw it until it
//! answers; our own writes mark what they are about themselves. A mark that is made while a look is under way stays for the
//! next. Everything is read anew at the start, while something is not watched, after any failure, when the interest is
//! another one, and again and again after a while. Pure; losing it costs requests, never truth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::registered::Written;
use super::watch::Key;
use crate::observed::{Agent, Catalog, CheckStatus, Node, Registration, Shared, StrangerRegistration, View};
use crate::plan::action::NewRegistration;
use crate::spec::upstream::CatalogQuery;

/// More services than this at once, and everything is read anew.
pub(super) const MOST: usize = 64;

/// What has to be read again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Service {
        name: String,
        datacenter: Option<String>,
    },
    /// Some service of the local datacenter: which one is to be found out.
    Some,
    All,
}

/// What a look has read.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub at: Instant,
    /// What was asked for.
    pub asked: BTreeSet<CatalogQuery>,
    pub agent: Agent,
    pub registrations: BTreeMap<String, Registration>,
    pub strangers: Shared<BTreeMap<String, StrangerRegistration>>,
    pub nodes: Vec<Node>,
    pub services: Shared<BTreeMap<String, Vec<String>>>,
    /// Our ids that the catalog lacks.
    pub missing: BTreeSet<String>,
    pub queries: BTreeMap<CatalogQuery, View<Catalog>>,
    /// By which a changed service is found out, while not each has a watch of its own.
    pub digests: Option<Digests>,
}

/// Of every service of the local datacenter: digests over what the catalog counts up with each change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Digests {
    pub services: BTreeMap<String, u64>,
    /// Of what concerns all services of a node.
    pub nodes: u64,
}

impl Digests {
    /// Services that differ; `None`: any may.
    pub fn differing(&self, other: &Self) -> Option<BTreeSet<String>> {
        if self.nodes != other.nodes {
            return None;
        }
        let names = self.services.keys().chain(other.services.keys());
        Some(names.filter(|name| self.services.get(*name) != other.services.get(*name)).cloned().collect())
    }
}

#[derive(Default)]
pub(super) struct Memory {
    clock: u64,
    marks: BTreeMap<Mark, u64>,
    /// What is watched: the last blocking query has answered, and the next one waits or is about to. By how many, because a
    /// watch that was ended may still be going when its successor has begun.
    watched: BTreeMap<Key, usize>,
    kept: Option<Kept>,
    /// When the last look began. It has ended well when there is something kept.
    began: Option<Instant>,
    /// Since the last look began.
    written: Written,
    /// What these writes are about.
    writing: BTreeSet<Mark>,
    /// The last look believed what it did not read.
    believes: bool,
}

/// A look begins.
pub(super) struct Begun {
    /// The clock when it began.
    pub since: u64,
    /// What may be believed, and what not of it.
    pub kept: Option<(Kept, BTreeSet<Mark>)>,
}

impl Memory {
    /// What was kept is taken out, so that a look that fails or is cut off is followed by one that reads everything.
    pub fn begin(&mut self, asked: &BTreeSet<CatalogQuery>, relist: Duration, now: Instant) -> Begun {
        let kept = self.kept.take().filter(|kept| {
            let young = now.saturating_duration_since(kept.at) < relist;
            young && kept.asked == *asked && self.watches(kept) && !self.marks.contains_key(&Mark::All)
        });
        self.began = Some(now);
        self.written = Written::default();
        self.writing.clear();
        self.believes = false;
        let marks = || self.marks.keys().cloned().collect();
        Begun { since: self.clock, kept: kept.map(|kept| (kept, marks())) }
    }

    /// Since when something is believed without having been read again.
    pub fn read_at(&self) -> Option<Instant> {
        self.kept.as_ref().map(|kept| kept.at)
    }

    /// Is everything local that matters watched?
    fn watches(&self, kept: &Kept) -> bool {
        if self.watches_whole_catalog() {
            return kept.digests.is_some();
        }
        let queried = kept.asked.iter().filter(|query| query.datacenter.is_none()).map(|query| &query.service);
        let own = kept.registrations.values().map(|registration| &registration.name);
        let mut names = queried.chain(own);
        names.all(|name| self.watched.contains_key(&Key::Service { name: name.clone(), datacenter: None }))
    }

    pub fn watches_whole_catalog(&self) -> bool {
        self.watched.contains_key(&Key::AnyService) && self.watched.contains_key(&Key::AnyCheck)
    }

    /// May what was read of another datacenter be believed?
    pub fn watches_remote(&self, query: &CatalogQuery) -> bool {
        let key = Key::Service { name: query.service.clone(), datacenter: query.datacenter.clone() };
        self.watched.contains_key(&key)
    }

    /// A look that began at `since` has ended well.
    pub fn end(&mut self, since: u64, kept: Kept) {
        self.marks.retain(|_, clock| *clock > since);
        self.kept = Some(kept);
    }

    /// What was registered since the last look, if that began after `since` and nothing else was written or heard of.
    pub fn only_registered(&self, since: Instant) -> Option<Vec<NewRegistration>> {
        let Written::Registered(new) = &self.written else { return None };
        let of_these = |mark: &Mark| match mark {
            Mark::Service { name, datacenter: None } => new.iter().any(|one| one.name == *name),
            Mark::Service { .. } | Mark::Some | Mark::All => false,
        };
        let young = self.kept.is_some() && self.began.is_some_and(|at| at >= since);
        (young && !new.is_empty() && self.marks.keys().all(of_these)).then(|| new.clone())
    }

    /// A look has believed what was registered. It takes no mark away, and makes nothing younger.
    pub fn believe(&mut self) {
        self.believes = true;
    }

    pub fn owes_a_look(&self) -> bool {
        self.believes
    }

    pub fn mark(&mut self, mark: Mark) {
        self.clock += 1;
        self.marks.insert(mark, self.clock);
    }

    /// A watch has an answer that is another one than before, or its first since it began or failed.
    pub fn heard(&mut self, key: &Key, first: bool) {
        if first {
            *self.watched.entry(key.clone()).or_default() += 1;
        }
        if let Some(mark) = mark_of(key) {
            self.mark(mark);
        }
    }

    /// We have written about this since the last look began: the next one reads it, whatever its watch tells until then.
    pub fn is_being_written(&self, key: &Key) -> bool {
        mark_of(key).is_some_and(|mark| self.writing.contains(&mark))
    }

    /// A watch that was heard goes, or has failed.
    pub fn watch_ended(&mut self, key: &Key) {
        self.watched.entry(key.clone()).and_modify(|count| *count = count.saturating_sub(1));
        self.watched.retain(|_, count| *count > 0);
        self.mark(Mark::All);
    }

    /// Our own write about this registration; `registered`: that is all it did, and it was done.
    pub fn wrote(&mut self, id: &str, name: Option<&str>, registered: Option<&NewRegistration>) {
        self.written.add(registered);
        let kept = self.kept.as_ref().and_then(|kept| Some(kept.registrations.get(id)?.name.clone()));
        let names: BTreeSet<String> = kept.into_iter().chain(name.map(str::to_owned)).collect();
        if names.is_empty() {
            self.mark(Mark::All);
        }
        for name in names {
            let mark = Mark::Service { name, datacenter: None };
            self.writing.insert(mark.clone());
            self.mark(mark);
        }
    }
}

fn mark_of(key: &Key) -> Option<Mark> {
    match key {
        Key::Service { name, datacenter } => Some(Mark::Service { name: name.clone(), datacenter: datacenter.clone() }),
        Key::AnyService | Key::AnyCheck => Some(Mark::Some),
        // What templates ask for is asked in every look.
        Key::Services { .. }
        | Key::Nodes { .. }
        | Key::Node { .. }
        | Key::Keys { .. }
        | Key::AnyPair
        | Key::AnyNode => None,
    }
}

impl Kept {
    /// Whether the list of names agrees with everything else that is known of this service: it is there, or not, and its tags.
    pub fn lists(&self, name: &str) -> bool {
        let registrations = || self.registrations.values().filter(|one| one.name == name);
        let answers = self.queries.iter().filter(|(query, _)| query.service == name && query.datacenter.is_none());
        let mut answers = answers.filter_map(|(_, answer)| answer.known());
        let there = registrations().next().is_some()
            || self.strangers.values().any(|one| one.name == name)
            || answers.any(|answer| !answer.instances.is_empty());
        match self.services.get(name) {
            Some(tags) => there && registrations().flat_map(|one| &one.tags).all(|tag| tags.contains(tag)),
            None => !there,
        }
    }

    /// Services whose registrations at the agent change without the catalog's telling: a check that has not run yet, or
    /// does not pass (its words are told late), or what the catalog lacks.
    pub fn restless(&self) -> impl Iterator<Item = &String> {
        let waits = |one: &&Registration| {
            self.missing.contains(&one.id)
                || one.checks.iter().any(|(id, check)| {
                    check.status != CheckStatus::Passing || (id.ends_with(":declared") && check.output.is_empty())
                })
        };
        self.registrations.values().filter(waits).map(|one| &one.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(service: &str) -> CatalogQuery {
        CatalogQuery { service: service.to_owned(), tag: None, datacenter: None, filter: None }
    }

    fn kept(digests: Option<Digests>) -> Kept {
        Kept {
            at: Instant::now(),
            asked: [query("web")].into(),
            agent: Agent::default(),
            registrations: BTreeMap::new(),
            strangers: Shared::default(),
            nodes: Vec::new(),
            services: Shared::default(),
            missing: BTreeSet::new(),
            queries: BTreeMap::new(),
            digests,
        }
    }

    fn service(name: &str) -> Key {
        Key::Service { name: name.to_owned(), datacenter: None }
    }

    const LONG: Duration = Duration::from_secs(600);

    fn marks(memory: &mut Memory) -> Option<Vec<Mark>> {
        let begun = memory.begin(&[query("web")].into(), LONG, Instant::now());
        begun.kept.map(|(_, marks)| marks.into_iter().collect())
    }

    #[test]
    fn only_what_is_watched_is_believed_and_only_until_its_watch_tells_or_ends() {
        let mut memory = Memory::default();
        memory.end(0, kept(None));
        assert_eq!(marks(&mut memory), None, "nothing is watched");
        memory.heard(&service("web"), true);
        memory.end(1, kept(None));
        assert_eq!(marks(&mut memory), Some(vec![]));
        memory.end(1, kept(None));
        memory.heard(&service("web"), false);
        let news = Mark::Service { name: "web".to_owned(), datacenter: None };
        assert_eq!(marks(&mut memory), Some(vec![news.clone()]));
        memory.end(1, kept(None));
        assert_eq!(marks(&mut memory), Some(vec![news]), "a look that began before the news does not take it away");
        memory.end(2, kept(None));
        memory.watch_ended(&service("web"));
        assert_eq!(marks(&mut memory), None);
    }

    #[test]
    fn a_registration_is_believed_after_a_look_that_is_young_and_while_nothing_else_is_marked() {
        let began = Instant::now();
        let before = began.checked_sub(Duration::from_secs(1)).expect("the machine runs for a second");
        let new = NewRegistration {
            id: "a".to_owned(),
            name: "web".to_owned(),
            address: "192.0.2.1".to_owned(),
            port: 80,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            service: "web".to_owned(),
            slot: 1,
            container: "c1".to_owned(),
            check: None,
            health: false,
            drain_start: None,
        };
        let mut memory = Memory::default();
        memory.wrote("a", Some("web"), Some(&new));
        assert_eq!(memory.only_registered(before), None, "nothing was looked at");
        memory.begin(&BTreeSet::new(), LONG, began);
        memory.wrote("a", Some("web"), Some(&new));
        assert_eq!(memory.only_registered(before), None, "the look did not end");
        memory.end(9, kept(None));
        assert_eq!(memory.only_registered(before), Some(vec![new.clone()]));
        assert_eq!(memory.only_registered(began + Duration::from_secs(1)), None, "it is too old");
        memory.heard(&service("web"), true);
        assert!(memory.only_registered(before).is_some(), "its own watch tells what was written");
        memory.heard(&service("other"), true);
        assert_eq!(memory.only_registered(before), None);
    }

    #[test]
    fn a_watch_that_ends_late_does_not_take_its_successors_word_away() {
        let mut memory = Memory::default();
        memory.heard(&service("web"), true);
        memory.heard(&service("web"), true);
        memory.watch_ended(&service("web"));
        memory.end(3, kept(None));
        assert_eq!(marks(&mut memory), Some(vec![]));
        memory.watch_ended(&service("web"));
        memory.end(4, kept(None));
        assert_eq!(marks(&mut memory), None, "nobody watches any more");
    }

    #[test]
    fn with_a_watch_on_the_whole_catalog_the_changed_services_are_found_by_their_digests() {
        let mut memory = Memory::default();
        memory.heard(&Key::AnyService, true);
        memory.heard(&Key::AnyCheck, true);
        memory.end(2, kept(None));
        assert_eq!(marks(&mut memory), None, "without digests it cannot be told what changed");
        memory.end(2, kept(Some(Digests::default())));
        memory.heard(&Key::AnyService, false);
        assert_eq!(marks(&mut memory), Some(vec![Mark::Some]));
        let of =
            |web: u64, nodes: u64| Digests { services: [("web".to_owned(), web), ("db".to_owned(), 7)].into(), nodes };
        assert_eq!(of(1, 1).differing(&of(2, 1)), Some(["web".to_owned()].into()));
        assert_eq!(of(1, 1).differing(&of(1, 2)), None);
        assert_eq!(
            of(1, 1).differing(&Digests { services: [("db".to_owned(), 7)].into(), nodes: 1 }),
            Some(["web".to_owned()].into())
        );
    }

    #[test]
    fn a_look_that_was_cut_off_and_an_old_one_are_followed_by_one_that_reads_everything() {
        let mut memory = Memory::default();
        memory.heard(&service("web"), true);
        memory.end(1, kept(None));
        assert!(marks(&mut memory).is_some());
        assert_eq!(marks(&mut memory), None, "the one before never ended");
        memory.end(1, kept(None));
        assert!(memory.begin(&[query("web")].into(), Duration::ZERO, Instant::now()).kept.is_none());
        memory.end(1, kept(None));
        memory.wrote("unknown", None, None);
        assert_eq!(marks(&mut memory), None, "what an own write changed is not known");
    }
}
