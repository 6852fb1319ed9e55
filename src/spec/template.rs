//! `templates`: files that are rendered from the data of Consul, and what is run when they change.
//!
//! Owns the types that the reader makes and the planner and the engine read. What a template's text may say is
//! `crate::template`'s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::container::hex;

/// One file to render.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Template {
    pub name: String,
    /// The template itself. Only its digest is written out: it may be long, and may hold a credential.
    #[serde(serialize_with = "digest")]
    pub text: Arc<str>,
    /// What errors call the text: the path of `source` as the spec writes it, or `NAME (contents)`.
    pub origin: String,
    /// Where relative paths of `file()` begin, absolute.
    pub folder: PathBuf,
    /// Absolute, without `.` and `..`.
    pub destination: PathBuf,
    /// Runs on the staged file before it replaces the old one; `{file}` in a word stands for its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CommandLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<TemplateSignal>,
    /// The mode's last twelve bits. `None`: the old file's, else 0644.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perms: Option<u32>,
    /// Name or number. `None`: the old file's, else reeve's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Keep what is replaced as `<destination>.bak`.
    pub backup: bool,
    pub delimiters: Delimiters,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// A key that does not exist is an error; else it is empty.
    pub error_on_missing: bool,
}

impl Template {
    /// What is run when the file has changed: templates for which it is the same share one run.
    pub fn follow_up(&self) -> Option<FollowUp> {
        (self.command.is_some() || self.signal.is_some())
            .then(|| FollowUp { command: self.command.clone(), signal: self.signal.clone() })
    }
}

fn digest<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("sha256:{}", hex(&Sha256::digest(text.as_bytes()))))
}

/// A command, and then a signal; at least one of the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FollowUp {
    pub command: Option<CommandLine>,
    pub signal: Option<TemplateSignal>,
}

/// What is executed: without a shell, unless the first words are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandLine {
    /// At least one.
    pub words: Vec<String>,
    /// Then its whole process group is killed.
    pub timeout: Duration,
}

impl CommandLine {
    /// For messages: the words, quoted where a shell would need it.
    pub fn title(&self) -> String {
        let plain = |word: &String| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+{}".contains(c))
        };
        let quoted =
            |word: &String| if plain(word) { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) };
        self.words.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TemplateSignal {
    /// Without `SIG`; one of [`SIGNALS`].
    pub signal: String,
    pub target: SignalTarget,
}

/// The signals that a template may send.
pub const SIGNALS: &[&str] = &["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "WINCH", "ALRM", "CONT", "KILL"];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The process whose number stands in this file. Absolute.
    PidFile(PathBuf),
    /// Every running container of this service of the spec.
    Service(String),
}

/// What begins and ends a block, a variable and a comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delimiters {
    pub block: (String, String),
    pub variable: (String, String),
    pub comment: (String, String),
}

impl Default for Delimiters {
    fn default() -> Self {
        let pair = |begin: &str, end: &str| (begin.to_owned(), end.to_owned());
        Self { block: pair("{%", "%}"), variable: pair("{{", "}}"), comment: pair("{#", "#}") }
    }
}

/// A changed template is written when its data have been quiet for `min`, or `max` after the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub min: Duration,
    pub max: Duration,
}
