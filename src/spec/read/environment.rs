//! Environment variables of a service, from its `env_file`s and its `environment`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::container::{EnvironmentValue, Secret};
use super::super::credential::{name_is_credential, value_is_credential};
use super::super::dotenv::{self, Format};
use super::super::merge::as_mapping;
use super::super::names;
use super::super::tree::{Node, Source, shown};
use super::{Context, ReadError, boolean, text};

/// `environment` wins over `env_file`, of which later ones win.
pub fn read(service: &str, node: &Node, context: &mut Context<'_>) -> BTreeMap<String, EnvironmentValue> {
    let mut values: BTreeMap<String, Option<String>> = BTreeMap::new();
    if let Some(files) = node.value("env_file") {
        for item in files.items() {
            values.extend(read_file(item, context));
        }
    }
    if let Some(environment) = node.value("environment") {
        for entry in as_mapping(environment.clone(), Some('=')).entries() {
            if let Err(reason) = names::environment(&entry.key) {
                context.report.error(&entry.key_place, format!("this is not the name of a variable: {reason}"));
                continue;
            }
            let value = match entry.value.text() {
                Some(text) => Some(text.to_owned()),
                None => context.environment.get(&entry.key).cloned(),
            };
            if value.as_ref().is_some_and(|value| value.contains('\0')) {
                let message = format!("the value of `{}` contains a NUL byte", shown(&entry.key));
                context.report.error(&entry.key_place, message);
            }
            values.insert(entry.key.clone(), value);
        }
    }
    let project = context.project;
    values
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                None => EnvironmentValue::Unset,
                Some(value) if !value.is_empty() && (name_is_credential(&name) || value_is_credential(&value)) => {
                    EnvironmentValue::Secret(Secret::new(&format!("{project}/{service}/environment/{name}"), value))
                }
                Some(value) => EnvironmentValue::Plain(value),
            };
            (name, value)
        })
        .collect()
}

fn read_file(item: &Node, context: &mut Context<'_>) -> BTreeMap<String, Option<String>> {
    let (path, required, format) = match item.text() {
        Some(path) => (path, true, Format::Quoted),
        None => {
            let Some(path) = text(item, "path") else {
                if !item.is_null() {
                    context.report.error(&item.place, "an env_file entry needs a `path`");
                }
                return BTreeMap::new();
            };
            let format = if text(item, "format") == Some("raw") { Format::Raw } else { Format::Quoted };
            (path, boolean(item, "required").unwrap_or(true), format)
        }
    };
    let full = context.path(path);
    let bytes = match context.read(&full) {
        Ok(bytes) => bytes,
        Err(ReadError::Missing) if !required => return BTreeMap::new(),
        Err(error) => {
            let help = match error {
                ReadError::Missing => "make it, or write `{ path: …, required: false }`",
                ReadError::Other(_) => "paths are relative to the first spec file's folder",
            };
            let message = format!("the env_file `{}` cannot be read: {error}", shown(path));
            context.report.error_help(&item.place, message, help);
            return BTreeMap::new();
        }
    };
    let Ok(content) = String::from_utf8(bytes) else {
        context.report.error(&item.place, format!("the env_file `{}` is not UTF-8 text", shown(path)));
        return BTreeMap::new();
    };
    let source = Arc::new(Source { name: path.to_owned(), text: content });
    let environment = context.environment;
    let mut values = dotenv::parse(&source, format, environment, context.report);
    // A name alone passes the environment's value on; without one, nothing.
    values.retain(|name, value| {
        *value = value.take().or_else(|| environment.get(name).cloned());
        value.is_some()
    });
    values
}
