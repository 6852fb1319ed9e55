//! The plan's text: for `plan`, for the golden tests, and (a line of it) for the log.
//!
//! Symbols are Terraform's: `+` add, `-` destroy, `~` change in place, `-/+` destroy then add, `+/-` add before destroy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::action::{Action, ConsulAction, DockerAction, NginxAction, System};
use super::preview::{Preview, Replacement};
use super::{ObjectKey, Plan, Step, Waiting};
use crate::observed::Observed;

/// How a line is to be coloured, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Add,
    Remove,
    Change,
    Faint,
    Strong,
}

/// One line of the plan's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub tone: Tone,
    pub text: String,
}

/// The plan as text without colour.
pub fn text(preview: &Preview, observed: &Observed) -> String {
    let mut text = String::new();
    for line in lines(preview, observed) {
        let _ = writeln!(text, "{}", line.text);
    }
    text
}

/// The plan's lines, in order.
pub fn lines(preview: &Preview, observed: &Observed) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut push = |tone: Tone, text: String| lines.push(Line { tone, text });
    let first = preview.waves.first();
    for system in [System::Docker, System::Consul, System::Nginx, System::Directory] {
        let steps: Vec<&Step> =
            first.into_iter().flat_map(|wave| &wave.steps).filter(|s| s.action.system() == system).collect();
        if steps.is_empty() {
            continue;
        }
        push(Tone::Strong, system.name().to_owned());
        for (object, steps) in by_object(&steps) {
            let symbol = symbol(preview, &object, &steps);
            let verbs: Vec<&str> = steps.iter().map(|step| verb(&step.action)).collect();
            push(tone(symbol), format!("  {symbol:<3} {object}: {}", verbs.join(", ")));
            push(Tone::Faint, format!("      # {}", steps[0].cause));
            for change in steps.iter().flat_map(|step| &step.changes) {
                let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "(none)".to_owned());
                push(Tone::Plain, format!("      ~ {}: {} => {}", change.field, side(&change.old), side(&change.new)));
            }
        }
        push(Tone::Plain, String::new());
    }
    let later: Vec<&Plan> = preview.waves.iter().skip(1).collect();
    if !later.is_empty() {
        push(Tone::Strong, "then".to_owned());
        for (number, wave) in later.iter().enumerate() {
            for (index, (object, steps)) in by_object(&wave.steps.iter().collect::<Vec<_>>()).into_iter().enumerate() {
                let symbol = symbol(preview, &object, &steps);
                let verbs: Vec<&str> = steps.iter().map(|step| verb(&step.action)).collect();
                let wave = if index == 0 { format!("{}.", number + 2) } else { String::new() };
                push(
                    tone(symbol),
                    format!("  {wave:<4} {symbol:<3} {object}: {}   # {}", verbs.join(", "), steps[0].cause),
                );
            }
        }
        push(Tone::Plain, String::new());
    }
    let diff = nginx_diff(preview, observed);
    if !diff.is_empty() {
        push(Tone::Strong, "nginx configuration".to_owned());
        for line in diff {
            let tone = match line.as_bytes().first() {
                Some(b'+') => Tone::Add,
                Some(b'-') => Tone::Remove,
                _ => Tone::Plain,
            };
            push(tone, format!("  {line}"));
        }
        push(Tone::Plain, String::new());
    }
    let waiting: Vec<&Waiting> = first.into_iter().flat_map(|wave| &wave.waiting).collect();
    if !waiting.is_empty() {
        push(Tone::Strong, "waiting".to_owned());
        for waiting in waiting {
            push(Tone::Plain, format!("  {}: {}", waiting.object, waiting.reason));
        }
        push(Tone::Plain, String::new());
    }
    push(Tone::Strong, summary(preview));
    let impact = impact(preview);
    if !impact.is_empty() {
        push(Tone::Plain, impact);
    }
    lines
}

