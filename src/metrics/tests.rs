//! What the metrics say of passes in memory: names, figures, and series that disappear.

use std::collections::BTreeSet;

use super::*;
use crate::observed::{Observed, View};
use crate::plan::{DirectoryAction, ObjectKey, Plan, Step};
use crate::spec::Spec;
use crate::status::tests as world;
use crate::world::ActionError;

fn pass(spec: Spec, observed: Observed, plan: Plan, applied: Vec<Applied>) -> (Pass, Status) {
    let held = vec![(ObjectKey::Nginx, "refused".to_owned(), world::at(5))];
    let status = Status::of(&spec, &observed, &plan, &held);
    let pass = Pass {
        spec: spec.into(),
        observed,
        plan,
        held,
        applied,
        started_at: world::at(0),
        took: Duration::from_millis(20),
        changed_at: None,
    };
    (pass, status)
}

fn applied(kind: &'static str, drift: bool, result: Result<(), ActionError>) -> Applied {
    Applied {
        object: ObjectKey::Nginx,
        system: System::Nginx,
        kind,
        cause: "a cause".to_owned(),
        drift,
        took: Duration::from_millis(120),
        result,
    }
}

fn full() -> Metrics {
    let metrics = Metrics::new().expect("valid metrics");
    let steps = vec![
        applied("reload", true, Ok(())),
        applied("write_generation", true, Err(ActionError::Permanent("refused".to_owned()))),
    ];
    let (pass, status) = pass(world::spec(), world::observed(), world::plan(), steps);
    metrics.observe_pass(&pass, &status);
    metrics.observe_wake(WakeSource::DockerEvent);
    metrics.observe_event(WakeSource::DockerEvent);
    metrics.observe_change_to_loaded(Duration::from_millis(300));
    metrics.spec(true, "d1");
    metrics
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|one| one == line), "no line `{line}` in:\n{text}");
}

#[test]
fn a_pass_is_told_by_its_objects_and_results() {
    let text = full().encode().expect("encodable");
    for line in [
        "reeve_passes_total{result=\"failed\"} 1",
        "reeve_passes_total{result=\"idle\"} 0",
        "reeve_actions_total{kind=\"reload\",result=\"ok\",system=\"nginx\"} 1",
        "reeve_actions_total{kind=\"write_generation\",result=\"permanent\",system=\"nginx\"} 1",
        "reeve_drift_total{system=\"nginx\"} 1",
        "reeve_drift_total{system=\"consul\"} 0",
        "reeve_containers_wanted{service=\"web\"} 4",
        "reeve_containers_running{service=\"web\"} 4",
        "reeve_containers_healthy{service=\"web\"} 2",
        "reeve_registrations_passing{service=\"web\"} 1",
        "reeve_upstream_endpoints{upstream=\"http_backend\"} 2",
        "reeve_waiting_objects{reason=\"unhealthy\"} 2",
        "reeve_waiting_objects{reason=\"backoff\"} 1",
        "reeve_backoff_objects 1",
        "reeve_backend_known{backend=\"docker\"} 1",
        "reeve_nginx_generation_info{id=\"ab12-1\"} 1",
        "reeve_nginx_generation_matches 1",
        "reeve_nginx_worker_generations 1",
        "reeve_nginx_reloads_total{result=\"ok\"} 1",
        "reeve_nginx_reload_duration_seconds_count 1",
        "reeve_change_to_loaded_seconds_count 1",
        "reeve_wakeups_total{source=\"docker_event\"} 1",
        "reeve_spec_info{digest=\"d1\"} 1",
        "reeve_spec_valid 1",
        "reeve_last_success_timestamp_seconds 0",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("registrations_passing{service=\"db\"}"), "{text}");
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
}

