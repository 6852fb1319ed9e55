//! `templates`: files that are rendered from the data of Consul.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::suggest::did_you_mean;
use super::super::template::{CommandLine, Delimiters, SIGNALS, SignalTarget, Template, TemplateSignal, Wait};
use super::super::tree::{Entry, Node, Place, shown};
use super::super::{names, units};
use super::{Context, Draft, boolean, duration, owned, text, words};

/// How long a check, or a command, may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// consul-template's: the longest wait, when only the quiet time is given.
const LONGEST_WAIT: u32 = 4;

/// Reads all of them, and checks them against each other and the services.
pub fn read(root: &Node, draft: &mut Draft, context: &mut Context<'_>) {
    let Some(templates) = root.get("templates") else { return };
    let mut places: BTreeMap<std::path::PathBuf, (String, Place)> = BTreeMap::new();
    for entry in templates.value.entries() {
        if let Err(reason) = names::key(&entry.key) {
            let name = shown(&entry.key);
            context.report.error(&entry.key_place, format!("`{name}` is not a template's name: {reason}"));
            continue;
        }
        let Some(template) = one(entry, draft, context) else { continue };
        let place = entry.value.get("destination").map_or(&entry.key_place, |one| &one.value.place).clone();
        if let Some(allowed) = context.templates_allow
            && !allowed.iter().any(|folder| template.destination.starts_with(folder))
        {
            let folders: Vec<String> = allowed.iter().map(|folder| folder.display().to_string()).collect();
            let message = format!(
                "the template `{}` writes into none of the allowed folders: {}",
                template.name,
                folders.join(", ")
            );
            let help = "add its folder to `templates.allow` of the settings, or choose another destination";
            context.report.error_help(&place, message, help);
        }
        match places.get(&template.destination) {
            Some((other, first)) => {
                let message = format!("the templates `{other}` and `{}` have the same destination", template.name);
                let help = format!("the other one is in line {}; each template writes a file of its own", first.line());
                context.report.error_help(&place, message, help);
            }
            None => drop(places.insert(template.destination.clone(), (template.name.clone(), place))),
        }
        draft.templates.insert(entry.key.clone(), template);
    }
}

fn one(entry: &Entry, draft: &Draft, context: &mut Context<'_>) -> Option<Template> {
    let node = &entry.value;
    // All of them before the first `?`: every mistake is to be told.
    let body = body(entry, context);
    let destination = destination(entry, context);
    let check = command(node, "check", context);
    let run = command(node, "command", context);
    let signal = signal(node, draft, context);
    let perms = perms(node, context);
    let delimiters = delimiters(node, context);
    let wait = wait(node, context);
    for key in ["user", "group"] {
        if let Some(one) = node.get(key)
            && let Some(name) = one.value.text()
            && (name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':'))
        {
            let message = format!("`{}` is not the name or the number of a {key}", one.value.shown());
            context.report.error(&one.value.place, message);
        }
    }
    let (text, origin, place) = body?;
    let template = Template {
        name: entry.key.clone(),
        text,
        origin,
        folder: context.folder.to_owned(),
        destination: destination?,
        check,
        command: run,
        signal,
        perms,
        user: owned(node, "user"),
        group: owned(node, "group"),
        backup: boolean(node, "backup").unwrap_or(false),
        delimiters: delimiters?,
        wait,
        error_on_missing: boolean(node, "error_on_missing").unwrap_or(true),
    };
    // A warning: a template that cannot be used waits with its reason, and the rest of the spec goes on.
    if let Err(reason) = crate::template::check(&template) {
        let message = format!("the template `{}` cannot be used: {reason}", template.name);
        context.report.warning(&place, message, "it waits until that is mended; its last good file stays");
    }
    Some(template)
}

/// The text of the template, what errors call it, and where the spec has it from.
fn body(entry: &Entry, context: &mut Context<'_>) -> Option<(Arc<str>, String, Place)> {
    let node = &entry.value;
    let given = |key: &str| node.get(key).filter(|one| !one.value.is_null());
    match (given("source"), given("contents")) {
        (Some(source), Some(contents)) => {
            let help = format!("line {} gives its `source`; keep one of them", source.key_place.line());
            let message = "a template has `source` or `contents`, not both";
            context.report.error_help(&contents.key_place, message, help);
            None
        }
        (None, None) => {
            let message = format!("the template `{}` has no text", entry.key);
            let help = "give `source: FILE`, or `contents: |` with the text itself";
            context.report.error_help(&entry.key_place, message, help);
            None
        }
        (None, Some(contents)) => {
            let text = contents.value.text()?;
            Some((text.into(), format!("{} (contents)", entry.key), contents.key_place.clone()))
        }
        (Some(source), None) => {
            let name = source.value.text()?;
            let path = context.path(name);
            let place = &source.value.place;
            let shown = source.value.shown();
            let bytes = match context.read(&path) {
                Ok(bytes) => bytes,
                Err(reason) => {
                    let message = format!("the source `{shown}` of the template cannot be read: {reason}");
                    let help = format!("it was looked for at {}", path.display());
                    context.report.error_help(place, message, help);
                    return None;
                }
            };
            match String::from_utf8(bytes) {
                Ok(text) => Some((text.into(), name.to_owned(), place.clone())),
                Err(_) => {
                    context.report.error(place, format!("the source `{shown}` of the template is not UTF-8 text"));
                    None
                }
            }
        }
    }
}

