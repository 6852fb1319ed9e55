//! One service: from its mapping to its container configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::container::{ContainerConfig, Healthcheck, Logging, NetworkMode, Ulimit};
use super::super::merge::as_mapping;
use super::super::tree::{Entry, Node, Place, Value, shown};
use super::super::{Dependency, DependencyCondition, PullPolicy, Service, names};
use super::grants::Grants;
use super::{
    Context, DependencyPlaces, Draft, Drafted, HealthDeclared, boolean, deploy, duration, environment, grants, integer,
    labels, mounts, networks, owned, pairs, ports, register, size, text, texts, words,
};

/// Compose's default for `stop_grace_period`.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Reads one service. The networks that it uses by default are added to the draft's.
pub fn read(entry: &Entry, draft: &mut Draft, grants: &Grants, context: &mut Context<'_>) -> Drafted {
    let name = entry.key.as_str();
    let node = &entry.value;
    let connection = networks::connection(node, &mut draft.networks, context);
    let (mounts, volumes) = mounts::read(node, &draft.volumes, context);
    let ports = ports::read(node, context);
    let (healthcheck, health) = healthcheck(node, context);
    let replicas = deploy::replicas(node, context);
    let (depends_on, depends) = depends_on(node, connection.shares.as_ref(), context);
    let profiles = texts(node, "profiles");
    let active = profiles.is_empty()
        || context.profiles.contains("*")
        || profiles.iter().any(|profile| context.profiles.contains(profile));

    let mut sorted_ports: Vec<_> = ports.iter().map(|(port, _)| port.clone()).collect();
    sorted_ports.sort();
    sorted_ports.dedup();
    let mut single = connection.fixed;
    for key in ["container_name", "hostname"] {
        if let Some(entry) = node.given(key) {
            single.push((key, entry.value.place.clone()));
        }
    }
    if let (Some(mode), Some(ports)) = (&connection.mode, node.get("ports"))
        && *mode != NetworkMode::Bridge
    {
        let message = "`ports` does not go together with this `network_mode`";
        let help = match mode {
            NetworkMode::Host => "with `host` every port of the container is a port of the host; take `ports` out",
            _ => "the container has no network of its own; take `ports` out",
        };
        context.report.error_help(&ports.key_place, message, help);
    }
    let stop_grace_period = duration(node, "stop_grace_period");
    let mut config = ContainerConfig {
        image: image(entry, context),
        platform: platform(node, context),
        command: command(node, "command", context),
        entrypoint: command(node, "entrypoint", context),
        environment: environment::read(name, node, context),
        labels: labels(node, context),
        ports: sorted_ports,
        expose: ports::expose(node, context),
        mounts,
        files: grants::mounted(name, node, grants, context),
        networks: connection.networks,
        network_mode: connection.mode,
        healthcheck,
        restart: deploy::restart(node, context),
        stop_signal: stop_signal(node, context),
        stop_grace_period,
        user: owned(node, "user").filter(|user| !user.is_empty()),
        working_dir: working_dir(node, context),
        hostname: networks::host_name(node, "hostname", context),
        domainname: networks::host_name(node, "domainname", context),
        container_name: container_name(node, context),
        init: boolean(node, "init"),
        privileged: boolean(node, "privileged"),
        cap_add: sorted(texts(node, "cap_add")),
        cap_drop: sorted(texts(node, "cap_drop")),
        security_opt: texts(node, "security_opt"),
        read_only: boolean(node, "read_only"),
        shm_size: size(node, "shm_size"),
        ulimits: ulimits(node, context),
        sysctls: pairs(node, "sysctls"),
        extra_hosts: networks::extra_hosts(node, context),
        dns: networks::dns(node, context),
        dns_opt: texts(node, "dns_opt"),
        dns_search: texts(node, "dns_search"),
        devices: mounts::devices(node, context),
        logging: node
            .value("logging")
            .map(|logging| Logging { driver: owned(logging, "driver"), options: pairs(logging, "options") }),
        tty: boolean(node, "tty"),
        stdin_open: boolean(node, "stdin_open"),
        resources: deploy::resources(node, context),
        concealed: Vec::new(),
    };
    config.conceal(|variable| format!("{}/{name}/variable/{variable}", context.project), context.concealed);
    let (register, registers) = register::read(entry, &config, context);
    let hash = config.hash();
    Drafted {
        service: Service {
            name: name.to_owned(),
            replicas,
            config: Arc::new(config),
            hash,
            pull_policy: match text(node, "pull_policy") {
                Some("always") => PullPolicy::Always,
                Some("never") => PullPolicy::Never,
                _ => PullPolicy::Missing,
            },
            depends_on,
            job: false,
            update: deploy::update(node),
            stop_grace_period: stop_grace_period.unwrap_or(STOP_GRACE_PERIOD),
            register,
            image_id: None,
        },
        profiles,
        active,
        ports,
        depends,
        registers,
        health,
        single,
        networks: connection.used.into_iter().collect(),
        volumes,
        shares: connection.shares,
    }
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

fn image(entry: &Entry, context: &mut Context<'_>) -> String {
    let node = &entry.value;
    let Some(image) = node.get("image") else {
        // `build` and `extends` would have given one; what to do about them is said already.
        let refused = ["build", "extends", "provider"].iter().any(|key| node.get(key).is_some());
        if !refused && matches!(node.value, Value::Mapping(_) | Value::Null) {
            let message = format!("the service `{}` has no `image`", entry.key);
            context.report.error_help(&entry.key_place, message, "say which image its containers are made from");
        }
        return String::new();
    };
    let Some(text) = image.value.text() else { return String::new() };
    if let Err(reason) = image_reference(text) {
        let message = format!("`{}` is not the name of an image: {reason}", image.value.shown());
        context.report.error(&image.value.place, message);
    }
    text.to_owned()
}

/// Docker's own grammar, `[registry/]path[:tag][@digest]`: what it refuses would else fail at the first pull, with
/// nothing but "invalid reference format".
fn image_reference(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._/:@-".contains(letter);
    if let Some(letter) = text.chars().find(|letter| !allowed(*letter)) {
        return Err(format!("`{}` is not allowed in it", letter.escape_debug()));
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    // Before the first `/` may stand a registry, whose name may have capitals.
    let repository = match path.split_once('/') {
        Some((registry, rest)) if registry.contains(['.', ':']) || registry == "localhost" => rest,
        _ => path,
    };
    if repository.is_empty() {
        return Err("it names no repository".to_owned());
    }
    if repository.chars().any(|letter| letter.is_ascii_uppercase()) {
        return Err("the repository must be lower-case".to_owned());
    }
    // The part itself is not quoted: it may be the value of a variable.
    if !repository.split('/').all(repository_part) {
        return Err("each part of the repository begins and ends with a letter or digit".to_owned());
    }
    match tag {
        Some("") => return Err("nothing follows the `:`, where the tag belongs".to_owned()),
        Some(tag) if tag.starts_with(['.', '-']) || tag.len() > 128 => {
            return Err("a tag begins with a letter, digit or `_` and has at most 128 characters".to_owned());
        }
        Some(_) | None => {}
    }
    match digest {
        Some(digest) if !image_digest(digest) => Err("a digest is `sha256:` and 64 hexadecimal digits".to_owned()),
        Some(_) | None => Ok(()),
    }
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn repository_part(part: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric();
    let between = |mark: &str| matches!(mark, "" | "." | "_" | "__") || mark.chars().all(|letter| letter == '-');
    part.starts_with(word) && part.ends_with(word) && part.split(word).all(between)
}

fn image_digest(digest: &str) -> bool {
    let hexadecimal = |text: &str| text.chars().all(|letter| matches!(letter, '0'..='9' | 'a'..='f'));
    match digest.split_once(':') {
        Some(("sha256", rest)) => rest.len() == 64 && hexadecimal(rest),
        Some(("sha512", rest)) => rest.len() == 128 && hexadecimal(rest),
        _ => false,
    }
}

fn platform(node: &Node, context: &mut Context<'_>) -> Option<String> {
    let entry = node.given("platform")?;
    let text = entry.value.text()?;
    let parts: Vec<&str> = text.split('/').collect();
    let word = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if (parts.len() > 3 || !parts.iter().all(word))
        && let Some(entry) = node.get("platform")
    {
        let message = format!("`{}` is not a platform", entry.value.shown());
        context.report.error_help(&entry.value.place, message, "write it as `linux/amd64`");
    }
    Some(text.to_owned())
}

fn command(node: &Node, key: &str, context: &mut Context<'_>) -> Option<Vec<String>> {
    let entry = node.get(key)?;
    match &entry.value.value {
        Value::Scalar(scalar) => match words::split(&scalar.text) {
            Ok(words) => Some(words),
            Err(reason) => {
                context.report.error(&entry.value.place, format!("`{key}` cannot be split into words: {reason}"));
                None
            }
        },
        Value::Sequence(_) => Some(texts(node, key)),
        Value::Null | Value::Mapping(_) => None,
    }
}

fn stop_signal(node: &Node, context: &mut Context<'_>) -> Option<String> {
    let entry = node.given("stop_signal")?;
    let text = entry.value.text()?;
    let valid = !text.is_empty()
        && text.len() < 16
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-'));
    if !valid {
        let message = format!("`{}` is not a signal", entry.value.shown());
        context.report.error_help(&entry.value.place, message, "write it as `SIGTERM`");
    }
    Some(text.to_owned())
}

fn working_dir(node: &Node, context: &mut Context<'_>) -> Option<String> {
    let entry = node.given("working_dir")?;
    let text = entry.value.text()?;
    if !text.starts_with('/') {
        let message = format!("`{}` is not a path in the container", entry.value.shown());
        context.report.error_help(&entry.value.place, message, "it must begin with `/`");
    }
    Some(text.to_owned())
}

fn container_name(node: &Node, context: &mut Context<'_>) -> Option<String> {
    let entry = node.given("container_name")?;
    let text = entry.value.text()?;
    if let Err(reason) = names::docker(text, false) {
        let message = format!("`{}` is not a container's name: {reason}", entry.value.shown());
        context.report.error(&entry.value.place, message);
    }
    Some(text.to_owned())
}

fn healthcheck(node: &Node, context: &mut Context<'_>) -> (Option<Healthcheck>, HealthDeclared) {
    let Some(entry) = node.get("healthcheck") else { return (None, HealthDeclared::No) };
    let section = &entry.value;
    let mut test = None;
    if let Some(entry) = section.get("test") {
        test = match &entry.value.value {
            Value::Scalar(scalar) => Some(vec!["CMD-SHELL".to_owned(), scalar.text.clone()]),
            Value::Sequence(_) => Some(texts(section, "test")),
            Value::Null | Value::Mapping(_) => None,
        };
        let words: Option<Vec<&str>> = test.as_ref().map(|test| test.iter().map(String::as_str).collect());
        let problem = match words.as_deref() {
            None => None,
            Some([]) => Some("it is empty".to_owned()),
            Some(["NONE"]) => None,
            Some(["NONE", ..]) => Some("nothing can follow `NONE`".to_owned()),
            Some(["CMD-SHELL", _]) => None,
            Some(["CMD-SHELL", ..]) => Some("`CMD-SHELL` takes exactly one line".to_owned()),
            Some(["CMD"]) => Some("a program must follow `CMD`".to_owned()),
            Some(["CMD", ..]) => None,
            Some([_, ..]) => Some("a list must begin with `CMD`, `CMD-SHELL` or `NONE`".to_owned()),
        };
        if let Some(problem) = problem {
            context.report.error_help(
                &entry.value.place,
                format!("this is not a healthcheck's test: {problem}"),
                "write `[CMD, program, argument]`, or a line for the shell",
            );
        }
    }
    if boolean(section, "disable") == Some(true) {
        if let Some(other) = section.get("test")
            && test.as_deref() != Some(&["NONE".to_owned()])
        {
            let help = "take one of the two out";
            context.report.error_help(&other.key_place, "a healthcheck with `disable: true` has no test", help);
        }
        test = Some(vec!["NONE".to_owned()]);
    }
    let disabled = test.as_deref().is_some_and(|test| test.first().is_some_and(|word| word == "NONE"));
    if disabled {
        let healthcheck = Healthcheck {
            test,
            interval: None,
            timeout: None,
            retries: None,
            start_period: None,
            start_interval: None,
        };
        return (Some(healthcheck), HealthDeclared::Disabled);
    }
    for key in ["interval", "timeout", "start_interval"] {
        if let Some(entry) = section.get(key)
            && let Some(value) = duration(section, key)
            && value < Duration::from_millis(1)
        {
            let message = format!("`{key}` must be at least 1ms");
            context.report.error_help(&entry.value.place, message, "Docker refuses less");
        }
    }
    let healthcheck = Healthcheck {
        test,
        interval: duration(section, "interval"),
        timeout: duration(section, "timeout"),
        retries: integer(section, "retries").and_then(|number| u32::try_from(number).ok()),
        start_period: duration(section, "start_period"),
        start_interval: duration(section, "start_interval"),
    };
    (Some(healthcheck), HealthDeclared::Yes)
}

fn depends_on(
    node: &Node,
    shares: Option<&(String, Place)>,
    context: &mut Context<'_>,
) -> (BTreeMap<String, Dependency>, BTreeMap<String, DependencyPlaces>) {
    let mut dependencies = BTreeMap::new();
    let mut places = BTreeMap::new();
    if let Some(section) = node.value("depends_on") {
        let mut seen = BTreeSet::new();
        for item in section.items() {
            if let Some(name) = item.text()
                && !seen.insert(name.to_owned())
            {
                context.report.error(&item.place, format!("`{}` is named twice", shown(name)));
            }
        }
        for entry in as_mapping(section.clone(), None).entries() {
            let condition = match text(&entry.value, "condition") {
                Some("service_healthy") => DependencyCondition::Healthy,
                Some("service_completed_successfully") => DependencyCondition::CompletedSuccessfully,
                _ => DependencyCondition::Started,
            };
            let required = boolean(&entry.value, "required").unwrap_or(true);
            dependencies.insert(entry.key.clone(), Dependency { condition, required });
            let condition = entry.value.get("condition").map_or(&entry.key_place, |condition| &condition.value.place);
            let place = DependencyPlaces { name: entry.key_place.clone(), condition: condition.clone() };
            places.insert(entry.key.clone(), place);
        }
    }
    // A container that shares another's network cannot be made before it.
    if let Some((service, place)) = shares {
        let both = DependencyPlaces { name: place.clone(), condition: place.clone() };
        places.entry(service.clone()).or_insert(both);
        dependencies
            .entry(service.clone())
            .or_insert(Dependency { condition: DependencyCondition::Started, required: true });
    }
    (dependencies, places)
}

fn ulimits(node: &Node, context: &mut Context<'_>) -> BTreeMap<String, Ulimit> {
    let mut limits = BTreeMap::new();
    let Some(section) = node.value("ulimits") else { return limits };
    for entry in section.entries() {
        let limit = match entry.value.text() {
            Some(text) => text.trim().parse().ok().map(|both| Ulimit { soft: both, hard: both }),
            None => match (integer(&entry.value, "soft"), integer(&entry.value, "hard")) {
                (Some(soft), Some(hard)) => Some(Ulimit { soft, hard }),
                _ => {
                    if !entry.value.entries().is_empty() {
                        let message = format!("the ulimit `{}` needs both `soft` and `hard`", shown(&entry.key));
                        context.report.error(&entry.key_place, message);
                    }
                    None
                }
            },
        };
        if let Some(limit) = limit {
            if limit.hard != -1 && (limit.soft > limit.hard || limit.soft == -1) {
                let message = format!("the soft limit of `{}` is higher than the hard one", shown(&entry.key));
                context.report.error(&entry.key_place, message);
            }
            limits.insert(entry.key.clone(), limit);
        }
    }
    limits
}
