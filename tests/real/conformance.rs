//! The model of what an action does (`Observed::after`) against the real servers: random short walks of actions, and after
//! each the world must be what the model says, or, when the action was refused, what it was before.
//!
//! The actions are those that the planner wants for some random spec, and others that it would not take here at all.
//! What moves by itself (health, outputs of checks, time) and what only the servers can choose (ids, addresses) is masked.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fastrand::Rng;
use jiff::Timestamp;
use reeve::engine::{Engine, Orders};
use reeve::observed::{CheckStatus, Interest, Observed};
use reeve::plan::{self, Action, ConsulAction, DockerAction, NginxAction, Removals, Teardown};
use reeve::settings::{Settings, Sources};
use reeve::spec::Spec;
use reeve::spec::load::{LoadOptions, load_text};
use reeve::world::{Execute as _, Observe as _};

use self::facts::{Facts, differences};
use crate::support::shop::WEB_2;
use crate::support::{Shop, Site};

/// An agent tells the catalog within milliseconds; a loaded machine takes longer.
const SYNC: Duration = Duration::from_secs(8);
/// How long the planner is asked again when it has nothing to do but wait.
const PATIENCE: Duration = Duration::from_secs(4);
/// So many actions make two replicas that are registered and routed.
const ERRATIC_FROM: usize = 13;
const GRACE: Duration = Duration::from_secs(2);

