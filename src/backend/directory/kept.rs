//! The configurations that served, in `kept/<service>.json`: one file for each service, readable by nobody else.
//!
//! Owns these files and their text. They hold the values of secrets, since a rollback must be able to make the containers
//! anew. A file that cannot be understood is named with its reason and costs the history of its service, nothing else.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{sync_folder, write_atomic};
use crate::observed::{Configuration, Kept};
use crate::spec::stored::Stored;
use crate::spec::{Network, Volume};

const FOLDER: &str = "kept";
/// A file of another version is not understood, rather than misunderstood.
const VERSION: u32 = 1;

/// The folder, and what was read from it: a file that did not change is not read again.
#[derive(Debug, Clone)]
pub struct KeptFiles {
    folder: PathBuf,
    memory: Arc<Mutex<BTreeMap<String, Remembered>>>,
}

#[derive(Debug)]
struct Remembered {
    stamp: Stamp,
    read: Result<Arc<Kept>, String>,
}

/// Every write makes a new file, so that its number tells it apart even within one tick of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

/// What the files say, by service.
#[derive(Debug, Default)]
pub struct KeptView {
    pub kept: BTreeMap<String, Arc<Kept>>,
    pub unreadable: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    present: TextConfiguration,
    before: Option<TextConfiguration>,
}

#[derive(Serialize, Deserialize)]
struct TextConfiguration {
    service: Stored,
    image_id: String,
    networks: BTreeMap<String, Network>,
    volumes: BTreeMap<String, Volume>,
}

impl KeptFiles {
    pub fn new(directory: &Path) -> Self {
        Self { folder: directory.join(FOLDER), memory: Arc::default() }
    }

