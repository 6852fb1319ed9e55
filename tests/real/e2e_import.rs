//! The files of the practice that reeve replaces, imported and applied: the same catalog and the same file as before.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::e2e_discovery::leave;
use crate::support::docker::{STRANGER, docker};
use crate::support::shop::{CONSUL, WEB};
use crate::support::{Site, check, eventually};

fn original(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/import/original").join(name)
}

/// Between which words there is how much white space does not matter to nginx.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn the_files_of_the_old_pipeline_are_imported_and_render_what_they_did() {
    let mut site = Site::without_consul("import");
    let files = site.folder().join("files");
    fs::create_dir(&files).expect("the folder is made");
    site.more_settings = format!("templates: {{ allow: [\"{}\"] }}\n", files.display());
    site.write_settings();
    let path = |name: &str| site.folder().join(name).display().to_string();

    // The compose files, with images and names that this machine has, and consul-template's command line.
    fs::copy(original("nginx.ctmpl"), path("nginx.ctmpl")).expect("copied");
    fs::copy(original("registrator.yaml"), path("registrator.yaml")).expect("copied");
    let cluster = fs::read_to_string(original("consul.yaml")).expect("it is there");
    let cluster = cluster
        .replace("consul:latest", CONSUL)
        .replace("container_name: ", &format!("container_name: {}-", site.project))
        .replace("8500:8500", &format!("{}:8500", site.ports.consul()[0]));
    fs::write(path("consul.yaml"), cluster).expect("written");
    let compose = ["import", "compose", &path("consul.yaml"), &path("registrator.yaml"), "-o", &path("discovery.yaml")];
    site.reeve(&compose).success();
    let (conf, ran) = (files.join("app.conf"), files.join("reloaded"));
    let template = format!("{}:{}:touch {}", path("nginx.ctmpl"), conf.display(), ran.display());
    site.reeve(&["import", "consul-template", "--template", &template, "-o", &path(".")]).success();
    let imported = path("templates.yaml");

    // The engine is shared with other tests: only what carries a name is registered.
    let discovery = fs::read_to_string(path("discovery.yaml")).expect("it was written");
    assert!(discovery.contains("containers: all "), "{discovery}");
    fs::write(path("discovery.yaml"), discovery.replace("containers: all ", "containers: labelled ")).expect("written");
    fs::write(path("base.yaml"), format!("name: {}\n", site.project)).expect("written");

    let ports: Vec<u16> = (0..4).map(|index| site.ports.published(index)).collect();
    for (number, port) in (1..).zip(&ports) {
        let (name, label) = (format!("{}-{number}", site.project), format!("{STRANGER}={}", site.project));
        let publish = format!("0.0.0.0:{port}:80");
        let named = ["--label", "SERVICE_NAME=nginx", "--publish", &publish];
        docker(&[&["run", "--detach", "--name", &name, "--label", &label][..], &named, &[WEB]].concat());
    }

    let base = path("base.yaml");
    let discovery = path("discovery.yaml");
    let given = ["-f", &base, "-f", &discovery, "-f", &imported];
    site.reeve(&[&given[..], &["plan"]].concat()).success().says("consul4: create, start").says("template app.conf");
    eventually("the file is what consul-template rendered", || {
        site.reeve(&[&given[..], &["apply", "--timeout", "90s"]].concat()).success();
        let rendered = fs::read_to_string(&conf).map_err(|error| error.to_string())?;
        let before = fs::read_to_string(original("app.conf")).expect("it is there");
        // The host's address and the ports of this test in place of the original's.
        let servers: Vec<&str> = rendered.lines().map(str::trim).filter(|line| line.starts_with("server 1")).collect();
        let address = servers.first().and_then(|server| server.split([' ', ':']).nth(1)).unwrap_or_default();
        let mut sorted: Vec<u16> = ports.clone();
        sorted.sort_unstable();
        let mut expected = before;
        for (old, port) in (81..=84).zip(&sorted) {
            expected = expected.replace(&format!("10.8.99.45:{old};"), &format!("{address}:{port};"));
        }
        crate::support::check(words(&rendered) == words(&expected), || format!("{rendered}\n---\n{expected}"))
    });
    assert!(ran.exists(), "the command ran");
    let ids = site.consul().registrations(&site.owner());
    let of_container = |number: u32| ids.iter().any(|id| id.ends_with(&format!(":{}-{number}:80", site.project)));
    assert!((1..=4).all(of_container), "registrator's own ids: {ids:?}");
    // Discovery also finds what others have on this machine.
    let own = ids.iter().filter(|id| id.contains(&format!(":{}-", site.project))).count();
    assert_eq!(own, 4, "Consul's own agent is not among them: {ids:?}");
    let peers = site.consul().get("/v1/status/peers");
    assert_eq!(peers.as_array().map(Vec::len), Some(3), "{peers}");
    let nodes = site.consul().get("/v1/catalog/nodes");
    let names: BTreeSet<&str> =
        nodes.as_array().into_iter().flatten().filter_map(|node| node["Node"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["client1", "consul1", "consul2", "consul3"]));
    // Those of other tests come and go.
    let plan = site.reeve(&[&given[..], &["plan"]].concat()).success().stdout;
    assert!(!plan.contains(&site.project) && !plan.contains("app.conf"), "{plan}");
}

