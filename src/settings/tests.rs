//! Where settings come from, which source wins, and what errors say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

/// A folder with a settings file of this text, and the sources that find it.
struct Given {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn given(text: &str, environment: &[(&str, &str)]) -> Given {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("reeve.yaml"), text).expect("the settings file is written");
    let sources = Sources {
        config: Some(PathBuf::from("reeve.yaml")),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        overrides: BTreeMap::new(),
        current_directory: folder.path().to_owned(),
        host_name: "edge-1".to_owned(),
    };
    Given { folder, sources }
}

fn loaded(text: &str, environment: &[(&str, &str)]) -> Settings {
    Settings::load(&given(text, environment).sources).expect("valid settings").settings
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    Settings::load(&given(text, environment).sources).expect_err("these settings were accepted").to_string()
}

#[test]
fn without_a_file_every_default_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut sources = given("", &[]).sources;
    sources.config = None;
    sources.current_directory = folder.path().to_owned();
    let loaded = Settings::load(&sources).expect("defaults are valid");
    assert_eq!(loaded.settings, Settings::defaults("edge-1"));
    assert_eq!(loaded.file, None);
}

#[test]
fn the_commented_example_says_exactly_the_defaults() {
    let text = include_str!("../../config/reeve.yaml");
    assert_eq!(loaded(text, &[]), Settings::defaults("edge-1"));
}

#[test]
fn the_commented_example_names_every_key_with_its_variable_and_default() {
    let text = include_str!("../../config/reeve.yaml");
    let defaults = Settings::defaults("");
    for entry in ENTRIES.iter().filter(|entry| !entry.secret) {
        let (section, key) = entry.key.split_once('.').map_or(("", entry.key), |(section, key)| (section, key));
        let indent = if section.is_empty() { "" } else { "  " };
        let line = match entry.value(&defaults).filter(|value| !value.is_empty()) {
            Some(value) => format!("{indent}{key}: {value}"),
            None => format!("{indent}#{key}: "),
        };
        let from = if section.is_empty() { 0 } else { text.find(&format!("\n{section}:\n")).expect("its section") };
        let place = text[from..].find(&format!("\n{line}")).unwrap_or_else(|| panic!("no line `{line}`")) + from;
        let comment = text[..place].lines().next_back().unwrap_or_default();
        assert!(comment.contains(entry.environment), "`{line}` is not preceded by {}: {comment}", entry.environment);
        assert_eq!(comment.contains("(restart)"), entry.takes == Takes::AtRestart, "{comment}");
        if let Some(also) = entry.also {
            assert!(comment.contains(also), "{comment}");
        }
    }
}

