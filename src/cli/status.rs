//! `reeve status`: of a running daemon when there is one, else by an observation of its own.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::signals::Signals;
use super::{Context, Exit, Output, daemon, project, runtime};
use crate::engine::Orders;
use crate::http::Report;
use crate::plan::Removals;
use crate::settings::Settings;

const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve status                  Show services, upstreams, and Consul's members.
  reeve status --watch          The same, until Ctrl-C.
  reeve status -o json | jq '.services[] | select(.healthy != .desired)'

With a daemon this shows its last pass, else it looks by itself. It never writes.")]
pub struct StatusArguments {
    /// Print a table for people or JSON for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: StatusFormat,

    /// Go on showing it; as JSON: one line for each change.
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    Table,
    Json,
}

/// # Errors
/// When there is no daemon and the spec is invalid.
pub fn run(context: &mut Context, arguments: &StatusArguments) -> anyhow::Result<Exit> {
    let runtime = runtime().context("the runtime cannot start")?;
    runtime.block_on(async {
        if !arguments.watch {
            let report = current(context).await?;
            print(&mut context.output, arguments.output, &report)?;
            return Ok(Exit::Success);
        }
        // Ctrl-C, and the terminal's end.
        let mut signals = Signals::listen().context("signals cannot be listened to")?;
        let mut shown = None;
        while !context.output.is_closed() {
            let report = tokio::select! {
                report = current(context) => report?,
                _ = signals.next() => break,
            };
            redraw(&mut context.output, arguments.output, &report, &mut shown)?;
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                _ = signals.next() => break,
            }
        }
        Ok(Exit::Success)
    })
}

async fn current(context: &Context) -> anyhow::Result<Report> {
    if let Some(report) = from_daemon(&context.settings, context.global.project.as_deref()).await? {
        return Ok(report);
    }
    observed(context).await
}

/// By an observation of our own, without a daemon.
async fn observed(context: &Context) -> anyhow::Result<Report> {
    let source = project::open(context)?;
    let engine = project::engine(context, &source.spec().project)?;
    let (observed, plan, at) =
        engine.look(source.spec(), Orders { removals: Removals::Held, teardown: None, dry: false }).await;
    let status = crate::status::Status::of(source.spec(), &observed, &plan, &[]);
    Ok(Report { at, node: engine.owner.node.clone(), observe_only: false, spec_refused: None, status })
}

fn print(output: &mut Output, format: StatusFormat, report: &Report) -> anyhow::Result<()> {
    match format {
        StatusFormat::Table => output.text(text(report, output))?,
        StatusFormat::Json => output.json(report)?,
    }
    Ok(())
}

/// On a terminal the table takes the place of the one before; elsewhere only a change is printed.
fn redraw(
    output: &mut Output,
    format: StatusFormat,
    report: &Report,
    shown: &mut Option<Report>,
) -> anyhow::Result<()> {
    match format {
        StatusFormat::Table if output.is_terminal() => {
            // Home, the lines one by one to their ends, and what is left below: no flicker.
            let text = text(report, output).replace('\n', "\u{1b}[K\n");
            output.text(format_args!("\u{1b}[H{text}\u{1b}[J"))?;
        }
        StatusFormat::Table | StatusFormat::Json if shown.as_ref().is_some_and(|shown| same(shown, report)) => {}
        StatusFormat::Table => {
            if shown.is_some() {
                output.text("\n")?;
            }
            print(output, format, report)?;
        }
        StatusFormat::Json => output.json_line(report)?,
    }
    *shown = Some(report.clone());
    Ok(())
}

/// They say the same, of whichever passes they are.
fn same(a: &Report, b: &Report) -> bool {
    a.status == b.status && a.spec_refused == b.spec_refused
}

fn text(report: &Report, output: &Output) -> String {
    let style = output.style();
    let mut text = String::new();
    if report.observe_only {
        let told = style.warning("The daemon only observes, it changes nothing.");
        text.push_str(&format!("{told}\n\n"));
    }
    if let Some(refused) = &report.spec_refused {
        let told = style.warning("The changed spec is refused; the last good one stays in force:");
        text.push_str(&format!("{told}\n{}\n\n", refused.trim_end()));
    }
    text.push_str(&report.status.table(Timestamp::now(), output.width(), style));
    text
}

/// The last pass of a daemon that listens where the settings say and is the one that is asked for; none: nothing listens
/// there, or it is another project's or node's.
///
/// # Errors
/// When something listens that is no reeve, or the daemon has not finished its first pass.
pub async fn from_daemon(settings: &Settings, project: Option<&str>) -> anyhow::Result<Option<Report>> {
    let Some(answer) = daemon::ask(settings, "/v1/status", &[]).await? else { return Ok(None) };
    if answer.code == reqwest::StatusCode::SERVICE_UNAVAILABLE {
        // It has just started; the same world can be seen without it.
        return Ok(None);
    }
    let report: Report = serde_json::from_str(&answer.body).map_err(|error| answer.stranger(&error))?;
    let same = report.node == settings.node && project.is_none_or(|project| project == report.status.project);
    Ok(same.then_some(report))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::{Server, Shared};
    use crate::metrics::Metrics;
    use crate::plan::Plan;
    use crate::status::{Status, tests as world};

    fn report() -> Report {
        let status = Status::of(&world::spec(), &world::observed(), &world::plan(), &[]);
        Report { at: world::at(0), node: "edge-1".to_owned(), observe_only: false, spec_refused: None, status }
    }

    #[tokio::test]
    async fn a_daemon_is_asked_and_another_projects_daemon_is_not_believed() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let mut settings = Settings::defaults("edge-1");
        settings.http.listen = Some(server.address());
        let shared = Shared::new(Arc::new(Metrics::new().expect("valid metrics")), Duration::from_secs(30));
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(Arc::clone(&shared), stop.clone()));

        assert_eq!(from_daemon(&settings, None).await.expect("no error"), None, "before the first pass");
        shared.publish(&report(), Arc::new(|| serde_json::Value::Null), None).expect("serialisable");
        assert_eq!(from_daemon(&settings, None).await.expect("no error"), Some(report()));
        assert_eq!(from_daemon(&settings, Some("other")).await.expect("no error"), None);
        settings.node = "edge-2".to_owned();
        assert_eq!(from_daemon(&settings, Some("shop")).await.expect("no error"), None);

        stop.cancel();
        task.await.expect("no panic");
        settings.node = "edge-1".to_owned();
        assert_eq!(from_daemon(&settings, None).await.expect("no error"), None, "nothing listens any more");
    }

    #[test]
    fn while_it_is_watched_elsewhere_than_on_a_terminal_only_a_change_is_printed() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut output = Output::plain(file.reopen().expect("the same file"));
        let mut shown = None;
        let mut report = report();
        for _ in 0..3 {
            redraw(&mut output, StatusFormat::Json, &report, &mut shown).expect("printed");
            report.at = world::at(1);
        }
        report.status = Status::of(&world::spec(), &world::observed(), &Plan::default(), &[]);
        redraw(&mut output, StatusFormat::Json, &report, &mut shown).expect("printed");
        let text = std::fs::read_to_string(file.path()).expect("readable");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
