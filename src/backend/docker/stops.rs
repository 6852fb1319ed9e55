//! Which of the others' containers have been told to stop.
//!
//! `docker stop` sends the container's stop signal and waits: between the two the container still answers, and nothing but
//! the event says that it is about to go. Losing this costs the time until it is seen dead, never truth.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::observed::ContainerState;

const TERM: i32 = 15;
const KILL: i32 = 9;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond the stop timeout: `docker stop --time` may be longer than what the container says, and a container that is still
/// there after both took the signal for something else.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a container stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    signal: i32,
    timeout: Duration,
}

impl Default for Way {
    fn default() -> Self {
        Self { signal: TERM, timeout: TIMEOUT }
    }
}

impl Way {
    /// From an inspect: `SIGQUIT`, `QUIT`, `3` or nothing; seconds.
    pub(super) fn of(signal: &str, timeout: Option<i64>) -> Self {
        let default = Self::default();
        let seconds = timeout.and_then(|seconds| u64::try_from(seconds).ok());
        Self { signal: number(signal).unwrap_or(default.signal), timeout: seconds.map_or(TIMEOUT, Duration::from_secs) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Timestamp,
    /// It has ended since.
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stops {
    ways: BTreeMap<String, Way>,
    told: BTreeMap<String, Told>,
}

impl Stops {
    pub(super) fn learn(&mut self, id: &str, way: Way) {
        self.ways.insert(id.to_owned(), way);
    }

    fn way(&self, id: &str) -> Way {
        self.ways.get(id).copied().unwrap_or_default()
    }

    /// Somebody sent it this signal. True: it is to stop.
    pub(super) fn signalled(&mut self, id: &str, signal: &str, at: Timestamp) -> bool {
        let stops = number(signal).is_some_and(|number| number == KILL || number == self.way(id).signal);
        if stops {
            // A second signal is the end of the same stop.
            let told = self.told.entry(id.to_owned()).or_insert(Told { at, ended: false });
            if told.ended {
                *told = Told { at, ended: false };
            }
        }
        stops
    }

    /// It has ended, and is told to stop all the same: a look that is under way may have read it while it still ran, and would
    /// take it for one that goes on, register it again and send it requests.
    pub(super) fn ended(&mut self, id: &str) {
        self.told.entry(id.to_owned()).and_modify(|told| told.ended = true);
    }

    /// It has begun anew, or is gone.
    pub(super) fn over(&mut self, id: &str) {
        self.told.remove(id);
    }

    /// Since when it is told to stop, if it is not over.
    pub(super) fn told(&self, id: &str, state: &ContainerState, now: Timestamp) -> Option<Timestamp> {
        let at = self.told.get(id)?.at;
        let ContainerState::Running { started_at } = *state else { return None };
        let patience = SignedDuration::try_from(self.way(id).timeout + PATIENCE).unwrap_or(SignedDuration::MAX);
        let waits = at.saturating_add(patience).is_ok_and(|end| now < end);
        (started_at <= at && waits).then_some(at)
    }

    pub(super) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.ways.retain(|id, _| there(id));
        self.told.retain(|id, _| there(id));
    }
}

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// Linux's number of a signal as Docker takes and tells them.
fn number(signal: &str) -> Option<i32> {
    if let Ok(number) = signal.parse() {
        return Some(number);
    }
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(more) = name.strip_prefix("RTMIN") {
        return if more.is_empty() { Some(34) } else { more.strip_prefix('+')?.parse::<i32>().ok().map(|n| 34 + n) };
    }
    if let Some(less) = name.strip_prefix("RTMAX") {
        return if less.is_empty() { Some(64) } else { less.strip_prefix('-')?.parse::<i32>().ok().map(|n| 64 - n) };
    }
    let at = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn running(since: i64) -> ContainerState {
        ContainerState::Running { started_at: at(since) }
    }

    #[test]
    fn the_stop_signal_of_the_container_says_that_it_stops_and_any_other_says_nothing() {
        for (stop_signal, sent, stops) in [
            ("", "15", true),
            ("", "1", false),
            ("", "9", true),
            ("SIGQUIT", "3", true),
            ("SIGQUIT", "15", false),
            ("WINCH", "28", true),
            ("SIGRTMIN+3", "37", true),
            ("RTMAX-1", "63", true),
            ("3", "SIGQUIT", true),
            ("", "", false),
        ] {
            let mut memory = Stops::default();
            memory.learn("a", Way::of(stop_signal, None));
            assert_eq!(memory.signalled("a", sent, at(0)), stops, "{stop_signal:?} {sent:?}");
            assert_eq!(memory.told("a", &running(-60), at(1)).is_some(), stops, "{stop_signal:?} {sent:?}");
        }
    }

    #[test]
    fn a_stop_is_over_when_the_container_ends_begins_anew_or_outlives_its_timeout() {
        let mut memory = Stops::default();
        memory.learn("a", Way::of("", Some(20)));
        assert!(memory.signalled("a", "15", at(0)));
        assert_eq!(memory.told("a", &running(-60), at(49)), Some(at(0)));
        assert_eq!(memory.told("a", &running(-60), at(51)), None, "it took the signal for something else");
        assert_eq!(memory.told("a", &running(5), at(6)), None, "it was started after that");
        assert_eq!(memory.told("a", &ContainerState::Created, at(1)), None);
        memory.over("a");
        assert_eq!(memory.told("a", &running(-60), at(1)), None);
    }

    #[test]
    fn a_look_that_read_a_container_before_its_end_does_not_take_it_for_one_that_goes_on() {
        let mut memory = Stops::default();
        assert!(memory.signalled("a", "9", at(0)));
        memory.ended("a");
        assert_eq!(memory.told("a", &running(-60), at(1)), Some(at(0)), "as the look has read it");
        assert!(memory.signalled("a", "9", at(20)));
        assert_eq!(memory.told("a", &running(10), at(21)), Some(at(20)), "the next life has a stop of its own");
    }
}
