//! Data as TOML, for `to_toml`: keys in order, plain values before tables, as TOML asks for.

use minijinja::Error;
use serde_json::{Map, Value as Json};

use super::shared::problem;

/// A table of tables, each with its path above it. `null` is a key that is not there.
pub(super) fn write(value: &Json) -> Result<String, Error> {
    let Json::Object(root) = value else {
        return Err(problem("to_toml: TOML begins with a map; give it one"));
    };
    let mut out = String::new();
    table(&mut out, &mut Vec::new(), root)?;
    Ok(out.trim().to_owned())
}

fn table(out: &mut String, path: &mut Vec<String>, table: &Map<String, Json>) -> Result<(), Error> {
    for (key, value) in table.iter().filter(|(_, value)| !value.is_null() && !is_table(value)) {
        out.push_str(&format!("{} = {}\n", word(key), inline(value)?));
    }
    for (key, value) in table.iter().filter(|(_, value)| is_table(value)) {
        path.push(word(key));
        let name = path.join(".");
        match value {
            Json::Object(inner) => {
                out.push_str(&format!("\n[{name}]\n"));
                self::table(out, path, inner)?;
            }
            Json::Array(all) => {
                for inner in all.iter().filter_map(Json::as_object) {
                    out.push_str(&format!("\n[[{name}]]\n"));
                    self::table(out, path, inner)?;
                }
            }
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

/// It gets a head line of its own: a map, or a list of nothing but maps.
fn is_table(value: &Json) -> bool {
    match value {
        Json::Object(_) => true,
        Json::Array(all) => !all.is_empty() && all.iter().all(Json::is_object),
        _ => false,
    }
}

fn inline(value: &Json) -> Result<String, Error> {
    Ok(match value {
        Json::Null => return Err(problem("to_toml: a list holds nothing (null), which TOML cannot say")),
        Json::Bool(_) | Json::Number(_) => value.to_string(),
        Json::String(text) => quoted(text),
        Json::Array(all) => format!("[{}]", all.iter().map(inline).collect::<Result<Vec<_>, _>>()?.join(", ")),
        Json::Object(map) => {
            let pair = |(key, value): (&String, &Json)| Ok(format!("{} = {}", word(key), inline(value)?));
            let pairs =
                map.iter().filter(|(_, value)| !value.is_null()).map(pair).collect::<Result<Vec<_>, Error>>()?;
            format!("{{ {} }}", pairs.join(", "))
        }
    })
}

/// A key, quoted where it must be.
fn word(key: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if !key.is_empty() && key.chars().all(plain) { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}
