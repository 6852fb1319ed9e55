//! What the consul backend keeps between two views: since when something is so. Pure; the clock is handed in.
//!
//! Nothing here is needed for safety: lost with the process, it only prolongs a wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::answers::AnswerMemory;
use crate::backend::flapping::Flapping;
use crate::observed::{Catalog, Instance, View};
use crate::spec::upstream::CatalogQuery;

/// A query of a datacenter that cannot be reached runs into its time limit; it is not asked again for so long. Otherwise
/// every pass would last as long as that limit, and one bad object would slow down all others.
const REST_AFTER_TIME_OUT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Memory {
    pub answers: AnswerMemory,
    queries: BTreeMap<CatalogQuery, Past>,
    unsynced: BTreeMap<String, Timestamp>,
    failing: BTreeMap<String, Timestamp>,
}

#[derive(Default)]
struct Past {
    /// Node and id of the instances that passed in the last answer, and when that set last lost one.
    passing: Option<(BTreeSet<(String, String)>, Timestamp)>,
    /// It could not be read since the last answer.
    gap: bool,
    returned_at: Option<Timestamp>,
    unreadable: Option<Unreadable>,
    /// By node, id and container: a replica that is made anew in its slot has the id of the one before, and has never
    /// gone bad. (Seen: scaled down and up again, healthy replicas were kept out for as long as one that comes and goes.)
    flapping: Flapping<(String, String, Option<String>)>,
}

struct Unreadable {
    reason: String,
    since: Timestamp,
    rests_until: Option<Instant>,
}

impl Memory {
    /// What nobody asks for any more is forgotten.
    pub fn keep_only(&mut self, queries: &BTreeSet<CatalogQuery>) {
        self.queries.retain(|query, _| queries.contains(query));
    }

    /// The answer to give without asking, while a query rests after a time-out.
    pub fn resting(&self, query: &CatalogQuery, now: Instant) -> Option<View<Catalog>> {
        let unreadable = self.queries.get(query)?.unreadable.as_ref()?;
        (unreadable.rests_until? > now)
            .then(|| View::Unknown { reason: unreadable.reason.clone(), since: unreadable.since })
    }

    pub fn read(&mut self, query: &CatalogQuery, instances: Vec<Instance>, now: Timestamp) -> View<Catalog> {
        let passing: BTreeSet<_> = instances
            .iter()
            .filter(|instance| instance.passing)
            .map(|instance| (instance.node.clone(), instance.id.clone()))
            .collect();
        let past = self.queries.entry(query.clone()).or_default();
        past.unreadable = None;
        if std::mem::take(&mut past.gap) && past.passing.is_some() {
            past.returned_at = Some(now);
        }
        let shrunk_at = match &past.passing {
            Some((before, shrunk_at)) if before.is_subset(&passing) => *shrunk_at,
            Some(_) | None => now,
        };
        past.passing = Some((passing, shrunk_at));
        let key = |one: &Instance| (one.node.clone(), one.id.clone(), one.container.clone());
        let held = past.flapping.observe(instances.iter().map(|one| (key(one), one.passing)), now);
        let flapping = held.into_iter().map(|((node, id, _), until)| ((node, id), until)).collect();
        View::Known(Catalog { instances: instances.into(), shrunk_at, returned_at: past.returned_at, flapping })
    }

    /// The agent itself cannot be read: no query could be asked.
    pub fn unreachable(&mut self) {
        self.queries.values_mut().for_each(|past| past.gap = true);
    }

    /// `rests`: it is not asked again for a while. What passed before stays remembered: a smaller set after a gap
    /// is as suspicious as one without.
    pub fn unreadable(
        &mut self,
        query: &CatalogQuery,
        reason: String,
        rests: bool,
        now: (Timestamp, Instant),
    ) -> View<Catalog> {
        let past = self.queries.entry(query.clone()).or_default();
        past.gap = true;
        let since = past.unreadable.as_ref().map_or(now.0, |unreadable| unreadable.since);
        let rests_until = rests.then(|| now.1 + REST_AFTER_TIME_OUT);
        past.unreadable = Some(Unreadable { reason: reason.clone(), since, rests_until });
        View::Unknown { reason, since }
    }

    /// `missing`: our ids that the agent has and the catalog has not, now.
    pub fn unsynced(&mut self, missing: BTreeSet<String>, now: Timestamp) -> BTreeMap<String, Timestamp> {
        self.unsynced = since(&self.unsynced, missing, now);
        self.unsynced.clone()
    }

    /// `failing`: our ids with a check that fails, now.
    pub fn failing(&mut self, failing: BTreeSet<String>, now: Timestamp) -> BTreeMap<String, Timestamp> {
        self.failing = since(&self.failing, failing, now);
        self.failing.clone()
    }

    /// The catalog could not be asked: what was unsynced stays so, if the agent still has it.
    pub fn still_unsynced<'a>(&mut self, ids: impl Fn(&str) -> bool + 'a) -> BTreeMap<String, Timestamp> {
        self.unsynced.retain(|id, _| ids(id));
        self.unsynced.clone()
    }
}

