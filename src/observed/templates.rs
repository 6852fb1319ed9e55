//! What was seen for templates: the data that they asked for, their destinations, and what reeve noted of them.
//!
//! Owns these types only. What a template asks for is found by running it (`crate::template`); what follows from what was
//! seen is the planner's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::View;

/// Everything that was seen for templates; empty for a spec without them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Templates {
    /// By template of the spec.
    pub seen: BTreeMap<String, View<TemplateSeen>>,
    /// One answer for each dependency that some template asked for.
    pub answers: Arc<Answers>,
    /// `templates.allow` of the settings, links resolved.
    pub allowed: Vec<PathBuf>,
    /// reeve's own folder, links resolved: no destination may lie in it.
    pub own: PathBuf,
}

pub type Answers = BTreeMap<Dependency, View<Answer>>;

/// One template's side of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSeen {
    /// The destination with every link resolved, as far as it exists.
    pub real: PathBuf,
    pub destination: Destination,
    /// It is a mount of its own (a single file that is bind-mounted), which no rename can replace: with the mount's words.
    pub mounted: Option<String>,
    /// What reeve noted when it last wrote the file. `None`: it never did, or its folder was lost.
    pub record: Option<Arc<TemplateRecord>>,
    /// What the template asked for.
    pub asked: BTreeSet<Dependency>,
    /// Digest of the template and of all data that it asked for: the same digest renders the same text.
    pub inputs: String,
    /// When this digest was first seen, and when the first one was that differs from the record's.
    pub changed_at: Timestamp,
    pub unwritten_since: Timestamp,
    /// Why running it ends without a text, whatever the time: with the template's name and line.
    pub error: Option<String>,
    /// Owner and group that the spec names, as numbers; an error when the host does not know them.
    pub owner: Result<(Option<u32>, Option<u32>), String>,
}

/// What stands at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Missing,
    File(FileSeen),
    /// A folder, a device: in words.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSeen {
    /// SHA-256, in hexadecimal digits.
    pub digest: String,
    /// `None`: it is no text, or too long to be shown.
    pub text: Option<Arc<str>>,
    /// The last twelve bits.
    pub mode: u32,
    pub user: u32,
    pub group: u32,
}

/// What is kept of a template in reeve's folder: the mark that its command is pending among it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// Where it was written.
    pub destination: PathBuf,
    /// Digest of the text; empty: nothing was written yet.
    pub text: String,
    /// As [`TemplateSeen::inputs`].
    pub inputs: String,
    /// When the data last changed: what `timestamp()` is.
    pub changed_at: Timestamp,
    /// How many entries each answer had, by the dependency's words.
    pub sizes: BTreeMap<String, usize>,
    /// The containers of this host behind the entries of an answer, by the dependency's words and the entry (several with
    /// blanks between): what leaves with its containers is no sudden loss.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own: BTreeMap<String, BTreeMap<String, String>>,
    /// Digest of what stood there before; `None`: nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The command and the signal that follow have not succeeded since it was written.
    pub pending: bool,
    /// The last thing that failed, until it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<TemplateFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateFailure {
    pub stage: TemplateStage,
    /// Digest of the text that it was about.
    pub text: String,
    pub since: Timestamp,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateStage {
    Check,
    Write,
    /// The command, or the signal.
    Command,
}

/// Something that a template asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    Service {
        name: String,
        tag: Option<String>,
        datacenter: Option<String>,
        near: Option<String>,
        /// Words of consul-template; empty: any.
        statuses: BTreeSet<String>,
    },
    Services {
        datacenter: Option<String>,
    },
    Nodes {
        datacenter: Option<String>,
        near: Option<String>,
    },
    /// `None`: the agent's own node.
    Node {
        name: Option<String>,
        datacenter: Option<String>,
    },
    Key {
        path: String,
        datacenter: Option<String>,
    },
    /// Every key that begins so.
    Keys {
        prefix: String,
        datacenter: Option<String>,
    },
    Datacenters,
    /// A variable of reeve's own environment.
    Environment(String),
    File(PathBuf),
}

impl Dependency {
    /// Consul is asked for it.
    pub fn of_consul(&self) -> bool {
        !matches!(self, Self::Environment(_) | Self::File(_))
    }
}

/// As it stands in a template.
impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |part: &Option<String>| part.as_ref().map(|part| format!("@{part}")).unwrap_or_default();
        let near = |part: &Option<String>| part.as_ref().map(|part| format!("~{part}")).unwrap_or_default();
        match self {
            Self::Service { name, tag, datacenter, near: close, statuses } => {
                let tag = tag.as_ref().map(|tag| format!("{tag}.")).unwrap_or_default();
                let statuses = match statuses.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["passing"] => String::new(),
                    [] => "|any".to_owned(),
                    ref some => format!("|{}", some.join(",")),
                };
                // Else what stands before the last dot is a tag.
                let dots = if tag.is_empty() && name.contains('.') { ", dots=true" } else { "" };
                write!(f, "service({tag}{name}{}{}{statuses}{dots})", at(datacenter), near(close))
            }
            Self::Services { datacenter } => write!(f, "services({})", at(datacenter)),
            Self::Nodes { datacenter, near: close } => write!(f, "nodes({}{})", at(datacenter), near(close)),
            Self::Node { name, datacenter } => {
                write!(f, "node({}{})", name.as_deref().unwrap_or_default(), at(datacenter))
            }
            Self::Key { path, datacenter } => write!(f, "key({path}{})", at(datacenter)),
            Self::Keys { prefix, datacenter } => write!(f, "tree({prefix}{})", at(datacenter)),
            Self::Datacenters => f.write_str("datacenters()"),
            Self::Environment(name) => write!(f, "env({name})"),
            Self::File(path) => write!(f, "file({})", path.display()),
        }
    }
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As templates see it: consul-template's fields under its names. `null`: there is no such thing.
    pub data: serde_json::Value,
    /// What tells its entries apart: an answer that lost some is told by them.
    pub entries: BTreeSet<String>,
    /// When it last lost an entry, or since when this process asks for it.
    pub shrunk_at: Timestamp,
}
