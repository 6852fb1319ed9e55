//! Blocking queries against a scripted agent: when they wake the loop, and when they must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

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
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not come about");
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

/// How long a watch on `web` takes for so many queries.
async fn time_of(queries: usize, fake: &Fake, wake: Wake) -> Duration {
    let (_interest, receiver) = tokio::sync::watch::channel(interest([query("web")]));
    let watch = tokio::spawn({
        let consul = fake.consul();
        async move { consul.watch(receiver, wake).await }
    });
    let began = Instant::now();
    until("so many queries", || service_queries(fake).len() >= queries).await;
    watch.abort();
    began.elapsed()
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
    let took = time_of(8, &fake, wake).await;
    // A busy machine makes it longer; only a loop without a pause is quicker.
    assert!(took >= Duration::from_millis(400), "8 queries in {took:?}");
    assert_eq!(count.load(Ordering::SeqCst), 2, "the first answer of the service, and the leader's");
}

#[tokio::test]
async fn the_more_instances_an_answer_holds_the_longer_the_agent_is_left_alone() {
    let round = AtomicU64::new(0);
    let fake = Fake::start(move |asked| {
        asked.line.contains("/health/service/").then(|| {
            let round = round.fetch_add(1, Ordering::SeqCst);
            let instances: Vec<Value> = (0..200).map(|number| entry(&format!("web-{round}-{number}"))).collect();
            Reply::Indexed(round + 1, json!(instances))
        })
    })
    .await;
    let (wake, _) = counter();
    let took = time_of(5, &fake, wake).await;
    // A busy machine makes it longer; only a shorter pause is quicker.
    assert!(took >= Duration::from_millis(800), "5 queries, all with news, in {took:?}");
}

#[tokio::test]
async fn what_a_pass_writes_about_is_not_asked_for_again_and_again_before_the_next_look() {
    let round = AtomicU64::new(0);
    let fake = Fake::start(move |asked| match asked.line.as_str() {
        RECORD => Some(Reply::Json(ours(&[]))),
        "GET /v1/health/service/web" => {
            let round = round.fetch_add(1, Ordering::SeqCst);
            Some(Reply::Indexed(round + 1, json!([entry(&format!("web-{round}"))])))
        }
        _ => None,
    })
    .await;
    let consul = fake.consul();
    let register = ConsulAction::Register(Box::new(new_registration()));
    let (wake, _) = counter();
    let (_interest, receiver) = tokio::sync::watch::channel(interest([query("web")]));
    consul.execute(&register).await.expect("the agent takes it");
    let began = Instant::now();
    let watch = tokio::spawn({
        let consul = consul.clone();
        async move { consul.watch(receiver, wake).await }
    });
    until("two queries", || service_queries(&fake).len() >= 2).await;
    // A busy machine makes it longer; only a watch that does not wait is quicker.
    let rest = began.elapsed();
    assert!(rest >= Duration::from_millis(800), "the second came after {rest:?}");
    // The third waits, too, but for a look.
    view(&consul, &interest([query("web")])).await.expect("the agent answers");
    let began = Instant::now();
    let before = service_queries(&fake).len();
    until("many queries", || service_queries(&fake).len() >= before + 20).await;
    watch.abort();
    assert!(began.elapsed() < rest * 20, "after a look they wait as before it");
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
