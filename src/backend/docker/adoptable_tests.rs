//! What counts as a difference between a container and a service, with the engine's JSON.

use serde_json::json;

use super::*;
use crate::backend::docker::connection::ApiVersion;
use crate::spec::{LoadOptions, load_text};

const SERVICE: &str = "name: shop
services:
  web:
    image: localhost/web:1
    command: [serve, --port, \"80\"]
    environment: { MODE: fast, API_KEY: s3cret }
    ports: [\"81-84:80\"]
    volumes: [\"data:/data\", \"/etc/shop:/etc/shop:ro\"]
    restart: always
    networks: [front]
networks: { front: { external: true } }
volumes: { data: { external: true } }
";

fn service(text: &str) -> Service {
    let mut spec = load_text(&[("spec.yaml", text)], &LoadOptions::default()).expect("a valid spec").spec;
    spec.services.remove("web").expect("it is there")
}

fn image() -> Value {
    json!({ "Id": "sha256:1", "Config": { "Env": ["PATH=/bin"], "Entrypoint": ["/bin/web"], "Cmd": null } })
}

/// What the engine says of a container that `docker compose` made of the service.
fn seen() -> Value {
    json!({
        "Image": "sha256:1",
        "Config": {
            "Image": "localhost/web:1",
            "Cmd": ["serve", "--port", "80"],
            "Entrypoint": ["/bin/web"],
            "Env": ["MODE=fast", "API_KEY=s3cret", "PATH=/bin"],
            "User": "",
            "WorkingDir": "",
            "Tty": false,
        },
        "HostConfig": {
            "NetworkMode": "front",
            "RestartPolicy": { "Name": "always", "MaximumRetryCount": 0 },
            "Privileged": false,
        },
        "NetworkSettings": { "Networks": { "front": {} } },
        "Mounts": [
            { "Type": "volume", "Name": "data", "Destination": "/data", "RW": true },
            { "Type": "bind", "Source": "/etc/shop", "Destination": "/etc/shop", "RW": false },
        ],
    })
}

fn differences(seen: &Value) -> Vec<String> {
    let service = service(SERVICE);
    let owner = Owner { project: "shop".to_owned(), node: "edge-1".to_owned() };
    let new = as_made(&service, Vec::new());
    let creation = create::creation(&new, &owner, "", ApiVersion::new(1, 41)).expect("possible");
    compare(&service, &creation, seen, &image()).iter().map(Change::to_string).collect()
}

fn changed(pointer: &str, value: Value) -> Vec<String> {
    let mut seen = seen();
    *seen.pointer_mut(pointer).expect("it is there") = value;
    differences(&seen)
}

#[test]
fn a_container_that_compose_made_of_the_same_file_has_no_difference() {
    assert_eq!(differences(&seen()), [""; 0]);
}

#[test]
fn everything_that_the_spec_sets_is_compared_and_no_secret_is_shown() {
    let env = |list: &[&str]| changed("/Config/Env", json!(list));
    assert_eq!(changed("/Image", json!("sha256:0")), ["image: localhost/web:1 (0) => localhost/web:1 (1)"]);
    assert_eq!(changed("/Config/Cmd", json!(["serve"])), [r#"Cmd: ["serve"] => ["serve","--port","80"]"#]);
    assert_eq!(env(&["MODE=slow", "API_KEY=s3cret", "PATH=/bin"]), [r#"environment.MODE: "slow" => "fast""#]);
    assert_eq!(env(&["MODE=fast", "API_KEY=other"]), ["environment.API_KEY: (secret) => (secret)"]);
    assert_eq!(
        env(&["MODE=fast", "API_KEY=s3cret", "TOKEN=abc"]),
        ["environment.TOKEN: (set, and not shown) => (none)"]
    );
    assert_eq!(changed("/HostConfig/RestartPolicy/Name", json!("no")), [r#"RestartPolicy.Name: "no" => "always""#]);
    assert_eq!(changed("/NetworkSettings/Networks", json!({ "bridge": {} })), ["networks.front: (none) => attached"]);
    assert_eq!(
        changed("/Mounts/1/RW", json!(true)),
        ["volumes./etc/shop: bind /etc/shop => bind /etc/shop, read-only"]
    );
    assert_eq!(changed("/Mounts/0/Name", json!("other")), ["volumes./data: volume other => volume data"]);
}

#[test]
fn what_the_spec_leaves_out_is_the_images_own() {
    assert_eq!(changed("/Config/Entrypoint", json!(["/bin/sh"])), [r#"Entrypoint: ["/bin/sh"] => ["/bin/web"]"#]);
    assert_eq!(changed("/Config/User", json!("1000")), [r#"User: "1000" => (none)"#]);
    let mut more = seen();
    let mounts = more["Mounts"].as_array_mut().expect("a list");
    mounts.push(json!({ "Type": "volume", "Name": "a".repeat(64), "Destination": "/cache", "RW": true }));
    assert_eq!(differences(&more), [""; 0], "a volume that the image asks for");
    let mounts = more["Mounts"].as_array_mut().expect("a list");
    mounts.push(json!({ "Type": "bind", "Source": "/root", "Destination": "/root", "RW": true }));
    assert_eq!(differences(&more), ["volumes./root: bind => (none)"]);
}

#[test]
fn the_host_ports_that_it_has_are_found_in_the_specs_range() {
    let listed = |ports: Value| -> Listed {
        serde_json::from_value(json!({ "Id": "1", "Ports": ports })).expect("as the engine lists it")
    };
    let port = |public: u16| json!({ "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": public, "Type": "tcp" });
    let config = service(SERVICE).config;
    let (chosen, differences) = ports(&config, &listed(json!([port(83)])));
    assert_eq!((chosen[0].host, differences.len()), (83, 0));
    let (chosen, differences) = ports(&config, &listed(json!([port(90)])));
    assert!(chosen.is_empty());
    let texts: Vec<String> = differences.iter().map(Change::to_string).collect();
    assert_eq!(texts, ["ports: (none) => 80/tcp published", "ports: 90:80/tcp => (none)"]);
}
