//! What goes bad and comes back again and again, and how long it must have been good before it is believed.
//!
//! Owns a memory of returns. Each one costs two reloads of nginx, so the first is believed at once, and each further one
//! after a pause that doubles. It is never needed for safety: lost with the process, somebody is taken back sooner, and
//! going bad is nobody's business here: that is always acted on at once. Pure; the clock is handed in.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The pause of the second return; it doubles with each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Whoever was good for so long, or was not seen for so long, begins anew.
const FORGIVEN: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug)]
pub struct Flapping<K> {
    known: BTreeMap<K, Past>,
}

impl<K> Default for Flapping<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new() }
    }
}

#[derive(Debug)]
struct Past {
    good: bool,
    /// It has been good before: to become good for the first time is no return.
    served: bool,
    returns: u32,
    returned_at: Timestamp,
    seen_at: Timestamp,
}

impl<K: Ord + Clone> Flapping<K> {
    /// `seen`: everything that is there, and whether it is good. What is not there is bad. Gives those that are good and
    /// should not be taken back yet, and until when.
    pub fn observe(&mut self, seen: impl Iterator<Item = (K, bool)>, now: Timestamp) -> BTreeMap<K, Timestamp> {
        let mut held = BTreeMap::new();
        for (key, good) in seen {
            let past = self.known.entry(key.clone()).or_insert(Past {
                good,
                served: good,
                returns: 0,
                returned_at: now,
                seen_at: now,
            });
            if good && !past.good && past.served {
                past.returns = past.returns.saturating_add(1);
                past.returned_at = now;
            }
            if now.duration_since(past.returned_at) > FORGIVEN {
                past.returns = 0;
            }
            past.good = good;
            past.served |= good;
            past.seen_at = now;
            let pause = SignedDuration::try_from(pause(past.returns)).unwrap_or(SignedDuration::ZERO);
            let until = past.returned_at.saturating_add(pause).unwrap_or(Timestamp::MAX);
            if good && until > now {
                held.insert(key, until);
            }
        }
        self.known.retain(|_, past| {
            past.good &= past.seen_at == now;
            now.duration_since(past.seen_at) <= FORGIVEN
        });
        held
    }
}

fn pause(returns: u32) -> Duration {
    match returns {
        0 | 1 => Duration::ZERO,
        more => FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(more - 2)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn observe(flapping: &mut Flapping<u8>, good: bool, second: i64) -> Option<Timestamp> {
        flapping.observe([(1, good)].into_iter(), at(second)).remove(&1)
    }

    #[test]
    fn the_first_return_is_believed_at_once_and_each_further_one_later() {
        let mut flapping = Flapping::default();
        assert_eq!(observe(&mut flapping, false, 0), None);
        assert_eq!(observe(&mut flapping, true, 1), None, "a start is no return");
        let mut second = 1;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            second += 1;
            assert_eq!(observe(&mut flapping, false, second), None);
            second += 1;
            let until = observe(&mut flapping, true, second);
            pauses.push(until.map_or(0, |until| until.duration_since(at(second)).as_secs()));
            if let Some(until) = until {
                assert_eq!(observe(&mut flapping, true, second), Some(until), "looking again changes nothing");
            }
        }
        assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(observe(&mut flapping, true, second + 60), None, "and then it is taken back");
    }

    #[test]
    fn what_has_been_good_for_long_begins_anew() {
        let mut flapping = Flapping::default();
        for second in 0..10 {
            observe(&mut flapping, second % 2 == 0, second);
        }
        assert!(observe(&mut flapping, true, 10).is_some());
        assert_eq!(observe(&mut flapping, true, 10 + 301), None);
        observe(&mut flapping, false, 400);
        assert_eq!(observe(&mut flapping, true, 401), None);
    }

    #[test]
    fn to_vanish_is_to_be_bad() {
        let mut flapping = Flapping::default();
        let mut held = None;
        for second in [0, 2, 4] {
            held = observe(&mut flapping, true, second);
            assert!(flapping.observe(std::iter::empty(), at(second + 1)).is_empty());
        }
        assert_eq!(held, Some(at(6)));
        flapping.observe(std::iter::empty(), at(4 + 301));
        assert!(flapping.known.is_empty(), "nothing is remembered for ever");
    }
}
