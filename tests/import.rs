//! The way over from Compose, registrator and consul-template, without Docker, Consul or nginx.
//!
//! `import/snippets.txt` holds Go's templates with their translation and its output, which is what Go's own `text/template`
//! prints for the same data; `import/original` the files of the original practice; `import/cases` files in the shapes that
//! people have. `REEVE_GOLDEN=overwrite` writes the outcomes anew.

#[path = "import/world.rs"]
mod world;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use reeve::import::consul_template::{self, Given};
use reeve::import::gotemplate::{self, Options};
use reeve::import::{Imported, compose, registrator};
use reeve::spec::LoadOptions;
use reeve::spec::diagnostic::Diagnostics;
use reeve::spec::load::{Memory, load_text};

const ROOT: &str = "tests/import";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).expect("the file is there")
}

fn compare(golden: &str, is: &str) {
    let path = Path::new(ROOT).join(golden);
    if std::env::var("REEVE_GOLDEN").as_deref() == Ok("overwrite") {
        fs::write(path, is).expect("the golden file can be written");
        return;
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    if wanted != is {
        let diff = similar::TextDiff::from_lines(wanted.as_str(), is);
        panic!("{golden}: REEVE_GOLDEN=overwrite writes it anew\n{}", diff.unified_diff().context_radius(3));
    }
}

/// The files of a folder of the tests, by their names alone.
fn files(folder: &str) -> Memory {
    let mut memory = Memory::default();
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().expect("a file has a name").into();
        memory.0.insert(name, fs::read(&path).expect("it can be read"));
    }
    memory
}

fn outcome(result: Result<Imported, Diagnostics>) -> String {
    match result {
        Err(problems) => format!("{}\n", problems.render(false)),
        Ok(imported) => {
            let mut text = String::new();
            for file in &imported.files {
                let _ = writeln!(text, "# ==> {}\n{}", file.name, file.text);
            }
            if !imported.gaps.is_empty() {
                let _ = writeln!(text, "# ==> without a counterpart\n{}", Diagnostics(imported.gaps).render(false));
            }
            text
        }
    }
}

fn from_compose(folder: &str, names: &[&str]) -> Result<Imported, Diagnostics> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    compose::import(&names, Path::new("/spec"), &LoadOptions::default(), &files(folder))
}

fn from_settings(folder: &str, given: &Given) -> Result<Imported, Diagnostics> {
    consul_template::import(given, &files(folder))
}

fn named(files: &[&str]) -> Given {
    Given { files: files.iter().map(|name| (*name).to_owned()).collect(), ..Given::default() }
}

#[test]
fn each_snippet_is_translated_and_prints_what_go_prints() {
    let text = read("snippets.txt");
    let mut is = String::new();
    let mut count = 0;
    for part in format!("\n{text}").split("\n== ").skip(1) {
        count += 1;
        let (name, rest) = part.split_once('\n').expect("a name and a template");
        let go = rest.split("\n-- ").next().unwrap_or_default().trim_end_matches('\n');
        let translated = gotemplate::translate(go, &Options::new("app.ctmpl"))
            .unwrap_or_else(|fault| panic!("{name}: Go would read this: {fault:?}"));
        let _ = write!(is, "== {name}\n{go}\n-- minijinja\n{}\n", translated.text);
        for gap in &translated.gaps {
            let _ = writeln!(is, "-- no counterpart: {}: {}", &go[gap.range.clone()], gap.reason);
        }
        match (world::render(&translated.text), translated.gaps.is_empty()) {
            (Ok(output), true) => {
                let _ = write!(is, "-- output\n{output}\n");
            }
            (Err(error), true) => panic!("{name}: {error}\n{}", translated.text),
            (Ok(output), false) => panic!("{name}: it must not be usable by oversight: {output}"),
            (Err(error), false) => assert!(error.contains("no_counterpart"), "{name}: {error}"),
        }
    }
    assert!(count >= 80, "only {count} snippets");
    compare("snippets.txt", &is);
}

