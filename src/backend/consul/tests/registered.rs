//! A look after registrations of our own: what it asks for, what it believes, and when it looks as ever.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::watch::Key;
use super::*;

const CATALOG: &str = "GET /v1/health/service/web";

fn in_catalog(container: &str) -> Value {
    let mut entry = entry(ID);
    entry["Service"]["Meta"] = json!({ "reeve-owner": "shop@n1", "reeve-container": container });
    entry
}

/// An agent whose catalog tells of our registration from the write on, as that container's.
async fn agent(container: &'static str) -> Fake {
    let there = AtomicBool::new(false);
    Fake::start(move |asked| match asked.line.as_str() {
        "PUT /v1/agent/service/register" => {
            there.store(true, Ordering::SeqCst);
            None
        }
        "GET /v1/agent/self" => {
            Some(Reply::Json(json!({ "Config": { "NodeName": "n1", "Datacenter": "dc1" }, "Member": {} })))
        }
        CATALOG if there.load(Ordering::SeqCst) => Some(Reply::Json(json!([in_catalog(container)]))),
        _ => None,
    })
    .await
}

/// A look, a registration, `meanwhile`, and the look that follows: its requests, and what it saw.
async fn after_registering(
    fake: &Fake,
    meanwhile: impl AsyncFnOnce(&Consul),
) -> (Vec<String>, observed::Consul, Consul) {
    let consul = fake.consul();
    let interest = interest([query("web")]);
    let before = view(&consul, &interest).await.expect("it answers");
    consul.execute(&ConsulAction::Register(Box::new(new_registration()))).await.expect("done");
    meanwhile(&consul).await;
    let asked = fake.asked().len();
    let seen = consul.view_after(&interest, Some(&before)).await.expect("it answers");
    let lines = fake.asked().into_iter().skip(asked).map(|asked| asked.line).collect();
    (lines, seen, consul)
}

#[tokio::test]
async fn after_a_registration_the_catalog_alone_is_asked_and_another_look_is_owed() {
    let fake = agent("c1").await;
    let (lines, seen, consul) = after_registering(&fake, async |_| {}).await;
    assert_eq!(lines, [CATALOG]);
    assert_eq!(seen.registrations.keys().collect::<Vec<_>>(), [ID]);
    let catalog = seen.catalog[&query("web")].known().expect("it was asked");
    assert!(catalog.instances.iter().any(|one| one.id == ID && one.passing));
    assert!(consul.owes_a_look());
    let asked = fake.asked().len();
    view(&consul, &interest([query("web")])).await.expect("it answers");
    assert!(fake.asked().iter().skip(asked).any(|asked| asked.line == "GET /v1/agent/services"), "it is read back");
    assert!(!consul.owes_a_look());
}

#[tokio::test]
async fn a_datacenter_that_does_not_answer_is_not_waited_for_after_a_registration_here() {
    let fake = agent("c1").await;
    let consul = fake.consul();
    let there = CatalogQuery { datacenter: Some("far".to_owned()), ..query("web") };
    let interest = interest([query("web"), there]);
    let before = view(&consul, &interest).await.expect("it answers");
    consul.execute(&ConsulAction::Register(Box::new(new_registration()))).await.expect("done");
    let asked = fake.asked().len();
    consul.view_after(&interest, Some(&before)).await.expect("it answers");
    let asked: Vec<_> = fake.asked().into_iter().skip(asked).map(|asked| (asked.line, asked.query)).collect();
    assert!(matches!(&asked[..], [(line, query)] if line == CATALOG && !query.contains("far")), "{asked:?}");
}

#[tokio::test]
async fn what_the_catalog_does_not_tell_of_or_what_is_not_all_that_happened_is_looked_at_as_ever() {
    let everything = |lines: &[String]| lines.iter().any(|line| line == "GET /v1/agent/services");
    let fake = agent("another").await;
    let (lines, _, consul) = after_registering(&fake, async |_| {}).await;
    assert!(everything(&lines) && !consul.owes_a_look(), "the catalog has another container's: {lines:?}");
    let fake = agent("c1").await;
    let (lines, ..) = after_registering(&fake, async |consul| {
        consul.execute(&ConsulAction::Deregister { id: "n1:other".to_owned() }).await.expect("it is gone already");
    })
    .await;
    assert!(everything(&lines), "something else was written: {lines:?}");
    let (lines, ..) = after_registering(&fake, async |consul| {
        let key = Key::Service { name: "other".to_owned(), datacenter: None };
        consul.keeping(|memory| memory.heard(&key, true));
    })
    .await;
    assert!(everything(&lines), "something else was heard: {lines:?}");
}
