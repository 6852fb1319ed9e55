//! What a look costs, and what it sees, when it reads again only what has changed.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Docker;
use super::fake::{FakeEngine, Reply};
use crate::observed::{self, ContainerState, Interest};
use crate::plan::DockerAction;
use crate::spec::Owner;
use crate::world::Wake;

const PING: &str = "GET /v1.41/_ping";
const LISTS: [&str; 3] = ["GET /v1.41/containers/json", "GET /v1.41/networks", "GET /v1.41/volumes"];

fn interest() -> Interest {
    Interest {
        images: ["web:1".to_owned(), "other:1".to_owned()].into(),
        ..Interest::nothing(Owner { project: "shop".to_owned(), node: "edge-1".to_owned() })
    }
}

const LABELS: &str = r#""reeve.owner":"shop@edge-1","reeve.service":"web","reeve.slot":"1","reeve.hash":"v1:aa",
    "reeve.config":"{}","reeve.image":"sha256:1","reeve.ports":"[]","reeve.files":"[]","reeve.registers":"false","reeve.depends_on":"[]""#;

/// What the engine says of a container in a list.
fn listed(id: &str, name: &str, labels: &str) -> String {
    format!(
        r#"{{"Id":"{id}","Names":["/{name}"],"Created":1800000000,"State":"running","Status":"Up 2 hours","Labels":{{{labels}}}}}"#
    )
}

fn inspected(id: &str, name: &str, labels: &str, state: &str, ports: &str) -> Reply {
    Reply::ok(&format!(
        r#"{{"Id":"{id}","Name":"/{name}","Created":"2026-11-23T10:00:00Z","Config":{{"Labels":{{{labels}}}}},
            "State":{{"Status":"{state}","Running":true,"StartedAt":"2026-11-23T10:00:01Z"}},"NetworkSettings":{{"Ports":{{{ports}}}}}}}"#
    ))
}

