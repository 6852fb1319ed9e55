//! What `explain` says of worlds in memory.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::observed::{Catalog, Instance, Loaded, View};
use crate::plan::{self, Context, NginxContext, Removals};
use crate::render::{BUILT_IN, BUILT_IN_NAME, Renderer};
use crate::spec::container::ConfigHash;
use crate::spec::upstream::CatalogQuery;
use crate::status::tests as world;
use crate::style::Style;

fn owner() -> Owner {
    Owner { project: "shop".to_owned(), node: "edge-1".to_owned() }
}

fn instance(slot: u16, passing: bool, trouble: Option<&str>) -> Instance {
    Instance {
        id: format!("edge-1:shop-web-{slot}-0a1b2c3d:80/tcp"),
        node: "client-1".to_owned(),
        address: "192.0.2.1".to_owned(),
        port: 80 + slot,
        passing,
        maintenance: false,
        weight: 1,
        owner: Some(owner().to_string()),
        container: Some(format!("web{slot}")),
        doubtful: false,
        trouble: trouble.map(str::to_owned),
    }
}

/// With the configuration that the containers have.
fn spec() -> Spec {
    let mut spec = world::spec();
    spec.services.values_mut().for_each(|service| service.hash = ConfigHash::of("{}"));
    spec
}

/// The world of the status tests, and what Consul lists for its upstream: three of our replicas, and a stranger.
fn observed() -> Observed {
    let mut observed = world::observed();
    let query = CatalogQuery { service: "nginx".to_owned(), tag: None, datacenter: None, filter: None };
    let stranger = Instance {
        owner: None,
        container: None,
        address: "192.0.2.7".to_owned(),
        id: "legacy".to_owned(),
        ..instance(9, false, Some("check tcp is critical: refused"))
    };
    let instances = vec![instance(1, true, None), instance(2, true, None), instance(3, false, None), stranger];
    let catalog = Catalog {
        instances: instances.into(),
        shrunk_at: world::at(-60),
        returned_at: None,
        flapping: std::collections::BTreeMap::new(),
    };
    observed.consul.known_mut().expect("known").catalog.insert(query, View::Known(catalog));
    observed
}

fn explain_in(name: &str, spec: &Spec, observed: &Observed) -> Result<Explanation, UnknownName> {
    let renderer = Renderer::new(BUILT_IN, BUILT_IN_NAME).expect("the built-in template compiles");
    let nginx = NginxContext {
        renderer: &renderer,
        template_fault: None,
        max_worker_generations: 10,
        start: true,
        endpoints: crate::settings::EndpointsMode::Reload,
        probe: ([127, 0, 0, 1], 9465).into(),
        generations: Path::new("/var/lib/reeve/generations"),
    };
    let context = Context {
        owner: owner(),
        advertise: Some("192.0.2.1".to_owned()),
        nginx: Some(nginx),
        distrust_percent: 50,
        distrust_for: Duration::from_secs(10),
        removals: Removals::Allowed,
        teardown: None,
        gates: crate::plan::gates::Gates::default(),
    };
    let verdicts = plan::verdicts(spec, observed, world::at(0), &context);
    let plan = world::plan();
    let owner = owner();
    Explanation::of(name, &Seen { owner: &owner, spec, observed, plan: &plan, held: &[], now: world::at(0) }, &verdicts)
}

fn explain(name: &str) -> Explanation {
    explain_in(name, &spec(), &observed()).expect("it is there")
}

fn endpoint<'a>(explanation: &'a Explanation, address: &str) -> &'a EndpointSeen {
    let endpoints = explanation.upstream.as_ref().and_then(|upstream| upstream.endpoints.as_ref()).expect("known");
    endpoints.iter().find(|one| one.address == address).expect("it is listed")
}

