//! What an action does to the agent: idempotent, and only to what is ours.
//!
//! Every write first reads the record that it is about, so that a stale plan meets a conflict instead of somebody else's
//! registration. A lost reply is no harm: the next pass sees what happened, and doing it again changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Consul;
use super::http::{Failure, FailureKind, Request};
use super::wire::{self, Check, Service, declared_check, health_check, meta};
use crate::observed::{CheckStatus, DISCOVERED, Maintenance};
use crate::plan::ConsulAction;
use crate::plan::action::{NewRegistration, WantedCheck, WantedKind};
use crate::world::ActionError;

/// For all requests of one action, as long as for a look. An agent takes a write over at once, and then syncs it with the
/// servers before it answers: without a leader that takes 7 s for each (seen), and the whole pass would wait for it. What
/// was taken over shows in the next look, so that it is not asked for again.
const LIMIT: Duration = Duration::from_secs(4);
/// The health check is written only when the HEALTHCHECK's state changes, so it must never expire by itself.
const HEALTH_TTL: &str = "87600h";

/// What the action is about, for messages.
fn subject(action: &ConsulAction) -> String {
    let kind = if matches!(action, ConsulAction::RemoveCheck { .. }) { "check" } else { "registration" };
    format!("{kind} {}", written(action).0)
}

/// The registration or check that it is about, and the service when the action names it.
fn written(action: &ConsulAction) -> (&str, Option<&str>) {
    match action {
        ConsulAction::Register(wanted) | ConsulAction::Adopt(wanted) => (&wanted.id, Some(&wanted.name)),
        ConsulAction::RemoveUnmarked { id }
        | ConsulAction::Drain { id, .. }
        | ConsulAction::LiftDrain { id }
        | ConsulAction::StartDrainClock { id, .. }
        | ConsulAction::StopDrainClock { id }
        | ConsulAction::Deregister { id }
        | ConsulAction::SetHealth { id, .. } => (id, None),
        ConsulAction::RemoveCheck { check } => (check, None),
    }
}

/// A record of the agent, with its checks by id.
struct Record {
    service: Service,
    checks: BTreeMap<String, Check>,
}

impl Record {
    fn maintenance(&self) -> Maintenance {
        self.checks
            .get(&wire::service_maintenance(&self.service.id))
            .map_or(Maintenance::Off, |check| wire::maintenance(&check.notes))
    }
}

impl Consul {
    /// Does one action. Doing it again is harmless.
    ///
    /// # Errors
    /// `Conflict`: the record is gone, somebody else's, or not in the state that the action needs. `Permanent`: Consul
    /// refuses it (with its own text), or the token may not (with the permission that it needs). `Transient`: all else.
    pub async fn execute(&self, action: &ConsulAction) -> Result<(), ActionError> {
        let result = self.execute_within_the_limit(action).await;
        // The next look may come before the watch tells.
        let (id, name) = written(action);
        let registered = match action {
            ConsulAction::Register(new) if result.is_ok() => Some(new.as_ref()),
            _ => None,
        };
        self.keeping(|memory| memory.wrote(id, name, registered));
        result
    }

    async fn execute_within_the_limit(&self, action: &ConsulAction) -> Result<(), ActionError> {
        // Cut off between two requests is as good as a crash: every order of them is safe.
        let Ok(result) = tokio::time::timeout(LIMIT, self.execute_unlimited(action)).await else {
            return Err(ActionError::Transient(format!(
                "{}: Consul at {} did not finish it within {} s; without a leader an agent takes writes over and answers late",
                subject(action),
                self.client.name(),
                LIMIT.as_secs()
            )));
        };
        result
    }

    async fn execute_unlimited(&self, action: &ConsulAction) -> Result<(), ActionError> {
        match action {
            ConsulAction::Register(wanted) => self.register(wanted).await,
            ConsulAction::Adopt(wanted) => self.adopt(wanted).await,
            ConsulAction::RemoveUnmarked { id } => self.remove_unmarked(id).await,
            ConsulAction::Drain { id, reason } => self.drain(id, reason).await,
            ConsulAction::LiftDrain { id } => self.lift_drain(id).await,
            ConsulAction::StartDrainClock { id, at } => self.start_drain_clock(id, *at).await,
            ConsulAction::StopDrainClock { id } => self.stop_drain_clock(&self.own(id).await?).await,
            ConsulAction::Deregister { id } => self.deregister(id).await,
            ConsulAction::SetHealth { id, status, output } => self.set_health(id, *status, output).await,
            ConsulAction::RemoveCheck { check } => self.remove_check(check).await,
        }
    }

