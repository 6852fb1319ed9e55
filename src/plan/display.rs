//! The plan's text: for `plan`, for the golden tests, and (a line of it) for the log.
//!
//! Symbols are Terraform's: `+` add, `-` destroy, `~` change in place, `-/+` destroy then add, `+/-` add before destroy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::action::{Action, ConsulAction, DirectoryAction, DockerAction, NginxAction, System, TemplateAction};
use super::preview::{Preview, Replacement};
use super::{Change, ObjectKey, Plan, Step, Waiting, template_diff};
use crate::model::{is_placeholder, is_placeholder_port};
use crate::observed::{Observed, Pin};
use crate::render::{ENTRY_FILE, LUA_FILE};

/// Lines of what comes later; a roll-out of a thousand replicas is read as JSON, if at all.
const MOST_LINES: usize = 40;
/// Names on one line.
const MOST_NAMES: usize = 6;

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
    for system in [System::Docker, System::Consul, System::Nginx, System::Templates, System::Directory] {
        let steps: Vec<(usize, &Step)> = first
            .into_iter()
            .flat_map(|wave| &wave.steps)
            .filter(|s| s.action.system() == system)
            .map(|s| (1, s))
            .collect();
        if steps.is_empty() {
            continue;
        }
        push(Tone::Strong, system.name().to_owned());
        for entry in entries(preview, steps) {
            push(tone(entry.symbol), format!("  {:<3} {}", entry.symbol, entry.text()));
            for change in entry.changes {
                push(Tone::Plain, format!("      {change}"));
            }
        }
        push(Tone::Plain, String::new());
    }
    let later: Vec<(usize, &Step)> = preview
        .waves
        .iter()
        .enumerate()
        .skip(1)
        .flat_map(|(number, wave)| wave.steps.iter().map(move |step| (number + 1, step)))
        .filter(|(_, step)| !matches!(step.action, Action::Nginx(NginxAction::RemoveGeneration { .. })))
        .collect();
    if !later.is_empty() {
        push(Tone::Strong, "then".to_owned());
        let entries = entries(preview, later);
        for entry in entries.iter().take(MOST_LINES) {
            push(tone(entry.symbol), format!("  {:<7} {:<3} {}", entry.waves(), entry.symbol, entry.text()));
        }
        if let Some(more) = entries.len().checked_sub(MOST_LINES).filter(|more| *more > 0) {
            push(Tone::Faint, format!("  and {more} more of the kind; `-o json` lists every step"));
        }
        push(Tone::Plain, String::new());
    }
    let diffs = [
        ("nginx configuration", nginx_diff(preview, observed)),
        ("rendered templates", template_diff::lines(preview, observed)),
    ];
    for (title, diff) in diffs.into_iter().filter(|(_, diff)| !diff.is_empty()) {
        push(Tone::Strong, title.to_owned());
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
    if !preview.left.is_empty() {
        push(Tone::Strong, "waiting".to_owned());
        for (objects, reason) in by_reason(&preview.left) {
            push(Tone::Plain, format!("  {objects}: {reason}"));
        }
        push(Tone::Plain, String::new());
    }
    push(Tone::Strong, summary(preview));
    let impact = impact(preview);
    if !impact.is_empty() {
        push(Tone::Plain, impact);
    }
    if let Some(incomplete) = preview.incomplete() {
        push(Tone::Plain, format!("Incomplete: {incomplete}."));
    }
    lines
}

/// What is done to one object in some waves, or to several objects of a kind when all of it is the same.
struct Entry<'a> {
    symbol: &'static str,
    kind: &'static str,
    names: Vec<String>,
    /// In order, each once.
    verbs: Vec<&'static str>,
    /// How often the last of them is done.
    times: usize,
    cause: &'a str,
    changes: &'a [Change],
    first: usize,
    last: usize,
}

impl Entry<'_> {
    fn waves(&self) -> String {
        if self.first == self.last { format!("{}.", self.first) } else { format!("{}-{}.", self.first, self.last) }
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}", objects(self.kind, &self.names), self.verbs.join(", "));
        if self.times > 1 {
            let _ = write!(text, " ({} times)", self.times);
        }
        let _ = write!(text, "   # {}", self.cause);
        if self.times > 1 {
            text.push_str(" and so on");
        }
        text
    }

    fn like(&self, other: &Self) -> bool {
        let of = |entry: &Self| (entry.symbol, entry.kind, entry.times, entry.first, entry.last);
        of(self) == of(other)
            && self.verbs == other.verbs
            && self.cause == other.cause
            && self.changes == other.changes
            && !self.names.iter().all(String::is_empty)
    }
}

