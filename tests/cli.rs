//! The command line, as a user meets it: the built program, its output and its exit codes.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program in an empty folder, with none of this machine's settings.
fn reeve(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    // Whatever /etc/reeve/reeve.yaml there is must not count.
    let settings = folder.join("reeve.yaml");
    if !settings.exists() {
        std::fs::write(&settings, "node: edge-1\n").expect("the settings file is written");
    }
    command.env("REEVE_CONFIG", settings);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    reeve(folder.path(), arguments).output().expect("the program runs")
}

#[test]
fn help_names_every_command_and_gives_examples() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for command in [
        "run",
        "plan",
        "apply",
        "status",
        "explain",
        "validate",
        "render",
        "destroy",
        "import",
        "schema",
        "completions",
        "Examples:",
    ] {
        assert!(
            help.contains(&format!("\n  {command}")) || help.contains(&format!("\n{command}")),
            "{command}: {help}"
        );
    }
    for command in [
        "run",
        "plan",
        "apply",
        "status",
        "explain",
        "rollback",
        "hold",
        "release",
        "validate",
        "render",
        "destroy",
        "import",
        "schema",
        "completions",
    ] {
        let output = run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let help = text(&output.stdout);
        assert!(help.contains("Example"), "{command} has no example: {help}");
        // Lines that are wrapped in 100 columns lose their layout.
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{command}: {help}");
    }
}

#[test]
fn the_version_is_printed() {
    let output = run(&["--version"]);
    assert_eq!(text(&output.stdout), format!("reeve {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_1_because_2_means_changes() {
    for arguments in [&["plna"][..], &["plan", "--detailed-exitcod"], &["apply", "--timeout", "5"], &[]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let output = run(&["plna"]);
    assert!(text(&output.stderr).contains("'plan'"), "{}", text(&output.stderr));
}

#[test]
fn completions_are_valid_for_bash_zsh_and_fish() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("detailed-exitcode"), "{shell}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = folder.path().join("script");
        std::fs::write(&script, &output.stdout).expect("the script is written");
        // A shell that is not installed checks nothing.
        if let Ok(check) = Command::new(shell).arg("-n").arg(&script).output() {
            assert!(check.status.success(), "{shell}: {}", text(&check.stderr));
        }
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for arguments in [&["completions", "bash"][..], &["--help"], &["plan", "--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = reeve(folder.path(), arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn nobody_who_reads_the_errors_is_no_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = reeve(folder.path(), &["plan"]);
    let status =
        command.env("REEVE_NODES", "x").stderr(writer).stdout(Stdio::null()).status().expect("the program runs");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_error_in_the_settings_shows_the_place_and_exits_with_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("reeve.yaml"), "node: edge-1\nloop:\n  qiuet: 1s\n").expect("a file");
    let output = reeve(folder.path(), &["--config", "reeve.yaml", "plan", "--detailed-exitcode"])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: unknown key `qiuet` in `loop`\n --> reeve.yaml:3:3\n  |\n3 |   qiuet: 1s\n  |   ^^^^^ did you mean `quiet`?\n"
    );
}

#[test]
fn colour_is_only_where_it_was_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let escape = |arguments: &[&str]| {
        let output = reeve(folder.path(), arguments).env("REEVE_LOG_LEVEL", "loud").output().expect("the program runs");
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr).contains('\u{1b}')
    };
    assert!(!escape(&["plan"]));
    assert!(escape(&["plan", "--color", "always"]));
    assert!(!escape(&["plan", "--color", "never"]));
}

