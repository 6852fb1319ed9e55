//! Registrator's rules as a table: what a container's variables and ports become, and what they do not.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{Surroundings, claims};
use crate::observed::{ContainerState, Discovered, Docker, Health, NetworkEndpoint, Networks, PublishedPort, Stranger};
use crate::plan::action::{WantedCheck, WantedKind};
use crate::spec::Protocol;
use crate::spec::discovery::{DiscoveredAddress, DiscoveredIds, Discovers, Discovery};

fn discovery() -> Discovery {
    Discovery {
        containers: Discovers::All,
        address: DiscoveredAddress::Published,
        networks: Vec::new(),
        tags: Vec::new(),
        ids: DiscoveredIds::Registrator,
        hostname: None,
        metadata: ["team".to_owned(), "version".to_owned()].into(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `0.0.0.0:8080:80/tcp`.
fn published(text: &str) -> PublishedPort {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, target) = rest.rsplit_once(':').expect("a container port");
    let (host_ip, host) = rest.rsplit_once(':').expect("a host port");
    let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    let host_ip = Some(address(host_ip.trim_matches(['[', ']'])));
    PublishedPort { target: target.parse().expect("a port"), protocol, host_ip, host: host.parse().expect("a port") }
}

fn endpoint(text: &str) -> NetworkEndpoint {
    NetworkEndpoint { address: Some(address(text)), ..NetworkEndpoint::default() }
}

/// Container `redis-1` of `registry:5000/cache/redis:7`, with these ports, and variables one a line.
fn container(ports: &[&str], variables: &str) -> Discovered {
    let published: Vec<PublishedPort> = ports.iter().map(|port| published(port)).collect();
    Discovered {
        id: "0123456789abcdef".to_owned(),
        name: "redis-1".to_owned(),
        image: "registry:5000/cache/redis:7".to_owned(),
        variables: variables
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("\\n", "\n")))
            .collect(),
        exposed: published.iter().map(|port| (port.target, port.protocol)).collect(),
        published,
        networks: Networks::from_iter([("bridge".to_owned(), endpoint("172.17.0.5"))]),
        network_mode: "bridge".to_owned(),
        state: ContainerState::Running { started_at: Timestamp::UNIX_EPOCH },
        health: Health::None,
        stopping: None,
        unreadable: None,
    }
}

fn kind(check: &WantedCheck) -> String {
    match &check.kind {
        WantedKind::Http { tls, path, method, skip_verify } => {
            let method = method.as_deref().unwrap_or("GET");
            format!(
                "http{} {method} {path}{}",
                if *tls { "s" } else { "" },
                if *skip_verify { " unverified" } else { "" }
            )
        }
        WantedKind::Tcp => "tcp".to_owned(),
        WantedKind::Grpc { tls, skip_verify, .. } => {
            format!("grpc{}{}", if *tls { " tls" } else { "" }, if *skip_verify { " unverified" } else { "" })
        }
        WantedKind::Command { words } => format!("run {words:?}"),
        WantedKind::Ttl { within } => format!("ttl {}s", within.as_secs()),
    }
}

/// One line for each claim: `name id at address:port [tags] {meta} check`, or `id: reason`.
fn lines_of(discovery: &Discovery, docker: &Docker) -> Vec<String> {
    let surroundings = Surroundings {
        docker,
        node: "edge-1",
        host_name: "host1",
        preferred: &discovery.networks,
        advertise: &|_| Some("192.0.2.10".to_owned()),
        reached: &|_| None,
    };
    claims(discovery, &surroundings, |_| None)
        .into_iter()
        .map(|claim| match claim.wanted {
            Err(reason) => format!("{}: {reason}", claim.id),
            Ok(wanted) => {
                let mut line = format!("{} {} at {}:{}", wanted.name, wanted.id, wanted.address, wanted.port);
                if !wanted.tags.is_empty() {
                    line += &format!(" [{}]", wanted.tags.join("|"));
                }
                for (key, value) in &wanted.meta {
                    line += &format!(" {key}={value}");
                }
                if let Some(check) = &wanted.check {
                    line += &format!(" {}", kind(check));
                }
                line
            }
        })
        .collect()
}

fn docker(containers: impl IntoIterator<Item = Discovered>) -> Docker {
    let discovered = containers.into_iter().map(|container| (container.id.clone(), container)).collect();
    Docker { discovered, ..Docker::default() }
}

#[track_caller]
fn becomes(discovery: &Discovery, container: Discovered, wanted: &[&str]) {
    let variables = container.variables.clone();
    assert_eq!(lines_of(discovery, &docker([container])), wanted, "{variables:?}");
}