    async fn register(&self, wanted: &NewRegistration) -> Result<(), ActionError> {
        let id = &wanted.id;
        let title = || format!("registration {id}");
        let mut before = match self.service(id).await? {
            Some(service) if service.owned_by(&self.owner) => self.checks_of(id).await?,
            Some(service) => return Err(self.foreign(id, &service)),
            None => BTreeMap::new(),
        };
        // Seen (1.8.7): a check that becomes another kind under the same id goes on running as the old kind, too, and
        // both write its status. Removed first, it is gone; its status is handed over.
        let mut declared_status = wanted.check.as_ref().map_or(CheckStatus::Passing, |check| check.initial);
        if let Some(check) = &wanted.check
            && let Some(old) = before.get(&declared_check(id))
            && old.kind != kind(check)
        {
            declared_status = old.status();
            self.deregister_check(&declared_check(id), &title()).await?;
            before.remove(&declared_check(id));
        }
        let body = self.registration_body(wanted, declared_status);
        let request = Request::put(&["v1", "agent", "service", "register"], LIMIT).body(body);
        self.write(request, &title(), &wanted.name).await?;
        // Only checks of our own making: one that somebody attached to our registration stays.
        for (check, wanted) in [(declared_check(id), wanted.check.is_some()), (health_check(id), wanted.health)] {
            if !wanted && before.contains_key(&check) {
                self.deregister_check(&check, &title()).await?;
            }
        }
        Ok(())
    }

    /// One write makes it ours, so there is no moment without it; its old checks go afterwards.
    async fn adopt(&self, wanted: &NewRegistration) -> Result<(), ActionError> {
        let id = &wanted.id;
        let title = format!("registration {id}");
        match self.service(id).await? {
            None => {}
            Some(service) if service.owned_by(&self.owner) => return self.register(wanted).await,
            Some(service) if service.owner().is_some() => return Err(self.foreign(id, &service)),
            Some(_) => {}
        }
        let old = self.checks_of(id).await?;
        // What was known of it stays known: it must not leave because its check begins anew.
        let known =
            old.values().filter(|check| check.check_id != wire::service_maintenance(id)).map(Check::status).max();
        let initial = wanted.check.as_ref().map_or(CheckStatus::Passing, |check| known.unwrap_or(check.initial));
        let body = self.registration_body(wanted, initial);
        let request = Request::put(&["v1", "agent", "service", "register"], LIMIT).body(body);
        self.write(request, &title, &wanted.name).await?;
        let kept = [declared_check(id), health_check(id), wire::service_maintenance(id)];
        for check in old.keys().filter(|check| !kept.contains(check)) {
            self.deregister_check(check, &title).await?;
        }
        Ok(())
    }