/// Steps by object, objects in the order of their first step, like ones as one entry. Each step comes with its wave.
fn entries<'a>(preview: &Preview, steps: Vec<(usize, &'a Step)>) -> Vec<Entry<'a>> {
    let mut order: BTreeMap<&ObjectKey, usize> = BTreeMap::new();
    let mut grouped: Vec<(&ObjectKey, Vec<(usize, &'a Step)>)> = Vec::new();
    for (wave, step) in steps {
        let at = *order.entry(&step.object).or_insert(grouped.len());
        match grouped.get_mut(at) {
            Some((_, group)) => group.push((wave, step)),
            None => grouped.push((&step.object, vec![(wave, step)])),
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (object, steps) in grouped {
        let mut verbs = Vec::new();
        for (_, step) in &steps {
            let verb = verb(&step.action);
            if !verbs.contains(&verb) {
                verbs.push(verb);
            }
        }
        let last_verb = verbs.last().copied().unwrap_or_default();
        let (kind, name) = kind_and_name(object);
        let first = steps[0].1;
        // Of a replica, its end or its beginning says why it all happens; the other steps say why just then.
        let of = |wanted: fn(&DockerAction) -> bool| {
            steps.iter().find(|(_, step)| matches!(&step.action, Action::Docker(action) if wanted(action)))
        };
        let (_, cause) = of(|action| matches!(action, DockerAction::RemoveContainer { .. }))
            .or_else(|| of(|action| matches!(action, DockerAction::CreateContainer(_))))
            .or_else(|| steps.last().filter(|_| matches!(object, ObjectKey::Replica(_) | ObjectKey::Registration(_))))
            .unwrap_or(&steps[0]);
        let entry = Entry {
            symbol: symbol(preview, object, &steps),
            kind,
            names: vec![name],
            times: steps.iter().filter(|(_, step)| verb(&step.action) == last_verb).count(),
            verbs,
            cause: &cause.cause,
            changes: &first.changes,
            first: steps.iter().map(|(wave, _)| *wave).min().unwrap_or_default(),
            last: steps.iter().map(|(wave, _)| *wave).max().unwrap_or_default(),
        };
        match entries.iter_mut().find(|other| other.like(&entry)) {
            Some(other) => other.names.extend(entry.names),
            None => entries.push(entry),
        }
    }
    entries
}

fn kind_and_name(object: &ObjectKey) -> (&'static str, String) {
    match object {
        ObjectKey::Network(name) => ("network", name.clone()),
        ObjectKey::Volume(name) => ("volume", name.clone()),
        ObjectKey::Image(name) => ("image", name.clone()),
        ObjectKey::Service(name) => ("service", name.clone()),
        ObjectKey::Replica(name) => ("replica", name.clone()),
        ObjectKey::Registration(id) => ("registration", id.clone()),
        ObjectKey::Upstream(name) => ("upstream", name.clone()),
        ObjectKey::Nginx => ("nginx", String::new()),
        ObjectKey::Directory => ("reeve's folder", String::new()),
        ObjectKey::Discovery => ("discovery", String::new()),
        ObjectKey::Template(name) => ("template", name.clone()),
    }
}

/// Objects that wait for the same reason, on one line.
fn by_reason(waiting: &[Waiting]) -> Vec<(String, &str)> {
    type Kinds = Vec<(&'static str, Vec<String>)>;
    let mut reasons: Vec<(Kinds, &str)> = Vec::new();
    for waiting in waiting {
        let (kind, name) = kind_and_name(&waiting.object);
        let at = reasons.iter().position(|(_, reason)| *reason == waiting.reason).unwrap_or_else(|| {
            reasons.push((Vec::new(), &waiting.reason));
            reasons.len() - 1
        });
        let kinds = &mut reasons[at].0;
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, names)) => names.push(name),
            None => kinds.push((kind, vec![name])),
        }
    }
    let line = |kinds: Kinds| kinds.iter().map(|(kind, names)| objects(kind, names)).collect::<Vec<_>>().join(", ");
    reasons.into_iter().map(|(kinds, reason)| (line(kinds), reason)).collect()
}

/// `replica shop-web-1-12345678`, `replicas shop-web-{1..4}-12345678`, `volumes a, b, c, d and 2 more`.
fn objects(kind: &str, names: &[String]) -> String {
    match names {
        [] => kind.to_owned(),
        [name] if name.is_empty() => kind.to_owned(),
        [name] => format!("{kind} {name}"),
        names => {
            let short = braces(names).unwrap_or_else(|| {
                let more = names.len().saturating_sub(MOST_NAMES);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{}{more}", names[..names.len().min(MOST_NAMES)].join(", "))
            });
            format!("{kind}s {short}")
        }
    }
}

/// Names that differ in one number only, as a shell would write them.
fn braces(names: &[String]) -> Option<String> {
    let first = names.first()?;
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let mut prefix = names.iter().map(|name| common(first, name)).min()?;
    while prefix > 0 && first.as_bytes()[prefix - 1].is_ascii_digit() {
        prefix -= 1;
    }
    let end = first[prefix..].find(|character: char| !character.is_ascii_digit()).map_or(first.len(), |at| prefix + at);
    let suffix = &first[end..];
    let number = |name: &String| name.get(prefix..)?.strip_suffix(suffix)?.parse::<u32>().ok();
    let numbers: Vec<u32> = names.iter().map(number).collect::<Option<_>>()?;
    let consecutive = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let middle = match numbers.as_slice() {
        [low, .., high] if consecutive && numbers.len() > 2 => format!("{low}..{high}"),
        numbers if numbers.len() <= 2 * MOST_NAMES => {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        _ => return None,
    };
    Some(format!("{}{{{middle}}}{suffix}", &first[..prefix]))
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
    let so_far = if preview.incomplete().is_some() { " so far" } else { "" };
    let reloads = format!("{reloads}{so_far}");
    let lowest: Vec<String> = preview
        .lowest_healthy
        .iter()
        .map(|(service, lowest)| {
            let reason = if lowest.reason.is_empty() { String::new() } else { format!(" ({})", lowest.reason) };
            format!("{service} lowest healthy: {} of {}{reason}", lowest.healthy, lowest.of)
        })
        .collect();
    let impact = match lowest.as_slice() {
        [] => format!("Impact: {reloads}."),
        [one] => format!("Impact: {reloads}; {one}."),
        several => format!("Impact: {reloads};\n        {}.", several.join(";\n        ")),
    };
    let steps = || preview.waves.iter().flat_map(|wave| &wave.steps);
    match &preview.endpoints {
        Some(how) if steps().any(|step| step.action.system() == System::Nginx) => {
            format!("{impact}\nEndpoints change {how}.")
        }
        Some(_) | None => impact,
    }
}

fn symbol(preview: &Preview, object: &ObjectKey, steps: &[(usize, &Step)]) -> &'static str {
    if let ObjectKey::Replica(name) = object {
        match preview.replaced.get(name) {
            Some(Replacement::StopFirst) => return "-/+",
            Some(Replacement::StartFirst) => return "+/-",
            None => {}
        }
    }
    let name = object.to_string();
    match (preview.destroyed.contains(&name), preview.added.contains(&name)) {
        (true, true) => "-/+",
        (true, false) => "-",
        (false, true) => "+",
        (false, false) => {
            let removes = |step: &Step| {
                matches!(
                    step.action,
                    Action::Nginx(NginxAction::RemoveGeneration { .. })
                        | Action::Directory(DirectoryAction::RemovePin { .. } | DirectoryAction::Forget { .. })
                )
            };
            if steps.iter().all(|(_, step)| removes(step)) { "-" } else { "~" }
        }
    }
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
            ConsulAction::Adopt(_) => "adopt",
            ConsulAction::RemoveUnmarked { .. } => "deregister",
            ConsulAction::Drain { .. } => "drain",
            ConsulAction::LiftDrain { .. } => "lift the drain",
            ConsulAction::StartDrainClock { .. } => "start the drain time",
            ConsulAction::StopDrainClock { .. } => "stop the drain time",
            ConsulAction::Deregister { .. } => "deregister",
            ConsulAction::SetHealth { .. } => "set health",
            ConsulAction::RemoveCheck { .. } => "remove a check",
        },
        Action::Nginx(action) => match action {
            NginxAction::WriteGeneration(_) => "write and check a generation",
            NginxAction::SwitchGeneration { .. } => "switch",
            NginxAction::Reload { .. } => "reload",
            NginxAction::Start { .. } => "start",
            NginxAction::SetEndpoints { .. } => "set endpoints",
            NginxAction::QuitOrphans { .. } => "end orphaned workers",
            NginxAction::RemoveGeneration { .. } => "remove an old generation",
        },
        Action::Directory(action) => match action {
            DirectoryAction::AddPin { pin: Pin::Failed { .. } } => "roll back",
            DirectoryAction::AddPin { .. } => "add a pin",
            DirectoryAction::RemovePin { .. } => "remove a pin",
            DirectoryAction::Keep { .. } => "keep what serves",
            DirectoryAction::Forget { .. } => "forget what served",
        },
        Action::Template(action) => match action {
            TemplateAction::Write(new) if new.check.is_some() => "check and write",
            TemplateAction::Write(_) => "write",
            TemplateAction::Run(run) if run.follow_up.command.is_none() => "send the signal",
            TemplateAction::Run(_) => "run the command",
            TemplateAction::Note { .. } => "note what it was made from",
        },
    }
}

