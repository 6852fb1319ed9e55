//! A small world of answers, so that translated templates can be rendered by reeve's own language without a Consul.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use reeve::observed::{Answer, Answers, Dependency, View};
use reeve::spec::Template;
use reeve::spec::template::Delimiters;
use reeve::template;
use serde_json::{Value, json};

fn instances() -> Vec<Value> {
    let instance = |number: u16, tags: &[&str], meta: Value| {
        json!({
            "Node": format!("n{number}"), "Address": format!("10.0.0.{number}"), "Port": 8079 + number, "Name": "web",
            "ID": format!("web-{number}"), "Tags": tags, "Status": "passing", "ServiceMeta": meta,
        })
    };
    vec![
        instance(1, &["v1"], json!({"team": "shop"})),
        instance(2, &["v1", "v2"], json!({"weight": "5"})),
        instance(3, &["v2"], json!({})),
    ]
}

fn pairs() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("app/json", r#"{"name":"shop","ports":[80,81]}"#),
        ("app/limits", r#"{"cpu":"2","ram":"1G"}"#),
        ("app/list", r#"["a","b"]"#),
        ("app/max", "100"),
        ("vhosts/a/host", "a.example"),
        ("vhosts/b/host", "b.example"),
        ("vhosts/b/port", "81"),
    ])
}

/// What Consul would answer.
fn answer(dependency: &Dependency) -> Value {
    match dependency {
        Dependency::Service { name, tag, .. } => match (name.as_str(), tag.as_deref()) {
            ("web", None) => instances().into(),
            ("web", Some("v1")) => instances().into_iter().take(1).collect(),
            ("nginx", _) => {
                let one = |port: u16| json!({"Node": "n1", "Address": "10.8.99.45", "Port": port, "Tags": []});
                (81..=84).map(one).collect()
            }
            _ => json!([]),
        },
        Dependency::Services { .. } => json!([{"Name": "gone", "Tags": []}, {"Name": "web", "Tags": ["v1", "v2"]}]),
        Dependency::Nodes { .. } => json!([{"Node": "n1", "Address": "10.0.0.1"}]),
        Dependency::Node { .. } => json!({"Node": {"Node": "n1"}, "Services": [{"Service": "web", "Tags": []}]}),
        Dependency::Key { path, .. } => pairs().get(path.as_str()).map_or(Value::Null, |value| json!(value)),
        Dependency::Keys { prefix, .. } => {
            let below = pairs().into_iter().filter(|(path, _)| path.starts_with(prefix));
            below.map(|(path, value)| json!({"Path": path, "Value": value})).collect()
        }
        Dependency::Datacenters => json!(["dc1"]),
        Dependency::Environment(name) if name == "HOME_DIR" => json!("/home/app"),
        Dependency::Environment(_) => Value::Null,
        Dependency::File(_) => json!("a file\n"),
    }
}

/// The output of a translated template in this world.
///
/// # Errors
/// Why there is none.
pub fn render(text: &str) -> Result<String, String> {
    let template = Template {
        name: "app.conf".to_owned(),
        text: text.into(),
        origin: "app.conf.j2".to_owned(),
        folder: PathBuf::from("/spec"),
        destination: PathBuf::from("/etc/app.conf"),
        check: None,
        command: None,
        signal: None,
        perms: None,
        user: None,
        group: None,
        backup: false,
        delimiters: Delimiters::default(),
        wait: None,
        error_on_missing: true,
    };
    let at: Timestamp = "2026-03-04T05:06:07Z".parse().expect("a time");
    let mut answers: Arc<Answers> = Arc::default();
    loop {
        let run = template::run(&template, &answers, at);
        if run.missing.is_empty() {
            return run.text;
        }
        let known = |one: &Dependency| {
            let answer = Answer { data: answer(one), entries: BTreeSet::new(), shrunk_at: at };
            (one.clone(), View::Known(answer))
        };
        Arc::make_mut(&mut answers).extend(run.missing.iter().map(known));
    }
}