fn destination(entry: &Entry, context: &mut Context<'_>) -> Option<std::path::PathBuf> {
    let Some(given) = entry.value.get("destination").filter(|one| !one.value.is_null()) else {
        let message = format!("the template `{}` has no `destination`", entry.key);
        context.report.error_help(&entry.key_place, message, "write the absolute path of the file to render");
        return None;
    };
    let text = given.value.text()?;
    let place = &given.value.place;
    let shown = given.value.shown();
    let path = Path::new(text);
    let refuse = |context: &mut Context<'_>, reason: &str| {
        context.report.error(place, format!("`{shown}` cannot be a destination: {reason}"));
        None
    };
    if !path.is_absolute() {
        return refuse(context, "it must be an absolute path");
    }
    if text.chars().any(char::is_control) {
        return refuse(context, "it holds a control character");
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return refuse(context, "it must not hold `..`");
    }
    if text.ends_with('/') || path.file_name().is_none() {
        return refuse(context, "it must be a file, not a folder");
    }
    Some(super::normalise(path))
}

/// A list is executed as it is; a text is split into words; a mapping says which, and how long it may take.
fn command(node: &Node, key: &'static str, context: &mut Context<'_>) -> Option<CommandLine> {
    let entry = node.get(key).filter(|one| !one.value.is_null())?;
    let value = &entry.value;
    let place = &value.place;
    let (words, timeout) = if value.entries().is_empty() {
        (words_of(value, place, key, context)?, TIMEOUT)
    } else {
        let timeout = duration(value, "timeout").unwrap_or(TIMEOUT);
        if timeout.is_zero() {
            context.report.error(place, format!("the `timeout` of `{key}` must be longer than nothing"));
        }
        let words = match (value.value("exec"), text(value, "shell")) {
            (Some(_), Some(_)) => {
                context.report.error(place, format!("`{key}` has `exec` or `shell`, not both"));
                return None;
            }
            (Some(exec), None) => words_of(exec, &exec.place, key, context)?,
            (None, Some(line)) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()],
            (None, None) => {
                let help = "write `exec: [program, argument]`, or `shell: \"…\"`";
                context.report.error_help(place, format!("`{key}` says nothing to run"), help);
                return None;
            }
        };
        (words, timeout)
    };
    if words.first().is_none_or(String::is_empty) {
        context.report.error(place, format!("`{key}` is empty"));
        return None;
    }
    if words.iter().any(|word| word.contains('\0')) {
        context.report.error(place, format!("`{key}` holds a NUL byte"));
        return None;
    }
    if key == "check" && !words.iter().any(|word| word.contains("{file}")) {
        let message = "the `check` does not name the file that it is to check";
        context.report.error_help(place, message, "write `{file}` where the path of the new file belongs");
    }
    if key == "command"
        && let Some(word) = words.iter().find(|word| word.contains("{file}"))
    {
        let message = format!("`{{file}}` in `{}` has a meaning in `check` alone", shown(word));
        context.report.error_help(place, message, "the file is at its destination when the command runs: name that");
    }
    Some(CommandLine { words, timeout })
}

fn words_of(node: &Node, place: &Place, key: &str, context: &mut Context<'_>) -> Option<Vec<String>> {
    match node.text() {
        Some(line) => match words::split(line) {
            Ok(words) => Some(words),
            Err(reason) => {
                context.report.error(place, format!("`{key}` cannot be split into words: {reason}"));
                None
            }
        },
        None => Some(node.items().iter().filter_map(Node::text).map(str::to_owned).collect()),
    }
}

