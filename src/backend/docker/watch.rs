//! The engine's events: they carry no facts, they only say that a look is worthwhile, and when the change happened.
//!
//! But for one. The engine holds on to a container that has ended while it takes its network down: an inspect sent then is
//! answered a quarter of a second later (Docker 20.10), and traffic would go to what is dead until then. So the event is
//! believed, and the engine is asked here, beside the looks; when it answers, a look reads what became of the container.
//!
//! Whatever a stream misses, the list that follows every new connection finds. Filters that the engine applies keep out
//! the three events that every probe of a HEALTHCHECK makes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;

use super::connection::Link;
use super::dirty::{self, Change};
use super::error::Fault;
use super::labels;
use super::memory::Memory;
use super::view::INSPECT_LIMIT;
use super::{names, wire};
use crate::world::{Wake, WakeSource};

const PING_LIMIT: Duration = Duration::from_secs(5);
/// A connection that a network swallowed looks like silence: after so long it is opened anew.
const SILENCE: Duration = Duration::from_secs(5 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const SETTLED: Duration = Duration::from_secs(10);
/// The engine replays what happened since then, so nothing is lost between the connection and the first look.
const REPLAY: Duration = Duration::from_secs(1);

/// …and further back what tells that a container is being stopped: while reeve was away, it may have been told to.
const LOOK_BACK: Duration = Duration::from_secs(40);

/// `health_status` also stands for `health_status: healthy`.
const EVENTS: &[&str] = &[
    "create",
    "start",
    "die",
    "stop",
    "kill",
    "destroy",
    "pause",
    "unpause",
    "health_status",
    "oom",
    "rename",
    "connect",
    "disconnect",
    "remove",
    "tag",
    "untag",
    "delete",
    "pull",
    "import",
    "load",
];
const TYPES: &[&str] = &["container", "network", "volume", "image"];

pub(super) struct Watcher<'a> {
    pub(super) link: &'a Link,
    pub(super) memory: &'a Mutex<Memory>,
    /// `project@node`.
    pub(super) mark: &'a str,
    pub(super) wake: Wake,
}

