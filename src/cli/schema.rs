//! `reeve schema`: the JSON Schema of the spec, for editors.

use super::{Exit, Output};

/// # Errors
/// When it cannot be printed.
pub fn run(_output: &mut Output) -> anyhow::Result<Exit> {
    anyhow::bail!("`reeve schema` is not wired yet")
}
