//! Tests, and a small world that other modules' tests use, too.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::observed::{
    Agent, CheckSeen, Checks, Consul, ContainerState, Directory, Docker, Endpoint, Generation, Host, HttpBlock,
    Manifest, Networks, Node, Registration, RoutedUpstream,
};
use crate::plan::Waiting;
use crate::spec::container::ConfigHash;
use crate::spec::upstream::{CatalogQuery, Listen};
use crate::spec::{ContainerConfig, Protocol, Register, RegisterAddress, Service, UpdateConfig, Upstream};
use crate::style::Style;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("a time in range")
}

fn service(name: &str, replicas: u32, registers: bool) -> Service {
    let register = Register {
        name: "nginx".to_owned(),
        port: 80,
        protocol: Protocol::Tcp,
        address: RegisterAddress::Published,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        check: None,
    };
    let config = ContainerConfig::default();
    Service {
        name: name.to_owned(),
        replicas,
        hash: config.hash(),
        config: Arc::new(config),
        pull_policy: Default::default(),
        depends_on: BTreeMap::new(),
        job: false,
        update: UpdateConfig::default(),
        stop_grace_period: Duration::from_secs(10),
        register: if registers { vec![register] } else { Vec::new() },
        image_id: None,
    }
}

fn upstream() -> Upstream {
    Upstream {
        name: "http_backend".to_owned(),
        query: Some(CatalogQuery { service: "nginx".to_owned(), tag: None, datacenter: None, filter: None }),
        listen: Listen { address: None, port: 1216 },
        server_name: vec!["localhost".to_owned()],
        path: "/".to_owned(),
        balance: Default::default(),
        drain: Duration::from_secs(10),
        when_empty: Default::default(),
        headers: BTreeMap::new(),
        access_log: None,
        tls: None,
        max_body_size: None,
        redirect: None,
        timeouts: Default::default(),
        keepalive: None,
        websocket: false,
        grpc: false,
        directives: BTreeMap::new(),
    }
}

pub(crate) fn spec() -> Spec {
    let mut spec = Spec::empty("shop");
    spec.digest = "d1".to_owned();
    for service in [service("web", 4, true), service("db", 1, false)] {
        spec.services.insert(service.name.clone(), service);
    }
    spec.upstreams.insert("http_backend".to_owned(), upstream());
    spec
}

fn container(service: &str, slot: u32, health: Health) -> Container {
    let id = format!("{service}{slot}");
    Container {
        name: format!("shop-{service}-{slot}-0a1b2c3d"),
        id,
        service: service.to_owned(),
        slot,
        hash: ConfigHash::of("{}"),
        config: "{}".to_owned(),
        image_id: "sha256:1".to_owned(),
        chosen_ports: Vec::new(),
        registers: service == "web",
        depends_on: BTreeSet::new(),
        state: ContainerState::Running { started_at: at(-60) },
        health,
        networks: Networks::new(),
        published: Vec::new(),
        probe: None,
        created_at: None,
        restarts: 0,
        trouble: None,
        network_mode: String::new(),
    }
}

fn registration(slot: u32, maintenance: Maintenance, status: CheckStatus) -> Registration {
    let id = format!("edge-1:shop-web-{slot}-0a1b2c3d:80/tcp");
    Registration {
        name: "nginx".to_owned(),
        address: "192.0.2.1".to_owned(),
        port: 80 + u16::try_from(slot).expect("a small slot"),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        service: "web".to_owned(),
        slot,
        container: format!("web{slot}"),
        check_digest: None,
        drain_start: None,
        maintenance,
        checks: Checks::from_iter([(format!("{id}:declared"), CheckSeen { status, output: String::new() })]),
        id,
    }
}

fn generation(slots: &[u32]) -> Generation {
    let endpoints = slots.iter().map(|slot| Endpoint {
        address: "192.0.2.1".to_owned(),
        port: 80 + u16::try_from(*slot).expect("a small slot"),
        weight: 1,
        container: Some(format!("web{slot}")),
    });
    let routed = RoutedUpstream { upstream: upstream().into(), endpoints: endpoints.collect(), files: BTreeMap::new() };
    let manifest = Manifest { upstreams: BTreeMap::from([("http_backend".to_owned(), routed)]), ..Default::default() };
    Generation {
        endpoints: None,
        manifest: Arc::new(manifest),
        damaged: Vec::new(),
        created_at: at(0),
        rejected: None,
        files: BTreeMap::new(),
    }
}