#[test]
fn series_of_what_is_gone_disappear() {
    let metrics = full();
    let mut observed = world::observed();
    observed.docker.known_mut().expect("known").containers.clear();
    let (pass, status) = pass(Spec::empty("shop"), observed, Plan::default(), Vec::new());
    metrics.observe_pass(&pass, &status);
    metrics.spec(false, "d2");
    let text = metrics.encode().expect("encodable");
    for gone in ["service=\"web\"", "http_backend", "reason=\"unhealthy\"", "digest=\"d1\""] {
        assert!(!text.contains(gone), "{gone} is still there:\n{text}");
    }
    has(&text, "reeve_spec_valid 0");
    has(&text, "reeve_last_success_timestamp_seconds 1700000000.02");
}

#[test]
fn a_pin_is_told_as_long_as_it_is_for_what_the_spec_says() {
    let metrics = Metrics::new().expect("valid metrics");
    let spec = world::spec();
    let hash = spec.services["web"].hash.clone();
    let line = "reeve_service_pinned{pin=\"hold\",service=\"web\"} 1";
    for (hash, told) in [(hash, true), (crate::spec::ConfigHash::of("another"), false)] {
        let mut observed = world::observed();
        let pin = crate::observed::Pin::Hold { service: "web".to_owned(), hash, digest: String::new() };
        observed.directory.known_mut().expect("known").pins.insert(pin);
        let (pass, status) = pass(spec.clone(), observed, Plan::default(), Vec::new());
        metrics.observe_pass(&pass, &status);
        assert_eq!(metrics.encode().expect("encodable").lines().any(|one| one == line), told);
    }
}

#[test]
fn what_is_unknown_has_no_series() {
    let metrics = full();
    let unknown = "connection refused";
    let mut observed = world::observed();
    observed.docker = View::Unknown { reason: unknown.to_owned(), since: world::at(0) };
    observed.nginx = View::Unknown { reason: unknown.to_owned(), since: world::at(0) };
    let (pass, status) = pass(world::spec(), observed, Plan::default(), Vec::new());
    metrics.observe_pass(&pass, &status);
    let text = metrics.encode().expect("encodable");
    has(&text, "reeve_backend_known{backend=\"docker\"} 0");
    has(&text, "reeve_containers_wanted{service=\"web\"} 4");
    for absent in ["containers_running{", "reeve_nginx_generation_matches ", "reeve_nginx_generation_info{"] {
        assert!(!text.contains(absent), "{absent}:\n{text}");
    }
}

#[test]
fn a_planned_generation_means_that_the_loaded_one_is_not_the_wanted_one() {
    let metrics = full();
    let step =
        |action| Step { object: ObjectKey::Nginx, action, cause: String::new(), drift: true, changes: Vec::new() };
    let observed = world::observed();
    let expect = crate::observed::GenerationId { hash: "ab12".to_owned(), number: 1 };
    let pin = crate::observed::Pin::AllowRemovals { spec: "d".to_owned() };
    let steps = vec![
        step(Action::Nginx(NginxAction::Reload { expect })),
        step(Action::Directory(DirectoryAction::RemovePin { pin })),
    ];
    let (pass, status) = pass(world::spec(), observed, Plan { steps, ..Plan::default() }, Vec::new());
    metrics.observe_pass(&pass, &status);
    let text = metrics.encode().expect("encodable");
    has(&text, "reeve_nginx_generation_matches 0");
    has(&text, "reeve_planned_steps{system=\"directory\"} 1");
    has(&text, "reeve_drift_steps{system=\"nginx\"} 1");
}

/// What `promtool check metrics` checks, and our own rules.
#[test]
fn names_and_help_texts_follow_prometheus_rules() {
    let text = full().encode().expect("encodable");
    let mut types = std::collections::BTreeMap::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(help.ends_with('.'), "{line}");
            assert!(helped.insert(name.to_owned()), "{name} has two help texts");
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            types.insert(name.to_owned(), kind.to_owned());
        }
    }
    assert!(types.len() > 30, "{types:?}");
    for (name, kind) in &types {
        assert!(helped.contains(name), "{name} has no help text");
        assert!(name.starts_with("reeve_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        for word in ["milliseconds", "minutes", "percent", "_ms", "gauge", "counter", "histogram"] {
            assert!(!name.contains(word), "{name} contains {word}");
        }
        if kind == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
}
