//! The explanation for people: what is wanted, what is seen, what waits, what was done.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use jiff::Timestamp;

use super::{
    DiscoveredExplanation, EndpointSeen, Explanation, RegistrationSeen, ReplicaSeen, ServiceExplanation,
    UpstreamExplanation,
};
use crate::history::Entry;
use crate::observed::CheckStatus;
use crate::settings::format_duration;
use crate::status::{Figure, TemplateStatus, WaitingStatus};
use crate::style::Style;

/// Width of the names before the values.
const NAMES: usize = 13;

impl Explanation {
    /// As text, with a newline at the end. `now`: for "2m ago".
    pub fn text(&self, now: Timestamp, style: Style) -> String {
        let mut page = Page { text: String::new(), now, style };
        for backend in self.backends.iter().filter(|backend| !backend.known) {
            let since = backend.since.map(|since| format!(" for {}", page.age(since))).unwrap_or_default();
            let reason = backend.reason.as_deref().unwrap_or("no reason is known");
            page.line(style.error(format!("! {} is unknown{since}: {reason}", backend.name)));
        }
        if let Some(service) = &self.service {
            page.service(service);
        }
        if let Some(upstream) = &self.upstream {
            page.upstream(upstream);
        }
        if let Some(template) = &self.template {
            page.template(template);
        }
        if let Some(discovered) = &self.discovered {
            page.discovered(discovered);
        }
        page.actions(self);
        page.text
    }
}

struct Page {
    text: String,
    now: Timestamp,
    style: Style,
}

impl Page {
    fn line(&mut self, text: impl Display) {
        writeln!(self.text, "{text}").expect("writing to a String cannot fail");
    }

