//! A small world with functions that stand for reeve's, so that translated templates can be rendered without a Consul.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::{Rest, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde_json::json;

fn refuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text.into())
}

fn made(data: impl serde::Serialize) -> Value {
    Value::from(Serde(data))
}

fn instances() -> Value {
    let instance = |number: u16, tags: &[&str], meta: serde_json::Value| {
        json!({
            "Node": format!("n{number}"), "Address": format!("10.0.0.{number}"), "Port": 8079 + number, "Name": "web",
            "ID": format!("web-{number}"), "Tags": tags, "Status": "passing", "ServiceMeta": meta,
        })
    };
    made(json!([
        instance(1, &["v1"], json!({"team": "shop"})),
        instance(2, &["v1", "v2"], json!({"weight": "5"})),
        instance(3, &["v2"], json!({})),
    ]))
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

fn folder(prefix: &str, deep: bool) -> Value {
    let pairs = pairs().into_iter().filter_map(|(key, value)| {
        let rest = key.strip_prefix(prefix)?.strip_prefix('/')?;
        (deep || !rest.contains('/')).then(|| json!({"Key": rest, "Value": value, "Path": key}))
    });
    made(pairs.collect::<Vec<_>>())
}

fn service(query: &str) -> Result<Value, Error> {
    match query {
        "web" | "web|passing,warning" => Ok(instances()),
        "v1.web@dc1|any" => instances().get_item(&Value::from(0)).map(|one| Value::from(vec![one])),
        "nginx" => {
            let one = |port: u16| json!({"Node": "n1", "Address": "10.8.99.45", "Port": port, "Tags": []});
            Ok(made((81..=84).map(one).collect::<Vec<_>>()))
        }
        "gone" => Ok(Value::from(Vec::<Value>::new())),
        other => Err(refuse(format!("the test knows no service {other}"))),
    }
}

fn by_tag(list: &Value) -> Result<Value, Error> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for one in list.try_iter()? {
        for tag in one.get_attr("Tags")?.try_iter()? {
            groups.entry(tag.to_string()).or_default().push(one.clone());
        }
    }
    Ok(made(groups))
}

fn by_key(list: &Value) -> Result<Value, Error> {
    let mut groups: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for one in list.try_iter()? {
        let key = one.get_attr("Key")?.to_string();
        let (folder, rest) = key.split_once('/').ok_or_else(|| refuse("a key without a folder"))?;
        groups.entry(folder.to_owned()).or_default().insert(rest.to_owned(), one);
    }
    Ok(made(groups))
}

/// The few verbs that the snippets use.
fn printf(format: &str, values: Rest<Value>) -> Result<String, Error> {
    let mut values = values.0.into_iter();
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let end =
            after.find(|letter: char| letter == '%' || letter.is_alphabetic()).ok_or_else(|| refuse("half a verb"))?;
        let (verb, next) = after.split_at(end + 1);
        rest = next;
        if verb == "%" {
            text.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| refuse("too few values"))?;
        match verb {
            "q" => text.push_str(&format!("{:?}", value.to_string())),
            "x" => text.push_str(&format!("{:x}", i64::try_from(value)?)),
            "05d" => text.push_str(&format!("{:05}", i64::try_from(value)?)),
            _ => text.push_str(&shown(&value)),
        }
    }
    Ok(text + rest)
}

/// As Go prints it: `true`, not `True`.
fn shown(value: &Value) -> String {
    match value.kind() {
        ValueKind::Bool => value.is_true().to_string(),
        _ => value.to_string(),
    }
}

