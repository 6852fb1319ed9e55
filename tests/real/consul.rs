//! The consul backend against real agents, each of its own: free ports, own folder, killed at the end.

mod access;
mod agent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reeve::backend::consul::Consul;
use reeve::observed::{self, CheckStatus, Instance, Interest, Maintenance, Registration, View};
use reeve::plan::ConsulAction;
use reeve::plan::action::{NewRegistration, WantedCheck, WantedKind};
use reeve::spec::upstream::CatalogQuery;
use reeve::spec::{CheckKind, Owner};
use reeve::world::{ActionError, Wake};
use serde_json::{Value, json};

use agent::{Agent, Mode};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SERVICE: &str = "nginx";

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(consul: &Consul) {
    until("an agent with a leader", async || {
        let seen = consul.view(&interest()).await.ok()?;
        (seen.leader.is_some() && seen.nodes.iter().any(|node| node.status == "passing")).then_some(())
    })
    .await;
}

fn owner(project: &str) -> Owner {
    Owner { project: project.to_owned(), node: "edge".to_owned() }
}

fn query() -> CatalogQuery {
    CatalogQuery { service: SERVICE.to_owned(), tag: None, datacenter: None, filter: None }
}

fn interest() -> Interest {
    Interest { catalog: BTreeSet::from([query()]), ..Interest::nothing(owner("shop")) }
}

fn check(kind: CheckKind, port: u16) -> WantedCheck {
    WantedCheck {
        digest: format!("{kind:?}:{port}"),
        kind: WantedKind::from(&kind),
        interval: Duration::from_secs(1),
        timeout: Some(Duration::from_millis(800)),
        deregister_after: Some(Duration::from_secs(600)),
        initial: CheckStatus::Passing,
        address: "127.0.0.1".to_owned(),
        port,
    }
}

fn wanted(slot: u32) -> NewRegistration {
    NewRegistration {
        id: format!("edge:shop-web-{slot}-0123abcd:80/tcp"),
        name: SERVICE.to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 8080,
        tags: vec!["v2".to_owned(), "a".to_owned()],
        meta: BTreeMap::from([("team".to_owned(), "web & more".to_owned())]),
        service: "web".to_owned(),
        slot,
        container: "c".repeat(64),
        check: None,
        health: false,
        drain_start: None,
    }
}

/// Every field in which a registration differs from what was wanted.
fn differences(wanted: &NewRegistration, seen: &Registration) -> Vec<&'static str> {
    let checks: BTreeSet<String> = [
        wanted.check.as_ref().map(|_| format!("{}:declared", wanted.id)),
        wanted.health.then(|| format!("{}:health", wanted.id)),
    ]
    .into_iter()
    .flatten()
    .collect();
    [
        ("id", seen.id == wanted.id),
        ("name", seen.name == wanted.name),
        ("address", seen.address == wanted.address),
        ("port", seen.port == wanted.port),
        ("tags", seen.tags == wanted.tags),
        ("meta", seen.meta == wanted.meta),
        ("service", seen.service == wanted.service),
        ("slot", seen.slot == wanted.slot),
        ("container", seen.container == wanted.container),
        ("check digest", seen.check_digest == wanted.check.as_ref().map(|check| check.digest.clone())),
        ("drain start", seen.drain_start == wanted.drain_start),
        ("checks", seen.checks.keys().cloned().collect::<BTreeSet<_>>() == checks),
    ]
    .into_iter()
    .filter_map(|(field, equal)| (!equal).then_some(field))
    .collect()
}

async fn view(consul: &Consul) -> observed::Consul {
    consul.view(&interest()).await.expect("the agent answers")
}

async fn register(consul: &Consul, wanted: &NewRegistration) {
    consul.execute(&ConsulAction::Register(Box::new(wanted.clone()))).await.expect("it is registered");
}

async fn own(consul: &Consul, id: &str) -> Registration {
    view(consul).await.registrations.get(id).cloned().expect("it is registered")
}

fn instance(seen: &observed::Consul, id: &str) -> Option<Instance> {
    let catalog = seen.catalog[&query()].known().expect("there is a leader");
    catalog.instances.iter().find(|instance| instance.id == id).cloned()
}

