//! One bad upstream hurts only itself: the planner against an nginx in memory that refuses what it is told to refuse, in
//! the check or in the load, with and without naming the culprit.

mod common;

use std::collections::BTreeSet;

use common::{context, converge, empty_world, execute, look, renderer, spec, start};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use reeve::observed::{Instance, Loaded, Nginx, Observed, Rejection, RoutedUpstream, Stage};
use reeve::plan::action::NginxAction;
use reeve::plan::{Action, Context, Plan, plan};
use reeve::render::{BUILT_IN, Renderer};
use reeve::spec::Spec;

/// What makes an upstream bad here: this size of bodies.
const BAD: u64 = 666;

fn is_bad(routed: &RoutedUpstream) -> bool {
    routed.upstream.max_body_size == Some(BAD)
}

fn name(number: usize) -> String {
    format!("u{number:03}")
}

/// `size`: of the bodies that each upstream allows.
fn upstreams(count: usize, size: impl Fn(usize) -> u64) -> Spec {
    let lines: String = (0..count)
        .map(|number| {
            let listen = 8000 + number;
            format!("  {}: {{ service: web, listen: {listen}, max_body_size: {} }}\n", name(number), size(number))
        })
        .collect();
    spec(&format!("name: shop\nservices: {{}}\nupstreams:\n{lines}"))
}

#[derive(Debug, Clone, Copy, Default)]
struct Refuses {
    named: bool,
    /// What it refuses it refuses in the load, after it has passed the check.
    in_load: bool,
    /// It refuses everything, whatever it is.
    everything: bool,
    /// It accepts everything, whatever it is.
    accepts: bool,
    /// The name of this endpoint does not resolve.
    unresolved: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Seen {
    checks: usize,
    loads: usize,
    refusals: usize,
}

struct Site<'c> {
    world: Observed,
    now: Timestamp,
    context: Context<'c>,
    refuses: Refuses,
    seen: Seen,
}

impl<'c> Site<'c> {
    fn new(renderer: &'c Renderer, count: usize) -> Self {
        let context = context(renderer, common::PROJECT);
        let mut site =
            Self { world: empty_world(), now: start(), context, refuses: Refuses::default(), seen: Seen::default() };
        converge(&mut site.world, &upstreams(count, |_| 1), &site.context, &mut site.now);
        site.now += SignedDuration::from_mins(10);
        site
    }

    fn nginx(&self) -> &Nginx {
        self.world.nginx.known().expect("known")
    }

    fn plan(&mut self, spec: &Spec) -> Plan {
        look(&mut self.world, spec, &self.context.owner, self.now);
        plan(spec, &self.world, self.now, &self.context)
    }

