//! Tests of the whole way from text to a spec that are not golden files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::container::{EnvironmentValue, NetworkMode, Published};
use super::load::*;
use super::*;

fn options() -> LoadOptions {
    LoadOptions::default()
}

fn good(text: &str) -> Loaded {
    load_text(&[("a.yaml", text)], &options()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn with_environment(pairs: &[(&str, &str)]) -> LoadOptions {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    LoadOptions { environment, ..options() }
}

fn in_memory(text: &str, options: &LoadOptions, files: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let files = files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
    load_from(&[("a.yaml".to_owned(), text.as_bytes().to_vec())], Path::new("/srv/My App"), options, &Memory(files))
}

#[test]
fn the_project_is_named_by_option_environment_file_or_folder_in_this_order() {
    let text = "name: from-file\nservices: { web: { image: x } }\n";
    let unnamed = "services: { web: { image: x } }\n";
    let project = |text: &str, options: &LoadOptions| in_memory(text, options, &[]).expect("it is good").spec.project;
    let mut given = with_environment(&[("COMPOSE_PROJECT_NAME", "from-environment")]);
    assert_eq!(project(unnamed, &options()), "myapp");
    assert_eq!(project(text, &options()), "from-file");
    assert_eq!(project(text, &given), "from-environment");
    given.project = Some("from-option".to_owned());
    assert_eq!(project(text, &given), "from-option");
    let from_variable = "name: ${STAGE}-shop\nservices: { web: { image: x } }\n";
    assert_eq!(project(from_variable, &with_environment(&[("STAGE", "prod")])), "prod-shop");
}

#[test]
fn the_environment_wins_over_the_env_file_beside_the_spec() {
    let text = "services: { web: { image: 'x:${TAG}', labels: { a: '${OTHER}', p: $COMPOSE_PROJECT_NAME } } }\n";
    let env = [("/srv/My App/.env", "TAG=file\nOTHER=file\n")];
    let loaded = in_memory(text, &with_environment(&[("TAG", "shell")]), &env).expect("it is good");
    let config = &loaded.spec.services["web"].config;
    assert_eq!(config.image, "x:shell");
    assert_eq!(config.labels["a"], "file");
    assert_eq!(config.labels["p"], "myapp");
}

#[test]
fn every_file_that_was_read_or_looked_for_is_told() {
    let text = "services:\n  web:\n    image: x\n    env_file: [{ path: ../w.env, required: false }]\n    secrets: [s]\n\
                secrets: { s: { file: ./s.txt } }\n\
                upstreams: { u: { service: web, listen: 1, tls: { certificate: c.pem, key: /k.pem } } }\n";
    let loaded = in_memory(text, &options(), &[("/srv/My App/s.txt", "x")]).expect("it is good");
    let wanted = ["/k.pem", "/srv/My App/.env", "/srv/My App/c.pem", "/srv/My App/s.txt", "/srv/w.env"];
    assert_eq!(loaded.files, wanted.map(PathBuf::from));
}

#[test]
fn a_folder_means_its_spec_files_sorted_and_others_are_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("it can be written");
    write("b.yml", "services: { web: { image: second } }\n");
    write("a.yaml", "name: shop\nservices: { web: { image: first, user: me } }\n");
    write(".hidden.yaml", "nonsense: true\n");
    write("notes.txt", "nonsense: true\n");
    let given = LoadOptions { files: vec![folder.path().to_owned()], ..options() };
    let loaded = load(&given).unwrap_or_else(|problems| panic!("{problems}"));
    let config = &loaded.spec.services["web"].config;
    assert_eq!((config.image.as_str(), config.user.as_deref()), ("second", Some("me")));
    assert!(loaded.files.contains(&folder.path().join("b.yml")), "{:?}", loaded.files);
}

#[test]
fn what_cannot_be_read_is_named() {
    let missing = LoadOptions { files: vec![PathBuf::from("/nonexistent/spec.yaml")], ..options() };
    let problems = load(&missing).expect_err("it does not exist");
    assert!(problems.to_string().contains("/nonexistent/spec.yaml"), "{problems}");
    assert!(load(&options()).expect_err("no file").to_string().contains("-f"));
    // A device or a pipe would never end.
    let device = LoadOptions { files: vec![PathBuf::from("/dev/zero")], ..options() };
    assert!(load(&device).expect_err("not a file").to_string().contains("regular file"));
}

#[test]
fn a_huge_file_is_refused_before_it_is_parsed() {
    let huge = format!("a: \"{}\"\n", "x".repeat(5 << 20));
    let problems = load_text(&[("huge.yaml", &huge)], &options()).expect_err("it is huge");
    assert!(problems.to_string().contains("5 MiB"), "{problems}");
}

#[test]
fn credentials_are_secrets_wherever_they_stand() {
    let text = "services:\n  web:\n    image: x\n    command: run --password ${DB_PASSWORD} --port ${PORT}\n    \
                environment:\n      DB_PASSWORD:\n      URL: http://u:hunter2@h/\n      PLAIN: ok\n      EMPTY_TOKEN: ''\n";
    let given = with_environment(&[("DB_PASSWORD", "hunter22"), ("PORT", "8080801")]);
    let loaded = load_text(&[("a.yaml", text)], &given).expect("it is good");
    let config = &loaded.spec.services["web"].config;
    assert!(
        matches!(&config.environment["DB_PASSWORD"], EnvironmentValue::Secret(secret) if secret.reveal() == "hunter22")
    );
    assert!(matches!(&config.environment["URL"], EnvironmentValue::Secret(_)));
    assert_eq!(config.environment["PLAIN"], EnvironmentValue::Plain("ok".to_owned()));
    assert_eq!(config.environment["EMPTY_TOKEN"], EnvironmentValue::Plain(String::new()));
    // Used as it is, and shown as a digest.
    assert_eq!(config.command.as_ref().map(|words| words[2].as_str()), Some("hunter22"));
    for shown in [config.canonical(), loaded.resolved.to_string(), format!("{:?}", config.environment)] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert!(config.canonical().contains("8080801"));
    let other = with_environment(&[("DB_PASSWORD", "hunter33"), ("PORT", "8080801")]);
    let other = load_text(&[("a.yaml", text)], &other).expect("it is good");
    assert_ne!(other.spec.services["web"].hash, loaded.spec.services["web"].hash);
}

#[test]
fn an_unset_variable_warns_once_and_is_empty() {
    let loaded = good("services: { web: { image: 'x${TAG}', labels: { a: '${TAG}', b: '${TAG}' } } }\n");
    assert_eq!(loaded.spec.services["web"].config.image, "x");
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].message.contains("TAG"));
}