#[test]
fn the_commented_out_lines_of_the_example_are_valid_when_they_are_used() {
    let text: String = include_str!("../../config/reeve.yaml")
        .lines()
        .map(|line| match line.trim_start().strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && rest.contains(": ") => {
                let indent = &line[..line.len() - line.trim_start().len()];
                format!("{indent}{rest}\n").replace("/etc/reeve/consul-token", "token")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let given = given(&text, &[]);
    std::fs::write(given.folder.path().join("token"), "t-1\n").expect("the token's file is written");
    let settings = Settings::load(&given.sources).expect("valid settings").settings;
    for entry in ENTRIES {
        assert_eq!(entry.value(&settings).is_some(), !entry.secret, "{} is not in the example", entry.key);
    }
    assert_eq!(settings.consul.token.as_deref(), Some("t-1"));
}

#[test]
fn keys_and_variables_follow_one_rule() {
    for entry in ENTRIES {
        let rule = format!("REEVE_{}", entry.key.replace('.', "_").to_uppercase());
        assert_eq!(entry.environment, rule);
    }
}

#[test]
fn the_command_line_wins_over_the_environment_over_the_file_over_dockers_variables_over_the_default() {
    let file = "docker: { host: 'tcp://file:1' }\nlog: { level: warn }\n";
    let environment = [("DOCKER_HOST", "tcp://docker:1"), ("REEVE_DOCKER_HOST", "tcp://reeve:1")];
    assert_eq!(loaded("", &[]).docker.host, "unix:///var/run/docker.sock");
    assert_eq!(loaded("", &environment[..1]).docker.host, "tcp://docker:1");
    assert_eq!(loaded(file, &environment[..1]).docker.host, "tcp://file:1");
    assert_eq!(loaded(file, &environment).docker.host, "tcp://reeve:1");
    let mut given = given(file, &[("REEVE_LOG_LEVEL", "error")]);
    given.sources.overrides.insert("log.level", vec!["debug".to_owned()]);
    assert_eq!(Settings::load(&given.sources).expect("valid settings").settings.log.level, "debug");
}

#[test]
fn an_empty_variable_and_a_null_in_the_file_count_as_not_set() {
    let settings = loaded("consul:\n  token_file: null\n  address:\nspec:\n", &[("REEVE_CONSUL_ADDRESS", "")]);
    assert_eq!(settings, Settings::defaults("edge-1"));
}

#[test]
fn the_named_file_must_exist_and_is_named_in_the_error() {
    let mut given = given("", &[("REEVE_CONFIG", "absent.yaml")]);
    given.sources.config = None;
    let error = Settings::load(&given.sources).expect_err("a missing file was accepted").to_string();
    assert!(error.contains("absent.yaml (named by REEVE_CONFIG)"), "{error}");
}

#[test]
fn a_file_in_the_folder_config_is_found() {
    let mut given = given("", &[]);
    given.sources.config = None;
    std::fs::create_dir(given.folder.path().join("config")).expect("a folder");
    std::fs::write(given.folder.path().join("config/reeve.yaml"), "node: found").expect("a file");
    let loaded = Settings::load(&given.sources).expect("valid settings");
    assert_eq!(loaded.settings.node, "found");
    assert_eq!(loaded.file.as_deref(), Some(Path::new("config/reeve.yaml")));
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_those_of_the_environment_to_the_current_directory() {
    let given = given("", &[("REEVE_NGINX_CONFIG", "my/nginx.conf"), ("REEVE_NGINX_BINARY", "nginx-debug")]);
    let mut sources = given.sources.clone();
    std::fs::create_dir(given.folder.path().join("etc")).expect("a folder");
    std::fs::write(given.folder.path().join("etc/r.yaml"), "spec: [a.yaml, /b.yaml]\nlock: x/<project>.lock")
        .expect("a file");
    sources.config = Some(PathBuf::from("etc/r.yaml"));
    let settings = Settings::load(&sources).expect("valid settings").settings;
    let base = given.folder.path();
    assert_eq!(settings.spec, [base.join("etc/a.yaml"), PathBuf::from("/b.yaml")]);
    assert_eq!(settings.lock_path("shop"), base.join("etc/x/shop.lock"));
    assert_eq!(settings.nginx.config, base.join("my/nginx.conf"));
    assert_eq!(settings.nginx.binary, Path::new("nginx-debug"));
}

#[test]
fn a_folder_named_config_belongs_to_the_project_around_it() {
    let given = given("", &[]);
    let mut sources = given.sources.clone();
    std::fs::create_dir(given.folder.path().join("config")).expect("a folder");
    std::fs::write(given.folder.path().join("config/reeve.yaml"), "spec: [manifests/shop.yaml]").expect("a file");
    sources.config = Some(PathBuf::from("config/reeve.yaml"));
    let settings = Settings::load(&sources).expect("valid settings").settings;
    assert_eq!(settings.spec, [given.folder.path().join("manifests/shop.yaml")]);
}

#[test]
fn a_name_that_looks_like_a_number_stays_as_it_was_written() {
    assert_eq!(loaded("node: 1.10", &[]).node, "1.10");
    assert_eq!(loaded("node: 007", &[]).node, "007");
}

#[test]
fn a_secret_is_read_from_its_file_and_is_never_shown() {
    let given = given("consul: { token_file: token }", &[]);
    std::fs::write(given.folder.path().join("token"), "hunter2\n").expect("the token's file is written");
    let mut sources = given.sources.clone();
    let settings = Settings::load(&sources).expect("valid settings").settings;
    assert_eq!(settings.consul.token.as_deref(), Some("hunter2"));
    assert!(!format!("{settings:?}").contains("hunter2"));
    sources.environment.insert("REEVE_CONSUL_TOKEN".to_owned(), "swordfish".to_owned());
    let settings = Settings::load(&sources).expect("valid settings").settings;
    assert_eq!(settings.consul.token.as_deref(), Some("swordfish"));
    assert!(!format!("{settings:?} {sources:?}").contains("swordfish"));
    assert!(ENTRIES.iter().all(|entry| entry.value(&settings).is_none_or(|value| !value.contains("swordfish"))));
}

#[test]
fn a_token_file_that_is_missing_or_empty_is_an_error() {
    assert!(refused("consul: { token_file: absent }", &[]).contains("absent: cannot be read: No such file"));
    let given = given("consul: { token_file: token }", &[]);
    std::fs::write(given.folder.path().join("token"), "\n").expect("the token's file is written");
    let error = Settings::load(&given.sources).expect_err("an empty token was accepted").to_string();
    assert!(error.contains("is empty"), "{error}");
}

#[test]
fn a_mistyped_variable_is_reported() {
    let given = given("", &[("REEVE_CONSUL_ADRESS", "http://x:1"), ("REEVE_NODE", "n")]);
    let warnings = Settings::load(&given.sources).expect("valid settings").warnings;
    assert_eq!(
        warnings,
        [
            "the environment variable REEVE_CONSUL_ADRESS is not a setting and is ignored; did you mean REEVE_CONSUL_ADDRESS?"
        ]
    );
}

#[test]
fn what_only_a_restart_takes_is_told_and_kept() {
    let mut settings = Settings::defaults("a");
    let mut new = Settings::defaults("b");
    new.log.level = "debug".to_owned();
    new.http.listen = None;
    assert_eq!(settings.reload(new), ["node", "http.listen"]);
    assert_eq!(settings.node, "a");
    assert_eq!(settings.http, Settings::defaults("a").http);
    assert_eq!(settings.log.level, "debug");
}

/// The table says which keys need a restart, and `reload` names the fields: neither may forget one.
#[test]
fn every_key_is_either_taken_or_left_as_the_table_says() {
    let others = [
        ("node", "other"),
        ("spec", "other.yaml"),
        ("advertise", "192.0.2.99"),
        ("http.listen", "127.0.0.1:1"),
        ("nginx.probe", "127.0.0.1:2"),
        ("nginx.mode", "off"),
        ("nginx.endpoints", "reload"),
        ("log.format", "json"),
        ("log.level", "trace"),
        ("loop.distrust_percent", "7"),
        ("consul.address", "http://192.0.2.1:8500"),
        ("docker.host", "unix:///other.sock"),
    ];
    for entry in ENTRIES.iter().filter(|entry| !entry.secret) {
        let named = others.iter().find(|(key, _)| *key == entry.key).map(|(_, value)| vec![(*value).to_owned()]);
        let old = Settings::defaults("a");
        let candidates = named.map_or_else(
            || ["true", "42s", "/other", "7"].map(|value| vec![value.to_owned()]).to_vec(),
            |value| vec![value],
        );
        let changed = candidates.iter().find_map(|values| {
            let mut new = old.clone();
            let given = table::Given { values, base: Path::new("/") };
            ((entry.set)(&mut new, &given).is_ok() && (entry.get)(&new) != (entry.get)(&old)).then_some(new)
        });
        let changed = changed.unwrap_or_else(|| panic!("{}: no other value is known to this test", entry.key));
        let (mut settings, wanted) = (old.clone(), (entry.get)(&changed));
        let left = settings.reload(changed);
        if entry.takes == Takes::AtRestart {
            assert_eq!((left.as_slice(), (entry.get)(&settings)), (&[entry.key][..], (entry.get)(&old)));
        } else {
            assert_eq!((left.as_slice(), (entry.get)(&settings)), (&[][..], wanted));
        }
    }
}

#[test]
fn a_host_whose_name_cannot_be_used_must_set_node() {
    let mut given = given("", &[]);
    given.sources.host_name = "bad name".to_owned();
    let error = Settings::load(&given.sources).expect_err("a bad name was accepted").to_string();
    assert!(error.contains("REEVE_NODE"), "{error}");
}

/// Each case of the golden file: a settings file between `=====` and `-----`, and the complete error below it.
#[test]
fn errors_show_file_line_column_and_a_caret() {
    let golden = include_str!("../../tests/golden/settings-errors.txt");
    let cases: Vec<(&str, &str)> =
        golden.split("=====\n").skip(1).map(|case| case.split_once("-----\n").expect("a line of dashes")).collect();
    assert!(cases.len() > 20);
    for (text, error) in cases {
        assert_eq!(refused(text, &[]), error.trim_end_matches('\n'), "\n{text}");
    }
}

#[test]
fn errors_of_the_environment_name_the_variable() {
    assert_eq!(
        refused("", &[("REEVE_LOOP_QUIET", "5"), ("REEVE_HTTP_LISTEN", "0.0.0.0:9464")]),
        "error: REEVE_LOOP_QUIET: `5` has no unit; write it like 50ms, 30s or 1m30s\n\n\
         error: REEVE_HTTP_LISTEN: 0.0.0.0:9464 can be reached by other machines, and there is no \
         authentication; write 127.0.0.1:9464, or set http.allow_remote: true"
    );
}
