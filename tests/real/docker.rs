//! The Docker backend against a real engine. Each test has its own project name; a guard removes what it made, also when
//! the test fails.

mod scene;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use reeve::observed::{ContainerState, Health, WantedAttachment};
use reeve::plan::DockerAction;
use reeve::spec::container::{
    ContainerConfig, EnvironmentValue, FileContent, FileMount, Healthcheck, Logging, Mount, MountSource,
    NetworkAttachment, NetworkMode, Published, Resources, Restart, Secret, Ulimit,
};
use reeve::spec::{IpamPool, Network};
use reeve::world::{ActionError, Wake};

use scene::{IMAGE, Scene, command, free_port, network, remove, stop, tcp, until, volume, words};

#[tokio::test]
async fn a_container_with_everything_set_is_made_shown_stopped_and_removed() {
    let mut scene = Scene::new();
    let net = scene.network("net", vec![]).await;
    let data = scene.name("data");
    scene.interest.volumes.insert(data.clone());
    scene.run(DockerAction::CreateVolume(volume(&data))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let made = folder.path().join("made");
    let port = free_port();
    let bind = |path: &std::path::Path, create| MountSource::Bind {
        path: path.to_owned(),
        create,
        propagation: None,
        selinux: None,
    };
    let mount = |target: &str, source| Mount { target: target.to_owned(), source, read_only: false };
    let tmpfs = |options: Option<&str>| MountSource::Tmpfs {
        size: Some(1 << 20),
        mode: Some(0o700),
        options: options.map(str::to_owned),
    };
    let config = ContainerConfig {
        environment: BTreeMap::from([
            ("PLAIN".to_owned(), EnvironmentValue::Plain("a b=c".to_owned())),
            ("TOKEN".to_owned(), EnvironmentValue::Secret(Secret::new("t", "s3cret".to_owned()))),
        ]),
        labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        ports: vec![tcp(80, Published::Range { first: port, last: port }), tcp(81, Published::Ephemeral)],
        expose: words(&["82/udp"]),
        mounts: vec![
            mount("/data", MountSource::Volume { name: data.clone(), nocopy: true }),
            mount("/anonymous", MountSource::Anonymous),
            mount("/there", bind(folder.path(), false)),
            mount("/made", bind(&made, true)),
            mount("/t1", tmpfs(None)),
            mount("/t2", tmpfs(Some("exec"))),
        ],
        networks: BTreeMap::from([(
            net.clone(),
            NetworkAttachment { aliases: words(&["www"]), ..NetworkAttachment::default() },
        )]),
        restart: Some(Restart::OnFailure { max_retries: Some(1) }),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_grace_period: Some(Duration::from_secs(3)),
        user: Some("0:0".to_owned()),
        working_dir: Some("/tmp".to_owned()),
        hostname: Some("myhost".to_owned()),
        domainname: Some("example.test".to_owned()),
        cap_add: words(&["NET_ADMIN"]),
        cap_drop: words(&["MKNOD"]),
        security_opt: words(&["no-new-privileges"]),
        shm_size: Some(1 << 20),
        ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 100, hard: 200 })]),
        sysctls: BTreeMap::from([("net.core.somaxconn".to_owned(), "77".to_owned())]),
        extra_hosts: words(&["db:192.0.2.1"]),
        dns_search: words(&["example.test"]),
        logging: Some(Logging {
            driver: Some("json-file".to_owned()),
            options: BTreeMap::from([("max-size".to_owned(), "1m".to_owned())]),
        }),
        resources: Some(Resources { pids: Some(50), memory: Some(64 << 20), ..Resources::default() }),
        command: Some(words(&["echo out; echo err >&2; trap 'exit 3' TERM; while :; do sleep 0.05; done"])),
        ..ContainerConfig::default()
    };
    let before = Timestamp::now();
    let container = scene.start(config.clone()).await;
    let new = scene.new_container(config);
    assert_eq!(container.name, new.name);
    assert_eq!((container.service.as_str(), container.slot, container.registers), ("web", 1, true));
    assert_eq!(container.hash, new.hash);
    assert_eq!(container.config, new.config.canonical());
    assert!(!container.config.contains("s3cret"));
    assert_eq!(container.chosen_ports, new.host_ports);
    let view = scene.view().await;
    assert_eq!(container.image_id, view.images[IMAGE].id);
    assert_eq!(container.health, Health::None);
    assert_eq!(container.network_mode, net);
    let ContainerState::Running { started_at } = container.state else { panic!("{:?}", container.state) };
    assert!(started_at > before && started_at < Timestamp::now(), "{started_at}");
    let published = |target: u16| container.published.iter().find(move |port| port.target == target);
    assert_eq!(published(80).map(|port| port.host), Some(port));
    assert!(published(81).is_some_and(|port| port.host > 0), "an ephemeral port is shown: {:?}", container.published);
    let endpoint = &container.networks[&net];
    assert_eq!(endpoint.network_id, view.networks[&net].id);
    assert_eq!(endpoint.gateway, view.networks[&net].gateway);
    assert!(endpoint.address.is_some());
    assert_eq!(view.networks[&net].attached, 1);
    assert!(view.networks[&net].ours && view.volumes[&data].ours);
    let declared: Network =
        serde_json::from_str(view.networks[&net].config.as_deref().expect("a label")).expect("JSON");
    assert_eq!(declared, network(&net, vec![]));
    assert!(made.is_dir(), "the short form of a bind makes the folder");

    let inside = |script: &str| command(&["exec", &container.id, "sh", "-c", script]);
    assert_eq!(inside("echo $PLAIN-$TOKEN; pwd; hostname"), "a b=c-s3cret\n/tmp\nmyhost");
    // Of the first process: what `docker exec` starts has, now and then, the soft limit raised to the hard one by its runtime.
    let limits = inside("grep 'Max open files' /proc/1/limits");
    assert_eq!(limits.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"], "{limits}");
    assert_eq!(inside("cat /proc/sys/net/core/somaxconn; stat -c %a /t1 /t2"), "77\n700\n700");
    assert!(inside("getent hosts db || cat /etc/hosts").contains("192.0.2.1"));
    assert!(inside("grep ' /t2 ' /proc/mounts; echo").split(',').all(|option| option != "noexec"));
    assert!(scene.docker.logs(&container.id, 10).await.is_ok_and(|log| log.contains("out") && log.contains("err")));

    let anonymous = command(&[
        "inspect",
        "-f",
        r#"{{range .Mounts}}{{if eq .Destination "/anonymous"}}{{.Name}}{{end}}{{end}}"#,
        &container.id,
    ]);
    assert!(!anonymous.is_empty());
    let refused = scene.fail(remove(&container)).await;
    assert!(matches!(refused, ActionError::Conflict(_)), "a running container is not forced away: {refused}");
    scene.run(stop(&container)).await;
    let stopped = scene.there(&container.name).await;
    let ContainerState::Exited { code: 3, finished_at: Some(finished_at), .. } = stopped.state else {
        panic!("the signal was heard and the code is shown: {:?}", stopped.state)
    };
    assert!(finished_at > started_at);
    assert!(stopped.published.is_empty());
    assert_eq!(stopped.networks[&net].address, None);
    assert_eq!(scene.view().await.networks[&net].attached, 1, "a stopped container needs its network");
    let in_use = scene.fail(DockerAction::RemoveVolume { name: data.clone() }).await;
    assert!(matches!(in_use, ActionError::Transient(_)), "{in_use}");

    scene.run(remove(&container)).await;
    scene.run(stop(&container)).await;
    assert!(scene.container(&container.name).await.is_none());
    let volumes = command(&["volume", "ls", "-q"]);
    assert!(!volumes.contains(&anonymous), "a volume without a name goes with its container");
    assert!(volumes.contains(&data), "a volume with a name stays");
    let id = scene.view().await.networks[&net].id.clone();
    scene.run(DockerAction::RemoveNetwork { id, name: net.clone() }).await;
    scene.run(DockerAction::RemoveVolume { name: data.clone() }).await;
    let view = scene.view().await;
    assert!(!view.networks.contains_key(&net) && !view.volumes.contains_key(&data));
}