#[test]
fn only_what_active_services_use_is_made() {
    let text = "services:\n  a: { image: x, networks: [n] }\n  b: { image: x, profiles: [p], volumes: ['v:/v'] }\n\
                networks: { n: {}, unused: {} }\nvolumes: { v: {}, w: {} }\n";
    let names = |loaded: &Loaded| {
        let networks: Vec<String> = loaded.spec.networks.keys().cloned().collect();
        let volumes: Vec<String> = loaded.spec.volumes.keys().cloned().collect();
        (networks.join(" "), volumes.join(" "))
    };
    assert_eq!(names(&good(text)), ("spec_n".to_owned(), String::new()));
    let on = with_environment(&[("COMPOSE_PROFILES", "other, p")]);
    let loaded = load_text(&[("a.yaml", text)], &on).expect("it is good");
    assert_eq!(names(&loaded), ("spec_default spec_n".to_owned(), "spec_v".to_owned()));
}

#[test]
fn a_shared_network_is_a_dependency() {
    let loaded = good("services:\n  vpn: { image: x }\n  app: { image: y, network_mode: 'service:vpn' }\n");
    let app = &loaded.spec.services["app"];
    assert_eq!(app.config.network_mode, Some(NetworkMode::Service("vpn".to_owned())));
    assert!(app.config.networks.is_empty());
    assert!(app.depends_on.contains_key("vpn"));
}

