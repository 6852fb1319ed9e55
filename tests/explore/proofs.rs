//! Where each gate of the planner is missed: small scenarios, each only as large as the harm that the gate keeps off.
//!
//! The others (`scenarios`) are there to find what nobody thought of; these show what is known. Each must be clean with all
//! gates, and without the gate break the invariant that is named beside it.

use reeve::plan::gates::Gate;

use crate::scenario::Scenario;
use crate::scenarios::{foreign, held, jobs, networks, remove, rename, servers, with};
use crate::search::Bounds;

/// A scenario, and the gates that are missed in it.
pub struct Proof {
    pub scenario: fn() -> Scenario,
    /// How many faults and crashes may come on one way.
    pub bounds: Bounds,
    /// Each with how the oracle's reason begins.
    pub missed: &'static [(Gate, &'static str)],
}

/// One crash or one fault, of the kinds that the scenario names.
const ONE: Bounds = Bounds { faults: 1, stale: 0, together: false, states: 4_000 };
/// Crashes, so many faults and changes of the spec on one way.
const fn together(faults: u32) -> Bounds {
    Bounds { faults, stale: 0, together: true, states: 4_000 }
}

/// Replaced start-first.
pub const WEB: &str = r#"
name: shop
services:
  web:
    image: localhost/web:1
    deploy: { replicas: 2, update_config: { order: start-first, parallelism: 1 } }
    ports: ["80"]
    healthcheck: { test: [CMD, check], interval: 1s }
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  web: { service: web, listen: 8080, drain: 10s }
"#;

/// Replaced stop-first on a fixed range of ports.
pub const FIXED: &str = r#"
name: shop
services:
  fixed:
    image: localhost/fixed:1
    deploy: { replicas: 2, update_config: { order: stop-first, parallelism: 1 } }
    ports: ["81-82:80"]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  fixed: { service: fixed, listen: 8081, drain: 10s }
"#;

/// Registered for others, and routed by no upstream of ours; on a network that has to be made.
const CATALOG_ONLY: &str = r#"
name: shop
services:
  web:
    image: localhost/web:1
    deploy: { replicas: 2, update_config: { order: start-first, parallelism: 1 } }
    ports: ["80"]
    networks: [lan]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
networks: { lan: {} }
"#;