    fn heading(&mut self, text: impl Display) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let heading = self.style.bold(text).to_string();
        self.line(heading);
    }

    fn value(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("  {name:<NAMES$} {value}"));
    }

    fn age(&self, since: Timestamp) -> String {
        let seconds = u64::try_from(self.now.duration_since(since).as_secs()).unwrap_or(0);
        format_duration(Duration::from_secs(seconds))
    }

    fn left(&self, until: Option<Timestamp>) -> String {
        let left = until.filter(|until| *until > self.now).map(|until| until.duration_since(self.now).as_secs());
        let left = left.and_then(|seconds| u64::try_from(seconds).ok());
        left.map(|seconds| format!(" ({} left)", format_duration(Duration::from_secs(seconds)))).unwrap_or_default()
    }

    // ------------------------------------------------------------------------------------------ a template

    fn template(&mut self, template: &TemplateStatus) {
        self.heading(format_args!("template {}: {}", template.name, template.state()));
        self.value("destination", &template.destination);
        if let Some(changed_at) = template.changed_at {
            self.value("data changed", format_args!("{} ago", self.age(changed_at)));
        }
        if let Some(failed) = &template.failed {
            let since = template.failed_since.map(|since| format!(" (for {})", self.age(since))).unwrap_or_default();
            self.value("failed", format_args!("{failed}{since}"));
        }
        for one in &template.dependencies {
            let what = match (one.entries, &one.reason) {
                (Some(1), _) => "1 entry".to_owned(),
                (Some(count), _) => format!("{count} entries"),
                (None, Some(reason)) => format!("unknown: {reason}"),
                (None, None) => "not read yet".to_owned(),
            };
            self.value("asks for", format_args!("{}: {what}", one.name));
        }
        for waiting in &template.waiting {
            self.value("waits", format_args!("{}{}", waiting.reason, self.left(waiting.until)));
        }
    }

    // ------------------------------------------------------------------------------------------ what discovery found

    fn discovered(&mut self, discovered: &DiscoveredExplanation) {
        if let Some(nothing) = &discovered.nothing {
            self.heading(format_args!("container {}: nothing is registered", discovered.name));
            self.value("because", nothing);
        }
        for port in &discovered.ports {
            self.heading(format_args!("registration {}", port.registration));
            match (&port.container, &port.port) {
                (Some(container), Some(port)) => self.value("container", format_args!("{container}, port {port}")),
                _ => self.value("container", "none that discovery registers: it goes"),
            }
            if let (Some(service), Some(endpoint)) = (&port.service, &port.endpoint) {
                let tags =
                    if port.tags.is_empty() { String::new() } else { format!(", tags {}", port.tags.join(", ")) };
                self.value("wanted", format_args!("{service} at {endpoint}{tags}"));
            }
            if let Some(problem) = &port.problem {
                self.value("wanted", format_args!("it cannot be registered: {problem}"));
            }
            match &port.registered {
                Some(seen) => {
                    self.value("registered", format_args!("{} at {}: {}", seen.service, seen.endpoint, seen.status));
                }
                None => self.value("registered", "no"),
            }
            for waiting in &port.waiting {
                self.value("waits", format_args!("{}{}", waiting.reason, self.left(waiting.until)));
            }
        }
    }

    // ------------------------------------------------------------------------------------------ a service

    fn service(&mut self, service: &ServiceExplanation) {
        self.heading(format_args!("service {}: wanted", service.name));
        match &service.wanted {
            None => self.line("  nothing: the spec does not have it any more"),
            Some(wanted) => {
                self.value("image", &wanted.image);
                self.value("replicas", wanted.replicas);
                self.value("hash", &wanted.hash);
                if wanted.job {
                    self.value("job", "exit 0 is what is wanted of it");
                }
                let reason = match wanted.order_reason.as_str() {
                    "" => String::new(),
                    reason => format!(" ({reason})"),
                };
                let batch = match wanted.parallelism {
                    0 => "all at once".to_owned(),
                    number => format!("{number} at a time"),
                };
                self.value("update", format_args!("{}{reason}, {batch}", wanted.order));
                let mut failure = wanted.failure_action.clone();
                for (name, time) in [("monitor", &wanted.monitor), ("delay", &wanted.delay)] {
                    if time != "0s" {
                        let _ = write!(failure, ", {name} {time}");
                    }
                }
                self.value("on failure", failure);
                self.value("stop grace", &wanted.stop_grace_period);
                for register in &wanted.register {
                    self.value("registered as", register);
                }
                for (name, condition) in &wanted.depends_on {
                    self.value("depends on", format_args!("{name}, {condition}"));
                }
                if !service.upstreams.is_empty() {
                    self.value("routed by", service.upstreams.join(", "));
                }
            }
        }
        let status = &service.status;
        let figures = [
            ("running", status.running),
            ("healthy", status.healthy),
            ("registered", status.registered),
            ("routed", status.routed),
        ];
        let figures: Vec<String> = figures
            .into_iter()
            .filter_map(|(word, figure)| match figure {
                Figure::Known(count) => Some(format!("{count} {word}")),
                Figure::Unknown => Some(format!("? {word}")),
                Figure::Irrelevant => None,
            })
            .collect();
        self.heading(format_args!("service {}: seen: {}", service.name, figures.join(", ")));
        match &service.replicas {
            None => self.line("  Docker cannot be read: which replicas there are is not known"),
            Some(replicas) if replicas.is_empty() => self.line("  no replica"),
            Some(replicas) => {
                for replica in replicas {
                    self.replica(replica);
                }
            }
        }
        if let Some(problem) = &service.kept_problem {
            self.line(format_args!("  what served before cannot be read: {problem}"));
        }
        for kept in &service.kept {
            let is = if kept.wanted { "what the spec says" } else { "`reeve rollback` can go back to it" };
            let hash: String = kept.hash.trim_start_matches("v1:").chars().take(8).collect();
            self.line(format_args!("  kept: {} ({hash}), image {}: {is}", kept.image, kept.image_id));
        }
        let shown: Vec<&WaitingStatus> = service.replicas.iter().flatten().flat_map(|one| &one.waiting).collect();
        let rest: Vec<&WaitingStatus> = service.status.waiting.iter().filter(|one| !shown.contains(one)).collect();
        self.waiting(&rest);
        self.waiting(&service.needs_waiting.iter().collect::<Vec<_>>());
    }

    fn replica(&mut self, replica: &ReplicaSeen) {
        let standing = match (&replica.leaves, replica.current) {
            (Some(cause), _) => self.style.change(format!("leaves: {cause}")).to_string(),
            (None, true) => "as the spec says".to_owned(),
            (None, false) => "its place is not decided".to_owned(),
        };
        self.line(format_args!("  {}: slot {}, {standing}", self.style.bold(&replica.name), replica.slot));
        let since = replica.since.map(|since| format!(" for {}", self.age(since))).unwrap_or_default();
        self.nested("container", format_args!("{}, {}{since}", replica.id, replica.state));
        let health = self.wrapped(&replica.health);
        let health = if replica.healthy { health } else { self.style.destroy(health).to_string() };
        self.nested("health", health);
        match &replica.registrations {
            None => self.nested("registered", "? (Consul cannot be read)"),
            Some(registrations) if registrations.is_empty() => self.nested("registered", "no"),
            Some(registrations) => registrations.iter().for_each(|one| self.registration(one)),
        }
        match &replica.routed {
            None => self.nested("routed", "? (what nginx runs cannot be read)"),
            Some(routed) if routed.is_empty() => self.nested("routed", "no"),
            Some(routed) => {
                for (generation, upstreams) in routed {
                    self.nested("routed", format_args!("{}, by loaded generation {generation}", upstreams.join(", ")));
                }
            }
        }
        // The line about its health has said so.
        for waiting in replica.waiting.iter().filter(|waiting| waiting.kind != "unhealthy") {
            let left = self.left(waiting.until);
            self.nested("waits", format_args!("{}{left}", self.style.change(&waiting.reason)));
            self.details(waiting);
        }
    }

    fn registration(&mut self, registration: &RegistrationSeen) {
        let reason = registration.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let drained =
            registration.drain_start.map(|start| format!(", not routed for {}", self.age(start))).unwrap_or_default();
        let text =
            format!("{} at {}: {}{reason}{drained}", registration.service, registration.address, registration.state);
        let good = registration.state == "passing";
        let text = if good { text } else { self.style.destroy(text).to_string() };
        self.nested("registered", text);
        for check in &registration.checks {
            let output = match (check.status, check.output.as_str()) {
                (CheckStatus::Passing, _) => String::new(),
                (_, "") => ": it has not run yet".to_owned(),
                (_, output) => format!(": {}", self.wrapped(output)),
            };
            self.nested("", format_args!("check {} is {}{output}", check.id, check.status));
        }
    }

    fn nested(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("      {name:<NAMES$} {value}"));
    }

    /// Outputs of checks have lines of their own.
    fn wrapped(&self, text: &str) -> String {
        text.replace('\n', &format!("\n      {:NAMES$} ", ""))
    }

    // ------------------------------------------------------------------------------------------ an upstream

    fn upstream(&mut self, upstream: &UpstreamExplanation) {
        self.heading(format_args!("upstream {}: wanted", upstream.name));
        match &upstream.wanted {
            None => self.line("  nothing: the spec does not have it any more"),
            Some(wanted) => {
                match (&wanted.query, &wanted.redirect) {
                    (_, Some(redirect)) => self.value("redirect", redirect),
                    (Some(query), None) => {
                        let by = match upstream.services.is_empty() {
                            true => "no service of this spec registers it".to_owned(),
                            false => format!("registered by {}", upstream.services.join(", ")),
                        };
                        self.value("asks for", format_args!("{query} ({by})"));
                    }
                    (None, None) => {}
                }
                self.value("listen", format_args!("{}{}", wanted.listen, if wanted.tls { " (TLS)" } else { "" }));
                let names = match wanted.server_name.is_empty() {
                    true => "every name".to_owned(),
                    false => wanted.server_name.join(" "),
                };
                self.value("route", format_args!("{names}, path {}", wanted.path));
                self.value("balance", &wanted.balance);
                self.value("drain", &wanted.drain);
                self.value("when empty", &wanted.when_empty);
            }
        }
        let loaded = match upstream.generations.is_empty() {
            true => "no loaded generation has it".to_owned(),
            false => format!("loaded by generation {}", upstream.generations.join(", ")),
        };
        self.heading(format_args!("upstream {}: seen: {loaded}", upstream.name));
        match &upstream.endpoints {
            None => self.line("  its endpoints are not known"),
            Some(endpoints) if endpoints.is_empty() => self.line("  no endpoint: Consul lists none"),
            Some(endpoints) => {
                let width = endpoints.iter().map(|endpoint| endpoint.address.len()).max().unwrap_or(0);
                for endpoint in endpoints {
                    self.endpoint(endpoint, width);
                }
            }
        }
        self.waiting(&upstream.waiting.iter().collect::<Vec<_>>());
    }

    fn endpoint(&mut self, endpoint: &EndpointSeen, width: usize) {
        let side = match endpoint.wanted {
            true => self.style.add("in ").to_string(),
            false => self.style.destroy("out").to_string(),
        };
        let who = match (&endpoint.replica, &endpoint.registration, &endpoint.node) {
            (Some(replica), _, _) => replica.clone(),
            (None, Some(registration), Some(node)) => format!("{registration} on {node}"),
            (None, _, _) => "nobody's".to_owned(),
        };
        let loaded = match (endpoint.wanted, endpoint.loaded) {
            (true, Some(false)) => " (not loaded yet)",
            (false, Some(true)) => " (still loaded)",
            (_, None) => " (whether it is loaded cannot be read)",
            (true, Some(true)) | (false, Some(false)) => "",
        };
        let left = self.left(endpoint.until);
        let reason = endpoint.reason.replace('\n', " ");
        self.line(format_args!("  {side} {:<width$}  {who}: {reason}{left}{loaded}", endpoint.address));
    }

    // ------------------------------------------------------------------------------------------ both

    fn waiting(&mut self, waiting: &[&WaitingStatus]) {
        for one in waiting {
            let left = self.left(one.until);
            self.line(format_args!("  waits: {}: {}{left}", one.object, self.style.change(&one.reason)));
            self.details(one);
        }
    }

    /// Lines of a replica's log.
    fn details(&mut self, waiting: &WaitingStatus) {
        for line in &waiting.details {
            self.line(format_args!("      | {line}"));
        }
    }

    fn actions(&mut self, explanation: &Explanation) {
        self.heading("last actions");
        match &explanation.history_problem {
            Some(problem) => self.line(format_args!("  {problem}")),
            None if explanation.actions.is_empty() => self.line("  none that reeve's folder knows of"),
            None => {
                for entry in &explanation.actions {
                    self.action(entry);
                }
            }
        }
        if let Some(error) = &explanation.last_error {
            self.heading("last error");
            self.action(error);
        }
    }

    fn action(&mut self, entry: &Entry) {
        let ago = format!("{} ago", self.age(entry.at));
        let kind = entry.kind.replace('_', " ");
        let drift = if entry.drift { " [drift]" } else { "" };
        let result = match (&entry.error, entry.failed()) {
            (Some(error), true) => self.style.destroy(format!("; failed: {error}")).to_string(),
            // The world had moved on; the next pass saw it.
            (Some(error), false) => format!("; not done: {error}"),
            (None, _) => String::new(),
        };
        self.line(format_args!("  {ago:<NAMES$} {}: {kind}: {}{drift}{result}", entry.object, entry.cause));
    }
}