    /// Does the wave, as nginx lets it; a crash comes after so many steps.
    fn apply(&mut self, wave: &Plan, crash_after: usize) {
        for step in wave.steps.iter().take(crash_after) {
            self.now += SignedDuration::from_millis(5);
            let Action::Nginx(action) = &step.action else { panic!("only nginx has something to do: {step:?}") };
            let (id, stage) = match action {
                NginxAction::WriteGeneration(new) => {
                    self.seen.checks += 1;
                    (new.id.clone(), Stage::Check)
                }
                NginxAction::Reload { expect } => {
                    self.seen.loads += 1;
                    (expect.clone(), Stage::Load)
                }
                NginxAction::Start { expect } => (expect.clone(), Stage::Start),
                NginxAction::SwitchGeneration { .. }
                | NginxAction::RemoveGeneration { .. }
                | NginxAction::SetEndpoints { .. }
                | NginxAction::QuitOrphans { .. } => {
                    execute(&mut self.world, &step.action, &self.context, self.now);
                    continue;
                }
            };
            let refuses = self.refuses;
            let mut after = self.world.clone();
            execute(&mut after, &step.action, &self.context, self.now);
            let written = after.nginx.known().and_then(|nginx| nginx.generations.get(&id)).expect("written");
            let bad = written.manifest.upstreams.iter().filter(|(_, routed)| is_bad(routed));
            let bad: Vec<u16> = bad.map(|(_, routed)| routed.upstream.listen.port).collect();
            let lost = |routed: &RoutedUpstream| {
                refuses.unresolved.is_some_and(|lost| routed.endpoints.iter().any(|one| one.to_string() == lost))
            };
            let lost = written.manifest.upstreams.iter().find(|(_, routed)| lost(routed)).map(|(name, _)| name.clone());
            let here = refuses.in_load == (stage != Stage::Check);
            let refused = lost.is_some() || refuses.everything || (here && !bad.is_empty() && !refuses.accepts);
            if !refused {
                self.world = after;
                continue;
            }
            self.seen.refusals += 1;
            let message = match bad.first() {
                _ if let (Some(name), Some(lost)) = (&lost, refuses.unresolved) => format!(
                    "nginx: [emerg] host not found in upstream \"{lost}\" in /x/{id}/files/upstream-{name}.conf:2"
                ),
                Some(port) if refuses.named => format!("nginx: [emerg] no in /x/{id}/files/server-{port}-_.conf:3"),
                _ => "nginx: [emerg] no".to_owned(),
            };
            // A load that is refused leaves nginx as it was.
            let world = if stage == Stage::Check { &mut after } else { &mut self.world };
            let nginx = world.nginx.known_mut().expect("known");
            nginx.generations.get_mut(&id).expect("written").rejected =
                Some(Rejection { message, at: self.now, stage });
            if let (Stage::Load, Loaded::Generation(loaded)) = (stage, nginx.loaded.clone()) {
                nginx.current = Some(loaded);
            }
            if stage == Stage::Check {
                self.world = after;
            }
            return;
        }
    }

    /// Passes until nothing is left to do now.
    fn settle(&mut self, spec: &Spec) -> Plan {
        for _ in 0..2000 {
            let wave = self.plan(spec);
            if wave.steps.is_empty() {
                return wave;
            }
            self.apply(&wave, usize::MAX);
        }
        panic!("it does not end: {:?}", self.seen);
    }

    /// Names of upstreams that wait because nginx refuses them.
    fn refused(wave: &Plan) -> BTreeSet<String> {
        let refused = wave.waiting.iter().filter(|waiting| waiting.kind == "refused");
        refused.map(|waiting| waiting.object.to_string().replace("upstream ", "")).collect()
    }

    fn loaded_size(&self, name: &str) -> Option<u64> {
        let Loaded::Generation(id) = &self.nginx().loaded else { panic!("nothing is loaded") };
        self.nginx().generations[id].manifest.upstreams.get(name).and_then(|routed| routed.upstream.max_body_size)
    }

    /// What is loaded: the bad ones as they were, the others as they should be.
    fn assert_isolated(&self, count: usize, bad: &BTreeSet<usize>) {
        for number in 0..count {
            let wanted = if bad.contains(&number) { 1 } else { 2 };
            assert_eq!(self.loaded_size(&name(number)), Some(wanted), "{}", name(number));
        }
        assert_eq!(
            self.nginx().current.as_ref().map(|id| Loaded::Generation(id.clone())).as_ref(),
            Some(&self.nginx().loaded)
        );
    }
}

fn changed(count: usize, bad: &BTreeSet<usize>) -> Spec {
    upstreams(count, |number| if bad.contains(&number) { BAD } else { 2 })
}

fn names(bad: &BTreeSet<usize>) -> BTreeSet<String> {
    bad.iter().map(|number| name(*number)).collect()
}