#[test]
fn what_go_would_refuse_is_refused_at_its_place() {
    for (source, at, words) in [
        ("a {{ .X", "{{ .X", "no end"),
        ("{{ range service \"web\" }}a", "{{ range service \"web\" }}", "no `end`"),
        ("a{{ end }}", "{{ end }}", "belongs to nothing"),
        ("{{ else }}", "{{ else }}", "belongs to nothing"),
        ("{{ if (eq 1 1 }}{{ end }}", "(", "not closed"),
        ("{{ if eq 1 1) }}{{ end }}", ")", "not opened"),
        ("{{ \"a }}", "\"a }}", "closing \""),
        ("{{ `a }}", "`a }}", "closing `"),
        ("{{ }}", "{{ }}", "empty"),
        ("{{ 5 | 6 }}", "6", "nothing can be piped"),
        ("{{ $x := }}", "{{ $x := }}", "value is missing"),
        ("{{ if }}a{{ end }}", "{{ if }}", "value is missing"),
        ("{{ break }}", "{{ break }}", "outside of `range`"),
        ("{{ /* a }}", "{{ /*", "`*/` is missing"),
        ("{{/*/}}a", "{{/*", "`*/` is missing"),
        ("{{ if 1 }}a{{ else }}b{{ else }}c{{ end }}", "{{ else }}", "second `else`"),
        ("{{ range $a, $b, $c := services }}{{ end }}", ":=", "variables"),
        ("{{ \"\\q\" }}", "\\q", "no such escape"),
        ("{{ a ! b }}", "!", "no meaning"),
    ] {
        let fault = gotemplate::translate(source, &Options::new("x")).expect_err(source);
        assert_eq!(&source[fault.range.clone()], at, "{source}: {fault:?}");
        assert!(fault.message.contains(words), "{source}: {}", fault.message);
    }
    let deep = format!("{}a{}", "{{ if 1 }}".repeat(5000), "{{ end }}".repeat(5000));
    assert!(gotemplate::translate(&deep, &Options::new("x")).expect_err("too deep").message.contains("levels deep"));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(gotemplate::translate(&deep, &Options::new("x")).expect_err("too deep").message.contains("levels deep"));
}

#[test]
fn the_original_practice_is_imported_whole() {
    let imported = from_compose("original", &["consul.yaml"]).expect("it is imported");
    assert!(imported.gaps.is_empty(), "{:?}", imported.gaps);
    compare("original/consul.imported.yaml", &imported.files[0].text);
    let loaded = load_text(&[("spec.yaml", &imported.files[0].text)], &LoadOptions::default()).expect("reeve takes it");
    assert_eq!(loaded.spec.services.len(), 4);

    let imported = from_compose("original", &["registrator.yaml"]).expect("it is imported");
    assert!(imported.gaps.is_empty(), "{:?}", imported.gaps);
    compare("original/registrator.imported.yaml", &imported.files[0].text);

    let command = Some(read("original/consul-template.sh"));
    let mut files = files("original");
    let template = files.0.remove(Path::new("nginx.ctmpl")).expect("the template is there");
    files.0.insert("/data/template/nginx.ctmpl".into(), template);
    let imported = consul_template::import(&Given { command, ..Given::default() }, &files).expect("it is imported");
    assert!(imported.gaps.is_empty(), "{:?}", imported.gaps);
    compare("original/templates.imported.yaml", &imported.files[0].text);
    let hint = imported.files[0].text.lines().find_map(|line| line.trim().strip_prefix("#   upstreams:"));
    let hint = format!("name: x\nupstreams:{}\n", hint.expect("nginx needs no template"));
    let spec = load_text(&[("spec.yaml", &hint)], &LoadOptions::default()).expect("reeve takes it").spec;
    assert_eq!(spec.upstreams["http_backend"].listen.to_string(), "1216");
    assert_eq!(imported.files[1].name, "app.conf.j2");
    compare("original/app.conf.imported.j2", &imported.files[1].text);
    let rendered = world::render(&imported.files[1].text).expect("it is rendered");
    assert_eq!(rendered, read("original/app.conf"));
}

