//! The functions that get data, under consul-template's names in snake_case.

use std::path::Path;
use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, Error};
use serde_json::Value as Json;

use super::shared::{Got, Shared, data as value, problem};
use super::{printf, query};
use crate::observed::Dependency;

/// For "did you mean", and for the importer, whose variables must not hide them.
pub(crate) const NAMES: &[&str] = &[
    "service",
    "services",
    "nodes",
    "node",
    "key",
    "key_or_default",
    "key_exists",
    "ls",
    "tree",
    "safe_ls",
    "safe_tree",
    "datacenters",
    "env",
    "env_or_default",
    "must_env",
    "file",
    "timestamp",
    "loop_range",
    "printf",
];

/// The most turns of `loop_range`.
const LONGEST_RANGE: i64 = 1_000_000;

type Result<T> = std::result::Result<T, Error>;

pub(super) fn add(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    let with = |work: fn(&Shared, &str) -> Result<Value>| {
        let shared = shared.clone();
        move |text: Option<String>| work(&shared, text.as_deref().unwrap_or_default())
    };
    environment.add_function("services", with(|shared, text| list(shared, query::services(text)?)));
    environment.add_function("nodes", with(|shared, text| list(shared, query::nodes(text)?)));
    environment.add_function("node", with(node));
    environment.add_function("key", with(key));
    environment.add_function("key_exists", with(key_exists));
    environment.add_function("ls", with(|shared, text| Ok(value(&pairs(shared, "ls", text)?))));
    environment.add_function("tree", with(|shared, text| Ok(value(&pairs(shared, "tree", text)?))));
    environment.add_function("safe_ls", with(|shared, text| safe(shared, "safe_ls", text)));
    environment.add_function("safe_tree", with(|shared, text| safe(shared, "safe_tree", text)));
    environment.add_function("datacenters", with(|shared, _| list(shared, Dependency::Datacenters)));
    environment.add_function("env", with(|shared, name| Ok(variable(shared, name)?.unwrap_or_default().into())));
    environment.add_function("must_env", with(must_env));
    environment.add_function("file", with(file));
    environment.add_function("timestamp", with(timestamp));
    environment.add_function("printf", |format: String, arguments: Rest<Value>| printf::printf(&format, &arguments));
    environment.add_function("loop_range", loop_range);
    let services = shared.clone();
    environment.add_function("service", move |text: String, more: Kwargs| {
        let dots = more.get::<Option<bool>>("dots")?.unwrap_or(false);
        more.assert_all_used()?;
        list(&services, query::service(&text, dots)?)
    });
    let keys = shared.clone();
    environment.add_function("key_or_default", move |path: String, default: Value| {
        Ok::<_, Error>(value_of(&keys, "key_or_default", &path)?.map_or(default, Value::from))
    });
    let variables = shared.clone();
    environment.add_function("env_or_default", move |name: String, default: Value| {
        // One that is set and empty is set, as in consul-template.
        Ok::<_, Error>(variable(&variables, &name)?.map_or(default, Value::from))
    });
}

fn list(shared: &Shared, dependency: Dependency) -> Result<Value> {
    Ok(match shared.ask(dependency)? {
        Got::Data(data) => value(data),
        Got::Nothing => Value::from(Vec::<Value>::new()),
    })
}

fn node(shared: &Shared, text: &str) -> Result<Value> {
    let dependency = query::node(text)?;
    let name = dependency.to_string();
    match shared.ask(dependency)? {
        Got::Data(Json::Null) if shared.error_on_missing => Err(problem(format!("{name}: there is no such node"))),
        Got::Data(Json::Null) | Got::Nothing => Ok(Value::from(())),
        Got::Data(data) => Ok(value(data)),
    }
}

/// The value of a key; `None`: it does not exist, or is not known yet.
fn value_of(shared: &Shared, function: &str, text: &str) -> Result<Option<String>> {
    let (path, datacenter) = query::key(function, text)?;
    if path.is_empty() {
        return Err(problem(format!("{function}(): the path is empty")));
    }
    Ok(match shared.ask(Dependency::Key { path, datacenter })? {
        Got::Data(data) => data.as_str().map(str::to_owned),
        Got::Nothing => None,
    })
}