fn log2(count: usize) -> usize {
    usize::try_from(count.next_power_of_two().trailing_zeros()).expect("small")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Exactly the bad ones are found, in a number of refusals that grows with the logarithm, and the others are loaded;
    /// also when every pass may be cut off anywhere.
    #[test]
    fn exactly_the_bad_ones_wait(
        count in 1_usize..40,
        picks in prop::collection::btree_set(0_usize..40, 0..5),
        named: bool,
        in_load: bool,
        crashes in prop::collection::vec(0_usize..3, 0..30),
    ) {
        let bad: BTreeSet<usize> = picks.into_iter().filter(|number| *number < count).collect();
        let renderer = renderer();
        let mut site = Site::new(&renderer, count);
        site.refuses = Refuses { named, in_load, ..Refuses::default() };
        let spec = changed(count, &bad);
        for steps in &crashes {
            let wave = site.plan(&spec);
            site.apply(&wave, *steps);
        }
        let wave = site.settle(&spec);
        prop_assert_eq!(Site::refused(&wave), names(&bad));
        site.assert_isolated(count, &bad);
        let most = bad.len() * (if named { 1 } else { log2(count) + 2 });
        prop_assert!(site.seen.refusals <= most, "{:?}, {} of {}: at most {}", site.seen, bad.len(), count, most);

        // Mended in the file: at once.
        let good = upstreams(count, |_| 2);
        let wave = site.settle(&good);
        prop_assert!(wave.converged(), "{:?}", wave.waiting);
        site.assert_isolated(count, &BTreeSet::new());
    }
}

#[test]
fn changes_of_others_do_not_repeat_the_search() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 16);
    let bad = BTreeSet::from([5, 11]);
    site.settle(&changed(16, &bad));
    let mut sizes = 10;
    site.seen = Seen::default();
    for _ in 0..5 {
        sizes += 1;
        let spec = upstreams(16, |number| if bad.contains(&number) { BAD } else { sizes });
        let wave = site.settle(&spec);
        assert_eq!(Site::refused(&wave), names(&bad));
        assert_eq!(site.loaded_size("u000"), Some(sizes));
    }
    assert_eq!((site.seen.refusals, site.seen.checks, site.seen.loads), (0, 5, 5), "{:?}", site.seen);
}

#[test]
fn a_lasting_fault_costs_few_checks_and_heals_by_itself_and_the_disk_does_not_fill() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 8);
    let bad = BTreeSet::from([2, 3]);
    let spec = changed(8, &bad);
    site.settle(&spec);
    site.seen = Seen::default();
    let end = site.now + SignedDuration::from_hours(6);
    let mut most = 0;
    while site.now < end {
        let wave = site.settle(&spec);
        assert_eq!(Site::refused(&wave), names(&bad));
        most = most.max(site.nginx().generations.len());
        let until = wave.waiting.iter().filter_map(|waiting| waiting.until).min().expect("it is tried again");
        assert!(until > site.now);
        site.now = until;
    }
    // Two at fault, tried every ten minutes in the end.
    assert!(site.seen.checks <= 6 * 6 * 5 + 40, "{:?}", site.seen);
    assert!(most <= 12, "{most} generations on disk");
    // What was wrong around them is right again: the same contents are accepted when their time has come.
    site.refuses.accepts = true;
    for _ in 0..2 {
        let wave = site.settle(&spec);
        if let Some(until) = wave.waiting.iter().filter_map(|waiting| waiting.until).max() {
            site.now = until;
        }
    }
    assert!(site.settle(&spec).converged());
}

#[test]
fn an_nginx_that_refuses_everything_convicts_nobody_and_is_asked_seldom() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 32);
    site.refuses.everything = true;
    let spec = changed(32, &BTreeSet::new());
    let wave = site.settle(&spec);
    assert_eq!(Site::refused(&wave), BTreeSet::new());
    assert!(wave.waiting.iter().any(|waiting| waiting.kind == "rejected"), "{:?}", wave.waiting);
    assert_eq!(site.seen.checks, 2, "the wanted one, and one to see that even what is in force is refused");
    assert_eq!(site.loaded_size("u000"), Some(1));
    let end = site.now + SignedDuration::from_hours(1);
    while site.now < end {
        let wave = site.settle(&spec);
        site.now = wave.waiting.iter().filter_map(|waiting| waiting.until).min().expect("it is tried again");
    }
    assert!(site.seen.checks <= 2 * 130, "{:?}", site.seen);
    assert!(site.nginx().generations.len() <= 10, "{}", site.nginx().generations.len());
    site.refuses.everything = false;
    assert!(site.settle(&spec).converged());
    site.assert_isolated(32, &BTreeSet::new());
}

