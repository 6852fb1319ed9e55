//! Looks at a scripted agent that is slow, broken, or tells lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use super::super::wire;
use super::*;

#[tokio::test]
async fn an_unreadable_query_makes_only_itself_unknown() {
    let fake = Fake::start(|asked| match asked.line.as_str() {
        "GET /v1/health/service/good" => Some(Reply::Json(json!([entry("web-1")]))),
        "GET /v1/health/service/refused" => Some(Reply::Status(500, "No path to datacenter")),
        "GET /v1/health/service/closed" => Some(Reply::Close),
        "GET /v1/health/service/cut" => Some(Reply::Truncated),
        "GET /v1/health/service/half" => Some(Reply::HalfJson),
        "GET /v1/health/service/hanging" => Some(Reply::Hang),
        "GET /v1/health/service/leaderless" => Some(Reply::Headed("X-Consul-KnownLeader", "false", json!([]))),
        "GET /v1/health/service/hidden" => Some(Reply::Headed("X-Consul-Results-Filtered-By-ACLs", "true", json!([]))),
        _ => None,
    })
    .await;
    let names = ["good", "refused", "closed", "cut", "half", "hanging", "leaderless", "hidden"];
    let seen = view(&fake.consul(), &interest(names.map(query))).await.expect("the agent answers");
    assert_eq!(seen.catalog[&query("good")].known().map(|catalog| catalog.instances.len()), Some(1));
    for (name, words) in [
        ("refused", "No path to datacenter"),
        ("closed", "failed: "),
        ("cut", "failed: "),
        ("half", "not Consul's"),
        ("hanging", "no answer within"),
        ("leaderless", "without knowing a leader"),
        ("hidden", "service:read"),
    ] {
        assert!(reason(&seen, name).contains(words), "{name}: {}", reason(&seen, name));
    }
    assert_eq!(seen.leader.as_deref(), Some("192.0.2.1:8300"));
    assert_eq!((seen.nodes[0].name.as_str(), seen.nodes[0].status.as_str()), ("n1", "passing"));
}

