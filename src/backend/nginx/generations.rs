//! Generations on disk: `generations/<id>/`, and the link `current`.
//!
//! ```text
//! <directory>/current -> generations/<id>       switched atomically
//! <directory>/generations/<id>/reeve.conf       includes the others by absolute path
//!                             /files/*.conf
//!                             /manifest.json    what it was rendered from, and the digest of every file
//!                             /manifest.sha256  the manifest's own digest
//!                             /endpoints        of one that Lua balances: the set that nginx loads at its start
//!                             /secret.conf      of the same: who may set them in the running nginx (0600)
//!                             /unchecked        until nginx has accepted it: a crash before that leaves nothing to trust
//!                             /rejected         nginx's message, when it has refused it
//!                        .spare/files/*.conf    of one that was removed and had very many
//! ```
//!
//! A generation is written as a whole and never changed, but for `endpoints`. It must not ask nginx anything: that is `mod`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::files::Files;
use super::lua;
use super::spare::Spare;
use crate::backend::directory::{replace, sync_folder, write_atomic};
use crate::observed::{self, Balancer, EndpointsSeen, Generation, GenerationId, Manifest, Stage};
use crate::plan::action::NewGeneration;
use crate::render::{ENDPOINTS_FILE, ENTRY_FILE, SECRET_FILE, endpoints};
use crate::spec::container::hex;

/// The manifest's name, also in `Generation::damaged`: it then cannot be believed, and what the generation routes to is
/// not known.
pub const MANIFEST_FILE: &str = "manifest.json";
const MANIFEST_DIGEST_FILE: &str = "manifest.sha256";
const UNCHECKED_FILE: &str = "unchecked";
const REJECTED_FILE: &str = "rejected";
/// Temporary files of atomic writes begin like this.
const TEMPORARY: &str = ".reeve-";
pub(super) const FILES_FOLDER: &str = "files";

/// From so many files on, one sync of the whole file system is faster than one for each.
const SYNC_EACH_UP_TO: usize = 32;

/// Names of other files that a generation's folder may hold.
fn is_own_file(name: &str) -> bool {
    [MANIFEST_FILE, MANIFEST_DIGEST_FILE, UNCHECKED_FILE, REJECTED_FILE, ENDPOINTS_FILE].contains(&name)
        || name.starts_with(TEMPORARY)
}

/// The generations of one folder of reeve's.
#[derive(Debug, Clone)]
pub struct Generations {
    directory: PathBuf,
}

/// Parsed manifests, by the digest of their text.
pub type Manifests = BTreeMap<Arc<str>, Arc<Manifest>>;

/// What a folder holds.
#[derive(Debug)]
pub enum Found {
    /// Written, and never checked: a crash came in between. As good as not there.
    Unchecked,
    Complete(Box<Generation>, Option<Rejection>),
}

/// nginx's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub message: String,
    /// Digest of everything that nginx read besides the generation.
    pub surroundings: String,
    pub at: Timestamp,
    pub stage: Stage,
}

