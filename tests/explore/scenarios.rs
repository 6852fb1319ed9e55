//! The specs that are explored, each a sequence: from one to the next at every moment, settled or half-way.

use crate::scenario::Scenario;

/// Two services with an upstream each: one replaced start-first, one stop-first on a fixed range of ports.
const BOTH: &str = r#"
name: shop
services:
  free:
    image: localhost/free:1
    deploy: { replicas: 2, update_config: { order: start-first, parallelism: 1 } }
    ports: ["80"]
    healthcheck: { test: [CMD, check], interval: 1s }
    register: { check: { http: /, interval: 5s, timeout: 1s } }
  fixed:
    image: localhost/fixed:1
    deploy: { replicas: 2, update_config: { order: stop-first, parallelism: 1 } }
    ports: ["81-82:80"]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  free: { service: free, listen: 8080, drain: 5s }
  fixed: { service: fixed, listen: 8081, drain: 10s, when_empty: keep }
"#;

pub fn with(text: &str, changes: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old} is not in the spec");
        text = text.replace(old, new);
    }
    text
}

/// Deploy, roll, and back half-way.
pub fn roll() -> Scenario {
    let rolled = with(BOTH, &[("free:1", "free:2"), ("fixed:1", "fixed:2")]);
    Scenario::new("roll", &[BOTH, &rolled, BOTH])
}

/// The same with endpoints that Lua balances; and an upstream more at the end, which is a new generation.
pub fn roll_by_lua() -> Scenario {
    let rolled = with(BOTH, &[("free:1", "free:2"), ("fixed:1", "fixed:2")]);
    let more = with(BOTH, &[("upstreams:\n", "upstreams:\n  again: { service: free, listen: 8082, drain: 5s }\n")]);
    Scenario::new("roll_by_lua", &[BOTH, &rolled, &more]).by_lua()
}

/// Up, down to one, and rolled while that goes on.
pub fn scale() -> Scenario {
    let one = with(BOTH, &[("replicas: 2", "replicas: 1")]);
    let three = with(BOTH, &[("replicas: 2", "replicas: 3"), ("81-82", "81-83"), ("free:1", "free:2")]);
    Scenario::new("scale", &[&one, &three, BOTH])
}

/// Services come back under another name, and with them what is registered under the same.
pub fn rename() -> Scenario {
    let renamed = with(
        BOTH,
        &[
            ("  free:\n", "  open:\n"),
            ("  fixed:\n", "  firm:\n"),
            (
                "register: { check: { http: /, interval: 5s, timeout: 1s } }\n  firm",
                "register: { name: free, check: { http: /, interval: 5s, timeout: 1s } }\n  firm",
            ),
            (
                "register: { check: { http: /, interval: 5s, timeout: 1s } }\nupstreams",
                "register: { name: fixed, check: { http: /, interval: 5s, timeout: 1s } }\nupstreams",
            ),
            ("\"81-82:80\"", "\"83-84:80\""),
        ],
    );
    Scenario::new("rename", &[BOTH, &renamed])
}

/// One service and its upstream leave; then all that registers, and what does not.
pub fn remove() -> Scenario {
    let with_bare = with(
        BOTH,
        &[(
            "upstreams:\n",
            "  store:\n    image: localhost/store:1\n  worker:\n    image: localhost/worker:1\n    depends_on: [store]\nupstreams:\n",
        )],
    );
    let removed = with(
        BOTH,
        &[
            ("  fixed: { service: fixed, listen: 8081, drain: 10s, when_empty: keep }\n", ""),
            (
                "  fixed:\n    image: localhost/fixed:1\n    deploy: { replicas: 2, update_config: { order: stop-first, parallelism: 1 } }\n    ports: [\"81-82:80\"]\n    register: { check: { http: /, interval: 5s, timeout: 1s } }\n",
                "",
            ),
        ],
    );
    Scenario::new("remove", &[&with_bare, &removed])
}

/// Services that nothing registers, one with a volume, and what depends on them.
pub fn bare() -> Scenario {
    let text = r#"
name: shop
services:
  store:
    image: localhost/store:1
    volumes: ["data:/data"]
    healthcheck: { test: [CMD, check], interval: 1s }
  worker:
    image: localhost/worker:1
    deploy: { replicas: 3, update_config: { order: start-first, parallelism: 2 } }
    depends_on: { store: { condition: service_healthy } }
volumes: { data: {} }
"#;
    let rolled = with(text, &[("store:1", "store:2"), ("worker:1", "worker:2")]);
    Scenario::new("bare", &[text, &rolled])
}

