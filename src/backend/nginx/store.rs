//! What generations need beside their own files: copies of TLS files, and the sources of templates.
//!
//! Owns `<directory>/store/<sha256>`. The last good configuration of an upstream must stay loadable when its certificate
//! is broken or half written, also by somebody's own reload and after a reboot; so nginx reads copies, which never change.
//! Who may read the original may read the copy, and nobody else. It must not decide what is needed: manifests say so.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::backend::directory::sync_folder;
use crate::observed::Manifest;
use crate::plan::action::NewGeneration;
use crate::render::store_folder;
use crate::spec::container::hex;
use crate::world::ActionError;

#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// `generations`: the folder that it stands beside.
    pub fn new(generations: &Path) -> Self {
        Self { folder: store_folder(generations) }
    }

    pub fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(digest)
    }

    /// Copies what a generation needs and is not there yet.
    ///
    /// # Errors
    /// Conflict: a file is not any more what was planned. Transient: the system's.
    pub fn provide(&self, new: &NewGeneration) -> Result<(), ActionError> {
        let fail =
            |error: io::Error| ActionError::Transient(format!("cannot write into {}: {error}", self.folder.display()));
        fs::create_dir_all(&self.folder).map_err(fail)?;
        if !self.path(&new.manifest.template).exists() {
            self.put(&new.manifest.template, new.template.as_bytes(), None).map_err(fail)?;
        }
        for (path, digest) in new.manifest.upstreams.values().flat_map(|routed| &routed.files) {
            if self.path(digest).exists() {
                continue;
            }
            let read = || -> io::Result<_> { Ok((fs::metadata(path)?, fs::read(path)?)) };
            let (metadata, bytes) =
                read().map_err(|error| ActionError::Conflict(format!("TLS file {path} cannot be read: {error}")))?;
            if hex(&Sha256::digest(&bytes)) != *digest {
                return Err(ActionError::Conflict(format!("TLS file {path} has changed in between")));
            }
            self.put(digest, &bytes, Some(&metadata)).map_err(fail)?;
        }
        Ok(())
    }

    /// Whole or not at all. `like`: whose rights it gets.
    fn put(&self, digest: &str, bytes: &[u8], like: Option<&fs::Metadata>) -> io::Result<()> {
        let temporary = self.folder.join(format!(".new-{digest}"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if let Some(like) = like {
            match std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid())) {
                // Not the superuser: then it is ours alone, as nginx is.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
                Ok(()) => file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o660))?,
            }
        }
        file.sync_all()?;
        fs::rename(&temporary, self.path(digest))?;
        sync_folder(&self.folder)
    }

    /// Removes what none of these manifests needs: no key outlives the last generation that used it.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_only<'m>(&self, manifests: impl Iterator<Item = &'m Manifest>) -> io::Result<()> {
        let mut needed: BTreeSet<&str> = BTreeSet::new();
        for manifest in manifests {
            needed.insert(&manifest.template);
            needed.extend(manifest.upstreams.values().flat_map(|routed| routed.files.values()).map(String::as_str));
        }
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !needed.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::observed::{GenerationId, RoutedUpstream, Shared};
    use crate::spec::upstream::{Listen, Upstream};

    fn generation(files: BTreeMap<String, String>) -> NewGeneration {
        let upstream: Upstream = serde_json::from_value(serde_json::json!({
            "name": "a", "listen": Listen { address: None, port: 1 }, "path": "/", "drain": std::time::Duration::ZERO,
        }))
        .expect("an upstream");
        let routed = RoutedUpstream { upstream: upstream.into(), endpoints: Shared::default(), files };
        NewGeneration {
            id: GenerationId { hash: "ab".to_owned(), number: 1 },
            manifest: Manifest {
                template: hex(&Sha256::digest("text")),
                upstreams: BTreeMap::from([("a".to_owned(), routed)]),
                ..Manifest::default()
            },
            files: BTreeMap::new(),
            template: Arc::from("text"),
        }
    }

    #[test]
    fn a_copy_outlives_its_original_and_has_its_rights_and_goes_with_the_last_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key.pem");
        fs::write(&key, "secret").expect("written");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("set");
        let digest = hex(&Sha256::digest("secret"));
        let new = generation(BTreeMap::from([(key.display().to_string(), digest.clone())]));
        let store = Store::new(&folder.path().join("generations"));
        store.provide(&new).expect("copied");
        let copy = store.path(&digest);
        assert_eq!(fs::metadata(&copy).expect("there").mode() & 0o777, 0o640);
        fs::write(&key, "broken").expect("written");
        store.provide(&new).expect("what is there needs no original");
        assert_eq!(fs::read_to_string(&copy).expect("there"), "secret");
        assert_eq!(fs::read_to_string(store.path(&new.manifest.template)).expect("there"), "text");

        let other = generation(BTreeMap::from([(key.display().to_string(), hex(&Sha256::digest("other")))]));
        assert!(matches!(store.provide(&other), Err(ActionError::Conflict(_))), "it is not what was planned");
        store.keep_only([&new.manifest].into_iter()).expect("kept");
        assert!(copy.exists());
        store.keep_only([&Manifest::default()].into_iter()).expect("removed");
        assert!(!copy.exists());
    }
}
