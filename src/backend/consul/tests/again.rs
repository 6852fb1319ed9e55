//! A look at what has changed alone: what it asks for, what it sees, and when everything is read instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::super::kept::MOST;
use super::super::watch::Key;
use super::super::wire;
use super::*;

const CONSTANT: [&str; 3] = ["GET /v1/operator/autopilot/health", "GET /v1/status/leader", "GET /v1/status/peers"];

fn key(service: &str) -> Key {
    Key::Service { name: service.to_owned(), datacenter: None }
}

fn interest_in(services: usize) -> Interest {
    interest((0..services).map(|number| query(&format!("s{number}"))).chain([query("web")]))
}

/// As if each had a watch that has answered; after a first look.
async fn watched(fake: &Fake, interest: &Interest) -> Consul {
    let consul = fake.consul().that_reads_everything_after(Duration::from_secs(3600));
    for query in &interest.catalog {
        consul.keeping(|memory| memory.heard(&key(&query.service), true));
    }
    view(&consul, interest).await.expect("it answers");
    consul
}

/// Lines of the requests that a look makes, in order of the alphabet.
async fn asked(fake: &Fake, consul: &Consul, interest: &Interest) -> Vec<String> {
    let before = fake.asked().len();
    view(consul, interest).await.expect("it answers");
    let mut lines: Vec<String> = fake.asked().into_iter().skip(before).map(|asked| asked.line).collect();
    lines.sort();
    lines
}

fn everything(lines: &[String]) -> bool {
    lines.iter().any(|line| line == "GET /v1/agent/self")
}

/// Our registration and its checks, as an agent filters them.
fn agent_with_ours(asked: &Asked, checks: &Value) -> Option<Reply> {
    match asked.line.as_str() {
        "GET /v1/agent/services" => Some(Reply::Json(json!({ ID: ours(&[]) }))),
        "GET /v1/agent/checks" => {
            let by_name = asked.query.contains("ServiceName");
            let by_id = !asked.query.contains("filter") || asked.query.contains("shop-web-1-abc");
            Some(Reply::Json(if by_id && !by_name { checks.clone() } else { json!({}) }))
        }
        "GET /v1/catalog/node/n1" => Some(Reply::Json(json!({ "Services": { ID: ours(&[]) } }))),
        "GET /v1/catalog/services" => Some(Reply::Json(json!({ "web": [] }))),
        _ => None,
    }
}

#[tokio::test]
async fn what_a_change_costs_does_not_grow_with_the_catalog() {
    for services in [10, 50] {
        let passing = json!({ "a": { "CheckID": wire::declared_check(ID), "ServiceID": ID, "Status": "passing", "Output": "ok" } });
        let fake = Fake::start(move |asked| agent_with_ours(asked, &passing)).await;
        let interest = interest_in(services);
        let consul = watched(&fake, &interest).await;
        assert_eq!(asked(&fake, &consul, &interest).await, CONSTANT, "{services}: nothing has changed");
        consul.keeping(|memory| memory.heard(&key("web"), false));
        let mut about_web = CONSTANT.map(str::to_owned).to_vec();
        about_web.extend(
            ["agent/checks", "agent/services", "catalog/node/n1", "health/service/web"]
                .map(|path| format!("GET /v1/{path}")),
        );
        about_web.sort();
        assert_eq!(asked(&fake, &consul, &interest).await, about_web, "{services}");
        assert_eq!(asked(&fake, &consul, &interest).await, CONSTANT, "{services}: that was seen");
    }
}

#[tokio::test]
async fn a_service_that_is_new_is_in_the_list_of_names_at_once() {
    let registered = Arc::new(AtomicUsize::new(0));
    let there = registered.clone();
    let passing = json!({});
    let fake = Fake::start(move |asked| match (there.load(Ordering::SeqCst), asked.line.as_str()) {
        (0, "GET /v1/agent/services" | "GET /v1/catalog/services") => Some(Reply::Json(json!({}))),
        _ => agent_with_ours(asked, &passing),
    })
    .await;
    let interest = interest_in(1);
    let consul = watched(&fake, &interest).await;
    registered.store(1, Ordering::SeqCst);
    consul.keeping(|memory| memory.heard(&key("web"), false));
    let seen = view(&consul, &interest).await.expect("it answers");
    assert_eq!(seen.services.keys().collect::<Vec<_>>(), ["web"]);
}