/// When the generation was written: the manifest is never touched afterwards. Without it, the epoch: the oldest.
fn created_at(folder: &Path) -> Timestamp {
    let modified = fs::metadata(folder.join(MANIFEST_FILE)).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| Timestamp::try_from(modified).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Rejection {
    /// Does it still say something about the world as it is? When it is tried again all the same is the planner's.
    pub fn holds(&self, surroundings: &str) -> bool {
        self.surroundings == surroundings
    }

    fn parse(text: &str) -> Option<Self> {
        let (head, message) = text.split_once("\n\n")?;
        let mut words = head.split_whitespace();
        let (Some("surroundings"), Some(surroundings), Some("at"), Some(at)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return None;
        };
        let stage = match (words.next(), words.next()) {
            (Some("stage"), Some("load")) => Stage::Load,
            (Some("stage"), Some("start")) => Stage::Start,
            _ => Stage::Check,
        };
        Some(Self {
            message: message.trim_end().to_owned(),
            surroundings: surroundings.to_owned(),
            at: at.parse().ok()?,
            stage,
        })
    }

    fn text(&self) -> String {
        let stage = match self.stage {
            Stage::Check => "check",
            Stage::Load => "load",
            Stage::Start => "start",
        };
        format!("surroundings {} at {} stage {stage}\n\n{}\n", self.surroundings, self.at, self.message)
    }
}

impl Generations {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub fn folder(&self) -> PathBuf {
        self.directory.join("generations")
    }

    pub fn path(&self, id: &GenerationId) -> PathBuf {
        self.folder().join(id.to_string())
    }

    pub fn link(&self) -> PathBuf {
        self.directory.join("current")
    }

    /// The file that the main configuration includes.
    pub fn entry(&self) -> PathBuf {
        self.link().join(ENTRY_FILE)
    }

    /// What `current` points at; `None`: there is no link, or it points at nothing of ours.
    ///
    /// # Errors
    /// The system's.
    pub fn current(&self) -> Result<Option<GenerationId>, String> {
        let link = self.link();
        match fs::read_link(&link) {
            Ok(target) => {
                let inside = target.parent().is_some_and(|parent| self.directory.join(parent) == self.folder());
                let name = target.file_name().and_then(|name| name.to_str());
                Ok(name.filter(|_| inside).and_then(GenerationId::parse))
            }
            // No link, or somebody has put a folder there.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", link.display())),
        }
    }

    /// The ids of all folders, in no state in particular. A missing folder holds none.
    ///
    /// # Errors
    /// The system's.
    pub fn ids(&self) -> Result<BTreeSet<GenerationId>, String> {
        let folder = self.folder();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(format!("cannot read {}: {error}", folder.display())),
        };
        let mut ids = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
            let name = entry.file_name();
            // Only what `Display` writes: `01` and `1` would be two folders of one id.
            ids.extend(name.to_str().and_then(GenerationId::parse).filter(|id| name == id.to_string().as_str()));
        }
        Ok(ids)
    }

    /// Reads one generation; `None`: its folder does not exist.
    ///
    /// # Errors
    /// The system's, for the folder. A file that cannot be read is damage.
    pub fn read(
        &self,
        id: &GenerationId,
        with_text: bool,
        files: &mut Files,
        manifests: &mut Manifests,
    ) -> Result<Option<Found>, String> {
        let folder = self.path(id);
        let present = match names(&folder) {
            Ok(present) => present,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", folder.display())),
        };
        if present.contains(UNCHECKED_FILE) {
            return Ok(Some(Found::Unchecked));
        }
        let rejection = present.contains(REJECTED_FILE).then(|| {
            let text = files.get(&folder.join(REJECTED_FILE)).map(|content| content.text);
            let text = text.unwrap_or_default();
            // A record that somebody has edited still says that nginx refused.
            Rejection::parse(&text).unwrap_or_else(|| Rejection {
                message: text.trim().to_owned(),
                surroundings: String::new(),
                at: Timestamp::UNIX_EPOCH,
                stage: Stage::Check,
            })
        });
        let mut damaged = Vec::new();
        let manifest = manifest(&folder, files, manifests).unwrap_or_else(|| {
            damaged.push(MANIFEST_FILE.to_owned());
            Arc::default()
        });
        let mut texts = BTreeMap::new();
        for (name, digest) in &manifest.files {
            let path = folder.join(name);
            let present = if with_text && name != SECRET_FILE {
                files.get(&path).map(|content| {
                    texts.insert(name.clone(), content.text);
                    content.digest
                })
            } else {
                files.digest(&path)
            };
            if present.is_ok_and(|present| *present == **digest) {
                continue;
            }
            damaged.push(name.clone());
        }
        let strangers = present.iter().filter(|name| !is_own_file(name) && !manifest.files.contains_key(*name));
        // Without a manifest nothing is known to belong.
        damaged.extend(strangers.filter(|_| !manifest.files.is_empty()).cloned());
        let rejected = rejection.as_ref().map(|rejection| observed::Rejection {
            message: rejection.message.clone(),
            at: rejection.at,
            stage: rejection.stage,
        });
        let created_at = created_at(&folder);
        let mut manifest = manifest;
        let endpoints = (manifest.balancer == Balancer::Lua).then(|| {
            let text = files.get(&folder.join(ENDPOINTS_FILE)).ok().map(|content| content.text);
            let set = text.and_then(|text| endpoints::parse(&text));
            if let Some((_, set)) = set.as_ref().filter(|(_, set)| endpoints::differ(&manifest, set)) {
                endpoints::replace(Arc::make_mut(&mut manifest), set);
            }
            EndpointsSeen { file: set.map(|(hash, _)| hash), loaded: None }
        });
        let generation = Generation { manifest, damaged, created_at, rejected, files: texts, endpoints };
        Ok(Some(Found::Complete(Box::new(generation), rejection)))
    }

    /// The manifest of one generation, in whatever state; `None`: there is none that can be believed.
    pub fn manifest(&self, id: &GenerationId, files: &mut Files, manifests: &mut Manifests) -> Option<Arc<Manifest>> {
        manifest(&self.path(id), files, manifests)
    }

    /// Writes a generation's folder, marked as unchecked. Whatever stood there is gone. It lasts only after `sync`: until
    /// then, what a power failure leaves of it is not as its manifest says, and so it is damaged.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, new: &NewGeneration) -> Result<(), String> {
        let folder = self.folder();
        let temporary = folder.join(format!(".new-{}", new.id));
        let fail =
            |error: io::Error| format!("cannot write the generation {} in {}: {error}", new.id, folder.display());
        fs::create_dir_all(&folder).map_err(fail)?;
        remove_tree(&temporary).map_err(fail)?;
        let there = Spare::of(&folder).give(&temporary, &new.files).or_else(|error| {
            tracing::debug!(%error, "the files of a removed generation are of no use");
            remove_tree(&temporary).map(|()| BTreeSet::new())
        });
        self.write_files(&temporary, new, &there.map_err(fail)?).map_err(fail)?;
        let place = self.path(&new.id);
        self.discard(&place).map_err(fail)?;
        fs::rename(&temporary, &place).map_err(fail)
    }

    /// Makes a written generation last. Asking nginx about it needs no waiting for the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self, id: &GenerationId) -> Result<(), String> {
        let (folder, all) = (self.path(id), self.folder());
        let sync = || {
            let names = names(&folder)?;
            if names.len() > SYNC_EACH_UP_TO {
                return Ok(rustix::fs::syncfs(fs::File::open(&folder)?)?);
            }
            for name in names {
                fs::File::open(folder.join(name))?.sync_all()?;
            }
            sync_folder(&folder.join(FILES_FOLDER))?;
            sync_folder(&folder)?;
            sync_folder(&all)
        };
        sync().map_err(|error: io::Error| format!("cannot make the generation {id} last in {}: {error}", all.display()))
    }

    /// `there`: what the folder holds already, as it is to be.
    fn write_files(&self, folder: &Path, new: &NewGeneration, there: &BTreeSet<String>) -> io::Result<()> {
        fs::create_dir_all(folder.join(FILES_FOLDER))?;
        let mut manifest = new.manifest.clone();
        for (name, text) in &new.files {
            manifest.files.insert(name.clone(), hex(&Sha256::digest(text.as_bytes())));
            if !there.contains(name) {
                write(&folder.join(name), text.as_bytes())?;
            }
        }
        if let Some(set) = endpoints::of_manifest(&manifest) {
            write(&folder.join(ENDPOINTS_FILE), endpoints::text(&set).as_bytes())?;
            let secret = lua::secret_file()?;
            // Of random bytes, a digest tells nothing.
            manifest.files.insert(SECRET_FILE.to_owned(), hex(&Sha256::digest(secret.as_bytes())));
            write_secret(&folder.join(SECRET_FILE), secret.as_bytes())?;
        }
        let text = serde_json::to_vec(&manifest).map_err(io::Error::other)?;
        write(&folder.join(MANIFEST_FILE), &text)?;
        write(&folder.join(MANIFEST_DIGEST_FILE), hex(&Sha256::digest(&text)).as_bytes())?;
        write(&folder.join(UNCHECKED_FILE), b"nginx has not accepted this generation yet\n")
    }

    /// Writes the endpoints that nginx loads at its start, in the place of the old ones. At once for every reader, but the disk
    /// is not waited for: the next change of endpoints would wait, too. After a power failure it may be the set of some
    /// seconds before, as whole as this one.
    ///
    /// # Errors
    /// The system's.
    pub fn write_endpoints(&self, id: &GenerationId, text: &str) -> Result<(), String> {
        let path = self.path(id).join(ENDPOINTS_FILE);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        replace(&path, text.as_bytes(), 0o644).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// The file with the secret of a generation that Lua balances.
    pub fn secret(&self, id: &GenerationId) -> PathBuf {
        self.path(id).join(SECRET_FILE)
    }

    /// nginx has accepted it.
    ///
    /// # Errors
    /// The system's.
    pub fn mark_checked(&self, id: &GenerationId) -> Result<(), String> {
        let folder = self.path(id);
        fs::remove_file(folder.join(UNCHECKED_FILE))
            .and_then(|()| sync_folder(&folder))
            .map_err(|error| format!("cannot mark the generation {id} as checked in {}: {error}", folder.display()))
    }

    /// nginx has refused it.
    ///
    /// # Errors
    /// The system's.
    pub fn mark_rejected(&self, id: &GenerationId, rejection: &Rejection) -> Result<(), String> {
        let folder = self.path(id);
        write_atomic(&folder.join(REJECTED_FILE), rejection.text().as_bytes(), 0o644).map_err(|error| {
            format!("cannot record the refusal of the generation {id} in {}: {error}", folder.display())
        })?;
        match fs::symlink_metadata(self.path(id).join(UNCHECKED_FILE)) {
            Ok(_) => self.mark_checked(id),
            // It had passed the check, and could not be loaded.
            Err(_) => Ok(()),
        }
    }

    /// Points `current` at a generation.
    ///
    /// # Errors
    /// The system's; a real folder in the place of the link.
    pub fn switch(&self, id: &GenerationId) -> Result<(), String> {
        let link = self.link();
        let temporary = self.directory.join(".current-new");
        let fail = |error: io::Error| format!("cannot point {} at the generation {id}: {error}", link.display());
        match fs::remove_file(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        if fs::symlink_metadata(&link).is_ok_and(|data| data.is_dir()) {
            return Err(format!("{} is a folder, and should be a link that reeve makes: move it away", link.display()));
        }
        // Relative, so that the folder can be moved as a whole.
        symlink(Path::new("generations").join(id.to_string()), &temporary).map_err(fail)?;
        fs::rename(&temporary, &link).map_err(fail)?;
        sync_folder(&self.directory).map_err(fail)
    }

    /// Removes a generation; one that is not there is success.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, id: &GenerationId) -> Result<(), String> {
        let path = self.path(id);
        let spare = Spare::of(&self.folder());
        self.hide(&path)
            .and_then(|hidden| hidden.map_or(Ok(()), |hidden| spare.keep(&hidden).or_else(|_| remove_tree(&hidden))))
            .map_err(|error| format!("cannot remove {}: {error}", path.display()))
    }

    /// Removes what an earlier process has begun and not ended. Only the one writer may call it.
    ///
    /// # Errors
    /// The system's.
    pub fn clean(&self) -> Result<(), String> {
        let folder = self.folder();
        let fail = |error: io::Error| format!("cannot clean up {}: {error}", folder.display());
        let names = match fs::read_dir(&folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        for name in names {
            let text = name.to_string_lossy();
            let path = folder.join(&name);
            let begun = [".new-", ".removed-", ".check-"].iter().any(|prefix| text.starts_with(prefix));
            let unchecked = GenerationId::parse(&text).is_some() && path.join(UNCHECKED_FILE).exists();
            if begun || unchecked {
                remove_tree(&path).map_err(fail)?;
            }
        }
        Ok(())
    }

    fn discard(&self, path: &Path) -> io::Result<()> {
        self.hide(path)?.map_or(Ok(()), |hidden| remove_tree(&hidden))
    }

    /// First out of sight, then away: a crash in between leaves no half of a generation. Where it is then; `None`: it was
    /// not there.
    fn hide(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let Some(name) = path.file_name().filter(|_| path.exists()) else { return Ok(None) };
        let hidden = self.folder().join(format!(".removed-{}", name.to_string_lossy()));
        remove_tree(&hidden)?;
        fs::rename(path, &hidden)?;
        sync_folder(&self.folder())?;
        Ok(Some(hidden))
    }
}

/// Every file below a folder of a generation, by its path from there.
fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = open.pop() {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let expected = name == FILES_FOLDER;
            if entry.file_type()?.is_dir() {
                // A folder of somebody else's is named once, whatever it holds.
                if expected {
                    open.push((entry.path(), format!("{name}/")));
                    continue;
                }
            }
            found.insert(name);
        }
    }
    Ok(found)
}