/// `Plan: …` or `No changes.`
pub fn summary(preview: &Preview) -> String {
    if preview.is_empty() {
        return "No changes.".to_owned();
    }
    let summary = preview.summary;
    format!("Plan: {} to add, {} to change, {} to destroy.", summary.add, summary.change, summary.destroy)
}

fn impact(preview: &Preview) -> String {
    if preview.is_empty() {
        return String::new();
    }
    let reloads = match preview.reloads {
        0 => "no reload of nginx".to_owned(),
        1 => "1 reload of nginx".to_owned(),
        more => format!("{more} reloads of nginx"),
    };
    let mut text = format!("Impact: {reloads}");
    for (service, lowest) in &preview.lowest_healthy {
        let _ = write!(text, "; {service} lowest healthy: {} of {}", lowest.healthy, lowest.of);
        if lowest.healthy < lowest.of && !lowest.reason.is_empty() {
            let _ = write!(text, " (stop-first: {})", lowest.reason);
        }
    }
    text.push('.');
    text
}

/// Steps of one object in the order of the plan, objects in the order of their first step.
fn by_object<'a>(steps: &[&'a Step]) -> Vec<(ObjectKey, Vec<&'a Step>)> {
    let mut grouped: Vec<(ObjectKey, Vec<&Step>)> = Vec::new();
    for step in steps {
        match grouped.iter_mut().find(|(object, _)| *object == step.object) {
            Some((_, group)) => group.push(step),
            None => grouped.push((step.object.clone(), vec![step])),
        }
    }
    grouped
}

fn symbol(preview: &Preview, object: &ObjectKey, steps: &[&Step]) -> &'static str {
    if let ObjectKey::Replica(name) = object {
        match preview.replaced.get(name) {
            Some(Replacement::StopFirst) => return "-/+",
            Some(Replacement::StartFirst) => return "+/-",
            None if preview.removed.contains(name) => return "-",
            None => {}
        }
    }
    let mut symbol = "~";
    for step in steps {
        match &step.action {
            Action::Docker(
                DockerAction::CreateNetwork(_)
                | DockerAction::CreateVolume(_)
                | DockerAction::PullImage { .. }
                | DockerAction::CreateContainer(_),
            ) => symbol = "+",
            Action::Docker(
                DockerAction::RemoveNetwork { .. }
                | DockerAction::RemoveVolume { .. }
                | DockerAction::RemoveContainer { .. },
            )
            | Action::Nginx(NginxAction::RemoveGeneration { .. })
            | Action::Directory(_) => symbol = if symbol == "~" { "-" } else { symbol },
            Action::Consul(ConsulAction::Register(_)) if step.changes.is_empty() => symbol = "+",
            Action::Consul(ConsulAction::Deregister { .. }) => symbol = "-",
            Action::Consul(_) | Action::Nginx(_) | Action::Docker(_) => {}
        }
    }
    symbol
}

fn tone(symbol: &str) -> Tone {
    match symbol {
        "+" => Tone::Add,
        "-" => Tone::Remove,
        _ => Tone::Change,
    }
}

/// What is done, in a word or two.
pub fn verb(action: &Action) -> &'static str {
    match action {
        Action::Docker(action) => match action {
            DockerAction::CreateNetwork(_) | DockerAction::CreateVolume(_) | DockerAction::CreateContainer(_) => {
                "create"
            }
            DockerAction::RemoveNetwork { .. }
            | DockerAction::RemoveVolume { .. }
            | DockerAction::RemoveContainer { .. } => "remove",
            DockerAction::PullImage { .. } => "pull",
            DockerAction::StartContainer { .. } => "start",
            DockerAction::StopContainer { .. } => "stop",
            DockerAction::UnpauseContainer { .. } => "unpause",
            DockerAction::ConnectNetwork { .. } => "connect",
            DockerAction::DisconnectNetwork { .. } => "disconnect",
        },
        Action::Consul(action) => match action {
            ConsulAction::Register(_) => "register",
            ConsulAction::Drain { .. } => "drain",
            ConsulAction::LiftDrain { .. } => "lift the drain",
            ConsulAction::StartDrainClock { .. } => "start the drain time",
            ConsulAction::Deregister { .. } => "deregister",
            ConsulAction::SetHealth { .. } => "set health",
            ConsulAction::RemoveCheck { .. } => "remove a check",
        },
        Action::Nginx(action) => match action {
            NginxAction::WriteGeneration(_) => "write and check a generation",
            NginxAction::SwitchGeneration { .. } => "switch",
            NginxAction::Reload { .. } => "reload",
            NginxAction::Start { .. } => "start",
            NginxAction::QuitOrphans { .. } => "end orphaned workers",
            NginxAction::RemoveGeneration { .. } => "remove an old generation",
        },
        Action::Directory(_) => "remove a pin",
    }
}

