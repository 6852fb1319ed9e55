//! Actions against a scripted agent: what is never written, and how an error is classed.

use std::time::Instant;

use serde_json::{Value, json};

use super::super::wire;
use super::*;

/// An agent that has our record, with these checks, and answers writes as told.
async fn with_record(
    record: Value,
    checks: Value,
    write: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> Fake {
    Fake::start(move |asked| match asked.line.as_str() {
        RECORD => Some(Reply::Json(record.clone())),
        RECORD_WITH_HEALTH => {
            let checks: Vec<&Value> = checks.as_object().into_iter().flat_map(|checks| checks.values()).collect();
            Some(Reply::Unhealthy(json!({ "AggregatedStatus": "critical", "Service": record, "Checks": checks })))
        }
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
async fn what_stands_before_an_agent_and_answers_for_it_says_nothing_of_a_registration() {
    for (status, body) in [(503, r#"{"message":"no healthy upstream"}"#), (429, "{}"), (404, "<html>"), (503, "")] {
        let fake = Fake::start(move |asked| (asked.line == RECORD_WITH_HEALTH).then_some(Reply::Status(status, body)));
        let drain = ConsulAction::Drain { id: ID.to_owned(), reason: "reeve: replaced".to_owned() };
        let error = fake.await.consul().execute(&drain).await.expect_err("it is not the agent's answer");
        // Without a word of Consul's, 404 is that of a path which is not there.
        let told = match &error {
            ActionError::Conflict(text) => status == 404 && text.contains("answered 404"),
            other => matches!(other, ActionError::Transient(_)),
        };
        assert!(told, "{status} {body}: {error}");
    }
}

#[tokio::test]
async fn what_nobody_marked_is_adopted_with_its_state_and_what_is_marked_is_not() {
    let mut wanted = new_registration();
    wanted.health = false;
    let adopt = ConsulAction::Adopt(Box::new(wanted));
    let remove = ConsulAction::RemoveUnmarked { id: ID.to_owned() };
    let record = |owner: Option<&str>| json!({ "ID": ID, "Service": "web", "Meta": owner.map(|owner| json!({ "reeve-owner": owner })) });
    let old = format!("service:{ID}");
    let checks = json!({ &old: { "CheckID": old, "ServiceID": ID, "Status": "warning", "Type": "http" } });
    let fake = with_record(record(None), checks.clone(), |_| None).await;
    fake.consul().execute(&adopt).await.expect("it is nobody's");
    let writes = fake.writes();
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert_eq!(writes[0], "PUT /v1/agent/service/register", "no moment without it");
    assert!(writes[1].starts_with("PUT /v1/agent/check/deregister/service"), "{writes:?}");
    let asked = fake.asked();
    let body = &asked.iter().find(|one| one.body["ID"] == ID).expect("it registered").body;
    assert_eq!(body["Meta"]["reeve-owner"], "shop@n1");
    assert_eq!(body["Checks"][0]["Status"], "warning");
    for owner in ["blog@n1", "shop@n2"] {
        let fake = with_record(record(Some(owner)), checks.clone(), |_| None).await;
        for action in [&adopt, &remove] {
            let error = fake.consul().execute(action).await.expect_err("it is somebody's");
            assert!(matches!(error, ActionError::Conflict(_)), "{error}");
        }
        assert_eq!(fake.writes(), [""; 0]);
    }
    let fake = with_record(record(None), checks, |_| None).await;
    fake.consul().execute(&remove).await.expect("it is nobody's");
    assert_eq!(fake.writes().len(), 1);
}

#[tokio::test]
async fn every_kind_of_check_reaches_the_agent_in_its_words() {
    for (kind, key, value) in [
        (
            WantedKind::Http { tls: true, path: "/h".to_owned(), method: Some("PUT".to_owned()), skip_verify: true },
            "HTTP",
            json!("https://[2001:db8::1]:80/h"),
        ),
        (WantedKind::Command { words: vec!["a".to_owned(), "b c".to_owned()] }, "Args", json!(["a", "b c"])),
        (WantedKind::Ttl { within: std::time::Duration::from_secs(30) }, "TTL", json!("30000000000ns")),
        (WantedKind::Grpc { service: String::new(), tls: true, skip_verify: false }, "GRPC", json!("[2001:db8::1]:80")),
    ] {
        let fake = Fake::start(|_| None).await;
        let mut wanted = new_registration();
        if let Some(check) = &mut wanted.check {
            (check.kind, check.initial) = (kind.clone(), CheckStatus::Critical);
        }
        fake.consul().execute(&ConsulAction::Register(Box::new(wanted))).await.expect("the agent takes it");
        let asked = fake.asked();
        let body = &asked.last().expect("it registered").body["Checks"][0];
        assert_eq!((&body[key], &body["Status"]), (&value, &json!("critical")), "{kind:?}");
        assert_eq!(body["Interval"].is_null(), matches!(kind, WantedKind::Ttl { .. }), "{kind:?}");
        assert_eq!(body["TLSSkipVerify"] == true, matches!(kind, WantedKind::Http { .. }), "{kind:?}");
        assert_eq!(body["GRPCUseTLS"] == true, matches!(kind, WantedKind::Grpc { .. }), "{kind:?}");
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
            ConsulAction::Register(_)
            | ConsulAction::Adopt(_)
            | ConsulAction::RemoveUnmarked { .. }
            | ConsulAction::Deregister { .. }
            | ConsulAction::RemoveCheck { .. } => {
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

#[tokio::test]
async fn a_write_that_is_taken_over_and_not_answered_does_not_hold_up_the_pass() {
    let checks = json!({ wire::health_check(ID): { "CheckID": wire::health_check(ID), "ServiceID": ID } });
    let fake = with_record(ours(&[("reeve-drain-start", "2026-01-01T00:00:00Z")]), checks, |_| Some(Reply::Hang)).await;
    let consul = fake.consul();
    let started = Instant::now();
    let actions = all_actions();
    let results = futures_util::future::join_all(actions.iter().map(|action| consul.execute(action))).await;
    assert!(started.elapsed() < observed::VIEW_TIMEOUT, "all requests of an action share one limit");
    let waited: Vec<String> = results
        .into_iter()
        .filter_map(|result| match result {
            Err(ActionError::Transient(error)) => Some(error),
            _ => None,
        })
        .collect();
    assert!(waited.len() >= 5, "{waited:?}");
    for error in waited {
        assert!(error.contains(ID) && error.contains("within 4"), "{error}");
    }
}