/// Waits for the catalog's instance to be so; anti-entropy lags behind a check by moments.
async fn instance_until(consul: &Consul, id: &str, what: &str, so: impl Fn(&Instance) -> bool) -> Instance {
    until(what, async || instance(&view(consul).await, id).filter(|instance| so(instance))).await
}

/// A web server whose answer can be set, and which counts the requests.
async fn web() -> (u16, Arc<AtomicU16>, Arc<AtomicUsize>) {
    let (status, count) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
    let listener = tokio::net::TcpListener::bind((HERE, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let app = axum::Router::new().fallback({
        let (status, count) = (status.clone(), count.clone());
        move || {
            // The output differs with each run, as a page with the time of day would.
            let request = count.fetch_add(1, Ordering::SeqCst);
            let status = axum::http::StatusCode::from_u16(status.load(Ordering::SeqCst)).expect("a status");
            std::future::ready((status, format!("request {request}")))
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (port, status, count)
}

fn http(path: &str) -> CheckKind {
    CheckKind::Http { path: path.to_owned() }
}

// ------------------------------------------------------------------------------------------- registrations

async fn reads_back(mode: Mode) {
    let (_agent, consul) = Agent::ready(mode).await;
    let first = wanted(1);
    let mut all = vec![first.clone()];
    for change in [
        |wanted: &mut NewRegistration| wanted.check = Some(check(http("/health?x=1&y=%20"), 81)),
        |wanted: &mut NewRegistration| wanted.check = Some(check(CheckKind::Tcp, 81)),
        |wanted: &mut NewRegistration| wanted.check = Some(check(CheckKind::Grpc { service: "web".to_owned() }, 82)),
        |wanted: &mut NewRegistration| wanted.health = true,
        |wanted: &mut NewRegistration| wanted.check = None,
        |wanted: &mut NewRegistration| wanted.address = "2001:db8::1".to_owned(),
        |wanted: &mut NewRegistration| wanted.port = 81,
        |wanted: &mut NewRegistration| wanted.tags.clear(),
        |wanted: &mut NewRegistration| wanted.meta.clear(),
        |wanted: &mut NewRegistration| wanted.container = "d".repeat(64),
        |wanted: &mut NewRegistration| wanted.drain_start = Some(Timestamp::UNIX_EPOCH),
        |wanted: &mut NewRegistration| wanted.drain_start = None,
        |wanted: &mut NewRegistration| wanted.health = false,
        |wanted: &mut NewRegistration| wanted.name = "other".to_owned(),
    ] {
        let mut next = all.last().expect("there is a first").clone();
        change(&mut next);
        all.push(next);
    }
    for (step, wanted) in all.iter().enumerate() {
        register(&consul, wanted).await;
        let seen = view(&consul).await;
        let none: [&str; 0] = [];
        assert_eq!(differences(wanted, &seen.registrations[&wanted.id]), none, "step {step}: {wanted:?}");
        assert!(seen.unsynced.is_empty(), "step {step}: {:?}", seen.unsynced);
        let mut at = query();
        at.service.clone_from(&wanted.name);
        let asked = Interest { catalog: BTreeSet::from([at.clone()]), ..interest() };
        let seen = consul.view(&asked).await.expect("the agent answers");
        let catalog = seen.catalog[&at].known().expect("there is a leader");
        assert_eq!(catalog.instances.len(), 1, "step {step}");
        let instance = &catalog.instances[0];
        assert_eq!((&instance.address, instance.port), (&wanted.address, wanted.port), "step {step}");
        assert_eq!(instance.owner.as_deref(), Some("shop@edge"));
        assert_eq!(instance.container.as_ref(), Some(&wanted.container));
    }
    let id = &first.id;
    for _ in 0..2 {
        consul.execute(&ConsulAction::Deregister { id: id.clone() }).await.expect("gone, or gone already");
        let seen = view(&consul).await;
        assert!(!seen.registrations.contains_key(id) && !seen.services.contains_key("other"));
    }
}

#[tokio::test]
async fn a_registration_reads_back_as_it_was_wanted() {
    reads_back(Mode::Dev).await;
}

#[tokio::test]
async fn a_registration_reads_back_from_a_server_with_a_data_folder() {
    reads_back(Mode::Server).await;
}

#[tokio::test]
async fn an_update_keeps_the_checks_state_and_the_maintenance() {
    let (_agent, consul) = Agent::ready(Mode::Dev).await;
    let (port, status, _) = web().await;
    status.store(503, Ordering::SeqCst);
    let mut registration = wanted(1);
    registration.check = Some(check(http("/"), port));
    registration.health = true;
    let id = registration.id.clone();
    let (declared, health) = (format!("{id}:declared"), format!("{id}:health"));
    register(&consul, &registration).await;
    let action =
        ConsulAction::SetHealth { id: id.clone(), status: CheckStatus::Critical, output: "it said no".to_owned() };
    consul.execute(&action).await.expect("it is written");
    consul
        .execute(&ConsulAction::Drain { id: id.clone(), reason: "reeve: replaced".to_owned() })
        .await
        .expect("it drains");
    until("a check that has run", async || {
        (own(&consul, &id).await.checks[&declared].status == CheckStatus::Critical).then_some(())
    })
    .await;
    registration.tags.push("v3".to_owned());
    registration.container = "d".repeat(64);
    register(&consul, &registration).await;
    let seen = own(&consul, &id).await;
    assert_eq!(seen.checks[&declared].status, CheckStatus::Critical);
    assert_eq!(
        (seen.checks[&health].status, seen.checks[&health].output.as_str()),
        (CheckStatus::Critical, "it said no")
    );
    assert_eq!(seen.maintenance, Maintenance::Draining { reason: "reeve: replaced".to_owned() });
    assert!(differences(&registration, &seen).is_empty());
}

#[tokio::test]
async fn a_declared_check_decides_whether_it_passes_and_leaves_nothing_behind_when_it_changes() {
    let (_agent, consul) = Agent::ready(Mode::Dev).await;
    let (port, status, count) = web().await;
    let mut registration = wanted(1);
    registration.check = Some(check(http("/"), port));
    let id = registration.id.clone();
    register(&consul, &registration).await;
    instance_until(&consul, &id, "passing from the start", |instance| instance.passing).await;
    status.store(503, Ordering::SeqCst);
    instance_until(&consul, &id, "critical", |instance| !instance.passing && !instance.maintenance).await;
    let seen = own(&consul, &id).await.checks[&format!("{id}:declared")].clone();
    assert_eq!(seen.status, CheckStatus::Critical);
    assert!(seen.output.contains("503"), "{}", seen.output);
    status.store(200, Ordering::SeqCst);
    instance_until(&consul, &id, "passing again", |instance| instance.passing).await;
    // Another kind under the same id: Consul itself would go on with the old one, too.
    status.store(503, Ordering::SeqCst);
    registration.check = Some(check(CheckKind::Tcp, port));
    register(&consul, &registration).await;
    until("the other kind's answer", async || {
        own(&consul, &id).await.checks[&format!("{id}:declared")].output.contains("TCP").then_some(())
    })
    .await;
    let before = count.load(Ordering::SeqCst);
    // Another HTTP check of the same interval tells when the old one would have run again.
    let (other_port, _, runs) = web().await;
    let mut other = wanted(2);
    other.check = Some(check(http("/"), other_port));
    register(&consul, &other).await;
    until("three runs of a check of 1 s", async || (runs.load(Ordering::SeqCst) >= 3).then_some(())).await;
    assert_eq!(count.load(Ordering::SeqCst), before, "the HTTP check of 1 s still runs");
}

#[tokio::test]
async fn the_health_check_follows_what_is_written() {
    let (_agent, consul) = Agent::ready(Mode::Dev).await;
    let mut registration = wanted(1);
    registration.health = true;
    let id = registration.id.clone();
    register(&consul, &registration).await;
    assert!(instance(&view(&consul).await, &id).expect("it is in the catalog").passing);
    for status in [CheckStatus::Critical, CheckStatus::Warning, CheckStatus::Passing] {
        let action = ConsulAction::SetHealth { id: id.clone(), status, output: format!("it is {status}") };
        for _ in 0..2 {
            consul.execute(&action).await.expect("it is written");
        }
        let seen = own(&consul, &id).await.checks[&format!("{id}:health")].clone();
        assert_eq!((seen.status, seen.output), (status, format!("it is {status}")));
        instance_until(&consul, &id, "the catalog follows", |it| it.passing == (status == CheckStatus::Passing)).await;
    }
    consul.execute(&ConsulAction::RemoveCheck { check: format!("{id}:health") }).await.expect("it is removed");
    assert!(own(&consul, &id).await.checks.is_empty());
}

// --------------------------------------------------------------------------------------------------- drains

async fn drains(mode: Mode) {
    let (_agent, consul) = Agent::ready(mode).await;
    let mut registration = wanted(1);
    registration.health = true;
    let (port, ..) = web().await;
    registration.check = Some(check(http("/"), port));
    let id = registration.id.clone();
    register(&consul, &registration).await;
    let clock =
        |second| ConsulAction::StartDrainClock { id: id.clone(), at: Timestamp::from_second(second).expect("a time") };
    assert!(matches!(consul.execute(&clock(1)).await, Err(ActionError::Conflict(_))), "it does not drain yet");

    let drain = ConsulAction::Drain { id: id.clone(), reason: "reeve: replaced".to_owned() };
    consul.execute(&drain).await.expect("it drains");
    let seen = instance(&view(&consul).await, &id).expect("it stays in the catalog");
    assert!(!seen.passing && seen.maintenance, "it leaves the passing set at once");
    let checks = |seen: &Registration| {
        seen.checks.iter().map(|(id, check)| (id.clone(), check.status)).collect::<BTreeMap<_, _>>()
    };
    let before = own(&consul, &id).await;

    for second in [7, 9] {
        consul.execute(&clock(second)).await.expect("it drains");
        let seen = own(&consul, &id).await;
        assert_eq!(seen.drain_start, Timestamp::from_second(7).ok(), "a repetition does not push it back");
        assert_eq!(seen.maintenance, Maintenance::Draining { reason: "reeve: replaced".to_owned() });
        assert_eq!(checks(&seen), checks(&before));
        registration.drain_start = seen.drain_start;
        assert!(differences(&registration, &seen).is_empty());
    }
    consul.execute(&drain).await.expect("it drains already");
    assert_eq!(own(&consul, &id).await.drain_start, Timestamp::from_second(7).ok());

    consul.execute(&ConsulAction::LiftDrain { id: id.clone() }).await.expect("it is ours");
    let seen = own(&consul, &id).await;
    assert_eq!((seen.maintenance, seen.drain_start), (Maintenance::Off, None));
    instance_until(&consul, &id, "passing again", |instance| instance.passing && !instance.maintenance).await;
}

#[tokio::test]
async fn a_drain_unroutes_and_its_clock_disturbs_nothing() {
    drains(Mode::Dev).await;
}

#[tokio::test]
async fn a_drain_unroutes_on_a_server_with_a_data_folder() {
    drains(Mode::Server).await;
}

#[tokio::test]
async fn an_operators_maintenance_is_shown_and_stays() {
    let (agent, consul) = Agent::ready(Mode::Dev).await;
    let registration = wanted(1);
    let id = registration.id.clone();
    register(&consul, &registration).await;
    let path = format!("/v1/agent/service/maintenance/{}?enable=true&reason=disk", id.replace('/', "%2F"));
    agent.put(&path, Value::Null).await;
    let operators = Maintenance::Operator { reason: "disk".to_owned() };
    consul
        .execute(&ConsulAction::Drain { id: id.clone(), reason: "reeve: x".to_owned() })
        .await
        .expect("it is off already");
    assert!(matches!(
        consul.execute(&ConsulAction::LiftDrain { id: id.clone() }).await,
        Err(ActionError::Conflict(text)) if text.contains("disk")
    ));
    register(&consul, &registration).await;
    assert_eq!(own(&consul, &id).await.maintenance, operators);
    agent.put(&path.replace("enable=true", "enable=false"), Value::Null).await;

    agent.put("/v1/agent/maintenance?enable=true&reason=kernel", Value::Null).await;
    let seen = view(&consul).await;
    assert_eq!(
        seen.registrations[&id].maintenance,
        Maintenance::Operator { reason: "node maintenance: kernel".to_owned() }
    );
    let seen = instance(&seen, &id).expect("it is in the catalog");
    assert!(seen.maintenance && !seen.passing);
    // Ours can be put on it nevertheless, and is told from it.
    consul.execute(&ConsulAction::Drain { id: id.clone(), reason: "gone".to_owned() }).await.expect("it drains");
    assert_eq!(own(&consul, &id).await.maintenance, Maintenance::Draining { reason: "reeve: gone".to_owned() });
}

#[tokio::test]
async fn strangers_are_seen_and_refused() {
    let (agent, consul) = Agent::ready(Mode::Dev).await;
    let other = Consul::new(&agent.settings(), owner("blog")).expect("good settings");
    let mut theirs = wanted(1);
    theirs.health = true;
    register(&other, &theirs).await;
    agent.put("/v1/agent/service/register", json!({ "ID": "by-hand", "Name": SERVICE, "Port": 70000 })).await;
    let seen = view(&consul).await;
    assert!(seen.registrations.is_empty());
    assert_eq!(seen.strangers[&theirs.id].owner.as_deref(), Some("blog@edge"));
    assert_eq!((seen.strangers["by-hand"].name.as_str(), seen.strangers["by-hand"].owner.as_ref()), (SERVICE, None));
    assert_eq!(instance(&seen, "by-hand").expect("an upstream may route to it").address, "127.0.0.1");
    assert_eq!(instance(&seen, "by-hand").expect("it is known").port, 0, "70000 is no port");
    for id in [theirs.id.clone(), "by-hand".to_owned()] {
        let mut wanted = wanted(1);
        wanted.id.clone_from(&id);
        for action in [
            ConsulAction::Register(Box::new(wanted)),
            ConsulAction::Deregister { id: id.clone() },
            ConsulAction::Drain { id: id.clone(), reason: "reeve: x".to_owned() },
            ConsulAction::SetHealth { id: id.clone(), status: CheckStatus::Critical, output: String::new() },
        ] {
            let error = consul.execute(&action).await.expect_err("it is not ours");
            assert!(matches!(&error, ActionError::Conflict(text) if text.contains(SERVICE)), "{error}");
        }
    }
    let remove = ConsulAction::RemoveCheck { check: format!("{}:health", theirs.id) };
    assert!(matches!(consul.execute(&remove).await, Err(ActionError::Conflict(_))));
    assert!(differences(&theirs, &own(&other, &theirs.id).await).is_empty());
    assert_eq!(view(&consul).await.strangers.len(), 2);
}

// ------------------------------------------------------------------------------------------------- restarts

#[tokio::test]
async fn a_killed_server_comes_back_with_everything_unless_its_folder_is_lost() {
    let (mut agent, consul) = Agent::ready(Mode::Server).await;
    let mut registration = wanted(1);
    registration.health = true;
    let id = registration.id.clone();
    register(&consul, &registration).await;
    for action in [
        ConsulAction::SetHealth { id: id.clone(), status: CheckStatus::Critical, output: "no".to_owned() },
        ConsulAction::Drain { id: id.clone(), reason: "reeve: replaced".to_owned() },
        ConsulAction::StartDrainClock { id: id.clone(), at: Timestamp::UNIX_EPOCH },
    ] {
        consul.execute(&action).await.expect("it is done");
    }
    let before = own(&consul, &id).await;
    agent.kill();
    let error = consul.view(&interest()).await.expect_err("it is gone").0;
    assert!(error.contains(&agent.http.to_string()) && error.contains("failed: "), "{error}");
    agent.restart();
    // Until it has a leader, only the catalog is unknown.
    let seen = until("an agent that answers", async || consul.view(&interest()).await.ok()).await;
    assert_eq!(seen.registrations[&id], before);
    if seen.leader.is_none() {
        assert!(matches!(&seen.catalog[&query()], View::Unknown { reason, .. } if reason.contains("leader")));
    }
    ready(&consul).await;
    assert_eq!(own(&consul, &id).await, before);

    agent.kill();
    std::fs::remove_dir_all(agent.folder.path().join("data")).expect("it is there");
    agent.restart();
    ready(&consul).await;
    let seen = view(&consul).await;
    assert!(seen.registrations.is_empty() && seen.unsynced.is_empty());
    register(&consul, &registration).await;
    assert!(differences(&registration, &own(&consul, &id).await).is_empty());
}

#[tokio::test]
async fn a_registration_that_the_catalog_lacks_is_dated_until_it_is_registered_again() {
    let (agent, consul) = Agent::ready(Mode::Dev).await;
    let registration = wanted(1);
    let id = registration.id.clone();
    register(&consul, &registration).await;
    // The agent may still be at telling the catalog of what was registered, which puts it there again.
    let first = until("a catalog that lacks it", async || {
        agent.put("/v1/catalog/deregister", json!({ "Node": "t1", "ServiceID": id })).await;
        let seen = view(&consul).await;
        instance(&seen, &id).is_none().then_some(seen)
    })
    .await;
    assert!(first.registrations.contains_key(&id), "the agent still has it");
    let since = first.unsynced[&id];
    assert_eq!(view(&consul).await.unsynced.get(&id), Some(&since));
    register(&consul, &registration).await;
    assert!(view(&consul).await.unsynced.is_empty());
}

#[tokio::test]
async fn without_a_leader_the_view_is_known_and_quick() {
    let agent = Agent::start(Mode::Leaderless, &json!({}));
    let consul = agent.consul();
    let seen = until("an agent that answers", async || consul.view(&interest()).await.ok()).await;
    assert_eq!((seen.leader, seen.agent.node.as_str()), (None, "t1"));
    assert!(seen.catalog[&query()].reason().is_some_and(|reason| reason.contains("no leader")));
    let started = Instant::now();
    view(&consul).await;
    assert!(started.elapsed() < Duration::from_secs(6), "a server without a leader holds what needs one for 7 s");
}

// -------------------------------------------------------------------------------------------------- watches

#[tokio::test]
async fn a_watch_wakes_on_what_matters_and_not_on_a_checks_output() {
    let (agent, consul) = Agent::ready(Mode::Dev).await;
    let count = Arc::new(AtomicUsize::new(0));
    let wake: Wake = Arc::new({
        let count = count.clone();
        move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let (_interest, receiver) = tokio::sync::watch::channel(interest());
    let watch = tokio::spawn({
        let consul = consul.clone();
        async move { consul.watch(receiver, wake).await }
    });
    let woken = async |what: &str, before: usize| {
        until(what, async || (count.load(Ordering::SeqCst) > before).then_some(())).await;
    };
    until("the first answers", async || (count.load(Ordering::SeqCst) >= 2).then_some(())).await;
    let (port, _, runs) = web().await;
    let mut registration = wanted(1);
    registration.check = Some(check(http("/"), port));
    let id = registration.id.clone();
    let now = || count.load(Ordering::SeqCst);

    let before = now();
    register(&consul, &registration).await;
    woken("a wake-up for the registration", before).await;
    // Its check runs every second, and each answer differs from the one before.
    until("a check that has run", async || {
        (!own(&consul, &id).await.checks[&format!("{id}:declared")].output.is_empty()).then_some(())
    })
    .await;
    let (before, ran) = (now(), runs.load(Ordering::SeqCst));
    until("three more runs of it", async || (runs.load(Ordering::SeqCst) >= ran + 3).then_some(())).await;
    assert_eq!(now(), before, "output alone is no news");

    let before = now();
    consul.execute(&ConsulAction::Drain { id: id.clone(), reason: "reeve: x".to_owned() }).await.expect("it drains");
    woken("a wake-up for the drain", before).await;
    let before = now();
    agent.put(&format!("/v1/agent/service/deregister/{}", id.replace('/', "%2F")), Value::Null).await;
    woken("a wake-up for the registration that somebody removed", before).await;
    watch.abort();
}