fn title(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn environment() -> Environment<'static> {
    let mut world = Environment::new();
    world.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax =
        minijinja::syntax::SyntaxConfig::builder().keep_trailing_newline(true).build().expect("a valid syntax");
    world.set_syntax(syntax);
    world.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    world.set_fuel(Some(100_000));
    world.add_function("service", |query: String| service(&query));
    world.add_function("services", || {
        made(json!([{"Name": "gone", "Tags": []}, {"Name": "web", "Tags": ["v1", "v2"]}]))
    });
    world.add_function("nodes", || made(json!([{"Node": "n1", "Address": "10.0.0.1"}])));
    world.add_function("node", || made(json!({"Node": {"Node": "n1"}, "Services": [{"Service": "web", "Tags": []}]})));
    world.add_function("key", |path: String| {
        pairs().get(path.as_str()).map(|value| Value::from(*value)).ok_or_else(|| refuse(format!("no key {path}")))
    });
    world.add_function("key_or_default", |path: String, other: String| {
        pairs().get(path.as_str()).map_or(other, |value| (*value).to_owned())
    });
    world.add_function("key_exists", |path: String| pairs().contains_key(path.as_str()));
    world.add_function("ls", |prefix: String| folder(&prefix, false));
    world.add_function("tree", |prefix: String| folder(&prefix, true));
    world.add_function("datacenters", || Value::from(vec!["dc1"]));
    world.add_function("env", |name: String| if name == "HOME_DIR" { "/home/app" } else { "" });
    world.add_function("printf", |format: String, values: Rest<Value>| printf(&format, values));
    world.add_function("loop_range", |from: i64, to: i64| Value::from((from..to).collect::<Vec<_>>()));
    world.add_filter("by_tag", |list: Value| by_tag(&list));
    world.add_filter("by_key", |list: Value| by_key(&list));
    world.add_filter("contains", |list: Value, one: Value| {
        Ok::<_, Error>(match list.kind() {
            ValueKind::String => list.to_string().contains(&one.to_string()),
            _ => list.try_iter()?.any(|value| value == one),
        })
    });
    world.add_filter("parse_json", |text: String| {
        serde_json::from_str::<serde_json::Value>(&text).map(made).map_err(|error| refuse(error.to_string()))
    });
    world
        .add_filter("to_json", |value: Value| serde_json::to_string(&value).map_err(|error| refuse(error.to_string())));
    world.add_filter("to_lower", |text: String| text.to_lowercase());
    world.add_filter("to_upper", |text: String| text.to_uppercase());
    world.add_filter("to_title", |text: String| title(&text));
    world.add_filter("replace_all", |text: String, from: String, to: String| text.replace(&from, &to));
    world.add_filter("trim_space", |text: String| text.trim().to_owned());
    world.add_filter("trim_prefix", |text: String, prefix: String| {
        text.strip_prefix(prefix.as_str()).unwrap_or(&text).to_owned()
    });
    world.add_filter("trim_suffix", |text: String, suffix: String| {
        text.strip_suffix(suffix.as_str()).unwrap_or(&text).to_owned()
    });
    world.add_filter("base64_encode", |text: String| STANDARD.encode(text));
    world.add_filter("base64_decode", |text: String| {
        let bytes = STANDARD.decode(text).map_err(|error| refuse(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| refuse(error.to_string()))
    });
    world.add_filter("add", |a: i64, b: i64| a + b);
    world.add_filter("subtract", |a: i64, b: i64| a - b);
    world.add_filter("multiply", |a: i64, b: i64| a * b);
    world.add_filter("divide", |a: i64, b: i64| a / b);
    world.add_filter("modulo", |a: i64, b: i64| a % b);
    world.add_filter("minimum", |a: i64, b: i64| a.min(b));
    world.add_filter("maximum", |a: i64, b: i64| a.max(b));
    world.add_filter("split", |text: String, at: String| {
        Value::from(text.split(at.as_str()).map(str::to_owned).collect::<Vec<_>>())
    });
    world
}

/// The output of a translated template in this world.
pub fn render(template: &str) -> Result<String, Error> {
    environment().render_str(template, context! {})
}

/// Regular expressions and times are not part of this world.
pub fn is_not_there(error: &Error) -> bool {
    let words = error.to_string();
    ["regex_match", "timestamp"].iter().any(|name| words.contains(&format!("{name} is unknown")))
}