/// Upstream `u000` of the given size of bodies, and `far`, which is routed to these endpoints of somebody else's.
fn with_names(site: &mut Site<'_>, size: u64, endpoints: &[&str]) -> Spec {
    let spec = spec(&format!(
        "name: shop\nservices: {{}}\nupstreams:\n  u000: {{ service: web, listen: 8000, max_body_size: {size} }}\n  far: {{ service: far, listen: 8001 }}\n"
    ));
    look(&mut site.world, &spec, &site.context.owner, site.now);
    let consul = site.world.consul.known_mut().expect("known");
    let query = spec.upstreams["far"].query.as_ref().expect("it asks for a service");
    let answer = consul.catalog.get_mut(query).and_then(|view| view.known_mut()).expect("it was asked");
    answer.instances = endpoints
        .iter()
        .map(|endpoint| {
            let (address, port) = endpoint.split_once(':').expect("an address and a port");
            Instance {
                id: (*endpoint).to_owned(),
                node: "n1".to_owned(),
                address: address.to_owned(),
                port: port.parse().expect("a port"),
                passing: true,
                doubtful: false,
                maintenance: false,
                weight: 1,
                owner: None,
                container: None,
                trouble: None,
            }
        })
        .collect::<Vec<_>>()
        .into();
    spec
}

fn far(site: &Site<'_>) -> Vec<String> {
    let Loaded::Generation(id) = &site.nginx().loaded else { panic!("nothing is loaded") };
    site.nginx().generations[id].manifest.upstreams["far"].endpoints.iter().map(ToString::to_string).collect()
}

/// Passes until `until`, each when its time has come.
fn pass_until(site: &mut Site<'_>, spec: &Spec, until: Timestamp) -> Plan {
    loop {
        let wave = site.settle(spec);
        let next = wave.waiting.iter().filter_map(|waiting| waiting.until).filter(|at| *at > site.now).min();
        match next.filter(|next| *next <= until) {
            Some(next) => site.now = next,
            None => return wave,
        }
    }
}

#[test]
fn a_name_in_force_that_stops_resolving_holds_the_others_only_for_a_moment() {
    for (endpoints, left) in
        [(&["db.example:80", "192.0.2.7:80"][..], vec!["192.0.2.7:80"]), (&["db.example:80"][..], Vec::new())]
    {
        let renderer = renderer();
        let mut site = Site::new(&renderer, 1);
        let spec = with_names(&mut site, 1, endpoints);
        site.settle(&spec);
        assert_eq!(far(&site).len(), endpoints.len());
        site.now += SignedDuration::from_mins(10);
        site.refuses.unresolved = Some("db.example:80");
        // Nobody wants anything else: what is loaded has resolved it before.
        let wave = site.settle(&spec);
        assert!(wave.converged(), "{:?}", wave.waiting);

        let spec = with_names(&mut site, 2, endpoints);
        let wave = site.settle(&spec);
        assert!(wave.waiting.iter().any(|waiting| waiting.kind == "rejected"), "{:?}", wave.waiting);
        assert_eq!((site.loaded_size("u000"), far(&site).len()), (Some(1), endpoints.len()), "it may only be a hiccup");
        let until = site.now + SignedDuration::from_secs(30);
        let wave = pass_until(&mut site, &spec, until);
        assert_eq!((site.loaded_size("u000"), far(&site)), (Some(2), left.iter().map(ToString::to_string).collect()));
        assert_eq!(Site::refused(&wave), BTreeSet::from(["far".to_owned()]));
        let reason = &wave.waiting.iter().find(|waiting| waiting.kind == "refused").expect("it waits").reason;
        let words = if left.is_empty() { "nothing is left of it without" } else { "it is routed without" };
        assert!(reason.contains("host not found") && reason.contains(&format!("{words} db.example:80")), "{reason}");
        // The others are not held again.
        let spec = with_names(&mut site, 3, endpoints);
        site.seen = Seen::default();
        site.settle(&spec);
        assert_eq!((site.loaded_size("u000"), site.seen.loads), (Some(3), 1));
        // It resolves again.
        site.refuses.unresolved = None;
        let until = site.now + SignedDuration::from_mins(11);
        let wave = pass_until(&mut site, &spec, until);
        assert!(wave.converged(), "{:?}", wave.waiting);
        assert_eq!(far(&site).len(), endpoints.len());
    }
}