#[test]
fn an_endpoint_is_out_for_the_reason_that_is_seen_nearest_to_it() {
    let explanation = explain("http_backend");
    let passing = endpoint(&explanation, "192.0.2.1:81");
    assert_eq!((passing.wanted, passing.loaded, passing.kind.as_str()), (true, Some(true), "passing"));
    assert_eq!(passing.replica.as_deref(), Some("shop-web-1-0a1b2c3d"));
    let drained = endpoint(&explanation, "192.0.2.1:82");
    assert_eq!(
        (drained.wanted, drained.kind.as_str()),
        (false, "draining"),
        "the agent knows what the catalog does not yet"
    );
    assert_eq!(drained.reason, "drained by reeve: retiring");
    assert_eq!(drained.loaded, Some(true), "and it is still loaded");
    // Consul's word is that it does not pass; Docker says why.
    assert_eq!(endpoint(&explanation, "192.0.2.1:83").kind, "unfit");
    let stranger = endpoint(&explanation, "192.0.2.7:89");
    assert_eq!(stranger.reason, "does not pass in Consul: check tcp is critical: refused");
    assert_eq!((stranger.replica.as_deref(), stranger.registration.as_deref()), (None, Some("legacy")));
}

#[test]
fn what_is_shown_is_what_the_planner_routes() {
    let (spec, mut observed) = (spec(), observed());
    // Everything that the loaded generation routes to is lost at once, and of one the container lives.
    let consul = observed.consul.known_mut().expect("known");
    consul.registrations.clear();
    for view in consul.catalog.values_mut() {
        view.known_mut().expect("known").instances.clear();
    }
    let explanation = explain_in("http_backend", &spec, &observed).expect("there");
    assert_eq!(endpoint(&explanation, "192.0.2.1:81").kind, "unlisted");
    assert!(endpoint(&explanation, "192.0.2.1:81").wanted);
}

#[test]
fn a_backend_that_cannot_be_read_is_neither_none_nor_an_error() {
    let since = world::at(-5);
    let unknown = || "connection refused".to_owned();
    let (spec, mut observed) = (spec(), observed());
    observed.consul = View::Unknown { reason: unknown(), since };
    let text = explain_in("http_backend", &spec, &observed).expect("there").text(world::at(0), Style::plain());
    assert!(text.starts_with("! consul is unknown for 5s: connection refused\n"), "{text}");
    assert!(text.contains("in  192.0.2.1:81  shop-web-1-0a1b2c3d: Consul cannot be read"), "{text}");
    observed.nginx = View::Unknown { reason: unknown(), since };
    observed.docker = View::Unknown { reason: unknown(), since };
    let explanation = explain_in("http_backend", &spec, &observed).expect("there");
    assert_eq!(explanation.upstream.as_ref().expect("there").endpoints, Some(Vec::new()));
    let explanation = explain_in("web", &spec, &observed).expect("there");
    let service = explanation.service.as_ref().expect("there");
    assert_eq!(service.replicas, None);
    let text = explanation.text(world::at(0), Style::plain());
    assert!(text.contains("which replicas there are is not known") && text.contains("? running"), "{text}");
}

#[test]
fn what_left_the_spec_is_explained_as_long_as_something_of_it_is_there() {
    let (spec, observed) = (Spec::empty("shop"), observed());
    let service = explain_in("web", &spec, &observed).expect("its containers are there").service.expect("a service");
    assert_eq!((service.wanted, service.replicas.as_ref().map(Vec::len)), (None, Some(4)));
    let upstream = explain_in("http_backend", &spec, &observed).expect("it is loaded").upstream.expect("an upstream");
    assert_eq!((upstream.wanted, upstream.generations), (None, vec!["ab12-1".to_owned()]));
    let endpoints = upstream.endpoints.expect("known");
    assert!(endpoints.iter().all(|one| !one.wanted && one.kind == "upstream_leaves"), "{endpoints:?}");
}

