//! What `create` sends to the engine for a configuration, as JSON. No engine is asked: what one makes of it is `tests/real`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::observed::ChosenPort;
use crate::spec::Protocol;
use crate::spec::container::{
    ConfigHash, ContainerConfig, Device, FileContent, FileMount, Logging, Mount, MountSource, Port, Published, Secret,
    Ulimit,
};

const OLD: ApiVersion = ApiVersion::new(1, 41);

fn owner() -> Owner {
    Owner { project: "shop".to_owned(), node: "edge-1".to_owned() }
}

fn new(config: ContainerConfig) -> NewContainer {
    NewContainer {
        name: "shop-web-1-0a1b2c3d".to_owned(),
        service: "web".to_owned(),
        slot: 1,
        hash: ConfigHash::from_label("v1:0a1b2c3d"),
        network_mode: config.network_mode.clone(),
        image: config.image.clone(),
        config: Arc::new(config),
        host_ports: Vec::new(),
        image_id: String::new(),
        registers: true,
        depends_on: BTreeSet::new(),
    }
}

fn body(new: &NewContainer, version: ApiVersion) -> Value {
    let creation = creation(new, &owner(), "sha256:1", version).expect("possible");
    serde_json::to_value(creation.body).expect("serialises")
}

/// Only `HostConfig`.
fn host_config(config: ContainerConfig) -> Value {
    body(&new(config), OLD)["HostConfig"].clone()
}

fn refusal(config: ContainerConfig) -> String {
    creation(&new(config), &owner(), "sha256:1", OLD).map(|_| ()).expect_err("refused")
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn mount(target: &str, source: MountSource, read_only: bool) -> Mount {
    Mount { target: target.to_owned(), source, read_only }
}

#[test]
fn what_the_spec_does_not_set_is_left_to_the_image_and_the_engine() {
    let config = ContainerConfig { image: "localhost/web:1".to_owned(), ..ContainerConfig::default() };
    let canonical = config.canonical();
    assert_eq!(
        body(&new(config), OLD),
        json!({
            "Image": "localhost/web:1",
            "HostConfig": {},
            "Labels": {
                "reeve.owner": "shop@edge-1",
                "reeve.service": "web",
                "reeve.slot": "1",
                "reeve.hash": "v1:0a1b2c3d",
                "reeve.config": canonical,
                "reeve.image": "sha256:1",
                "reeve.ports": "[]",
                "reeve.depends_on": "[]",
                "reeve.registers": "true",
                "reeve.files": "[]",
            },
        })
    );
}

#[test]
fn every_key_reaches_the_engine() {
    let environment = BTreeMap::from([
        ("A".to_owned(), EnvironmentValue::Plain("1=2".to_owned())),
        ("B".to_owned(), EnvironmentValue::Unset),
        ("TOKEN".to_owned(), EnvironmentValue::Secret(Secret::new("here", "hidden".to_owned()))),
    ]);
    let config = ContainerConfig {
        image: "web".to_owned(),
        command: Some(strings(&["run", "--fast"])),
        entrypoint: Some(strings(&["/bin/web"])),
        environment,
        labels: map(&[("team", "web"), ("reeve.owner", "forged")]),
        expose: strings(&["9000/tcp"]),
        healthcheck: Some(Healthcheck {
            test: Some(strings(&["CMD", "/bin/web", "--check"])),
            interval: Some(Duration::from_millis(1500)),
            timeout: Some(Duration::from_secs(1)),
            retries: Some(2),
            start_period: Some(Duration::from_secs(3)),
            start_interval: None,
        }),
        restart: Some(Restart::OnFailure { max_retries: Some(4) }),
        stop_signal: Some("SIGQUIT".to_owned()),
        stop_grace_period: Some(Duration::from_millis(1200)),
        user: Some("1:2".to_owned()),
        working_dir: Some("/srv".to_owned()),
        hostname: Some("h".to_owned()),
        domainname: Some("d.example".to_owned()),
        init: Some(true),
        privileged: Some(false),
        cap_add: strings(&["NET_ADMIN"]),
        cap_drop: strings(&["ALL"]),
        security_opt: strings(&["no-new-privileges"]),
        read_only: Some(true),
        shm_size: Some(64 << 20),
        ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 10, hard: 20 })]),
        sysctls: map(&[("net.core.somaxconn", "1024")]),
        extra_hosts: strings(&["db:192.0.2.1"]),
        dns: strings(&["192.0.2.53"]),
        dns_opt: strings(&["ndots:1"]),
        dns_search: strings(&["example"]),
        devices: vec![Device {
            host: "/dev/null".to_owned(),
            container: "/dev/zero".to_owned(),
            permissions: "rw".to_owned(),
        }],
        logging: Some(Logging { driver: Some("json-file".to_owned()), options: map(&[("max-size", "1m")]) }),
        tty: Some(true),
        stdin_open: Some(true),
        resources: Some(Resources {
            nano_cpus: Some(500_000_000),
            memory: Some(1 << 20),
            pids: Some(100),
            memory_reservation: Some(1 << 19),
        }),
        ..ContainerConfig::default()
    };
    let mut body = body(&new(config), OLD);
    let labels = body["Labels"].take();
    assert_eq!(labels["team"], "web");
    assert_eq!(labels["reeve.owner"], "shop@edge-1", "a spec cannot forge the mark");
    assert!(!labels.to_string().contains("hidden"), "a secret never becomes a label");
    assert_eq!(
        body,
        json!({
            "Image": "web",
            "Labels": null,
            "Cmd": ["run", "--fast"],
            "Entrypoint": ["/bin/web"],
            "Env": ["A=1=2", "B", "TOKEN=hidden"],
            "ExposedPorts": {"9000/tcp": {}},
            "Healthcheck": {
                "Test": ["CMD", "/bin/web", "--check"],
                "Interval": 1_500_000_000_i64,
                "Timeout": 1_000_000_000_i64,
                "Retries": 2,
                "StartPeriod": 3_000_000_000_i64,
            },
            "StopSignal": "SIGQUIT",
            "StopTimeout": 2,
            "User": "1:2",
            "WorkingDir": "/srv",
            "Hostname": "h",
            "Domainname": "d.example",
            "Tty": true,
            "OpenStdin": true,
            "HostConfig": {
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4},
                "Init": true,
                "Privileged": false,
                "CapAdd": ["NET_ADMIN"],
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": true,
                "ShmSize": 67_108_864,
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
                "Sysctls": {"net.core.somaxconn": "1024"},
                "ExtraHosts": ["db:192.0.2.1"],
                "Dns": ["192.0.2.53"],
                "DnsOptions": ["ndots:1"],
                "DnsSearch": ["example"],
                "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/zero", "CgroupPermissions": "rw"}],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
                "NanoCpus": 500_000_000,
                "Memory": 1_048_576,
                "MemoryReservation": 524_288,
                "PidsLimit": 100,
            },
        })
    );
}

