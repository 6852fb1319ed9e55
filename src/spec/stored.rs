//! A service as text that can be kept and read back: with the values of its secrets, which the canonical form has not.
//!
//! For reeve's folder alone, in a file that only its user can read. What goes into labels, plans and logs is
//! `ContainerConfig::canonical`. Keys that a later version adds are ignored, and keys that it lacks have their defaults, so
//! that what one version kept another can use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::container::{ConfigHash, ContainerConfig, EnvironmentValue, FileContent, Secret};
use super::{Dependency, PullPolicy, Register, Service, UpdateConfig};

/// `Service` without what is always the spec's: `replicas`, and whether it is a job.
#[derive(Serialize, Deserialize)]
pub struct Stored {
    config: ContainerConfig,
    hash: ConfigHash,
    #[serde(default)]
    pull_policy: PullPolicy,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    #[serde(default)]
    update: UpdateConfig,
    stop_grace_period: Duration,
    #[serde(default)]
    register: Vec<Register>,
    /// Digests of the credentials that stand within other values of `config`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    concealed: Vec<String>,
    /// Values by digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, String>,
}

impl Stored {
    pub fn of(service: &Service) -> Self {
        let config = &service.config;
        let values = config.secrets().map(|secret| (secret.digest().to_owned(), secret.reveal().to_owned()));
        Self {
            config: ContainerConfig::clone(config),
            hash: service.hash.clone(),
            pull_policy: service.pull_policy,
            depends_on: service.depends_on.clone(),
            update: service.update.clone(),
            stop_grace_period: service.stop_grace_period,
            register: service.register.clone(),
            concealed: config.concealed.iter().map(|secret| secret.digest().to_owned()).collect(),
            secrets: values.collect(),
        }
    }

    /// The service, with one replica until the spec says how many.
    ///
    /// # Errors
    /// A secret's value is missing: what would be made is not what served.
    pub fn service(self, name: &str) -> Result<Service, String> {
        let Self { mut config, secrets, .. } = self;
        let restore = |digest: &str| {
            let value = secrets.get(digest).ok_or_else(|| format!("the value of {digest} is missing"))?;
            Ok::<_, String>(Secret::restored(digest.to_owned(), value.clone()))
        };
        for value in config.environment.values_mut() {
            // Read back, a secret is the plain text of its digest.
            if let EnvironmentValue::Plain(text) = value
                && secrets.contains_key(text.as_str())
            {
                *value = EnvironmentValue::Secret(restore(text)?);
            }
        }
        for file in &mut config.files {
            if let FileContent::Secret(secret) = &mut file.content {
                *secret = restore(secret.digest())?;
            }
        }
        config.concealed = self.concealed.iter().map(|digest| restore(digest)).collect::<Result<_, _>>()?;
        Ok(Service {
            name: name.to_owned(),
            replicas: 1,
            config: Arc::new(config),
            hash: self.hash,
            pull_policy: self.pull_policy,
            depends_on: self.depends_on,
            job: false,
            update: self.update,
            stop_grace_period: self.stop_grace_period,
            register: self.register,
            image_id: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LoadOptions, load_text};
    use super::*;

    /// Every key that a service can have, and credentials in each of the places where one can stand.
    const FULL: &str = r#"
name: shop
services:
  web:
    image: localhost/web:1
    command: [serve, --password, "${PASSWORD}"]
    environment: { MODE: a, DB_PASSWORD: hunter2, HOME: }
    labels: { a: b }
    ports: ["81-84:80", "53/udp"]
    volumes: ["data:/data", "/srv:/srv:ro", { type: tmpfs, target: /run, tmpfs: { size: 1m } }]
    secrets: [key]
    configs: [page]
    healthcheck: { test: [CMD, check], interval: 1s, retries: 3 }
    restart: "on-failure:3"
    stop_grace_period: 3s
    pull_policy: always
    logging: { driver: json-file }
    ulimits: { nofile: 10 }
    networks: { back: { aliases: [w] } }
    deploy: { replicas: 2, update_config: { order: stop-first, monitor: 5s, failure_action: rollback }, resources: { limits: { cpus: "0.5", memory: 64m } } }
    depends_on: { db: { condition: service_healthy } }
    register: [ { name: nginx, port: 80, tags: [v1], address: container, check: { http: /health, interval: 1s } } ]
  db: { image: localhost/db:1 }
networks: { back: }
volumes: { data: }
secrets: { key: { environment: KEY } }
configs: { page: { content: hello } }
"#;

    fn full() -> Service {
        let environment = [("PASSWORD", "swordfish"), ("KEY", "line one\nline two")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let loaded = load_text(&[("spec.yaml", FULL)], &LoadOptions { environment, ..LoadOptions::default() });
        loaded.expect("a valid spec").spec.services.remove("web").expect("it is there")
    }

    #[test]
    fn a_service_is_read_back_as_it_was_with_its_secrets() {
        let service = full();
        let text = serde_json::to_string(&Stored::of(&service)).expect("plain data");
        let stored: Stored = serde_json::from_str(&text).expect("it was just written");
        let back = stored.service("web").expect("complete");
        assert_eq!(back, Service { replicas: 1, ..service.clone() });
        assert_eq!(back.config.hash(), service.hash, "the same hash: nothing would be replaced");
        let mut values: Vec<&str> = back.config.secrets().map(Secret::reveal).collect();
        values.sort_unstable();
        assert_eq!(values, ["hunter2", "line one\nline two", "swordfish"]);
    }

    #[test]
    fn a_service_whose_secret_is_lost_is_not_made_without_it() {
        let mut stored = Stored::of(&full());
        stored.secrets.clear();
        let error = stored.service("web").expect_err("no value");
        assert!(error.contains("secret:"), "{error}");
    }

    #[test]
    fn unknown_keys_of_a_later_version_are_ignored() {
        let mut value = serde_json::to_value(Stored::of(&full())).expect("plain data");
        value["later"] = serde_json::json!({"a": 1});
        value["config"]["later"] = serde_json::json!(1);
        let stored: Stored = serde_json::from_value(value).expect("still readable");
        assert!(stored.service("web").is_ok());
    }
}
