//! What registrator would register of a Compose service, as the `register` of that service.
//!
//! Discovery registers containers that reeve did not make; once a service is in the spec, its own `register` does. Owns the
//! translation of its ports and `SERVICE_*` variables, by the same conventions as `plan::discovery`. What cannot be known from
//! the file, or has no counterpart, is a comment at its place and a gap; metadata are a comment, since a secret may be in them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::plan::discovery::attributes::{Attributes, PREFIX, named_ports};
use crate::plan::discovery::naming::{base_name, split_tags};
use crate::spec::tree::{Node, Place, Value};
use crate::spec::{Protocol, container_ports, names, units};

use super::registrator::Conventions;
use super::{Imported, yaml};

/// Registrator's interval; reeve's default is another one.
const INTERVAL: &str = "10s";

/// The lines below a service, without their indentation. `conventions`: of the registrator among the files, if any.
pub(super) fn lines(
    name: &str,
    service: &Node,
    conventions: Option<&Conventions>,
    imported: &mut Imported,
) -> Vec<String> {
    let variables = Variables::of(service);
    let explicit = conventions.is_some_and(|conventions| conventions.explicit);
    let named = variables.values.keys().any(|name| name.ends_with("_NAME"));
    let wanted = match conventions {
        None => !variables.values.is_empty(),
        Some(_) => !explicit || named,
    };
    let own = ["register", "x-register"].iter().any(|key| service.get(key).is_some());
    let alone = service.value("network_mode").and_then(Node::text) == Some("none");
    if !wanted || own || alone {
        return Vec::new();
    }
    let mut writer = Writer {
        service,
        variables: &variables,
        internal: conventions.is_some_and(|conventions| conventions.internal),
        explicit,
        tags: conventions.map_or(&[], |conventions| &conventions.tags),
        imported,
        lines: Vec::new(),
    };
    writer.service(name);
    writer.lines
}

/// The service's `SERVICE_*`, environment first, labels over it.
struct Variables {
    values: BTreeMap<String, String>,
    places: BTreeMap<String, Place>,
}

impl Variables {
    fn of(service: &Node) -> Self {
        let mut variables = Self { values: BTreeMap::new(), places: BTreeMap::new() };
        for key in ["environment", "labels"] {
            let Some(node) = service.value(key) else { continue };
            match &node.value {
                Value::Mapping(entries) => {
                    for entry in entries {
                        variables.add(&entry.key, entry.value.text().unwrap_or_default(), &entry.key_place);
                    }
                }
                _ => {
                    for item in node.list() {
                        let (name, value) = item.text().unwrap_or_default().split_once('=').unwrap_or_default();
                        variables.add(name, value, &item.place);
                    }
                }
            }
        }
        variables
    }

    fn add(&mut self, name: &str, value: &str, place: &Place) {
        if name.starts_with(PREFIX) {
            self.values.insert(name.to_owned(), value.to_owned());
            self.places.insert(name.to_owned(), place.clone());
        }
    }
}

struct Writer<'a> {
    service: &'a Node,
    variables: &'a Variables,
    internal: bool,
    explicit: bool,
    tags: &'a [String],
    imported: &'a mut Imported,
    lines: Vec<String>,
}