fn id(number: u32) -> GenerationId {
    GenerationId { hash: "ab12".to_owned(), number }
}

/// Four replicas: one good, one draining, one unhealthy, one that was never registered; the first two are routed.
pub(crate) fn observed() -> Observed {
    let containers = [
        container("web", 1, Health::Healthy),
        container("web", 2, Health::Healthy),
        container("web", 3, Health::Unhealthy("connection refused".to_owned())),
        container("web", 4, Health::Starting),
        container("db", 1, Health::None),
    ];
    let registrations = [
        registration(1, Maintenance::Off, CheckStatus::Passing),
        registration(2, Maintenance::Draining { reason: "reeve: retiring".to_owned() }, CheckStatus::Passing),
        registration(3, Maintenance::Off, CheckStatus::Critical),
    ];
    Observed {
        docker: View::Known(Docker {
            containers: containers.into_iter().map(|one| (one.id.clone(), one)).collect(),
            ..Default::default()
        }),
        consul: View::Known(Consul {
            agent: Agent {
                node: "client-1".to_owned(),
                datacenter: "dc1".to_owned(),
                version: "1.8.7".to_owned(),
                ..Default::default()
            },
            leader: Some("172.17.0.2:8300".to_owned()),
            peers: vec!["172.17.0.2:8300".to_owned(), "172.17.0.3:8300".to_owned()],
            nodes: vec![
                Node { name: "server-1".to_owned(), address: "172.17.0.2".to_owned(), status: "passing".to_owned() },
                Node { name: "old".to_owned(), address: "172.17.0.9".to_owned(), status: String::new() },
            ],
            services: BTreeMap::from([
                ("consul".to_owned(), Vec::new()),
                ("nginx".to_owned(), vec!["v1".to_owned(), "blue".to_owned()]),
            ])
            .into(),
            registrations: registrations.into_iter().map(|one| (one.id.clone(), one)).collect(),
            ..Default::default()
        }),
        nginx: View::Known(Nginx {
            version: "1.22.1".to_owned(),
            include_line: String::new(),
            included: true,
            config: "/etc/nginx/nginx.conf".to_owned(),
            worker_shutdown_timeout: Some("1m".to_owned()),
            lua: Err("nginx.endpoints is reload".to_owned()),
            http: HttpBlock::default(),
            process: NginxProcess::Running { master: 1 },
            current: Some(id(1)),
            generations: BTreeMap::from([(id(1), generation(&[1, 2])), (id(2), generation(&[2, 3]))]),
            loaded: Loaded::Generation(id(1)),
            templates: BTreeMap::new(),
            loaded_since: at(0),
            routed_since: at(0),
            retiring_workers: 0,
            listens: BTreeMap::new(),
            tls: BTreeMap::new(),
        }),
        directory: View::Known(Directory::default()),
        host: Host::default(),
        templates: Default::default(),
    }
}

pub(crate) fn plan() -> Plan {
    let waiting = |object, reason: &str, kind, until| Waiting {
        object,
        reason: reason.to_owned(),
        kind,
        until,
        details: Vec::new(),
    };
    Plan {
        steps: Vec::new(),
        waiting: vec![
            waiting(ObjectKey::Replica("shop-web-2-0a1b2c3d".to_owned()), "drains", "drain", Some(at(8))),
            waiting(ObjectKey::Replica("shop-web-3-0a1b2c3d".to_owned()), "is unhealthy", "unhealthy", None),
            waiting(ObjectKey::Replica("shop-web-4-ffffffff".to_owned()), "is unhealthy", "unhealthy", None),
            waiting(
                ObjectKey::Registration("edge-1:shop-web-3-0a1b2c3d:80/tcp".to_owned()),
                "its check fails",
                "critical",
                None,
            ),
            waiting(ObjectKey::Upstream("http_backend".to_owned()), "port 1216 is taken", "listen_taken", None),
            waiting(ObjectKey::Network("shop_default".to_owned()), "a stranger has this name", "clash", None),
        ],
        ..Plan::default()
    }
}

fn status() -> Status {
    let held = [(ObjectKey::Service("db".to_owned()), "no such image".to_owned(), at(90))];
    Status::of(&spec(), &observed(), &plan(), &held)
}

fn of_service<'a>(status: &'a Status, name: &str) -> &'a ServiceStatus {
    status.services.iter().find(|service| service.name == name).expect("the service is listed")
}

