//! What a plan shows of the files that templates render: a unified diff, or how many lines change.
//!
//! A file that not everybody may read may hold secrets: its lines are counted and not shown.

use super::action::{Action, NewFile, TemplateAction};
use super::preview::Preview;
use crate::observed::{Destination, Observed, View};

const WORLD_READABLE: u32 = 0o004;
/// Lines of one file's diff.
const MOST_LINES: usize = 400;

/// The diffs of every file that some wave writes.
pub(super) fn lines(preview: &Preview, observed: &Observed) -> Vec<String> {
    let steps = preview.waves.iter().flat_map(|wave| &wave.steps);
    let written = steps.filter_map(|step| match &step.action {
        Action::Template(TemplateAction::Write(new)) => Some(new),
        _ => None,
    });
    written.flat_map(|new| of_file(new, observed)).collect()
}

fn of_file(new: &NewFile, observed: &Observed) -> Vec<String> {
    let seen = observed.templates.seen.get(&new.name).and_then(View::known);
    let name = new.record.destination.display().to_string();
    let (old, mode, readable) = match seen.map(|seen| &seen.destination) {
        Some(Destination::File(file)) => match &file.text {
            Some(text) => (&**text, file.mode, true),
            None => ("", file.mode, false),
        },
        Some(Destination::Missing | Destination::Other(_)) | None => ("", new.mode, true),
    };
    if !readable {
        return vec![format!("{name}: replaced; what is there is no text, or too long to be shown")];
    }
    let diff = similar::TextDiff::from_lines(old, &*new.text);
    if new.mode & WORLD_READABLE == 0 || mode & WORLD_READABLE == 0 {
        let count = |tag| diff.iter_all_changes().filter(|change| change.tag() == tag).count();
        let (added, removed) = (count(similar::ChangeTag::Insert), count(similar::ChangeTag::Delete));
        return vec![format!(
            "{name}: {added} lines added, {removed} removed (not shown: mode {:04o} may hold secrets)",
            new.mode
        )];
    }
    let before = if old.is_empty() { "/dev/null" } else { &name };
    let unified = diff.unified_diff().context_radius(3).header(before, &name).to_string();
    let mut lines: Vec<String> = unified.lines().map(str::to_owned).collect();
    if let Some(more) = lines.len().checked_sub(MOST_LINES).filter(|more| *more > 0) {
        lines.truncate(MOST_LINES);
        lines.push(format!("… and {more} more lines of {name}"));
    }
    lines
}
