//! The spec in force, and its files: a changed spec is taken when they have been unchanged for a moment, an invalid one
//! leaves the last good one in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use notify::Watcher as _;

use crate::spec::Spec;
use crate::spec::diagnostic::Diagnostics;
use crate::spec::load::{LoadOptions, Loaded, load};
use crate::world::{Wake, WakeSource};

/// Editors and configuration tools write a file in several steps.
const UNCHANGED_FOR: Duration = Duration::from_millis(500);

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// `None`: the file is not there.
type Fingerprint = BTreeMap<PathBuf, Option<Stamp>>;

pub enum SpecChange {
    None,
    /// The files were written, and mean what they meant before.
    Same,
    Changed,
    /// With the rendered diagnostics.
    Invalid(String),
}

pub struct SpecSource {
    options: LoadOptions,
    loaded: Loaded,
    /// Of the files when the spec in force, or the last invalid one, was read.
    judged: Fingerprint,
    /// A state that differs, and since when it has been so.
    pending: Option<(Fingerprint, Instant)>,
    warnings: Vec<String>,
}

impl SpecSource {
    /// # Errors
    /// When the spec is invalid: a daemon must not start on an empty spec, which would mean "remove everything".
    pub fn open(options: LoadOptions) -> Result<Self, Diagnostics> {
        let loaded = load(&options)?;
        let warnings = loaded.warnings.iter().map(|warning| warning.render(false)).collect();
        let judged = fingerprint(&options, &loaded.files);
        Ok(Self { options, loaded, judged, pending: None, warnings })
    }

    pub fn spec(&self) -> &Spec {
        &self.loaded.spec
    }

    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Warnings that have not been told yet.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Looks at the files, and reads them when they differ and have come to rest.
    pub fn poll(&mut self) -> SpecChange {
        let seen = fingerprint(&self.options, &self.loaded.files);
        if seen == self.judged {
            self.pending = None;
            return SpecChange::None;
        }
        let rested = match &self.pending {
            Some((pending, since)) if *pending == seen => since.elapsed() >= UNCHANGED_FOR,
            Some(_) | None => {
                self.pending = Some((seen.clone(), Instant::now()));
                false
            }
        };
        if !rested && !old_enough(&seen, &self.judged) {
            return SpecChange::None;
        }
        self.pending = None;
        self.judged = seen;
        match load(&self.options) {
            Ok(loaded) if loaded.spec.project != self.loaded.spec.project => SpecChange::Invalid(format!(
                "the project's name changed from {} to {}: everything that is running belongs to the old name; \
                 take that down with `reeve destroy` and start the daemon anew",
                self.loaded.spec.project, loaded.spec.project
            )),
            Ok(loaded) => {
                // Files that the new spec names for the first time belong to the same state.
                self.judged = fingerprint(&self.options, &loaded.files);
                self.warnings.extend(loaded.warnings.iter().map(|warning| warning.render(false)));
                let changed = loaded.spec.digest != self.loaded.spec.digest;
                self.loaded = loaded;
                if changed { SpecChange::Changed } else { SpecChange::Same }
            }
            Err(diagnostics) => SpecChange::Invalid(diagnostics.render(false)),
        }
    }

    /// Wakes when something in the folders of the spec's files has changed and come to rest. The set of folders is that
    /// of the start; files elsewhere that a later spec names are seen by the periodic pass.
    pub fn watch(&self, wake: Wake) -> impl Future<Output = ()> + Send + use<> {
        let folders: BTreeSet<PathBuf> =
            self.loaded.files.iter().chain(&self.options.files).map(|path| folder_of(path)).collect();
        async move {
            let (sender, mut events) = tokio::sync::mpsc::channel::<()>(1);
            let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let relevant = event.is_ok_and(|event| !event.kind.is_access());
                if relevant {
                    // Full: a wake-up is already on its way.
                    let _ = sender.try_send(());
                }
            });
            let Ok(mut watcher) = watcher else {
                tracing::warn!("the spec's files cannot be watched; a change is seen by the periodic pass");
                return std::future::pending().await;
            };
            for folder in &folders {
                if let Err(error) = watcher.watch(folder, notify::RecursiveMode::NonRecursive) {
                    tracing::warn!(
                        "{} cannot be watched ({error}); a change is seen by the periodic pass",
                        folder.display()
                    );
                }
            }
            while events.recv().await.is_some() {
                // Until it has been quiet for the time that `poll` asks for.
                while tokio::time::timeout(UNCHANGED_FOR, events.recv()).await.is_ok_and(|event| event.is_some()) {}
                wake(WakeSource::SpecFile, Timestamp::now());
                // A file moved in with an old time stamp, and one with a time in the future, need a second look.
                tokio::time::sleep(UNCHANGED_FOR + Duration::from_millis(50)).await;
                wake(WakeSource::SpecFile, Timestamp::now());
            }
        }
    }
}

fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Every file that was read, and what the given folders hold now.
fn fingerprint(options: &LoadOptions, files: &[PathBuf]) -> Fingerprint {
    let mut paths: BTreeSet<PathBuf> = files.iter().cloned().collect();
    for path in &options.files {
        paths.insert(path.clone());
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        paths.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")),
        );
    }
    paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    // A folder's own time changes with every unrelated file in it; its entries are listed instead.
    let file = metadata.is_file();
    Some(Stamp {
        modified: metadata.modified().ok().filter(|_| file),
        length: if file { metadata.len() } else { 0 },
        inode: metadata.ino(),
    })
}

/// Every file that differs was last written long enough ago.
fn old_enough(seen: &Fingerprint, judged: &Fingerprint) -> bool {
    let mut differing = seen.iter().filter(|(path, stamp)| judged.get(*path) != Some(stamp));
    differing.all(|(_, stamp)| {
        let modified = stamp.as_ref().and_then(|stamp| stamp.modified);
        modified.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age >= UNCHANGED_FOR)
    })
}