mod with_a_daemon {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use reeve::http::{Report, Server, Shared};
    use reeve::metrics::Metrics;
    use reeve::observed::{Host, Observed, View};
    use reeve::plan::Plan;
    use reeve::spec::Spec;
    use reeve::status::Status;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A daemon's server that has seen a world of which nothing is known.
    fn daemon() -> (SocketAddr, CancellationToken, std::thread::JoinHandle<()>) {
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let (told, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = reeve::cli::runtime().expect("a runtime");
            runtime.block_on(async {
                let metrics = Arc::new(Metrics::new().expect("valid metrics"));
                let shared = Shared::new(metrics, Duration::from_secs(30));
                let since = jiff::Timestamp::now();
                let unknown = || "not asked".to_owned();
                let observed = Observed {
                    docker: View::Unknown { reason: unknown(), since },
                    consul: View::Unknown { reason: unknown(), since },
                    nginx: View::Unknown { reason: unknown(), since },
                    directory: View::Unknown { reason: unknown(), since },
                    host: Host::default(),
                    templates: Default::default(),
                };
                let status = Status::of(&Spec::empty("shop"), &observed, &Plan::default(), &[]);
                let report =
                    Report { at: since, node: "edge-1".to_owned(), observe_only: false, spec_refused: None, status };
                shared.publish(&report, Arc::new(|| serde_json::json!({})), None).expect("serialisable");
                let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
                told.send(server.address()).expect("somebody waits for it");
                server.run(shared, ended).await;
            });
        });
        (address.recv().expect("the server listens"), stop, thread)
    }

    #[test]
    fn status_shows_its_last_pass_as_table_and_as_json() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (address, stop, thread) = daemon();
        let status = |arguments: &[&str]| {
            let mut command = reeve(folder.path(), arguments);
            command.env("REEVE_HTTP_LISTEN", address.to_string()).output().expect("the program runs")
        };
        let table = status(&["status"]);
        assert_eq!(table.status.code(), Some(0), "{}", text(&table.stderr));
        assert!(text(&table.stdout).contains("! docker is unknown for "), "{}", text(&table.stdout));
        assert!(text(&table.stdout).contains("SERVICE  DESIRED"), "{}", text(&table.stdout));
        let json = status(&["status", "-o", "json"]);
        let value: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(value["project"], "shop");
        stop.cancel();
        thread.join().expect("no panic");
    }

    #[test]
    fn a_watched_status_ends_when_it_is_told_to_or_its_reader_is_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (address, stop, thread) = daemon();
        let mut child = reeve(folder.path(), &["status", "--watch", "-o", "json"])
            .env("REEVE_HTTP_LISTEN", address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut first = [0];
        child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("it prints at once");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status.code();
            }
            if begun.elapsed() > Duration::from_secs(5) {
                child.kill().expect("killed");
                child.wait().expect("ended");
                panic!("it did not end at Ctrl-C");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(code, Some(0));
        stop.cancel();
        thread.join().expect("no panic");
    }
}

#[test]
fn the_schema_that_the_manifests_name_is_the_one_that_is_printed() {
    let output = run(&["schema"]);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/reeve.schema.json");
    if std::env::var("REEVE_GOLDEN").as_deref() == Ok("overwrite") {
        std::fs::write(&file, &output.stdout).expect("the schema can be written");
    }
    let kept = std::fs::read_to_string(&file).expect("the schema is readable");
    assert!(kept == text(&output.stdout), "`reeve schema > manifests/reeve.schema.json` (or REEVE_GOLDEN=overwrite)");
}

#[test]
fn import_writes_a_spec_and_says_what_has_no_counterpart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    // Broken settings of the daemon are no obstacle.
    write("reeve.yaml", "nonsense: true\n");
    write("compose.yaml", "services:\n  web:\n    image: web:1\n    links: [db]\n");
    let output = reeve(folder.path(), &["import", "compose", "compose.yaml"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let (spec, list) = (text(&output.stdout), text(&output.stderr));
    assert!(spec.contains("\n    # links: [db]\n"), "{spec}");
    assert!(list.contains(" --> compose.yaml:4:5\n") && list.contains("1 thing has no counterpart"), "{list}");

    write("app.ctmpl", "{{ range service \"web\" }}{{ .Address }}\n{{ end }}");
    let template = ["import", "consul-template", "--template", "app.ctmpl:/etc/app.conf:app reload", "-o", "out"];
    let output = reeve(folder.path(), &template).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "out/templates.yaml is written\nout/app.conf.j2 is written\n");
    let translated = std::fs::read_to_string(folder.path().join("out/app.conf.j2")).expect("it is there");
    assert_eq!(translated, "{% for instance in service(\"web\") %}{{ instance.Address }}\n{% endfor %}");

    // What somebody has changed since is not lost by asking again.
    write("out/app.conf.j2", "mine");
    let output = reeve(folder.path(), &template).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is there already"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(folder.path().join("out/app.conf.j2")).expect("it is there"), "mine");

    let output = reeve(folder.path(), &["import", "registrator", "--", "-internal", "consul://127.0.0.1:8500"])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("\n  address: container"), "{}", text(&output.stdout));

    write("bad.ctmpl", "a\n{{ range }}");
    let output = reeve(folder.path(), &["import", "consul-template", "bad.ctmpl"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(" --> bad.ctmpl:2:1\n"), "{}", text(&output.stderr));
}

#[test]
fn validate_refuses_a_template_that_writes_outside_of_the_allowed_folders() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spec = "name: shop\ntemplates:\n  a:\n    contents: x\n    destination: /boot/app.conf\n  b: { contents: x, destination: /etc/b }\n";
    std::fs::write(folder.path().join("shop.yaml"), spec).expect("written");
    let validate = |folder: &Path| reeve(folder, &["-f", "shop.yaml", "validate"]).output().expect("the program runs");
    let output = validate(folder.path());
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the template `a` writes into none of the allowed folders: /etc, "), "{said}");
    assert!(said.contains("shop.yaml:5:18") && said.contains("`templates.allow`"), "{said}");
    assert!(!said.contains("template `b`"), "{said}");
    let settings = "node: edge-1\ntemplates: { allow: [/boot, /etc] }\n";
    std::fs::write(folder.path().join("reeve.yaml"), settings).expect("written");
    assert_eq!(validate(folder.path()).status.code(), Some(0));
}
