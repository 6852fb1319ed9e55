//! The spec that most tests start from: a service `web` that is registered, and an upstream to it.

use std::fmt::Write as _;

use super::Site;

pub const WEB: &str = "localhost/reeve-web:1";
pub const WEB_2: &str = "localhost/reeve-web:2";
pub const CONSUL: &str = "localhost/reeve-consul:1";

/// Its pieces can be changed; `to_string` is the file.
#[derive(Debug, Clone)]
pub struct Shop {
    pub project: String,
    /// Key of the service in the spec.
    pub service: String,
    pub replicas: u32,
    pub image: String,
    pub environment: Vec<(String, String)>,
    /// Host ports and container port: `8001-8004:80`.
    pub ports: String,
    /// Container port that the web server listens on.
    pub port: u16,
    /// Lines of YAML inside of the service, indented by nothing.
    pub more_of_service: Vec<String>,
    /// Name in Consul.
    pub registered: String,
    /// Name, and the mapping in braces.
    pub upstreams: Vec<(String, String)>,
    /// Lines of YAML below `services`, indented by two.
    pub more_services: String,
    /// Lines of YAML at the top level.
    pub more: String,
}

impl Shop {
    /// Host ports `published(0)` and up, with a spare one, so that a replica can be replaced start-first.
    pub fn new(site: &Site, replicas: u32) -> Self {
        let last = u16::try_from(replicas).expect("few");
        let (first, last) = (site.ports.published(0), site.ports.published(last));
        Self {
            project: site.project.clone(),
            service: "web".to_owned(),
            replicas,
            image: WEB.to_owned(),
            environment: Vec::new(),
            ports: format!("{first}-{last}:80"),
            port: 80,
            more_of_service: Vec::new(),
            registered: "web".to_owned(),
            upstreams: vec![("site".to_owned(), Self::upstream("web", site.listen()))],
            more_services: String::new(),
            more: String::new(),
        }
    }

    pub fn upstream(service: &str, listen: u16) -> String {
        format!("{{ service: {service}, listen: {listen}, server_name: [localhost], drain: 1s }}")
    }
}

impl std::fmt::Display for Shop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { project, service, replicas, image, ports, port, registered, .. } = self;
        let mut text = format!("name: {project}\nservices:\n  {service}:\n    image: {image}\n");
        writeln!(text, "    deploy: {{ replicas: {replicas} }}")?;
        writeln!(text, "    ports: [\"{ports}\"]")?;
        if *port != 80 {
            writeln!(text, "    command: [\"--listen\", \"{port}\"]")?;
        }
        if !self.environment.is_empty() {
            writeln!(text, "    environment:")?;
            for (key, value) in &self.environment {
                writeln!(text, "      {key}: \"{value}\"")?;
            }
        }
        writeln!(
            text,
            "    healthcheck: {{ test: [CMD, /bin/reeve-web, --listen, \"{port}\", --check], interval: 1s, timeout: 2s, retries: 2 }}"
        )?;
        writeln!(text, "    stop_grace_period: 2s")?;
        for line in &self.more_of_service {
            writeln!(text, "    {line}")?;
        }
        writeln!(
            text,
            "    register: {{ name: {registered}, port: {port}, check: {{ http: /health, interval: 1s, timeout: 1s }} }}"
        )?;
        text.push_str(&self.more_services);
        if !self.upstreams.is_empty() {
            writeln!(text, "upstreams:")?;
            for (name, upstream) in &self.upstreams {
                writeln!(text, "  {name}: {upstream}")?;
            }
        }
        text.push_str(&self.more);
        f.write_str(&text)
    }
}
