//! What containers in trouble say for themselves: the last lines of their logs, and their last failed probe.
//!
//! Owns when the engine is asked for a log (once for each change of a container's state, and ever more seldom while one
//! does not get ready), and that nothing which the spec marks as secret gets out of here. Losing its memory costs calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;

use crate::backend::docker::Docker;
use crate::observed::{self, Container, ContainerState, Directory, Health, Interest, Probe, Trouble};
use crate::spec::container::Secret;
use crate::spec::mask;

/// Lines that are kept of a log, and characters of each.
const LINES: usize = 20;
const LINE: usize = 500;
/// A container that is not ready for so long is in trouble.
const PATIENCE: Duration = Duration::from_secs(5);
/// Logs that are read in one look at most, and at once: the others wait for the next look.
const MOST: usize = 32;
const AT_ONCE: usize = 4;
/// An engine that is slow with logs must not hold up the look at everything else.
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Troubles {
    memory: Mutex<BTreeMap<String, (Mark, Arc<Trouble>)>>,
}

/// What a log was read for; another one is read when this changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    state: &'static str,
    times: (Option<Timestamp>, Option<Timestamp>),
    restarts: u32,
    /// How often its time has doubled while it did not get ready.
    doublings: u32,
}

impl Troubles {
    /// Attaches to each container in trouble what it says, and takes the secrets out of what it said.
    pub(super) async fn attach(
        &self,
        docker: &Docker,
        seen: &mut observed::Docker,
        interest: &Interest,
        kept: Option<&Directory>,
        now: Timestamp,
    ) {
        let mut due = Vec::new();
        {
            let mut memory = self.memory();
            memory.retain(|id, _| seen.containers.contains_key(id));
            for container in seen.containers.values_mut() {
                let Some(mark) = mark(container, now) else {
                    memory.remove(&container.id);
                    continue;
                };
                let known = memory.get(&container.id).filter(|(known, _)| *known == mark);
                let probe = container.trouble.as_ref().and_then(|trouble| trouble.probe.clone());
                match known {
                    Some((_, trouble)) => {
                        let log = trouble.log.clone();
                        container.trouble = Some(Arc::new(Trouble { probe, log }));
                    }
                    None if due.len() < MOST => due.push((container.id.clone(), mark)),
                    None => {}
                }
            }
        }
        let logs: Vec<(String, Mark, Vec<String>)> = futures_util::stream::iter(due)
            .map(|(id, mark)| async move {
                let log = match tokio::time::timeout(LIMIT, docker.logs(&id, LINES)).await {
                    Ok(Ok(text)) => lines(&text),
                    Ok(Err(error)) => vec![format!("(its log cannot be read: {error})")],
                    Err(_) => vec![format!("(its log was not there within {} s)", LIMIT.as_secs())],
                };
                (id, mark, log)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut memory = self.memory();
        for (id, mark, log) in logs {
            let Some(container) = seen.containers.get_mut(&id) else { continue };
            let secrets = secrets(&container.service, interest, kept);
            let log = log.iter().map(|line| mask(line, secrets.iter().copied())).collect();
            let probe = container.trouble.as_ref().and_then(|trouble| trouble.probe.clone());
            let trouble = Arc::new(Trouble { probe, log });
            memory.insert(id, (mark, trouble.clone()));
            container.trouble = Some(trouble);
        }
        for container in seen.containers.values_mut() {
            hide(container, interest, kept);
        }
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<String, (Mark, Arc<Trouble>)>> {
        // Only a cache, whole after every statement.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the secrets out of what its probes said.
fn hide(container: &mut Container, interest: &Interest, kept: Option<&Directory>) {
    let probe = container.trouble.as_ref().and_then(|trouble| trouble.probe.as_ref());
    if probe.is_none() && !matches!(container.health, Health::Unhealthy(_)) {
        return;
    }
    let secrets = secrets(&container.service, interest, kept);
    if let Health::Unhealthy(output) = &mut container.health {
        *output = mask(output, secrets.iter().copied());
    }
    if let Some(trouble) = &container.trouble
        && let Some(probe) = &trouble.probe
    {
        let probe = Some(mask(probe, secrets.iter().copied()));
        container.trouble = Some(Arc::new(Trouble { probe, log: trouble.log.clone() }));
    }
}

/// Of the spec, and of the configurations that served: an old replica has the old password.
fn secrets<'a>(service: &str, interest: &'a Interest, kept: Option<&'a Directory>) -> Vec<&'a Secret> {
    let of_spec = interest.secrets.get(service).into_iter().flatten();
    let kept = kept.and_then(|directory| directory.kept.get(service));
    let configurations = kept.into_iter().flat_map(|kept| std::iter::once(&kept.present).chain(&kept.before));
    of_spec.chain(configurations.flat_map(|configuration| configuration.service.config.secrets())).collect()
}

/// `None`: it is in no trouble.
fn mark(container: &Container, now: Timestamp) -> Option<Mark> {
    let mark = |state, times, doublings| Some(Mark { state, times, restarts: container.restarts, doublings });
    match &container.state {
        ContainerState::Exited { started_at, finished_at, .. } => mark("exited", (*started_at, *finished_at), 0),
        ContainerState::Restarting => mark("restarting", (None, None), 0),
        ContainerState::Running { started_at } => {
            let times = (Some(*started_at), None);
            let starting = match &container.health {
                Health::Unhealthy(_) => return mark("unhealthy", times, 0),
                Health::Healthy => false,
                Health::Starting => true,
                Health::None => matches!(container.probe, Some(Probe::Failing(_))),
            };
            let age = Duration::try_from(now.duration_since(*started_at)).unwrap_or_default();
            let doublings = (age.as_secs() / PATIENCE.as_secs()).checked_ilog2()?;
            starting.then(|| mark("starting", times, doublings)).flatten()
        }
        ContainerState::Created | ContainerState::Paused { .. } | ContainerState::Removing | ContainerState::Dead => {
            None
        }
    }
}

/// The last lines of a log, without what a terminal would take for an order.
fn lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(LINES)).map(|line| plain(line)).collect()
}

fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut letters = line.trim_end().chars();
    while let Some(letter) = letters.next() {
        match letter {
            // A control sequence ends with a letter of this range.
            '\u{1b}' => {
                if letters.next() == Some('[') {
                    letters.by_ref().find(|letter| matches!(letter, '@'..='~'));
                }
            }
            '\t' => plain.push(' '),
            letter if letter.is_control() => {}
            letter => plain.push(letter),
        }
    }
    if plain.chars().count() > LINE { plain.chars().take(LINE).chain(['…']).collect() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_shown_without_orders_to_the_terminal_and_not_whole() {
        let text: String = (0..30).map(|number| format!("\u{1b}[31mline {number}\u{1b}[0m\tend\r\n")).collect();
        let shown = lines(&text);
        assert_eq!(shown.len(), LINES);
        assert_eq!(shown.first().map(String::as_str), Some("line 10 end"));
        assert_eq!(shown.last().map(String::as_str), Some("line 29 end"));
        assert_eq!(lines(&"x".repeat(10_000))[0].chars().count(), LINE + 1);
    }
}
