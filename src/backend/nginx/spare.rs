//! The files of a removed generation, kept for the next one: of very many, few differ between two generations.
//!
//! Without it, each change at 1,000 upstreams made 1,000 files and removed 1,000 others. ext4 gives no inode away that was
//! freed a moment ago, and looks at each of those again for every new file: half of all that reeve did for one change.
//!
//! It only saves work. No file is taken over that was not read and found to be what would be written, and whatever is odd
//! about the folder, it is removed. It must hold nothing but configuration: no secret, and nothing that makes it a
//! generation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::generations::{FILES_FOLDER, remove_tree};

/// Fewer are not worth a place on the disk.
const WORTHWHILE_FROM: usize = 32;

#[derive(Debug)]
pub struct Spare(PathBuf);

impl Spare {
    /// In the folder of the generations, whose name of one it never has.
    pub fn of(generations: &Path) -> Self {
        Self(generations.join(".spare"))
    }

    /// Keeps the files of a folder that is no generation any more, in the place of those that were kept before; or removes
    /// it, when it has few.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self, removed: &Path) -> io::Result<()> {
        let files = removed.join(FILES_FOLDER);
        let worthwhile = is_folder(removed)
            && is_folder(&files)
            && fs::read_dir(files).is_ok_and(|entries| entries.take(WORTHWHILE_FROM).count() == WORTHWHILE_FROM);
        if !worthwhile {
            return remove_tree(removed);
        }
        for entry in fs::read_dir(removed)? {
            let entry = entry?;
            if entry.file_name() != FILES_FOLDER {
                remove_tree(&entry.path())?;
            }
        }
        remove_tree(&self.0)?;
        fs::rename(removed, &self.0)
    }

    /// Moves the kept files to a folder that does not exist, without those that are not wanted as they are. The names of
    /// what is there now; of nothing, when there was nothing.
    ///
    /// # Errors
    /// The system's. The folder may then exist, and hold anything.
    pub fn give(&self, folder: &Path, wanted: &BTreeMap<String, Arc<str>>) -> io::Result<BTreeSet<String>> {
        match fs::rename(&self.0, folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            other => other?,
        }
        if !is_folder(folder) || !is_folder(&folder.join(FILES_FOLDER)) {
            return Err(io::Error::from(ErrorKind::NotADirectory));
        }
        // As a file that is made now: who owns it and who may read it are not to be those of another day.
        let mark = folder.join(".fresh");
        fs::File::create_new(&mark)?;
        let fresh = Access::of(&mark)?;
        fs::remove_file(&mark)?;
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(folder.join(FILES_FOLDER))? {
            let entry = entry?;
            let name = entry.file_name().to_str().map(|name| format!("{FILES_FOLDER}/{name}"));
            let name = name.filter(|name| wanted.get(name).is_some_and(|text| is_same(&entry.path(), text, &fresh)));
            match name {
                Some(name) => drop(there.insert(name)),
                None => remove_tree(&entry.path())?,
            }
        }
        Ok(there)
    }
}

/// And no link to one: what is behind a link is somebody else's, and would be emptied.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_dir())
}

/// Who may do what with a file.
#[derive(Debug, PartialEq, Eq)]
struct Access {
    user: u32,
    group: u32,
    /// With the file's type: a link is none.
    mode: u32,
    /// By how many names.
    links: u64,
}

impl Access {
    fn of(path: &Path) -> io::Result<Self> {
        let data = fs::symlink_metadata(path)?;
        Ok(Self { user: data.uid(), group: data.gid(), mode: data.mode(), links: data.nlink() })
    }
}

fn is_same(path: &Path, text: &str, fresh: &Access) -> bool {
    Access::of(path).is_ok_and(|access| access == *fresh) && fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes())
}