/// Discovery leaves alone what is in the spec: an imported service says itself what registrator made of it.
#[test]
fn what_compose_and_a_registrator_made_is_imported_and_adopted_and_never_leaves_the_catalog() {
    let site = Site::new("im-adopt");
    let path = |name: &str| site.folder().join(name).display().to_string();
    let (project, network) = (&site.project, format!("{}_default", site.project));
    let (first, second) = (site.ports.published(0), site.ports.published(1));
    let compose = format!(
        "name: {project}
services:
  web:
    image: {WEB}
    deploy: {{ replicas: 2 }}
    ports: [\"{first}-{second}:80\"]
    environment: {{ SERVICE_NAME: {project}, SERVICE_TAGS: \"b,a\", SERVICE_CHECK_HTTP: /health, SERVICE_CHECK_INTERVAL: 1s }}
networks:
  default: {{ external: true, name: {network} }}
"
    );
    fs::write(path("docker-compose.yaml"), compose).expect("written");
    fs::copy(original("registrator.yaml"), path("registrator.yaml")).expect("copied");
    let mark = format!("{STRANGER}={project}");
    docker(&["network", "create", "--label", &mark, &network]);
    let old = |number: u16| format!("hosta:{project}_web_{number}:80");
    for (number, port) in [(1, first), (2, second)] {
        let (name, publish, number) = (format!("{project}_web_{number}"), format!("{port}:80"), number.to_string());
        let labels = [
            mark.clone(),
            format!("com.docker.compose.project={project}"),
            "com.docker.compose.service=web".to_owned(),
            format!("com.docker.compose.container-number={number}"),
        ];
        let mut arguments = vec!["run", "--detach", "--name", &name, "--network", &network, "--publish", &publish];
        labels.iter().for_each(|label| arguments.extend(["--label", label]));
        let variables = [format!("SERVICE_NAME={project}"), "SERVICE_TAGS=b,a".to_owned()];
        variables.iter().for_each(|variable| arguments.extend(["--env", variable]));
        arguments.extend(["--env", "SERVICE_CHECK_HTTP=/health", "--env", "SERVICE_CHECK_INTERVAL=1s", WEB]);
        docker(&arguments);
    }
    leave(&site, &old(1), first);
    leave(&site, &old(2), second);

    let import =
        ["import", "compose", &path("docker-compose.yaml"), &path("registrator.yaml"), "-o", &path("new.yaml")];
    site.reeve(&import).success();
    let spec = fs::read_to_string(path("new.yaml")).expect("it was written");
    let spec = spec.replace("containers: all ", "containers: labelled ");
    site.write_spec(&spec.replace("ids: registrator ", "hostname: hosta\n  ids: registrator "));
    site.reeve(&["plan"]).success().says("take it over: `reeve adopt web`");

    let stop = Arc::new(AtomicBool::new(false));
    let (ended, api, name) = (stop.clone(), site.consul(), project.clone());
    let all = [first, second].map(|port| format!(":{port}"));
    let watcher = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            let passing = api.passing(&name);
            let there = |port: &String| passing.iter().any(|at| at.ends_with(port.as_str()));
            assert!(all.iter().all(there), "{passing:?}");
        }
    });
    site.reeve(&["adopt", "web"]).success().says("2 containers adopted as web");
    // Before the services are registered by reeve, what registrator left of them stays.
    site.reeve(&["adopt", "--registrator"]).success().says(&format!("leave {}", old(1))).says("`reeve apply` first");
    assert!(site.consul().services().contains_key(&old(1)));
    site.reeve(&["apply", "--timeout", "60s"]).success();
    site.reeve(&["adopt", "--registrator"]).success().says(&format!("remove {}", old(1)));
    eventually("reeve's own are all that is left", || {
        let services = site.consul().services();
        let ours = |port: u16| format!("{}:{project}_web_{port}:80/tcp", site.node);
        let ids: BTreeSet<&String> = services.keys().filter(|id| id.contains(project)).collect();
        check(ids == BTreeSet::from([&ours(1), &ours(2)]), || format!("{ids:?}"))?;
        let tags = &services[&ours(1)]["Tags"];
        check(*tags == serde_json::json!(["a", "b"]), || format!("{tags}"))
    });
    let plan = site.reeve(&["plan"]).success().stdout;
    assert!(!plan.contains(project), "{plan}");
    stop.store(true, Ordering::Relaxed);
    watcher.join().expect("both passed all the time");
}