fn key(shared: &Shared, text: &str) -> Result<Value> {
    match value_of(shared, "key", text)? {
        Some(value) => Ok(value.into()),
        None => {
            let (path, datacenter) = query::key("key", text)?;
            let known = shared.answers.contains_key(&Dependency::Key { path: path.clone(), datacenter });
            match known && shared.error_on_missing && !shared.lenient {
                true => Err(problem(format!(
                    "the key {path} does not exist; key_or_default(\"{path}\", \"…\") and key_exists(\"{path}\") do without"
                ))),
                false => Ok("".into()),
            }
        }
    }
}

fn key_exists(shared: &Shared, text: &str) -> Result<Value> {
    Ok(value_of(shared, "key_exists", text)?.is_some().into())
}

/// Pairs below a prefix: `ls` without those of folders below it, `tree` with them.
fn pairs(shared: &Shared, function: &str, text: &str) -> Result<Vec<Json>> {
    let (prefix, datacenter) = query::key(function, text)?;
    let answer = match shared.ask(Dependency::Keys { prefix: prefix.clone(), datacenter })? {
        Got::Data(data) => data.as_array().map(Vec::as_slice).unwrap_or_default(),
        Got::Nothing => &[],
    };
    let deep = function.ends_with("tree");
    let pair = |pair: &Json| {
        let path = pair["Path"].as_str()?;
        let key = path.strip_prefix(prefix.as_str())?.trim_start_matches('/');
        // A folder is a key of its own, which ends so.
        let wanted = !key.is_empty() && !key.ends_with('/') && (deep || !key.contains('/'));
        wanted.then(|| serde_json::json!({"Path": path, "Key": key, "Value": pair["Value"]}))
    };
    Ok(answer.iter().filter_map(pair).collect())
}

fn safe(shared: &Shared, function: &str, text: &str) -> Result<Value> {
    let pairs = pairs(shared, function, text)?;
    let (prefix, datacenter) = query::key(function, text)?;
    let known = shared.answers.contains_key(&Dependency::Keys { prefix: prefix.clone(), datacenter });
    if pairs.is_empty() && known && !shared.lenient {
        return Err(problem(format!("there is no key below {prefix}, and {function}() refuses an empty answer")));
    }
    Ok(value(&pairs))
}

fn variable(shared: &Shared, name: &str) -> Result<Option<String>> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(problem("env(): this is not the name of a variable"));
    }
    Ok(match shared.ask(Dependency::Environment(name.to_owned()))? {
        Got::Data(data) => data.as_str().map(str::to_owned),
        Got::Nothing => None,
    })
}

fn must_env(shared: &Shared, name: &str) -> Result<Value> {
    match variable(shared, name)? {
        Some(value) => Ok(value.into()),
        None if shared.lenient || !shared.answers.contains_key(&Dependency::Environment(name.to_owned())) => {
            Ok("".into())
        }
        None => Err(problem(format!("the environment variable {name} is not set"))),
    }
}

fn file(shared: &Shared, text: &str) -> Result<Value> {
    if text.is_empty() || text.contains('\0') {
        return Err(problem("file(): this is not a path"));
    }
    let path = shared.folder.join(Path::new(text));
    let dependency = Dependency::File(path.clone());
    match shared.ask(dependency)? {
        Got::Data(Json::String(text)) => Ok(text.as_str().into()),
        Got::Data(_) => Err(problem(format!("file(): {} does not exist", path.display()))),
        Got::Nothing => Ok("".into()),
    }
}

/// When the data last changed: in RFC 3339, in seconds (`unix`), or by a format of strftime. In UTC.
fn timestamp(shared: &Shared, format: &str) -> Result<Value> {
    let at = shared.at;
    Ok(match format {
        "" => Value::from(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        "unix" => Value::from(at.as_second().to_string()),
        format => {
            let mut text = String::new();
            let zoned = at.to_zoned(jiff::tz::TimeZone::UTC);
            jiff::fmt::strtime::BrokenDownTime::from(&zoned)
                .format(format, &mut text)
                .map_err(|_| problem("timestamp(): this is not a format of strftime, such as \"%Y-%m-%d\""))?;
            Value::from(text)
        }
    })
}

fn loop_range(first: i64, end: Option<i64>) -> Result<Value> {
    let (first, end) = end.map_or((0, first), |end| (first, end));
    if end.saturating_sub(first) > LONGEST_RANGE {
        return Err(problem(format!("loop_range(): more than {LONGEST_RANGE} turns")));
    }
    Ok(Value::from((first..end).collect::<Vec<i64>>()))
}