fn gone() -> Reply {
    Reply::Answer(404, r#"{"message":"no such container"}"#.to_owned())
}

fn path(id: &str) -> String {
    format!("GET /v1.41/containers/{id}/json")
}

/// So many of ours, `c0`, `c1` and so on, and one of a stranger, `s`.
fn engine_with(containers: usize) -> FakeEngine {
    let engine = FakeEngine::start();
    let mut list = listed("s", "stranger", "");
    for number in 0..containers {
        let id = format!("c{number}");
        let _ = write!(list, ",{}", listed(&id, &id, LABELS));
        engine.reply(&path(&id), inspected(&id, &id, LABELS, "running", ""));
    }
    engine.reply("GET /v1.41/containers/json", Reply::ok(&format!("[{list}]")));
    engine.reply("GET /v1.41/images/web:1/json", Reply::ok(r#"{"Id":"sha256:1"}"#));
    engine.reply("GET /v1.41/images/other:1/json", Reply::ok(r#"{"Id":"sha256:2"}"#));
    engine
}

/// A backend that follows the engine's events, and what it was woken by.
struct Following {
    docker: Docker,
    woken: Arc<Mutex<usize>>,
    watch: tokio::task::JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Following {
    /// After a first look.
    async fn start(engine: &FakeEngine, docker: Docker) -> Self {
        let woken = Arc::new(Mutex::new(0));
        let counted = woken.clone();
        let wake: Wake = Arc::new(move |_, _| *counted.lock().expect("no panic") += 1);
        let watching = docker.clone();
        let watch = tokio::spawn(async move { watching.watch(wake).await });
        let following = Self { docker, woken, watch };
        until("the stream is open", || engine.asked("GET /v1.41/events") > 0).await;
        following.look().await;
        engine.forget_requests();
        following
    }

    /// What was asked for beside whether the engine answers at all.
    fn asked(engine: &FakeEngine) -> Vec<String> {
        engine.requests().into_iter().filter(|request| request != PING).collect()
    }

    async fn look(&self) -> observed::Docker {
        self.docker.view(&interest()).await.expect("known")
    }

    /// Sends an event, and waits until it is noted: a stranger that starts later wakes after it.
    async fn hears(&self, engine: &FakeEngine, event: &str) {
        let before = *self.woken.lock().expect("no panic");
        engine.emit(event);
        until("the event is heard", || *self.woken.lock().expect("no panic") > before).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}

fn event(kind: &str, action: &str, id: &str, attributes: &str) -> String {
    format!(r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}}}}}}}"#)
}

fn of_ours(action: &str, id: &str) -> String {
    event("container", action, id, r#""reeve.owner":"shop@edge-1""#)
}

#[tokio::test]
async fn what_a_change_costs_does_not_grow_with_the_world() {
    for containers in [10, 200] {
        let engine = engine_with(containers);
        let following = Following::start(&engine, engine.docker()).await;
        assert_eq!(following.look().await.containers.len(), containers);
        assert_eq!(Following::asked(&engine), [""; 0], "{containers}: nothing has changed");

        engine.reply(&path("c3"), inspected("c3", "c3", LABELS, "paused", ""));
        following.hears(&engine, &of_ours("pause", "c3")).await;
        let seen = following.look().await;
        assert!(matches!(seen.containers["c3"].state, ContainerState::Paused { .. }));
        assert_eq!(Following::asked(&engine), [path("c3")], "{containers}");

        engine.forget_requests();
        following.hears(&engine, &event("network", "create", "n1", r#""name":"net""#)).await;
        following.hears(&engine, &event("volume", "create", "v1", "")).await;
        following.hears(&engine, &event("image", "untag", "sha256:1", r#""name":"sha256:1""#)).await;
        following.look().await;
        let mut asked = Following::asked(&engine);
        asked.sort();
        let by_id = "GET /v1.41/networks?filters=%7B%22id%22%3A%5B%22n1%22%5D%7D";
        assert_eq!(asked, ["GET /v1.41/images/web:1/json", by_id, "GET /v1.41/volumes/v1"], "{containers}");
    }
}

#[tokio::test]
async fn our_own_write_is_seen_before_its_event_comes() {
    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply("DELETE /v1.41/containers/c1", Reply::Answer(204, String::new()));
    let remove = DockerAction::RemoveContainer { id: "c1".to_owned(), name: "c1".to_owned() };
    assert_eq!(following.docker.execute(&remove).await, Ok(()));
    assert_eq!(Following::asked(&engine).len(), 1, "whose it is was seen: {:?}", engine.requests());
    engine.reply(&path("c1"), gone());
    assert_eq!(following.look().await.containers.keys().collect::<Vec<_>>(), ["c0"]);
    assert!(LISTS.iter().all(|list| engine.asked(list) == 0), "{:?}", engine.requests());
    // Made and started: it is known by its name alone.
    let start = DockerAction::StartContainer { container: "c7".to_owned(), name: "c7".to_owned() };
    engine.reply(&path("c7"), inspected("new", "c7", LABELS, "running", ""));
    engine.reply(&path("new"), inspected("new", "c7", LABELS, "running", ""));
    engine.reply("POST /v1.41/containers/new/start", Reply::Answer(204, String::new()));
    assert_eq!(following.docker.execute(&start).await, Ok(()));
    assert_eq!(following.look().await.containers.keys().collect::<Vec<_>>(), ["c0", "new"]);
    assert!(LISTS.iter().all(|list| engine.asked(list) == 0), "{:?}", engine.requests());
}

#[tokio::test]
async fn what_was_made_is_inspected_once_and_what_is_gone_not_at_all() {
    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker()).await;
    let id = "ab".repeat(32);
    let of_new = || inspected(&id, "new", LABELS, "running", "");
    engine.reply(&path("new"), of_new());
    engine.reply(&path(&id), of_new());
    engine.reply(&format!("POST /v1.41/containers/{id}/start"), Reply::Answer(204, String::new()));
    // Our own write knows its name, the event its id.
    let start = DockerAction::StartContainer { container: "new".to_owned(), name: "new".to_owned() };
    assert_eq!(following.docker.execute(&start).await, Ok(()));
    following.hears(&engine, &of_ours("start", &id)).await;
    engine.forget_requests();
    let seen = following.look().await;
    assert_eq!(seen.containers.keys().collect::<Vec<_>>(), [id.as_str(), "c0", "c1"]);
    assert_eq!(Following::asked(&engine), [path(&id)]);

    engine.forget_requests();
    engine.reply("DELETE /v1.41/containers/c1", Reply::Answer(204, String::new()));
    let remove = DockerAction::RemoveContainer { id: "c1".to_owned(), name: "c1".to_owned() };
    following.hears(&engine, &of_ours("destroy", "c1")).await;
    assert_eq!(following.docker.execute(&remove).await, Ok(()));
    assert_eq!(following.look().await.containers.keys().collect::<Vec<_>>(), [id.as_str(), "c0"]);
    assert!(!Following::asked(&engine).contains(&path("c1")), "{:?}", engine.requests());
    assert!(LISTS.iter().all(|list| engine.asked(list) == 0), "{:?}", engine.requests());
}

#[tokio::test]
async fn whoever_lost_its_name_to_another_is_not_seen_under_it_any_more() {
    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker()).await;
    // c1 was renamed, and another made with its name: the event of the second is there first.
    engine.reply(&path("c1"), inspected("c1", "old", LABELS, "running", ""));
    engine.reply(&path("new"), inspected("new", "c1", LABELS, "running", ""));
    following.hears(&engine, &of_ours("start", "new")).await;
    let seen = following.look().await;
    let names: Vec<_> = seen.containers.values().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["c0", "old", "c1"]);
}

#[tokio::test]
async fn a_strangers_port_is_known_from_its_start_to_its_end() {
    let engine = engine_with(1);
    let following = Following::start(&engine, engine.docker()).await;
    let port = r#""80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]"#;
    engine.reply(&path("t"), inspected("t", "theirs", "", "running", port));
    following.hears(&engine, &event("container", "start", "t", "")).await;
    let seen = following.look().await;
    assert_eq!((seen.strangers["t"].name.as_str(), seen.strangers["t"].published[0].host), ("theirs", 8080));
    assert!(seen.strangers["t"].running);
    engine.reply(&path("t"), gone());
    following.hears(&engine, &event("container", "destroy", "t", "")).await;
    assert_eq!(following.look().await.strangers.keys().collect::<Vec<_>>(), ["s"]);
    assert!(LISTS.iter().all(|list| engine.asked(list) == 0), "{:?}", engine.requests());
}

#[tokio::test]
async fn everything_is_listed_again_after_an_error_after_the_stream_broke_and_after_a_while() {
    let lists = |engine: &FakeEngine| engine.asked("GET /v1.41/containers/json");
    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply(&path("c0"), Reply::Answer(500, r#"{"message":"storage"}"#.to_owned()));
    following.hears(&engine, &of_ours("oom", "c0")).await;
    assert!(following.look().await.containers["c0"].state.running(), "the list's words stand in");
    assert_eq!(lists(&engine), 1);
    engine.reply(&path("c0"), inspected("c0", "c0", LABELS, "running", ""));
    following.look().await;
    assert_eq!(lists(&engine), 2, "what was in doubt is listed again");
    following.look().await;
    assert_eq!(lists(&engine), 2);

    let streams = engine.asked("GET /v1.41/events");
    engine.hang_up();
    until("the stream is opened again", || engine.asked("GET /v1.41/events") > streams).await;
    following.look().await;
    assert_eq!(lists(&engine), 3);

    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker_that_lists_again_after(Duration::ZERO)).await;
    following.look().await;
    assert_eq!(lists(&engine), 1);
}

#[tokio::test]
async fn another_interest_is_another_look() {
    let engine = engine_with(1);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply("GET /v1.41/networks", Reply::ok(r#"[{"Id":"n1","Name":"theirs"}]"#));
    let wider = Interest { networks: ["theirs".to_owned()].into(), ..interest() };
    let seen = following.docker.view(&wider).await.expect("known");
    assert_eq!(seen.networks["theirs"].id, "n1");
}

#[tokio::test]
async fn an_engine_that_hangs_is_unknown_though_its_events_say_nothing() {
    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply(PING, Reply::HangUp);
    let unknown = following.docker.view(&interest()).await.expect_err("it does not answer").to_string();
    assert!(unknown.contains("ping"), "{unknown}");
    assert_eq!(following.docker.listed_at(), None, "nothing of what was seen before is believed any more");
    engine.reply(PING, Reply::ok("OK"));
    assert_eq!(following.look().await.containers.len(), 2);
    assert_eq!(engine.asked(LISTS[0]), 1);
}

#[tokio::test]
async fn an_event_that_looks_as_if_it_were_replayed_is_read_all_the_same() {
    let engine = engine_with(1);
    let following = Following::start(&engine, engine.docker()).await;
    // The engine's clock is a quarter of a minute behind.
    let nanos = (jiff::Timestamp::now() - Duration::from_secs(15)).as_nanosecond();
    let die = of_ours("die", "c0").replacen('{', &format!(r#"{{"timeNano":{nanos},"#), 1);
    engine.reply(&path("c0"), inspected("c0", "c0", LABELS, "exited", ""));
    engine.emit(&die);
    following.hears(&engine, &event("container", "start", "s", "")).await;
    assert!(!following.look().await.containers["c0"].state.running());
    assert_eq!(engine.asked(LISTS[0]), 0);
}

#[tokio::test]
async fn a_look_at_what_has_changed_does_not_put_off_the_next_list() {
    let engine = engine_with(1);
    let following = Following::start(&engine, engine.docker()).await;
    let listed_at = following.docker.listed_at();
    assert!(listed_at.is_some());
    following.hears(&engine, &of_ours("oom", "c0")).await;
    following.look().await;
    assert_eq!(following.docker.listed_at(), listed_at);
}

#[tokio::test]
async fn the_end_of_a_container_is_seen_while_the_engine_does_not_answer_for_it() {
    let engine = engine_with(2);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply(&path("c0"), Reply::Hang);
    following.hears(&engine, &of_ours("die", "c0")).await;
    following.hears(&engine, &event("network", "disconnect", "n1", r#""container":"c0""#)).await;
    until("the engine is asked", || engine.asked(&path("c0")) > 0).await;
    let seen = following.look().await;
    assert_eq!(seen.containers["c0"].state, ContainerState::Restarting, "what becomes of it is not known");
    assert!(seen.containers["c1"].state.running());
    assert_eq!(engine.asked(&path("c0")), 1, "beside the looks");
    // It begins anew: its lock is free.
    engine.reply(&path("c0"), inspected("c0", "c0", LABELS, "running", ""));
    following.hears(&engine, &of_ours("start", "c0")).await;
    assert!(following.look().await.containers["c0"].state.running());
}

#[tokio::test]
async fn what_became_of_a_container_is_read_as_soon_as_the_engine_tells() {
    let engine = engine_with(1);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply(&path("c0"), inspected("c0", "c0", LABELS, "exited", ""));
    engine.emit(&of_ours("die", "c0"));
    until("the end is heard, and the answer", || *following.woken.lock().expect("no panic") > 2).await;
    assert!(matches!(following.look().await.containers["c0"].state, ContainerState::Exited { .. }));
    assert_eq!(engine.asked(LISTS[0]), 0);
}

#[tokio::test]
async fn nothing_waits_for_a_strangers_start() {
    let engine = engine_with(1);
    let following = Following::start(&engine, engine.docker()).await;
    engine.reply(&path("t"), Reply::Hang);
    engine.emit(&event("container", "create", "t", ""));
    engine.emit(&event("network", "connect", "n1", r#""container":"t""#));
    following.hears(&engine, &of_ours("oom", "c0")).await;
    let seen = following.look().await;
    assert!(seen.containers["c0"].state.running());
    assert!(!seen.strangers.contains_key("t"), "the engine does not tell yet");
    assert_eq!(engine.asked(LISTS[0]), 0, "that one is not answered for is no reason to list");
    // Nobody else is asked for: a hanging engine must not look like one that starts something.
    engine.reply(PING, Reply::HangUp);
    following.docker.view(&interest()).await.expect_err("it does not answer");
    engine.reply(PING, Reply::ok("OK"));
    following.look().await;
    engine.reply(&path("t"), inspected("t", "theirs", "", "running", ""));
    following.hears(&engine, &event("container", "start", "t", "")).await;
    assert!(following.look().await.strangers["t"].running);
}