/// What it is registered as can change while it stays.
pub const TWO_PORTS: &str = r#"
name: shop
services:
  web:
    image: localhost/web:1
    deploy: { replicas: 2, update_config: { order: start-first } }
    ports: ["80", "90"]
    healthcheck: { test: [CMD, check], interval: 1s }
    register: { port: 80, check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  web: { service: web, listen: 8080, drain: 5s }
"#;

fn start_first(name: &'static str) -> Scenario {
    Scenario::new(name, &[WEB, &with(WEB, &[("web:1", "web:2")])]).settled()
}

fn stop_first(name: &'static str) -> Scenario {
    Scenario::new(name, &[FIXED, &with(FIXED, &[("fixed:1", "fixed:2")])]).settled()
}

// -------------------------------------------------------------------------------------------- replacing

fn first_deploy() -> Scenario {
    Scenario::new("first deploy", &[CATALOG_ONLY]).only(&["crash"])
}

fn roll() -> Scenario {
    start_first("roll").only(&["crash"])
}

fn roll_of_what_is_not_routed() -> Scenario {
    let rolled = with(CATALOG_ONLY, &[("web:1", "web:2")]);
    Scenario::new("roll of what is not routed", &[CATALOG_ONLY, &rolled]).settled().only(&["crash"])
}

fn roll_loses_an_old_replica() -> Scenario {
    start_first("roll, and an old replica is removed by hand").only(&["removed"])
}

fn roll_stop_first_fails_a_check() -> Scenario {
    stop_first("roll stop-first, and a check fails").only(&["critical"])
}

fn roll_stop_first_name_taken() -> Scenario {
    stop_first("roll stop-first, and a stranger takes the name").only(&["name_taken"])
}

fn removed_from_its_port() -> Scenario {
    stop_first("a replica on a fixed port is removed by hand").only(&["removed"])
}

fn dies() -> Scenario {
    start_first("roll, and a replica dies").only(&["dies"])
}

fn job() -> Scenario {
    jobs().settled().only(&[])
}

fn network_replaced() -> Scenario {
    networks().settled().only(&[])
}

fn leaves() -> Scenario {
    remove().settled().only(&[])
}

fn comes_back_renamed() -> Scenario {
    rename().settled().only(&[])
}

fn consul_servers() -> Scenario {
    servers().settled().only(&[])
}

fn half_a_file() -> Scenario {
    held().settled().only(&[])
}

// -------------------------------------------------------------------------------------------- draining

fn roll_unseen() -> Scenario {
    start_first("roll, and something cannot be read").only(&["hidden"])
}

fn leaves_unseen() -> Scenario {
    remove().settled().only(&["hidden"])
}

fn roll_deregistered() -> Scenario {
    stop_first("roll stop-first, and a replica is deregistered by hand").only(&["deregistered"])
}

fn roll_generations_deleted() -> Scenario {
    stop_first("roll stop-first, and the generations are deleted").only(&["generations_deleted", "crash"])
}

fn older_generation_loaded() -> Scenario {
    let one = with(WEB, &[("replicas: 2", "replicas: 1")]);
    let kinds = &["switched_back", "reloaded_by_hand", "time_passes"];
    Scenario::new("somebody loads an older generation", &[WEB, &one]).settled().only(kinds)
}

// -------------------------------------------------------------------------------------------- failing

fn one_of_two_fails() -> Scenario {
    let text = with(WEB, &[("replicas: 2", "replicas: 3"), ("parallelism: 1 }", "parallelism: 2, x-deadline: 5s }")]);
    let second = with(&text, &[("web:1", "web:second")]);
    Scenario::new("one of two new replicas fails", &[&text, &second]).settled().only(&["dies"])
}

fn slow_roll() -> Scenario {
    let text = with(WEB, &[("parallelism: 1 }", "parallelism: 1, monitor: 10s, delay: 60s }")]);
    Scenario::new("roll with monitor and delay", &[&text, &with(&text, &[("web:1", "web:2")])]).settled().only(&[])
}

pub const ROLLBACK: &str = "monitor: 10s, x-deadline: 20s, failure_action: rollback }";

fn rolled_back() -> Scenario {
    let text = with(WEB, &[("parallelism: 1 }", ROLLBACK)]);
    let bad = with(&text, &[("web:1", "web:bad")]);
    Scenario::new("rolled back", &[&text, &bad]).settled().only(&["hidden_directory", "kept_lost"])
}

fn rolled_back_twice() -> Scenario {
    let text = with(FIXED, &[("parallelism: 1 }", &format!("parallelism: 2, {ROLLBACK}"))]);
    let good = with(&text, &[("fixed:1", "fixed:2")]);
    let second = with(&text, &[("fixed:1", "fixed:second")]);
    let name = "rolled back, and what served before dies, too";
    Scenario::new(name, &[&text, &good, &second]).settled().in_turn().only(&["dies"]).faults_from(2)
}

// -------------------------------------------------------------------------------------------- registering

fn removed_from_its_name() -> Scenario {
    Scenario::new("a replica is removed by hand", &[WEB]).settled().only(&["removed", "crash"])
}

fn unhealthy_and_dead() -> Scenario {
    Scenario::new("a replica is restarted, and dies", &[WEB]).settled().only(&["restarted", "dies"])
}

fn registration_taken() -> Scenario {
    Scenario::new("another owner has the registration's id", &[WEB]).only(&["registration_taken"])
}

fn no_leader() -> Scenario {
    Scenario::new("first deploy without a leader", &[CATALOG_ONLY]).only(&["leader_lost"])
}

fn maintenance() -> Scenario {
    Scenario::new("an operator's maintenance", &[WEB]).settled().only(&["maintenance"])
}

fn other_check() -> Scenario {
    let changed = with(TWO_PORTS, &[("http: /,", "http: /up,")]);
    Scenario::new("another check", &[TWO_PORTS, &changed]).settled().only(&["unhealthy"])
}

fn other_port() -> Scenario {
    let changed = with(TWO_PORTS, &[("port: 80,", "port: 90,")]);
    Scenario::new("registered by another port", &[TWO_PORTS, &changed]).settled().only(&["crash"])
}

fn not_registered_any_more(kinds: &'static [&'static str]) -> Scenario {
    let register = "    register: { port: 80, check: { http: /, interval: 5s, timeout: 1s } }\n";
    let upstreams = "upstreams:\n  web: { service: web, listen: 8080, drain: 5s }\n";
    let bare = with(TWO_PORTS, &[(register, ""), (upstreams, "")]);
    Scenario::new("not registered any more", &[TWO_PORTS, &bare]).settled().only(kinds)
}