#[test]
fn a_new_endpoint_that_does_not_resolve_holds_no_other_endpoint() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 1);
    let spec = with_names(&mut site, 1, &["192.0.2.7:80"]);
    site.settle(&spec);
    site.refuses.unresolved = Some("db.example:80");
    let spec = with_names(&mut site, 1, &["192.0.2.8:80", "db.example:80"]);
    let wave = site.settle(&spec);
    assert_eq!(far(&site), ["192.0.2.8:80"]);
    assert_eq!(Site::refused(&wave), BTreeSet::from(["far".to_owned()]));
}

#[test]
fn a_new_upstream_that_is_bad_is_left_out() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 4);
    let spec = upstreams(6, |number| if number == 5 { BAD } else { 2 });
    let wave = site.settle(&spec);
    assert_eq!(Site::refused(&wave), BTreeSet::from([name(5)]));
    assert!(wave.waiting.iter().any(|waiting| waiting.reason.contains("it is left out")), "{:?}", wave.waiting);
    assert_eq!((site.loaded_size(&name(4)), site.loaded_size(&name(5))), (Some(2), None));
}

#[test]
fn an_nginx_that_does_not_start_with_one_starts_without_it() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 9);
    let bad = BTreeSet::from([7]);
    // It was loaded once, and cannot be loaded any more.
    let spec = changed(9, &bad);
    site.settle(&spec);
    site.now += SignedDuration::from_secs(3600);
    site.refuses = Refuses { in_load: true, named: true, ..Refuses::default() };
    let nginx = site.world.nginx.known_mut().expect("known");
    nginx.process = reeve::observed::NginxProcess::Stopped;
    nginx.loaded = Loaded::Nothing;
    let wave = site.settle(&spec);
    assert_eq!(Site::refused(&wave), names(&bad));
    assert_eq!(site.loaded_size(&name(0)), Some(2), "the others serve");
    assert_eq!(site.loaded_size(&name(7)), Some(1), "its last good configuration starts");
}

#[test]
fn a_template_that_nginx_refuses_stops_no_update() {
    let old = renderer();
    let new = Renderer::new(&format!("{BUILT_IN}{{# another #}}"), "new.j2").expect("a template");
    let mut site = Site::new(&old, 3);
    site.context = context(&new, common::PROJECT);
    site.refuses.everything = true;
    let spec = changed(3, &BTreeSet::new());
    let wave = site.plan(&spec);
    site.apply(&wave, usize::MAX);
    site.refuses.everything = false;
    let wave = site.settle(&spec);
    let template: Vec<_> = wave.waiting.iter().filter(|waiting| waiting.kind == "template").collect();
    assert_eq!(template.len(), 1, "{:?}", wave.waiting);
    assert_eq!(site.loaded_size("u000"), Some(2), "with the template before");
    site.now = template[0].until.expect("it is tried again");
    assert!(site.settle(&spec).converged());
    let current = site.nginx().current.clone().expect("current");
    assert_eq!(site.nginx().generations[&current].manifest.template, new.digest());
}

#[test]
fn a_broken_template_stops_no_update() {
    let old = renderer();
    let mut site = Site::new(&old, 3);
    // In place of the template that cannot be compiled.
    let stand_in = Renderer::new(&format!("{BUILT_IN}{{# stand-in #}}"), "built-in").expect("a template");
    site.context = context(&stand_in, common::PROJECT);
    site.context.nginx.as_mut().expect("nginx").template_fault = Some("template my.j2:3: syntax error");
    let spec = changed(3, &BTreeSet::new());
    let wave = site.settle(&spec);
    assert_eq!(site.loaded_size("u000"), Some(2));
    assert!(
        wave.waiting.iter().any(|waiting| waiting.kind == "template" && waiting.reason.contains("my.j2:3")),
        "{:?}",
        wave.waiting
    );
    let current = site.nginx().current.clone().expect("current");
    assert_eq!(site.nginx().generations[&current].manifest.template, old.digest());
}