fn manifest(folder: &Path, files: &mut Files, manifests: &mut Manifests) -> Option<Arc<Manifest>> {
    let path = folder.join(MANIFEST_FILE);
    let digest = files.digest(&path).ok()?;
    let wanted = files.get(&folder.join(MANIFEST_DIGEST_FILE)).ok()?;
    if wanted.text.trim() != &*digest {
        return None;
    }
    if let Some(manifest) = manifests.get(&digest) {
        return Some(manifest.clone());
    }
    let content = files.get(&path).ok().filter(|content| content.digest == digest)?;
    let mut manifest: Manifest = serde_json::from_str(&content.text).ok()?;
    share(&mut manifest, manifests);
    let manifest = Arc::new(manifest);
    manifests.insert(digest, manifest.clone());
    Some(manifest)
}

/// One generation differs from the next in few upstreams: of the others one copy is enough.
fn share(manifest: &mut Manifest, manifests: &Manifests) {
    for (name, routed) in &mut manifest.upstreams {
        for known in manifests.values().filter_map(|other| other.upstreams.get(name)) {
            if known.upstream == routed.upstream {
                routed.upstream = known.upstream.clone();
            }
            if known.endpoints == routed.endpoints {
                routed.endpoints = known.endpoints.clone();
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::File::create(path)?.write_all(bytes)
}

/// For nobody's eyes but ours and those of nginx's master, which reads its configuration as root, or as we do.
fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // Somebody has put a file there.
        Err(error) if error.kind() == ErrorKind::NotADirectory => fs::remove_file(path),
        other => other,
    }
}

#[cfg(test)]
#[path = "generations_tests.rs"]
mod tests;
