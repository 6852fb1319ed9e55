//! The status for people: a few tables, and sentences for what is wrong.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;

use super::{Figure, Status, WaitingStatus};
use crate::settings::format_duration;
use crate::style::Style;

impl Status {
    /// The status as text, with a newline at the end.
    ///
    /// - `now`: for "12s left" and "for 2m".
    /// - `width`: columns of the terminal; none: lines as long as they need to be, for files and `grep`.
    pub fn table(&self, now: Timestamp, width: Option<u16>, style: Style) -> String {
        let mut text = String::new();
        for backend in self.backends.iter().filter(|backend| !backend.known) {
            let since = backend.since.map(|since| format!(" for {}", age(since, now))).unwrap_or_default();
            let reason = backend.reason.as_deref().unwrap_or("no reason is known");
            let line = format!("! {} is unknown{since}: {reason}", backend.name);
            put(&mut text, format_args!("{}\n", style.error(line)));
        }
        if !text.is_empty() {
            text.push('\n');
        }

        let mut services =
            table(width, &["SERVICE", "DESIRED", "RUNNING", "HEALTHY", "REGISTERED", "ROUTED", "WAITING"]);
        for service in &self.services {
            services.add_row([
                service.name.clone(),
                service.desired.to_string(),
                figure(service.running),
                figure(service.healthy),
                figure(service.registered),
                figure(service.routed),
                reasons(&service.waiting, now),
            ]);
        }
        add(&mut text, &services, style);

        if !self.upstreams.is_empty() {
            let mut upstreams =
                table(width, &["UPSTREAM", "LISTEN", "ROUTE", "SERVICE", "ENDPOINTS", "GENERATION", "WAITING"]);
            for upstream in &self.upstreams {
                let names =
                    if upstream.server_name.is_empty() { "*".to_owned() } else { upstream.server_name.join(" ") };
                let endpoints = match &upstream.endpoints {
                    None => "?".to_owned(),
                    Some(endpoints) if endpoints.is_empty() => "none".to_owned(),
                    Some(endpoints) => endpoints.join(" "),
                };
                upstreams.add_row([
                    upstream.name.clone(),
                    upstream.listen.clone(),
                    format!("{names}{}", upstream.path),
                    upstream.query.clone().unwrap_or_else(|| "-".to_owned()),
                    endpoints,
                    upstream.generation.clone().unwrap_or_else(|| "not loaded".to_owned()),
                    reasons(&upstream.waiting, now),
                ]);
            }
            text.push('\n');
            add(&mut text, &upstreams, style);
        }

        if !self.discovered.is_empty() {
            let mut discovered = table(width, &["DISCOVERED", "SERVICE", "ENDPOINT", "STATUS"]);
            for one in &self.discovered {
                discovered.add_row([&one.id, &one.service, &one.endpoint, &one.status]);
            }
            text.push('\n');
            add(&mut text, &discovered, style);
        }
        if !self.templates.is_empty() {
            let mut templates = table(width, &["TEMPLATE", "DESTINATION", "STATE", "ASKS FOR", "WAITING"]);
            for template in &self.templates {
                let failed = template.failed.iter().filter(|_| template.waiting.is_empty());
                let line = |text: &String| text.lines().next().unwrap_or_default().to_owned();
                let failed = failed.map(|failed| format!("failed: {}", line(failed)));
                let waiting = reasons(&template.waiting, now);
                templates.add_row([
                    template.name.clone(),
                    template.destination.clone(),
                    template.state().to_owned(),
                    template.dependencies.len().to_string(),
                    failed.chain((!waiting.is_empty()).then_some(waiting)).collect::<Vec<_>>().join("; "),
                ]);
            }
            text.push('\n');
            add(&mut text, &templates, style);
        }

        if let Some(consul) = &self.consul {
            let leader = consul.leader.as_deref().unwrap_or("none: no election is won");
            put(&mut text, format_args!("\nCONSUL {} at {} ({})\n", consul.version, consul.agent, consul.datacenter));
            put(&mut text, format_args!("Leader  {leader}\n"));
            put(&mut text, format_args!("Peers   {}\n\n", or_none(&consul.peers.join(" "))));
            let mut nodes = table(width, &["NODE", "ADDRESS", "STATUS"]);
            for node in &consul.nodes {
                nodes.add_row([&node.name, &node.address, &node.status]);
            }
            add(&mut text, &nodes, style);
            text.push('\n');
            let mut registered = table(width, &["CONSUL SERVICE", "TAGS"]);
            for (name, tags) in &consul.services {
                registered.add_row([name.clone(), tags.join(" ")]);
            }
            add(&mut text, &registered, style);
        }

        if let Some(nginx) = self.nginx.as_ref().filter(|nginx| nginx.process != "off") {
            let loaded = nginx.loaded.join(", ");
            let loaded = or_none(&loaded);
            put(&mut text, format_args!("\nNGINX {} is {}\nLoaded  {loaded}", nginx.version, nginx.process));
            if !nginx.matches {
                put(&mut text, format_args!(", current is {}", nginx.current.as_deref().unwrap_or("none")));
            }
            text.push('\n');
            if !nginx.endpoints.is_empty() {
                let why = nginx.endpoints_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                put(&mut text, format_args!("Endpoints change by {}{why}\n", nginx.endpoints));
            }
            if nginx.retiring_workers > 0 {
                put(&mut text, format_args!("Old workers of {} generations are still alive\n", nginx.retiring_workers));
            }
        }

        if !self.waiting.is_empty() {
            text.push('\n');
            let mut waiting = table(width, &["WAITING", "REASON"]);
            for one in &self.waiting {
                waiting.add_row([one.object.clone(), reason(one, now)]);
            }
            add(&mut text, &waiting, style);
        }
        for one in self.all_waiting().filter(|one| !one.details.is_empty()) {
            put(&mut text, format_args!("\n{}\n", style.bold(format_args!("The last lines of it ({})", one.object))));
            for line in &one.details {
                put(&mut text, format_args!("  | {line}\n"));
            }
        }
        if self.steps > 0 {
            let (steps, verb) = if self.steps == 1 { ("step", "is") } else { ("steps", "are") };
            put(&mut text, format_args!("\n{} {steps} {verb} to be done; `reeve plan` shows what.\n", self.steps));
        }
        let waits = |waiting: &Vec<WaitingStatus>| !waiting.is_empty();
        if self.services.iter().any(|one| waits(&one.waiting))
            || self.upstreams.iter().any(|one| waits(&one.waiting))
            || self.templates.iter().any(|one| waits(&one.waiting))
        {
            text.push_str("\n`reeve explain NAME` tells more of a service, an upstream or a template that waits.\n");
        }
        for advice in &self.advice {
            put(&mut text, format_args!("\nAdvice: {advice}\n"));
        }
        text
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String cannot fail");
}

fn table(width: Option<u16>, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    match width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.max(40));
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Adds the table without the blanks that pad the ends of its lines; the names of its columns in bold.
fn add(text: &mut String, table: &Table, style: Style) {
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if number == 0 {
            put(text, format_args!("{}\n", style.bold(line)));
        } else {
            put(text, format_args!("{line}\n"));
        }
    }
}