impl Writer<'_> {
    fn service(&mut self, name: &str) {
        let (ports, unknown) = self.ports();
        if let Some(reason) = unknown {
            self.gap(&self.service.place.clone(), name, &reason, "write `register: { port: … }`");
        }
        let group = ports.len() > 1;
        let mut items: Vec<Vec<String>> = Vec::new();
        for (port, protocol) in ports {
            let attributes = Attributes::of(&self.variables.values, port);
            if attributes.says("ignore") || (self.explicit && attributes.get("name").is_none()) {
                continue;
            }
            items.extend(self.item(name, port, protocol, group, &attributes));
        }
        if items.is_empty() {
            return;
        }
        if self.is_consul() {
            let shown: Vec<&str> = items.iter().filter_map(|item| item[0].strip_prefix("name: ")).collect();
            self.lines.push(format!(
                "# registrator registered it as {}; left out: Consul's agent would have to be there to replace it",
                shown.join(", ")
            ));
            return;
        }
        self.lines.push(
            "# As registrator did; ids are <node>:<container>:<port>/<protocol>. `reeve adopt --registrator` removes the old ones."
                .to_owned(),
        );
        self.lines.push("register:".to_owned());
        for item in items {
            for (index, line) in item.into_iter().enumerate() {
                self.lines.push(format!("  {} {line}", if index == 0 { "-" } else { " " }));
            }
        }
    }

    /// Container ports that registrator would register, and why there may be others.
    fn ports(&self) -> (BTreeSet<(u16, Protocol)>, Option<String>) {
        let mut ports = BTreeSet::new();
        let mut unknown = None;
        for item in self.service.value("ports").map(Node::list).unwrap_or_default() {
            match container_ports(item, &without_variables) {
                Some(found) => ports.extend(found),
                None => unknown = Some(format!("the container port of `{}` is a variable", item.shown())),
            }
        }
        let host = self.service.value("network_mode").and_then(Node::text) == Some("host");
        if self.internal || host {
            for item in self.service.value("expose").map(Node::list).unwrap_or_default() {
                ports.extend(container_ports(item, &without_variables).into_iter().flatten());
            }
            ports.extend(named_ports(&self.variables.values).map(|port| (port, Protocol::Tcp)));
            if ports.is_empty() && unknown.is_none() {
                unknown = Some(
                    "registrator registers the ports that its image exposes, which is not in this file".to_owned(),
                );
            }
        }
        (ports, unknown)
    }

    fn item(
        &mut self,
        name: &str,
        port: u16,
        protocol: Protocol,
        group: bool,
        attributes: &Attributes<'_>,
    ) -> Option<Vec<String>> {
        let image = self.service.value("image").and_then(Node::text).unwrap_or_default().to_owned();
        let base = match attributes.get("name") {
            Some(name) => name.to_owned(),
            None => match base_name(&image) {
                // With a variable in it, it is none.
                Ok(base) if names::consul(base).is_ok() => base.to_owned(),
                _ => {
                    let place = self.service.value("image").map_or(&self.service.place, |node| &node.place).clone();
                    self.gap(&place, name, "registrator named it after its image, which is not known here", "name it");
                    return None;
                }
            },
        };
        let base = if group && !attributes.own("name") { format!("{base}-{port}") } else { base };
        let shown = if protocol == Protocol::Tcp { port.to_string() } else { format!("{port}/{protocol}") };
        let mut lines = vec![format!("name: {}", yaml::scalar(&base)), format!("port: {shown}")];
        if self.internal {
            lines.push("address: container # -internal".to_owned());
        }
        let mut tags = split_tags(attributes.get("tags").unwrap_or_default());
        tags.extend(self.tags.iter().cloned());
        tags.extend((protocol == Protocol::Udp).then(|| "udp".to_owned()));
        tags.sort();
        tags.dedup();
        if !tags.is_empty() {
            lines.push(format!("tags: {}", yaml::list(&tags)));
        }
        lines.extend(self.check(name, attributes));
        if attributes.get("id").is_some() {
            self.gap(&self.place("ID"), name, "SERVICE_ID: ids are reeve's own here", "");
        }
        lines.extend(meta(attributes));
        Some(lines)
    }

    /// The first of registrator's order, where `register` has it.
    fn check(&mut self, name: &str, attributes: &Attributes<'_>) -> Option<String> {
        let mut parts = Vec::new();
        let first = ["http", "https", "cmd", "script", "ttl", "tcp", "grpc"]
            .into_iter()
            .find(|kind| attributes.get(&format!("check_{kind}")).is_some())?;
        let said = |key: &str| attributes.get(&format!("check_{key}"));
        match first {
            "http" if said("http_method").is_none_or(|method| method.eq_ignore_ascii_case("get")) => {
                parts.push(format!("http: {}", yaml::scalar(said("http").unwrap_or_default())));
            }
            "tcp" if attributes.says("check_tcp") => parts.push("tcp: true".to_owned()),
            "grpc" if attributes.says("check_grpc") && !attributes.says("check_grpc_use_tls") => {
                parts.push("grpc: true".to_owned());
            }
            "tcp" | "grpc" if !attributes.says(&format!("check_{first}")) => return None,
            other => {
                let variable = format!("CHECK_{}", other.to_ascii_uppercase());
                let reason = match other {
                    "http" => "SERVICE_CHECK_HTTP_METHOD: `register` asks with GET".to_owned(),
                    "grpc" => "SERVICE_CHECK_GRPC_USE_TLS: `register` asks without TLS".to_owned(),
                    _ => format!("SERVICE_{variable}: `register` has checks by http, tcp and grpc"),
                };
                let help = "a HEALTHCHECK of the container says the same: reeve hands it on to Consul";
                self.gap(&self.place(&variable), name, &reason, help);
                return None;
            }
        }
        parts.push(format!("interval: {}", yaml::scalar(said("interval").unwrap_or(INTERVAL))));
        parts.extend(said("timeout").map(|timeout| format!("timeout: {}", yaml::scalar(timeout))));
        // Consul itself takes less as one minute.
        let after = said("deregister_after").map(|after| match units::duration(after) {
            Ok(short) if short < Duration::from_secs(60) => "1m",
            _ => after,
        });
        parts.extend(after.map(|after| format!("deregister_after: {}", yaml::scalar(after))));
        Some(format!("check: {{ {} }}", parts.join(", ")))
    }

    /// Where a variable stands, of whatever port.
    fn place(&self, ending: &str) -> Place {
        let found = self.variables.places.iter().find(|(name, _)| name.ends_with(ending));
        found.map_or(&self.service.place, |(_, place)| place).clone()
    }

    fn gap(&mut self, place: &Place, name: &str, reason: &str, help: &str) {
        let line = format!("# no counterpart: {reason}{}{help}", if help.is_empty() { "" } else { "; " });
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
        self.imported.gap(place, format!("the registration of `{name}` has no counterpart: {reason}"), help);
    }

    fn is_consul(&self) -> bool {
        let image = self.service.value("image").and_then(Node::text).and_then(|image| base_name(image).ok());
        let first = match self.service.value("command") {
            Some(command) => match &command.value {
                Value::Sequence(items) => items.first().and_then(Node::text),
                _ => command.text().and_then(|line| line.split_whitespace().next()),
            },
            None => None,
        };
        image == Some("consul") || (image.is_some_and(|image| image.contains("consul")) && first == Some("agent"))
    }
}

