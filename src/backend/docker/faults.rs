//! What the backend does when the engine misbehaves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;

use super::fake::{FakeEngine, Reply};
use crate::observed::{ContainerState, Health, Interest};
use crate::plan::DockerAction;
use crate::spec::Owner;
use crate::world::{ActionError, Wake};

fn interest() -> Interest {
    Interest::nothing(Owner { project: "shop".to_owned(), node: "edge-1".to_owned() })
}

/// An entry of the list, ours.
fn listed(id: &str, state: &str, status: &str) -> String {
    format!(
        r#"{{"Id":"{id}","Names":["/shop-web-{id}"],"Created":1800000000,"State":"{state}","Status":"{status}",
            "Labels":{{"reeve.owner":"shop@edge-1","reeve.service":"web","reeve.slot":"1","reeve.hash":"v1:aa",
            "reeve.config":"{{}}","reeve.image":"sha256:1","reeve.ports":"[]","reeve.files":"[]","reeve.registers":"false","reeve.depends_on":"[]"}}}}"#
    )
}

fn inspected(id: &str, status: &str) -> String {
    format!(
        r#"{{"Id":"{id}","Name":"/shop-web-{id}","Created":"2026-11-23T10:00:00Z",
            "Config":{{"Labels":{{"reeve.owner":"shop@edge-1"}}}},
            "State":{{"Status":"{status}","Running":true,"StartedAt":"2026-11-23T10:00:01Z"}}}}"#
    )
}

fn two_containers() -> FakeEngine {
    let engine = FakeEngine::start();
    let list = format!("[{},{}]", listed("a", "running", "Up 2 hours"), listed("b", "running", "Up 2 hours (healthy)"));
    engine.reply("GET /v1.41/containers/json", Reply::ok(&list));
    engine.reply("GET /v1.41/containers/a/json", Reply::ok(&inspected("a", "running")));
    engine.reply("GET /v1.41/containers/b/json", Reply::ok(&inspected("b", "running")));
    engine
}

async fn reason(engine: &FakeEngine) -> String {
    engine.docker().view(&interest()).await.expect_err("unknown").to_string()
}

#[tokio::test]
async fn a_missing_engine_is_unknown_with_what_to_do_and_known_when_it_is_there() {
    let engine = two_containers();
    let docker = engine.docker();
    let socket = engine.docker().inner.link.host().trim_start_matches("unix://").to_owned();
    let aside = format!("{socket}.aside");
    std::fs::rename(&socket, &aside).expect("moved");
    let missing = docker.view(&interest()).await.expect_err("unknown").to_string();
    assert!(missing.contains("there is no socket") && missing.contains("Is dockerd running"), "{missing}");
    std::fs::rename(&aside, &socket).expect("moved back");
    let view = docker.view(&interest()).await.expect("known again, by the same client");
    assert_eq!(view.api_version, "1.41");
    assert_eq!(view.containers.len(), 2);
}

#[tokio::test]
async fn a_socket_that_nobody_serves_says_so() {
    let engine = two_containers();
    let docker = engine.docker();
    drop(engine.docker().view(&interest()).await);
    engine.stop_serving().await;
    let refused = docker.view(&interest()).await.expect_err("unknown").to_string();
    assert!(refused.contains("Connection refused") && refused.contains("Is dockerd running"), "{refused}");
}

