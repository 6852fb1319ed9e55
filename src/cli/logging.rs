//! Where log lines go and which ones: stderr, text or JSON, the level of the settings.
//!
//! The HTTP libraries write request bodies and headers at debug, with them the environment of containers and Consul's
//! token; they stay at `warn` until somebody names them.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use super::output::Color;
use crate::settings::{LogFormat, LogSettings};
use crate::style::Style;

/// Modules that write secrets at debug.
const TALKATIVE: [&str; 10] =
    ["bollard", "hyper", "hyper_util", "hyperlocal", "reqwest", "rustls", "h2", "tower", "tower_http", "axum"];
/// It warns of each watched folder that is gone before it is let go, which is every generation that reeve removes.
const NEEDLESS: &str = "notify";

/// The log of this process. Its level can change at SIGHUP.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// The settings' level as directives, with the talkative modules held back.
fn directives(level: &str) -> String {
    let own: Vec<&str> = level.split(',').map(str::trim).collect();
    let general = own.iter().find(|part| !part.contains('=')).copied().unwrap_or("off");
    // Held back, never made louder: `error` and `off` hold for them, too.
    let quiet = if matches!(general, "off" | "error") { general } else { "warn" };
    let needless = if general == "off" { "off" } else { "error" };
    TALKATIVE
        .iter()
        .map(|module| (*module, quiet))
        .chain([(NEEDLESS, needless)])
        .filter(|(module, _)| {
            !own.iter().any(|part| part.split_once('=').is_some_and(|(name, _)| name.trim() == *module))
        })
        .map(|(module, level)| format!("{module}={level}"))
        .chain(own.iter().map(|part| (*part).to_owned()))
        .collect::<Vec<_>>()
        .join(",")
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(directives(level)).map_err(|error| anyhow::anyhow!("log.level `{level}`: {error}"))
}

impl Logging {
    /// Begins to log. Once in a process.
    ///
    /// # Errors
    /// When the level's text is no filter, or the process logs already.
    pub fn begin(settings: &LogSettings, color: Color) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
        let coloured = match color {
            Color::Auto => io::stderr().is_terminal() && color.style_of_stderr() == Style::coloured(),
            Color::Always => true,
            Color::Never => false,
        };
        // A closed stderr is no reason to panic, which the fallback of this library does.
        let text = fmt::layer().with_writer(io::stderr).with_target(false).log_internal_errors(false);
        let layer = match settings.format {
            LogFormat::Text => text.with_ansi(coloured).boxed(),
            LogFormat::Json => text.with_ansi(false).json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(layer).try_init()?;
        Ok(Self { filter: handle })
    }

    /// Changes the level.
    ///
    /// # Errors
    /// When the text is no filter; the old one stays then.
    pub fn set_level(&self, level: &str) -> anyhow::Result<()> {
        self.filter.reload(filter(level)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_write_secrets_at_debug_stay_quiet_until_they_are_named() {
        let text = directives("debug");
        assert!(text.contains("bollard=warn,") && text.ends_with(",debug"), "{text}");
        let text = directives("info,hyper=debug");
        assert!(
            text.contains("hyper=debug") && !text.contains("hyper=warn") && text.contains("reqwest=warn"),
            "{text}"
        );
        assert!(directives("error").contains("bollard=error,"));
        assert!(directives("reeve=debug").contains("bollard=off,"));
    }

    #[test]
    fn every_level_that_the_settings_take_is_a_filter() {
        for level in ["off", "trace", "info,reeve::backend=debug", "warn, hyper=debug"] {
            filter(level).unwrap_or_else(|error| panic!("{level}: {error}"));
        }
    }
}