#[tokio::test]
async fn a_name_that_a_stranger_holds_is_a_conflict_that_names_it() {
    let scene = Scene::new();
    let new = scene.new_container(ContainerConfig::default());
    let mark = format!("test={}", scene.owner);
    let id = command(&["create", "--name", &new.name, "--label", &mark, "--entrypoint", "sh", IMAGE]);
    let error = scene.fail(DockerAction::CreateContainer(Box::new(new.clone()))).await;
    assert!(
        matches!(&error, ActionError::Conflict(why)
            if why.contains(&id[..12]) && why.contains(IMAGE) && why.contains("was not made by reeve")),
        "{error}"
    );
    let start = DockerAction::StartContainer { container: new.name.clone(), name: new.name.clone() };
    assert!(matches!(scene.fail(start).await, ActionError::Conflict(_)), "nor is it started by its name");
    let view = scene.view().await;
    assert!(view.containers.is_empty());
    assert_eq!(view.strangers[&id].name, new.name);
    assert!(!view.strangers[&id].running);
}

#[tokio::test]
async fn a_name_that_our_older_container_holds_is_a_conflict() {
    let scene = Scene::new();
    let config = ContainerConfig { container_name: Some("fixed".to_owned()), ..ContainerConfig::default() };
    let mut new = scene.new_container(config);
    new.name = scene.name("fixed");
    scene.run(DockerAction::CreateContainer(Box::new(new.clone()))).await;
    let mut other = scene.new_container(ContainerConfig { tty: Some(true), ..ContainerConfig::default() });
    other.name = new.name.clone();
    let error = scene.fail(DockerAction::CreateContainer(Box::new(other))).await;
    assert!(matches!(&error, ActionError::Conflict(why) if why.contains("made from another configuration")), "{error}");
}