struct Walk {
    site: Site,
    engine: Engine,
    interest: Interest,
    specs: Vec<Spec>,
    random: Rng,
    /// The spec that the planner is asked to bring about for now; beyond the last one, to take everything down.
    goal: usize,
    /// What was done, for the panic.
    done: Vec<String>,
    kinds: BTreeMap<&'static str, usize>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut site = Site::new("walk");
        // Every second one: the endpoints are then no part of a generation.
        if seed % 2 == 1 {
            site.use_lua();
        }
        let sources = Sources {
            config: Some(site.settings()),
            environment: BTreeMap::new(),
            overrides: BTreeMap::new(),
            current_directory: site.folder().to_owned(),
            host_name: "test".to_owned(),
        };
        let settings = Settings::load(&sources).expect("the site's settings are good").settings;
        let engine = Engine::new(settings, &site.project).expect("an engine");
        let specs: Vec<Spec> = specs(&site).iter().map(|text| spec(text)).collect();
        let mut interest = Interest::of(&specs[0], &engine.owner);
        for other in &specs {
            let other = Interest::of(other, &engine.owner);
            interest.images.extend(other.images);
            interest.volumes.extend(other.volumes);
            interest.networks.extend(other.networks);
        }
        let random = Rng::with_seed(seed);
        Self { site, engine, interest, specs, random, goal: 0, done: Vec::new(), kinds: BTreeMap::new() }
    }

    async fn observe(&self) -> Observed {
        self.engine.world().observe(&self.interest).await
    }

    async fn go(&mut self, steps: usize) {
        for step in 0..steps {
            let before = self.observe().await;
            // At first something has to come into being.
            let erratic = step >= ERRATIC_FROM;
            if erratic && self.random.u8(..8) == 0 {
                self.goal = self.random.usize(..=self.specs.len());
            }
            let action = self.choose(&before, erratic).await;
            self.take(&action).await;
        }
    }

    /// One action, and the comparison.
    async fn take(&mut self, action: &Action) {
        // As late as can be: what moves by itself moves meanwhile.
        let before = self.observe().await;
        let result = self.engine.world().execute(action).await;
        let mut expected = before.clone();
        let outcome = match &result {
            Ok(()) => {
                expected.after(action, &self.engine.owner, Timestamp::now());
                "done".to_owned()
            }
            Err(error) => format!("refused: {error}"),
        };
        *self.kinds.entry(action.kind()).or_default() += usize::from(result.is_ok());
        self.done.push(format!("{action:?}: {outcome}"));
        let expected = Facts::of(&expected);
        let begun = Instant::now();
        loop {
            let now = Facts::of(&self.observe().await);
            let different = differences(&expected, &now);
            if different.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < SYNC,
                "the model (-) and the servers (+) differ:\n  {}\nafter\n  {}",
                different.join("\n  "),
                self.done.join("\n  ")
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn choose(&mut self, world: &Observed, erratic: bool) -> Action {
        let mut world = world.clone();
        let begun = Instant::now();
        loop {
            let stray = erratic && self.random.u8(..3) == 0;
            let choice = if stray { self.stray(&world) } else { self.planned(&world) };
            if let Some(action) = choice.or_else(|| (begun.elapsed() > PATIENCE).then(|| self.stray(&world)).flatten())
            {
                return action;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            world = self.observe().await;
        }
    }

    /// A step of the plan for the present goal.
    fn planned(&mut self, world: &Observed) -> Option<Action> {
        let teardown = Teardown { volumes: true, without_consul: false };
        let (spec, teardown) = match self.specs.get(self.goal) {
            Some(spec) => (spec.clone(), None),
            None => (Spec::empty(&self.site.project), Some(teardown)),
        };
        let orders = Orders { removals: Removals::Allowed, teardown, dry: false };
        let plan = plan::plan(&spec, world, Timestamp::now(), &self.engine.context(orders));
        let steps: Vec<Action> = plan.steps.into_iter().map(|step| step.action).collect();
        self.random.choice(steps)
    }

    /// An action of which nobody says that it is wise.
    fn stray(&mut self, world: &Observed) -> Option<Action> {
        let (mut docker, mut consul) = (Vec::new(), Vec::new());
        for container in world.docker.known()?.containers.values() {
            let (id, name) = (container.id.clone(), container.name.clone());
            let both = || (id.clone(), name.clone());
            let (id1, name1) = both();
            docker.push(Action::Docker(DockerAction::StopContainer { id: id1, name: name1, grace: GRACE }));
            docker.push(Action::Docker(DockerAction::StartContainer { container: id.clone(), name: name.clone() }));
            let (id1, name1) = both();
            docker.push(Action::Docker(DockerAction::RemoveContainer { id: id1, name: name1 }));
            let (id1, name1) = both();
            docker.push(Action::Docker(DockerAction::UnpauseContainer { id: id1, name: name1 }));
        }
        let at = Timestamp::now();
        for registration in world.consul.known()?.registrations.values() {
            let id = registration.id.clone();
            let status = if self.random.bool() { CheckStatus::Critical } else { CheckStatus::Passing };
            consul.extend(
                [
                    ConsulAction::Drain { id: id.clone(), reason: "reeve: a walk".to_owned() },
                    ConsulAction::LiftDrain { id: id.clone() },
                    ConsulAction::StartDrainClock { id: id.clone(), at },
                    ConsulAction::StopDrainClock { id: id.clone() },
                    ConsulAction::SetHealth { id: id.clone(), status, output: "a walk".to_owned() },
                    ConsulAction::RemoveCheck { check: format!("{id}:declared") },
                    ConsulAction::Deregister { id },
                ]
                .map(Action::Consul),
            );
        }
        let mut nginx = Vec::new();
        for id in world.nginx.known()?.generations.keys() {
            nginx.push(Action::Nginx(NginxAction::SwitchGeneration { id: id.clone() }));
            nginx.push(Action::Nginx(NginxAction::Reload { expect: id.clone() }));
            nginx.push(Action::Nginx(NginxAction::Start { expect: id.clone() }));
        }
        let mut kinds = vec![consul, docker, nginx];
        kinds.retain(|kind| !kind.is_empty());
        let kind = self.random.choice(kinds)?;
        self.random.choice(kind)
    }
}

/// Specs of one project that pull in different directions.
fn specs(site: &Site) -> Vec<String> {
    let two = Shop::new(site, 2);
    let mut more = Shop { replicas: 3, ..two.clone() };
    more.more_of_service.push("volumes: [\"data:/data:ro\"]".to_owned());
    more.more = "volumes: { data: {} }\n".to_owned();
    let mut other = Shop { image: WEB_2.to_owned(), replicas: 1, ..two.clone() };
    other.upstreams[0].1 = other.upstreams[0].1.replace(" }", ", balance: least_conn }");
    [two, more, other].map(|shop| shop.to_string()).into()
}

fn spec(text: &str) -> Spec {
    match load_text(&[("spec.yaml", text)], &LoadOptions::default()) {
        Ok(loaded) => loaded.spec,
        Err(problems) => panic!("the test's spec is wrong: {}\n{text}", problems.render(false)),
    }
}

/// The walk of one seed; what kinds of actions had their effect.
async fn walk(seed: u64, steps: usize) -> BTreeSet<&'static str> {
    eprintln!("conformance: seed {seed} (REEVE_CONFORMANCE_SEED={seed} walks it alone)");
    let mut walk = Walk::new(seed);
    walk.go(steps).await;
    eprintln!("conformance: seed {seed}: {:?}", walk.kinds);
    walk.kinds.into_iter().filter(|(_, count)| *count > 0).map(|(kind, _)| kind).collect()
}

/// Walks each seed, or the one that the environment names. All together must try so many kinds of actions with success.
fn walks(seeds: std::ops::Range<u64>, steps: usize, kinds: usize) {
    let given = std::env::var("REEVE_CONFORMANCE_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = given.map_or(seeds, |seed| seed..seed + 1);
    // An unoptimised pass needs more than the stack of a test's thread.
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut kinds = BTreeSet::new();
            for seed in seeds {
                kinds.extend(walk(seed, steps).await);
            }
            kinds
        })
    });
    match thread.expect("a thread").join() {
        Ok(tried) => assert!(given.is_some() || tried.len() >= kinds, "too little was tried: {tried:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn the_model_says_what_the_servers_do() {
    walks(0..2, 32, 14);
}

#[test]
#[ignore = "long: make test-long"]
fn the_model_says_what_the_servers_do_on_long_walks() {
    walks(100..112, 60, 18);
}