    /// What is kept; a folder that does not exist holds nothing.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn view(&self) -> Result<KeptView, String> {
        let fail = |error: io::Error| format!("cannot read {}: {error}", self.folder.display());
        let mut view = KeptView::default();
        let mut memory = self.memory();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                memory.clear();
                return Ok(view);
            }
            Err(error) => return Err(fail(error)),
        };
        let mut before = std::mem::take(&mut *memory);
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let Some(service) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Forgotten between the list and the look.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(error)),
            };
            let stamp = Stamp {
                inode: metadata.ino(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                length: metadata.len(),
            };
            let remembered = before.remove(service).filter(|remembered| remembered.stamp == stamp);
            let remembered =
                remembered.unwrap_or_else(|| Remembered { stamp, read: read(&entry.path(), service).map(Arc::new) });
            match &remembered.read {
                Ok(kept) => drop(view.kept.insert(service.to_owned(), kept.clone())),
                Err(reason) => drop(view.unreadable.insert(service.to_owned(), reason.clone())),
            }
            memory.insert(service.to_owned(), remembered);
        }
        Ok(view)
    }

    /// # Errors
    /// The system's, with the path.
    pub fn keep(&self, service: &str, kept: &Kept) -> Result<(), String> {
        let path = self.path(service)?;
        let fail = |error: io::Error| format!("cannot write {}: {error}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(fail)?;
        write_atomic(&path, text(kept).as_bytes(), 0o600).map_err(fail)
    }

    /// One that is not kept is success.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn forget(&self, service: &str) -> Result<(), String> {
        let path = self.path(service)?;
        match fs::remove_file(&path).and_then(|()| sync_folder(&self.folder)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(format!("cannot remove {}: {error}", path.display())),
        }
    }

    /// A service's name has no slash; should one ever get here, it must not lead out of the folder.
    fn path(&self, service: &str) -> Result<PathBuf, String> {
        if service.is_empty() || service.contains('/') {
            return Err(format!("the service name `{service}` cannot be a file's name"));
        }
        Ok(self.folder.join(format!("{service}.json")))
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<String, Remembered>> {
        // Only a cache, whole after every statement.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(kept: &Kept) -> String {
    let configuration = |kept: &Configuration| TextConfiguration {
        service: Stored::of(&kept.service),
        image_id: kept.image_id.clone(),
        networks: kept.networks.clone(),
        volumes: kept.volumes.clone(),
    };
    let text = Text {
        version: VERSION,
        present: configuration(&kept.present),
        before: kept.before.as_ref().map(configuration),
    };
    let mut text = serde_json::to_string(&text).expect("maps have string keys and no value can fail to serialise");
    text.push('\n');
    text
}

fn read(path: &Path, service: &str) -> Result<Kept, String> {
    // Never with a part of the text in the message: it can be a secret.
    let fail = |why: String| {
        format!("what is kept of {service} in {} cannot be understood ({why}); remove the file", path.display())
    };
    let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let place = |error: serde_json::Error| format!("line {} column {}", error.line(), error.column());
    let text: Text = serde_json::from_slice(&bytes).map_err(|error| fail(place(error)))?;
    if text.version != VERSION {
        return Err(fail(format!("it has version {}, and this is {VERSION}", text.version)));
    }
    let configuration = |text: TextConfiguration| {
        Ok::<_, String>(Configuration {
            service: Arc::new(text.service.service(service)?),
            image_id: text.image_id,
            networks: text.networks,
            volumes: text.volumes,
        })
    };
    let present = configuration(text.present).map_err(fail)?;
    let before = text.before.map(configuration).transpose().map_err(fail)?;
    Ok(Kept { present, before })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::spec::{LoadOptions, load_text};

    fn kept(tag: &str) -> Kept {
        let text = format!(
            "name: shop\nservices:\n  web:\n    image: localhost/web:{tag}\n    environment: {{ DB_PASSWORD: hunter2 }}\n"
        );
        let mut spec = load_text(&[("spec.yaml", &text)], &LoadOptions::default()).expect("a valid spec").spec;
        let service = spec.services.remove("web").expect("it is there");
        let present = Configuration {
            service: Arc::new(service),
            image_id: format!("sha256:{tag}"),
            networks: spec.networks,
            volumes: spec.volumes,
        };
        Kept { present, before: None }
    }

    #[test]
    fn what_served_outlives_the_process_with_its_secrets_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = KeptFiles::new(folder.path());
        assert!(files.view().expect("nothing yet").kept.is_empty());
        let both = Kept { before: Some(kept("1").present), ..kept("2") };
        files.keep("web", &both).expect("written");
        let view = KeptFiles::new(folder.path()).view().expect("readable");
        assert_eq!(view.kept.get("web").map(AsRef::as_ref), Some(&both));
        assert!(view.unreadable.is_empty());
        let path = folder.path().join("kept/web.json");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("kept"))), (0o600, 0o700));
        assert!(fs::read_to_string(&path).expect("text").contains("hunter2"), "a rollback needs the value");
        assert!(!format!("{both:?}").contains("hunter2"), "and nobody else");
        files.forget("web").expect("removed");
        files.forget("web").expect("gone already");
        assert!(files.view().expect("readable").kept.is_empty());
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = KeptFiles::new(folder.path());
        for tag in ["1", "2", "3"] {
            files.keep("web", &kept(tag)).expect("written");
            let view = files.view().expect("readable");
            assert_eq!(view.kept.get("web").map(AsRef::as_ref), Some(&kept(tag)));
        }
    }

    #[test]
    fn a_file_that_cannot_be_understood_costs_the_history_of_its_service_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = KeptFiles::new(folder.path());
        files.keep("web", &kept("1")).expect("written");
        files.keep("api", &kept("1")).expect("written");
        let path = folder.path().join("kept/web.json");
        for text in ["", "{\"hunter2", "{\"version\":2,\"present\":{},\"before\":null}", "{}"] {
            fs::write(&path, text).expect("written");
            let view = files.view().expect("the others are readable");
            assert_eq!(view.kept.keys().collect::<Vec<_>>(), ["api"]);
            let reason = view.unreadable.get("web").expect(text);
            assert!(reason.contains("kept/web.json") && !reason.contains("hunter2"), "{reason}");
        }
        files.keep("web", &kept("2")).expect("what cannot be understood is replaced");
        assert!(files.view().expect("readable").unreadable.is_empty());
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = KeptFiles::new(folder.path());
        for name in ["", "../owner", "a/b"] {
            assert!(files.keep(name, &kept("1")).is_err(), "{name}");
        }
    }
}