#[tokio::test]
async fn a_taken_host_port_names_the_port_and_its_holder() {
    let scene = Scene::new();
    let port = free_port();
    let held = TcpListener::bind(("0.0.0.0", port)).expect("binds");
    let published = |port| ContainerConfig {
        ports: vec![tcp(80, Published::Range { first: port, last: port })],
        ..ContainerConfig::default()
    };
    let new = scene.new_container(published(port));
    let name = new.name.clone();
    scene.run(DockerAction::CreateContainer(Box::new(new))).await;
    let start = DockerAction::StartContainer { container: name.clone(), name: name.clone() };
    let error = scene.fail(start.clone()).await;
    let words = format!("host port {port} is held by a program outside Docker");
    assert!(matches!(&error, ActionError::Transient(why) if why.contains(&words)), "{error}");
    drop(held);
    scene.run(start).await;
    assert!(scene.there(&name).await.state.running(), "it starts when the port is free");

    let stranger = Scene::new();
    let new = stranger.new_container(published(port));
    let second = new.name.clone();
    stranger.run(DockerAction::CreateContainer(Box::new(new))).await;
    let error = stranger.fail(DockerAction::StartContainer { container: second.clone(), name: second }).await;
    let words = format!("host port {port} is held by container {name}");
    assert!(matches!(&error, ActionError::Transient(why) if why.contains(&words)), "{error}");
    let view = stranger.view().await;
    let holder = view.strangers.values().find(|stranger| stranger.name == name).expect("seen");
    assert_eq!(holder.owner.as_deref(), Some(scene.owner.to_string().as_str()));
    assert!(holder.published.iter().any(|held| held.host == port));
}