    async fn remove_unmarked(&self, id: &str) -> Result<(), ActionError> {
        let name = match self.service(id).await? {
            None => return Ok(()),
            Some(service) if service.owner().is_some() => return Err(self.foreign(id, &service)),
            Some(service) => service.service,
        };
        match self.client.done(Request::put(&["v1", "agent", "service", "deregister", id], LIMIT)).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.status() == Some(404) => Ok(()),
            Err(failure) => Err(refused(&failure, &format!("registration {id}"), &name)),
        }
    }

    async fn drain(&self, id: &str, reason: &str) -> Result<(), ActionError> {
        let record = self.own(id).await?;
        match record.maintenance() {
            // Consul would keep the first reason, and an operator's maintenance unroutes as well as ours.
            Maintenance::Draining { .. } | Maintenance::Operator { .. } => Ok(()),
            Maintenance::Off => {
                // A clock that an earlier drain left behind would let this one end too soon.
                self.stop_drain_clock(&record).await?;
                let reason = if reason.starts_with(wire::OUR_REASON) {
                    reason.to_owned()
                } else {
                    format!("{}{reason}", wire::OUR_REASON)
                };
                self.maintain(&record, Some(reason)).await
            }
        }
    }

    async fn lift_drain(&self, id: &str) -> Result<(), ActionError> {
        let record = self.own(id).await?;
        match record.maintenance() {
            Maintenance::Off => self.stop_drain_clock(&record).await,
            Maintenance::Draining { .. } => {
                // In this order: a crash in between leaves it draining with its clock not started, which is safe.
                self.stop_drain_clock(&record).await?;
                self.maintain(&record, None).await
            }
            Maintenance::Operator { reason } => Err(ActionError::Conflict(format!(
                "registration {id} is in maintenance by somebody else ({reason}): it is theirs to lift"
            ))),
        }
    }

    async fn start_drain_clock(&self, id: &str, at: Timestamp) -> Result<(), ActionError> {
        let record = self.own(id).await?;
        match record.maintenance() {
            Maintenance::Draining { .. } => {}
            Maintenance::Off => {
                return Err(ActionError::Conflict(format!("registration {id} does not drain any more")));
            }
            Maintenance::Operator { reason } => {
                return Err(ActionError::Conflict(format!(
                    "registration {id} does not drain: somebody else put it in maintenance ({reason})"
                )));
            }
        }
        // A repetition must not push the end back.
        if record.service.meta.contains_key(meta::DRAIN_START) {
            return Ok(());
        }
        self.write_drain_clock(&record, Some(at)).await
    }

    async fn stop_drain_clock(&self, record: &Record) -> Result<(), ActionError> {
        if !record.service.meta.contains_key(meta::DRAIN_START) {
            return Ok(());
        }
        self.write_drain_clock(record, None).await
    }

    /// The same record with another clock. Without check definitions in it, Consul leaves all checks as they are, that of
    /// maintenance included (seen).
    async fn write_drain_clock(&self, record: &Record, at: Option<Timestamp>) -> Result<(), ActionError> {
        let service = &record.service;
        let mut meta = service.meta.clone();
        match at {
            Some(at) => meta.insert(meta::DRAIN_START.to_owned(), at.to_string()),
            None => meta.remove(meta::DRAIN_START),
        };
        let request = Request::put(&["v1", "agent", "service", "register"], LIMIT).body(json!({
            "ID": service.id,
            "Name": service.service,
            "Address": service.address,
            "Port": service.port,
            "Tags": service.tags,
            "Meta": meta,
            "Weights": { "Passing": service.weights.passing, "Warning": service.weights.warning },
            "EnableTagOverride": false,
        }));
        self.write(request, &format!("registration {}", service.id), &service.service).await
    }

    /// `reason`: maintenance on; none: off.
    async fn maintain(&self, record: &Record, reason: Option<String>) -> Result<(), ActionError> {
        let path = ["v1", "agent", "service", "maintenance", &record.service.id];
        let mut request = Request::put(&path, LIMIT).query("enable", reason.is_some().to_string());
        if let Some(reason) = reason {
            request = request.query("reason", reason);
        }
        self.write(request, &format!("registration {}", record.service.id), &record.service.service).await
    }

    async fn deregister(&self, id: &str) -> Result<(), ActionError> {
        let service = match self.service(id).await? {
            None => return Ok(()),
            Some(service) if service.owned_by(&self.owner) => service,
            Some(service) => return Err(self.foreign(id, &service)),
        };
        let path = ["v1", "agent", "service", "deregister", id];
        match self.client.done(Request::put(&path, LIMIT)).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.status() == Some(404) => Ok(()),
            Err(failure) => Err(refused(&failure, &format!("registration {id}"), &service.service)),
        }
    }

    async fn set_health(&self, id: &str, status: CheckStatus, output: &str) -> Result<(), ActionError> {
        let record = self.own(id).await?;
        let check = health_check(id);
        if !record.checks.contains_key(&check) {
            return Err(ActionError::Conflict(format!("registration {id} has no check {check}")));
        }
        let path = ["v1", "agent", "check", "update", &check];
        let request = Request::put(&path, LIMIT).body(json!({ "Status": status.to_string(), "Output": output }));
        self.write(request, &format!("registration {id}"), &record.service.service).await
    }

    async fn remove_check(&self, check: &str) -> Result<(), ActionError> {
        let path = ["v1", "agent", "checks"];
        let mut request = Request::get(&path, LIMIT);
        if let Some(literal) = literal(check) {
            request = request.query("filter", format!("CheckID == {literal}"));
        }
        let title = format!("check {check}");
        let mut checks = self
            .client
            .json::<BTreeMap<String, Check>>(request)
            .await
            .map_err(|failure| refused(&failure, &title, ""))?;
        let Some(found) = checks.value.remove(check) else { return Ok(()) };
        match self.service(&found.service_id).await? {
            Some(service) if service.owned_by(&self.owner) => self.deregister_check(check, &title).await,
            Some(service) => Err(self.foreign(&found.service_id, &service)),
            None => Err(ActionError::Conflict(format!(
                "check {check} belongs to no registration of ours: it is left alone"
            ))),
        }
    }

    async fn deregister_check(&self, check: &str, title: &str) -> Result<(), ActionError> {
        let path = ["v1", "agent", "check", "deregister", check];
        match self.client.done(Request::put(&path, LIMIT)).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.status() == Some(404) => Ok(()),
            Err(failure) => Err(refused(&failure, title, "")),
        }
    }

    /// Our record with its checks. To find them among all of the agent's costs as much as there are (seen: the clocks of 200
    /// that drain were started in 0.4 s so, and in 0.15 by this). Gone and foreign are conflicts.
    async fn own(&self, id: &str) -> Result<Record, ActionError> {
        let path = ["v1", "agent", "health", "service", "id", id];
        let request = Request::get(&path, LIMIT).or_unhealthy();
        let found = self.client.json::<wire::ServiceHealth>(request).await;
        let found = found.map_err(|failure| refused(&failure, &format!("registration {id}"), ""))?.value;
        let wire::ServiceHealth { service: Some(mut service), checks, .. } = found else {
            return Err(ActionError::Conflict(format!("registration {id} is not at the agent any more")));
        };
        service.tell_apart(&self.owner, self.host.as_deref());
        if !service.owned_by(&self.owner) {
            return Err(self.foreign(id, &service));
        }
        let checks = checks.into_iter().filter(|check| check.service_id == id);
        Ok(Record { checks: checks.map(|check| (check.check_id.clone(), check)).collect(), service })
    }

    async fn service(&self, id: &str) -> Result<Option<Service>, ActionError> {
        match self.client.json::<Service>(Request::get(&["v1", "agent", "service", id], LIMIT)).await {
            Ok(mut answer) => {
                answer.value.tell_apart(&self.owner, self.host.as_deref());
                Ok(Some(answer.value))
            }
            Err(failure) if failure.status() == Some(404) => Ok(None),
            Err(failure) => Err(refused(&failure, &format!("registration {id}"), "")),
        }
    }

    async fn checks_of(&self, id: &str) -> Result<BTreeMap<String, Check>, ActionError> {
        let path = ["v1", "agent", "checks"];
        let mut request = Request::get(&path, LIMIT);
        if let Some(literal) = literal(id) {
            request = request.query("filter", format!("ServiceID == {literal}"));
        }
        let mut checks = self
            .client
            .json::<BTreeMap<String, Check>>(request)
            .await
            .map_err(|failure| refused(&failure, &format!("registration {id}"), ""))?
            .value;
        checks.retain(|_, check| check.service_id == id);
        Ok(checks)
    }

    async fn write(&self, request: Request<'_>, title: &str, service: &str) -> Result<(), ActionError> {
        self.client.done(request).await.map_err(|failure| refused(&failure, title, service))
    }

    fn registration_body(&self, wanted: &NewRegistration, declared_status: CheckStatus) -> Value {
        registration_body(wanted, &self.owner.to_string(), self.host.as_deref(), declared_status)
    }

    fn foreign(&self, id: &str, service: &Service) -> ActionError {
        let owner = service.owner().map_or("without reeve's mark".to_owned(), |owner| format!("of {owner}"));
        ActionError::Conflict(format!(
            "the id {id} at the agent belongs to the service {:?} {owner}, not to {}: it is left alone; deregister it, or \
             rename one of the two",
            service.service, self.owner
        ))
    }
}