#[test]
fn a_reload_is_held_while_too_many_old_workers_live_but_not_for_ever() {
    let renderer = renderer();
    let mut site = Site::new(&renderer, 2);
    let nginx = site.world.nginx.known_mut().expect("known");
    nginx.retiring_workers = 10;
    nginx.loaded_since = site.now;
    let spec = changed(2, &BTreeSet::new());
    let wave = site.settle(&spec);
    let held = wave.waiting.iter().find(|waiting| waiting.kind == "worker_generations").expect("held");
    assert_eq!(held.until, Some(start_of(&site) + SignedDuration::from_secs(30)));
    assert_eq!(site.seen.loads, 0);
    // A change and its reversal cost no reload.
    let back = upstreams(2, |_| 1);
    assert!(site.settle(&back).converged());
    assert_eq!(site.seen.loads, 0);
    site.settle(&spec);
    site.now = held.until.expect("a time");
    assert!(site.settle(&spec).converged());
    assert_eq!(site.seen.loads, 1);
}

fn start_of(site: &Site<'_>) -> Timestamp {
    site.nginx().loaded_since
}

#[test]
fn what_came_back_too_often_is_not_routed_before_its_time_unless_it_is_alone() {
    let renderer = renderer();
    let context = context(&renderer, common::PROJECT);
    let mut world = empty_world();
    let now = start();
    let spec = spec("name: shop\nservices: {}\nupstreams:\n  u: { service: web, listen: 8000 }\n");
    look(&mut world, &spec, &context.owner, now);
    let until = now + SignedDuration::from_secs(8);
    let instance = |id: &str, address: &str| Instance {
        id: id.to_owned(),
        node: "n".to_owned(),
        address: address.to_owned(),
        port: 80,
        passing: true,
        doubtful: false,
        maintenance: false,
        weight: 1,
        owner: None,
        container: None,
        trouble: None,
    };
    let mut routed = |ids: &[(&str, &str)], now: Timestamp| {
        let consul = world.consul.known_mut().expect("known");
        for catalog in consul.catalog.values_mut().filter_map(reeve::observed::View::known_mut) {
            // What is lost has been for long.
            catalog.shrunk_at = now - SignedDuration::from_mins(1);
            catalog.instances = ids.iter().map(|(id, address)| instance(id, address)).collect::<Vec<_>>().into();
            catalog.flapping = [(("n".to_owned(), "b".to_owned()), until)].into();
        }
        let wave = plan(&spec, &world, now, &context);
        for step in &wave.steps {
            execute(&mut world, &step.action, &context, now);
        }
        let wave = plan(&spec, &world, now, &context);
        let Loaded::Generation(id) = &world.nginx.known().expect("known").loaded else { panic!("nothing is loaded") };
        let loaded = &world.nginx.known().expect("known").generations[id].manifest.upstreams["u"];
        let addresses: Vec<String> = loaded.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
        let held = wave.waiting.iter().find(|waiting| waiting.kind == "flapping").and_then(|waiting| waiting.until);
        (addresses, held)
    };
    let (a, b) = (("a", "10.0.0.1"), ("b", "10.0.0.2"));
    assert_eq!(routed(&[a, b], now), (vec!["10.0.0.1".to_owned()], Some(until)));
    assert_eq!(routed(&[b], now), (vec!["10.0.0.2".to_owned()], None), "better than none");
    assert_eq!(routed(&[a, b], now).0.len(), 2, "what is routed stays");
    assert_eq!(routed(&[a], now).0.len(), 1, "going bad is believed at once");
    assert_eq!(routed(&[a, b], until).0.len(), 2, "its time has come");
}
