//! What wakes the loop: one dirty bit, and when the change happened.
//!
//! The first wake-up fires at once; those that follow closely are coalesced until it has been quiet for a while, but never
//! for longer than a maximum: without it a stream of events would keep the loop asleep for ever. What comes soon after a
//! pass is no first one; after one that found nothing to do, that is the sooner over, the less it cost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::world::{Wake, WakeSource};

#[derive(Debug, Default)]
struct State {
    first: Option<Instant>,
    last: Option<Instant>,
    changed_at: Option<Timestamp>,
    sources: BTreeSet<WakeSource>,
    /// Nothing is waited for.
    at_once: bool,
}

/// Shared by everything that wakes, and the one loop that waits.
#[derive(Clone, Default)]
pub struct Trigger {
    state: Arc<Mutex<State>>,
    notify: Arc<Notify>,
}

/// The pass before.
#[derive(Debug, Clone, Copy)]
pub struct LastPass {
    pub ended: Instant,
    /// How long it took, if it found nothing to do.
    pub took: Option<Duration>,
}

impl LastPass {
    /// When a change is no more part of what that pass was about. After one that found nothing to do, so soon that passes take
    /// at most a fifth of the time, whatever wakes them.
    fn rest(&self, quiet: Duration) -> Instant {
        self.ended + self.took.map_or(quiet, |took| (took * 4).min(quiet))
    }
}

/// What woke the loop.
#[derive(Debug, Clone, Default)]
pub struct Woken {
    pub sources: BTreeSet<WakeSource>,
    /// The oldest change's own time.
    pub changed_at: Option<Timestamp>,
}

impl Woken {
    /// It says nothing of nginx. The timer does: with it comes what nobody tells of.
    pub fn beside_nginx(&self) -> bool {
        let beside = |source: &WakeSource| {
            matches!(source, WakeSource::DockerEvent | WakeSource::ConsulChange | WakeSource::OwnWrite)
        };
        self.sources.iter().all(beside)
    }
}

impl Trigger {
    pub fn wake(&self, source: WakeSource, changed_at: Timestamp) {
        let now = Instant::now();
        {
            let mut state = self.lock();
            state.first.get_or_insert(now);
            state.last = Some(now);
            state.sources.insert(source);
            // Own writes and the timer are no changes of the world.
            if !matches!(source, WakeSource::OwnWrite | WakeSource::Timer) {
                state.changed_at = Some(state.changed_at.map_or(changed_at, |oldest| oldest.min(changed_at)));
            }
        }
        self.notify.notify_one();
    }

    /// The last pass did something, and what follows from that waits for nobody: the next pass is due at once, whatever else
    /// comes meanwhile.
    pub fn go_on(&self) {
        self.lock().at_once = true;
        self.wake(WakeSource::OwnWrite, Timestamp::now());
    }

    /// `report` hears of every wake-up, for metrics.
    pub fn handle(&self, report: Arc<dyn Fn(WakeSource) + Send + Sync>) -> Wake {
        let trigger = self.clone();
        Arc::new(move |source, changed_at| {
            report(source);
            trigger.wake(source, changed_at);
        })
    }

