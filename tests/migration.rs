//! The tables of `manifests/migration.md`: every case is there, and every test that they name exists.
//!
//! A row that says what reeve does and that nothing shows is a claim; a test that was renamed would leave one behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The cases of the tables, by number.
const CASES: usize = 54;
/// Up to this number they are about wrong traffic and drift: each of their rows names its test.
const SHOWN: usize = 41;

struct Row {
    line: usize,
    /// `None`: one beyond the cases.
    case: Option<usize>,
    given: String,
    tests: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of every table whose last column is `Test`.
fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("manifests/migration.md")).expect("the table is there");
    let mut rows = Vec::new();
    let mut within = false;
    for (at, line) in text.lines().enumerate() {
        // A bar within a cell is escaped.
        let marked = line.replace("\\|", "\u{1}");
        let cells: Vec<&str> = marked.split('|').map(str::trim).collect();
        let ["", case, given, .., last, ""] = cells[..] else {
            within = false;
            continue;
        };
        if last == "Test" {
            within = true;
        } else if within && !case.starts_with("--") {
            let tests = last.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            rows.push(Row { line: at + 1, case: case.parse().ok(), given: given.to_owned(), tests });
        }
    }
    rows
}

/// Names of all test functions below a folder.
fn tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    marked = true;
                } else if let Some(name) = line.trim_start_matches("async ").strip_prefix("fn ").filter(|_| marked) {
                    names.extend(name.split_once('(').map(|(name, _)| name.to_owned()));
                    marked = false;
                }
            }
        }
    }
}

#[test]
fn every_case_has_a_row_and_every_test_that_a_row_names_exists() {
    let mut known = BTreeSet::new();
    tests(&root().join("src"), &mut known);
    tests(&root().join("tests"), &mut known);
    assert!(known.contains("every_case_has_a_row_and_every_test_that_a_row_names_exists"), "{}", known.len());
    let plans = root().join("tests/plans");
    let mut wrong = Vec::new();
    let mut cases = BTreeSet::new();
    for row in rows() {
        let Row { line, case, given, tests } = row;
        cases.extend(case);
        if tests.is_empty() && case.is_none_or(|case| case <= SHOWN) {
            wrong.push(format!("line {line}: no test shows {given:?}"));
        }
        for name in tests.iter().filter(|name| !known.contains(*name) && !plans.join(name).is_dir()) {
            wrong.push(format!("line {line}: there is no test and no golden plan `{name}`"));
        }
    }
    let missing: Vec<usize> = (1..=CASES).filter(|case| !cases.contains(case)).collect();
    assert!(wrong.is_empty() && missing.is_empty(), "cases without a row: {missing:?}\n{}", wrong.join("\n"));
}
