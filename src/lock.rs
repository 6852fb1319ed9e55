//! The lock of the one writer of a project.
//!
//! The kernel holds it on an open file, so that it is gone with the process, however that ended; the file's text (pid and
//! command) is only for the message to the second writer, and stale text means nothing. The file is never removed:
//! removing it would let a third process lock a new file of the same name beside the holder of the old one.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process is the writer. Its words are missing when it has only just taken the lock.
    Held { path: PathBuf, pid: Option<u32>, command: String },
    /// The folder could not be made, or the file not be opened or written.
    File { path: PathBuf, error: io::Error },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path, pid, command } => {
                write!(f, "another reeve manages this project")?;
                match pid {
                    Some(pid) => write!(f, ": pid {pid}, `{command}`")?,
                    None => write!(f, ", which has just begun")?,
                }
                write!(f, " (lock {})", path.display())
            }
            Self::File { path, error } => {
                write!(f, "the lock {} cannot be taken: {error}", path.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    write!(f, "; run reeve as root, or set `lock` (REEVE_LOCK) to a file that this user may write")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LockError {}

impl Lock {
    /// Takes the lock without waiting. The folder of `path` is made when it is missing.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it, [`LockError::File`] when the file cannot be used.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |error| LockError::File { path: path.to_owned(), error };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        // Not truncated before it is locked: the text belongs to the holder.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Unreadable text only makes the message poorer.
                let _ = file.take(4096).read_to_string(&mut text);
                let (pid, command) = parse(&text);
                return Err(LockError::Held { path: path.to_owned(), pid, command });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let command: Vec<String> = std::env::args().collect();
        let text = format!("{}\n{}\n", std::process::id(), command.join(" "));
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only for whoever reads the file by hand; the lock itself goes when the file is closed.
        let _ = self.file.set_len(0);
    }
}

fn parse(text: &str) -> (Option<u32>, String) {
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse().ok());
    (pid, lines.next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_told_who_is_the_first() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("made/on/demand/shop.lock");
        let lock = Lock::acquire(&path).expect("nobody holds it");
        match Lock::acquire(&path) {
            Err(LockError::Held { pid, command, .. }) => {
                assert_eq!(pid, Some(std::process::id()));
                assert!(command.contains("reeve"), "{command}");
            }
            other => panic!("taken twice: {other:?}"),
        }
        drop(lock);
        Lock::acquire(&path).expect("released");
    }

    #[test]
    fn text_that_a_killed_writer_left_holds_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("shop.lock");
        std::fs::write(&path, "1\na longer command than ours will be ".repeat(50)).expect("stale text");
        let _lock = Lock::acquire(&path).expect("nobody holds it");
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(parse(&text).0, Some(std::process::id()));
    }

    #[test]
    fn a_holder_that_has_not_written_yet_is_reported_without_pid() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("shop.lock");
        let holder = File::create(&path).expect("a file");
        holder.lock().expect("locked");
        let error = Lock::acquire(&path).expect_err("taken twice");
        assert!(error.to_string().contains("which has just begun"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("file"), "").expect("a file");
        let error = Lock::acquire(&folder.path().join("file/shop.lock")).expect_err("a file is no folder");
        assert!(error.to_string().contains("file/shop.lock cannot be taken: "), "{error}");
    }
}