    /// Returns when a pass is due: a wake-up (at once when it is the first), or `deadline`.
    /// Cancel-safe: a wake-up that was not taken stays.
    pub async fn wait(&self, last: LastPass, quiet: Duration, max_wait: Duration, deadline: Instant) -> Woken {
        loop {
            let due = {
                let state = self.lock();
                match (state.first, state.last) {
                    (Some(first), Some(_)) if state.at_once => Some(first),
                    (Some(first), Some(newest)) => {
                        let rest = last.rest(quiet);
                        let leading = first == newest && (first >= rest || last.took.is_some());
                        Some(if leading { first.max(rest) } else { (newest + quiet).min(first + max_wait) })
                    }
                    (None, _) | (_, None) => None,
                }
            };
            let now = Instant::now();
            let until = due.unwrap_or(deadline).min(deadline);
            if until <= now {
                return self.take(due.is_none());
            }
            tokio::select! {
                // Cancel-safe: `notified` keeps a permit that was not taken.
                () = self.notify.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    fn take(&self, by_timer: bool) -> Woken {
        let mut state = self.lock();
        let taken = std::mem::take(&mut *state);
        let mut sources = taken.sources;
        if by_timer {
            sources.insert(WakeSource::Timer);
        }
        Woken { sources, changed_at: taken.changed_at }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is a few plain fields, whole after every statement: a panic elsewhere cannot have torn it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(50);
    const MAX_WAIT: Duration = Duration::from_secs(1);

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    fn just_now() -> LastPass {
        LastPass { ended: Instant::now(), took: None }
    }

    fn long_ago() -> LastPass {
        let ended = Instant::now().checked_sub(Duration::from_secs(1)).expect("the machine runs for a second");
        LastPass { ended, took: None }
    }

    #[tokio::test]
    async fn after_a_pass_that_found_nothing_to_do_a_wake_up_waits_no_longer_than_that_pass_was_worth() {
        let trigger = Trigger::default();
        let minute = Duration::from_secs(60);
        for took in [Duration::ZERO, Duration::from_millis(20)] {
            let last = LastPass { ended: Instant::now(), took: Some(took) };
            trigger.wake(WakeSource::DockerEvent, Timestamp::UNIX_EPOCH);
            let waited = trigger.wait(last, minute, minute, far());
            tokio::time::timeout(minute / 3, waited).await.expect("the quiet time is not waited for");
            assert!(last.ended.elapsed() >= took * 4, "a stream of them would leave no time for anything else");
        }
        let last = LastPass { ended: Instant::now(), took: Some(Duration::ZERO) };
        trigger.wake(WakeSource::DockerEvent, Timestamp::UNIX_EPOCH);
        trigger.wake(WakeSource::DockerEvent, Timestamp::UNIX_EPOCH);
        assert!(trigger.wait(last, QUIET, MAX_WAIT, far()).await.sources.contains(&WakeSource::DockerEvent));
        assert!(last.ended.elapsed() >= QUIET, "several are a burst");
    }

    #[test]
    fn only_docker_consul_and_our_own_writes_say_nothing_of_nginx() {
        use WakeSource::{
            ConsulChange, DockerEvent, NginxChange, OwnWrite, Pin, Signal, SpecFile, TemplateFile, Timer,
        };
        let beside = |sources: &[WakeSource]| {
            Woken { sources: sources.iter().copied().collect(), changed_at: None }.beside_nginx()
        };
        assert!(beside(&[DockerEvent, ConsulChange, OwnWrite]));
        for source in [NginxChange, SpecFile, Pin, Signal, Timer, TemplateFile] {
            assert!(!beside(&[DockerEvent, source]), "{source:?}");
        }
    }

    #[tokio::test]
    async fn the_first_wake_up_fires_at_once() {
        let trigger = Trigger::default();
        trigger.wake(WakeSource::DockerEvent, Timestamp::UNIX_EPOCH);
        // A minute of quiet time would be waited for if the first one were coalesced.
        let waited = trigger.wait(long_ago(), Duration::from_millis(900), Duration::from_secs(60), far());
        let woken = tokio::time::timeout(Duration::from_millis(500), waited).await.expect("it fires at once");
        assert_eq!(woken.changed_at, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(woken.sources, BTreeSet::from([WakeSource::DockerEvent]));
    }

    #[tokio::test]
    async fn what_follows_from_our_own_doing_waits_for_no_quiet() {
        let trigger = Trigger::default();
        trigger.wake(WakeSource::ConsulChange, Timestamp::UNIX_EPOCH);
        trigger.go_on();
        let waited = trigger.wait(just_now(), Duration::from_secs(60), Duration::from_secs(60), far());
        let woken = tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it fires at once");
        assert!(woken.sources.contains(&WakeSource::ConsulChange), "what came meanwhile is taken along");
        let soon = Instant::now() + QUIET;
        trigger.wake(WakeSource::ConsulChange, Timestamp::UNIX_EPOCH);
        let waited = trigger.wait(just_now(), Duration::from_secs(60), Duration::from_secs(60), soon);
        assert!(waited.await.sources.contains(&WakeSource::ConsulChange));
        assert!(Instant::now() >= soon, "the next one waits again");
    }

    #[tokio::test]
    async fn a_burst_is_one_wake_up_and_keeps_the_oldest_time() {
        let trigger = Trigger::default();
        let later = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(5);
        for at in [later, Timestamp::UNIX_EPOCH, later] {
            trigger.wake(WakeSource::ConsulChange, at);
        }
        let woken = trigger.wait(just_now(), QUIET, MAX_WAIT, far()).await;
        assert_eq!(woken.changed_at, Some(Timestamp::UNIX_EPOCH));
        let soon = Instant::now() + QUIET;
        let nothing = trigger.wait(just_now(), QUIET, MAX_WAIT, soon).await;
        assert_eq!(nothing.sources, BTreeSet::from([WakeSource::Timer]));
        assert_eq!(nothing.changed_at, None);
    }

    #[tokio::test]
    async fn a_stream_of_events_is_not_waited_for_beyond_the_maximum() {
        let trigger = Trigger::default();
        let source = trigger.clone();
        let stream = tokio::spawn(async move {
            loop {
                source.wake(WakeSource::DockerEvent, Timestamp::UNIX_EPOCH);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let waited = trigger.wait(just_now(), Duration::from_secs(30), Duration::from_millis(100), far());
        let woken = tokio::time::timeout(Duration::from_secs(20), waited).await;
        stream.abort();
        assert!(woken.is_ok(), "the maximum ends the wait although it never gets quiet");
    }
}
