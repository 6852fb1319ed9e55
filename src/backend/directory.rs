//! reeve's own folder: whose it is, the pins (decisions that must outlive a restart), and what served before.
//!
//! Owns the files `owner`, `pins.json`, `refused.json` and `kept/`; the generations in it are `backend::nginx`'s. A file that cannot be understood
//! is an error with its path, never "no pins": a lost decision must not look like one that was never made.

mod kept;
mod refused;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use kept::{KeptFiles, KeptView};
use refused::RefusedFile;

use crate::observed::{self, Pin};
use crate::plan::{DirectoryAction, DockerAction};
use crate::spec::Owner;
use crate::world::{ActionError, ViewError, Wake, WakeSource};

const OWNER_FILE: &str = "owner";
const PINS_FILE: &str = "pins.json";
/// How often the time stamp of the pins is looked at. A watch would need the folder, which may not exist yet.
const PINS_LOOK: Duration = Duration::from_millis(250);

/// reeve's folder.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    owner: Owner,
    kept: KeptFiles,
    refused: RefusedFile,
}

/// The content of `pins.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    pins: BTreeSet<Pin>,
}

impl Directory {
    pub fn new(path: PathBuf, owner: Owner) -> Self {
        let (kept, refused) = (KeptFiles::new(&path), RefusedFile::new(&path));
        Self { path, owner, kept, refused }
    }

    /// What stands in the folder; a folder or file that does not exist holds nothing.
    ///
    /// # Errors
    /// The folder is another owner's, or a file cannot be read or understood.
    pub fn view(&self) -> Result<observed::Directory, ViewError> {
        check_owner(&self.path, &self.owner).map_err(ViewError)?;
        let pins = self.read().map_err(ViewError)?;
        let KeptView { kept, unreadable } = self.kept.view().map_err(ViewError)?;
        Ok(observed::Directory { pins: pins.pins, kept, unreadable, refused: self.refused.view() })
    }

    /// Adds a pin; one that is there already is success.
    ///
    /// # Errors
    /// As `view`, and when the folder cannot be written.
    pub fn add_pin(&self, pin: Pin) -> Result<(), ActionError> {
        self.change(|pins| pins.insert(pin.clone()))
    }

    /// Removes a pin; one that is not there is success.
    ///
    /// # Errors
    /// As `view`, and when the folder cannot be written.
    pub fn remove_pin(&self, pin: &Pin) -> Result<(), ActionError> {
        self.change(|pins| pins.remove(pin))
    }

    /// Notes what became of an action of the engine: see `refused`.
    pub fn note(&self, action: &DockerAction, result: &Result<(), ActionError>) {
        if claim(&self.path, &self.owner).is_ok() {
            self.refused.note(action, result, Timestamp::now());
        }
    }

    /// # Errors
    /// As the methods that it stands for.
    pub fn execute(&self, action: &DirectoryAction) -> Result<(), ActionError> {
        match action {
            DirectoryAction::AddPin { pin } => {
                self.add_pin(pin.clone())?;
                if let Pin::Failed { service, .. } = pin {
                    self.refused.forget(service, Timestamp::now());
                }
                Ok(())
            }
            DirectoryAction::RemovePin { pin } => self.remove_pin(pin),
            DirectoryAction::Keep { service, kept } => {
                claim(&self.path, &self.owner).map_err(ActionError::Transient)?;
                self.kept.keep(service, kept).map_err(ActionError::Transient)
            }
            DirectoryAction::Forget { service } => {
                check_owner(&self.path, &self.owner).map_err(ActionError::Permanent)?;
                self.kept.forget(service).map_err(ActionError::Transient)
            }
        }
    }

    /// Wakes when the pins change: a person is waiting for it. Never returns.
    pub async fn watch(&self, wake: Wake) {
        let path = self.path.join(PINS_FILE);
        let stamp = || fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let mut last = stamp();
        loop {
            tokio::time::sleep(PINS_LOOK).await;
            let now = stamp();
            if now != last {
                last = now;
                wake(WakeSource::Pin, Timestamp::now());
            }
        }
    }

    /// Commands change the pins beside a running daemon: one at a time, else one of two changes would be lost.
    fn change(&self, change: impl Fn(&mut BTreeSet<Pin>) -> bool) -> Result<(), ActionError> {
        check_owner(&self.path, &self.owner).map_err(ActionError::Permanent)?;
        let owner_file = self.path.join(OWNER_FILE);
        if !owner_file.exists() {
            if !change(&mut BTreeSet::new()) {
                return Ok(());
            }
            claim(&self.path, &self.owner).map_err(ActionError::Transient)?;
        }
        let failed =
            |error: io::Error| ActionError::Transient(format!("cannot lock {}: {error}", owner_file.display()));
        let lock = File::open(&owner_file).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut pins = self.read().map_err(ActionError::Permanent)?;
        if !change(&mut pins.pins) {
            return Ok(());
        }
        let path = self.path.join(PINS_FILE);
        let mut text = serde_json::to_string_pretty(&pins).expect("pins are plain data");
        text.push('\n');
        write_atomic(&path, text.as_bytes(), 0o600)
            .map_err(|error| ActionError::Transient(format!("cannot write {}: {error}", path.display())))
    }

