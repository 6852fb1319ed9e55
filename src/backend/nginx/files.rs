//! Files as reeve sees them again and again: read once, and only looked at (`stat`) until they change.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::HashMap;
use sha2::{Digest, Sha256};

use crate::spec::container::hex;

/// Files that changed so recently are read again at the next look: a second edit within the clock's grain would not show.
const SETTLED: Duration = Duration::from_millis(1500);

/// Tells two states of a file apart without reading it. With the time of the inode's change, so that an edit that puts
/// the old modification time back still shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Follows symbolic links.
    pub fn of(path: &Path) -> io::Result<Self> {
        let data = std::fs::metadata(path)?;
        Ok(Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    /// One line, for a digest over many files.
    pub fn line(&self) -> String {
        format!("{}:{}:{}:{:?}:{:?}", self.device, self.inode, self.size, self.modified, self.changed)
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let nanos = u32::try_from(self.changed.1).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        now.duration_since(changed).is_ok_and(|age| age > SETTLED)
    }
}

/// One file's content, and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// SHA-256, in hexadecimal digits.
    pub digest: Arc<str>,
    /// Bytes that are no UTF-8 are replaced: this is for reading, the digest is for comparing.
    pub text: Arc<str>,
}

/// Texts up to this size stay in memory; larger ones (manifests) are read again when somebody wants them.
const KEPT: usize = 64 * 1024;

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    digest: Arc<str>,
    /// While somebody wants it: of a generation that is only kept, nobody wants more than the digests.
    text: Option<Arc<str>>,
    /// That, since the last `forget_unused`.
    wanted: bool,
    /// Looked at since then.
    used: bool,
}

#[derive(Debug, Default)]
pub struct Files {
    /// By the words of the path. There are thousands, all beginning alike, looked up in every pass: found by their order as
    /// paths, they took a third of the processor time at 1,000 upstreams.
    known: HashMap<OsString, Known>,
}

impl Files {
    /// The digest of the file as it is now; read only when its stamp is another one.
    ///
    /// # Errors
    /// As `get`.
    pub fn digest(&mut self, path: &Path) -> io::Result<Arc<str>> {
        let stamp = Stamp::of(path)?;
        match self.unchanged(path.as_os_str(), stamp) {
            Some(known) => Ok(known.digest.clone()),
            None => Ok(self.read(path, stamp, false)?.digest),
        }
    }

    /// The file's content as it is now; read only when its stamp is another one, or its text was not kept.
    ///
    /// # Errors
    /// The system's, for a file that cannot be looked at or read, and for one larger than 16 MiB.
    pub fn get(&mut self, path: &Path) -> io::Result<Content> {
        let stamp = Stamp::of(path)?;
        if let Some(Known { digest, text: Some(text), wanted, .. }) = self.unchanged(path.as_os_str(), stamp) {
            *wanted = true;
            return Ok(Content { digest: digest.clone(), text: text.clone() });
        }
        self.read(path, stamp, true)
    }

    fn unchanged(&mut self, path: &OsStr, stamp: Stamp) -> Option<&mut Known> {
        let known = self.known.get_mut(path).filter(|known| known.stamp == stamp)?;
        known.used = true;
        Some(known)
    }

    fn read(&mut self, path: &Path, stamp: Stamp, keep: bool) -> io::Result<Content> {
        const LARGEST: u64 = 16 * 1024 * 1024;
        if stamp.size > LARGEST {
            return Err(io::Error::other("it is larger than 16 MiB"));
        }
        let now = SystemTime::now();
        let bytes = std::fs::read(path)?;
        let digest: Arc<str> = hex(&Sha256::digest(&bytes)).into();
        let text: Arc<str> = match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into(),
        };
        if stamp.is_settled(now) {
            let kept = (keep && text.len() <= KEPT).then(|| text.clone());
            let known = Known { stamp, digest: digest.clone(), text: kept, wanted: keep, used: true };
            self.known.insert(path.as_os_str().to_owned(), known);
        } else {
            self.known.remove(path.as_os_str());
        }
        Ok(Content { digest, text })
    }

    /// Drops what nobody asked for since the last call, so that removed generations do not stay in memory, nor the texts of
    /// those that are only kept. `believed`: folders whose files were not looked at, because nothing was heard of them.
    pub fn forget_unused(&mut self, believed: &[PathBuf]) {
        let believed: Vec<&[u8]> = believed.iter().map(|folder| folder.as_os_str().as_encoded_bytes()).collect();
        self.known.retain(|path, known| {
            if !std::mem::take(&mut known.wanted) {
                known.text = None;
            }
            let path = path.as_encoded_bytes();
            std::mem::take(&mut known.used)
                || believed.iter().any(|folder| path.strip_prefix(*folder).is_some_and(|rest| rest.starts_with(b"/")))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_the_same_length_with_the_old_time_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut files = Files::default();
        std::fs::write(&path, "one").expect("written");
        let first = files.get(&path).expect("read");
        let time = std::fs::metadata(&path).expect("there").modified().expect("a time");
        std::fs::write(&path, "two").expect("written");
        std::fs::File::options().write(true).open(&path).expect("open").set_modified(time).expect("set");
        let second = files.get(&path).expect("read");
        assert_ne!(first.digest, second.digest);
        assert_eq!(&*second.text, "two");
        std::fs::remove_file(&path).expect("removed");
        assert!(files.get(&path).is_err(), "a missing file is never remembered");
    }
}
