//! Putting a rendered file in place: staged beside its destination, checked, noted, renamed.
//!
//! The old file is there until the new one is, whole and on disk; what is staged is gone when anything fails. The mark that
//! a command is pending is on disk before the rename, so that a crash in between runs a command too often, never too
//! seldom.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Templates, command, place};
use crate::backend::directory::sync_folder;
use crate::observed::TemplateStage;
use crate::plan::action::NewFile;
use crate::spec::container::hex;
use crate::spec::template::CommandLine;
use crate::world::ActionError;

pub(super) async fn write(templates: &Templates, new: &NewFile) -> Result<(), ActionError> {
    let title = format!("template {}: {}", new.name, new.record.destination.display());
    same_place(templates, new, &title)?;
    let Some(folder) = new.real.parent() else {
        return Err(ActionError::Permanent(format!("{title} is in no folder")));
    };
    let fail = |what: &str, error: &io::Error| failed(&title, what, error);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| fail(&format!("its folder {} cannot be made", folder.display()), &error))?;
    // Another process may have made links in between.
    same_place(templates, new, &title)?;
    let staged = stage(new, folder).map_err(|error| fail("the new file cannot be staged", &error))?;
    if let Some(check) = &new.check {
        let path = staged.path().display().to_string();
        let words = check.words.iter().map(|word| word.replace("{file}", &path)).collect();
        let check = CommandLine { words, timeout: check.timeout };
        if let Err(reason) = command::run(&check).await {
            let reason =
                format!("the check refuses the new file, and the old one stays: {}", reason.replace(&path, "{file}"));
            templates.records.failed(&new.name, TemplateStage::Check, &new.record.text, &reason, &new.record);
            return Err(ActionError::Permanent(format!("{title}: {reason}")));
        }
    }
    // A check takes its time.
    unchanged(new, &title)?;
    if new.backup && new.expect.is_some() {
        back_up(&new.real).map_err(|error| fail("the old file cannot be kept as .bak", &error))?;
    }
    templates
        .records
        .write(&new.name, &new.record)
        .map_err(|reason| ActionError::Transient(format!("{title}: {reason}")))?;
    let renamed = staged.persist(&new.real).map_err(|error| error.error);
    if let Err(error) = renamed {
        let error = match error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
            true => ActionError::Permanent(format!(
                "{title} is a mount of its own, which cannot be replaced: mount its folder instead of the file"
            )),
            false => fail("the new file cannot be put in place", &error),
        };
        templates.records.failed(&new.name, TemplateStage::Write, &new.record.text, &error.to_string(), &new.record);
        return Err(error);
    }
    sync_folder(folder).map_err(|error| fail("its folder cannot be synced", &error))
}

/// Where links lead, and that it may be written there, is as it was planned.
fn same_place(templates: &Templates, new: &NewFile, title: &str) -> Result<(), ActionError> {
    let real = place::resolved(&new.record.destination);
    if real != new.real {
        return Err(ActionError::Conflict(format!("{title} leads to {} by now", real.display())));
    }
    let allowed = templates.allow.iter().any(|folder| real.starts_with(place::resolved(folder)));
    if !allowed || real.starts_with(place::resolved(&templates.directory)) {
        return Err(ActionError::Permanent(format!("{title} lies in none of the folders of templates.allow")));
    }
    unchanged(new, title)
}

fn unchanged(new: &NewFile, title: &str) -> Result<(), ActionError> {
    let present = match fs::read(&new.real) {
        Ok(bytes) => Some(hex(&Sha256::digest(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(title, "what is there cannot be read", &error)),
    };
    match present == new.expect {
        true => Ok(()),
        false => Err(ActionError::Conflict(format!("{title} has been changed since it was looked at"))),
    }
}

/// The text on disk beside its destination, with its mode and owner.
fn stage(new: &NewFile, folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let name = new.real.file_name().unwrap_or_default().to_string_lossy();
    // The ending stays last: some checks go by it.
    let suffix = Path::new(&*name).extension().map(|ending| format!(".{}", ending.to_string_lossy()));
    let mut file = tempfile::Builder::new()
        .prefix(".reeve-")
        .suffix(suffix.as_deref().unwrap_or_default())
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(new.text.as_bytes())?;
    let metadata = file.as_file().metadata()?;
    let user = new.user.filter(|user| *user != metadata.uid());
    let group = new.group.filter(|group| *group != metadata.gid());
    if user.is_some() || group.is_some() {
        std::os::unix::fs::fchown(file.as_file(), user, group)?;
    }
    file.as_file().set_permissions(Permissions::from_mode(new.mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// A link to the old file, so that it is whole whatever happens. An older one is replaced.
fn back_up(real: &Path) -> io::Result<()> {
    let folder = real.parent().unwrap_or(Path::new("/"));
    let mut name = real.as_os_str().to_owned();
    name.push(".bak");
    // A name of its own first: a link cannot replace, a rename can.
    let staged = tempfile::Builder::new().prefix(".reeve-").make_in(folder, |path| fs::hard_link(real, path))?;
    staged.into_temp_path().persist(name).map_err(|error| error.error)
}

fn failed(title: &str, what: &str, error: &io::Error) -> ActionError {
    let text = format!("{title}: {what}: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ActionError::Permanent(text),
        _ => ActionError::Transient(text),
    }
}