fn registration_leaves() -> Scenario {
    not_registered_any_more(&["crash"])
}

fn registration_leaves_unseen() -> Scenario {
    not_registered_any_more(&["generations_deleted", "crash"])
}

// -------------------------------------------------------------------------------------------- routing

fn catalog_lost() -> Scenario {
    foreign().settled().only(&["catalog_lost"])
}

fn keeps_when_empty() -> Scenario {
    let one = [("replicas: 2", "replicas: 1"), ("81-82", "81"), ("drain: 10s", "drain: 10s, when_empty: keep")];
    let text = with(FIXED, &one);
    Scenario::new("when_empty: keep", &[&text, &with(&text, &[("fixed:1", "fixed:2")])]).settled().only(&[])
}

fn listen_taken() -> Scenario {
    Scenario::new("first deploy on a port that is taken", &[WEB]).only(&["listen_taken"])
}

fn not_included() -> Scenario {
    start_first("roll, and the include is removed").only(&["include_removed"])
}

fn orphans() -> Scenario {
    start_first("roll, and nginx's master is killed").only(&["nginx_killed"])
}

fn generation_lost() -> Scenario {
    let name = "the generations are deleted, and something cannot be read";
    Scenario::new(name, &[WEB]).settled().only(&["generations_deleted", "hidden"])
}

fn edited() -> Scenario {
    Scenario::new("a generation is edited", &[WEB]).only(&["edited", "crash"])
}

fn refused() -> Scenario {
    start_first("roll, and nginx refuses").only(&["refuses"])
}

fn refused_after_a_crash() -> Scenario {
    let kinds = &["unhealthy", "refuses", "crash"];
    let three = with(WEB, &[("replicas: 2", "replicas: 3")]);
    Scenario::new("nginx refuses after a crash between switch and reload", &[&three]).settled().only(kinds)
}

fn old_workers() -> Scenario {
    let moved: Vec<String> = (8080..8088).map(|port: u16| WEB.replace("8080", &port.to_string())).collect();
    let texts: Vec<&str> = moved.iter().map(String::as_str).collect();
    Scenario::new("many generations while reloads are held", &texts).settled().in_turn().old_workers(10).only(&[])
}

