//! What wakes the loop for nginx: changed files, another answer to the probe, a master that came or went.
//!
//! It only says that a look is worthwhile. Whatever it misses, the next full pass sees.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::files::Stamp;
use super::loaded::{blocking, read_pid};
use super::probe::Answer;
use super::{Memory, Nginx, Shared, process};
use crate::observed::{GenerationId, Loaded};
use crate::world::{Wake, WakeSource};

/// Between two looks at what no file tells: the probe and the master.
const POLL: Duration = Duration::from_secs(1);
/// Later than this after one of these, nobody can be said to watch.
const LATELY: Duration = Duration::from_secs(3);

/// What is loaded, and the hash of its endpoints.
type Routed = Option<(GenerationId, Option<String>)>;

/// What is cheap to get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Glance {
    answer: Routed,
    /// What the last look saw of that.
    looked: Routed,
    answered: bool,
    master: Option<(i32, u64)>,
    program: Option<Stamp>,
    main: Option<Stamp>,
    current: Option<PathBuf>,
}

impl Glance {
    /// Something has changed of which no look knows. What our own push changed is none, once a look has seen it.
    fn is_news_after(&self, last: &Self) -> bool {
        let rest = |one: &Self| Self { answer: None, looked: None, ..one.clone() };
        let unseen = self.answer != self.looked;
        rest(self) != rest(last) || unseen && (&self.answer, &self.looked) != (&last.answer, &last.looked)
    }
}

impl Nginx {
    /// Watches for ever; ends when it is dropped. Writes nothing.
    pub async fn watch(&self, wake: Wake) {
        let shared = &self.shared;
        let (sender, mut receiver) = mpsc::channel::<()>(1);
        let mut watched = Watched::new(shared, sender);
        // Whoever ends this ends the watcher, too.
        let _until_dropped = Unwatched(shared);
        let mut last: Option<Glance> = None;
        let mut timer = tokio::time::interval(POLL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = receiver.recv() => {
                    // `Watched` holds the sender, so there is always a next one.
                    if event.is_some() {
                        wake(WakeSource::NginxChange, Timestamp::now());
                    }
                }
                _ = timer.tick() => {
                    watched.renew(shared);
                    let at = Instant::now();
                    let glance = self.glance().await;
                    if last.as_ref().is_some_and(|last| glance.is_news_after(last)) {
                        wake(WakeSource::NginxChange, Timestamp::now());
                    }
                    shared.heard.glanced(at);
                    last = Some(glance);
                }
            }
        }
    }

    /// Whatever changes of it is heard of, within a second or two: but for who holds an address, and files of others (TLS,
    /// what the main configuration includes), of which only a look tells.
    pub fn is_watched(&self) -> bool {
        self.shared.heard.watched(LATELY)
    }

    async fn glance(&self) -> Glance {
        let shared = &self.shared;
        let answer = shared.observer.round(1).await.into_iter().next().unwrap_or(Answer::Nobody);
        let build = shared.build().await.ok();
        let (pid_file, looked) = {
            let shared = shared.clone();
            // A look holds the memory while it reads files.
            blocking(move || {
                let mut memory = shared.memory();
                let Memory { files, sources, routed, .. } = &mut *memory;
                let looked = match routed {
                    Some(((Loaded::Generation(id), endpoints), _)) => Some((id.clone(), endpoints.clone())),
                    _ => None,
                };
                let main = build.and_then(|build| shared.main_config(&build, sources, files).ok());
                (main.map(|main| main.pid_file), looked)
            })
            .await
        };
        let master = pid_file.and_then(|pid_file| read_pid(&pid_file)).and_then(process::live_master);
        Glance {
            looked,
            answered: !matches!(answer, Answer::Nobody),
            answer: match answer {
                Answer::Worker { id, endpoints, .. } => Some((id, endpoints)),
                Answer::Nobody | Answer::Closed | Answer::Stranger(_) | Answer::Silent => None,
            },
            master: master.map(|master| master.key()),
            program: shared.binary.stamp().ok(),
            main: Stamp::of(&shared.config).ok(),
            current: std::fs::read_link(shared.generations.link()).ok(),
        }
    }
}