fn figure(figure: Figure) -> String {
    match figure {
        Figure::Known(count) => count.to_string(),
        Figure::Unknown => "?".to_owned(),
        Figure::Irrelevant => "-".to_owned(),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// One line a reason; the same reason of several objects once, with their number.
fn reasons(waiting: &[WaitingStatus], now: Timestamp) -> String {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for one in waiting {
        let text = reason(one, now);
        match lines.iter_mut().find(|(line, _)| *line == text) {
            Some((_, times)) => *times += 1,
            None => lines.push((text, 1)),
        }
    }
    let lines: Vec<String> = lines
        .into_iter()
        .map(|(line, times)| if times > 1 { format!("{line} ({times} times)") } else { line })
        .collect();
    lines.join("\n")
}

fn reason(waiting: &WaitingStatus, now: Timestamp) -> String {
    match waiting.until {
        Some(until) if until > now && waiting.kind == "backoff" => {
            format!("{} (next try in {})", waiting.reason, age(now, until))
        }
        Some(until) if until > now => format!("{} ({} left)", waiting.reason, age(now, until)),
        Some(_) | None => waiting.reason.clone(),
    }
}

/// Between two times, in whole seconds.
fn age(from: Timestamp, to: Timestamp) -> String {
    let seconds = u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0);
    format_duration(Duration::from_secs(seconds))
}
