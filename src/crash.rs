//! Crash points, in debug builds alone: the process dies right after an action that `CRASH_AFTER` names, so that tests can
//! put a crash between any two actions, on real servers.
//!
//! A release build has none of it. The variable lacks the prefix of reeve's settings, for it is none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::plan::Action;

const VARIABLE: &str = "CRASH_AFTER";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    /// After so many executed actions, of any kind and result.
    Count(usize),
    /// After the first action of this kind (`Action::kind`).
    Kind(String),
}

impl Point {
    fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Kind(text.to_owned()), Self::Count)
    }

    /// `number`: of the action, from 1 on.
    fn reached(&self, number: usize, kind: &str) -> bool {
        match self {
            Self::Count(count) => number == *count,
            Self::Kind(wanted) => wanted == kind,
        }
    }
}

/// Called after each executed action; does not return at the crash point.
pub fn after(action: &Action) {
    static POINT: OnceLock<Option<Point>> = OnceLock::new();
    static EXECUTED: AtomicUsize = AtomicUsize::new(0);
    let number = EXECUTED.fetch_add(1, Ordering::Relaxed) + 1;
    let point = POINT.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| Point::parse(&text)));
    if point.as_ref().is_some_and(|point| point.reached(number, action.kind())) {
        // As abrupt as SIGKILL: nothing is flushed, closed or awaited.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_number_of_actions_or_a_kind() {
        let third = Point::parse("3");
        assert!(!third.reached(2, "drain") && third.reached(3, "reload") && !third.reached(4, "drain"));
        let drain = Point::parse("drain");
        assert!(!drain.reached(1, "reload") && drain.reached(7, "drain"));
    }
}