/// By what the caller does about it. `service`: its name, when it is known, for the permission that is missing.
fn refused(failure: &Failure, title: &str, service: &str) -> ActionError {
    let text = format!("{title}: {failure}");
    match &failure.kind {
        FailureKind::Lost(_) | FailureKind::TimedOut(_) | FailureKind::Malformed(_) => ActionError::Transient(text),
        FailureKind::Status { status: 401 | 403, .. } => {
            let name = if service.is_empty() { "it".to_owned() } else { format!("{service:?}") };
            ActionError::Permanent(format!(
                "{text}; reeve's token (consul.token_file) needs service:write on {name}, agent:read and node:read"
            ))
        }
        FailureKind::Status { status: 404, .. } => ActionError::Conflict(text),
        FailureKind::Status { body, .. } if body.contains("Scripts are disabled") => ActionError::Permanent(format!(
            "{text}; SERVICE_CHECK_CMD and SERVICE_CHECK_SCRIPT need `enable_script_checks` in the agent's configuration \
             (`enable_local_script_checks` lets only its own files define them), with ACLs, since whoever may register may then \
             run programs there; else use SERVICE_CHECK_HTTP or SERVICE_CHECK_TCP"
        )),
        FailureKind::Status { status: 429, .. } => ActionError::Transient(text),
        FailureKind::Status { status, .. } if *status < 500 => ActionError::Permanent(text),
        // 1.8.7 answers so, with 500, for a check that is gone.
        FailureKind::Status { body, .. } if body.contains("does not have associated TTL") => {
            ActionError::Conflict(text)
        }
        FailureKind::Status { .. } => ActionError::Transient(text),
    }
}

