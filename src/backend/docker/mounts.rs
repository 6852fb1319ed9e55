//! Mounts, configs and secrets of a container, in the engine's words. Pure.
//!
//! Owns which of the engine's three ways (`Mounts`, `Binds`, `Tmpfs`) each mount takes, and the tar archive of the files
//! that are copied in.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountTmpfsOptions, MountType, MountVolumeOptions,
};

use super::create::bytes;
use super::labels;
use crate::spec::container::{self, ContainerConfig, FileContent, FileMount, MountSource};

#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    /// `source:target:options`: the one way in which a missing folder is made, or relabelled for SELinux.
    pub(super) binds: Vec<String>,
    /// Target to options: the one way that takes Docker's own option strings.
    pub(super) tmpfs: HashMap<String, String>,
}

pub(super) fn mounts(mounts: &[container::Mount], files: &[FileMount]) -> Result<Mounts, String> {
    let mut all = Mounts::default();
    for mount in mounts {
        match &mount.source {
            MountSource::Volume { name, nocopy } => all.mounts.push(volume(mount, Some(name), *nocopy)),
            MountSource::Anonymous => all.mounts.push(volume(mount, None, false)),
            MountSource::Bind { path, create, propagation, selinux } => {
                if *create || selinux.is_some() {
                    let options = [propagation.as_deref(), selinux.as_deref()];
                    all.binds.push(bind_string(mount, path, &options)?);
                } else {
                    all.mounts.push(bind(&mount.target, path, propagation.as_deref(), mount.read_only)?);
                }
            }
            MountSource::Tmpfs { size, mode, options: None } => all.mounts.push(Mount {
                typ: Some(MountType::TMPFS),
                target: Some(mount.target.clone()),
                read_only: mount.read_only.then_some(true),
                tmpfs_options: (size.is_some() || mode.is_some())
                    .then(|| -> Result<_, String> {
                        Ok(MountTmpfsOptions {
                            size_bytes: bytes("tmpfs.size", *size)?,
                            mode: mode.map(i64::from),
                            options: None,
                        })
                    })
                    .transpose()?,
                ..Mount::default()
            }),
            MountSource::Tmpfs { size, mode, options: Some(options) } => {
                let written = (!options.is_empty()).then(|| options.clone());
                let size = size.map(|size| format!("size={size}"));
                let mode = mode.map(|mode| format!("mode={mode:o}"));
                let read_only = mount.read_only.then(|| "ro".to_owned());
                let words: Vec<_> = [written, size, mode, read_only].into_iter().flatten().collect();
                all.tmpfs.insert(mount.target.clone(), words.join(","));
            }
        }
    }
    for file in files {
        match &file.content {
            FileContent::File { path, .. } => all.mounts.push(bind(&file.target, path, None, true)?),
            FileContent::Inline(_) | FileContent::Secret(_) => {}
        }
    }
    Ok(all)
}

fn volume(mount: &container::Mount, name: Option<&String>, nocopy: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: name.cloned(),
        target: Some(mount.target.clone()),
        read_only: mount.read_only.then_some(true),
        volume_options: nocopy.then(|| MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

fn bind(target: &str, path: &Path, propagation: Option<&str>, read_only: bool) -> Result<Mount, String> {
    let parse = |word: &str| {
        word.parse::<MountBindOptionsPropagationEnum>()
            .map_err(|_| format!("{target}: `{word}` is no propagation of a bind (rprivate, rshared, rslave, …)"))
    };
    let propagation = propagation.map(parse).transpose()?;
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(text(path)?.to_owned()),
        target: Some(target.to_owned()),
        read_only: read_only.then_some(true),
        bind_options: propagation
            .map(|propagation| MountBindOptions { propagation: Some(propagation), ..MountBindOptions::default() }),
        ..Mount::default()
    })
}

fn bind_string(mount: &container::Mount, path: &Path, options: &[Option<&str>]) -> Result<String, String> {
    let source = text(path)?;
    if let Some(bad) = [source, &mount.target].into_iter().find(|path| path.contains(':')) {
        return Err(format!(
            "volumes: `{bad}` contains a colon, which the engine's short form cannot carry: use the long form \
             (type: bind), with a folder that exists"
        ));
    }
    let mut words = vec![if mount.read_only { "ro" } else { "rw" }];
    words.extend(options.iter().flatten());
    Ok(format!("{source}:{}:{}", mount.target, words.join(",")))
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{}: a path must be UTF-8", path.display()))
}

/// Can the files that are to be copied in be copied, and be seen afterwards?
pub(super) fn check_copied(config: &ContainerConfig) -> Result<(), String> {
    for file in labels::copied(&config.files) {
        let target = &file.target;
        if config.read_only == Some(true) {
            return Err(format!(
                "{target} cannot be copied into a container with read_only: true: give the config or secret as a file \
                 (`file:`), or leave read_only out"
            ));
        }
        let hidden = |mount: &&container::Mount| {
            matches!(mount.source, MountSource::Tmpfs { .. }) && Path::new(target).starts_with(&mount.target)
        };
        if let Some(mount) = config.mounts.iter().find(hidden) {
            return Err(format!(
                "{target} would be hidden by the tmpfs on {}: give the config or secret as a file (`file:`), or another \
                 target",
                mount.target
            ));
        }
        entry(file)?;
    }
    Ok(())
}

