//! The engine: settings, live world and renderer of one project, from which commands and the daemon make passes.
//!
//! It wires; it decides nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::apply::apply;
use crate::backend::history::History;
use crate::controller::backoff::Backoff;
use crate::explain::{Explanation, Seen, UnknownName};
use crate::history::Entry;
use crate::live::{Before, Live, generations_folder};
use crate::observed::{Interest, Observed};
use crate::pass::{Applied, Pass};
use crate::plan::gates::Gates;
use crate::plan::{self, Context, NginxContext, Plan, Removals, Step, Teardown};
use crate::render::{BUILT_IN, BUILT_IN_NAME, Renderer};
use crate::settings::{NginxMode, Settings};
use crate::spec::{Owner, Spec};
use crate::world::Observe;

pub struct Engine {
    pub settings: Settings,
    pub owner: Owner,
    renderer: Renderer,
    /// Why the template of the settings cannot be used.
    template_fault: Option<String>,
    generations: PathBuf,
    history: History,
    world: Live,
}

/// What a pass is told beside the spec.
#[derive(Debug, Clone, Copy)]
pub struct Orders {
    pub removals: Removals,
    pub teardown: Option<Teardown>,
    /// Observe and plan, and apply nothing.
    pub dry: bool,
}

/// What a pass knows of those before it.
pub struct Past<'a> {
    pub backoff: &'a mut Backoff,
    /// The one that this one follows, for what need not be looked at again.
    pub last: Option<&'a Pass>,
    /// What woke this one says nothing of nginx.
    pub beside_nginx: bool,
}

impl Engine {
    /// A template that is broken is no error: everything else goes on.
    ///
    /// # Errors
    /// When the settings of a backend are malformed. Nothing is contacted.
    pub fn new(settings: Settings, project: &str) -> anyhow::Result<Self> {
        let owner = Owner { project: project.to_owned(), node: settings.node.clone() };
        let (renderer, template_fault) = match settings.nginx.template.as_deref().map(read_template) {
            None => (Renderer::new(BUILT_IN, BUILT_IN_NAME)?, None),
            Some(Ok(renderer)) => (renderer, None),
            Some(Err(fault)) => (Renderer::new(BUILT_IN, BUILT_IN_NAME)?, Some(fault)),
        };
        let world = Live::new(&settings, &owner)?;
        let generations = generations_folder(&settings.directory);
        let history = History::new(settings.directory.clone(), owner.clone());
        Ok(Self { settings, owner, renderer, template_fault, generations, history, world })
    }

    /// The world as something that can only be read: all that a dry run gets.
    pub fn reader(&self) -> &impl Observe {
        &self.world
    }

    pub fn world(&self) -> &Live {
        &self.world
    }

    pub fn renderer(&self) -> &Renderer {
        &self.renderer
    }

    pub fn generations(&self) -> &Path {
        &self.generations
    }

