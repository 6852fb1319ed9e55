//! What can go wrong between us and the engine, in words.
//!
//! Owns the one place where bollard's errors are read. A `Fault` says what happened; the caller says on which object, and
//! `Fault::action` decides what the loop does about it. Messages carry the whole chain of causes: Display of an HTTP
//! client's error alone says no more than "client error".

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use bollard::errors::Error as BollardError;

use crate::world::ActionError;

/// One failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The settings cannot lead to any engine.
    Settings(String),
    /// Nothing answered: the request had no effect.
    Unreachable(String),
    /// No answer in time: the request may have had its effect.
    Late(Duration),
    /// The answer was lost or could not be read: the request may have had its effect.
    Broken(String),
    /// The engine refused.
    Refused { status: u16, message: String },
    /// The engine reported an error in the middle of a stream (a pull).
    Stream(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(why) => f.write_str(why),
            Self::Unreachable(why) => {
                write!(f, "the engine cannot be reached: {why}. Is dockerd running, and is docker.host right?")
            }
            Self::Late(limit) => write!(f, "no answer within {} s", limit.as_secs_f32()),
            Self::Broken(why) => write!(f, "the answer was lost or cannot be read: {why}"),
            Self::Refused { status, message } if message.is_empty() => write!(f, "the engine answered {status}"),
            Self::Refused { status, message } => write!(f, "{message} ({status})"),
            Self::Stream(message) => f.write_str(message),
        }
    }
}

impl From<BollardError> for Fault {
    fn from(error: BollardError) -> Self {
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, message: message.trim().to_owned() }
            }
            BollardError::DockerStreamError { error } => Self::Stream(error),
            BollardError::SocketNotFoundError(path) => Self::Unreachable(format!("there is no socket {path}")),
            BollardError::HyperLegacyError { err } if err.is_connect() => Self::Unreachable(chain(&err)),
            BollardError::HyperLegacyError { err } => Self::Broken(chain(&err)),
            BollardError::CertPathError { .. }
            | BollardError::CertMultipleKeys { .. }
            | BollardError::CertParseError { .. }
            | BollardError::NoNativeCertsError { .. }
            | BollardError::LoadNativeCertsErrors { .. }
            | BollardError::UnsupportedURISchemeError { .. } => Self::Settings(chain(&error)),
            other => Self::Broken(chain(&other)),
        }
    }
}

impl Fault {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Settings(_) | Self::Unreachable(_) | Self::Late(_) | Self::Broken(_) | Self::Stream(_) => None,
        }
    }

    pub(super) fn not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// The engine may have gone away, or come back as another version.
    pub(super) fn lost_engine(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) => true,
            // "client version 1.51 is too new": the engine was replaced by an older one.
            Self::Refused { status, message } => *status == 400 && message.contains("client version"),
            Self::Settings(_) | Self::Late(_) | Self::Stream(_) => false,
        }
    }

    /// What the loop does about it when no caller knows better. `what`: the action and its object.
    pub(super) fn action(self, what: &str) -> ActionError {
        let text = format!("{what}: {self}");
        match self {
            Self::Settings(_) => ActionError::Permanent(text),
            Self::Unreachable(_) | Self::Stream(_) => ActionError::Transient(text),
            Self::Late(_) | Self::Broken(_) => {
                ActionError::Transient(format!("{text}; it may have been done all the same, the next look will tell"))
            }
            Self::Refused { status: 404 | 409, .. } => ActionError::Conflict(text),
            Self::Refused { status, .. } if status < 500 => ActionError::Permanent(text),
            Self::Refused { .. } => ActionError::Transient(text),
        }
    }
}

/// An error and its causes, `a: b: c`. A cause that its parent has already quoted is not repeated.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_sorted_by_what_the_loop_does_about_it() {
        let refused = |status| Fault::Refused { status, message: "no".to_owned() }.action("create container x");
        assert!(matches!(refused(400), ActionError::Permanent(_)));
        assert!(matches!(refused(403), ActionError::Permanent(_)));
        assert!(matches!(refused(404), ActionError::Conflict(_)));
        assert!(matches!(refused(409), ActionError::Conflict(_)));
        assert!(matches!(refused(500), ActionError::Transient(_)));
        assert_eq!(refused(500).to_string(), "create container x: no (500)");
    }

    #[test]
    fn a_lost_reply_says_that_the_change_may_have_happened() {
        let error = Fault::Late(Duration::from_secs(60)).action("start container x");
        assert!(matches!(error, ActionError::Transient(_)));
        assert_eq!(
            error.to_string(),
            "start container x: no answer within 60 s; it may have been done all the same, the next look will tell"
        );
    }
}