/// Those of now, each with its first time.
fn since(
    before: &BTreeMap<String, Timestamp>,
    now_so: BTreeSet<String>,
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let since = |id: String| {
        let since = before.get(&id).copied().unwrap_or(now);
        (id, since)
    };
    now_so.into_iter().map(since).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> CatalogQuery {
        CatalogQuery { service: "web".to_owned(), tag: None, datacenter: None, filter: None }
    }

    fn instances(ids: &[(&str, bool)]) -> Vec<Instance> {
        ids.iter()
            .map(|(id, passing)| Instance {
                id: (*id).to_owned(),
                node: "n1".to_owned(),
                address: "192.0.2.1".to_owned(),
                port: 80,
                passing: *passing,
                doubtful: false,
                maintenance: false,
                weight: 1,
                owner: None,
                container: None,
                trouble: None,
            })
            .collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn shrunk_at(memory: &mut Memory, ids: &[(&str, bool)], second: i64) -> Timestamp {
        memory.read(&query(), instances(ids), at(second)).known().expect("it was read").shrunk_at
    }

    #[test]
    fn only_a_loss_moves_shrunk_at() {
        let mut memory = Memory::default();
        assert_eq!(shrunk_at(&mut memory, &[("a", true)], 1), at(1), "the first answer is as old as this process");
        assert_eq!(shrunk_at(&mut memory, &[("a", true), ("b", true)], 2), at(1), "a gain is no loss");
        assert_eq!(shrunk_at(&mut memory, &[("a", true), ("b", false)], 3), at(3), "failing is a loss");
        assert_eq!(shrunk_at(&mut memory, &[("a", true)], 4), at(3), "one that did not pass is not missed");
        assert_eq!(shrunk_at(&mut memory, &[("c", true)], 5), at(5), "an exchange loses one");
        assert_eq!(shrunk_at(&mut memory, &[], 6), at(6));
        assert_eq!(shrunk_at(&mut memory, &[], 7), at(6));
    }

    #[test]
    fn a_loss_is_seen_across_a_gap_and_a_forgotten_query_starts_anew() {
        let mut memory = Memory::default();
        shrunk_at(&mut memory, &[("a", true), ("b", true)], 1);
        memory.unreadable(&query(), "gone".to_owned(), false, (at(2), Instant::now()));
        assert_eq!(shrunk_at(&mut memory, &[("a", true)], 3), at(3));
        memory.keep_only(&BTreeSet::new());
        assert_eq!(shrunk_at(&mut memory, &[("a", true)], 9), at(9));
    }

    #[test]
    fn the_end_of_a_gap_is_known_and_a_start_is_none() {
        let mut memory = Memory::default();
        let returned_at = |memory: &mut Memory, second: i64| {
            memory.read(&query(), instances(&[("a", true)]), at(second)).known().expect("it was read").returned_at
        };
        memory.unreadable(&query(), "not there yet".to_owned(), false, (at(1), Instant::now()));
        assert_eq!(returned_at(&mut memory, 2), None, "nothing was known before");
        memory.unreachable();
        assert_eq!(returned_at(&mut memory, 4), Some(at(4)));
        assert_eq!(returned_at(&mut memory, 5), Some(at(4)));
        memory.unreadable(&query(), "gone".to_owned(), false, (at(6), Instant::now()));
        assert_eq!(returned_at(&mut memory, 7), Some(at(7)));
    }

    #[test]
    fn what_is_made_anew_under_the_same_id_has_never_come_back() {
        let held = |anew: bool| {
            let mut memory = Memory::default();
            let mut held = false;
            for round in 0..5 {
                let mut there = instances(&[("a", true)]);
                let container = if anew { format!("container {round}") } else { "container".to_owned() };
                there.iter_mut().for_each(|one| one.container = Some(container.clone()));
                let seen = memory.read(&query(), there, at(2 * round)).known().expect("it was read").flapping.len();
                held = seen > 0;
                memory.read(&query(), Vec::new(), at(2 * round + 1));
            }
            held
        };
        assert!(held(false), "one that comes and goes is held");
        assert!(!held(true), "a replica that was made anew is not");
    }

    #[test]
    fn unknown_keeps_its_first_time_until_it_is_read() {
        let mut memory = Memory::default();
        let now = Instant::now();
        let since = |view: View<Catalog>| match view {
            View::Known(_) => panic!("it could not be read"),
            View::Unknown { since, .. } => since,
        };
        assert_eq!(since(memory.unreadable(&query(), "a".to_owned(), false, (at(2), now))), at(2));
        assert_eq!(since(memory.unreadable(&query(), "b".to_owned(), false, (at(5), now))), at(2));
        memory.read(&query(), Vec::new(), at(6));
        assert_eq!(since(memory.unreadable(&query(), "c".to_owned(), false, (at(7), now))), at(7));
    }

    #[test]
    fn only_a_query_that_timed_out_rests_and_not_for_ever() {
        let mut memory = Memory::default();
        let now = Instant::now();
        memory.unreadable(&query(), "refused".to_owned(), false, (at(2), now));
        assert!(memory.resting(&query(), now).is_none());
        memory.unreadable(&query(), "no answer".to_owned(), true, (at(3), now));
        assert_eq!(memory.resting(&query(), now).as_ref().and_then(View::reason), Some("no answer"));
        assert!(memory.resting(&query(), now + REST_AFTER_TIME_OUT).is_none());
    }

    #[test]
    fn unsynced_keeps_its_first_time() {
        let mut memory = Memory::default();
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        memory.unsynced(ids(&["a", "b"]), at(1));
        let seen = memory.unsynced(ids(&["b", "c"]), at(4));
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [("b".to_owned(), at(1)), ("c".to_owned(), at(4))]);
        assert_eq!(memory.still_unsynced(|id| id == "b").len(), 1);
    }

    #[test]
    fn a_check_that_passed_in_between_fails_anew() {
        let mut memory = Memory::default();
        let mut since = |fails: bool, second: i64| {
            let ids = fails.then(|| "a".to_owned()).into_iter().collect();
            memory.failing(ids, at(second)).get("a").copied()
        };
        assert_eq!(
            [since(true, 1), since(true, 4), since(false, 5), since(true, 6)],
            [Some(at(1)), Some(at(1)), None, Some(at(6))]
        );
    }
}
