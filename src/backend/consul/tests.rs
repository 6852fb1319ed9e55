//! Faults of an agent, against a scripted one. What a real agent does is in `tests/real/consul.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake::{Asked, Fake, Reply, owner};
use super::{Consul, wire};
use crate::observed::{self, CheckStatus, Interest, Maintenance, View};
use crate::plan::ConsulAction;
use crate::plan::action::{NewRegistration, WantedCheck};
use crate::spec::upstream::CatalogQuery;
use crate::spec::{Check, CheckAddress, CheckKind};
use crate::world::{ActionError, ViewError, Wake};

const ID: &str = "n1:shop-web-1-abc:80/tcp";
const RECORD: &str = "GET /v1/agent/service/n1:shop-web-1-abc:80%2Ftcp";

fn query(service: &str) -> CatalogQuery {
    CatalogQuery { service: service.to_owned(), tag: None, datacenter: None, filter: None }
}

fn interest(queries: impl IntoIterator<Item = CatalogQuery>) -> Interest {
    Interest {
        owner: owner(),
        networks: BTreeSet::new(),
        volumes: BTreeSet::new(),
        images: BTreeSet::new(),
        catalog: queries.into_iter().collect(),
        probes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        listens: BTreeSet::new(),
        tls_files: BTreeMap::new(),
    }
}

/// Spawned, so that it is also seen to be `Send`.
async fn view(consul: &Consul, interest: &Interest) -> Result<observed::Consul, ViewError> {
    let (consul, interest) = (consul.clone(), interest.clone());
    tokio::spawn(async move { consul.view(&interest).await }).await.expect("it does not panic")
}

fn reason<'a>(seen: &'a observed::Consul, service: &str) -> &'a str {
    seen.catalog[&query(service)].reason().unwrap_or("known")
}

fn entry(id: &str) -> Value {
    json!({
        "Node": { "Node": "n1", "Address": "192.0.2.1" },
        "Service": { "ID": id, "Service": "web", "Port": 80, "Address": "192.0.2.1" },
        "Checks": [{ "CheckID": "serfHealth", "Status": "passing" }]
    })
}

fn ours(meta: &[(&str, &str)]) -> Value {
    let mut all =
        json!({ "reeve-owner": "shop@n1", "reeve-service": "web", "reeve-slot": "1", "reeve-container": "c1" });
    for (key, value) in meta {
        all[*key] = (*value).into();
    }
    json!({ "ID": ID, "Service": "web", "Port": 8080, "Address": "192.0.2.1", "Meta": all })
}

fn new_registration() -> NewRegistration {
    NewRegistration {
        id: ID.to_owned(),
        name: "web".to_owned(),
        address: "192.0.2.1".to_owned(),
        port: 8080,
        tags: vec!["v1".to_owned()],
        meta: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        service: "web".to_owned(),
        slot: 1,
        container: "c1".to_owned(),
        check: Some(WantedCheck {
            check: Check {
                kind: CheckKind::Tcp,
                interval: Duration::from_secs(5),
                timeout: Duration::from_millis(1500),
                deregister_after: None,
                address: CheckAddress::Auto,
            },
            address: "2001:db8::1".to_owned(),
            port: 80,
            digest: "d1".to_owned(),
        }),
        health: true,
        drain_start: None,
    }
}

// ------------------------------------------------------------------------------------------------ view

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

// --------------------------------------------------------------------------------------------- actions

