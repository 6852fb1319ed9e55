//! From the engine's JSON to `observed`'s words: a container by its list entry and its inspect.
//!
//! Pure. Whatever a newer engine says that this code does not know is read as far as it can be.

use std::sync::Arc;

use jiff::Timestamp;

use super::labels::Marks;
use super::wire::{self, Inspected, Listed};
use crate::observed::{Container, ContainerState, Discovered, Health, Stranger, Trouble};

/// Characters of a failed probe's output that are kept.
const OUTPUT: usize = 500;

pub(super) fn stranger(listed: &Listed, owner: Option<String>) -> Stranger {
    Stranger {
        name: listed.name().to_owned(),
        owner,
        running: matches!(listed.state.as_str(), "running" | "paused" | "restarting"),
        published: listed.published(),
        networks: listed.network_settings.endpoints(),
    }
}

pub(super) fn discovered(listed: &Listed, inspected: &Inspected) -> Discovered {
    Discovered {
        id: listed.id.clone(),
        name: listed.name().to_owned(),
        image: inspected.config.image.clone(),
        variables: inspected.config.variables("SERVICE_"),
        exposed: inspected.config.exposed(),
        published: inspected.network_settings.published(),
        networks: inspected.network_settings.endpoints(),
        network_mode: inspected.host_config.network_mode.clone(),
        state: state(inspected),
        health: health(inspected),
        stopping: None,
        unreadable: None,
    }
}

pub(super) fn from_inspect(listed: &Listed, marks: &Marks, inspected: &Inspected) -> Container {
    let mut container = skeleton(listed, marks);
    container.name = inspected.name.trim_start_matches('/').to_owned();
    container.state = state(inspected);
    container.health = health(inspected);
    container.networks = inspected.network_settings.endpoints();
    container.published = inspected.network_settings.published();
    container.created_at = wire::time(&inspected.created);
    container.restarts = inspected.restart_count;
    container.trouble = failed_probe(inspected).map(|probe| Arc::new(Trouble { probe: Some(probe), log: Vec::new() }));
    container.network_mode = inspected.host_config.network_mode.clone();
    container
}

/// The list tells no start time; `now` only prolongs what waits for some time to pass.
pub(super) fn from_list(listed: &Listed, marks: &Marks, now: Timestamp) -> Container {
    let mut container = skeleton(listed, marks);
    let status = listed.status.as_str();
    container.state = match listed.state.as_str() {
        "created" => ContainerState::Created,
        "paused" => ContainerState::Paused { started_at: now },
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        "dead" => ContainerState::Dead,
        "exited" => ContainerState::Exited { code: exit_code(status), started_at: None, finished_at: None },
        "running" => ContainerState::Running { started_at: now },
        _ if status.starts_with("Up") => ContainerState::Running { started_at: now },
        _ => ContainerState::Exited { code: exit_code(status), started_at: None, finished_at: None },
    };
    container.health = if status.contains("(healthy)") {
        Health::Healthy
    } else if status.contains("(unhealthy)") {
        Health::Unhealthy("the engine's list says so; the container cannot be inspected".to_owned())
    } else if status.contains("(health:") {
        Health::Starting
    } else {
        Health::None
    };
    container
}

fn skeleton(listed: &Listed, marks: &Marks) -> Container {
    Container {
        id: listed.id.clone(),
        name: listed.name().to_owned(),
        service: marks.service.clone(),
        slot: marks.slot,
        hash: marks.hash.clone(),
        config: marks.config.clone(),
        image_id: marks.image_id.clone(),
        chosen_ports: marks.chosen_ports.clone(),
        registers: marks.registers,
        depends_on: marks.depends_on.clone(),
        state: ContainerState::Created,
        health: Health::None,
        networks: listed.network_settings.endpoints(),
        published: listed.published(),
        probe: None,
        created_at: Timestamp::from_second(listed.created).ok(),
        restarts: 0,
        trouble: None,
        network_mode: listed.host_config.network_mode.clone(),
    }
}

/// `Exited (137) 3 seconds ago`. What does not tell its code did not end well.
fn exit_code(status: &str) -> i64 {
    let code = status.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(code, _)| code);
    code.and_then(|code| code.parse().ok()).unwrap_or(-1)
}

