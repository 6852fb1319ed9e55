//! Golden outcomes of spec files: `specs/bad` (one mistake, or a few of one kind, in each) and `specs/compose` (files in
//! the shapes that public projects use). `REEVE_GOLDEN=overwrite` writes the outcomes anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use reeve::spec::load::{Memory, load_from};
use reeve::spec::{Diagnostics, LoadOptions, Loaded, load};

const ROOT: &str = "tests/specs";

/// Says how a file is to be loaded, in lines that begin with `#!`.
fn directives(text: &str, options: &mut LoadOptions, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for line in text.lines() {
        let Some(directive) = line.strip_prefix("#! ") else { continue };
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        let pair = || rest.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("NAME=value");
        match word {
            "env" => options.environment.extend([pair()]),
            "strict" => options.strict = true,
            "profile" => options.profiles.extend([rest.to_owned()]),
            "probe" => options.probe = Some(rest.parse().expect("an address")),
            "file" => {
                let (name, content) = pair();
                files.insert(Path::new("/spec").join(name), content.replace('|', "\n").into_bytes());
            }
            other => panic!("unknown directive {other}"),
        }
    }
}

fn load_bytes(name: &str, bytes: &[u8]) -> Result<Loaded, Diagnostics> {
    let mut options = LoadOptions::default();
    let mut files = BTreeMap::new();
    directives(&String::from_utf8_lossy(bytes), &mut options, &mut files);
    load_from(&[(name.to_owned(), bytes.to_vec())], Path::new("/spec"), &options, &Memory(files))
}

/// The outcome as text, the same on every machine.
fn outcome(result: Result<Loaded, Diagnostics>, folder: Option<&Path>) -> String {
    let text = match result {
        Err(diagnostics) => {
            assert!(diagnostics.errors().next().is_some(), "a refusal without an error");
            diagnostics.render(false)
        }
        Ok(mut loaded) => {
            // The hash covers absolute paths, which differ from machine to machine.
            if let Some(services) = loaded.resolved["services"].as_object_mut() {
                for service in services.values_mut().filter_map(serde_json::Value::as_object_mut) {
                    service.remove("hash");
                }
            }
            let mut parts: Vec<String> = loaded.warnings.iter().map(|warning| warning.render(false)).collect();
            parts.push(serde_json::to_string_pretty(&loaded.resolved).expect("JSON can be written"));
            parts.join("\n\n")
        }
    };
    let text = match folder.and_then(|folder| std::path::absolute(folder).ok()) {
        Some(absolute) => text.replace(&*absolute.to_string_lossy(), "<folder>"),
        None => text,
    };
    format!("{text}\n")
}

/// Compares with the golden file, or writes it; a difference is told, not thrown, so that all are seen at once.
fn compare(golden: &Path, is: &str, differences: &mut Vec<String>) {
    if std::env::var("REEVE_GOLDEN").as_deref() == Ok("overwrite") {
        fs::write(golden, is).expect("the golden file can be written");
        return;
    }
    let wanted = fs::read_to_string(golden).unwrap_or_default();
    if wanted != is {
        let diff = similar::TextDiff::from_lines(wanted.as_str(), is);
        differences.push(format!("{}\n{}", golden.display(), diff.unified_diff().context_radius(2)));
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_bad_spec_is_refused_with_its_place_and_what_to_do() {
    let mut differences = Vec::new();
    let mut count = 0;
    for path in entries(&Path::new(ROOT).join("bad")) {
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let result = load_bytes(&name, &fs::read(&path).expect("it can be read"));
        assert!(result.is_err(), "{name} was taken");
        let is = outcome(result, None);
        assert!(!is.contains("hunter2") && !is.contains("s3cr3t"), "{name} shows a secret:\n{is}");
        compare(&path.with_extension("txt"), &is, &mut differences);
    }
    assert!(count >= 45, "only {count} bad specs");
    assert!(differences.is_empty(), "REEVE_GOLDEN=overwrite writes them anew:\n{}", differences.join("\n"));
}

#[test]
fn files_of_public_projects_work_or_fail_with_an_exact_message() {
    let mut differences = Vec::new();
    let mut count = 0;
    for folder in entries(&Path::new(ROOT).join("compose")) {
        if !folder.is_dir() {
            continue;
        }
        count += 1;
        let yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
        let mut files: Vec<PathBuf> = entries(&folder).into_iter().filter(yaml).collect();
        files.sort_by_key(|path| path.file_name().is_none_or(|name| name != "compose.yaml"));
        let mut options = LoadOptions { files, ..LoadOptions::default() };
        let first = options.files.first().expect("each folder holds a spec");
        let text = fs::read_to_string(first).expect("it can be read");
        directives(&text, &mut options, &mut BTreeMap::new());
        let is = outcome(load(&options), Some(&folder));
        assert!(!is.contains("hunter2"), "{} shows a secret:\n{is}", folder.display());
        compare(&folder.join("outcome.txt"), &is, &mut differences);
    }
    assert!(count >= 12, "only {count} projects");
    assert!(differences.is_empty(), "REEVE_GOLDEN=overwrite writes them anew:\n{}", differences.join("\n"));
}

/// All specs of the folders as texts: what mutations begin with.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for path in entries(&Path::new(ROOT).join("bad")) {
        seeds.push(path);
    }
    for folder in entries(&Path::new(ROOT).join("compose")) {
        seeds.extend(entries(&folder));
    }
    seeds
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| fs::read(path).expect("it can be read"))
        .filter(|bytes| bytes.len() < 8192)
        .collect()
}

const TOKENS: [&str; 24] = [
    ":",
    "- ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: ",
    "!reset ",
    "!override ",
    "null",
    "${A:-",
    "$",
    "65536",
    "-1",
    "true",
    "ä",
    "\t",
    "x-",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is done to the bytes of a spec: an answer, never a panic; and what is said can be shown.
    #[test]
    fn a_mutated_spec_never_panics(
        seed in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<prop::sample::Index>()), 1..8),
    ) {
        let seeds = seeds();
        let mut bytes = seed.get(&seeds).clone();
        for (at, kind, token) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => { bytes.remove(at); }
                1 => { bytes.splice(at..at, token.get(&TOKENS).bytes()); }
                2 => { bytes[at] = token.index(256) as u8; }
                _ => {
                    let end = (at + token.index(60)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        match load_from(&[("spec.yaml".to_owned(), bytes)], Path::new("/spec"), &LoadOptions::default(), &Memory::default()) {
            Ok(loaded) => {
                prop_assert!(!loaded.spec.digest.is_empty());
                for warning in &loaded.warnings {
                    warning.render(true);
                }
            }
            Err(diagnostics) => prop_assert!(!diagnostics.render(true).is_empty()),
        }
    }
}

#[test]
fn the_same_spec_has_the_same_digest_and_another_one_another() {
    let of = |text: &str| load_bytes("a.yaml", text.as_bytes()).expect("nothing is wrong with it").spec.digest;
    let base = of("services:\n  web: { image: nginx, environment: { A: '1', B: '2' } }\n");
    assert_eq!(base, of("# other order\nservices:\n  web:\n    environment: [B=2, A=1]\n    image: nginx\n"));
    assert_ne!(base, of("services:\n  web: { image: nginx, environment: { A: '1', B: '3' } }\n"));
}
