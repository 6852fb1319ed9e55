//! What several commands begin with: the spec as the settings and the command line name it, and the engine for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Context;
use crate::controller::source::SpecSource;
use crate::engine::Engine;
use crate::settings::{NginxMode, Settings};
use crate::spec::load::LoadOptions;

/// How the spec is read, by the settings.
pub fn load_options(settings: &Settings, project: Option<&str>, strict: bool) -> anyhow::Result<LoadOptions> {
    anyhow::ensure!(
        !settings.spec.is_empty(),
        "no spec is named; give one with `-f FILE`, or set `spec` in the settings (REEVE_SPEC)"
    );
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(LoadOptions {
        files: settings.spec.iter().map(|path| as_typed(path)).collect(),
        project: project.map(str::to_owned),
        environment,
        strict,
        profiles: BTreeSet::new(),
        probe: (settings.nginx.mode == NginxMode::Host).then_some(settings.nginx.probe),
        templates_allow: None,
    })
}

/// A path below the current directory as one would type it, for messages.
fn as_typed(path: &Path) -> PathBuf {
    let current = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(&current) {
        Ok(relative) if !relative.as_os_str().is_empty() => relative.to_owned(),
        Ok(_) | Err(_) => path.to_owned(),
    }
}

/// Reads the spec; its warnings go to the log.
pub fn open(context: &Context) -> anyhow::Result<SpecSource> {
    let options = load_options(&context.settings, context.global.project.as_deref(), false)?;
    let coloured = context.global.color.coloured_stderr();
    let mut source = SpecSource::open(options).map_err(|diagnostics| anyhow::anyhow!(diagnostics.render(coloured)))?;
    for warning in source.take_warnings() {
        tracing::warn!("{warning}");
    }
    Ok(source)
}

/// The engine for a project, and nothing contacted yet.
pub fn engine(context: &Context, project: &str) -> anyhow::Result<Engine> {
    Engine::new(context.settings.clone(), project)
}