    pub fn context(&self, orders: Orders) -> Context<'_> {
        let nginx = (self.settings.nginx.mode == NginxMode::Host).then(|| NginxContext {
            renderer: &self.renderer,
            template_fault: self.template_fault.as_deref(),
            start: self.settings.nginx.start,
            endpoints: self.settings.nginx.endpoints,
            max_worker_generations: self.settings.nginx.max_worker_generations,
            probe: self.settings.nginx.probe,
            generations: &self.generations,
        });
        Context {
            owner: self.owner.clone(),
            advertise: self.settings.advertise.clone(),
            nginx,
            distrust_percent: self.settings.loop_.distrust_percent,
            distrust_for: self.settings.loop_.distrust_for,
            removals: orders.removals,
            teardown: orders.teardown,
            gates: Gates::default(),
        }
    }

    pub async fn observe(&self, spec: &Spec) -> Observed {
        self.world.observe(&Interest::of(spec, &self.owner)).await
    }

    /// What is known of a service or an upstream: from an observation and its plan, and from the history. Nothing is
    /// written.
    ///
    /// # Errors
    /// When neither the spec nor the world has anything of this name.
    pub fn explain(
        &self,
        name: &str,
        of: &Seen<'_>,
        orders: Orders,
        most_actions: usize,
    ) -> Result<Explanation, UnknownName> {
        let verdicts = plan::verdicts(of.spec, of.observed, of.now, &self.context(orders));
        let mut explanation = Explanation::of(name, of, &verdicts)?;
        let asked = |entry: &Entry| explanation.is_about(entry);
        match self.history.newest(most_actions, asked) {
            Ok(entries) => explanation.actions = entries,
            Err(reason) => explanation.history_problem = Some(reason),
        }
        let failed = self.history.newest(1, |entry| entry.failed() && explanation.is_about(entry));
        explanation.last_error = failed.unwrap_or_default().pop();
        Ok(explanation)
    }

    /// Observe and plan; nothing is written.
    pub async fn look(&self, spec: &Spec, orders: Orders) -> (Observed, Plan, Timestamp) {
        let observed = self.observe(spec).await;
        self.judge(spec, orders, observed)
    }

    fn judge(&self, spec: &Spec, orders: Orders, observed: Observed) -> (Observed, Plan, Timestamp) {
        let now = Timestamp::now();
        let plan = plan::plan(spec, &observed, now, &self.context(orders));
        (observed, plan, now)
    }

    /// One pass: observe, plan, hold what is in backoff, apply. `select` may take steps out of the plan (a saved plan does
    /// nothing that it does not list), or mark them. With `orders.dry` nothing is applied.
    pub async fn pass(
        &self,
        spec: &Arc<Spec>,
        orders: Orders,
        past: Past<'_>,
        stop: &CancellationToken,
        select: impl FnOnce(&mut Plan),
        report: &(dyn Fn(&Applied) + Send + Sync),
    ) -> Pass {
        let Past { backoff, last, beside_nginx } = past;
        let started = Instant::now();
        let started_at = Timestamp::now();
        let observed = match last.filter(|last| Arc::ptr_eq(&last.spec, spec)) {
            Some(last) => {
                let wrote_to_consul = last.wrote_to_consul_alone();
                let beside_nginx = beside_nginx && !last.waits_for_nginx();
                let before = Before { observed: &last.observed, wrote_to_consul, beside_nginx };
                self.world.observe_after(&Interest::of(spec, &self.owner), before).await
            }
            None => self.observe(spec).await,
        };
        let (observed, mut plan, now) = self.judge(spec, orders, observed);
        let held = backoff.filter(&mut plan, now);
        select(&mut plan);
        let work: Vec<&Step> = plan.steps.iter().chain(&plan.records).collect();
        // Written as each ends, so that the history of a pass that is cut off tells how far it came.
        let report = |applied: &Applied| {
            if let Some(step) = plan.steps.iter().find(|step| applied.is_of(step)) {
                self.history.append(&Entry::of(applied, step, Timestamp::now(), spec, &observed, &plan));
            }
            report(applied);
        };
        let applied = if orders.dry { Vec::new() } else { apply(&self.world, &work, stop, &report).await };
        let failed_at = Timestamp::now();
        for entry in &applied {
            match &entry.result {
                Ok(()) => backoff.succeeded(&entry.object),
                Err(error) => {
                    let step = work.iter().find(|step| step.object == entry.object && step.action.kind() == entry.kind);
                    if let Some(step) = step {
                        backoff.failed(step, error, failed_at);
                    }
                }
            }
        }
        Pass {
            spec: spec.clone(),
            observed,
            plan,
            held,
            applied,
            started_at,
            took: started.elapsed(),
            changed_at: None,
        }
    }
}

/// The template of the settings, or in words what is wrong with it and what to do.
fn read_template(path: &Path) -> Result<Renderer, String> {
    let fault = |reason: String| format!("nginx.template: {reason}; mend it, then send SIGHUP to the daemon");
    let source =
        std::fs::read_to_string(path).map_err(|error| fault(format!("{} cannot be read: {error}", path.display())))?;
    Renderer::new(&source, &path.display().to_string()).map_err(|error| fault(error.to_string()))
}
