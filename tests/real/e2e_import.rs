//! The files of the practice that reeve replaces, imported and applied: the same catalog and the same file as before.

use std::fs;
use std::path::PathBuf;

use crate::support::docker::{STRANGER, docker};
use crate::support::shop::WEB;
use crate::support::{Site, eventually};

fn original(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/import/original").join(name)
}

/// Between which words there is how much white space does not matter to nginx.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn the_files_of_the_old_pipeline_are_imported_and_render_what_they_did() {
    let mut site = Site::new("import");
    let files = site.folder().join("files");
    fs::create_dir(&files).expect("the folder is made");
    site.more_settings = format!("templates: {{ allow: [\"{}\"] }}\n", files.display());
    site.write_settings();
    let path = |name: &str| site.folder().join(name).display().to_string();

    // registrator's compose file, and consul-template's command line.
    fs::copy(original("nginx.ctmpl"), path("nginx.ctmpl")).expect("copied");
    fs::copy(original("registrator.yaml"), path("registrator.yaml")).expect("copied");
    site.reeve(&["import", "compose", &path("registrator.yaml"), "-o", &path("discovery.yaml")]).success();
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
    site.reeve(&[&given[..], &["plan"]].concat()).success().says("app.conf");
    eventually("the file is what consul-template rendered", || {
        site.reeve(&[&given[..], &["apply", "--timeout", "60s"]].concat()).success();
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
}