impl Watcher<'_> {
    pub(super) async fn run(&self) {
        let mut pause = FIRST_PAUSE;
        let mut lost = false;
        loop {
            let began = tokio::time::Instant::now();
            let result = self.follow(&mut lost).await;
            self.memory().stream(false);
            if let Err(fault) = result
                && !lost
            {
                lost = true;
                tracing::warn!(host = %self.link.host(), %fault, "lost the engine's events; trying again until it is back");
                // The engine may be gone: the next look tells.
                (self.wake)(WakeSource::DockerEvent, Timestamp::now());
            }
            // A stream that ends as soon as it is opened must not make us spin.
            if began.elapsed() >= SETTLED {
                pause = FIRST_PAUSE;
            }
            // Jitter: several daemons must not all come at once when an engine returns.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One stream, until it ends or is silent for too long. `lost`: the loss was logged, so the return will be.
    async fn follow(&self, lost: &mut bool) -> Result<(), Fault> {
        // The engine may have come back as another version.
        self.link.forget();
        self.link.get(PING_LIMIT, "/_ping").await?;
        let connection = self.link.connection().await?;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let filters = HashMap::from([("event".to_owned(), words(EVENTS)), ("type".to_owned(), words(TYPES))]);
        let (opened, began) = (Timestamp::now(), tokio::time::Instant::now());
        let since = opened - LOOK_BACK;
        let options = EventsOptions {
            since: Some(format!("{}.{:09}", since.as_second(), since.subsec_nanosecond())),
            until: None,
            filters: Some(filters),
        };
        let mut events = std::pin::pin!(connection.client.events(Some(options)));
        self.memory().stream(true);
        if std::mem::take(lost) {
            tracing::info!(host = %self.link.host(), "the engine's events are back");
        }
        (self.wake)(WakeSource::DockerEvent, Timestamp::now());
        let mut asked = FuturesUnordered::new();
        loop {
            let event = tokio::select! {
                event = tokio::time::timeout(SILENCE, events.next()) => event,
                Some::<String>(id) = asked.next() => {
                    self.memory().told(Change::Container(id));
                    (self.wake)(WakeSource::DockerEvent, Timestamp::now());
                    continue;
                }
            };
            match event {
                Err(_silent) => return Ok(()),
                Ok(Some(Ok(event))) => {
                    if self.take(&event, (opened, began))
                        && let Some(id) = actor(&event)
                    {
                        asked.push(self.answered(id.to_owned()));
                    }
                }
                Ok(Some(Err(error))) => return Err(Fault::from(error)),
                Ok(None) => return Err(Fault::Broken("the engine closed the stream".to_owned())),
            }
        }
    }

    /// Waits until the engine answers for this container, or does not in time: then it is a look's to find out why.
    async fn answered(&self, id: String) -> String {
        if names::is_name(&id) {
            let path = format!("/containers/{id}/json");
            let answer = self.link.find::<wire::Inspected>(INSPECT_LIMIT, &path).await;
            if let Err(fault) = answer {
                tracing::debug!(container = %id, %fault, "asked what became of a container that has ended");
            }
        }
        id
    }

    /// `opened`: when the stream was. What it replays from before, the list that follows the connection shows, and so it
    /// does not wake; but for a stop that is under way. It marks all the same: with a clock that is behind ours, what happens
    /// now looks as if it were replayed. True: its container has ended, and the engine is to be asked what became of it.
    fn take(&self, event: &EventMessage, opened: (Timestamp, tokio::time::Instant)) -> bool {
        let at = event.time_nano.and_then(|nanos| Timestamp::from_nanosecond(nanos.into()).ok());
        let at = at.unwrap_or_else(Timestamp::now);
        let news = opened.0 - REPLAY;
        // Later on, an engine on another machine may only have another idea of the time.
        let replayed = at < news && opened.1.elapsed() < SETTLED;
        let stops = event.action.as_deref() == Some("kill");
        let ends = event.typ == Some(EventMessageTypeEnum::CONTAINER) && event.action.as_deref() == Some("die");
        // A replayed end may be that of a life before this one.
        let ended = ends && !replayed && actor(event).is_some_and(|id| self.memory().ended(id));
        if self.concerns_us(event, at) && (!replayed || stops) {
            (self.wake)(WakeSource::DockerEvent, if replayed { opened.0 } else { at });
        }
        ended
    }

    fn concerns_us(&self, event: &EventMessage, at: Timestamp) -> bool {
        let id = actor(event).unwrap_or_default();
        let attribute = |key: &str| event.actor.as_ref()?.attributes.as_ref()?.get(key);
        let action = event.action.as_deref().unwrap_or_default();
        if event.typ == Some(EventMessageTypeEnum::CONTAINER) {
            match action {
                "start" => self.memory().told(Change::Container(id.to_owned())),
                // The engine has forgotten it before it tells.
                "destroy" => self.memory().told(Change::Gone(id.to_owned())),
                _ => {}
            }
        }
        match event.typ {
            Some(EventMessageTypeEnum::CONTAINER) => {
                let owner = attribute(labels::OWNER);
                let mut memory = self.memory();
                if owner.is_some_and(|owner| owner == self.mark) || memory.adopted.contains(id) {
                    memory.spoil(Change::Container(id.to_owned()));
                    return true;
                }
                if action == "create" {
                    memory.may_start(id);
                }
                if owner.is_none() && memory.discovers {
                    let signal = attribute("signal").map_or("", String::as_str);
                    return discovered(&mut memory, id, action, signal, at);
                }
                if matches!(action, "create" | "start" | "die" | "destroy" | "rename" | "pause" | "unpause") {
                    memory.spoil(Change::Container(id.to_owned()));
                }
                // A stranger's name, host ports and addresses come and go with these.
                matches!(action, "start" | "die" | "destroy" | "rename")
            }
            Some(EventMessageTypeEnum::NETWORK) => match attribute("container") {
                // A stranger that joins or leaves: its start and end wake.
                Some(container) => {
                    let mut memory = self.memory();
                    memory.spoil(Change::Container(container.clone()));
                    let may_be_ours = memory.may_be_ours(container);
                    if action == "connect" && !may_be_ours {
                        memory.may_start(container);
                    }
                    may_be_ours
                }
                None => {
                    self.memory().spoil(Change::NetworkId(id.to_owned()));
                    true
                }
            },
            // An image or a volume that the spec names may have come or gone, or a tag may have moved.
            Some(EventMessageTypeEnum::IMAGE) => {
                let name = attribute("name").map_or("", String::as_str);
                self.memory().spoil(dirty::of_image_event(action, id, name));
                true
            }
            Some(EventMessageTypeEnum::VOLUME) => {
                self.memory().spoil(Change::Volume(id.to_owned()));
                true
            }
            _ => false,
        }
    }
}

fn actor(event: &EventMessage) -> Option<&str> {
    event.actor.as_ref()?.id.as_deref()
}

/// An event of a container that nobody marked, while such are registered.
fn discovered(memory: &mut Memory, id: &str, action: &str, signal: &str, at: Timestamp) -> bool {
    match action {
        // Any other signal is nothing: many programs read their settings anew by one.
        "kill" => return memory.stops.signalled(id, signal, at),
        "die" => memory.stops.ended(id),
        "start" | "destroy" => memory.stops.over(id),
        _ => {}
    }
    memory.spoil(Change::Container(id.to_owned()));
    matches!(action, "start" | "die" | "destroy" | "rename" | "pause" | "unpause")
        || action.starts_with("health_status")
}
