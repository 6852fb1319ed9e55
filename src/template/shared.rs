//! What the functions of one run share: the answers, and the record of what was asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

use crate::observed::{Answers, Dependency, View};
use crate::spec::Template;

pub(super) struct Shared {
    pub answers: Arc<Answers>,
    pub at: Timestamp,
    /// What is not known yet counts as empty, and what follows from that is no error: only what is asked for matters.
    pub lenient: bool,
    pub error_on_missing: bool,
    /// Where relative paths begin.
    pub folder: PathBuf,
    asked: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    asked: BTreeSet<Dependency>,
    missing: BTreeSet<Dependency>,
}

/// What a function gets for a dependency.
pub(super) enum Got<'a> {
    Data(&'a Json),
    /// Go on with something empty.
    Nothing,
}

impl Shared {
    pub fn new(template: &Template, answers: Arc<Answers>, at: Timestamp, lenient: bool) -> Self {
        Self {
            answers,
            at,
            lenient,
            error_on_missing: template.error_on_missing,
            folder: template.folder.clone(),
            asked: Mutex::default(),
        }
    }

    /// The answer; what has none is noted.
    pub fn ask(&self, dependency: Dependency) -> Result<Got<'_>, Error> {
        // Sets that are whole after every statement.
        let mut record = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        record.asked.insert(dependency.clone());
        match self.answers.get(&dependency) {
            Some(View::Known(answer)) => Ok(Got::Data(&answer.data)),
            Some(View::Unknown { .. }) if self.lenient => Ok(Got::Nothing),
            Some(View::Unknown { reason, .. }) => Err(problem(format!("{dependency} cannot be read: {reason}"))),
            None => {
                record.missing.insert(dependency);
                Ok(Got::Nothing)
            }
        }
    }

    /// What was asked for, and what of it has no answer.
    pub fn take(&self) -> (BTreeSet<Dependency>, BTreeSet<Dependency>) {
        let mut record = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Record { asked, missing } = std::mem::take(&mut *record);
        (asked, missing)
    }
}

/// A message of our own, which holds no value that may be a secret.
#[derive(Debug)]
struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

pub(super) fn problem(message: impl Into<String>) -> Error {
    let message = message.into();
    Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Problem(message))
}

/// The message, if it is one of ours.
pub(super) fn own(error: &Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(one) = source {
        if let Some(problem) = one.downcast_ref::<Problem>() {
            return Some(problem.0.clone());
        }
        source = one.source();
    }
    None
}

/// Data as templates see them.
pub(super) fn data(data: &impl serde::Serialize) -> minijinja::Value {
    minijinja::Value::from(minijinja::value::Serde(data))
}

/// A value as Go prints it. Lists and maps as data: nobody wants them otherwise.
pub(super) fn text(value: &minijinja::Value) -> String {
    use minijinja::value::ValueKind;
    match value.kind() {
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::None | ValueKind::Undefined => String::new(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => serde_json::to_string(value).unwrap_or_default(),
        _ => value.to_string(),
    }
}