    fn read(&self) -> Result<Pins, String> {
        let path = self.path.join(PINS_FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                format!("the pins in {} cannot be understood ({error}); mend or remove the file", path.display())
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Pins::default()),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }
}

/// Is this folder this owner's, or nobody's yet?
///
/// # Errors
/// It is another owner's, or that cannot be told.
pub fn check_owner(directory: &Path, owner: &Owner) -> Result<(), String> {
    let path = directory.join(OWNER_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    if text.trim() == owner.to_string() {
        return Ok(());
    }
    Err(format!(
        "the folder {} belongs to {} ({}), and this is {owner}: set another `directory`",
        directory.display(),
        text.trim(),
        path.display()
    ))
}

/// Makes the folder, if it is missing, and marks it as this owner's.
///
/// # Errors
/// As `check_owner`, and when it cannot be written.
pub fn claim(directory: &Path, owner: &Owner) -> Result<(), String> {
    let fail = |error: io::Error| format!("cannot make the folder {}: {error}", directory.display());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(fail)?;
    let path = directory.join(OWNER_FILE);
    if !path.exists() {
        // Never over a file that another process has put there in between: the check below then tells whose it is.
        let written = temporary(directory, format!("{owner}\n").as_bytes(), 0o644)
            .and_then(|file| file.as_file().sync_all().map(|()| file))
            .and_then(|file| file.persist_noclobber(&path).map_err(|error| error.error));
        match written {
            Ok(_) => sync_folder(directory).map_err(fail)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot write {}: {error}", path.display())),
        }
    }
    check_owner(directory, owner)
}

/// Writes a file so that a reader, or a crash, finds the old or the new content, never a part. Lasting when it returns.
///
/// # Errors
/// The system's.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = temporary(folder, bytes, mode)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

/// As `write_atomic`, without waiting for the disk: after a power failure the old content may be there.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    temporary(folder, bytes, mode)?.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn temporary(folder: &Path, bytes: &[u8], mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let mut file =
        tempfile::Builder::new().prefix(".reeve-").permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    // The mode above is subject to the process's mask.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Makes what was renamed or removed in a folder last.
///
/// # Errors
/// The system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(project: &str) -> Owner {
        Owner { project: project.to_owned(), node: "edge-1".to_owned() }
    }

    fn pin(spec: &str) -> Pin {
        Pin::AllowRemovals { spec: spec.to_owned() }
    }

    #[test]
    fn pins_outlive_the_process_and_nobody_else_reads_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/reeve");
        let directory = Directory::new(path.clone(), owner("shop"));
        assert_eq!(directory.view(), Ok(observed::Directory::default()), "a missing folder holds no pins");
        assert!(!path.exists(), "a view writes nothing");
        directory.add_pin(pin("a")).expect("added");
        directory.add_pin(pin("b")).expect("added");
        directory.add_pin(pin("a")).expect("there already");
        let again = Directory::new(path.clone(), owner("shop"));
        assert_eq!(again.view().expect("known").pins, BTreeSet::from([pin("a"), pin("b")]));
        let mode = fs::metadata(path.join(PINS_FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.execute(&DirectoryAction::RemovePin { pin: pin("a") }).expect("removed");
        again.remove_pin(&pin("a")).expect("gone already");
        assert_eq!(again.view().expect("known").pins, BTreeSet::from([pin("b")]));
        let left: Vec<_> = fs::read_dir(&path).expect("folder").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 2, "only `owner` and `pins.json`: {left:?}");
    }

    #[test]
    fn changes_of_several_writers_are_all_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let names: BTreeSet<String> = (0..40).map(|number| format!("digest {number}")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| Directory::new(folder.path().to_owned(), owner("shop")).add_pin(pin(name)));
            }
        });
        let seen = Directory::new(folder.path().to_owned(), owner("shop")).view().expect("known").pins;
        assert_eq!(seen, names.iter().map(|name| pin(name)).collect());
    }

    #[test]
    fn damaged_pins_are_an_error_with_the_path_and_are_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::new(folder.path().to_owned(), owner("shop"));
        let path = folder.path().join(PINS_FILE);
        for text in ["", "{\"pins\": [", "{\"pins\": [{\"unknown\": 1}]}", "\u{0}\u{1}"] {
            fs::write(&path, text).expect("written");
            let error = directory.view().expect_err(text).0;
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(matches!(directory.add_pin(pin("a")), Err(ActionError::Permanent(_))), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
    }

    #[test]
    fn another_owners_folder_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().expect("a folder");
        Directory::new(folder.path().to_owned(), owner("shop")).add_pin(pin("a")).expect("added");
        let before = fs::read(folder.path().join(PINS_FILE)).expect("there");
        let other = Directory::new(folder.path().to_owned(), owner("blog"));
        let error = other.view().expect_err("another's").0;
        assert!(error.contains("belongs to shop@edge-1") && error.contains("blog@edge-1"), "{error}");
        assert!(matches!(other.add_pin(pin("b")), Err(ActionError::Permanent(_))));
        assert!(matches!(other.remove_pin(&pin("a")), Err(ActionError::Permanent(_))));
        assert!(claim(folder.path(), &owner("blog")).is_err());
        assert_eq!(fs::read(folder.path().join(PINS_FILE)).expect("there"), before);
    }
}