fn signal(node: &Node, draft: &Draft, context: &mut Context<'_>) -> Option<TemplateSignal> {
    let entry = node.get("signal").filter(|one| !one.value.is_null())?;
    let value = &entry.value;
    let place = &value.place;
    let given = value.get("signal").and_then(|one| Some((&one.value.place, one.value.text()?)));
    let name = match given {
        None => {
            let help = "write `signal: { signal: HUP, pid_file: /run/app.pid }`";
            context.report.error_help(place, "`signal` does not say which signal", help);
            None
        }
        Some((place, name)) => {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("SIG").unwrap_or(&upper);
            let known = SIGNALS.contains(&short);
            if !known {
                let help = did_you_mean(short, SIGNALS.iter().copied())
                    .unwrap_or_else(|| format!("it can be {}", SIGNALS.join(", ")));
                let message = format!("`{}` is not a signal that a template can send", shown(name));
                context.report.error_help(place, message, help);
            }
            known.then(|| short.to_owned())
        }
    };
    let target = match (value.get("pid_file"), value.get("service")) {
        (Some(file), None) => {
            let path = file.value.text()?;
            if !path.starts_with('/') {
                context.report.error(&file.value.place, "`pid_file` must be an absolute path");
                return None;
            }
            SignalTarget::PidFile(super::normalise(Path::new(path)))
        }
        (None, Some(service)) => {
            let name = service.value.text()?;
            if !draft.services.contains_key(name) {
                let message = format!("there is no service `{}` to send the signal to", service.value.shown());
                match did_you_mean(name, draft.services.keys().map(String::as_str)) {
                    Some(help) => context.report.error_help(&service.value.place, message, help),
                    None => context.report.error(&service.value.place, message),
                }
                return None;
            }
            SignalTarget::Service(name.to_owned())
        }
        (Some(_), Some(_)) => {
            context.report.error(place, "`signal` goes to a `pid_file` or to a `service`, not to both");
            return None;
        }
        (None, None) => {
            let help = "add `pid_file: /run/app.pid`, or `service: NAME` for the containers of a service";
            context.report.error_help(place, "`signal` does not say where to", help);
            return None;
        }
    };
    Some(TemplateSignal { signal: name?, target })
}

fn perms(node: &Node, context: &mut Context<'_>) -> Option<u32> {
    let entry = node.get("perms").filter(|one| !one.value.is_null())?;
    let text = entry.value.text()?;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = (3..=4).contains(&digits.len()).then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    match octal {
        Some(mode) if mode & 0o7000 == 0 => Some(mode),
        Some(_) => {
            context.report.error(&entry.value.place, "`perms` must not set the set-user, set-group or sticky bit");
            None
        }
        None => {
            let message = format!("`perms` must be a mode in octal digits, not `{}`", entry.value.shown());
            context.report.error_help(&entry.value.place, message, "write it as text: perms: \"0640\"");
            None
        }
    }
}

fn delimiters(node: &Node, context: &mut Context<'_>) -> Option<Delimiters> {
    let mut all = Delimiters::default();
    let Some(entry) = node.get("delimiters").filter(|one| !one.value.is_null()) else { return Some(all) };
    let mut good = true;
    for (key, slot) in [("block", &mut all.block), ("variable", &mut all.variable), ("comment", &mut all.comment)] {
        let Some(given) = entry.value.get(key) else { continue };
        let pair: Vec<&str> = given.value.items().iter().filter_map(Node::text).collect();
        match pair[..] {
            [begin, end] if !begin.trim().is_empty() && !end.trim().is_empty() => {
                *slot = (begin.to_owned(), end.to_owned());
            }
            _ => {
                good = false;
                let message = format!("`{key}` must be what begins it and what ends it");
                context.report.error_help(&given.value.place, message, format!("write {key}: [\"<<\", \">>\"]"));
            }
        }
    }
    if good && let Err(reason) = crate::template::syntax(&all) {
        context.report.error(&entry.value.place, format!("these delimiters cannot be told apart: {reason}"));
        good = false;
    }
    good.then_some(all)
}

fn wait(node: &Node, context: &mut Context<'_>) -> Option<Wait> {
    let entry = node.get("wait").filter(|one| !one.value.is_null())?;
    let value = &entry.value;
    let (min, max) = match value.text() {
        Some(text) => (units::duration(text).ok()?, None),
        None => (duration(value, "min").unwrap_or_default(), duration(value, "max")),
    };
    let max = max.unwrap_or_else(|| min.saturating_mul(LONGEST_WAIT));
    if max < min {
        let help = "`min` is how long the data must have been quiet, `max` how long that may be waited for";
        context.report.error_help(&value.place, "`max` of `wait` is shorter than its `min`", help);
        return None;
    }
    Some(Wait { min, max })
}