#[test]
fn an_unknown_name_gets_the_nearest_or_all_there_is() {
    let error = |name| explain_in(name, &spec(), &observed()).expect_err("unknown").to_string();
    assert_eq!(
        error("wbe"),
        "there is no service, no upstream, no template and no discovered container `wbe`; did you mean `web`?"
    );
    assert_eq!(
        error("http-backend"),
        "there is no service, no upstream, no template and no discovered container `http-backend`; did you mean `http_backend`?"
    );
    assert_eq!(
        error("elsewhere"),
        "there is no service, no upstream, no template and no discovered container `elsewhere`; services: db, web; upstreams: http_backend"
    );
}

#[test]
fn the_history_of_a_service_has_the_generations_that_routed_to_it() {
    let entry = |services: &[&str], upstreams: &[&str]| Entry {
        at: world::at(-90),
        object: "nginx".to_owned(),
        services: services.iter().map(|name| (*name).to_owned()).collect(),
        upstreams: upstreams.iter().map(|name| (*name).to_owned()).collect(),
        kind: "reload".to_owned(),
        cause: "endpoints of http_backend: +192.0.2.1:81".to_owned(),
        result: "ok".to_owned(),
        error: None,
        drift: false,
        took_ms: 100,
        spec: "d1".to_owned(),
    };
    let (web, backend, db) = (explain("web"), explain("http_backend"), explain("db"));
    for (about, of_web, of_backend, of_db) in [
        (entry(&["web"], &[]), true, false, false),
        (entry(&["db"], &[]), false, false, true),
        (entry(&[], &["other", "http_backend"]), true, true, false),
        (entry(&[], &["other"]), false, false, false),
    ] {
        let seen = [&web, &backend, &db].map(|explanation| explanation.is_about(&about));
        assert_eq!(seen, [of_web, of_backend, of_db], "{about:?}");
    }
}

#[test]
fn the_json_form_comes_back_as_the_same_explanation() {
    for name in ["web", "http_backend"] {
        let explanation = explain(name);
        let text = serde_json::to_string(&explanation).expect("serialisable");
        assert_eq!(serde_json::from_str::<Explanation>(&text).expect("readable"), explanation);
    }
}

#[test]
fn the_text_reads_as_the_golden_one() {
    let mut web = explain("web");
    web.actions = vec![
        Entry {
            at: world::at(-12),
            object: "replica shop-web-3-0a1b2c3d".to_owned(),
            services: vec!["web".to_owned()],
            upstreams: Vec::new(),
            kind: "start_container".to_owned(),
            cause: "it exited with code 1".to_owned(),
            result: "transient".to_owned(),
            error: Some("Docker cannot start it: no space left on device".to_owned()),
            drift: false,
            took_ms: 40,
            spec: "d1".to_owned(),
        },
        Entry {
            at: world::at(-200),
            object: "nginx".to_owned(),
            services: Vec::new(),
            upstreams: vec!["http_backend".to_owned()],
            kind: "reload".to_owned(),
            cause: "nginx runs generation ab12-0".to_owned(),
            result: "ok".to_owned(),
            error: None,
            drift: true,
            took_ms: 200,
            spec: "d1".to_owned(),
        },
    ];
    web.last_error = web.actions.first().cloned();
    let mut mixed = observed();
    mixed.nginx.known_mut().expect("known").loaded = Loaded::Nothing;
    let mut unloaded = explain_in("http_backend", &spec(), &mixed).expect("there");
    unloaded.history_problem =
        Some("the history /var/lib/reeve/history.jsonl cannot be read: permission denied".to_owned());
    let text: Vec<String> =
        [&web, &explain("http_backend"), &unloaded].map(|one| one.text(world::at(0), Style::plain())).into();
    let text = text.join("\n=====\n\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain.txt");
    if std::env::var_os("REEVE_GOLDEN").is_some_and(|value| value == "overwrite") {
        std::fs::write(&path, &text).expect("the golden file is written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "the text has changed; it is now:\n{text}");
}