#[tokio::test]
async fn an_agent_that_cannot_be_read_is_an_error_that_says_why() {
    for path in ["GET /v1/agent/self", "GET /v1/agent/services", "GET /v1/agent/checks"] {
        for (fault, words) in [
            (0, "answered 500: rpc error"),
            (1, "answered 403: Permission denied"),
            (2, "failed: "),
            (3, "failed: "),
            (4, "not Consul's"),
        ] {
            let fake = Fake::start(move |asked| {
                (asked.line == path).then_some(match fault {
                    0 => Reply::Status(500, "rpc error"),
                    1 => Reply::Status(403, "Permission denied"),
                    2 => Reply::Close,
                    3 => Reply::Truncated,
                    _ => Reply::HalfJson,
                })
            })
            .await;
            let error = view(&fake.consul(), &interest([])).await.expect_err("the agent cannot be read").0;
            assert!(error.contains(words) && error.contains(&fake.address) && error.contains(path), "{error}");
        }
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_refused_and_one_that_hangs_is_given_up() {
    let fake = Fake::start(|_| Some(Reply::Hang)).await;
    let started = Instant::now();
    let error = view(&fake.consul(), &interest([])).await.expect_err("it hangs").0;
    assert!(error.contains("gave no answer within 4s"), "{error}");
    assert!(started.elapsed() < observed::VIEW_TIMEOUT);
    let consul = fake.consul();
    drop(fake);
    tokio::task::yield_now().await;
    let error = view(&consul, &interest([])).await.expect_err("it is gone").0;
    assert!(error.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn without_a_leader_the_agents_part_is_known_and_the_catalog_is_not_asked() {
    for fault in [Reply::Json(json!("")), Reply::Status(500, "No known Consul servers")] {
        let fault = Arc::new(std::sync::Mutex::new(Some(fault)));
        let fake = Fake::start(move |asked| match asked.line.as_str() {
            "GET /v1/status/leader" => {
                Some(fault.lock().expect("no panic").take().unwrap_or_else(|| Reply::Json(json!(""))))
            }
            "GET /v1/agent/services" => Some(Reply::Json(json!({ ID: ours(&[]) }))),
            _ => None,
        })
        .await;
        let consul = fake.consul();
        let first = view(&consul, &interest([query("web")])).await.expect("the agent answers");
        assert_eq!(first.leader, None);
        assert!(first.registrations.contains_key(ID));
        assert!(first.unsynced.is_empty(), "nobody could say so");
        assert!(reason(&first, "web").contains("no leader"), "{}", reason(&first, "web"));
        let second = view(&consul, &interest([query("web")])).await.expect("the agent answers");
        let since = |seen: &observed::Consul| match &seen.catalog[&query("web")] {
            View::Unknown { since, .. } => *since,
            View::Known(_) => panic!("there is no leader"),
        };
        assert_eq!(since(&first), since(&second));
        assert!(!fake.asked().iter().any(|asked| asked.line.contains("/v1/health/")), "it would be held for 7 s");
    }
}

#[tokio::test]
async fn an_autopilot_that_does_not_answer_spares_no_server() {
    for (status, text, tolerance) in [
        (429, r#"{"FailureTolerance":1}"#, Some(0)),
        (500, "rpc error getting client: failed to get conn", Some(0)),
        (403, "Permission denied", None),
        (404, "", None),
    ] {
        let fake = Fake::start(move |asked| {
            (asked.line == "GET /v1/operator/autopilot/health").then_some(Reply::Status(status, text))
        })
        .await;
        let seen = view(&fake.consul(), &interest([])).await.expect("the agent answers");
        assert_eq!(seen.failure_tolerance, tolerance, "{status}");
    }
}

#[tokio::test]
async fn an_empty_answer_is_dated_as_a_loss() {
    let round = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let round = round.clone();
        move |asked| match (asked.line.as_str(), round.load(Ordering::SeqCst)) {
            ("GET /v1/health/service/web", 2) => Some(Reply::Json(json!([]))),
            ("GET /v1/health/service/web", _) => Some(Reply::Json(json!([entry("web-2"), entry("web-1")]))),
            _ => None,
        }
    })
    .await;
    let consul = fake.consul();
    let mut seen = Vec::new();
    for at in 0..3 {
        round.store(at, Ordering::SeqCst);
        let view = view(&consul, &interest([query("web")])).await.expect("it answers");
        seen.push(view.catalog[&query("web")].known().expect("it is known").clone());
    }
    assert_eq!(seen[0].instances.iter().map(|instance| instance.id.as_str()).collect::<Vec<_>>(), ["web-1", "web-2"]);
    assert_eq!(seen[0], seen[1], "nothing changed, nothing differs");
    assert!(seen[2].instances.is_empty() && seen[2].shrunk_at > seen[1].shrunk_at);
}

#[tokio::test]
async fn the_owner_in_meta_decides_what_is_ours() {
    let fake = Fake::start(|asked| match asked.line.as_str() {
        "GET /v1/agent/services" => Some(Reply::Json(json!({
            ID: ours(&[("team", "web"), ("reeve-check", "d1"), ("reeve-drain-start", "2026-01-02T03:04:05Z")]),
            "other": { "ID": "other", "Service": "web", "Meta": { "reeve-owner": "blog@n1" } },
            "n1:shop-web-2-abc:80/tcp": { "ID": "n1:shop-web-2-abc:80/tcp", "Service": "web", "Meta": null }
        }))),
        "GET /v1/agent/checks" => Some(Reply::Json(json!({
            "a": { "CheckID": wire::declared_check(ID), "ServiceID": ID, "Status": "warning", "Output": "slow\n" },
            "b": { "CheckID": wire::service_maintenance(ID), "ServiceID": ID, "Status": "critical", "Notes": "reeve: x" }
        }))),
        _ => None,
    })
    .await;
    let seen = view(&fake.consul(), &interest([])).await.expect("it answers");
    assert_eq!(seen.registrations.len(), 1);
    let registration = &seen.registrations[ID];
    assert_eq!(registration.meta, BTreeMap::from([("team".to_owned(), "web".to_owned())]));
    assert_eq!((registration.service.as_str(), registration.slot, registration.container.as_str()), ("web", 1, "c1"));
    assert_eq!(registration.drain_start, "2026-01-02T03:04:05Z".parse().ok());
    assert_eq!(registration.maintenance, Maintenance::Draining { reason: "reeve: x".to_owned() });
    assert_eq!(registration.checks.len(), 1);
    assert_eq!(registration.checks[&wire::declared_check(ID)].output, "slow");
    assert_eq!(seen.strangers["other"].owner.as_deref(), Some("blog@n1"));
    assert_eq!(seen.strangers.len(), 2, "an id that looks like ours is not ours");
    assert!(seen.unsynced.contains_key(ID), "the catalog does not know the node");
    assert!(fake.asked().iter().all(|asked| asked.headers.to_lowercase().contains("x-consul-token: t0ken")));
}
