//! `deploy` and its older spellings: replicas, updates, resources, restart.

use std::time::Duration;

use super::super::container::{Resources, Restart};
use super::super::tree::Node;
use super::super::{FailureAction, UpdateConfig, UpdateOrder, units};
use super::{Context, duration, integer, size, text};

/// The number of replicas.
pub fn replicas(node: &Node, context: &mut Context<'_>) -> u32 {
    let deploy = node.value("deploy");
    let scale = node.get("scale");
    let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let from_deploy = number(deploy.and_then(|deploy| integer(deploy, "replicas")));
    let from_scale = number(integer(node, "scale"));
    if let (Some(a), Some(b), Some(entry)) = (from_deploy, from_scale, scale)
        && a != b
    {
        let message = format!("`scale` says {b} and `deploy.replicas` says {a}");
        context.report.error_help(&entry.value.place, message, "take one of them out");
    }
    from_deploy.or(from_scale).unwrap_or(1)
}

pub fn update(node: &Node) -> UpdateConfig {
    let mut update = UpdateConfig::default();
    let Some(config) = node.value("deploy").and_then(|deploy| deploy.value("update_config")) else { return update };
    if let Some(parallelism) = integer(config, "parallelism").and_then(|number| u32::try_from(number).ok()) {
        update.parallelism = parallelism;
    }
    update.order = match text(config, "order") {
        Some("start-first") => Some(UpdateOrder::StartFirst),
        Some("stop-first") => Some(UpdateOrder::StopFirst),
        _ => None,
    };
    update.delay = duration(config, "delay").unwrap_or(Duration::ZERO);
    update.monitor = duration(config, "monitor").unwrap_or(Duration::ZERO);
    update.deadline = duration(config, "deadline");
    update.failure_action = match text(config, "failure_action") {
        Some("continue") => FailureAction::Continue,
        Some("rollback") => FailureAction::Rollback,
        _ => FailureAction::Pause,
    };
    update
}

/// `deploy.resources`, and the keys of version 2 that say the same.
pub fn resources(node: &Node, context: &mut Context<'_>) -> Option<Resources> {
    let section = node.value("deploy").and_then(|deploy| deploy.value("resources"));
    let limits = section.and_then(|section| section.value("limits"));
    let reservations = section.and_then(|section| section.value("reservations"));
    let nano = |node: &Node, key: &str| text(node, key).and_then(|text| units::cpus(text).ok());
    let resources = Resources {
        nano_cpus: agreed(node, "cpus", limits, "cpus", "limits.cpus", nano, context),
        memory: agreed(node, "mem_limit", limits, "memory", "limits.memory", size, context),
        pids: agreed(node, "pids_limit", limits, "pids", "limits.pids", integer, context),
        memory_reservation: agreed(
            node,
            "mem_reservation",
            reservations,
            "memory",
            "reservations.memory",
            size,
            context,
        ),
    };
    (resources != Resources::default()).then_some(resources)
}

/// The value that two spellings give, which must not differ.
fn agreed<T: PartialEq>(
    node: &Node,
    old: &str,
    section: Option<&Node>,
    key: &str,
    shown: &str,
    read: impl Fn(&Node, &str) -> Option<T>,
    context: &mut Context<'_>,
) -> Option<T> {
    let was = read(node, old);
    let is = section.and_then(|section| read(section, key));
    if was.is_some()
        && is.is_some()
        && was != is
        && let Some(entry) = node.get(old)
    {
        let message = format!("`{old}` and `deploy.resources.{shown}` differ");
        context.report.error_help(&entry.value.place, message, "take one of them out");
    }
    is.or(was)
}

/// `restart`, else `deploy.restart_policy`.
pub fn restart(node: &Node, context: &mut Context<'_>) -> Option<Restart> {
    if let Some(entry) = node.given("restart") {
        let text = entry.value.text()?;
        let (word, retries) = match text.split_once(':') {
            Some((word, retries)) => (word, Some(retries)),
            None => (text, None),
        };
        let retries_read = retries.map(|retries| retries.parse::<u32>().ok());
        return match (word, retries_read) {
            ("no", None) => Some(Restart::No),
            ("always", None) => Some(Restart::Always),
            ("unless-stopped", None) => Some(Restart::UnlessStopped),
            ("on-failure", None) => Some(Restart::OnFailure { max_retries: None }),
            ("on-failure", Some(Some(retries))) => Some(Restart::OnFailure { max_retries: Some(retries) }),
            _ => {
                let message = format!("`{}` is not a restart policy", entry.value.shown());
                let help = "it must be `no`, `always`, `unless-stopped` or `on-failure[:retries]`";
                context.report.error_help(&entry.value.place, message, help);
                None
            }
        };
    }
    let policy = node.value("deploy").and_then(|deploy| deploy.value("restart_policy"))?;
    let attempts = integer(policy, "max_attempts").and_then(|number| u32::try_from(number).ok());
    match text(policy, "condition") {
        Some("none") => Some(Restart::No),
        Some("on-failure") => Some(Restart::OnFailure { max_retries: attempts }),
        _ => {
            if let Some(entry) = policy.get("max_attempts") {
                let message = "`max_attempts` belongs to `condition: on-failure`";
                context.report.error_help(&entry.key_place, message, "Docker counts restarts only on failure");
            }
            Some(Restart::Always)
        }
    }
}