/// Dropped, it says that nobody watches any more.
struct Unwatched<'a>(&'a Shared);

impl Drop for Unwatched<'_> {
    fn drop(&mut self) {
        self.0.heard.watching(false);
    }
}

/// The watched folders. Some do not exist yet, and one that is removed and made again is another one.
struct Watched {
    watcher: Option<notify::RecommendedWatcher>,
    /// By path, with the folder's identity.
    folders: BTreeSet<(PathBuf, u64)>,
}

impl Watched {
    fn new(shared: &Arc<Shared>, sender: mpsc::Sender<()>) -> Self {
        let generations = shared.generations.folder();
        // Weak: the watcher's own thread may outlive all that it tells.
        let heard = Arc::downgrade(shared);
        let link = shared.generations.link();
        let config = shared.config.clone();
        let is_ours = move |path: &Path| {
            // Of nginx's folder only the main configuration: logs may stand beside it, and the copy for a check does.
            path.starts_with(&generations) || path == link || path == config
        };
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Some(shared) = heard.upgrade() else { return };
            let worthwhile = match event {
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) => {
                    let generations = shared.generations.folder();
                    if event.need_rescan() {
                        shared.heard.lost();
                    }
                    for path in event.paths.iter().filter(|path| path.starts_with(&generations)) {
                        shared.heard.changed(&generations, path);
                    }
                    event.need_rescan() || event.paths.iter().any(|path| is_ours(path))
                }
                // Events were lost: a look is worthwhile.
                Err(_) => {
                    shared.heard.lost();
                    true
                }
            };
            if worthwhile {
                // A full channel means that a wake-up is on its way already, a closed one that nobody watches any more.
                let (Ok(()) | Err(_)) = sender.try_send(());
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files cannot be watched; changes are seen at the next full pass");
        }
        Self { watcher: watcher.ok(), folders: BTreeSet::new() }
    }

    /// Watches what is not watched yet.
    fn renew(&mut self, shared: &Shared) {
        use std::os::unix::fs::MetadataExt;
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = [
            (Some(shared.directory.clone()), RecursiveMode::NonRecursive),
            (Some(shared.generations.folder()), RecursiveMode::Recursive),
            (shared.config.parent().map(Path::to_owned), RecursiveMode::NonRecursive),
        ];
        for (folder, mode) in wanted.into_iter().filter_map(|(folder, mode)| Some((folder?, mode))) {
            let Ok(data) = std::fs::metadata(&folder) else { continue };
            let key = (folder, data.ino());
            if self.folders.contains(&key) {
                continue;
            }
            // It may have been watched under another identity, which the system has dropped by itself.
            let (Ok(()) | Err(_)) = watcher.unwatch(&key.0);
            let watched = watcher.watch(&key.0, mode);
            if mode == RecursiveMode::Recursive {
                shared.heard.watching(watched.is_ok());
            }
            match watched {
                Ok(()) => {
                    self.folders.retain(|(folder, _)| *folder != key.0);
                    self.folders.insert(key);
                }
                Err(error) => tracing::debug!(folder = %key.0.display(), %error, "cannot watch a folder yet"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_look_has_seen_is_news_once_and_what_one_has_seen_is_none() {
        let id = |number| GenerationId { hash: "0123456789ab".to_owned(), number };
        let endpoints = |hash: &str| Some((id(1), Some(hash.to_owned())));
        let glance = |answer: Routed, looked: Routed| Glance { answer, looked, answered: true, ..Glance::default() };
        let before = glance(endpoints("a"), endpoints("a"));
        let pushed = glance(endpoints("b"), endpoints("b"));
        assert!(!pushed.is_news_after(&before), "our own push");
        let set_back = glance(endpoints("a"), endpoints("b"));
        assert!(set_back.is_news_after(&before), "by somebody else, before the next glance");
        assert!(!set_back.is_news_after(&set_back.clone()), "it was told");
        assert!(glance(None, endpoints("a")).is_news_after(&before));
        assert!(glance(Some((id(2), None)), endpoints("a")).is_news_after(&before));
        let restarted = Glance { master: Some((7, 1)), ..before.clone() };
        assert!(restarted.is_news_after(&before));
    }
}
