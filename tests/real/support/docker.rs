//! Docker, by its own command line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What tests make beside reeve, marked with the test's project, so that it is removed with the test.
pub const STRANGER: &str = "reeve-test";

/// Runs `docker …`; its standard output.
#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    match try_docker(arguments) {
        Ok(output) => output,
        Err(error) => panic!("docker {}: {error}", arguments.join(" ")),
    }
}

pub fn try_docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(arguments)
        .env_remove("DOCKER_HOST")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot be run ({error}); `make demo` installs it"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A container as Docker tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub service: String,
    pub slot: u32,
    pub image: String,
    /// `running`, `exited`, `paused`, …
    pub state: String,
    pub started_at: String,
    pub environment: Vec<String>,
    /// Address by network.
    pub networks: BTreeMap<String, Option<IpAddr>>,
    /// Host ports.
    pub published: Vec<u16>,
}

impl Container {
    /// What the container calls itself when nothing else is set: the name in the web server's answer.
    pub fn hostname(&self) -> &str {
        &self.id[..12]
    }
}

/// All containers with this mark, by slot and name.
pub fn containers(owner: &str) -> Vec<Container> {
    let label = format!("label=reeve.owner={owner}");
    let ids = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &label]);
    let ids: Vec<&str> = ids.lines().collect();
    if ids.is_empty() {
        return Vec::new();
    }
    // One may go between the two calls: those that are left are printed, and the exit code is 1.
    let output = Command::new("docker").arg("inspect").args(ids).env_remove("DOCKER_HOST").output().expect("docker");
    let all: Value = serde_json::from_slice(&output.stdout).expect("docker inspect prints JSON");
    let mut containers: Vec<Container> = all.as_array().into_iter().flatten().map(container).collect();
    containers.sort_by(|a, b| (&a.service, a.slot, &a.name).cmp(&(&b.service, b.slot, &b.name)));
    containers
}

fn container(value: &Value) -> Container {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let networks = value.pointer("/NetworkSettings/Networks").and_then(Value::as_object).into_iter().flatten();
    let bindings = value.pointer("/HostConfig/PortBindings").and_then(Value::as_object).into_iter().flatten();
    Container {
        id: text("/Id"),
        name: text("/Name").trim_start_matches('/').to_owned(),
        service: text("/Config/Labels/reeve.service"),
        slot: text("/Config/Labels/reeve.slot").parse().unwrap_or(0),
        image: text("/Config/Image"),
        state: text("/State/Status"),
        started_at: text("/State/StartedAt"),
        environment: value
            .pointer("/Config/Env")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect(),
        networks: networks
            .map(|(name, endpoint)| (name.clone(), endpoint["IPAddress"].as_str().and_then(|ip| ip.parse().ok())))
            .collect(),
        published: bindings
            .flat_map(|(_, hosts)| hosts.as_array().cloned().unwrap_or_default())
            .filter_map(|host| host["HostPort"].as_str()?.parse().ok())
            .collect(),
    }
}

/// Removes every container, network and volume with this label.
pub fn remove_all(label: &str) {
    let filter = format!("label={label}");
    let list = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--quiet", "--filter", filter.as_str()]);
        try_docker(&all).unwrap_or_default()
    };
    let remove = |arguments: &[&str], ids: String| {
        if !ids.is_empty()
            && let Err(error) = try_docker(&[arguments, &ids.lines().collect::<Vec<_>>()].concat())
        {
            eprintln!("clean-up: {error}");
        }
    };
    // One after the other: several of one network at once can leave an engine of 20.10 in a deadlock of its own, in which
    // no container or network can be made or removed until it is restarted (seen, with its goroutines: two exits that
    // release their endpoints, each with the lock that the other waits for).
    for container in list(&["ps", "--all"]).lines() {
        remove(&["rm", "--force", "--volumes"], container.to_owned());
    }
    remove(&["network", "rm"], list(&["network", "ls"]));
    remove(&["volume", "rm", "--force"], list(&["volume", "ls"]));
}