/// Every gate, once.
pub const PROOFS: &[Proof] = &[
    Proof {
        scenario: first_deploy,
        bounds: ONE,
        missed: &[(Gate::Resources, "its network is not there"), (Gate::Healthy, "it registers what is not healthy")],
    },
    Proof {
        scenario: roll,
        bounds: ONE,
        missed: &[
            (Gate::Surge, "4 containers of web, and 3 are the most"),
            (Gate::Capacity, "web in Consul: 2 serve, and then 1, where 2 must"),
            (Gate::Drain, "it stops what Consul gives out"),
            (Gate::Unrouted, "the drain time begins while nginx routes to it"),
            (Gate::DrainTime, "it stops 0s after nginx last routed to it, where the drain is 10s"),
            (Gate::KeepRegistered, "web in Consul: 2 serve, and then 1, where 2 must"),
            (Gate::HealthChanged, "it does the same in every pass"),
        ],
    },
    Proof {
        scenario: roll_of_what_is_not_routed,
        bounds: ONE,
        missed: &[(Gate::ProvenCheck, "web in Consul: 2 are proven to serve, and then 1, where 2 must")],
    },
    Proof {
        scenario: roll_loses_an_old_replica,
        bounds: ONE,
        missed: &[(Gate::Parallelism, "2 new replicas of web that do not serve, and 1 are the most")],
    },
    Proof {
        scenario: roll_stop_first_fails_a_check,
        bounds: ONE,
        missed: &[
            (Gate::Room, "2 replicas of fixed are down at a time, and 1 are the most"),
            (Gate::AwaitedRoute, "2 replicas of fixed are down at a time, and 1 are the most"),
        ],
    },
    Proof {
        scenario: roll_stop_first_name_taken,
        bounds: ONE,
        missed: &[
            (Gate::StopFirst, "stop-first: the old replica of the slot is still there"),
            (Gate::Strangers, "the name is somebody else's"),
            (Gate::Replaceable, "a stranger is in the way of fixed, of which 2 served then, and 1 do now"),
        ],
    },
    Proof {
        scenario: removed_from_its_port,
        bounds: ONE,
        missed: &[(Gate::PortStillRouted, "it starts where nginx sends the requests of another one")],
    },
    Proof {
        scenario: dies,
        bounds: ONE,
        missed: &[
            (Gate::RestartPause, "it starts again at once what died at once"),
            (Gate::SeenUnfit, "web goes on routing to"),
        ],
    },
    Proof {
        scenario: job,
        bounds: ONE,
        missed: &[(Gate::Dependency, "it starts before migrate, which it depends on")],
    },
    Proof {
        scenario: network_replaced,
        bounds: ONE,
        missed: &[(Gate::NetworkInUse, "it removes a network that containers are attached to")],
    },
    Proof {
        scenario: leaves,
        bounds: ONE,
        missed: &[
            (Gate::RegisteringFirst, "it leaves before the last registration of the services that leave"),
            (Gate::DependentsFirst, "it leaves before worker, which depended on it"),
        ],
    },
    Proof {
        scenario: comes_back_renamed,
        bounds: ONE,
        missed: &[(Gate::Succession, "fixed in Consul: 1 serve, and then 0, where 1 must")],
    },
    Proof { scenario: consul_servers, bounds: ONE, missed: &[(Gate::Peers, "it stops a second server of Consul")] },
    Proof {
        scenario: half_a_file,
        bounds: ONE,
        missed: &[(Gate::MassRemoval, "the spec removes too much at once, and nobody said that it is meant")],
    },
    Proof {
        scenario: roll_unseen,
        bounds: ONE,
        missed: &[
            (Gate::ConsulKnown, "it stops a registered one without seeing Consul"),
            (Gate::CapacitySeen, "it drains without seeing what nginx routes"),
            (Gate::DockerKnown, "it deregisters without seeing Docker"),
            (Gate::CatalogKnown, "web loses"),
            (Gate::ReplicasKnown, "web loses"),
        ],
    },
    Proof {
        scenario: leaves_unseen,
        bounds: ONE,
        missed: &[(Gate::Stranded, "fixed loses"), (Gate::RemovalsSeen, "fixed loses")],
    },
    Proof {
        scenario: roll_deregistered,
        bounds: ONE,
        missed: &[
            (Gate::BearsTraffic, "it stops what nginx routes to"),
            (Gate::NotRetiring, "it registers again what was drained"),
            (Gate::Unlisted, "upstream fixed: 1 serve, and then 0, where 1 must"),
        ],
    },
    Proof {
        scenario: roll_generations_deleted,
        bounds: together(1),
        missed: &[(Gate::RoutedKnown, "the drain time begins while nginx routes to it")],
    },
    Proof {
        scenario: older_generation_loaded,
        bounds: together(3),
        missed: &[(Gate::ClockStops, "it stops 0s after nginx last routed to it, where the drain is 10s")],
    },
    Proof { scenario: one_of_two_fails, bounds: ONE, missed: &[(Gate::Paused, "one more is replaced although")] },
    Proof {
        scenario: slow_roll,
        bounds: ONE,
        missed: &[
            (Gate::Monitor, "one is replaced while the newest replica is still watched"),
            (Gate::Delay, "the next one is made before the delay is over"),
        ],
    },
    Proof {
        scenario: rolled_back,
        bounds: together(1),
        missed: &[
            (Gate::Deadline, "it gives up a replica that may still become ready"),
            (Gate::RolledBack, "it rolls out again what was given up"),
            (Gate::PinsKnown, "it is replaced while its pins cannot be read"),
        ],
    },
    Proof {
        scenario: rolled_back_twice,
        bounds: together(1),
        missed: &[(Gate::OneWayBack, "it gives up what it went back to")],
    },
    Proof {
        scenario: removed_from_its_name,
        bounds: together(1),
        missed: &[(Gate::SameContainer, "edge-1:shop-web-1-")],
    },
    Proof {
        scenario: unhealthy_and_dead,
        bounds: together(2),
        missed: &[(Gate::SettledAddress, "it says of a dead one that it is healthy")],
    },
    Proof {
        scenario: registration_taken,
        bounds: ONE,
        missed: &[(Gate::RegistrationOwner, "the registration is somebody else's")],
    },
    Proof { scenario: no_leader, bounds: ONE, missed: &[(Gate::Leader, "it registers while Consul has no leader")] },
    Proof {
        scenario: maintenance,
        bounds: ONE,
        missed: &[(Gate::OperatorMaintenance, "it lifts an operator's maintenance")],
    },
    Proof { scenario: other_check, bounds: ONE, missed: &[(Gate::FitDefinition, "it registers what is not healthy")] },
    Proof {
        scenario: other_port,
        bounds: ONE,
        missed: &[
            (Gate::SuccessorServes, "upstream web: 2 serve, and then 0, where 2 must"),
            (Gate::ContainerGone, "it deregisters what nginx routes to"),
        ],
    },
    Proof {
        scenario: registration_leaves,
        bounds: ONE,
        missed: &[
            (Gate::RegistrationUnrouted, "the drain time begins while nginx routes to it"),
            (Gate::RegistrationDrainTime, "it deregisters 0s after nginx last routed to it"),
        ],
    },
    Proof {
        scenario: registration_leaves_unseen,
        bounds: together(1),
        missed: &[(Gate::RegistrationRoutedKnown, "the drain time begins while nginx routes to it")],
    },
    Proof { scenario: catalog_lost, bounds: ONE, missed: &[(Gate::Distrust, "legacy loses")] },
    Proof { scenario: keeps_when_empty, bounds: ONE, missed: &[(Gate::LeavesWhenEmpty, "it ends elsewhere")] },
    Proof {
        scenario: listen_taken,
        bounds: ONE,
        missed: &[(Gate::ListenFree, "it switches to what listens on somebody else's port")],
    },
    Proof {
        scenario: not_included,
        bounds: ONE,
        missed: &[(Gate::Included, "it switches to what the main configuration does not include")],
    },
    Proof { scenario: orphans, bounds: ONE, missed: &[(Gate::Orphans, "it reloads an nginx without a master")] },
    Proof { scenario: generation_lost, bounds: together(2), missed: &[(Gate::ContentSeen, "web loses")] },
    Proof {
        scenario: edited,
        bounds: together(1),
        missed: &[(Gate::Usable, "it loads what has not passed the check")],
    },
    Proof {
        scenario: refused,
        bounds: ONE,
        missed: &[(Gate::RetryLater, "it writes again at once what nginx has refused")],
    },
    Proof {
        scenario: refused_after_a_crash,
        bounds: together(3),
        missed: &[(Gate::CurrentOutdated, "it loads web with")],
    },
    Proof {
        scenario: old_workers,
        bounds: together(0),
        missed: &[(Gate::InUse, "it removes the generation that nginx runs")],
    },
];