/// A string of Consul's filter language, whose quotes cannot be escaped. `None`: ask for all, and filter here.
pub(super) fn literal(text: &str) -> Option<String> {
    (!text.contains('`')).then(|| format!("`{text}`"))
}

fn registration_body(wanted: &NewRegistration, owner: &str, host: Option<&str>, declared_status: CheckStatus) -> Value {
    let mut all = wanted.meta.clone();
    let mut set = |key: &str, value: Option<String>| match value {
        Some(value) => all.insert(key.to_owned(), value),
        None => all.remove(key),
    };
    set(meta::OWNER, Some(owner.to_owned()));
    set(meta::SERVICE, Some(wanted.service.clone()));
    set(meta::SLOT, Some(wanted.slot.to_string()));
    set(meta::CONTAINER, Some(wanted.container.clone()));
    set(meta::CHECK, wanted.check.as_ref().map(|check| check.digest.clone()));
    set(meta::HOST, host.map(str::to_owned));
    set(meta::DRAIN_START, wanted.drain_start.map(|at| at.to_string()));
    let mut checks = Vec::new();
    if let Some(check) = &wanted.check {
        checks.push(declared_body(wanted, check, declared_status));
    }
    if wanted.health {
        checks.push(json!({
            "CheckID": health_check(&wanted.id),
            "Name": format!("HEALTHCHECK of {}", title(wanted)),
            "TTL": HEALTH_TTL,
            "Status": CheckStatus::Passing.to_string(),
        }));
    }
    json!({
        "ID": wanted.id,
        "Name": wanted.name,
        "Address": wanted.address,
        "Port": wanted.port,
        "Tags": wanted.tags,
        "Meta": all,
        "EnableTagOverride": false,
        "Checks": checks,
    })
}

/// `status`: what the check counts as until it has run once. Consul keeps the status of one that exists.
fn declared_body(wanted: &NewRegistration, check: &WantedCheck, status: CheckStatus) -> Value {
    let host = crate::backend::probe::host_and_port(&check.address, check.port);
    let mut body = json!({
        "CheckID": declared_check(&wanted.id),
        "Name": format!("declared check of {}", title(wanted)),
        "Status": status.to_string(),
    });
    match &check.kind {
        WantedKind::Http { tls, path, method, skip_verify } => {
            body["HTTP"] = format!("{}://{host}{path}", if *tls { "https" } else { "http" }).into();
            if let Some(method) = method {
                body["Method"] = method.clone().into();
            }
            if *skip_verify {
                body["TLSSkipVerify"] = true.into();
            }
        }
        WantedKind::Tcp => body["TCP"] = host.into(),
        WantedKind::Grpc { service, tls, skip_verify } => {
            body["GRPC"] = if service.is_empty() { host } else { format!("{host}/{service}") }.into();
            if *tls {
                body["GRPCUseTLS"] = true.into();
            }
            if *skip_verify {
                body["TLSSkipVerify"] = true.into();
            }
        }
        WantedKind::Command { words } => body["Args"] = words.clone().into(),
        WantedKind::Ttl { within } => body["TTL"] = go_duration(*within).into(),
    }
    if !matches!(check.kind, WantedKind::Ttl { .. }) {
        body["Interval"] = go_duration(check.interval).into();
        if let Some(timeout) = check.timeout {
            body["Timeout"] = go_duration(timeout).into();
        }
    }
    if let Some(after) = check.deregister_after {
        body["DeregisterCriticalServiceAfter"] = go_duration(after).into();
    }
    body
}

/// Whose checks they are, for people.
fn title(wanted: &NewRegistration) -> &str {
    if wanted.service == DISCOVERED { &wanted.name } else { &wanted.service }
}

/// Consul's word for the kind of a check.
fn kind(check: &WantedCheck) -> &'static str {
    match check.kind {
        WantedKind::Http { .. } => "http",
        WantedKind::Tcp => "tcp",
        WantedKind::Grpc { .. } => "grpc",
        WantedKind::Command { .. } => "script",
        WantedKind::Ttl { .. } => "ttl",
    }
}

/// As Go reads it.
fn go_duration(duration: Duration) -> String {
    format!("{}ns", duration.as_nanos())
}
