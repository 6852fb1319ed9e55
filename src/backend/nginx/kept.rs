//! Generations that are only kept: neither current nor loaded. Each is thousands of files where there are very many
//! upstreams, and nothing is done with one before it was read again. So a look believes what an earlier one has seen of it,
//! while its folder is watched and nothing was heard of it.
//!
//! Never a fact: what is missed is seen when the time of belief is over, and pointing nginx at one reads it first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::observed::{Generation, GenerationId};

/// Below the time between two full looks, so that each of those reads everything.
const BELIEVED_FOR: Duration = Duration::from_secs(20);

/// What the watcher of the files has heard since the last look. Apart from all else, because a look holds its memory while it
/// reads, and the watcher must not wait for it.
#[derive(Debug, Default)]
pub struct Heard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The folder of the generations is watched.
    watching: bool,
    /// It has changed, or began to be watched: what was seen before may be old.
    everything: bool,
    /// Names of folders in it.
    folders: BTreeSet<String>,
    /// When it was last looked for what no file tells.
    glanced_at: Option<Instant>,
}

impl Heard {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder is watched from now on, or is not.
    pub fn watching(&self, watching: bool) {
        let mut state = self.state();
        state.watching = watching;
        state.everything = true;
    }

    /// Something below the folder of the generations has changed.
    pub fn changed(&self, generations: &Path, path: &Path) {
        let name = path.strip_prefix(generations).ok().and_then(|below| below.iter().next()?.to_str());
        let mut state = self.state();
        match name {
            Some(name) if state.folders.contains(name) => {}
            Some(name) => drop(state.folders.insert(name.to_owned())),
            None => state.everything = true,
        }
    }

    /// Events were lost.
    pub fn lost(&self) {
        self.state().everything = true;
    }

    /// It was looked for what no file tells, and whoever is to hear of it has heard.
    pub fn glanced(&self, at: Instant) {
        self.state().glanced_at = Some(at);
    }

    /// The files are watched, and so, lately, was what no file tells.
    pub fn watched(&self, lately: Duration) -> bool {
        let state = self.state();
        state.watching && state.glanced_at.is_some_and(|at| at.elapsed() < lately)
    }
}

/// What was seen of them.
#[derive(Debug, Default)]
pub struct Kept(BTreeMap<GenerationId, (Instant, Generation)>);

impl Kept {
    /// A look begins: what was heard of is believed no more. False: nothing may be remembered, because nobody watches.
    pub fn begin(&mut self, heard: &Heard, now: Instant) -> bool {
        let mut state = heard.state();
        let folders = std::mem::take(&mut state.folders);
        if std::mem::take(&mut state.everything) || !state.watching {
            self.0.clear();
        }
        self.0.retain(|id, (at, _)| {
            now.saturating_duration_since(*at) < BELIEVED_FOR && !folders.contains(&id.to_string())
        });
        state.watching
    }

    pub fn get(&self, id: &GenerationId) -> Option<&Generation> {
        self.0.get(id).map(|(_, generation)| generation)
    }

    /// `at`: when the look began that has read it.
    pub fn remember(&mut self, id: &GenerationId, generation: &Generation, at: Instant) {
        self.0.insert(id.clone(), (at, generation.clone()));
    }

    pub fn forget(&mut self, id: &GenerationId) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_was_seen_is_believed_while_it_is_watched_until_something_is_heard_of_it_or_a_while_is_over() {
        let (heard, mut kept) = (Heard::default(), Kept::default());
        let folder = Path::new("/var/lib/reeve/generations");
        let ids: Vec<GenerationId> =
            [1, 2].map(|number| GenerationId { hash: "0123456789ab".to_owned(), number }).to_vec();
        let now = Instant::now();
        let generation = Generation {
            manifest: Arc::default(),
            damaged: Vec::new(),
            created_at: Timestamp::UNIX_EPOCH,
            rejected: None,
            files: BTreeMap::new(),
            endpoints: None,
        };
        let mut look = |heard: &Heard, at: Instant| {
            let may = kept.begin(heard, at);
            let seen: Vec<bool> = ids.iter().map(|id| kept.get(id).is_some()).collect();
            if may {
                ids.iter().for_each(|id| kept.remember(id, &generation, at));
            }
            seen
        };
        assert_eq!(look(&heard, now), [false, false]);
        assert_eq!(look(&heard, now), [false, false], "nobody watches");
        heard.watching(true);
        assert_eq!(look(&heard, now), [false, false]);
        assert_eq!(look(&heard, now), [true, true]);
        heard.changed(folder, &folder.join(ids[0].to_string()).join("files/upstream-web.conf"));
        assert_eq!(look(&heard, now), [false, true], "one was edited");
        heard.lost();
        assert_eq!(look(&heard, now), [false, false], "events were lost");
        heard.changed(folder, folder);
        assert_eq!(look(&heard, now), [false, false], "the folder itself has changed");
        assert_eq!(look(&heard, now + BELIEVED_FOR), [false, false]);
        heard.watching(false);
        assert_eq!(look(&heard, now + BELIEVED_FOR), [false, false]);
    }

    #[test]
    fn somebody_watches_who_watches_the_files_and_lately_looked_for_all_else() {
        let (heard, lately) = (Heard::default(), Duration::from_secs(600));
        heard.watching(true);
        assert!(!heard.watched(lately));
        heard.glanced(Instant::now());
        assert!(heard.watched(lately));
        assert!(!heard.watched(Duration::ZERO), "that was long ago");
        heard.watching(false);
        assert!(!heard.watched(lately), "nobody watches the files");
    }
}