#[tokio::test]
async fn networks_are_joined_and_left_with_aliases_and_fixed_addresses() {
    let mut scene = Scene::new();
    let subnet = format!("10.{}.{}.0/24", 200 + fastrand::u8(..50), fastrand::u8(..));
    let fixed = subnet.replace(".0/24", ".77");
    let pool = IpamPool { subnet: Some(subnet), ..IpamPool::default() };
    let a = scene.network("a", vec![pool]).await;
    let b = scene.network("b", vec![]).await;
    let c = scene.network("c", vec![]).await;
    let attachment = NetworkAttachment { ipv4_address: Some(fixed.clone()), ..NetworkAttachment::default() };
    let config = ContainerConfig {
        networks: BTreeMap::from([(a.clone(), attachment), (b.clone(), NetworkAttachment::default())]),
        ..ContainerConfig::default()
    };
    let container = scene.start(config).await;
    assert_eq!(container.networks.keys().collect::<Vec<_>>(), [&a, &b], "both, from one creation");
    assert_eq!(container.networks[&a].address.map(|address| address.to_string()), Some(fixed));
    let (id, name) = (container.id.clone(), container.name.clone());
    let aliases = |network: &str| {
        let format = format!("{{{{json (index .NetworkSettings.Networks {network:?}).Aliases}}}}");
        command(&["inspect", "-f", &format, &id])
    };
    assert!(aliases(&b).contains(r#""web""#), "found by the service's name: {}", aliases(&b));

    let attachment = NetworkAttachment { aliases: words(&["www"]), ..NetworkAttachment::default() };
    let wanted = WantedAttachment { network: c.clone(), attachment };
    scene.run(DockerAction::ConnectNetwork { id: id.clone(), name: name.clone(), attachment: wanted.clone() }).await;
    assert!(scene.there(&name).await.networks[&c].address.is_some());
    assert!(aliases(&c).contains(r#""web""#) && aliases(&c).contains(r#""www""#), "{}", aliases(&c));
    scene.run(DockerAction::DisconnectNetwork { id: id.clone(), name: name.clone(), network: b.clone() }).await;
    assert_eq!(scene.there(&name).await.networks.keys().collect::<Vec<_>>(), [&a, &c]);
    command(&["network", "disconnect", &a, &id]);
    assert_eq!(scene.there(&name).await.networks.keys().collect::<Vec<_>>(), [&c], "by somebody's hand");

    let remove = DockerAction::RemoveNetwork { id: scene.view().await.networks[&c].id.clone(), name: c };
    assert!(matches!(scene.fail(remove).await, ActionError::Transient(_)), "it is in use");
}

#[tokio::test]
async fn a_network_or_volume_of_somebody_else_is_neither_used_nor_removed() {
    let mut scene = Scene::new();
    let name = scene.name("theirs");
    let mark = format!("test={}", scene.owner);
    let id = command(&["network", "create", "--label", &mark, &name]);
    command(&["volume", "create", "--label", &mark, &name]);
    scene.interest.networks.insert(name.clone());
    scene.interest.volumes.insert(name.clone());
    let view = scene.view().await;
    assert!(!view.networks[&name].ours && !view.volumes[&name].ours);
    for action in [
        DockerAction::CreateNetwork(network(&name, vec![])),
        DockerAction::RemoveNetwork { id, name: name.clone() },
        DockerAction::CreateVolume(volume(&name)),
        DockerAction::RemoveVolume { name: name.clone() },
    ] {
        let error = scene.fail(action).await;
        assert!(matches!(&error, ActionError::Conflict(why) if why.contains("was not made by reeve")), "{error}");
    }
    assert_eq!(command(&["network", "ls", "-q", "--filter", &format!("name=^{name}$")]).lines().count(), 1);
}

#[tokio::test]
async fn configs_and_secrets_are_in_the_container_before_it_runs() {
    let scene = Scene::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key.pem");
    std::fs::write(&path, "from a file").expect("written");
    let file =
        |target: &str, content| FileMount { target: target.to_owned(), content, uid: None, gid: None, mode: None };
    let mut secret =
        file("/run/secrets/token", FileContent::Secret(Secret::new("token", "from the environment".to_owned())));
    (secret.uid, secret.gid, secret.mode) = (Some("101".to_owned()), Some("102".to_owned()), Some(0o400));
    let config = ContainerConfig {
        files: vec![
            file("/etc/app/app.conf", FileContent::Inline("inline\n".to_owned())),
            secret,
            file("/run/secrets/key", FileContent::File { path, digest: "0".to_owned() }),
        ],
        command: Some(words(&["cat /run/secrets/token /run/secrets/key /etc/app/app.conf && \
             stat -c '%a %u %g' /run/secrets/token /etc/app/app.conf && { (echo x > /run/secrets/key) 2>/dev/null || echo read-only; }"])),
        ..ContainerConfig::default()
    };
    let container = scene.start(config).await;
    until("it has run", async || {
        let state = scene.there(&container.name).await.state;
        matches!(state, ContainerState::Exited { .. }).then_some(())
    })
    .await;
    let log = scene.docker.logs(&container.name, 20).await.expect("readable");
    assert!(log.contains("from the environmentfrom a fileinline\n400 101 102\n444 0 0\n"), "{log}");
    assert!(log.contains("read-only\n"), "{log}");
    let state = scene.there(&container.name).await.state;
    assert!(matches!(state, ContainerState::Exited { code: 0, .. }), "{state:?}");
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_not_started() {
    let scene = Scene::new();
    let file = FileMount {
        target: "/etc/app.conf".to_owned(),
        content: FileContent::Inline("x".to_owned()),
        uid: None,
        gid: None,
        mode: None,
    };
    let new = scene.new_container(ContainerConfig { files: vec![file], ..ContainerConfig::default() });
    // What a crash after the engine's create call leaves: the labels, and not the file.
    let create = DockerAction::CreateContainer(Box::new(new.clone()));
    scene.run(create.clone()).await;
    let labels = command(&["inspect", "-f", "{{json .Config.Labels}}", &new.name]);
    let labels: BTreeMap<String, String> = serde_json::from_str(&labels).expect("JSON");
    command(&["rm", &new.name]);
    let make_half = || {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = labels.iter().flat_map(|label| ["--label", label]);
        let arguments: Vec<_> = ["create", "--name", &new.name].into_iter().chain(labels).collect();
        command(&[arguments.as_slice(), &["--entrypoint", "sh", IMAGE]].concat())
    };
    make_half();
    let start = DockerAction::StartContainer { container: new.name.clone(), name: new.name.clone() };
    let error = scene.fail(start.clone()).await;
    assert!(matches!(&error, ActionError::Conflict(why) if why.contains("interrupted")), "{error}");
    assert!(scene.container(&new.name).await.is_none(), "it is created again by the next pass");

    make_half();
    scene.run(create).await;
    scene.run(start).await;
}

#[tokio::test]
async fn health_is_seen_from_starting_to_healthy_to_unhealthy() {
    let scene = Scene::new();
    let healthcheck = Healthcheck {
        test: Some(words(&["CMD-SHELL", "test -e /ok || { echo not there; exit 1; }"])),
        interval: Some(Duration::from_millis(500)),
        timeout: Some(Duration::from_secs(5)),
        retries: Some(1),
        start_period: Some(Duration::from_secs(60)),
        start_interval: None,
    };
    let container = scene.start(ContainerConfig { healthcheck: Some(healthcheck), ..ContainerConfig::default() }).await;
    assert_eq!(container.health, Health::Starting);
    command(&["exec", &container.id, "touch", "/ok"]);
    until("it is healthy", async || (scene.there(&container.name).await.health == Health::Healthy).then_some(())).await;
    command(&["exec", &container.id, "rm", "/ok"]);
    let output = until("it is unhealthy", async || match scene.there(&container.name).await.health {
        Health::Unhealthy(output) => Some(output),
        _ => None,
    })
    .await;
    assert_eq!(output, "not there");
}

#[tokio::test]
async fn every_change_of_a_container_wakes_and_is_seen_at_once() {
    let scene = Scene::new();
    let container = scene.start(ContainerConfig::default()).await;
    let woken: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
    let seen = woken.clone();
    let wake: Wake = Arc::new(move |_, at| seen.lock().expect("no panic").push(at));
    let watching = scene.docker.clone();
    let watch = tokio::spawn(async move { watching.watch(wake).await });
    until("the stream is open", async || (!woken.lock().expect("no panic").is_empty()).then_some(())).await;
    let woken_since = |at: Timestamp| woken.lock().expect("no panic").iter().any(|woken| *woken >= at);
    let name = &container.name;
    for (arguments, expected) in [
        (["pause", name], "paused"),
        (["unpause", name], "running"),
        (["kill", name], "exited"),
        (["start", name], "running"),
        (["restart", "--time=0"], "restarted"),
        (["rename", name], "renamed"),
    ] {
        let before = Timestamp::now();
        let old = scene.view().await.containers[&container.id].clone();
        let mut arguments = arguments.to_vec();
        let new_name = format!("{name}-new");
        match expected {
            "restarted" => arguments.push(name),
            "renamed" => arguments.push(&new_name),
            _ => {}
        }
        command(&arguments);
        until(&format!("{expected} woke"), async || woken_since(before).then_some(())).await;
        until(&format!("{expected} is seen"), async || {
            let now = scene.view().await.containers[&container.id].clone();
            let right = match (expected, &now.state) {
                ("paused", ContainerState::Paused { .. }) | ("exited", ContainerState::Exited { code: 137, .. }) => {
                    true
                }
                ("running", ContainerState::Running { .. }) => true,
                ("restarted", ContainerState::Running { .. }) => now.state != old.state,
                ("renamed", ContainerState::Running { .. }) => now.name == new_name,
                _ => false,
            };
            right.then_some(())
        })
        .await;
    }
    scene
        .run(DockerAction::StopContainer { id: container.id.clone(), name: name.clone(), grace: Duration::ZERO })
        .await;
    let before = Timestamp::now();
    scene.run(remove(&container)).await;
    until("the removal woke", async || woken_since(before).then_some(())).await;
    watch.abort();
}

#[tokio::test]
async fn the_engine_itself_keeps_the_probes_of_a_healthcheck_from_the_watch() {
    let scene = Scene::new();
    let healthcheck = Healthcheck {
        test: Some(words(&["CMD", "true"])),
        interval: Some(Duration::from_millis(200)),
        timeout: Some(Duration::from_secs(5)),
        retries: Some(1),
        start_period: None,
        start_interval: None,
    };
    let since = Timestamp::now().as_second().to_string();
    let container = scene.start(ContainerConfig { healthcheck: Some(healthcheck), ..ContainerConfig::default() }).await;
    let kinds = |filters: &[&str]| {
        let (until, only) = (Timestamp::now().as_second() + 1, format!("container={}", container.id));
        let until = until.to_string();
        let arguments = ["events", "--since", &since, "--until", &until, "--filter", &only, "--format", "{{.Action}}"];
        command(&[arguments.as_slice(), filters].concat())
    };
    until("several probes were made", async || (kinds(&[]).matches("exec_start").count() > 3).then_some(())).await;
    assert_eq!(kinds(&["--filter", "event=health_status", "--filter", "event=start"]), "start\nhealth_status: healthy");
}

#[tokio::test]
async fn a_network_that_was_made_anew_is_joined_again() {
    let mut scene = Scene::new();
    let net = scene.network("net", vec![]).await;
    let networks = BTreeMap::from([(net.clone(), NetworkAttachment::default())]);
    let container = scene.start(ContainerConfig { networks, ..ContainerConfig::default() }).await;
    scene.run(stop(&container)).await;
    command(&["network", "rm", &net]);
    scene.run(DockerAction::CreateNetwork(network(&net, vec![]))).await;
    let view = scene.view().await;
    assert_ne!(view.containers[&container.id].networks[&net].network_id, view.networks[&net].id);
    assert_eq!(view.networks[&net].attached, 0, "it is attached to the one that is gone");
    let (id, name) = (container.id.clone(), container.name.clone());
    let start = DockerAction::StartContainer { container: id.clone(), name: name.clone() };
    let error = scene.fail(start.clone()).await;
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    let attachment = WantedAttachment { network: net.clone(), attachment: NetworkAttachment::default() };
    scene.run(DockerAction::ConnectNetwork { id, name, attachment }).await;
    scene.run(start).await;
    let view = scene.view().await;
    let endpoint = &view.containers[&container.id].networks[&net];
    assert_eq!(endpoint.network_id, view.networks[&net].id);
    assert!(endpoint.address.is_some());
}

#[tokio::test]
async fn an_image_that_is_nowhere_says_what_to_do() {
    let scene = Scene::new();
    let pull = |image: &str| DockerAction::PullImage { image: image.to_owned(), platform: None };
    let error = scene.fail(pull("localhost/reeve-is-not-here:1")).await;
    assert!(matches!(&error, ActionError::Permanent(why) if why.contains("docker load")), "{error}");
    let error = scene.fail(pull("no such?image")).await;
    assert!(matches!(&error, ActionError::Permanent(why) if why.contains("no image reference")), "{error}");
    let mut new = scene.new_container(ContainerConfig::default());
    new.image = "localhost/reeve-is-not-here:1".to_owned();
    let error = scene.fail(DockerAction::CreateContainer(Box::new(new))).await;
    let why = "no image localhost/reeve-is-not-here:1";
    assert!(matches!(&error, ActionError::Conflict(text) if text.contains(why)), "{error}");
}

#[tokio::test]
async fn an_image_that_was_tagged_anew_since_the_plan_is_a_conflict() {
    let scene = Scene::new();
    let mut new = scene.new_container(ContainerConfig::default());
    new.image_id = "sha256:0000".to_owned();
    let error = scene.fail(DockerAction::CreateContainer(Box::new(new))).await;
    assert!(matches!(&error, ActionError::Conflict(why) if why.contains("tagged anew")), "{error}");
}

#[tokio::test]
async fn a_container_shares_the_network_of_another() {
    let scene = Scene::new();
    let first = scene.start(ContainerConfig::default()).await;
    let mode = NetworkMode::Container(first.id.clone());
    let config = ContainerConfig { network_mode: Some(mode), init: Some(true), ..ContainerConfig::default() };
    let second = scene.start(config).await;
    assert_eq!(second.network_mode, format!("container:{}", first.id));
    assert!(second.networks.is_empty());
    let host = ContainerConfig { network_mode: Some(NetworkMode::Host), ..ContainerConfig::default() };
    let third = scene.start(host).await;
    assert_eq!(third.network_mode, "host");
    assert_eq!(third.networks.values().filter(|endpoint| endpoint.address.is_some()).count(), 0);
}

#[tokio::test]
async fn a_bind_that_does_not_exist_is_refused_by_the_long_form() {
    let scene = Scene::new();
    let source = MountSource::Bind { path: "/nowhere/at/all".into(), create: false, propagation: None, selinux: None };
    let mount = Mount { target: "/x".to_owned(), source, read_only: false };
    let new = scene.new_container(ContainerConfig { mounts: vec![mount], ..ContainerConfig::default() });
    let error = scene.fail(DockerAction::CreateContainer(Box::new(new))).await;
    assert!(matches!(&error, ActionError::Permanent(why) if why.contains("/nowhere/at/all")), "{error}");
}
