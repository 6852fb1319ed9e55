//! The status of each template: whether its file is in place, whether a command is pending, what fails.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::WaitingStatus;
use crate::observed::{Dependency, Destination, Observed, TemplateRecord, TemplateSeen, View};
use crate::spec::Template;
use crate::template;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateStatus {
    pub name: String,
    pub destination: String,
    /// The file is what the template renders from the data of now.
    pub in_place: bool,
    /// The command or the signal that follows has not succeeded since the file was written.
    pub pending: bool,
    /// When the data last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Timestamp>,
    /// What failed last, and since when; none once it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_since: Option<Timestamp>,
    /// What it asked for, and how many entries that has; none: it cannot be read.
    pub dependencies: Vec<DependencyStatus>,
    pub waiting: Vec<WaitingStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyStatus {
    pub name: String,
    pub entries: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl TemplateStatus {
    pub(super) fn of(template: &Template, observed: &Observed, waiting: Vec<WaitingStatus>) -> Self {
        let seen = observed.templates.seen.get(&template.name).and_then(View::known);
        let record = seen.and_then(|seen| seen.record.as_deref());
        let in_place = seen.is_some_and(|seen| match &seen.destination {
            Destination::File(file) => {
                let noted = |record: &TemplateRecord| file.digest == record.text && record.inputs == seen.inputs;
                record.is_some_and(noted) || renders(template, observed, seen, &file.digest)
            }
            Destination::Missing | Destination::Other(_) => false,
        });
        let failed = record.and_then(|record| record.failed.as_ref());
        let dependency = |dependency: &Dependency| {
            let (entries, reason) = match observed.templates.answers.get(dependency) {
                Some(View::Known(answer)) if dependency.of_consul() => (Some(answer.entries.len()), None),
                // A variable or a file: there or not.
                Some(View::Known(answer)) => (Some(usize::from(!answer.data.is_null())), None),
                Some(View::Unknown { reason, .. }) => (None, Some(reason.clone())),
                None => (None, None),
            };
            DependencyStatus { name: dependency.to_string(), entries, reason }
        };
        Self {
            name: template.name.clone(),
            destination: template.destination.display().to_string(),
            in_place,
            pending: record.is_some_and(|record| record.pending && !record.text.is_empty()),
            changed_at: seen.map(|seen| seen.changed_at),
            failed: failed.map(|failed| failed.reason.clone()),
            failed_since: failed.map(|failed| failed.since),
            dependencies: seen.into_iter().flat_map(|seen| &seen.asked).map(dependency).collect(),
            waiting,
        }
    }

    /// A word for the table.
    pub fn state(&self) -> &'static str {
        match (self.in_place, self.pending) {
            (false, _) => "not in place",
            (true, true) => "command pending",
            (true, false) => "in place",
        }
    }
}

/// Whether the data of now give this text. Asked where no record says so: of a file that somebody else has put in place.
fn renders(template: &Template, observed: &Observed, seen: &TemplateSeen, digest: &str) -> bool {
    let text = || template::run(template, &observed.templates.answers, seen.changed_at).text;
    seen.error.is_none() && text().is_ok_and(|text| template::digest(text.as_bytes()) == digest)
}
