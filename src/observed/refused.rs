//! What the engine has refused to make or to start, and for how long.
//!
//! Owns these types and the clock in them: both ends of it are attempts that failed, so that time in which nobody tried (reeve
//! did not run) never counts against a replica. What follows from it is the planner's.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::same_image;
use crate::spec::container::ConfigHash;

/// Attempts further apart than this are not one row of failures. Longer than the longest backoff and one slow call.
const GAP: SignedDuration = SignedDuration::from_mins(2);

/// Attempts in a row, none of which succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// It could not even be made. `None`: the container is there, and could not be started.
    pub new: Option<RefusedNew>,
    pub first: Timestamp,
    pub last: Timestamp,
    /// The engine's words of the last one.
    pub error: String,
}

/// What was to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedNew {
    pub service: String,
    pub slot: u32,
    pub hash: ConfigHash,
    /// Empty: not known.
    pub image_id: String,
}

impl RefusedNew {
    fn is(&self, other: &Self) -> bool {
        (&self.service, self.slot, &self.hash) == (&other.service, other.slot, &other.hash)
            && same_image(&self.image_id, &other.image_id)
    }
}

impl Refused {
    /// One more attempt failed. `before`: what is known of the name.
    pub fn again(before: Option<Self>, new: Option<RefusedNew>, error: &str, now: Timestamp) -> Self {
        let same = |before: &Self| match (&before.new, &new) {
            (Some(before), Some(new)) => before.is(new),
            (None, None) => true,
            _ => false,
        };
        let goes_on = before.filter(|before| same(before) && now.duration_since(before.last) <= GAP);
        Self { first: goes_on.map_or(now, |before| before.first), new, last: now, error: error.to_owned() }
    }

    /// A replica of this service could not be made.
    pub fn is_of(&self, service: &str) -> bool {
        self.new.as_ref().is_some_and(|new| new.service == service)
    }

    /// Somebody still tries.
    pub fn goes_on(&self, now: Timestamp) -> bool {
        now.duration_since(self.last) <= GAP
    }

    /// It has been so for so long, and every attempt failed.
    pub fn lasts(&self, duration: Duration) -> bool {
        let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        self.last.duration_since(self.first) >= duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn new(image_id: &str) -> Option<RefusedNew> {
        let (service, hash) = ("web".to_owned(), ConfigHash::of("{}"));
        Some(RefusedNew { service, slot: 1, hash, image_id: image_id.to_owned() })
    }

    #[test]
    fn only_attempts_in_a_row_count_and_time_without_any_does_not() {
        let minute = Duration::from_secs(60);
        let first = Refused::again(None, new("a"), "no", at(0));
        assert!(!first.lasts(Duration::from_secs(1)), "one attempt is no row");
        let second = Refused::again(Some(first.clone()), new("a"), "no", at(60));
        assert!(second.lasts(minute) && second.goes_on(at(90)) && !second.goes_on(at(600)));
        // reeve did not run for a while.
        assert!(!Refused::again(Some(first.clone()), new("a"), "no", at(600)).lasts(minute));
        // Something else is to be made under the name.
        assert!(!Refused::again(Some(first.clone()), new("b"), "no", at(60)).lasts(minute));
        assert!(!Refused::again(Some(first), None, "no", at(60)).lasts(minute));
    }
}