#[tokio::test]
async fn our_own_write_is_seen_before_the_watch_tells_of_it() {
    let there = Arc::new(AtomicBool::new(false));
    let fake = Fake::start({
        let there = there.clone();
        move |asked| match asked.line.as_str() {
            "PUT /v1/agent/service/register" => {
                there.store(true, Ordering::SeqCst);
                None
            }
            _ if there.load(Ordering::SeqCst) => agent_with_ours(asked, &json!({})),
            _ => None,
        }
    })
    .await;
    let interest = interest_in(3);
    let consul = watched(&fake, &interest).await;
    consul.execute(&ConsulAction::Register(Box::new(new_registration()))).await.expect("done");
    let seen = view(&consul, &interest).await.expect("it answers");
    assert_eq!(seen.registrations.keys().collect::<Vec<_>>(), [ID]);
    assert!(seen.unsynced.is_empty());
    there.store(false, Ordering::SeqCst);
    // It is known by its id alone, and was somebody else's doing before.
    consul.execute(&ConsulAction::Deregister { id: ID.to_owned() }).await.expect("it is gone already");
    assert!(view(&consul, &interest).await.expect("it answers").registrations.is_empty());
}

#[tokio::test]
async fn maintenance_is_seen_whatever_name_the_service_had_when_its_check_was_made() {
    let maintenance = json!({ "b": { "CheckID": wire::service_maintenance(ID), "ServiceID": ID, "ServiceName": "old",
        "Status": "critical", "Notes": "reeve: x" } });
    let fake = Fake::start(move |asked| agent_with_ours(asked, &maintenance)).await;
    let interest = interest_in(1);
    let consul = watched(&fake, &interest).await;
    consul.keeping(|memory| memory.heard(&key("web"), false));
    let lines = asked(&fake, &consul, &interest).await;
    assert!(!everything(&lines), "{lines:?}");
    consul.keeping(|memory| memory.heard(&key("web"), false));
    let seen = view(&consul, &interest).await.expect("it answers");
    assert_eq!(seen.registrations[ID].maintenance, Maintenance::Draining { reason: "reeve: x".to_owned() });
}

#[tokio::test]
async fn everything_is_read_again_after_a_watch_ended_after_an_error_after_many_changes_and_after_a_while() {
    let fails = Arc::new(AtomicBool::new(false));
    let fake = Fake::start({
        let fails = fails.clone();
        move |asked| {
            let filtered = asked.line == "GET /v1/agent/services" && !asked.query.is_empty();
            (filtered && fails.load(Ordering::SeqCst)).then_some(Reply::Status(500, "no"))
        }
    })
    .await;
    let interest = interest_in(MOST + 1);
    let consul = watched(&fake, &interest).await;
    assert!(!everything(&asked(&fake, &consul, &interest).await));

    consul.keeping(|memory| memory.watch_ended(&key("s3")));
    for _ in 0..2 {
        assert!(everything(&asked(&fake, &consul, &interest).await), "nobody watches s3");
    }
    consul.keeping(|memory| memory.heard(&key("s3"), true));
    assert!(!everything(&asked(&fake, &consul, &interest).await));

    fails.store(true, Ordering::SeqCst);
    consul.keeping(|memory| memory.heard(&key("s3"), false));
    assert!(everything(&asked(&fake, &consul, &interest).await), "it cannot be read alone");
    fails.store(false, Ordering::SeqCst);

    for number in 0..=MOST {
        consul.keeping(|memory| memory.heard(&key(&format!("s{number}")), false));
    }
    assert!(everything(&asked(&fake, &consul, &interest).await), "so many are no few");
    assert!(!everything(&asked(&fake, &consul, &interest).await));

    let consul = consul.that_reads_everything_after(Duration::ZERO);
    assert!(everything(&asked(&fake, &consul, &interest).await));
}

#[tokio::test]
async fn a_list_that_could_not_be_read_is_read_by_the_next_look() {
    let round = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let round = round.clone();
        move |asked| {
            let fails = asked.line == "GET /v1/catalog/services" && round.fetch_add(1, Ordering::SeqCst) == 0;
            fails.then_some(Reply::Status(500, "no"))
        }
    })
    .await;
    let interest = interest_in(1);
    let consul = watched(&fake, &interest).await;
    assert!(everything(&asked(&fake, &consul, &interest).await), "its names of services are not known");
    assert!(!everything(&asked(&fake, &consul, &interest).await));
}

#[tokio::test]
async fn a_catalog_that_hangs_while_something_has_changed_leaves_the_agents_part_known() {
    let hangs = Arc::new(AtomicBool::new(false));
    let fake = Fake::start({
        let hangs = hangs.clone();
        move |asked| {
            let catalog = asked.line.starts_with("GET /v1/catalog/") || asked.line.starts_with("GET /v1/health/");
            (catalog && hangs.load(Ordering::SeqCst))
                .then_some(Reply::Hang)
                .or_else(|| agent_with_ours(asked, &json!({})))
        }
    })
    .await;
    let interest = interest_in(1);
    let consul = watched(&fake, &interest).await;
    hangs.store(true, Ordering::SeqCst);
    consul.keeping(|memory| memory.heard(&key("web"), false));
    let started = Instant::now();
    let seen = view(&consul, &interest).await.expect("the agent answers");
    assert!(started.elapsed() < observed::VIEW_TIMEOUT, "{:?}", started.elapsed());
    assert!(seen.registrations.contains_key(ID));
    assert!(seen.catalog[&query("web")].known().is_none(), "unknown, and not what it was before");
}