#[tokio::test]
async fn an_engine_that_fails_is_unknown_and_never_empty() {
    let engine = two_containers();
    let list = "GET /v1.41/containers/json";
    engine.reply(list, Reply::Answer(500, r#"{"message":"disk on fire"}"#.to_owned()));
    assert!(reason(&engine).await.ends_with("list containers: disk on fire (500)"));
    engine.reply(list, Reply::CutOff("[".to_owned()));
    assert!(reason(&engine).await.contains("list containers: the answer was lost"));
    engine.reply(list, Reply::ok(r#"[{"Id":"a""#));
    assert!(reason(&engine).await.contains("list containers: the answer was lost or cannot be read: EOF"));
    engine.reply(list, Reply::HangUp);
    assert!(reason(&engine).await.contains("list containers: the answer was lost"));
    engine.reply(list, Reply::ok("[]"));
    engine.reply("GET /v1.41/volumes", Reply::Answer(500, String::new()));
    assert!(reason(&engine).await.ends_with("list volumes: the engine answered 500"));
}

#[tokio::test]
async fn an_engine_that_hangs_is_given_up() {
    let engine = two_containers();
    let docker = engine.docker();
    docker.view(&interest()).await.expect("known");
    engine.reply("GET /v1.41/containers/json", Reply::Hang);
    tokio::time::pause();
    let late = docker.view(&interest()).await.expect_err("unknown").to_string();
    assert!(late.contains("no answer within"), "{late}");
}

#[tokio::test]
async fn a_container_that_cannot_be_inspected_is_shown_as_the_list_shows_it() {
    let engine = two_containers();
    for reply in
        [Reply::Answer(500, r#"{"message":"locked"}"#.to_owned()), Reply::ok(r#"{"Id":"b","State":"#), Reply::HangUp]
    {
        engine.reply("GET /v1.41/containers/b/json", reply);
        let view = engine.docker().view(&interest()).await.expect("known");
        assert!(view.containers["a"].state.running());
        assert!(view.containers["b"].state.running());
        assert_eq!(view.containers["b"].health, Health::Healthy);
        assert_eq!(view.containers["b"].name, "shop-web-b");
    }
}

#[tokio::test]
async fn a_container_that_vanished_between_list_and_inspect_is_gone() {
    let engine = two_containers();
    engine.reply("GET /v1.41/containers/b/json", Reply::Answer(404, r#"{"message":"No such container"}"#.to_owned()));
    let view = engine.docker().view(&interest()).await.expect("known");
    assert_eq!(view.containers.keys().collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn a_state_that_nobody_knows_yet_hurts_nobody() {
    let engine = two_containers();
    let list = format!("[{},{}]", listed("a", "quiesced", "Quiesced"), listed("b", "running", "Up 2 hours"));
    engine.reply("GET /v1.41/containers/json", Reply::ok(&list));
    engine.reply("GET /v1.41/containers/a/json", Reply::ok(&inspected("a", "quiesced")));
    let view = engine.docker().view(&interest()).await.expect("known");
    assert!(matches!(view.containers["a"].state, ContainerState::Running { .. }));
    assert!(view.containers["b"].state.running());
}

#[tokio::test]
async fn our_mark_without_our_labels_is_a_stranger() {
    let engine = FakeEngine::start();
    let list = r#"[{"Id":"c","Names":["/copy"],"Labels":{"reeve.owner":"shop@edge-1"},"State":"running"}]"#;
    engine.reply("GET /v1.41/containers/json", Reply::ok(list));
    let view = engine.docker().view(&interest()).await.expect("known");
    assert!(view.containers.is_empty());
    assert_eq!(view.strangers["c"].name, "copy");
}

#[tokio::test]
async fn a_lost_reply_to_an_action_is_tried_again_later() {
    let engine = two_containers();
    engine.reply("POST /v1.41/containers/a/stop", Reply::HangUp);
    let stop = DockerAction::StopContainer {
        id: "a".to_owned(),
        name: "shop-web-a".to_owned(),
        grace: Duration::from_secs(1),
    };
    let error = engine.docker().execute(&stop).await.expect_err("lost");
    assert!(
        matches!(&error, ActionError::Transient(why) if why.contains("may have been done all the same")),
        "{error}"
    );
    engine.reply("POST /v1.41/containers/a/stop", Reply::Answer(304, String::new()));
    assert_eq!(engine.docker().execute(&stop).await, Ok(()));
}

#[tokio::test]
async fn a_container_that_is_not_ours_is_not_stopped_or_removed_even_by_its_id() {
    let engine = FakeEngine::start();
    let other = r#"{"Id":"d","Name":"/d","Config":{"Labels":{"reeve.owner":"other@edge-1"}}}"#;
    engine.reply("GET /v1.41/containers/d/json", Reply::ok(other));
    let (id, name) = ("d".to_owned(), "d".to_owned());
    let stop = DockerAction::StopContainer { id: id.clone(), name: name.clone(), grace: Duration::ZERO };
    for action in [stop, DockerAction::RemoveContainer { id, name }] {
        let error = engine.docker().execute(&action).await.expect_err("refused");
        assert!(matches!(&error, ActionError::Conflict(why) if why.contains("it belongs to other@edge-1")), "{error}");
    }
    assert_eq!(engine.asked("POST") + engine.asked("DELETE"), 0);
}

/// Counts its calls.
fn counter() -> (Wake, Arc<Mutex<usize>>) {
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    (Arc::new(move |_, _| *counted.lock().expect("no panic") += 1), count)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_and_every_connection_wakes() {
    let engine = two_containers();
    engine.reply("GET /v1.41/events", Reply::Stream { lines: String::new(), stays: false });
    let (wake, count) = counter();
    let docker = engine.docker();
    let watch = tokio::spawn(async move { docker.watch(wake).await });
    until("the stream was opened three times", || engine.asked("GET /v1.41/events") >= 3).await;
    assert!(*count.lock().expect("no panic") >= 3);
    watch.abort();
}

#[tokio::test]
async fn an_event_that_cannot_be_read_does_not_end_the_watch() {
    let engine = two_containers();
    engine.reply("GET /v1.41/events", Reply::Stream { lines: "{\"Type\":7}\n".to_owned(), stays: true });
    let (wake, _count) = counter();
    let docker = engine.docker();
    let watch = tokio::spawn(async move { docker.watch(wake).await });
    until("the stream was opened again", || engine.asked("GET /v1.41/events") >= 2).await;
    watch.abort();
}

#[tokio::test]
async fn an_unchanged_container_is_inspected_once_while_the_events_are_open() {
    let engine = two_containers();
    let docker = engine.docker();
    for _ in 0..2 {
        docker.view(&interest()).await.expect("known");
    }
    assert_eq!(engine.asked("GET /v1.41/containers/a/json"), 2, "without events nothing is remembered");
    let (wake, count) = counter();
    let watching = docker.clone();
    let watch = tokio::spawn(async move { watching.watch(wake).await });
    until("the stream was opened", || *count.lock().expect("no panic") >= 1).await;
    for _ in 0..3 {
        docker.view(&interest()).await.expect("known");
    }
    assert_eq!(engine.asked("GET /v1.41/containers/a/json"), 3);
    watch.abort();
}

#[tokio::test]
async fn an_event_makes_its_container_be_inspected_again() {
    let engine = two_containers();
    // Not one of those that are replayed.
    let at = jiff::Timestamp::now().as_second() + 60;
    let event = format!(
        r#"{{"Type":"container","Action":"health_status: healthy","timeNano":{at}000000000,
        "Actor":{{"ID":"a","Attributes":{{"reeve.owner":"shop@edge-1"}}}}}}"#
    );
    let stranger = r#"{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"x","Attributes":{}}}"#;
    let lines = format!("{}\n{}\n", stranger.replace('\n', ""), event.replace('\n', ""));
    let woken = Arc::new(Mutex::new(Vec::new()));
    let seen = woken.clone();
    let wake: Wake = Arc::new(move |_, at| seen.lock().expect("no panic").push(at));
    let docker = engine.docker();
    engine.reply("GET /v1.41/events", Reply::Stream { lines, stays: true });
    let watching = docker.clone();
    let watch = tokio::spawn(async move { watching.watch(wake).await });
    until("the event woke", || woken.lock().expect("no panic").len() >= 2).await;
    let times = woken.lock().expect("no panic").clone();
    assert_eq!(times.len(), 2, "a stranger's health is nobody's business");
    assert_eq!(times[1].as_second(), at, "the event's own time");
    watch.abort();
}

fn pull(image: &str) -> DockerAction {
    DockerAction::PullImage { image: image.to_owned(), platform: Some("linux/amd64".to_owned()) }
}

#[tokio::test]
async fn a_pull_asks_for_one_tag_with_credentials_that_the_engine_can_read() {
    let engine = FakeEngine::start();
    // A password whose plain base64 contains both of the characters that URL-safe base64 replaces.
    engine.configure(r#"{"auths":{"reg.example:5000":{"username":"ann","password":"??>>~~ÿÿ"}}}"#);
    let lines = "{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n".to_owned();
    engine.reply("POST /v1.41/images/create", Reply::Stream { lines, stays: false });
    assert_eq!(engine.docker().execute(&pull("reg.example:5000/a/b")).await, Ok(()));
    let request = engine.request("POST /v1.41/images/create").expect("asked");
    assert!(request.contains("fromImage=reg.example%3A5000%2Fa%2Fb&tag=latest&platform=linux%2Famd64"), "{request}");
    let sent = engine.credentials();
    let decoded = base64::engine::general_purpose::URL_SAFE.decode(&sent[0]).expect("URL-safe base64");
    let decoded: serde_json::Value = serde_json::from_slice(&decoded).expect("JSON");
    assert_eq!((&decoded["username"], &decoded["password"]), (&"ann".into(), &"??>>~~ÿÿ".into()));
    assert!(sent[0].contains(['-', '_']), "the test's password does not show the difference");
}

#[tokio::test]
async fn a_pull_that_fails_in_its_middle_has_failed_and_one_that_only_ends_oddly_has_not() {
    let engine = FakeEngine::start();
    let stream = |lines: &str| Reply::Stream { lines: lines.to_owned(), stays: false };
    let create = "POST /v1.41/images/create";
    engine.reply(
        create,
        stream("{\"status\":\"Pulling\"}\r\n{\"error\":\"x\",\"errorDetail\":{\"message\":\"unauthorized: no\"}}\r\n"),
    );
    let error = engine.docker().execute(&pull("a:1")).await.expect_err("failed");
    assert!(matches!(&error, ActionError::Permanent(why) if why.contains("unauthorized: no")), "{error}");

    engine.reply(create, stream("{\"status\":\"Done\"}\r\n{\"sta"));
    let error = engine.docker().execute(&pull("a:1")).await.expect_err("the image is not there");
    assert!(matches!(&error, ActionError::Transient(_)), "{error}");
    engine.reply("GET /v1.41/images/a:1/json", Reply::ok(r#"{"Id":"sha256:1"}"#));
    assert_eq!(engine.docker().execute(&pull("a:1")).await, Ok(()));
}

#[tokio::test]
async fn a_pull_that_falls_silent_is_given_up() {
    let engine = FakeEngine::start();
    let docker = engine.docker();
    docker.view(&interest()).await.expect("connected");
    engine.reply("POST /v1.41/images/create", Reply::Stream { lines: "{}\r\n".to_owned(), stays: true });
    tokio::time::pause();
    let error = docker.execute(&pull("a:1")).await.expect_err("given up");
    assert!(matches!(&error, ActionError::Transient(why) if why.contains("no answer within 120 s")), "{error}");
}

#[tokio::test]
async fn the_watch_asks_for_no_event_of_a_probe() {
    let engine = FakeEngine::start();
    let (wake, _count) = counter();
    let docker = engine.docker();
    let watch = tokio::spawn(async move { docker.watch(wake).await });
    until("the stream was opened", || engine.asked("GET /v1.41/events") >= 1).await;
    let request = engine.request("GET /v1.41/events").expect("asked");
    assert!(request.contains("health_status") && !request.contains("exec"), "{request}");
    assert!(request.contains("since="), "{request}");
    watch.abort();
}

#[tokio::test]
async fn an_engine_that_came_back_older_is_spoken_to_in_its_own_version() {
    let engine = two_containers();
    engine.reply("GET /version", Reply::ok(r#"{"ApiVersion":"1.45"}"#));
    for path in ["containers/json", "networks", "volumes"] {
        engine.reply(&format!("GET /v1.45/{path}"), Reply::HangUp);
    }
    let docker = engine.docker();
    docker.view(&interest()).await.expect_err("hung up");
    engine.reply("GET /version", Reply::ok(r#"{"ApiVersion":"1.41"}"#));
    assert_eq!(docker.view(&interest()).await.expect("known").api_version, "1.41");
}

/// A container that nobody marked.
fn unmarked(id: &str, status: &str) -> String {
    format!(
        r#"{{"Id":"{id}","Names":["/{id}"],"Created":1800000000,"State":"running","Status":"{status}","Labels":{{}}}}"#
    )
}

#[tokio::test]
async fn of_others_containers_only_their_service_variables_are_read_and_only_when_discovery_is_on() {
    let engine = FakeEngine::start();
    let theirs = unmarked("c", "Up 2 hours").replace("{}", r#"{"reeve.owner":"blog@edge-1"}"#);
    let list = format!("[{},{}]", unmarked("a", "Up 2 hours"), theirs);
    engine.reply("GET /v1.41/containers/json", Reply::ok(&list));
    let inspect = r#"{"Id":"a","Name":"/a","Config":{"Image":"redis:7","Env":["PATH=/bin","SERVICE_NAME=env","SERVICE_TAGS=x",
        "PASSWORD=hunter2"],"Labels":{"SERVICE_NAME":"label","secret":"hunter2"},"ExposedPorts":{"6379/tcp":{}}},
        "State":{"Status":"running","Running":true,"StartedAt":"2026-11-23T10:00:01Z"},
        "HostConfig":{"NetworkMode":"bridge"},"NetworkSettings":{"Ports":{"6379/tcp":[{"HostIp":"0.0.0.0","HostPort":"32768"}]}}}"#;
    engine.reply("GET /v1.41/containers/a/json", Reply::ok(inspect));
    let off = engine.docker().view(&interest()).await.expect("readable");
    assert_eq!(off.discovered.len(), 0);
    let on = Interest { discovery: true, ..interest() };
    let seen = engine.docker().view(&on).await.expect("readable");
    assert_eq!(seen.discovered.keys().collect::<Vec<_>>(), ["a"], "another owner's is its own business");
    let container = &seen.discovered["a"];
    let variables: Vec<_> = container.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(variables, ["SERVICE_NAME=label", "SERVICE_TAGS=x"]);
    assert!(!format!("{seen:?}").contains("hunter2"));
    assert_eq!((container.image.as_str(), container.published[0].host), ("redis:7", 32768));
    // One that cannot be inspected is there all the same: its registrations must not go.
    engine.reply("GET /v1.41/containers/a/json", Reply::Answer(500, r#"{"message":"storage"}"#.to_owned()));
    let seen = engine.docker().view(&on).await.expect("readable");
    let container = &seen.discovered["a"];
    assert!(container.stays() && container.unreadable.as_ref().is_some_and(|reason| reason.contains("storage")));
}

#[tokio::test]
async fn its_own_stop_signal_says_that_a_container_is_being_stopped_and_any_other_says_nothing() {
    let engine = FakeEngine::start();
    engine.reply("GET /v1.41/containers/json", Reply::ok(&format!("[{}]", unmarked("a", "Up 2 hours"))));
    let inspect = r#"{"Id":"a","Name":"/a","Config":{"Image":"redis:7","StopSignal":"SIGQUIT"},
        "State":{"Status":"running","Running":true,"StartedAt":"2020-01-01T00:00:00Z"}}"#;
    engine.reply("GET /v1.41/containers/a/json", Reply::ok(inspect));
    let on = Interest { discovery: true, ..interest() };
    let docker = engine.docker();
    assert_eq!(docker.view(&on).await.expect("readable").discovered["a"].stopping, None);
    // While reeve was away, and so replayed: it still counts.
    let at = jiff::Timestamp::now().as_second() - 8;
    let kill = |signal: u32, at: i64| {
        let actor = format!(r#"{{"ID":"a","Attributes":{{"signal":"{signal}"}}}}"#);
        format!(r#"{{"Type":"container","Action":"kill","timeNano":{at}000000000,"Actor":{actor}}}"#) + "\n"
    };
    for (lines, stopping) in [(kill(15, at) + &kill(1, at), false), (kill(1, at) + &kill(3, at), true)] {
        let (wake, count) = counter();
        engine.reply("GET /v1.41/events", Reply::Stream { lines, stays: true });
        let watching = docker.clone();
        let watch = tokio::spawn(async move { watching.watch(wake).await });
        let wakes = if stopping { 2 } else { 1 };
        until("it woke", || *count.lock().expect("no panic") >= wakes).await;
        let seen = docker.view(&on).await.expect("readable").discovered["a"].stopping;
        assert_eq!(seen.map(|seen| seen.as_second()), stopping.then_some(at));
        watch.abort();
    }
}
