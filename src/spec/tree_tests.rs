//! Tests of the tree.

use super::*;

fn of(text: &str) -> Result<Node, Vec<Diagnostic>> {
    parse(&Arc::new(Source { name: "a.yaml".to_owned(), text: text.to_owned() }))
}

fn good(text: &str) -> Node {
    of(text).unwrap_or_else(|problems| panic!("{}", problems.iter().map(|p| p.render(false)).collect::<String>()))
}

fn problem(text: &str) -> Diagnostic {
    of(text).expect_err("it is wrong").into_iter().next().expect("an error has a reason")
}

#[test]
fn every_key_and_value_knows_its_place() {
    let root = good("a:\n  bé: 'x'\n  c: [1, 2]\n");
    let a = root.get("a").expect("a is there");
    assert_eq!((a.key_place.line(), a.key_place.column(), a.key_place.slice()), (1, 1, "a"));
    let b = a.value.get("bé").expect("b is there");
    assert_eq!((b.value.place.line(), b.value.place.column(), b.value.place.slice()), (2, 7, "'x'"));
    let two = &a.value.value("c").expect("c is there").items()[1];
    assert_eq!((two.place.line(), two.place.column(), two.place.slice()), (3, 10, "2"));
    let within = b.value.place.within("x");
    assert_eq!((within.line(), within.column()), (2, 8));
}

#[test]
fn scalars_keep_their_text_and_quotes_are_remembered() {
    let root = good("a: 1.10\nb: no\nc: 0755\nd: \"80\"\ne: ~\nf: '~'\ng: !!str 5\nh: |\n  two\n  lines\n");
    for (key, text, plain) in [("a", "1.10", true), ("b", "no", true), ("c", "0755", true), ("d", "80", false)] {
        match &root.value(key).expect("it is there").value {
            Value::Scalar(scalar) => assert_eq!((scalar.text.as_str(), scalar.plain), (text, plain)),
            other => panic!("{key} is {other:?}"),
        }
    }
    assert!(root.get("e").is_none());
    assert_eq!(root.value("f").and_then(Node::text), Some("~"));
    assert!(matches!(&root.value("g").expect("g").value, Value::Scalar(scalar) if !scalar.plain));
    assert_eq!(root.value("h").and_then(Node::text), Some("two\nlines\n"));
}

#[test]
fn merge_keys_give_what_is_missing_and_the_first_of_several_wins() {
    let root = good("x: &x { a: 1, b: 2 }\ny: &y { b: 3, c: 4 }\nz:\n  <<: [*x, *y]\n  a: own\n  inner: { <<: *y }\n");
    let z = root.value("z").expect("z is there");
    let get = |key: &str| z.value(key).and_then(Node::text);
    assert_eq!((get("a"), get("b"), get("c")), (Some("own"), Some("2"), Some("4")));
    assert_eq!(z.value("inner").and_then(|inner| inner.value("c")).and_then(Node::text), Some("4"));
    assert!(z.get("<<").is_none());
}

#[test]
fn an_anchor_may_be_used_more_than_a_hundred_times() {
    let many: String = (0..500).map(|number| format!("k{number}: *a\n")).collect();
    let root = good(&format!("a: &a {{ x: 1 }}\n{many}"));
    assert_eq!(root.entries().len(), 501);
}

#[test]
fn duplicate_keys_are_all_told_with_the_place_of_the_second() {
    let problems = of("a: 1\nb: { c: 1, c: 2 }\na: 2\n").expect_err("keys are given twice");
    let places: Vec<(u32, u32)> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(2, 12), (3, 1)]);
    assert!(problem("a: {<<: {b: 1}, <<: {c: 1}}\n").message.contains("twice"));
}

#[test]
fn input_that_grows_or_is_deep_is_refused_quickly() {
    let started = std::time::Instant::now();
    assert!(problem(&"[".repeat(100_000)).message.contains("deep"));
    assert!(problem(&"a: {".repeat(100_000)).message.contains("deep"));
    let mut bomb = "x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
    for level in 1..12 {
        let uses = vec![format!("*x{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("x{level}: &x{level} [{uses}]\n"));
    }
    assert!(problem(&bomb).message.contains("aliases"));
    assert!(problem("a: &a { b: *a }").message.contains("contains the alias"));
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn what_is_shown_is_the_file_not_the_value_of_a_variable() {
    let mut node = good("hunter2");
    if let Value::Scalar(scalar) = &mut node.value {
        scalar.template = Some("${PASSWORD}".to_owned());
    }
    assert_eq!(node.shown(), "${PASSWORD}");
    assert_eq!(node.careful("`hunter2` is not `a`"), "`…` is not `a`");
    assert_eq!(shown("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
}
