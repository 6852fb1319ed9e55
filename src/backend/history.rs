//! The file of the history in reeve's folder.
//!
//! Owns `history.jsonl` and `history.1.jsonl`: appending, their bound, reading. What cannot be written is told once in the
//! log and never fails anything; a line that cannot be understood is skipped.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::directory::{check_owner, claim};
use crate::history::Entry;
use crate::spec::Owner;

const FILE: &str = "history.jsonl";
/// The one before: its last entry is older than the first of the other.
const BEFORE: &str = "history.1.jsonl";
/// Bytes of one file: some thousand actions. With the one before it is twice that at most.
const LIMIT: u64 = 1 << 20;

/// The history of one owner.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    owner: Owner,
    limit: u64,
    /// The last entry could not be written, and that was said.
    failing: AtomicBool,
}

impl History {
    /// `directory`: reeve's folder.
    pub fn new(directory: PathBuf, owner: Owner) -> Self {
        Self { directory, owner, limit: LIMIT, failing: AtomicBool::new(false) }
    }

    /// Adds an entry. Not synced: after a crash of the machine the last ones may be missing, which costs nothing.
    pub fn append(&self, entry: &Entry) {
        match self.write(entry) {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            Err(error) if self.failing.swap(true, Ordering::Relaxed) => tracing::debug!("{error}"),
            Err(error) => tracing::warn!("{error}; `reeve explain` will not know of what is done meanwhile"),
        }
    }

    /// The newest `most` entries that are asked for, newest first.
    ///
    /// # Errors
    /// In words: the folder is another owner's, or a file cannot be read.
    pub fn newest(&self, most: usize, asked: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, String> {
        check_owner(&self.directory, &self.owner)?;
        let mut entries = Vec::new();
        for name in [FILE, BEFORE] {
            let path = self.directory.join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("the history {} cannot be read: {error}", path.display())),
            };
            let lines = bytes.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let found = lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()).filter(&asked);
            entries.extend(found.take(most.saturating_sub(entries.len())));
        }
        Ok(entries)
    }

    fn write(&self, entry: &Entry) -> Result<(), String> {
        claim(&self.directory, &self.owner)?;
        let path = self.directory.join(FILE);
        let mut line = serde_json::to_vec(entry).map_err(|error| format!("the history: {error}"))?;
        line.push(b'\n');
        self.add(&path, line).map_err(|error| format!("the history {} cannot be written: {error}", path.display()))
    }

    fn add(&self, path: &Path, mut line: Vec<u8>) -> io::Result<()> {
        let mut file = open(path)?;
        let size = file.metadata()?.len();
        if size > 0 && size + line.len() as u64 > self.limit {
            fs::rename(path, self.directory.join(BEFORE))?;
            file = open(path)?;
        } else if size > 0 {
            let mut last = [b'\n'];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != [b'\n'] {
                // A disk that was full, or a crash in between: the torn line must not take this one with it.
                line.insert(0, b'\n');
            }
        }
        // One write: a reader sees whole lines.
        file.write_all(&line)
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn owner() -> Owner {
        Owner { project: "shop".to_owned(), node: "edge-1".to_owned() }
    }

    fn entry(number: i64) -> Entry {
        Entry {
            at: crate::status::tests::at(number),
            object: "replica shop-web-1-0a1b2c3d".to_owned(),
            services: vec![if number % 2 == 0 { "web" } else { "api" }.to_owned()],
            upstreams: Vec::new(),
            kind: "start_container".to_owned(),
            cause: format!("cause {number}"),
            result: "ok".to_owned(),
            error: None,
            drift: false,
            took_ms: 12,
            spec: "d1".to_owned(),
        }
    }

    fn causes(history: &History, most: usize) -> Vec<String> {
        let entries = history.newest(most, |_| true).expect("readable");
        entries.into_iter().map(|entry| entry.cause).collect()
    }

    #[test]
    fn the_newest_come_first_and_nobody_else_may_read_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/reeve");
        let history = History::new(path.clone(), owner());
        assert_eq!(history.newest(9, |_| true), Ok(Vec::new()));
        assert!(!path.exists(), "reading writes nothing");
        for number in 0..5 {
            history.append(&entry(number));
        }
        let again = History::new(path.clone(), owner());
        assert_eq!(again.newest(1, |_| true), Ok(vec![entry(4)]), "what was written comes back as it was");
        assert_eq!(causes(&again, 3), ["cause 4", "cause 3", "cause 2"]);
        let of_api = again.newest(9, |entry| entry.services == ["api"]).expect("readable");
        assert_eq!(of_api, [entry(3), entry(1)]);
        let mode = fs::metadata(path.join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn it_is_bounded_and_goes_on_over_the_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let history = History { limit: 1000, ..History::new(folder.path().to_owned(), owner()) };
        for number in 0..50 {
            history.append(&entry(number));
            let size = |name| fs::metadata(folder.path().join(name)).map_or(0, |metadata| metadata.len());
            assert!(size(FILE) <= 1000 && size(BEFORE) <= 1000);
        }
        let seen = causes(&history, 100);
        assert!(seen.len() >= 4, "{seen:?}");
        let wanted: Vec<String> = (0..50).rev().take(seen.len()).map(|number| format!("cause {number}")).collect();
        assert_eq!(seen, wanted, "no gap between the two files");
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 3, "`owner` and two files");
    }

    #[test]
    fn a_torn_line_costs_itself_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let history = History::new(folder.path().to_owned(), owner());
        history.append(&entry(1));
        let path = folder.path().join(FILE);
        let mut bytes = fs::read(&path).expect("there");
        bytes.extend(b"{\"at\":\"2026-01-01T0");
        fs::write(&path, bytes).expect("torn");
        history.append(&entry(2));
        assert_eq!(causes(&history, 9), ["cause 2", "cause 1"]);
    }

    #[test]
    fn what_cannot_be_written_harms_nothing_and_another_owners_folder_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        History::new(file.join("reeve"), owner()).append(&entry(1));
        let history = History::new(folder.path().to_owned(), owner());
        history.append(&entry(1));
        let before = fs::read(folder.path().join(FILE)).expect("there");
        let other = Owner { project: "blog".to_owned(), node: "edge-1".to_owned() };
        let other = History::new(folder.path().to_owned(), other);
        other.append(&entry(2));
        assert_eq!(fs::read(folder.path().join(FILE)).expect("there"), before);
        let error = other.newest(9, |_| true).expect_err("another's");
        assert!(error.contains("belongs to shop@edge-1"), "{error}");
    }
}
