//! The spec in force, and its files: a changed spec is taken when they have been unchanged for a moment, an invalid one
//! leaves the last good one in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use notify::Watcher as _;
use tokio::sync::watch;

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
    Invalid {
        /// The rendered diagnostics, with the lines at fault.
        shown: String,
        /// The same in one line, for the log.
        line: String,
    },
}

pub struct SpecSource {
    options: LoadOptions,
    /// The spec in force, shared with every pass.
    spec: Arc<Spec>,
    /// Every file that was read or looked for, to make it.
    read: Vec<PathBuf>,
    /// Of the files when the spec in force, or the last invalid one, was read.
    judged: Fingerprint,
    /// What was said of the last invalid one, while that is what the files are.
    invalid: Option<String>,
    /// A state that differs, and since when it has been so.
    pending: Option<(Fingerprint, Instant)>,
    /// What the watcher looks at: the files of the spec in force.
    files: watch::Sender<Vec<PathBuf>>,
    warnings: Vec<String>,
}

impl SpecSource {
    /// # Errors
    /// When the spec is invalid: a daemon must not start on an empty spec, which would mean "remove everything".
    pub fn open(options: LoadOptions) -> Result<Self, Diagnostics> {
        let loaded = load(&options)?;
        let warnings = loaded.warnings.iter().map(|warning| warning.line()).collect();
        let judged = fingerprint(&options, &loaded.files);
        let files = watch::Sender::new(loaded.files.clone());
        let Loaded { spec, files: read, .. } = loaded;
        Ok(Self { options, spec: spec.into(), read, judged, invalid: None, pending: None, files, warnings })
    }

    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Warnings that have not been told yet.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Looks at the files, and reads them when they differ and have come to rest.
    pub fn poll(&mut self) -> SpecChange {
        let seen = fingerprint(&self.options, &self.read);
        if seen == self.judged {
            self.pending = None;
            // What it lacked may be there now, and be no file that was read: another one's, or somebody's permission.
            return if self.invalid.is_some() { self.judge(seen) } else { SpecChange::None };
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
        self.judge(seen)
    }

    /// `seen`: how the files looked before they are read.
    fn judge(&mut self, seen: Fingerprint) -> SpecChange {
        let again = seen == self.judged;
        let change = self.read_files(seen, again);
        let line = match &change {
            SpecChange::Invalid { line, .. } => line,
            SpecChange::None => return change,
            SpecChange::Same | SpecChange::Changed => {
                self.invalid = None;
                return change;
            }
        };
        // It is told once.
        let told = again && self.invalid.as_ref() == Some(line);
        self.invalid = Some(line.clone());
        if told { SpecChange::None } else { change }
    }

    /// `again`: without any change of the files that it was made of.
    fn read_files(&mut self, seen: Fingerprint, again: bool) -> SpecChange {
        self.judged.clone_from(&seen);
        match load(&self.options) {
            Ok(loaded) if loaded.spec.project != self.spec.project => {
                let line = format!(
                    "the project's name changed from {} to {}: everything that is running belongs to the old name; \
                     take that down with `reeve destroy` and start the daemon anew",
                    self.spec.project, loaded.spec.project
                );
                SpecChange::Invalid { shown: line.clone(), line }
            }
            Ok(loaded) => {
                // Files that the new spec names for the first time belong to the same state; but one that was replaced while
                // it was read has to be read anew.
                let mut judged = fingerprint(&self.options, &loaded.files);
                if again && !old_enough(&judged, &self.judged) {
                    return SpecChange::None;
                }
                for (path, stamp) in seen {
                    judged.entry(path).and_modify(|now| *now = stamp);
                }
                self.judged = judged;
                self.files.send_replace(loaded.files.clone());
                self.warnings.extend(loaded.warnings.iter().map(|warning| warning.line()));
                let changed = loaded.spec.digest != self.spec.digest;
                self.spec = loaded.spec.into();
                self.read = loaded.files;
                if changed { SpecChange::Changed } else { SpecChange::Same }
            }
            Err(diagnostics) => SpecChange::Invalid { shown: diagnostics.render(false), line: diagnostics.line() },
        }
    }

    /// Wakes when something in the folders of the spec's files has changed and come to rest. The set of folders is that
    /// of the start; files elsewhere that a later spec names are seen by the periodic pass.
    pub fn watch(&self, wake: Wake) -> impl Future<Output = ()> + Send + use<> {
        let folders: BTreeSet<PathBuf> =
            self.read.iter().chain(&self.options.files).map(|path| folder_of(path)).collect();
        let (options, files) = (self.options.clone(), self.files.subscribe());
        let look = move || fingerprint(&options, &files.borrow());
        let mut seen = self.judged.clone();
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
            // The first look is for what changed before this watched.
            let mut heard = Some(());
            while heard.is_some() {
                let mut now = look();
                // Other files in these folders change, too: a log that stands beside the spec, with every line of it.
                if now != seen {
                    // Until they have been quiet for the time that `poll` asks for.
                    while now != seen {
                        seen = now;
                        tokio::time::sleep(UNCHANGED_FOR).await;
                        now = look();
                    }
                    wake(WakeSource::SpecFile, Timestamp::now());
                    // A file moved in with an old time stamp, and one with a time in the future, need a second look.
                    tokio::time::sleep(UNCHANGED_FOR + Duration::from_millis(50)).await;
                    wake(WakeSource::SpecFile, Timestamp::now());
                }
                heard = events.recv().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// On a loaded machine, too.
    const LIMIT: Duration = Duration::from_secs(60);
    /// So many lines of a log say that a change of it would have been told.
    const LINES: usize = 40;

    #[tokio::test]
    async fn only_the_specs_own_files_wake_and_a_busy_log_beside_them_holds_nothing_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (spec, log) = (folder.path().join("spec.yaml"), folder.path().join("reeve.log"));
        // A file that the spec would read if it were there.
        let dotenv = folder.path().join(".env");
        // At once: half a file would be a change of its own.
        let write = |text: &str| {
            let new = folder.path().join("spec.new");
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &spec)).expect("written");
        };
        write("services: { web: { image: \"a:1\" } }\n");
        let source = SpecSource::open(LoadOptions { files: vec![spec.clone()], ..LoadOptions::default() });
        let source = source.unwrap_or_else(|refused| panic!("{}", refused.render(false)));
        let (sender, mut woken) = tokio::sync::mpsc::unbounded_channel();
        let wake: Wake = Arc::new({
            let dotenv = dotenv.clone();
            move |source, _| {
                assert_eq!(source, WakeSource::SpecFile);
                let _ = sender.send(dotenv.exists());
            }
        });
        let watching = tokio::spawn(source.watch(wake));

        // The first look is for what changed before it watched: whenever it begins, it tells of this, twice.
        write("services: { web: { image: \"a:2\" } }\n");
        for look in ["first", "second"] {
            let heard = tokio::time::timeout(LIMIT, woken.recv()).await;
            assert_eq!(heard, Ok(Some(false)), "the {look} look at a changed spec does not wake");
        }
        let (lines, mut written) = tokio::sync::watch::channel(0);
        let writing = tokio::spawn(async move {
            loop {
                std::fs::write(&log, "a line\n".repeat(*lines.borrow())).expect("written");
                lines.send_modify(|lines| *lines += 1);
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        });
        let many = tokio::time::timeout(LIMIT, written.wait_for(|lines| *lines > LINES)).await;
        assert!(many.is_ok_and(|many| many.is_ok()), "the log is written");
        std::fs::write(&dotenv, "A=b\n").expect("written");
        let heard = tokio::time::timeout(LIMIT, woken.recv()).await;
        assert_ne!(heard, Ok(Some(false)), "a file beside the spec wakes");
        assert_eq!(heard, Ok(Some(true)), "a new .env does not wake while a file beside it changes");
        writing.abort();
        watching.abort();
    }

    #[test]
    fn a_spec_that_lacked_a_file_is_taken_when_that_is_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (spec, variables) = (folder.path().join("spec.yaml"), folder.path().join("web.env"));
        let old = |path: &Path, text: &str| {
            std::fs::write(path, text).expect("written");
            let file = std::fs::File::options().write(true).open(path).expect("it is there");
            file.set_modified(SystemTime::now() - 2 * UNCHANGED_FOR).expect("a time stamp");
        };
        old(&spec, "services: { web: { image: \"a:1\" } }\n");
        let source = SpecSource::open(LoadOptions { files: vec![spec.clone()], ..LoadOptions::default() });
        let mut source = source.unwrap_or_else(|refused| panic!("{}", refused.render(false)));
        old(&spec, "services: { web: { image: \"a:2\", env_file: web.env } }\n");
        assert!(matches!(source.poll(), SpecChange::Invalid { .. }));
        assert!(matches!(source.poll(), SpecChange::None), "it is told once");
        std::fs::write(&variables, "A=b\n").expect("written");
        let new = source.poll();
        assert!(matches!(new, SpecChange::None | SpecChange::Changed), "a busy machine may see it at rest");
        if matches!(new, SpecChange::None) {
            old(&variables, "A=b\n");
            assert!(matches!(source.poll(), SpecChange::Changed));
        }
        assert!(matches!(source.poll(), SpecChange::None));
    }
}
