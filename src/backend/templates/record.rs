//! `templates/<name>.json` in reeve's folder: what was written, from which data, and whether its command is pending.
//!
//! Owns these files. Lost, they cost a command that was pending and the memory of how many entries there were; a file is
//! never written because of that.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::directory::write_atomic;
use crate::observed::{TemplateFailure, TemplateRecord, TemplateStage};

const FOLDER: &str = "templates";
/// A file of another version is not understood, rather than misunderstood.
const VERSION: u32 = 1;

#[derive(Debug, Clone)]
pub(super) struct Records {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    #[serde(flatten)]
    record: TemplateRecord,
}

impl Records {
    pub fn new(directory: &Path) -> Self {
        Self { folder: directory.join(FOLDER) }
    }

    /// `None`: nothing was noted.
    ///
    /// # Errors
    /// The file cannot be read or understood: with its path.
    pub fn read(&self, name: &str) -> Result<Option<TemplateRecord>, String> {
        let path = self.path(name)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        match serde_json::from_slice::<Text>(&bytes) {
            Ok(text) if text.version == VERSION => Ok(Some(text.record)),
            Ok(text) => {
                Err(format!("{} has version {}, and this is {VERSION}; remove it", path.display(), text.version))
            }
            Err(error) => Err(format!("{} cannot be understood (line {}); remove it", path.display(), error.line())),
        }
    }

    /// # Errors
    /// The system's, with the path.
    pub fn write(&self, name: &str, record: &TemplateRecord) -> Result<(), String> {
        let path = self.path(name)?;
        let fail = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(fail)?;
        let mut text = serde_json::to_string_pretty(&Text { version: VERSION, record: record.clone() })
            .expect("maps have string keys and no value can fail to serialise");
        text.push('\n');
        write_atomic(&path, text.as_bytes(), 0o600).map_err(fail)
    }

    /// Notes that something failed; the time of the first failure of the same kind stays. Without a record, one is made
    /// that says that nothing was written yet.
    pub fn failed(&self, name: &str, stage: TemplateStage, text: &str, reason: &str, fallback: &TemplateRecord) {
        let record = self.read(name).ok().flatten();
        let mut record = record.unwrap_or_else(|| TemplateRecord {
            text: String::new(),
            inputs: String::new(),
            sizes: Default::default(),
            own: Default::default(),
            pending: false,
            before: None,
            failed: None,
            ..fallback.clone()
        });
        let before = record.failed.take().filter(|before| before.stage == stage && before.text == text);
        if before.as_ref().is_some_and(|before| before.reason == reason) {
            return;
        }
        let since = before.map_or_else(Timestamp::now, |before| before.since);
        record.failed = Some(TemplateFailure { stage, text: text.to_owned(), since, reason: reason.to_owned() });
        if let Err(reason) = self.write(name, &record) {
            tracing::warn!(template = name, "its failure cannot be noted: {reason}");
        }
    }

    /// A template's name has no slash; should one ever get here, it must not lead out of the folder.
    fn path(&self, name: &str) -> Result<PathBuf, String> {
        if name.is_empty() || name.contains('/') {
            return Err(format!("the template name `{name}` cannot be a file's name"));
        }
        Ok(self.folder.join(format!("{name}.json")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> TemplateRecord {
        TemplateRecord {
            destination: PathBuf::from("/etc/app.conf"),
            text: "aa".to_owned(),
            inputs: "bb".to_owned(),
            changed_at: Timestamp::UNIX_EPOCH,
            sizes: [("service(web)".to_owned(), 3)].into(),
            own: [("service(web)".to_owned(), [("n1/edge-1:a:80/tcp".to_owned(), "c1".to_owned())].into())].into(),
            before: None,
            pending: true,
            failed: None,
        }
    }

    #[test]
    fn what_is_noted_outlives_the_process_and_a_damaged_note_names_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::new(folder.path());
        assert_eq!(records.read("app.conf"), Ok(None));
        records.write("app.conf", &record()).expect("written");
        assert_eq!(Records::new(folder.path()).read("app.conf"), Ok(Some(record())));
        fs::write(folder.path().join("templates/app.conf.json"), "{").expect("written");
        assert!(records.read("app.conf").is_err_and(|reason| reason.contains("app.conf.json")));
        assert!(records.read("../owner").is_err());
    }

    #[test]
    fn a_failure_keeps_the_time_of_its_first_time_and_what_was_written_stays_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::new(folder.path());
        records.write("a", &record()).expect("written");
        let failed = |text: &str, reason: &str| {
            records.failed("a", TemplateStage::Check, text, reason, &record());
            records.read("a").expect("readable").expect("there").failed.expect("noted")
        };
        let first = failed("cc", "no");
        assert_eq!(failed("cc", "still no").since, first.since);
        assert_ne!(failed("dd", "no").since, first.since);
        assert_eq!(records.read("a").expect("readable").expect("there").text, "aa");
        records.failed("b", TemplateStage::Check, "cc", "no", &record());
        let new = records.read("b").expect("readable").expect("there");
        assert!(new.text.is_empty() && !new.pending);
    }
}
