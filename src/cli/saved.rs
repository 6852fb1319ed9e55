//! A saved plan: what `plan --out FILE` keeps and `apply FILE` holds itself to.
//!
//! It names the spec's files and the digest of what they meant, and every step that was shown. Secrets are not in it: the
//! resolved spec has digests in their place, so that applying reads the files again and refuses if they mean something else.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Context;
use crate::controller::source::SpecSource;
use crate::pass::Pass;
use crate::plan::preview::Preview;
use crate::plan::{Step, display, hidden_until};

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPlan {
    version: u32,
    project: String,
    node: String,
    /// Absolute paths of the spec's files.
    pub files: Vec<PathBuf>,
    /// `-p` of the command line.
    pub name: Option<String>,
    /// Digest of the resolved spec.
    pub spec: String,
    resolved: serde_json::Value,
    plan: serde_json::Value,
    /// Object and action of every step over all waves.
    steps: BTreeSet<(String, String)>,
    /// Why these are not all: what could not be seen.
    #[serde(default)]
    pub incomplete: Option<String>,
}

impl SavedPlan {
    pub fn of(context: &Context, source: &SpecSource, preview: &Preview) -> anyhow::Result<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let files = context.settings.spec.iter().map(absolute).collect::<Result<_, _>>()?;
        Ok(Self {
            version: VERSION,
            project: source.spec().project.clone(),
            node: context.settings.node.clone(),
            files,
            name: context.global.project.clone(),
            spec: source.spec().digest.clone(),
            resolved: source.spec().resolved(),
            plan: display::json(preview),
            steps: steps_of(preview),
            incomplete: preview.incomplete(),
        })
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".reeve-plan-")
            .tempfile_in(folder)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(())
    }

    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let saved: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a plan that `reeve plan --out` wrote", path.display()))?;
        anyhow::ensure!(
            saved.version == VERSION,
            "{} was written by another version of reeve; make the plan anew",
            path.display()
        );
        Ok(saved)
    }

    /// The step is one of those that were shown.
    pub fn lists(&self, step: &Step) -> bool {
        self.steps.contains(&key(step))
    }

    /// All that it lists is done, and what follows could not be seen when it was made.
    pub fn is_done(&self, pass: &Pass) -> bool {
        let waits = || pass.plan.waiting.iter().filter(|waiting| waiting.blocks());
        self.incomplete.is_some()
            && pass.plan.steps.is_empty()
            && pass.held.is_empty()
            && waits().all(|waiting| hidden_until(waiting.kind).is_some())
    }

    /// For a person: why the world is not as the spec says although the plan was carried out.
    pub fn rest(&self) -> Option<String> {
        let incomplete = self.incomplete.as_ref()?;
        Some(format!(
            "what the saved plan lists is done; it is incomplete ({incomplete}): make another plan for the rest"
        ))
    }

    /// Refuses when what would be done now is not what was shown.
    pub fn compare(&self, source: &SpecSource, node: &str, preview: &Preview) -> anyhow::Result<()> {
        let spec = source.spec();
        anyhow::ensure!(
            self.project == spec.project && self.node == node,
            "the plan is for {}@{}, and this is {}@{node}",
            self.project,
            self.node,
            spec.project
        );
        anyhow::ensure!(
            self.spec == spec.digest,
            "the spec's files have changed since the plan was made; make it anew"
        );
        let now = steps_of(preview);
        if now == self.steps {
            return Ok(());
        }
        let mut lines = String::new();
        for (object, action) in now.difference(&self.steps) {
            lines.push_str(&format!("\n  only now:     {object}: {action}"));
        }
        for (object, action) in self.steps.difference(&now) {
            lines.push_str(&format!("\n  only in plan: {object}: {action}"));
        }
        anyhow::bail!("the world has changed since the plan was made, and nothing was done; make it anew{lines}")
    }
}

fn steps_of(preview: &Preview) -> BTreeSet<(String, String)> {
    preview.waves.iter().flat_map(|wave| &wave.steps).map(key).collect()
}

fn key(step: &Step) -> (String, String) {
    (step.object.to_string(), step.action.kind().to_owned())
}
