//! `reeve schema`: the JSON Schema of the spec, for editors.

use super::{Exit, Output};
use crate::spec::schema;

/// # Errors
/// When it cannot be printed.
pub fn run(output: &mut Output) -> anyhow::Result<Exit> {
    output.json(&schema())?;
    Ok(Exit::Success)
}