#[test]
fn a_replica_counts_only_for_what_it_has_reached() {
    let status = status();
    let web = of_service(&status, "web");
    assert_eq!(web.desired, 4);
    assert_eq!(web.running, Figure::Known(4));
    assert_eq!(web.healthy, Figure::Known(2));
    assert_eq!(web.registered, Figure::Known(1));
    assert_eq!(web.routed, Figure::Known(2));
}

#[test]
fn a_service_that_does_not_register_shows_no_zero() {
    let status = status();
    assert_eq!(of_service(&status, "db").registered, Figure::Irrelevant);
    assert_eq!(of_service(&status, "db").routed, Figure::Irrelevant);
}

#[test]
fn an_unknown_backend_is_not_shown_as_none() {
    let mut observed = observed();
    observed.docker = View::Unknown { reason: "connection refused".to_owned(), since: at(-5) };
    let status = Status::of(&spec(), &observed, &Plan::default(), &[]);
    let web = of_service(&status, "web");
    assert_eq!((web.desired, web.running, web.registered), (4, Figure::Unknown, Figure::Unknown));
    assert!(status.table(at(0), None, Style::plain()).starts_with("! docker is unknown for 5s: connection refused\n"));
}

#[test]
fn a_service_that_left_the_spec_is_listed_until_its_containers_are_gone() {
    let status = Status::of(&Spec::empty("shop"), &observed(), &Plan::default(), &[]);
    let web = of_service(&status, "web");
    assert_eq!((web.desired, web.running, web.routed), (0, Figure::Known(4), Figure::Known(2)));
    assert_eq!(web.registered, Figure::Known(1));
}

#[test]
fn while_two_generations_answer_only_what_both_route_to_counts() {
    let mut observed = observed();
    observed.nginx.known_mut().expect("known").loaded = Loaded::Mixed(BTreeSet::from([id(1), id(2)]));
    let status = Status::of(&spec(), &observed, &Plan::default(), &[]);
    assert_eq!(of_service(&status, "web").routed, Figure::Known(1));
    assert_eq!(status.upstreams[0].endpoints.as_deref(), Some(&["192.0.2.1:82".to_owned()][..]));
}

#[test]
fn every_reason_is_shown_once_and_none_is_lost() {
    let status = status();
    assert_eq!(status.all_waiting().count(), 7);
    assert_eq!(of_service(&status, "web").waiting.len(), 4);
    let stray = Waiting {
        object: ObjectKey::Replica("elsewhere".to_owned()),
        reason: "r".to_owned(),
        kind: "k",
        until: None,
        details: Vec::new(),
    };
    let plan = Plan { waiting: vec![stray], ..Plan::default() };
    assert_eq!(Status::of(&spec(), &observed(), &plan, &[]).waiting.len(), 1);
}

#[test]
fn an_nginx_without_worker_shutdown_timeout_gets_the_advice() {
    assert!(status().advice.is_empty());
    let mut observed = observed();
    observed.nginx.known_mut().expect("known").worker_shutdown_timeout = None;
    let status = Status::of(&spec(), &observed, &Plan::default(), &[]);
    assert!(status.advice[0].starts_with("Put `worker_shutdown_timeout 1m;` at the top of /etc/nginx/nginx.conf"));
}

#[test]
fn an_nginx_that_is_not_managed_is_not_talked_about() {
    let mut observed = observed();
    observed.nginx = View::Known(crate::observed::Nginx::off(at(0)));
    let status = Status::of(&spec(), &observed, &Plan::default(), &[]);
    assert_eq!(status.advice, Vec::<String>::new());
    assert_eq!(status.nginx.as_ref().map(|nginx| nginx.process.as_str()), Some("off"));
    let table = status.table(at(0), None, Style::plain());
    assert!(!table.contains("NGINX"), "{table}");
}

#[test]
fn the_json_form_comes_back_as_the_same_status() {
    let status = status();
    let text = serde_json::to_string(&status).expect("serialisable");
    assert_eq!(serde_json::from_str::<Status>(&text).expect("readable"), status);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["services"][0]["name"], "db");
    assert!(value["services"][0]["registered"].is_null());
    assert_eq!(value["services"][1]["registered"], 1);
}

#[test]
fn the_table_reads_as_the_golden_one() {
    let wide = status().table(at(0), None, Style::plain());
    let narrow = status().table(at(0), Some(100), Style::plain());
    assert!(narrow.lines().all(|line| line.chars().count() <= 100), "{narrow}");
    let text = format!("{wide}\n===== 100 columns\n\n{narrow}");
    let golden = include_str!("../../tests/golden/status-table.txt");
    assert!(text == golden, "the table has changed; it is now:\n{text}");
}