#[test]
fn ports_are_bound_where_the_planner_chose() {
    let port = |target, protocol, host_ip: Option<&str>, host| ChosenPort {
        target,
        protocol,
        host_ip: host_ip.map(|address| address.parse().expect("an address")),
        host,
    };
    let config = ContainerConfig {
        ports: vec![Port {
            target: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            published: Published::Range { first: 81, last: 84 },
        }],
        ..ContainerConfig::default()
    };
    let mut new = new(config);
    new.host_ports = vec![
        port(80, Protocol::Tcp, None, 82),
        port(80, Protocol::Tcp, Some("127.0.0.1"), 0),
        port(53, Protocol::Udp, None, 53),
    ];
    let body = body(&new, OLD);
    assert_eq!(body["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(
        body["HostConfig"]["PortBindings"],
        json!({
            "80/tcp": [{"HostPort": "82"}, {"HostIp": "127.0.0.1", "HostPort": ""}],
            "53/udp": [{"HostPort": "53"}],
        })
    );
}

#[test]
fn each_mount_takes_the_way_that_can_carry_it() {
    let bind = |path: &str, create, propagation: Option<&str>, selinux: Option<&str>| MountSource::Bind {
        path: path.into(),
        create,
        propagation: propagation.map(str::to_owned),
        selinux: selinux.map(str::to_owned),
    };
    let tmpfs = |options: Option<&str>| MountSource::Tmpfs {
        size: Some(1024),
        mode: Some(0o700),
        options: options.map(str::to_owned),
    };
    let config = ContainerConfig {
        mounts: vec![
            mount("/data", MountSource::Volume { name: "shop_data".to_owned(), nocopy: true }, false),
            mount("/scratch", MountSource::Anonymous, false),
            mount("/strict", bind("/srv/strict", false, Some("rshared"), None), true),
            mount("/made", bind("/srv/made", true, None, None), false),
            mount("/labelled", bind("/srv/labelled", false, Some("rslave"), Some("z")), true),
            mount("/t1", tmpfs(None), false),
            mount("/t2", tmpfs(Some("exec")), true),
        ],
        files: vec![FileMount {
            target: "/run/secrets/key".to_owned(),
            content: FileContent::File { path: "/srv/key".into(), digest: "0".to_owned() },
            uid: None,
            gid: None,
            mode: None,
        }],
        ..ContainerConfig::default()
    };
    let host_config = host_config(config);
    assert_eq!(
        host_config["Mounts"],
        json!([
            {"Type": "volume", "Source": "shop_data", "Target": "/data", "VolumeOptions": {"NoCopy": true}},
            {"Type": "volume", "Target": "/scratch"},
            {"Type": "bind", "Source": "/srv/strict", "Target": "/strict", "ReadOnly": true,
             "BindOptions": {"Propagation": "rshared"}},
            {"Type": "tmpfs", "Target": "/t1", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}},
            {"Type": "bind", "Source": "/srv/key", "Target": "/run/secrets/key", "ReadOnly": true},
        ])
    );
    assert_eq!(host_config["Binds"], json!(["/srv/made:/made:rw", "/srv/labelled:/labelled:ro,rslave,z"]));
    assert_eq!(host_config["Tmpfs"], json!({"/t2": "exec,size=1024,mode=700,ro"}));
    let colon = mount("/a", bind("/srv/a:b", true, None, None), false);
    let refused = refusal(ContainerConfig { mounts: vec![colon], ..ContainerConfig::default() });
    assert!(refused.contains("`/srv/a:b` contains a colon"), "{refused}");
}

