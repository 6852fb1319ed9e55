//! One look at a destination: where links lead, what stands there, whether it is a mount, whose it is to be.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::observed::{Destination, FileSeen};
use crate::spec::Template;
use crate::spec::container::hex;

/// Longer texts are not shown in a plan.
const LONGEST_SHOWN: u64 = 1 << 20;
/// A longer file is no template's.
const LARGEST: u64 = 64 << 20;

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        length: metadata.len(),
    })
}

/// The path with every link resolved, as far as it exists.
pub(super) fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}

/// What stands at the destination, whose links lead to `real`.
pub(super) fn destination(path: &Path, real: &Path) -> Destination {
    let metadata = match fs::metadata(real) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match fs::symlink_metadata(path) {
                Ok(link) if link.file_type().is_symlink() => Destination::Other("a link that leads nowhere".to_owned()),
                Ok(_) | Err(_) => Destination::Missing,
            };
        }
        Err(error) => return Destination::Other(format!("not to be looked at ({error})")),
    };
    let kind = metadata.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_dir() => "a folder",
            () if kind.is_socket() => "a socket",
            () if kind.is_fifo() => "a pipe",
            () => "a device",
        };
        return Destination::Other(what.to_owned());
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(real).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Destination::Other(format!("a file that cannot be read ({error})"));
    }
    if bytes.len() as u64 > LARGEST {
        return Destination::Other(format!("a file of more than {} MiB", LARGEST >> 20));
    }
    let digest = hex(&Sha256::digest(&bytes));
    let text = (bytes.len() as u64 <= LONGEST_SHOWN).then(|| String::from_utf8(bytes).ok()).flatten();
    Destination::File(FileSeen {
        digest,
        text: text.map(Arc::from),
        mode: metadata.mode() & 0o7777,
        user: metadata.uid(),
        group: metadata.gid(),
    })
}

/// Every mount point of this process, and what is mounted there.
pub(super) fn mounts() -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(mount).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the fifth field is the mount point.
fn mount(line: &str) -> Option<(PathBuf, String)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let (root, point) = (fields.get(3)?, fields.get(4)?);
    let kind = fields.iter().position(|field| *field == "-").and_then(|at| fields.get(at + 1)).unwrap_or(&"?");
    Some((PathBuf::from(unescaped(point)), format!("{} of a file system of type {kind}", unescaped(root))))
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The numbers of the user and the group that the spec names.
pub(super) fn owner(template: &Template) -> Result<(Option<u32>, Option<u32>), String> {
    let user = template.user.as_deref().map(|name| number(name, "user", "/etc/passwd")).transpose()?;
    let group = template.group.as_deref().map(|name| number(name, "group", "/etc/group")).transpose()?;
    Ok((user, group))
}

fn number(name: &str, what: &str, file: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{file} cannot be read: {error}"))?;
    let of = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    text.lines().find_map(of).ok_or_else(|| format!("this host has no {what} `{name}` ({file})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_as_the_kernel_writes_it() {
        let line = r"36 35 98:0 /a\040b /mnt/x\134y rw,noatime master:1 - ext3 /dev/root rw";
        let (path, what) = mount(line).expect("a mount");
        assert_eq!((path, what.as_str()), (PathBuf::from(r"/mnt/x\y"), "/a b of a file system of type ext3"));
        assert!(mounts().iter().any(|(path, _)| path == Path::new("/")));
    }

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("it exists");
        fs::create_dir(root.join("real")).expect("made");
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("made");
        assert_eq!(resolved(&root.join("link/deep/app.conf")), root.join("real/deep/app.conf"));
        std::os::unix::fs::symlink(root.join("gone"), root.join("dangling")).expect("made");
        let dangling = root.join("dangling");
        assert!(matches!(destination(&dangling, &resolved(&dangling)), Destination::Other(_)));
        assert_eq!(destination(&root.join("none"), &root.join("none")), Destination::Missing);
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        assert_eq!(number("0", "user", "/etc/passwd"), Ok(0));
        assert_eq!(number("root", "user", "/etc/passwd"), Ok(0));
        assert!(number("no-such-user", "user", "/etc/passwd").is_err());
    }
}