/// A job that must have ended before a service starts.
pub fn jobs() -> Scenario {
    let text = r#"
name: shop
services:
  migrate:
    image: localhost/migrate:1
  web:
    image: localhost/web:1
    deploy: { replicas: 2 }
    depends_on: { migrate: { condition: service_completed_successfully } }
    ports: ["80"]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  web: { service: web, listen: 8080, drain: 5s }
"#;
    let rolled = with(text, &[("migrate:1", "migrate:2"), ("web:1", "web:2")]);
    Scenario::new("jobs", &[text, &rolled])
}

/// What a replica is registered as changes, and the replica stays.
pub fn register_changes() -> Scenario {
    let text = r#"
name: shop
services:
  web:
    image: localhost/web:1
    deploy: { replicas: 2, update_config: { order: start-first } }
    ports: ["80", "90"]
    healthcheck: { test: [CMD, check], interval: 1s }
    register: { name: web, port: 80, check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  web: { service: web, listen: 8080, drain: 5s }
"#;
    let other_port = with(text, &[("port: 80, check: { http: /,", "port: 90, check: { http: /up,")]);
    let other_name =
        with(text, &[("name: web, port: 80", "name: front, port: 80"), ("service: web", "service: front")]);
    let other_check = with(text, &[("http: /,", "http: /up,")]);
    Scenario::new("register changes", &[text, &other_check, &other_port, &other_name])
}

/// An upstream of instances that others register, beside one of ours.
pub fn foreign() -> Scenario {
    let text = r#"
name: shop
services:
  web:
    image: localhost/web:1
    deploy: { replicas: 1, update_config: { order: start-first } }
    ports: ["80"]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  web: { service: web, listen: 8080, drain: 5s }
  legacy: { service: legacy, listen: 8081, drain: 5s }
"#;
    let rolled = with(text, &[("web:1", "web:2")]);
    Scenario::new("foreign", &[text, &rolled]).with_foreign("legacy", 3)
}

/// Versions that fail: one never becomes healthy, one dies of its youth. The old ones go on serving, until another spec.
pub fn pauses() -> Scenario {
    let text = with(BOTH, &[("parallelism: 1 }", "parallelism: 1, monitor: 10s, delay: 15s, x-deadline: 20s }")]);
    let bad = with(&text, &[("free:1", "free:bad"), ("fixed:1", "fixed:late")]);
    let late = with(&text, &[("free:1", "free:late")]);
    let good = with(&text, &[("free:1", "free:3")]);
    Scenario::new("pauses", &[&text, &bad, &late, &good])
}

/// The same, and back to what served before: once, and never in a circle.
pub fn rolls_back() -> Scenario {
    let update = "parallelism: 1, monitor: 10s, x-deadline: 20s, failure_action: rollback }";
    let text = with(BOTH, &[("parallelism: 1 }", update)]);
    let bad = with(&text, &[("free:1", "free:bad"), ("fixed:1", "fixed:late")]);
    let good = with(&text, &[("free:1", "free:3")]);
    Scenario::new("rolls back", &[&text, &bad, &good])
}

/// Half a file: every service but one is gone, and nobody said that it is meant.
pub fn held() -> Scenario {
    let half = r#"
name: shop
services:
  other:
    image: localhost/other:1
"#;
    Scenario::new("held", &[BOTH, half]).held()
}

/// Consul's own servers are services of the spec.
pub fn servers() -> Scenario {
    let text = r#"
name: shop
services:
  server:
    image: localhost/consul:1
    command: [consul, agent, -server]
    deploy: { replicas: 3, update_config: { order: stop-first, parallelism: 3 } }
    networks: [lan]
networks: { lan: {} }
"#;
    let rolled = with(text, &[("consul:1", "consul:2")]);
    Scenario::new("servers", &[text, &rolled]).servers("server")
}

/// A network that Docker cannot change in place: everything on it goes at once.
pub fn networks() -> Scenario {
    let text = r#"
name: shop
services:
  web:
    image: localhost/web:1
    deploy: { replicas: 2, update_config: { order: start-first } }
    ports: ["80"]
    networks: [lan]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  web: { service: web, listen: 8080, drain: 5s }
networks: { lan: {} }
"#;
    let replaced = with(text, &[("lan: {}", "lan: { internal: true }")]);
    Scenario::new("networks", &[text, &replaced])
}