fn attachments() -> ContainerConfig {
    let one = NetworkAttachment {
        aliases: strings(&["www", "web"]),
        ipv4_address: Some("198.51.100.9".to_owned()),
        ..NetworkAttachment::default()
    };
    ContainerConfig {
        networks: BTreeMap::from([("shop_a".to_owned(), one), ("shop_b".to_owned(), NetworkAttachment::default())]),
        ..ContainerConfig::default()
    }
}

#[test]
fn an_old_engine_gets_one_network_with_the_create_call_and_the_others_after_it() {
    let new = new(attachments());
    let old = creation(&new, &owner(), "sha256:1", OLD).expect("possible");
    let endpoint = json!({"Aliases": ["web", "www"], "IPAMConfig": {"IPv4Address": "198.51.100.9"}});
    let body = serde_json::to_value(&old.body).expect("serialises");
    assert_eq!(body["NetworkingConfig"], json!({"EndpointsConfig": {"shop_a": endpoint}}));
    assert_eq!(body["HostConfig"]["NetworkMode"], "shop_a");
    assert_eq!(old.later.len(), 1);
    assert_eq!(old.later[0].0, "shop_b");
    assert_eq!(old.later[0].1.aliases, Some(strings(&["web"])));

    let young = creation(&new, &owner(), "sha256:1", API_25).expect("possible");
    let body = serde_json::to_value(&young.body).expect("serialises");
    assert_eq!(
        body["NetworkingConfig"],
        json!({"EndpointsConfig": {"shop_a": endpoint, "shop_b": {"Aliases": ["web"]}}})
    );
    assert!(young.later.is_empty());
}

#[test]
fn a_network_mode_takes_the_place_of_networks() {
    let modes = [
        (NetworkMode::Host, "host"),
        (NetworkMode::None, "none"),
        (NetworkMode::Bridge, "bridge"),
        (NetworkMode::Container("abc".to_owned()), "container:abc"),
    ];
    for (mode, word) in modes {
        let body = body(&new(ContainerConfig { network_mode: Some(mode), ..attachments() }), OLD);
        assert_eq!(body["HostConfig"]["NetworkMode"], word);
        assert_eq!(body["NetworkingConfig"], Value::Null);
    }
    let unresolved = NetworkMode::Service("db".to_owned());
    let refused = refusal(ContainerConfig { network_mode: Some(unresolved), ..ContainerConfig::default() });
    assert!(refused.contains("service db"), "{refused}");
}

#[test]
fn the_engines_own_bridge_gets_no_alias() {
    let attachment = NetworkAttachment { aliases: strings(&["www"]), ..NetworkAttachment::default() };
    let endpoint = endpoint("bridge", &attachment, "web", OLD).expect("possible");
    assert_eq!(endpoint, EndpointSettings::default());
}

#[test]
fn a_key_that_the_engine_is_too_old_for_is_named_with_the_version() {
    let healthcheck = Healthcheck {
        test: None,
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
        start_interval: Some(Duration::from_secs(1)),
    };
    let config = ContainerConfig { healthcheck: Some(healthcheck), ..ContainerConfig::default() };
    assert_eq!(
        refusal(config.clone()),
        "healthcheck.start_interval needs API version 1.44 (Docker 25.0), and this engine offers 1.41: leave it out, or \
         update the engine"
    );
    let body = body(&new(config), API_25);
    assert_eq!(body["Healthcheck"], json!({"StartInterval": 1_000_000_000}));

    let mut config = attachments();
    config.networks.entry("shop_b".to_owned()).or_default().mac_address = Some("02:42:ac:11:00:02".to_owned());
    assert!(refusal(config.clone()).starts_with("networks.shop_b.mac_address needs API version 1.44"));
    let creation = creation(&new(config), &owner(), "sha256:1", API_25).expect("possible");
    let body = serde_json::to_value(creation.body).expect("serialises");
    assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["shop_b"]["MacAddress"], "02:42:ac:11:00:02");
}

#[test]
fn a_grace_period_is_never_cut_short() {
    assert_eq!(whole_seconds(Duration::ZERO), 0);
    assert_eq!(whole_seconds(Duration::from_millis(10_001)), 11);
    assert_eq!(whole_seconds(Duration::MAX), i32::MAX);
}