#[test]
fn the_design_example_is_read_as_it_is_meant() {
    let loaded = good(
        "name: shop\nservices:\n  web:\n    image: localhost/web:1\n    \
         deploy: { replicas: 4, update_config: { order: stop-first, parallelism: 1 } }\n    ports: [\"81-84:80\"]\n    \
         register:\n      name: nginx\n      check: { http: /, interval: 5s, timeout: 1s, deregister_after: 10m }\n\
         upstreams:\n  http_backend:\n    service: nginx\n    listen: 1216\n    server_name: [localhost]\n    \
         balance: least_conn\n    headers: { X-Env: demo, X-Forwarded-Host: $host }\n",
    );
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let web = &loaded.spec.services["web"];
    assert_eq!(web.replicas, 4);
    assert_eq!(web.config.ports[0].published, Published::Range { first: 81, last: 84 });
    let register = &web.register[0];
    assert_eq!((register.name.as_str(), register.port, &register.address), ("nginx", 80, &RegisterAddress::Published));
    let check = register.check.as_ref().expect("it declares a check");
    assert_eq!(check.deregister_after, Some(Duration::from_secs(600)));
    let upstream = &loaded.spec.upstreams["http_backend"];
    assert_eq!(upstream.listen.port, 1216);
    assert_eq!(upstream.headers["X-Forwarded-Host"], "$host");
    assert_eq!(upstream.drain, Duration::from_secs(10));
}

#[test]
fn the_order_of_ports_and_mounts_in_the_file_does_not_change_the_hash() {
    let hash = |text: &str| good(text).spec.services["web"].hash.clone();
    assert_eq!(
        hash("services: { web: { image: x, ports: ['1:1', '2:2'], volumes: ['/a:/a', '/b:/b'], cap_add: [A, B] } }\n"),
        hash("services: { web: { image: x, cap_add: [B, A], volumes: ['/b:/b', '/a:/a'], ports: ['2:2', '1:1'] } }\n")
    );
}

#[test]
fn a_log_is_told_in_one_line_what_is_wrong_where_and_what_to_do() {
    let text = "services:\n  web:\n    imge: x\n    image: X\n  a: { build: . }\n  b: {}\n  c: {}\n";
    let problems = in_memory(text, &options(), &[]).expect_err("there are five mistakes");
    let line = problems.line();
    assert!(
        line.starts_with("a.yaml:3:5: unknown key `imge` in a service (did you mean `image`?); a.yaml:4:12: "),
        "{line}"
    );
    assert!(line.ends_with("; and 2 more (`reeve validate` shows them)"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert_eq!(Diagnostic::of_file("", "no spec file is given").line(), "no spec file is given");
    assert_eq!(Diagnostic::of_file("a.yaml", "it is empty").line(), "a.yaml: it is empty");
}

#[test]
fn a_service_that_a_registrator_would_have_registered_and_that_has_no_register_is_told() {
    let web = "name: shop\nservices:\n  web: { image: x, ports: ['80'], environment: { SERVICE_NAME: nginx } }\n";
    let told = good(&format!("{web}discovery: {{ containers: all }}\n")).warnings;
    let [warning] = told.as_slice() else { panic!("{told:?}") };
    assert!(warning.message.contains("`web` has SERVICE_NAME, and no `register`"), "{warning:?}");
    assert_eq!(warning.line, 3);
    for silent in [
        web.to_owned(),
        format!("{}discovery: {{ containers: all }}\n", web.replace("SERVICE_NAME: nginx", "SERVICE_IGNORE: 'yes'")),
        format!("{}discovery: {{ containers: all }}\n", web.replace("image: x", "image: x, register: true")),
        format!("{}discovery: {{ containers: all }}\n", web.replace("image: x", "image: x, x-register: true")),
    ] {
        assert!(good(&silent).warnings.is_empty(), "{silent}");
    }
}
