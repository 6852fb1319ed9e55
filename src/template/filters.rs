//! The filters, under consul-template's names: what Go pipes as the last argument is what is piped here.
//!
//! Owns their list, what parses and what writes data, and the arithmetic; lists and maps are `collections`', texts are
//! `text`'s.

use std::sync::Arc;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error};
use serde_json::Value as Json;

use super::shared::{Shared, data, problem};
use super::{collections, sprig, text, toml};

/// For "did you mean".
pub(super) const NAMES: &[&str] = &[
    "by_tag",
    "by_meta",
    "by_key",
    "by_port",
    "explode",
    "parse_json",
    "parse_yaml",
    "parse_int",
    "parse_uint",
    "parse_float",
    "parse_bool",
    "to_json",
    "to_json_pretty",
    "to_unescaped_json",
    "to_unescaped_json_pretty",
    "to_yaml",
    "to_toml",
    "contains",
    "contains_any",
    "contains_all",
    "contains_none",
    "contains_not_all",
    "regex_match",
    "regex_replace_all",
    "replace_all",
    "base64_encode",
    "base64_decode",
    "base64_url_encode",
    "base64_url_decode",
    "split",
    "join",
    "to_lower",
    "to_upper",
    "to_title",
    "trim_space",
    "trim",
    "trim_prefix",
    "trim_suffix",
    "indent",
    "sha256_hex",
    "add",
    "subtract",
    "multiply",
    "divide",
    "modulo",
    "minimum",
    "maximum",
];

type Result<T> = std::result::Result<T, Error>;

pub(super) fn add(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    collections::add(environment);
    text::add(environment);
    sprig::add(environment);
    parser(environment, shared, "parse_json", data(&serde_json::json!({})), parse_json);
    parser(environment, shared, "parse_yaml", data(&serde_json::json!({})), parse_yaml);
    parser(environment, shared, "parse_int", 0.into(), |text| text.trim().parse::<i64>().ok().map(Value::from));
    parser(environment, shared, "parse_uint", 0.into(), |text| text.trim().parse::<u64>().ok().map(Value::from));
    parser(environment, shared, "parse_float", 0.0.into(), |text| text.trim().parse::<f64>().ok().map(Value::from));
    parser(environment, shared, "parse_bool", false.into(), parse_bool);
    environment.add_filter("to_json", |value: Value| Ok::<_, Error>(escaped(&json(&value)?.to_string())));
    environment.add_filter("to_json_pretty", |value: Value| Ok::<_, Error>(escaped(&pretty(&value)?)));
    environment.add_filter("to_unescaped_json", |value: Value| Ok::<_, Error>(json(&value)?.to_string()));
    environment.add_filter("to_unescaped_json_pretty", |value: Value| pretty(&value));
    environment.add_filter("to_yaml", to_yaml);
    environment.add_filter("to_toml", |value: Value| toml::write(&json(&value)?));
    environment.add_filter("add", |a: Value, b: Value| calculate("add", &a, &b, i64::checked_add, |a, b| a + b));
    environment
        .add_filter("subtract", |a: Value, b: Value| calculate("subtract", &a, &b, i64::checked_sub, |a, b| a - b));
    environment
        .add_filter("multiply", |a: Value, b: Value| calculate("multiply", &a, &b, i64::checked_mul, |a, b| a * b));
    environment.add_filter("divide", |a: Value, b: Value| calculate("divide", &a, &b, i64::checked_div, |a, b| a / b));
    environment.add_filter("modulo", |a: Value, b: Value| calculate("modulo", &a, &b, i64::checked_rem, |a, b| a % b));
    environment
        .add_filter("minimum", |a: Value, b: Value| calculate("minimum", &a, &b, |a, b| Some(a.min(b)), f64::min));
    environment
        .add_filter("maximum", |a: Value, b: Value| calculate("maximum", &a, &b, |a, b| Some(a.max(b)), f64::max));
}

/// A filter that reads a text. Nothing at all is empty, as in consul-template; what is not known yet is, too.
fn parser(
    environment: &mut Environment<'static>,
    shared: &Arc<Shared>,
    name: &'static str,
    empty: Value,
    parse: fn(&str) -> Option<Value>,
) {
    let lenient = shared.lenient;
    environment.add_filter(name, move |value: Value| {
        let Some(given) = value.as_str() else {
            return match lenient || value.kind() == ValueKind::Number {
                true => Ok(value),
                false => Err(problem(format!("{name}: it is given something that is not text"))),
            };
        };
        if given.is_empty() {
            return Ok(empty.clone());
        }
        match parse(given) {
            Some(value) => Ok(value),
            None if lenient => Ok(empty.clone()),
            None => Err(problem(format!("{name}: it is given a text that it cannot read"))),
        }
    });
}

fn parse_json(text: &str) -> Option<Value> {
    serde_json::from_str::<Json>(text).ok().map(|json| data(&json))
}

fn parse_yaml(text: &str) -> Option<Value> {
    serde_saphyr::from_str::<Json>(text).ok().map(|json| data(&json))
}

/// What Go takes for a boolean.
fn parse_bool(text: &str) -> Option<Value> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true.into()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false.into()),
        _ => None,
    }
}

fn json(value: &Value) -> Result<Json> {
    if value.is_undefined() {
        return Err(Error::from(minijinja::ErrorKind::UndefinedError));
    }
    serde_json::to_value(value).map_err(|_| problem("this value cannot be written as data"))
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(&json(value)?).map_err(|_| problem("this value cannot be written as JSON"))
}

/// As Go's encoder writes it, so that the text can stand within HTML.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            letter => out.push(letter),
        }
    }
    out
}

fn to_yaml(value: Value) -> Result<String> {
    let text = serde_saphyr::to_string(&json(&value)?).map_err(|_| problem("this value cannot be written as YAML"))?;
    Ok(text.trim().to_owned())
}

/// Whole numbers stay whole, as in Go.
fn calculate(
    name: &str,
    a: &Value,
    b: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    fraction: fn(f64, f64) -> f64,
) -> Result<Value> {
    if a.kind() != ValueKind::Number || b.kind() != ValueKind::Number {
        return Err(problem(format!(
            "{name}: both sides must be numbers; parse_int and parse_float make some of a text"
        )));
    }
    if let (true, true, Some(a), Some(b)) = (a.is_integer(), b.is_integer(), a.as_i64(), b.as_i64()) {
        return match whole(a, b) {
            Some(result) => Ok(result.into()),
            None => Err(problem(format!("{name}: the result is not a number, or too large"))),
        };
    }
    let float = |value: &Value| f64::try_from(value.clone());
    Ok(fraction(float(a)?, float(b)?).into())
}