/// Unified diffs between the files of the generation in force and those of the one at the end. `reeve.conf` is left out:
/// it only names the generation.
fn nginx_diff(preview: &Preview, observed: &Observed) -> Vec<String> {
    let Some(generation) = &preview.generation else { return Vec::new() };
    let nginx = observed.nginx.known();
    let current = nginx.and_then(|nginx| nginx.generations.get(nginx.current.as_ref()?));
    let empty = BTreeMap::new();
    let old: &BTreeMap<String, Arc<str>> = current.map_or(&empty, |generation| &generation.files);
    let names: std::collections::BTreeSet<&String> = old.keys().chain(generation.files.keys()).collect();
    let mut lines = Vec::new();
    for name in names.into_iter().filter(|name| name.as_str() != "reeve.conf") {
        let before = old.get(name).map_or("", |text| text);
        let after = generation.files.get(name).map_or("", |text| text);
        if before == after {
            continue;
        }
        let side = |text: &str| if text.is_empty() { "/dev/null".to_owned() } else { name.clone() };
        let diff = similar::TextDiff::from_lines(before, after);
        let unified = diff.unified_diff().context_radius(3).header(&side(before), &side(after)).to_string();
        lines.extend(unified.lines().map(placeholders));
    }
    lines
}

/// Addresses that Docker will choose are not known yet.
fn placeholders(line: &str) -> String {
    let Some(start) = line.find("server 0.0.") else { return line.to_owned() };
    let address_at = start + "server ".len();
    let rest = &line[address_at..];
    let end = rest.find(':').unwrap_or(rest.len());
    format!("{}(known after start){}", &line[..address_at], &rest[end..])
}

/// The plan as JSON: stable names, nothing secret.
pub fn json(preview: &Preview) -> Value {
    let waves: Vec<Value> = preview.waves.iter().map(one_wave).collect();
    json!({
        "waves": waves,
        "summary": preview.summary,
        "reloads": preview.reloads,
        "lowest_healthy": preview.lowest_healthy,
        "changes": !preview.is_empty(),
    })
}

/// One wave that was applied, in the same shape; what follows from it is not foreseen.
pub fn wave_json(wave: &Plan) -> Value {
    json!({"waves": [one_wave(wave)], "changes": !wave.is_empty()})
}

fn one_wave(wave: &Plan) -> Value {
    let steps: Vec<Value> = wave.steps.iter().map(step_json).collect();
    let waiting: Vec<Value> = wave
        .waiting
        .iter()
        .map(|w| json!({"object": w.object.to_string(), "kind": w.kind, "reason": w.reason, "until": w.until}))
        .collect();
    json!({"steps": steps, "waiting": waiting})
}

/// One step as JSON.
pub fn step_json(step: &Step) -> Value {
    let changes: Vec<Value> =
        step.changes.iter().map(|c| json!({"field": c.field, "old": c.old, "new": c.new})).collect();
    json!({
        "object": step.object.to_string(),
        "system": step.action.system().name(),
        "action": step.action.kind(),
        "cause": step.cause,
        "changes": changes,
    })
}
