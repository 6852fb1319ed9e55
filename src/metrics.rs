//! Metrics, in Prometheus' text format.
//!
//! Owns every name, label and help text, and is the only module that knows the `prometheus` crate. Counters and
//! histograms grow over the life of the process; gauges describe the last pass alone and are written anew by each, so that
//! the series of a removed object disappears. What is unknown has no series: a missing figure must not look like zero.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::observed::Loaded;
use crate::pass::{Applied, Pass};
use crate::plan::{Action, NginxAction, System};
use crate::status::Status;
use crate::world::WakeSource;

/// What went wrong in making or encoding a metric: a wrong name, or one that exists twice.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

const SYSTEMS: [System; 5] = [System::Docker, System::Consul, System::Nginx, System::Directory, System::Templates];
const SOURCES: [WakeSource; 9] = [
    WakeSource::DockerEvent,
    WakeSource::ConsulChange,
    WakeSource::NginxChange,
    WakeSource::SpecFile,
    WakeSource::Pin,
    WakeSource::Signal,
    WakeSource::Timer,
    WakeSource::OwnWrite,
    WakeSource::TemplateFile,
];

/// All metrics of one daemon. Its own registry, so that two in one process (tests) do not meet.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    passes: IntCounterVec,
    pass_seconds: Histogram,
    actions: IntCounterVec,
    drift: IntCounterVec,
    events: IntCounterVec,
    wakeups: IntCounterVec,
    reloads: IntCounterVec,
    reload_seconds: Histogram,
    change_to_loaded_seconds: Histogram,
    last_success: Gauge,
    spec_valid: IntGauge,
    spec_info: IntGaugeVec,
    /// Behind a lock, so that nobody reads between the removal of old series and the writing of new ones.
    last_pass: Mutex<LastPass>,
}

/// Gauges that each pass writes anew.
#[derive(Debug)]
struct LastPass {
    planned: IntGaugeVec,
    drift: IntGaugeVec,
    waiting: IntGaugeVec,
    backoff: IntGauge,
    backend_known: IntGaugeVec,
    wanted: IntGaugeVec,
    running: IntGaugeVec,
    healthy: IntGaugeVec,
    rollout_failed: IntGaugeVec,
    registrations: IntGaugeVec,
    pinned: IntGaugeVec,
    endpoints: IntGaugeVec,
    discovered: IntGaugeVec,
    generation: IntGaugeVec,
    generation_matches: IntGaugeVec,
    worker_generations: IntGaugeVec,
    template_in_place: IntGaugeVec,
    template_pending: IntGaugeVec,
    template_failing: IntGaugeVec,
}