fn state(inspected: &Inspected) -> ContainerState {
    let state = &inspected.state;
    // An engine that says "running" without a time: the wait is prolonged, not cut short.
    let started_at = || wire::time(&state.started_at).unwrap_or_else(Timestamp::now);
    let exited = || ContainerState::Exited {
        code: state.exit_code,
        started_at: wire::time(&state.started_at),
        finished_at: wire::time(&state.finished_at),
    };
    match state.status.as_str() {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running { started_at: started_at() },
        "paused" => ContainerState::Paused { started_at: started_at() },
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        "exited" => exited(),
        "dead" => ContainerState::Dead,
        // A word that this code does not know; the flags are older than the word.
        _ if state.dead => ContainerState::Dead,
        _ if state.restarting => ContainerState::Restarting,
        _ if state.paused => ContainerState::Paused { started_at: started_at() },
        _ if state.running => ContainerState::Running { started_at: started_at() },
        _ if wire::time(&state.started_at).is_none() => ContainerState::Created,
        _ => exited(),
    }
}

fn health(inspected: &Inspected) -> Health {
    let Some(health) = &inspected.state.health else { return Health::None };
    match health.status.as_str() {
        "" | "none" => Health::None,
        "healthy" => Health::Healthy,
        "unhealthy" => {
            let output = health.log.last().map_or("", |log| log.output.trim());
            Health::Unhealthy(output.chars().take(OUTPUT).collect())
        }
        // What this code does not know is not healthy yet.
        _ => Health::Starting,
    }
}

/// What the last run of a HEALTHCHECK that has not passed yet, or fails, said.
fn failed_probe(inspected: &Inspected) -> Option<String> {
    let health = inspected.state.health.as_ref().filter(|health| health.status != "healthy")?;
    let last = health.log.last().filter(|last| last.exit_code != 0)?;
    let output = last.output.trim();
    let said = if output.is_empty() { format!("exit code {}", last.exit_code) } else { output.to_owned() };
    Some(said.chars().take(OUTPUT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(json: &str) -> Inspected {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn every_state_of_the_engine_is_told_apart() {
        let at = |status: &str| {
            state(&inspected(&format!(
                r#"{{"State":{{"Status":"{status}","ExitCode":3,"StartedAt":"2026-11-23T10:00:00Z",
                    "FinishedAt":"2026-11-23T11:00:00Z"}}}}"#
            )))
        };
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(at("created"), ContainerState::Created);
        assert_eq!(at("running"), ContainerState::Running { started_at: time("2026-11-23T10:00:00Z") });
        assert_eq!(at("paused"), ContainerState::Paused { started_at: time("2026-11-23T10:00:00Z") });
        assert_eq!(at("restarting"), ContainerState::Restarting);
        assert_eq!(at("removing"), ContainerState::Removing);
        assert_eq!(at("dead"), ContainerState::Dead);
        let finished_at = Some(time("2026-11-23T11:00:00Z"));
        assert_eq!(
            at("exited"),
            ContainerState::Exited { code: 3, started_at: Some(time("2026-11-23T10:00:00Z")), finished_at }
        );
    }

    #[test]
    fn an_unknown_state_is_read_from_the_flags() {
        let with = |flags: &str| state(&inspected(&format!(r#"{{"State":{{"Status":"quiesced",{flags}}}}}"#)));
        assert!(with(r#""Running":true,"StartedAt":"2026-11-23T10:00:00Z""#).running());
        assert_eq!(with(r#""Dead":true"#), ContainerState::Dead);
        assert_eq!(with(r#""StartedAt":"0001-01-01T00:00:00Z""#), ContainerState::Created);
        assert!(matches!(with(r#""StartedAt":"2026-11-23T10:00:00Z","ExitCode":1"#), ContainerState::Exited { .. }));
    }

    #[test]
    fn an_unhealthy_container_tells_what_its_last_probe_said() {
        let unhealthy = inspected(
            r#"{"State":{"Health":{"Status":"unhealthy","Log":[{"Output":"old"},{"Output":" refused \n"}]}}}"#,
        );
        assert_eq!(health(&unhealthy), Health::Unhealthy("refused".to_owned()));
        assert_eq!(health(&inspected(r#"{"State":{"Health":null}}"#)), Health::None);
        assert_eq!(health(&inspected(r#"{"State":{"Health":{"Status":"starting"}}}"#)), Health::Starting);
    }

    #[test]
    fn the_exit_code_is_in_the_lists_words() {
        assert_eq!(exit_code("Exited (137) 3 seconds ago"), 137);
        assert_eq!(exit_code("Exited"), -1);
    }
}