#[test]
fn compose_files_are_merged_with_their_order_comments_and_gaps() {
    compare("cases/shop.txt", &outcome(from_compose("cases", &["shop.yaml"])));
    compare("cases/shop-prod.txt", &outcome(from_compose("cases", &["shop.yaml", "shop.prod.yaml"])));
    compare("cases/broken.txt", &outcome(from_compose("cases", &["broken.yaml"])));
    compare("cases/missing.txt", &outcome(from_compose("cases", &["nowhere.yaml"])));
}

/// Discovery leaves alone what is in the spec: without `register` the services of the files would leave the catalog.
#[test]
fn the_services_that_registrator_registered_stay_registered() {
    for case in ["registered", "labelled", "internal"] {
        let golden = format!("cases/{case}.txt");
        compare(&golden, &outcome(from_compose("cases", &[&format!("{case}.yaml")])));
    }
    let imported = from_compose("cases", &["registered.yaml"]).expect("it is imported");
    let options = LoadOptions { project: Some("shop".to_owned()), ..LoadOptions::default() };
    let spec = load_text(&[("spec.yaml", &imported.files[0].text)], &options).expect("reeve takes it").spec;
    let names = |service: &str| -> Vec<(String, u16)> {
        let registers = spec.services[service].register.iter();
        registers.map(|register| (register.name.clone(), register.port)).collect()
    };
    assert_eq!(names("web"), [("front".to_owned(), 80)]);
    assert_eq!(names("api"), [("api".to_owned(), 9000)]);
    assert_eq!(names("dns"), [("dns-53".to_owned(), 53), ("dns-53".to_owned(), 53)]);
    assert_eq!(spec.services["web"].register[0].tags, ["a,c", "b", "edge"]);
    assert!(spec.services.values().all(|service| service.register.iter().all(|one| one.meta.is_empty())));
    for silent in ["quiet", "unpublished", "consul"] {
        assert!(names(silent).is_empty(), "{silent}");
    }
    assert_eq!(names("declared"), [("declared".to_owned(), 7001)]);
}

/// What an import changed in meaning would be seen here: the spec is loaded before and after.
#[test]
fn an_imported_compose_file_means_the_same() {
    let mut count = 0;
    for folder in fs::read_dir("tests/specs/compose").expect("the folder is there") {
        let folder = folder.expect("it can be listed").path();
        let path = folder.join("compose.yaml");
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let options = LoadOptions { project: Some("shop".to_owned()), ..LoadOptions::default() };
        let Ok(before) = load_text(&[("compose.yaml", &text)], &options) else { continue };
        let memory = Memory([("compose.yaml".into(), text.into_bytes())].into());
        let imported = compose::import(&["compose.yaml".to_owned()], Path::new("/spec"), &options, &memory);
        let imported = imported.unwrap_or_else(|problems| panic!("{}: {problems}", path.display()));
        assert!(imported.gaps.is_empty(), "{}: {:?}", path.display(), imported.gaps);
        let text = &imported.files[0].text;
        let after = load_text(&[("spec.yaml", text)], &options);
        let after = after.unwrap_or_else(|problems| panic!("{}: {problems}\n{text}", path.display()));
        assert_eq!(before.resolved, after.resolved, "{}:\n{text}", path.display());
        count += 1;
    }
    assert!(count >= 8, "only {count} files");
}

