//! What the engine has refused to make or to start, in `refused.json`: for how long, and its last words.
//!
//! Owns this file and its text. A container that could not even be made leaves nothing in the world by which a roll-out
//! could be judged, so that the attempts are noted here. The file is only ever a reason to give up sooner: one that is
//! lost, damaged or cannot be written prolongs a wait, and is no error.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::write_atomic;
use crate::observed::{Refused, RefusedNew};
use crate::plan::DockerAction;
use crate::plan::action::NewContainer;
use crate::world::ActionError;

const FILE: &str = "refused.json";
/// What nobody has tried for so long is not kept any longer.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Clone)]
pub struct RefusedFile {
    path: PathBuf,
    /// Objects are worked on in parallel: one change at a time.
    lock: Arc<Mutex<()>>,
}

#[derive(Default, Serialize, Deserialize)]
struct Text {
    refused: BTreeMap<String, Refused>,
}

impl RefusedFile {
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join(FILE), lock: Arc::default() }
    }

    /// By the replica's name.
    pub fn view(&self) -> BTreeMap<String, Refused> {
        let text = fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice::<Text>(&bytes).ok());
        text.unwrap_or_default().refused
    }

    /// What became of an action. Only what makes or starts a replica is noted.
    pub fn note(&self, action: &DockerAction, result: &Result<(), ActionError>, now: Timestamp) {
        let (name, new) = match action {
            DockerAction::CreateContainer(new) => (&new.name, Some(to_make(new))),
            DockerAction::StartContainer { name, .. } => (name, None),
            _ => return,
        };
        match result {
            Ok(()) => self.change(now, |refused| refused.remove(name).is_some()),
            Err(ActionError::Transient(error) | ActionError::Permanent(error)) => self.change(now, |refused| {
                let again = Refused::again(refused.remove(name), new, error, now);
                refused.insert(name.clone(), again);
                true
            }),
            Err(ActionError::Conflict(_) | ActionError::Refused(_)) => {}
        }
    }

    /// A roll-out of the service was given up: whoever tries it again begins anew.
    pub fn forget(&self, service: &str, now: Timestamp) {
        self.change(now, |refused| {
            let before = refused.len();
            refused.retain(|_, one| !one.is_of(service));
            refused.len() != before
        });
    }

    fn change(&self, now: Timestamp, change: impl FnOnce(&mut BTreeMap<String, Refused>) -> bool) {
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Text { refused: self.view() };
        if !change(&mut text.refused) {
            return;
        }
        text.refused.retain(|_, one| now.duration_since(one.last) < FORGOTTEN);
        let mut json = serde_json::to_string_pretty(&text).expect("plain data");
        json.push('\n');
        if let Err(error) = write_atomic(&self.path, json.as_bytes(), 0o600) {
            let path = self.path.display();
            tracing::warn!("cannot write {path}: {error}; a roll-out that Docker refuses is not given up");
        }
    }
}

fn to_make(new: &NewContainer) -> RefusedNew {
    let NewContainer { service, slot, hash, image_id, .. } = new;
    RefusedNew { service: service.clone(), slot: *slot, hash: hash.clone(), image_id: image_id.clone() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn start() -> DockerAction {
        DockerAction::StartContainer { container: "1".to_owned(), name: "shop-web-1".to_owned() }
    }

    fn refuse(file: &RefusedFile, second: i64) {
        let error = Err(ActionError::Permanent("exec: not found".to_owned()));
        file.note(&start(), &error, Timestamp::from_second(second).expect("a time"));
    }

    #[test]
    fn refusals_outlive_the_process_and_end_with_a_success() {
        let folder = tempfile::tempdir().expect("a folder");
        refuse(&RefusedFile::new(folder.path()), 1000);
        let again = RefusedFile::new(folder.path());
        refuse(&again, 1030);
        let seen = again.view();
        let one = seen.get("shop-web-1").expect("it is noted");
        assert_eq!((one.first.as_second(), one.last.as_second(), one.error.as_str()), (1000, 1030, "exec: not found"));
        let mode = fs::metadata(folder.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.note(&start(), &Ok(()), Timestamp::from_second(1040).expect("a time"));
        assert!(again.view().is_empty());
    }

    #[test]
    fn a_damaged_file_only_prolongs_the_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = RefusedFile::new(folder.path());
        fs::write(folder.path().join(FILE), "{\"refused\": [").expect("written");
        assert!(file.view().is_empty());
        refuse(&file, 1000);
        assert_eq!(file.view().len(), 1);
    }
}