/// An agent that has our record, with these checks, and answers writes as told.
async fn with_record(
    record: Value,
    checks: Value,
    write: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> Fake {
    Fake::start(move |asked| match asked.line.as_str() {
        RECORD => Some(Reply::Json(record.clone())),
        "GET /v1/agent/checks" => Some(Reply::Json(checks.clone())),
        line if line.starts_with("PUT ") => write(asked),
        _ => None,
    })
    .await
}

fn maintenance(reason: &str) -> Value {
    let id = wire::service_maintenance(ID);
    json!({ &id: { "CheckID": id, "ServiceID": ID, "Status": "critical", "Notes": reason } })
}

fn all_actions() -> [ConsulAction; 8] {
    let id = || ID.to_owned();
    [
        ConsulAction::Register(Box::new(new_registration())),
        ConsulAction::Drain { id: id(), reason: "reeve: replaced".to_owned() },
        ConsulAction::LiftDrain { id: id() },
        ConsulAction::StartDrainClock { id: id(), at: jiff::Timestamp::UNIX_EPOCH },
        ConsulAction::StopDrainClock { id: id() },
        ConsulAction::Deregister { id: id() },
        ConsulAction::SetHealth { id: id(), status: CheckStatus::Critical, output: "no".to_owned() },
        ConsulAction::RemoveCheck { check: wire::health_check(ID) },
    ]
}

#[tokio::test]
async fn what_is_not_ours_is_never_written_to() {
    for owner in [Some("blog@n1"), Some("shop@n2"), None] {
        let record =
            json!({ "ID": ID, "Service": "theirs", "Meta": owner.map(|owner| json!({ "reeve-owner": owner })) });
        let health = wire::health_check(ID);
        let checks = json!({ &health: { "CheckID": health, "ServiceID": ID, "Status": "passing" } });
        let fake = with_record(record, checks, |_| None).await;
        for action in all_actions() {
            let error = fake.consul().execute(&action).await.expect_err("it is not ours");
            assert!(matches!(&error, ActionError::Conflict(text) if text.contains("theirs")), "{action:?}: {error}");
        }
        assert_eq!(fake.writes(), [""; 0]);
    }
}

#[tokio::test]
async fn an_error_is_classed_by_what_the_caller_can_do() {
    let health = wire::health_check(ID);
    let mut checks = maintenance("reeve: replaced");
    checks[&health] = json!({ "CheckID": health, "ServiceID": ID, "Status": "passing" });
    for (status, body, class, words) in [
        (403, "Permission denied", "permanent", "service:write"),
        (400, "Invalid check: Interval must be > 0", "permanent", "Interval must be > 0"),
        (429, "slow down", "transient", "slow down"),
        (500, "No cluster leader", "transient", "No cluster leader"),
        (0, "", "transient", "failed: "),
    ] {
        let fake = with_record(ours(&[]), checks.clone(), move |_| {
            Some(if status == 0 { Reply::Close } else { Reply::Status(status, body) })
        })
        .await;
        for action in all_actions() {
            // Its drain is on already, and its clock stands.
            if matches!(action, ConsulAction::Drain { .. } | ConsulAction::StopDrainClock { .. }) {
                continue;
            }
            let error = fake.consul().execute(&action).await.expect_err("the agent refuses");
            let (seen, text) = match &error {
                ActionError::Conflict(text) => ("conflict", text),
                ActionError::Transient(text) => ("transient", text),
                ActionError::Permanent(text) => ("permanent", text),
                ActionError::Refused(text) => ("refused", text),
            };
            assert_eq!(seen, class, "{action:?}: {text}");
            assert!(text.contains(words) && text.contains(ID), "{action:?}: {text}");
            assert!(!text.contains("t0ken"));
        }
    }
}

#[tokio::test]
async fn a_record_that_is_gone_is_a_conflict_except_where_gone_is_the_aim() {
    let fake = Fake::start(|_| None).await;
    for action in all_actions() {
        let result = fake.consul().execute(&action).await;
        match action {
            ConsulAction::Register(_) | ConsulAction::Deregister { .. } | ConsulAction::RemoveCheck { .. } => {
                assert_eq!(result, Ok(()), "{action:?}");
            }
            ConsulAction::Drain { .. }
            | ConsulAction::LiftDrain { .. }
            | ConsulAction::StartDrainClock { .. }
            | ConsulAction::StopDrainClock { .. }
            | ConsulAction::SetHealth { .. } => {
                assert!(matches!(result, Err(ActionError::Conflict(_))), "{action:?}: {result:?}");
            }
        }
    }
    assert_eq!(fake.writes(), ["PUT /v1/agent/service/register"]);
}

#[tokio::test]
async fn a_check_that_becomes_another_kind_is_removed_first_and_hands_over_its_status() {
    let declared = wire::declared_check(ID);
    let checks = json!({ &declared: { "CheckID": declared, "ServiceID": ID, "Status": "critical", "Type": "http" } });
    let fake = with_record(ours(&[]), checks, |_| None).await;
    fake.consul().execute(&all_actions()[0]).await.expect("it is ours");
    let writes = fake.writes();
    assert!(writes[0].starts_with("PUT /v1/agent/check/deregister/") && writes[0].ends_with(":declared"), "{writes:?}");
    assert_eq!(writes[1..], ["PUT /v1/agent/service/register"]);
    let asked = fake.asked();
    let body = &asked.last().expect("it registered").body;
    assert_eq!(body["Checks"][0]["Status"], "critical");
    assert_eq!(body["Checks"][0]["TCP"], "[2001:db8::1]:80");
    assert_eq!(body["Checks"][0]["Timeout"], "1500000000ns");
    assert_eq!(body["Checks"][1]["TTL"], "87600h");
    assert_eq!(body["Meta"]["reeve-owner"], "shop@n1");
    assert!(!asked.iter().any(|asked| asked.query.contains("replace-existing-checks")), "it would lift maintenance");
}

#[tokio::test]
async fn only_checks_of_our_own_making_are_obsolete() {
    let (declared, health) = (wire::declared_check(ID), wire::health_check(ID));
    let checks = json!({
        &declared: { "CheckID": declared, "ServiceID": ID, "Status": "passing", "Type": "tcp" },
        &health: { "CheckID": health, "ServiceID": ID, "Status": "passing", "Type": "ttl" },
        "by-hand": { "CheckID": "by-hand", "ServiceID": ID, "Status": "passing", "Type": "ttl" },
    });
    let fake = with_record(ours(&[]), checks, |_| None).await;
    let mut wanted = new_registration();
    wanted.check = None;
    wanted.health = false;
    fake.consul().execute(&ConsulAction::Register(Box::new(wanted))).await.expect("it is ours");
    let writes = fake.writes();
    assert_eq!(writes.len(), 3, "{writes:?}");
    assert_eq!(writes[0], "PUT /v1/agent/service/register", "the service is not without its checks for a moment");
    assert!(!writes.iter().any(|write| write.contains("by-hand")));
}

#[tokio::test]
async fn a_drain_leaves_an_operators_maintenance_alone() {
    let fake = with_record(ours(&[]), maintenance("disk is being replaced"), |_| None).await;
    let consul = fake.consul();
    let [_, drain, lift, clock, ..] = all_actions();
    assert_eq!(consul.execute(&drain).await, Ok(()));
    for action in [lift, clock] {
        let error = consul.execute(&action).await.expect_err("it is theirs");
        assert!(matches!(&error, ActionError::Conflict(text) if text.contains("disk is being replaced")), "{error}");
    }
    assert_eq!(fake.writes(), [""; 0]);
}

#[tokio::test]
async fn the_drain_clock_is_started_once_and_does_not_survive_its_drain() {
    let running = ours(&[("reeve-drain-start", "2026-01-02T03:04:05Z")]);
    let [_, drain, lift, clock, ..] = all_actions();
    // It is not pushed back by a repetition.
    let fake = with_record(running.clone(), maintenance("reeve: x"), |_| None).await;
    assert_eq!(fake.consul().execute(&clock).await, Ok(()));
    assert_eq!(fake.writes(), [""; 0]);
    // Lifting takes it away, and only then the maintenance.
    assert_eq!(fake.consul().execute(&lift).await, Ok(()));
    assert_eq!(fake.writes().len(), 2);
    assert_eq!(fake.writes()[0], "PUT /v1/agent/service/register");
    let asked = fake.asked();
    let register = asked.iter().find(|asked| asked.line.starts_with("PUT")).expect("it wrote");
    assert!(register.body["Meta"].get("reeve-drain-start").is_none());
    assert_eq!(register.body["Meta"]["reeve-container"], "c1");
    assert!(register.body.get("Checks").is_none(), "Consul keeps the checks only when none are sent");
    // A drain does not begin with the clock of an earlier one.
    let fake = with_record(running, json!({}), |_| None).await;
    assert_eq!(fake.consul().execute(&drain).await, Ok(()));
    assert_eq!(fake.writes()[0], "PUT /v1/agent/service/register");
    assert_eq!(
        fake.asked().last().map(|asked| asked.query.clone()).as_deref(),
        Some("enable=true&reason=reeve%3A+replaced")
    );
}

// --------------------------------------------------------------------------------------------- watches

/// Counts wake-ups.
fn counter() -> (Wake, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let wake: Wake = Arc::new({
        let count = count.clone();
        move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (wake, count)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn service_queries(fake: &Fake) -> Vec<String> {
    fake.asked().into_iter().filter(|asked| asked.line.contains("/health/service/")).map(|asked| asked.query).collect()
}

#[tokio::test]
async fn an_index_that_goes_backwards_is_asked_from_the_start() {
    let round = AtomicU64::new(0);
    let fake = Fake::start(move |asked| {
        asked.line.contains("/health/service/").then(|| match round.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Indexed(10, json!([])),
            1 => Reply::Indexed(5, json!([])),
            2 => Reply::Indexed(6, json!([])),
            _ => Reply::Hang,
        })
    })
    .await;
    let (wake, _) = counter();
    let (_interest, receiver) = tokio::sync::watch::channel(interest([query("web")]));
    let watch = tokio::spawn({
        let consul = fake.consul();
        async move { consul.watch(receiver, wake).await }
    });
    until("the fourth query", || service_queries(&fake).len() >= 4).await;
    watch.abort();
    let indexes: Vec<String> = service_queries(&fake)
        .iter()
        .map(|query| query.split('&').find_map(|pair| pair.strip_prefix("index=")).unwrap_or("none").to_owned())
        .collect();
    assert_eq!(indexes[..4], ["0", "10", "0", "6"]);
}

#[tokio::test]
async fn a_server_that_never_waits_makes_no_hot_loop_and_output_alone_does_not_wake() {
    let round = AtomicU64::new(0);
    let fake = Fake::start(move |asked| {
        asked.line.contains("/health/service/").then(|| {
            let round = round.fetch_add(1, Ordering::SeqCst);
            let mut entry = entry("web-1");
            entry["Checks"][0]["Output"] = round.to_string().into();
            Reply::Indexed(round + 1, json!([entry]))
        })
    })
    .await;
    let (wake, count) = counter();
    let (_interest, receiver) = tokio::sync::watch::channel(interest([query("web")]));
    let watch = tokio::spawn({
        let consul = fake.consul();
        async move { consul.watch(receiver, wake).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    watch.abort();
    let asked = service_queries(&fake).len();
    assert!((4..20).contains(&asked), "{asked} queries in 2 s");
    assert_eq!(count.load(Ordering::SeqCst), 2, "the first answer of the service, and the leader's");
}

#[tokio::test]
async fn going_away_and_coming_back_wake_once_each() {
    // 0: fine, 1: failing, 2: fine again.
    let state = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let state = state.clone();
        let first = AtomicUsize::new(0);
        move |asked| match (asked.line.contains("/health/service/"), state.load(Ordering::SeqCst)) {
            (true, 1) => Some(Reply::Status(500, "No cluster leader")),
            (true, _) if first.fetch_add(1, Ordering::SeqCst) > 8 => Some(Reply::Hang),
            (true, _) => Some(Reply::Indexed(1, json!([]))),
            _ => None,
        }
    })
    .await;
    let (wake, count) = counter();
    let (_interest, receiver) = tokio::sync::watch::channel(interest([query("web")]));
    let watch = tokio::spawn({
        let consul = fake.consul();
        async move { consul.watch(receiver, wake).await }
    });
    until("the first wake-ups", || count.load(Ordering::SeqCst) == 2).await;
    state.store(1, Ordering::SeqCst);
    until("a wake-up for the failure", || count.load(Ordering::SeqCst) == 3).await;
    let asked = service_queries(&fake).len();
    until("more failures", || service_queries(&fake).len() >= asked + 2).await;
    assert_eq!(count.load(Ordering::SeqCst), 3, "a failure that lasts is no news");
    state.store(2, Ordering::SeqCst);
    until("a wake-up for the recovery", || count.load(Ordering::SeqCst) == 4).await;
    watch.abort();
}

#[tokio::test]
async fn a_leader_that_appears_wakes_within_two_seconds() {
    let elected = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let elected = elected.clone();
        move |asked| match (asked.line.as_str(), elected.load(Ordering::SeqCst)) {
            ("GET /v1/status/leader", 0) => Some(Reply::Json(json!(""))),
            _ => None,
        }
    })
    .await;
    let (wake, count) = counter();
    let (_interest, receiver) = tokio::sync::watch::channel(interest([]));
    let watch = tokio::spawn({
        let consul = fake.consul();
        async move { consul.watch(receiver, wake).await }
    });
    until("the first wake-up", || count.load(Ordering::SeqCst) == 1).await;
    elected.store(1, Ordering::SeqCst);
    let started = Instant::now();
    until("a wake-up for the leader", || count.load(Ordering::SeqCst) == 2).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    watch.abort();
}

#[tokio::test]
async fn the_watches_follow_the_interest_and_what_is_registered_and_end_with_it() {
    let fake = Fake::start(|asked| match asked.line.as_str() {
        "GET /v1/agent/services" => Some(Reply::Json(json!({ ID: ours(&[]) }))),
        line if line.contains("/health/service/") && asked.query.contains("index=0") => {
            Some(Reply::Indexed(1, json!([])))
        }
        line if line.contains("/health/service/") && asked.query.contains("index") => Some(Reply::Hang),
        _ => None,
    })
    .await;
    let consul = fake.consul();
    let (wake, _) = counter();
    let (sender, receiver) = tokio::sync::watch::channel(interest([query("api")]));
    let watch = tokio::spawn({
        let consul = consul.clone();
        async move { consul.watch(receiver, wake).await }
    });
    let watched = |name: &str| {
        let line = format!("GET /v1/health/service/{name}");
        fake.asked().iter().any(|asked| asked.line == line && asked.query.contains("wait="))
    };
    until("a watch on api", || watched("api")).await;
    assert!(!watched("web"));
    view(&consul, &interest([])).await.expect("it answers");
    until("a watch on the registration's name", || watched("web")).await;
    sender.send_replace(interest([query("api"), query("shop")]));
    until("a watch on shop", || watched("shop")).await;
    drop(sender);
    tokio::time::timeout(Duration::from_secs(5), watch).await.expect("it ends").expect("it does not panic");
}