const ONE: &[&str] = &["0.0.0.0:32768:6379"];
const TWO: &[&str] = &["0.0.0.0:32768:80", "0.0.0.0:32769:443"];

#[test]
fn names_ids_tags_and_metadata_are_registrators() {
    let rows: &[(&[&str], &str, &[&str])] = &[
        // The image's name, without registry, folders and tag.
        (ONE, "", &["redis host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_NAME=cache", &["cache host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_6379_NAME=cache", &["cache host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_6379_NAME=a\nSERVICE_NAME=b", &["a host1:redis-1:6379 at 192.0.2.10:32768"]),
        // Of another port.
        (ONE, "SERVICE_80_NAME=web", &["redis host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_name=cache", &["cache host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "service_NAME=cache", &["redis host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_NAME=", &["redis host1:redis-1:6379 at 192.0.2.10:32768"]),
        // Several ports: the port behind the name, but for a name of its own.
        (
            TWO,
            "",
            &["redis-80 host1:redis-1:80 at 192.0.2.10:32768", "redis-443 host1:redis-1:443 at 192.0.2.10:32769"],
        ),
        (
            TWO,
            "SERVICE_NAME=web",
            &["web-80 host1:redis-1:80 at 192.0.2.10:32768", "web-443 host1:redis-1:443 at 192.0.2.10:32769"],
        ),
        (
            TWO,
            "SERVICE_443_NAME=secure",
            &["redis-80 host1:redis-1:80 at 192.0.2.10:32768", "secure host1:redis-1:443 at 192.0.2.10:32769"],
        ),
        // What is ignored still counts.
        (TWO, "SERVICE_443_IGNORE=true", &["redis-80 host1:redis-1:80 at 192.0.2.10:32768"]),
        (TWO, "SERVICE_IGNORE=1", &[]),
        (ONE, "SERVICE_IGNORE=false", &["redis host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_IGNORE=no", &["redis host1:redis-1:6379 at 192.0.2.10:32768"]),
        (ONE, "SERVICE_IGNORE=please", &[]),
        // Ids.
        (ONE, "SERVICE_ID=mine", &["redis mine at 192.0.2.10:32768"]),
        (ONE, "SERVICE_6379_ID=mine", &["redis mine at 192.0.2.10:32768"]),
        (
            &["0.0.0.0:53:53", "0.0.0.0:53:53/udp"],
            "",
            &["redis-53 host1:redis-1:53 at 192.0.2.10:53", "redis-53 host1:redis-1:53:udp at 192.0.2.10:53 [udp]"],
        ),
        // Tags.
        (ONE, "SERVICE_TAGS=c,b,a", &["redis host1:redis-1:6379 at 192.0.2.10:32768 [c|b|a]"]),
        (ONE, r"SERVICE_TAGS=a\,b,,c,a\,b", &["redis host1:redis-1:6379 at 192.0.2.10:32768 [a,b|c]"]),
        (ONE, r"SERVICE_TAGS=a\b, d", &[r"redis host1:redis-1:6379 at 192.0.2.10:32768 [a\b| d]"]),
        (ONE, "SERVICE_TAGS=a\nSERVICE_6379_TAGS=b", &["redis host1:redis-1:6379 at 192.0.2.10:32768 [b]"]),
        // Only what the spec allows is published.
        (
            ONE,
            "SERVICE_TEAM=shop\nSERVICE_PASSWORD=hunter2\nSERVICE_CHECK_TTL=30s",
            &["redis host1:redis-1:6379 at 192.0.2.10:32768 team=shop ttl 30s"],
        ),
        (ONE, "SERVICE_6379_VERSION=7", &["redis host1:redis-1:6379 at 192.0.2.10:32768 version=7"]),
    ];
    for (ports, variables, wanted) in rows {
        becomes(&discovery(), container(ports, variables), wanted);
    }
}

#[test]
fn every_check_of_registrator_has_its_counterpart() {
    for (variables, wanted) in [
        ("SERVICE_CHECK_HTTP=/health", "http GET /health"),
        ("SERVICE_CHECK_HTTP=/h\nSERVICE_CHECK_HTTP_METHOD=head", "http HEAD /h"),
        ("SERVICE_6379_CHECK_HTTP=/own\nSERVICE_CHECK_HTTP=/all", "http GET /own"),
        ("SERVICE_CHECK_HTTPS=/h\nSERVICE_CHECK_HTTPS_METHOD=PUT", "https PUT /h"),
        ("SERVICE_CHECK_HTTPS=/h\nSERVICE_CHECK_TLS_SKIP_VERIFY=true", "https GET /h unverified"),
        ("SERVICE_CHECK_CMD=/bin/check --all", r#"run ["check-cmd", "0123456789ab", "6379", "/bin/check", "--all"]"#),
        (
            "SERVICE_CHECK_SCRIPT=nc -z '$SERVICE_IP' $SERVICE_PORT \"a b\"; reboot",
            r#"run ["nc", "-z", "192.0.2.10", "32768", "a b;", "reboot"]"#,
        ),
        ("SERVICE_CHECK_TTL=30s", "ttl 30s"),
        ("SERVICE_CHECK_TCP=true", "tcp"),
        ("SERVICE_CHECK_GRPC=true", "grpc"),
        ("SERVICE_CHECK_GRPC=1\nSERVICE_CHECK_GRPC_USE_TLS=1\nSERVICE_CHECK_TLS_SKIP_VERIFY=1", "grpc tls unverified"),
        // The first of registrator's order counts.
        ("SERVICE_CHECK_TCP=true\nSERVICE_CHECK_HTTP=/h", "http GET /h"),
    ] {
        becomes(
            &discovery(),
            container(ONE, variables),
            &[&format!("redis host1:redis-1:6379 at 192.0.2.10:32768 {wanted}")],
        );
    }
    becomes(
        &discovery(),
        container(ONE, "SERVICE_CHECK_TCP=false\nSERVICE_CHECK_INTERVAL=1s"),
        &["redis host1:redis-1:6379 at 192.0.2.10:32768"],
    );
}

#[test]
fn a_check_has_registrators_times_and_begins_as_critical() {
    let check = |variables: &str| {
        let docker = docker([container(ONE, variables)]);
        let discovery = discovery();
        let surroundings = Surroundings {
            docker: &docker,
            node: "edge-1",
            host_name: "host1",
            preferred: &[],
            advertise: &|_| Some("192.0.2.10".to_owned()),
            reached: &|networks| networks.get("bridge").expect("its network").address,
        };
        let mut claims = claims(&discovery, &surroundings, |_| None);
        claims.remove(0).wanted.expect("it can be registered").check.expect("it has a check")
    };
    let plain = check("SERVICE_CHECK_TCP=yes");
    assert_eq!((plain.interval.as_secs(), plain.timeout, plain.deregister_after), (10, None, None));
    assert_eq!(plain.initial.to_string(), "critical");
    // docker-proxy accepts connections although nothing listens.
    assert_eq!((plain.address.as_str(), plain.port), ("172.17.0.5", 6379));
    let full = check(
        "SERVICE_CHECK_TCP=yes\nSERVICE_CHECK_INTERVAL=1m30s\nSERVICE_CHECK_TIMEOUT=2s\nSERVICE_CHECK_DEREGISTER_AFTER=10m\n\
         SERVICE_CHECK_INITIAL_STATUS=passing",
    );
    assert_eq!((full.interval.as_secs(), full.timeout.map(|t| t.as_secs())), (90, Some(2)));
    assert_eq!((full.deregister_after.map(|t| t.as_secs()), full.initial.to_string().as_str()), (Some(600), "passing"));
    assert_ne!(plain.digest, full.digest);
}

#[test]
fn what_consul_would_refuse_or_nobody_could_mean_is_a_reason() {
    let long = format!("SERVICE_TEAM={}", "x".repeat(513));
    for (variables, words) in [
        ("SERVICE_NAME=a/b", "is not a name for a Consul service: `/` is not allowed"),
        ("SERVICE_NAME=a b", "is not a name for a Consul service"),
        ("SERVICE_NAME=a\\nb", r#""a\nb" (by SERVICE_NAME) is not a name"#),
        ("SERVICE_TAGS=a,b\\nc", "control characters"),
        ("SERVICE_TEAM=a\\nb", "SERVICE_TEAM holds a line break"),
        (&long, "SERVICE_TEAM has 513 bytes; Consul takes at most 512"),
        ("SERVICE_ID=a\\nb", "SERVICE_ID must be"),
        ("SERVICE_CHECK_HTTP=health", "SERVICE_CHECK_HTTP must be a path"),
        ("SERVICE_CHECK_HTTP=/a b", "holds no blanks"),
        ("SERVICE_CHECK_HTTPS=/\nSERVICE_CHECK_HTTPS_METHOD=G T", "SERVICE_CHECK_HTTPS_METHOD is no method"),
        ("SERVICE_CHECK_SCRIPT=echo 'a", "cannot be split into words: a quote is not closed"),
        ("SERVICE_CHECK_CMD='' x", "it names no program"),
        ("SERVICE_CHECK_TTL=soon", "SERVICE_CHECK_TTL is no duration"),
        ("SERVICE_CHECK_TCP=1\nSERVICE_CHECK_INTERVAL=0", "SERVICE_CHECK_INTERVAL must be more than 0"),
        ("SERVICE_CHECK_TCP=1\nSERVICE_CHECK_INITIAL_STATUS=good", "must be passing, warning or critical"),
    ] {
        let lines = lines_of(&discovery(), &docker([container(ONE, variables)]));
        let [line] = lines.as_slice() else { panic!("{variables}: {lines:?}") };
        assert!(line.contains(words), "{variables}: {line}");
        assert!(!line.contains(" at 192"), "{variables}: {line}");
    }
}

#[test]
fn the_image_gives_a_name_unless_it_is_given_by_an_id() {
    for (image, name) in [
        ("redis", Some("redis")),
        ("localhost:5000/a/foo:1", Some("foo")),
        ("a/foo@sha256:0123", Some("foo")),
        ("my.app:2", Some("my.app")),
        ("sha256:0123456789abcdef", None),
        ("0123456789ab", None),
        ("", None),
    ] {
        let lines = lines_of(&discovery(), &docker([Discovered { image: image.to_owned(), ..container(ONE, "") }]));
        match name {
            Some(name) => assert!(lines[0].starts_with(&format!("{name} host1:")), "{image}: {lines:?}"),
            None => assert!(lines[0].contains("set SERVICE_NAME"), "{image}: {lines:?}"),
        }
    }
}

#[test]
fn a_host_port_goes_with_an_address_of_the_host_and_the_best_of_several_counts() {
    let at = |ports: &[&str]| {
        let lines = lines_of(&discovery(), &docker([container(ports, "SERVICE_NAME=a")]));
        lines
            .iter()
            .map(|line| line.rsplit_once(" at ").map_or(line.as_str(), |(_, at)| at).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(at(&["127.0.0.1:8080:80"]), ["127.0.0.1:8080"], "this host alone reaches it, and it does");
    assert_eq!(at(&["192.0.2.7:8080:80"]), ["192.0.2.7:8080"]);
    assert_eq!(at(&["127.0.0.1:8080:80", "192.0.2.7:8081:80"]), ["192.0.2.7:8081"]);
    assert_eq!(at(&["0.0.0.0:8090:80", "127.0.0.1:8080:80"]), ["192.0.2.10:8090"]);
    assert_eq!(at(&["[::]:8080:80", "0.0.0.0:8080:80"]), ["192.0.2.10:8080"]);
    // Docker may give the two families different ports.
    assert_eq!(at(&["[::]:8080:80", "0.0.0.0:8090:80"]), ["192.0.2.10:8090"]);
    assert!(at(&["[::]:8080:80"])[0].contains("nobody would answer"));
    assert_eq!(at(&["[2001:db8::7]:8080:80"]), ["2001:db8::7:8080"]);
    assert_eq!(at(&["0.0.0.0:8002:82", "0.0.0.0:8000:80", "0.0.0.0:8001:81"]).len(), 3, "a range is its ports");
    assert!(at(&["0.0.0.0:0:80"])[0].contains("has not told yet"));
    // Exposed and not published.
    let silent = Discovered { exposed: vec![(80, Protocol::Tcp)], ..container(&[], "") };
    assert_eq!(lines_of(&discovery(), &docker([silent])), [""; 0]);
}

#[test]
fn a_container_port_goes_with_the_address_on_the_network_that_is_chosen() {
    let container = |networks: &[(&str, &str)]| Discovered {
        exposed: vec![(6379, Protocol::Tcp)],
        networks: networks.iter().map(|(name, at)| ((*name).to_owned(), endpoint(at))).collect(),
        ..container(&[], "")
    };
    let discovery = |networks: &[&str]| Discovery {
        address: DiscoveredAddress::Container,
        networks: networks.iter().map(|name| (*name).to_owned()).collect(),
        ..discovery()
    };
    let one = [("app", "172.20.0.2")];
    let two = [("app", "172.20.0.2"), ("back", "172.21.0.2")];
    becomes(&discovery(&[]), container(&one), &["redis host1:redis-1:6379 at 172.20.0.2:6379"]);
    becomes(&discovery(&["back", "app"]), container(&two), &["redis host1:redis-1:6379 at 172.21.0.2:6379"]);
    becomes(&discovery(&["other", "app"]), container(&two), &["redis host1:redis-1:6379 at 172.20.0.2:6379"]);
    becomes(
        &discovery(&[]),
        container(&two),
        &["host1:redis-1:6379: it is attached to several networks (app, back); name one in `discovery.networks`"],
    );
    becomes(
        &discovery(&["web"]),
        container(&two),
        &["host1:redis-1:6379: it is on none of the networks of `discovery.networks` (web), but on: app, back"],
    );
    becomes(&discovery(&[]), container(&[("v6", "2001:db8::2")]), &["redis host1:redis-1:6379 at 2001:db8::2:6379"]);
}

#[test]
fn in_the_hosts_network_what_is_exposed_or_named_is_registered_at_the_host() {
    let host = |variables: &str| Discovered {
        exposed: vec![(80, Protocol::Tcp)],
        networks: Networks::from_iter([("host".to_owned(), NetworkEndpoint::default())]),
        network_mode: "host".to_owned(),
        ..container(&[], variables)
    };
    becomes(&discovery(), host(""), &["redis host1:redis-1:80 at 192.0.2.10:80"]);
    becomes(
        &discovery(),
        host("SERVICE_8080_NAME=admin\nSERVICE_80_IGNORE=1"),
        &["admin host1:redis-1:8080 at 192.0.2.10:8080"],
    );
    let none = Discovered { network_mode: "none".to_owned(), networks: Networks::new(), ..host("") };
    becomes(&discovery(), none, &[]);
}

#[test]
fn in_another_containers_network_its_ports_and_its_address_count() {
    let mut docker = docker([Discovered {
        exposed: vec![(80, Protocol::Tcp), (81, Protocol::Tcp)],
        networks: Networks::new(),
        network_mode: "container:other".to_owned(),
        ..container(&[], "")
    }]);
    let gone = lines_of(&discovery(), &docker);
    assert!(gone[0].contains("in the network of container other, which is not there"), "{gone:?}");
    let other = Stranger {
        published: vec![published("0.0.0.0:8080:80")],
        networks: Networks::from_iter([("app".to_owned(), endpoint("172.20.0.9"))]),
        ..Stranger::default()
    };
    docker.strangers.insert("other".to_owned(), other);
    assert_eq!(lines_of(&discovery(), &docker), ["redis host1:redis-1:80 at 192.0.2.10:8080"]);
    let inside = Discovery { address: DiscoveredAddress::Container, ..discovery() };
    assert_eq!(
        lines_of(&inside, &docker),
        ["redis-80 host1:redis-1:80 at 172.20.0.9:80", "redis-81 host1:redis-1:81 at 172.20.0.9:81"]
    );
}

#[test]
fn the_spec_chooses_containers_ids_and_tags() {
    let labelled = Discovery { containers: Discovers::Labelled, ..discovery() };
    becomes(&labelled, container(TWO, ""), &[]);
    becomes(&labelled, container(TWO, "SERVICE_443_NAME=secure"), &["secure host1:redis-1:443 at 192.0.2.10:32769"]);
    let own = Discovery { ids: DiscoveredIds::Reeve, tags: vec!["edge".to_owned()], ..discovery() };
    becomes(
        &own,
        container(&["0.0.0.0:53:53/udp"], "SERVICE_ID=mine\nSERVICE_TAGS=a"),
        &["redis edge-1:redis-1:53/udp at 192.0.2.10:53 [a|edge|udp]"],
    );
    let named = Discovery { hostname: Some("old-host".to_owned()), ..discovery() };
    becomes(&named, container(ONE, ""), &["redis old-host:redis-1:6379 at 192.0.2.10:32768"]);
}

#[test]
fn one_id_for_two_is_one_containers_alone_and_of_several_ports_nobodys() {
    let named =
        |name: &str| Discovered { id: name.to_owned(), name: name.to_owned(), ..container(ONE, "SERVICE_ID=same") };
    let both = docker([named("b"), named("a")]);
    assert_eq!(
        lines_of(&discovery(), &both),
        ["redis same at 192.0.2.10:32768", "same: container a has this id; give b another SERVICE_ID"]
    );
    let lines = lines_of(&discovery(), &docker([container(TWO, "SERVICE_ID=same")]));
    assert!(
        lines.iter().all(|line| line.contains("gives the ports 80/tcp and 443/tcp of container redis-1 one id")),
        "{lines:?}"
    );
}

#[test]
fn what_does_not_run_or_is_being_stopped_is_not_registered() {
    let stopping = Discovered { stopping: Some(Timestamp::UNIX_EPOCH), ..container(ONE, "") };
    becomes(&discovery(), stopping, &[]);
    let paused =
        Discovered { state: ContainerState::Paused { started_at: Timestamp::UNIX_EPOCH }, ..container(ONE, "") };
    becomes(&discovery(), paused, &[]);
    becomes(&discovery(), Discovered { unreadable: Some("hangs".to_owned()), ..container(ONE, "") }, &[]);
}