/// What registrator published as metadata: everything else.
fn meta(attributes: &Attributes<'_>) -> Option<String> {
    let known = |key: &str| matches!(key, "name" | "id" | "tags" | "ignore") || key.starts_with("check_");
    let pairs: Vec<String> = attributes
        .all()
        .filter(|(key, _)| !known(key))
        .map(|(key, value)| format!("{}: {}", yaml::scalar(key), yaml::quoted(value)))
        .collect();
    let line =
        format!("# meta: {{ {} }} # registrator published it; take in what everybody may read", pairs.join(", "));
    (!pairs.is_empty()).then_some(line)
}

/// A text with each variable in it as a number, if the part that counts, the one behind the last colon, has none.
fn without_variables(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut last = 0;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let name = &rest[at + 1..];
        let end = match name.strip_prefix('{') {
            Some(inner) => inner.find('}')? + 2,
            None => name.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).unwrap_or(name.len()),
        };
        out.push('1');
        last = out.len();
        rest = &name[end..];
    }
    out.push_str(rest);
    let counts = out.rfind(':').map_or(0, |at| at + 1);
    (last <= counts).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_may_stand_for_the_host_port_and_not_for_the_containers() {
        assert_eq!(without_variables("80:80").as_deref(), Some("80:80"));
        assert_eq!(without_variables("${PORT:-81}:80").as_deref(), Some("1:80"));
        assert_eq!(without_variables("$IP:$PORT:80").as_deref(), Some("1:1:80"));
        for unknown in ["80:${PORT}", "$PORT", "${PORT", "80:80$X"] {
            assert_eq!(without_variables(unknown), None, "{unknown}");
        }
    }
}
