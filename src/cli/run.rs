//! `reeve run`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::signals::{Signal, Signals};
use super::{Context, Exit, project, runtime};
use crate::controller::Controller;
use crate::controller::source::SpecSource;
use crate::controller::trigger::Trigger;
use crate::http::{Server, Shared};
use crate::lock::Lock;
use crate::metrics::Metrics;
use crate::settings::{Loaded, Settings};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve run                  Keep everything as the spec says.
  reeve run --observe        The first day of a migration: metrics and status tell what
                             it would do, and nothing is written.

Events wake it, and it looks at least every 30 s. SIGHUP reads the settings again.
SIGTERM and SIGINT end it within 2 s; the services go on running.")]
pub struct RunArguments {
    /// Plan and export what differs, and write nothing at all.
    #[arg(long)]
    pub observe: bool,
}

/// # Errors
/// When the daemon cannot start.
pub fn run(context: &mut Context, arguments: &RunArguments) -> anyhow::Result<Exit> {
    let runtime = runtime()?;
    let result = runtime.block_on(daemon(context, arguments));
    // A blocking task of a library must not keep a daemon alive that was told to end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn daemon(context: &mut Context, arguments: &RunArguments) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let mut source = project::open(context)?;
    let name = source.spec().project.clone();
    // One that only looks is no writer.
    let _lock = match arguments.observe {
        true => None,
        false => Some(Lock::acquire(&context.settings.lock_path(&name))?),
    };
    let metrics = Arc::new(Metrics::new()?);
    let shared = Shared::new(Arc::clone(&metrics), context.settings.loop_.resync);
    let end = CancellationToken::new();
    let server = match context.settings.http.listen {
        Some(address) => {
            let server = Server::bind(address).await?;
            info!(address = %server.address(), "answers /metrics, /healthz, /readyz, /v1/status, /v1/plan, /v1/explain");
            Some(tokio::spawn(server.run(Arc::clone(&shared), end.clone())))
        }
        None => None,
    };
    loop {
        let engine = Arc::new(project::engine(context, &name)?);
        match arguments.observe {
            true => info!(owner = %engine.owner, "observes, and writes nothing"),
            false => info!(owner = %engine.owner, "keeps everything as the spec says"),
        }
        let stop = CancellationToken::new();
        let controller = Controller {
            engine,
            source,
            metrics: Arc::clone(&metrics),
            shared: Arc::clone(&shared),
            trigger: Trigger::default(),
            observe_only: arguments.observe,
        };
        let mut task = tokio::spawn(controller.run(stop.clone()));
        let next = loop {
            tokio::select! {
                ended = &mut task => {
                    end.cancel();
                    ended?;
                    anyhow::bail!("the loop ended by itself, which is a defect; a supervisor should start the daemon anew");
                }
                signal = signals.next() => match signal {
                    Signal::End => break None,
                    Signal::Reload => match reread(context, &name) {
                        Ok(next) => break Some(next),
                        Err(error) => error!("SIGHUP: the settings or the spec are invalid; nothing is taken over: {error:#}"),
                    },
                },
            }
        };
        stop.cancel();
        task.await?;
        match next {
            Some((settings, next_source)) => {
                for key in context.settings.reload(settings) {
                    warn!(key, "changed in the settings, and is taken only by a restart");
                }
                if let Err(error) = context.logging.set_level(&context.settings.log.level) {
                    warn!("log.level: {error:#}");
                }
                shared.set_resync(context.settings.loop_.resync);
                source = next_source;
                info!("SIGHUP: the settings were read again");
            }
            None => {
                info!("ends; the services go on running");
                end.cancel();
                if let Some(server) = server {
                    server.await?;
                }
                return Ok(Exit::Success);
            }
        }
    }
}

/// Settings and spec anew, both valid, or nothing.
fn reread(context: &Context, name: &str) -> anyhow::Result<(Settings, SpecSource)> {
    let Loaded { settings, warnings, .. } = Settings::load(&context.sources)?;
    for warning in warnings {
        warn!("{warning}");
    }
    let options = project::load_options(&settings, context.global.project.as_deref(), false)?;
    let source = SpecSource::open(options).map_err(|diagnostics| anyhow::anyhow!(diagnostics.line()))?;
    anyhow::ensure!(
        source.spec().project == name,
        "the project's name changed from {name} to {}; end the daemon, `reeve destroy`, and start it anew",
        source.spec().project
    );
    Ok((settings, source))
}