/// Unified diffs between the files of the generation in force and those of the one at the end. `reeve.conf` is left out:
/// it only names the generation; and so is the program in Lua, which is always the same.
fn nginx_diff(preview: &Preview, observed: &Observed) -> Vec<String> {
    let Some(generation) = &preview.generation else { return Vec::new() };
    let nginx = observed.nginx.known();
    let current = nginx.and_then(|nginx| nginx.generations.get(nginx.current.as_ref()?));
    let empty = BTreeMap::new();
    let old: &BTreeMap<String, Arc<str>> = current.map_or(&empty, |generation| &generation.files);
    let names: std::collections::BTreeSet<&String> = old.keys().chain(generation.files.keys()).collect();
    let mut lines = Vec::new();
    for name in names.into_iter().filter(|name| !matches!(name.as_str(), ENTRY_FILE | LUA_FILE)) {
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

/// Addresses and ports that Docker will choose are not known yet.
fn placeholders(line: &str) -> String {
    let Some((before, rest)) = line.split_once("server ") else { return line.to_owned() };
    let Some((address, port)) =
        rest.split_once(';').and_then(|(endpoint, _)| endpoint.split(' ').next()?.rsplit_once(':'))
    else {
        return line.to_owned();
    };
    let after = &rest[address.len() + 1 + port.len()..];
    let unknown = "(known after start)";
    let address = if address.parse().is_ok_and(is_placeholder) { unknown } else { address };
    let port = if port.parse().is_ok_and(is_placeholder_port) { unknown } else { port };
    format!("{before}server {address}:{port}{after}")
}

/// The plan as JSON: stable names, nothing secret.
pub fn json(preview: &Preview) -> Value {
    let waves: Vec<Value> = preview.waves.iter().map(one_wave).collect();
    json!({
        "waves": waves,
        "left": preview.left.iter().map(waiting_json).collect::<Vec<_>>(),
        "summary": preview.summary,
        "reloads": preview.reloads,
        "lowest_healthy": preview.lowest_healthy,
        "endpoints": preview.endpoints,
        "changes": !preview.is_empty(),
        "incomplete": preview.incomplete(),
    })
}

/// One wave that was applied, in the same shape; what follows from it is not foreseen.
pub fn wave_json(wave: &Plan) -> Value {
    json!({"waves": [one_wave(wave)], "changes": !wave.is_empty()})
}

fn one_wave(wave: &Plan) -> Value {
    let steps: Vec<Value> = wave.steps.iter().map(step_json).collect();
    json!({"steps": steps, "waiting": wave.waiting.iter().map(waiting_json).collect::<Vec<_>>()})
}

fn waiting_json(waiting: &Waiting) -> Value {
    let mut json = json!({
        "object": waiting.object.to_string(),
        "kind": waiting.kind,
        "reason": waiting.reason,
        "until": waiting.until,
    });
    if !waiting.details.is_empty() {
        json["details"] = json!(waiting.details);
    }
    json
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