impl LastPass {
    fn vectors(&self) -> [&IntGaugeVec; 18] {
        [
            &self.planned,
            &self.drift,
            &self.waiting,
            &self.backend_known,
            &self.wanted,
            &self.running,
            &self.healthy,
            &self.rollout_failed,
            &self.registrations,
            &self.pinned,
            &self.endpoints,
            &self.discovered,
            &self.generation,
            &self.generation_matches,
            &self.worker_generations,
            &self.template_in_place,
            &self.template_pending,
            &self.template_failing,
        ]
    }
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let metric = IntGauge::new(name, help)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

impl Metrics {
    /// Makes and registers all of them, those of the process (`process_…`) among them.
    ///
    /// # Errors
    /// Only when a name is wrong or used twice, which is a defect of this module.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let last_success = Gauge::new(
            "reeve_last_success_timestamp_seconds",
            "Time of the end of the last pass in which every backend was known and no action failed.",
        )?;
        registry.register(Box::new(last_success.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build = make.gauges("reeve_build_info", "Version of reeve; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let metrics = Self {
            passes: make.counters(
                "reeve_passes_total",
                "Passes by result: idle (nothing to do), applied (every step succeeded), failed (some step failed).",
                &["result"],
            )?,
            pass_seconds: make.histogram(
                "reeve_pass_duration_seconds",
                "Duration of a pass: observe, plan, apply.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            actions: make.counters(
                "reeve_actions_total",
                "Executed actions by system, kind and result (ok, conflict, transient, permanent).",
                &["system", "kind", "result"],
            )?,
            drift: make.counters(
                "reeve_drift_total",
                "Executed actions that put right what differed from an earlier pass, by system.",
                &["system"],
            )?,
            events: make.counters("reeve_events_total", "Changes that were heard of, by source.", &["source"])?,
            wakeups: make.counters(
                "reeve_wakeups_total",
                "Passes that were begun because of a source; several events of one moment wake once.",
                &["source"],
            )?,
            reloads: make.counters("reeve_nginx_reloads_total", "Reloads of nginx by result.", &["result"])?,
            reload_seconds: make.histogram(
                "reeve_nginx_reload_duration_seconds",
                "Time from the reload's signal until every worker was seen to run the new generation.",
                &[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0],
            )?,
            change_to_loaded_seconds: make.histogram(
                "reeve_change_to_loaded_seconds",
                "Time from a change (the event's own time) until nginx was seen to have loaded what follows from it.",
                &[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
            )?,
            last_success,
            spec_valid: make.gauge(
                "reeve_spec_valid",
                "1 when the spec's files are valid; 0 when they are not and the last good spec stays in force.",
            )?,
            spec_info: make.gauges("reeve_spec_info", "Digest of the spec in force; always 1.", &["digest"])?,
            last_pass: Mutex::new(LastPass::new(&make)?),
            registry,
        };
        metrics.begin_at_zero();
        Ok(metrics)
    }

    /// Counters exist before their first event, so that the first one shows as an increase.
    fn begin_at_zero(&self) {
        for result in ["idle", "applied", "failed"] {
            self.passes.with_label_values(&[result]);
        }
        for result in ["ok", "failed"] {
            self.reloads.with_label_values(&[result]);
        }
        for system in SYSTEMS {
            self.drift.with_label_values(&[system.name()]);
        }
        for source in SOURCES {
            self.events.with_label_values(&[source.name()]);
            self.wakeups.with_label_values(&[source.name()]);
        }
    }

    /// A change was heard of.
    pub fn observe_event(&self, source: WakeSource) {
        self.events.with_label_values(&[source.name()]).inc();
    }

    /// A pass begins because of this source.
    pub fn observe_wake(&self, source: WakeSource) {
        self.wakeups.with_label_values(&[source.name()]).inc();
    }

    /// nginx was seen to have loaded what follows from a change that happened so long ago.
    pub fn observe_change_to_loaded(&self, took: Duration) {
        self.change_to_loaded_seconds.observe(took.as_secs_f64());
    }

    /// The spec's files were read: are they valid, and which spec is in force now.
    pub fn spec(&self, valid: bool, digest: &str) {
        let _guard = self.lock();
        self.spec_valid.set(i64::from(valid));
        self.spec_info.reset();
        self.spec_info.with_label_values(&[digest]).set(1);
    }

    /// A pass has ended. `status` is [`Status::of`] the same pass.
    pub fn observe_pass(&self, pass: &Pass, status: &Status) {
        let failed = pass.applied.iter().any(|applied| applied.result.is_err());
        let result = match (failed, pass.applied.is_empty()) {
            (true, _) => "failed",
            (false, true) => "idle",
            (false, false) => "applied",
        };
        self.passes.with_label_values(&[result]).inc();
        self.pass_seconds.observe(pass.took.as_secs_f64());
        if !failed && status.all_known() {
            let end = pass.started_at.as_duration().as_secs_f64() + pass.took.as_secs_f64();
            self.last_success.set(end);
        }
        for applied in &pass.applied {
            self.observe_action(applied);
        }
        self.lock().write(pass, status);
    }

    fn observe_action(&self, applied: &Applied) {
        self.actions.with_label_values(&[applied.system.name(), applied.kind, applied.result_word()]).inc();
        if applied.drift && applied.result.is_ok() {
            self.drift.with_label_values(&[applied.system.name()]).inc();
        }
        if applied.kind == "reload" {
            let result = if applied.result.is_ok() { "ok" } else { "failed" };
            self.reloads.with_label_values(&[result]).inc();
            self.reload_seconds.observe(applied.took.as_secs_f64());
        }
    }

    /// The text that `/metrics` answers.
    ///
    /// # Errors
    /// Only when a metric is inconsistent, which is a defect of this module.
    pub fn encode(&self) -> Result<String, MetricsError> {
        let families = {
            let _guard = self.lock();
            self.registry.gather()
        };
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A panic while the lock was held leaves gauges that the next pass writes anew.
    fn lock(&self) -> MutexGuard<'_, LastPass> {
        self.last_pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LastPass {
    fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            planned: make.gauges("reeve_planned_steps", "Steps that the last plan had, by system.", &["system"])?,
            drift: make.gauges(
                "reeve_drift_steps",
                "Steps of the last plan that are drift (the world differs from what an earlier pass made), by system.",
                &["system"],
            )?,
            waiting: make.gauges(
                "reeve_waiting_objects",
                "Objects that wait, by the reason's fixed word; backoff: failed and tried again later.",
                &["reason"],
            )?,
            backoff: make.gauge("reeve_backoff_objects", "Objects whose steps failed and are tried again later.")?,
            backend_known: make.gauges(
                "reeve_backend_known",
                "1 when the backend could be read in the last pass, else 0.",
                &["backend"],
            )?,
            wanted: make.gauges(
                "reeve_containers_wanted",
                "Replicas that the spec wants, by service.",
                &["service"],
            )?,
            running: make.gauges("reeve_containers_running", "Replicas that run, by service.", &["service"])?,
            healthy: make.gauges(
                "reeve_containers_healthy",
                "Replicas that run and are not known to be unhealthy, by service.",
                &["service"],
            )?,
            rollout_failed: make.gauges(
                "reeve_rollout_failed",
                "1 while the last roll-out of a service has failed and is paused or rolled back, else 0.",
                &["service"],
            )?,
            registrations: make.gauges(
                "reeve_registrations_passing",
                "Replicas whose registrations in Consul all pass and are not in maintenance, by service.",
                &["service"],
            )?,
            pinned: make.gauges(
                "reeve_service_pinned",
                "Decisions in force for a service; always 1. hold: nothing is corrected; rolled_back: by command; failed: rolled back since the roll-out failed.",
                &["service", "pin"],
            )?,
            endpoints: make.gauges(
                "reeve_upstream_endpoints",
                "Endpoints that the loaded generation routes to, by upstream.",
                &["upstream"],
            )?,
            discovered: make.gauges(
                "reeve_discovered_registrations",
                "Registrations of containers that reeve did not make, by their status in Consul.",
                &["status"],
            )?,
            generation: make.gauges(
                "reeve_nginx_generation_info",
                "Generation that nginx has loaded; always 1, several while a reload is under way.",
                &["id"],
            )?,
            generation_matches: make.gauges(
                "reeve_nginx_generation_matches",
                "1 when every live worker runs the generation that is wanted, else 0.",
                &[],
            )?,
            worker_generations: make.gauges(
                "reeve_nginx_worker_generations",
                "Generations that live workers run, those of workers that are shutting down among them.",
                &[],
            )?,
            template_in_place: make.gauges(
                "reeve_template_in_place",
                "1 when the file is what the template renders from the data of now, else 0; by template.",
                &["template"],
            )?,
            template_pending: make.gauges(
                "reeve_template_command_pending",
                "1 while the command or signal of a template has not succeeded since its file was written, else 0.",
                &["template"],
            )?,
            template_failing: make.gauges(
                "reeve_template_failing",
                "1 while a template cannot be rendered, its check refuses it or its command fails, else 0.",
                &["template"],
            )?,
        })
    }

    fn write(&self, pass: &Pass, status: &Status) {
        for vector in self.vectors() {
            vector.reset();
        }
        for system in SYSTEMS {
            self.planned.with_label_values(&[system.name()]);
            self.drift.with_label_values(&[system.name()]);
        }
        for step in &pass.plan.steps {
            let system = step.action.system();
            self.planned.with_label_values(&[system.name()]).inc();
            if step.drift {
                self.drift.with_label_values(&[system.name()]).inc();
            }
        }
        for waiting in status.all_waiting() {
            self.waiting.with_label_values(&[waiting.kind.as_str()]).inc();
        }
        self.backoff.set(count(pass.held.len()));
        for backend in &status.backends {
            self.backend_known.with_label_values(&[backend.name.as_str()]).set(i64::from(backend.known));
        }
        for service in &status.services {
            let name = [service.name.as_str()];
            self.wanted.with_label_values(&name).set(i64::from(service.desired));
            let failed = service.waiting.iter().any(|waiting| waiting.kind == "roll_failed");
            self.rollout_failed.with_label_values(&name).set(i64::from(failed));
            for (figure, vector) in [
                (service.running, &self.running),
                (service.healthy, &self.healthy),
                (service.registered, &self.registrations),
            ] {
                if let Some(known) = figure.known() {
                    vector.with_label_values(&name).set(i64::from(known));
                }
            }
            for pin in &service.pins {
                self.pinned.with_label_values(&[service.name.as_str(), pin.as_str()]).set(1);
            }
        }
        for upstream in &status.upstreams {
            if let Some(endpoints) = &upstream.endpoints {
                self.endpoints.with_label_values(&[upstream.name.as_str()]).set(count(endpoints.len()));
            }
        }
        for one in &status.discovered {
            self.discovered.with_label_values(&[one.status.as_str()]).inc();
        }
        for template in &status.templates {
            let name = [template.name.as_str()];
            let stuck = template.waiting.iter().any(|one| one.kind.starts_with("template_f") || one.kind == "backoff");
            self.template_in_place.with_label_values(&name).set(i64::from(template.in_place));
            self.template_pending.with_label_values(&name).set(i64::from(template.pending));
            self.template_failing.with_label_values(&name).set(i64::from(stuck || template.failed.is_some()));
        }
        let Some(nginx) = pass.observed.nginx.known() else { return };
        let loaded = status.nginx.as_ref().map(|nginx| nginx.loaded.as_slice()).unwrap_or_default();
        for id in loaded {
            self.generation.with_label_values(&[id.as_str()]).set(1);
        }
        // The loaded generation may be current and yet not the one that the spec asks for.
        let pending = pass.plan.steps.iter().any(|step| match &step.action {
            Action::Nginx(NginxAction::RemoveGeneration { .. } | NginxAction::QuitOrphans { .. }) => false,
            Action::Nginx(_) => true,
            Action::Docker(_) | Action::Consul(_) | Action::Directory(_) | Action::Template(_) => false,
        });
        let matches = status.nginx.as_ref().is_some_and(|nginx| nginx.matches) && !pending;
        let none: [&str; 0] = [];
        self.generation_matches.with_label_values(&none).set(i64::from(matches));
        let live = match &nginx.loaded {
            Loaded::Nothing | Loaded::Stranger(_) => 0,
            Loaded::Generation(_) => 1,
            Loaded::Mixed(ids) => ids.len(),
        };
        self.worker_generations.with_label_values(&none).set(count(live + nginx.retiring_workers));
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
