//! The JSON Schema of the spec, for editors: made from the same tables that check a spec.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::table::{Kind, SPEC, Standing, Table};

/// JSON Schema (draft 2020-12) of a spec file.
pub fn schema() -> Value {
    let mut definitions = BTreeMap::new();
    let root = reference(&SPEC, &mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "reeve spec",
        "description": SPEC.doc,
        "$ref": root,
        "$defs": definitions,
    })
}

/// The name under which a table is defined.
fn reference(table: &'static Table, definitions: &mut BTreeMap<String, Value>) -> String {
    let name = table.name.trim_start_matches("a ").trim_start_matches("an ").replace(' ', "_");
    let path = format!("#/$defs/{name}");
    if definitions.contains_key(&name) {
        return path;
    }
    // A place is taken first: a table could refer to itself.
    definitions.insert(name.clone(), Value::Null);
    let mut properties = Map::new();
    for key in table.keys {
        match key.standing {
            Standing::Supported => {
                properties.insert(key.name.to_owned(), described(&key.kind, key.doc, definitions));
            }
            Standing::Own => {
                let value = described(&key.kind, key.doc, definitions);
                properties.insert(format!("x-{}", key.name), value.clone());
                properties.insert(key.name.to_owned(), value);
            }
            Standing::Unsupported => {
                let description = format!("Known to Compose, not supported by reeve: {}.", key.doc);
                properties.insert(key.name.to_owned(), json!({ "not": {}, "description": description }));
            }
        }
    }
    let mut definition = json!({
        "type": ["object", "null"],
        "description": table.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if table.extensions {
        definition["patternProperties"] = json!({ "^x-": {} });
    }
    definitions.insert(name, definition);
    path
}

fn described(kind: &'static Kind, doc: &str, definitions: &mut BTreeMap<String, Value>) -> Value {
    let mut value = kind_schema(kind, definitions);
    if let Value::Object(object) = &mut value {
        object.insert("description".to_owned(), json!(doc));
    }
    value
}

/// Every value may also be text with a variable in it, so a type that is not text allows text that holds a `$`.
fn kind_schema(kind: &'static Kind, definitions: &mut BTreeMap<String, Value>) -> Value {
    let variable = json!({ "type": "string", "pattern": "\\$" });
    let text = json!({ "type": ["string", "number"] });
    let texts = json!({ "type": "array", "items": { "type": ["string", "number", "boolean"] } });
    let scalar = json!({ "type": ["string", "number", "boolean", "null"] });
    match kind {
        Kind::Any => json!({}),
        Kind::Text => json!({ "type": ["string", "number", "null"] }),
        Kind::Choice(choices) => {
            let mut values: Vec<Value> = choices.iter().map(|choice| json!(choice)).collect();
            values.extend(choices.iter().filter_map(|choice| choice.parse::<u64>().ok()).map(|number| json!(number)));
            json!({ "anyOf": [{ "enum": values }, variable] })
        }
        Kind::Boolean => {
            json!({ "anyOf": [{ "type": "boolean" }, { "enum": ["true", "false", "yes", "no"] }, variable] })
        }
        Kind::Integer { min, max } => {
            let mut number = json!({ "type": "integer", "minimum": min });
            if *max != i64::MAX {
                number["maximum"] = json!(max);
            }
            json!({ "anyOf": [number, { "type": "string", "pattern": "^-?[0-9]+$" }, variable] })
        }
        Kind::Cpus => json!({ "anyOf": [{ "type": "number" }, { "type": "string" }] }),
        Kind::Duration => {
            let pattern = "^(0|([0-9.]+(ns|us|µs|ms|s|m|h|d|w))+)$";
            json!({ "anyOf": [{ "type": "string", "pattern": pattern }, { "const": 0 }, variable] })
        }
        Kind::Size => {
            let pattern = "^[0-9.]+ *([bB]|[kKmMgGtT]([iI]?[bB])?)?$";
            json!({ "anyOf": [{ "type": "string", "pattern": pattern }, { "type": "integer", "minimum": 0 }, variable] })
        }
        Kind::Command | Kind::Texts => json!({ "anyOf": [text, texts, { "type": ["boolean", "null"] }] }),
        Kind::List => json!({ "anyOf": [texts, { "type": "null" }] }),
        Kind::Pairs => json!({
            "anyOf": [{ "type": "object", "additionalProperties": scalar }, texts, { "type": "null" }]
        }),
        Kind::Hosts => {
            let addresses = json!({ "anyOf": [text, texts] });
            json!({ "anyOf": [{ "type": "object", "additionalProperties": addresses }, texts, { "type": "null" }] })
        }
        Kind::Options => json!({ "type": ["object", "null"], "additionalProperties": scalar }),
        Kind::Mapping(table) => json!({ "$ref": reference(table, definitions) }),
        Kind::MapOf(kind) => {
            let value = kind_schema(kind, definitions);
            json!({ "type": ["object", "null"], "additionalProperties": value })
        }
        Kind::Named(kind) => {
            let value = kind_schema(kind, definitions);
            json!({ "anyOf": [texts, { "type": ["object", "null"], "additionalProperties": value }] })
        }
        Kind::Entries { long, single, .. } => {
            let entry = json!({ "anyOf": [text, { "$ref": reference(long, definitions) }] });
            let list = json!({ "type": "array", "items": entry });
            match single {
                true => json!({ "anyOf": [entry, list] }),
                false => json!({ "anyOf": [list, { "type": "null" }] }),
            }
        }
        Kind::ListOf(kind) => {
            let value = kind_schema(kind, definitions);
            json!({ "anyOf": [{ "type": "array", "items": value }, { "type": "null" }] })
        }
        Kind::Either(kinds) => {
            let values: Vec<Value> = kinds.iter().map(|kind| kind_schema(kind, definitions)).collect();
            json!({ "anyOf": values })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_schema_is_defined_and_every_key_has_a_description() {
        let schema = schema();
        let text = schema.to_string();
        for part in text.split("\"#/$defs/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(schema["$defs"][name].is_object(), "{name} is not defined");
        }
        for (name, definition) in schema["$defs"].as_object().expect("definitions are an object") {
            for (key, value) in definition["properties"].as_object().expect("properties are an object") {
                assert!(value["description"].is_string(), "{name}.{key} has no description");
            }
        }
    }

    #[test]
    fn an_editor_is_told_of_own_keys_in_both_spellings_and_of_unsupported_ones() {
        let schema = schema();
        let service = &schema["$defs"]["service"]["properties"];
        assert!(service["register"].is_object());
        assert_eq!(service["register"], service["x-register"]);
        assert_eq!(service["build"]["not"], json!({}));
        assert!(service["build"]["description"].as_str().is_some_and(|text| text.contains("docker build")));
        assert!(schema["$defs"]["upstream"]["properties"]["listen"].is_object());
    }
}