/// A tar archive, for `/` of the container, of the files that are to be copied in; `None` if there are none.
pub(super) fn archive(files: &[FileMount]) -> Result<Option<Vec<u8>>, String> {
    let mut archive = Vec::new();
    for file in labels::copied(files) {
        archive.extend(entry(file)?);
    }
    if archive.is_empty() {
        return Ok(None);
    }
    // Two empty blocks end an archive.
    archive.extend([0; 2 * BLOCK]);
    Ok(Some(archive))
}

const BLOCK: usize = 512;
/// Compose's mode for configs and secrets.
const DEFAULT_MODE: u32 = 0o444;

/// One regular file: a ustar header and the content, padded. Folders have no entry: the engine makes those that are
/// missing, and an entry would change the mode of those that exist.
fn entry(file: &FileMount) -> Result<Vec<u8>, String> {
    let target = &file.target;
    let content: &[u8] = match &file.content {
        FileContent::File { .. } => &[],
        FileContent::Inline(text) => text.as_bytes(),
        FileContent::Secret(secret) => secret.reveal().as_bytes(),
    };
    let number = |key: &str, value: &Option<String>| match value {
        None => Ok(0),
        Some(text) => text
            .parse::<u32>()
            .ok()
            .filter(|number| *number <= MAX_ID)
            .ok_or_else(|| format!("{target}: {key} is `{text}`: it must be a number up to {MAX_ID}")),
    };
    let (prefix, name) = split_path(target.trim_start_matches('/'))
        .ok_or_else(|| format!("{target}: the path is empty or too long to be copied in"))?;
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{:07o}", file.mode.unwrap_or(DEFAULT_MODE) & 0o7777).as_bytes());
    put(108, format!("{:07o}", number("uid", &file.uid)?).as_bytes());
    put(116, format!("{:07o}", number("gid", &file.gid)?).as_bytes());
    put(124, format!("{:011o}", content.len()).as_bytes());
    // The time is always the same, so that equal files are equal archives.
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = header.to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(BLOCK), 0);
    Ok(entry)
}

/// The largest number that seven octal digits hold.
const MAX_ID: u32 = 0o777_7777;

/// Into ustar's prefix (155 bytes) and name (100 bytes), at a slash.
fn split_path(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() {
        return None;
    }
    if path.len() <= 100 {
        return Some(("", path));
    }
    let slashes = path.match_indices('/').map(|(at, _)| at);
    slashes
        .map(|at| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && !name.is_empty() && name.len() <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::container::Secret;

    fn inline(target: &str, text: &str) -> FileMount {
        FileMount {
            target: target.to_owned(),
            content: FileContent::Inline(text.to_owned()),
            uid: None,
            gid: None,
            mode: None,
        }
    }

    #[test]
    fn tar_itself_reads_the_archive() {
        let deep = format!("/{}/{}", "d".repeat(120), "f".repeat(90));
        let mut secret = inline("/run/secrets/token", "");
        secret.content = FileContent::Secret(Secret::new("test", "hidden".to_owned()));
        (secret.uid, secret.gid, secret.mode) = (Some("101".to_owned()), Some("7".to_owned()), Some(0o400));
        let files = [inline("/etc/app.conf", &"x".repeat(700)), secret, inline(&deep, "end\n")];
        let archive = archive(&files).expect("representable").expect("not empty");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar");
        std::fs::write(&path, archive).expect("written");
        let tar = |arguments: &[&str]| {
            let output =
                std::process::Command::new("tar").args(arguments).arg("-f").arg(&path).output().expect("tar runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let list = tar(&["--numeric-owner", "-tv"]);
        let lines: Vec<_> = list.lines().collect();
        assert!(lines[0].starts_with("-r--r--r-- 0/0") && lines[0].ends_with(" etc/app.conf"), "{list}");
        assert!(lines[1].starts_with("-r-------- 101/7") && lines[1].ends_with(" run/secrets/token"), "{list}");
        assert!(lines[2].ends_with(deep.trim_start_matches('/')), "{list}");
        assert_eq!(tar(&["-xO", "run/secrets/token"]), "hidden");
        assert_eq!(tar(&["-xO", "etc/app.conf"]), "x".repeat(700));
    }

    #[test]
    fn a_file_that_could_not_be_copied_or_seen_is_refused_before_anything_is_made() {
        let mut config = ContainerConfig { files: vec![inline("/run/secrets/a", "x")], ..ContainerConfig::default() };
        assert_eq!(check_copied(&config), Ok(()));
        config.read_only = Some(true);
        assert!(check_copied(&config).is_err_and(|why| why.contains("read_only: true")));
        config.read_only = None;
        let source = MountSource::Tmpfs { size: None, mode: None, options: None };
        config.mounts = vec![container::Mount { target: "/run".to_owned(), source, read_only: false }];
        assert!(check_copied(&config).is_err_and(|why| why.contains("hidden by the tmpfs on /run")));
        config.mounts.clear();
        config.files[0].uid = Some("www-data".to_owned());
        assert!(check_copied(&config).is_err_and(|why| why.contains("uid is `www-data`")));
        config.files = vec![inline(&format!("/{}", "f".repeat(200)), "x")];
        assert!(check_copied(&config).is_err_and(|why| why.contains("too long")));
    }
}