#[test]
fn each_flag_of_registrator_is_told_what_became_of_it() {
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let all = "-internal -explicit -tags a,b -ip 192.0.2.10 -cleanup -resync 600 -ttl 30 -ttl-refresh 15 \
               -deregister always -retry-attempts -1 -retry-interval=2000 consul-tls://consul.example:8501";
    let result = registrator::from_words(&words(all)).map_err(|problem| Diagnostics(vec![*problem]));
    assert!(result.as_ref().is_ok_and(|imported| imported.gaps.is_empty()), "{result:?}");
    compare("cases/registrator.txt", &outcome(result));
    let gaps = "docker run -d gliderlabs/registrator:latest -useIpFromLabel net.ip -deregister=on-success \
                -tags 'x{{.ID}}' etcd://127.0.0.1:2379/services";
    let result = registrator::from_line(gaps).map_err(|problem| Diagnostics(vec![*problem]));
    compare("cases/registrator-gaps.txt", &outcome(result));
    for (line, name) in [("-intrenal consul://a:1", "registrator-typo"), ("-internal", "registrator-no-uri")] {
        let result = registrator::from_words(&words(line)).map_err(|problem| Diagnostics(vec![*problem]));
        compare(&format!("cases/{name}.txt"), &outcome(result));
    }
}

#[test]
fn settings_of_consul_template_become_templates_and_show_no_secret() {
    let text = outcome(from_settings("cases", &named(&["full.hcl"])));
    assert!(!text.contains("b1gs33cr3t") && !text.contains("hunter2"), "{text}");
    compare("cases/full.txt", &text);
    compare("cases/json.txt", &outcome(from_settings("cases", &named(&["app.json"]))));
    compare("cases/exec.txt", &outcome(from_settings("cases", &named(&["exec.hcl"]))));
    let flags = "-once -wait=2s:6s -consul-token b1gs33cr3t -vault-addr https://vault.example \
                 -template hosts.ctmpl:/etc/app/hosts -config app.json -log-level debug";
    let given = Given { words: flags.split_whitespace().map(str::to_owned).collect(), ..Given::default() };
    let text = outcome(from_settings("cases", &given));
    assert!(!text.contains("b1gs33cr3t"), "{text}");
    compare("cases/flags.txt", &text);
}

#[test]
fn files_that_cannot_be_read_are_refused_with_their_place() {
    for name in ["typo.hcl", "unclosed.hcl", "unclosed.ctmpl", "parenthesis.ctmpl", "nowhere.hcl"] {
        compare(&format!("cases/{name}.txt"), &outcome(from_settings("cases", &named(&[name]))));
    }
}

/// Pieces of which something nearly right is made.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        "\n",
        "range",
        "with",
        "if",
        "else",
        "end",
        "define",
        "template",
        "block",
        "$x",
        "$",
        ":=",
        "=",
        ".",
        ".Tags",
        "|",
        "(",
        ")",
        "\"",
        "`",
        "\\",
        "\"a\"",
        "ü",
        "'",
        "0x",
        "-",
        "1.5",
        "/*",
        "*/",
        "service",
        "key",
        "index",
        "{%",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "<<EOF",
        "EOF",
        "template",
        "source",
        "${",
        "#",
        "services:",
        "  web:",
        "- a",
        "image: b",
        "command: c",
        "&a",
        "*a",
        "build: .",
        "registrator",
        "--",
        "-tags",
        "consul://a:1",
        "environment:",
        "    links: [x]",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is not what it should be is refused or marked; nothing makes the importer give up without a word.
    #[test]
    fn no_input_makes_the_importer_panic(text in pieces(), mut body in pieces()) {
        if let Ok(translated) = gotemplate::translate(&text, &Options::new("x")) {
            // What is translated is a template, also when it names functions that do not exist.
            if let Err(error) = world::render(&translated.text) {
                prop_assert!(!error.contains("syntax error"), "{text}\n{}\n{error}", translated.text);
            }
        }
        body.insert_str(0, "services:\n  web:\n    image: ");
        let contents = [("a.hcl", &text), ("a.ctmpl", &text), ("a.yaml", &body)];
        let files = Memory(contents.map(|(name, text)| (name.into(), text.clone().into_bytes())).into());
        let _ = consul_template::import(&named(&["a.hcl"]), &files);
        let _ = consul_template::import(&Given { command: Some(text.clone()), ..named(&["a.ctmpl"]) }, &files);
        let _ = registrator::from_line(&text);
        let _ = compose::import(&["a.yaml".to_owned()], Path::new("/spec"), &LoadOptions::default(), &files);
    }
}
