//! Templates against the documented meaning of consul-template's functions, in tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::observed::Answer;

fn template(text: &str) -> Template {
    Template {
        name: "app.conf".to_owned(),
        text: text.into(),
        origin: "app.conf.j2".to_owned(),
        folder: PathBuf::from("/spec"),
        destination: PathBuf::from("/etc/app.conf"),
        check: None,
        command: None,
        signal: None,
        perms: None,
        user: None,
        group: None,
        backup: false,
        delimiters: Delimiters::default(),
        wait: None,
        error_on_missing: true,
    }
}

fn at() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().expect("a time stamp")
}

fn answer(data: serde_json::Value) -> View<Answer> {
    View::Known(Answer { data, entries: BTreeSet::new(), shrunk_at: at() })
}

fn instance(node: &str, id: &str, port: u16, tags: &[&str], team: &str) -> serde_json::Value {
    json!({"Node": node, "ID": id, "Name": "web", "Address": "192.0.2.1", "Port": port, "Tags": tags,
        "ServiceMeta": {"team": team, "rank": "7"}, "Status": "passing", "Weights": {"Passing": 3, "Warning": 1}})
}

/// Answers by what a template says to get them.
fn answers() -> Arc<Answers> {
    let mut all = BTreeMap::new();
    let web = json!([instance("n1", "web-1", 80, &["v1", "blue"], "a"), instance("n2", "web-2", 81, &["v1"], "b"),]);
    all.insert(query::service("web", false).expect("a query"), answer(web.clone()));
    all.insert(query::service("v1.web@dc2~_agent|warning,passing", false).expect("a query"), answer(web));
    all.insert(query::service("none", false).expect("a query"), answer(json!([])));
    let dotted = json!([instance("n1", "app-1", 80, &[], "a")]);
    all.insert(query::service("my.app@dc1|any", true).expect("a query"), answer(dotted));
    all.insert(query::services("").expect("a query"), answer(json!([{"Name": "web", "Tags": ["v1"]}])));
    all.insert(Dependency::Datacenters, answer(json!(["dc1", "dc2"])));
    let mut key = |path: &str, value: serde_json::Value| {
        all.insert(Dependency::Key { path: path.to_owned(), datacenter: None }, answer(value));
    };
    key("app/port", json!("8080"));
    key("app/json", json!("{\"a\": [1, 2], \"h\": \"<b>\"}"));
    key("app/none", json!(null));
    key("app/secret", json!("hunter2"));
    let pairs = json!([
        {"Path": "app/a", "Value": "1"}, {"Path": "app/sub/b", "Value": "2"}, {"Path": "app/sub/c/d", "Value": "3"},
        {"Path": "app/folder/", "Value": ""}
    ]);
    all.insert(Dependency::Keys { prefix: "app".to_owned(), datacenter: None }, answer(pairs));
    all.insert(Dependency::Keys { prefix: "nothing".to_owned(), datacenter: None }, answer(json!([])));
    all.insert(Dependency::Environment("HOME".to_owned()), answer(json!("/root")));
    all.insert(Dependency::Environment("UNSET".to_owned()), answer(json!(null)));
    all.insert(Dependency::Environment("EMPTY".to_owned()), answer(json!("")));
    all.insert(Dependency::File(PathBuf::from("/spec/motd")), answer(json!("hello\n")));
    let reason = "no leader".to_owned();
    let away = Dependency::Key { path: "away".to_owned(), datacenter: Some("dc9".to_owned()) };
    all.insert(away, View::Unknown { reason, since: at() });
    Arc::new(all)
}

fn render(text: &str) -> Result<String, String> {
    run(&template(text), &answers(), at()).text
}

#[test]
fn functions_and_filters_mean_what_consul_template_documents() {
    let table: &[(&str, &str)] = &[
        (
            "{% for s in service('web') %}{{ s.Address }}:{{ s.Port }}/{{ s.Weights.Passing }};{% endfor %}",
            "192.0.2.1:80/3;192.0.2.1:81/3;",
        ),
        ("{% for s in service('v1.web@dc2~_agent|passing,warning') %}{{ s.ID }} {% endfor %}", "web-1 web-2 "),
        ("{{ service('my.app@dc1|any', dots=true)[0].ID }}", "app-1"),
        ("{% for s in service('none') %}x{% else %}server 127.0.0.1:65535;{% endfor %}", "server 127.0.0.1:65535;"),
        ("{% for s in services() %}{{ s.Name }}{{ s.Tags | join(',') }}{% endfor %}", "webv1"),
        (
            "{% for tag, all in service('web') | by_tag | items %}{{ tag }}={{ all | length }} {% endfor %}",
            "blue=1 v1=2 ",
        ),
        (
            "{% for m, all in service('web') | by_meta('team,rank|int') | items %}{{ m }} {% endfor %}",
            "a_00007 b_00007 ",
        ),
        (
            "{% for p, all in service('web') | by_port | items %}{{ p }}:{{ all[0].ID }} {% endfor %}",
            "80:web-1 81:web-2 ",
        ),
        ("{{ key('app/port') }} {{ key('/app/port') }}", "8080 8080"),
        ("{{ key_or_default('app/none', 'x') }}{{ key_or_default('app/port', 'x') }}", "x8080"),
        ("{{ key_exists('app/none') }} {{ key_exists('app/port') }}", "false true"),
        ("{% for p in ls('app') %}{{ p.Key }}={{ p.Value }} {% endfor %}", "a=1 "),
        ("{% for p in tree('app') %}{{ p.Key }}={{ p.Value }} {% endfor %}", "a=1 sub/b=2 sub/c/d=3 "),
        ("{% for p in safe_tree('app') %}{{ p.Path }} {% endfor %}", "app/a app/sub/b app/sub/c/d "),
        (
            "{% for k, v in tree('app') | by_key | items %}{{ k }}:{% for n, p in v | items %}{{ n }}={{ p.Value }},{% endfor %}{% endfor %}",
            "sub:b=2,c/d=3,",
        ),
        ("{{ (tree('app') | explode).sub.c.d }}", "3"),
        ("{{ datacenters() | join(' ') }}", "dc1 dc2"),
        ("{{ env('HOME') }}[{{ env('UNSET') }}]{{ env_or_default('UNSET', 'd') }}", "/root[]d"),
        ("{{ file('motd') }}", "hello\n"),
        ("{{ timestamp() }} {{ timestamp('unix') }} {{ timestamp('%Y') }}", "2026-03-04T05:06:07Z 1772600767 2026"),
        ("{{ (key('app/json') | parse_json).a[1] }}", "2"),
        ("{{ key('app/json') | parse_json | to_json }}", "{\"a\":[1,2],\"h\":\"\\u003cb\\u003e\"}"),
        ("{{ key('app/json') | parse_json | to_unescaped_json }}", "{\"a\":[1,2],\"h\":\"<b>\"}"),
        ("{{ {'a': 1} | to_json_pretty }}", "{\n  \"a\": 1\n}"),
        ("{{ {'a': [1, 2]} | to_yaml }}", "a:\n- 1\n- 2"),
        ("{{ ('a: [x, z]' | parse_yaml).a[1] }}", "z"),
        (
            "{{ '7' | parse_int | add(2) }} {{ 7 | subtract(2) }} {{ 7 | multiply(2) }} {{ 7 | divide(2) }} {{ 7 | modulo(4) }}",
            "9 5 14 3 3",
        ),
        (
            "{{ '1.5' | parse_float | add(1) }} {{ 3 | minimum(2) }} {{ 3 | maximum(2) }} {{ 't' | parse_bool }} {{ '7' | parse_uint }}",
            "2.5 2 3 true 7",
        ),
        ("{{ ['a', 'b'] | contains('a') }} {{ ['a'] | contains('b') }}", "true false"),
        ("{{ ['a', 'b'] | contains_any(['b', 'c']) }} {{ ['a'] | contains_all(['a', 'b']) }}", "true false"),
        ("{{ ['a'] | contains_none(['b']) }} {{ ['a'] | contains_not_all(['a', 'b']) }}", "true true"),
        ("{{ 'web-12' | regex_match('^web-[0-9]+$') }} {{ 'a1b2' | regex_replace_all('[0-9]', 'x') }}", "true axbx"),
        ("{{ 'a.b.c' | replace_all('.', '-') }}", "a-b-c"),
        (
            "{{ 'héllo?' | base64_encode }} {{ 'aMOpbGxvPw==' | base64_decode }} {{ '??>' | base64_url_encode }} {{ 'Pz8-' | base64_url_decode }}",
            "aMOpbGxvPw== héllo? Pz8- ??>",
        ),
        ("{{ ' a,b ' | split(',') | join('+') }}{{ '' | split(',') | length }}", "a+b0"),
        ("{{ 'aB' | to_lower }}{{ 'aB' | to_upper }} {{ 'hello wide world' | to_title }}", "abAB Hello Wide World"),
        (
            "[{{ ' a ' | trim_space }}{{ '--a-' | trim('-') }}{{ 'v1' | trim_prefix('v') }}{{ 'a.gz' | trim_suffix('.gz') }}]",
            "[aa1a]",
        ),
        ("{{ 'a\nb' | indent(2) }}", "  a\n  b"),
        ("{{ 'a\n\nb\n' | indent(2) }}|", "  a\n\n  b\n|"),
        (
            "{{ {'b': {'d': [{'x': 1}, {'y z': true}], 'c': ['q\"', 2]}, 'a': 1.5, 'e': none} | to_toml }}",
            "a = 1.5\n\n[b]\nc = [\"q\\\"\", 2]\n\n[[b.d]]\nx = 1\n\n[[b.d]]\n\"y z\" = true",
        ),
        ("{{ [[{'a': 1}, 2]] | length }}{{ {'a': [{'b': 1}, 2]} | to_toml }}", "1a = [{ b = 1 }, 2]"),
        (
            "{{ 'a\"b' | quote }}{{ 1 | quote }}{{ 'a' | squote }}[{{ 'a' | nindent(2) }}]{{ 'abc' | trunc(2) }}{{ 'abc' | trunc(-2) }}",
            "\"a\\\"b\"\"1\"'a'[\n  a]abbc",
        ),
        (
            "{{ 'ab' | repeat(2) }} {{ 'ab' | has_prefix('a') }} {{ 'ab' | has_suffix('a') }} {{ '' | default('x', true) }}",
            "abab true false x",
        ),
        ("{{ must_env('HOME') }}[{{ env_or_default('EMPTY', 'd') }}]", "/root[]"),
        ("{{ 'a' | sha256_hex }}", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        (
            "{{ printf('%s=%05d %v %q %x %t %.2f %-4s| %% %+d', 'a', 42, 1.5, 'q\"', 255, true, 2, 'l', 3) }}",
            "a=00042 1.5 \"q\\\"\" ff true 2.00 l   | % +3",
        ),
        ("{% for i in loop_range(3) %}{{ i }}{% endfor %}{% for i in loop_range(5, 7) %}{{ i }}{% endfor %}", "01256"),
        ("a\n{% if true %}\nb\n{% endif %}\n", "a\n\nb\n\n"),
        ("{{ service('web')[0].ServiceMeta.nobody | default('none') }}", "none"),
    ];
    for (text, wanted) in table {
        assert_eq!(render(text).as_deref(), Ok(*wanted), "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_without_a_secret() {
    let table: &[(&str, &[&str])] = &[
        ("a\n{{ service('web')[0].Addres }}", &["app.conf.j2:2: undefined value"]),
        ("{% if nobody %}{% endif %}", &["app.conf.j2:1: undefined value"]),
        ("{{ key('app/none') }}", &["the key app/none does not exist", "key_or_default"]),
        ("{{ safe_ls('nothing') }}", &["refuses an empty answer"]),
        ("\n\n{{ servce('web') }}", &["app.conf.j2:3: ", "servce", "did you mean `service`?"]),
        ("{{ 'a' | to_uper }}", &["to_uper", "did you mean `to_upper`?"]),
        ("{{ 'a' | md5sum }}", &["`md5sum` has no counterpart here: reeve has no MD5; use `sha256_hex`"]),
        ("{{ keyOrDefault('a', 'b') }}", &["keyOrDefault", "did you mean `key_or_default`?"]),
        ("{{ 'x' | sprig_trunc(5) }}", &["`sprig_trunc` is `| trunc(5)` here"]),
        ("{{ sprig_uuidv4() }}", &["`sprig_uuidv4` has no counterpart here: it gives another value each time"]),
        ("{{ sprig_kindIs('a', 'b') }}", &["`sprig_kindIs` has no counterpart here"]),
        ("{{ no_counterpart('secret') }}", &["`reeve import` did not find any"]),
        ("{{ must_env('UNSET') }}", &["the environment variable UNSET is not set"]),
        ("{{ [1] | to_toml }}", &["TOML begins with a map"]),
        ("{{ {'a': [none]} | to_toml }}", &["a list holds nothing"]),
        ("{{ 'abcdefgh' | repeat(1000000) }}", &["more than 1 MiB"]),
        ("{% macro deep(n) %}{{ deep(n) }}{% endmacro %}{{ deep(1) }}", &["app.conf.j2:1: "]),
        ("{% include 'app.conf.j2' %}", &["app.conf.j2:1: "]),
        ("{{ service('a b.web') }}", &["`a b` is not the tag of anything"]),
        ("{{ service('my/app', dots=true) }}", &["`my/app` is not the name of anything"]),
        ("{{ service('a.b', dot=true) }}", &["app.conf.j2:1: "]),
        ("{% include 'other' %}", &["app.conf.j2:1: include, import and extends"]),
        ("{% extends 'app.conf.j2' %}", &["app.conf.j2"]),
        ("{% for %}", &["app.conf.j2:1: syntax error"]),
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", &["it does not end"]),
        ("{% set x = '0123456789abcdef' * 1000 %}{% for a in range(2000) %}{{ x }}{% endfor %}", &["more than 16 MiB"]),
        ("{{ key('app/secret') | parse_int }}", &["parse_int: it is given a text that it cannot read"]),
        ("{{ key('app/secret') | parse_json }}", &["parse_json"]),
        ("{{ key('app/secret') + 1 }}", &["app.conf.j2:1: "]),
        ("{{ key('app/secret').x }}", &["app.conf.j2:1: undefined value"]),
        ("{{ service('we/b') }}", &["`we/b` is not the name of anything"]),
        ("{{ service('web|pasing') }}", &["`pasing` is not a status"]),
        ("{{ file('gone') }}", &["no answer yet to file(/spec/gone)"]),
        ("{{ key('away@dc9') }}", &["key(away@dc9) cannot be read: no leader"]),
        ("{{ 'a' | regex_match('(') }}", &["this is not a regular expression"]),
        ("{{ printf('%d', 'a') }}", &["printf: %d takes a whole number"]),
        ("{{ printf('%s') }}", &["there is no argument for %s"]),
        ("{{ 1 | divide(0) }}", &["divide: the result is not a number"]),
    ];
    for (text, wanted) in table {
        let error = render(text).expect_err(text);
        for part in *wanted {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn what_consul_template_has_and_reeve_has_not_names_what_to_do_as_a_function_and_as_a_filter() {
    for name in absent::names() {
        let snake: String =
            name.chars().map(|c| if c.is_uppercase() { format!("_{c}") } else { c.to_string() }).collect();
        for name in [name.to_owned(), snake.to_lowercase()] {
            for text in [format!("a\n{{{{ {name}('x') }}}}"), format!("a\n{{{{ 'x' | {name} }}}}")] {
                let error = render(&text).expect_err(&text);
                let begin = format!("app.conf.j2:2: `{name}` has no counterpart here: ");
                assert!(error.starts_with(&begin), "{text}: {error}");
            }
        }
    }
}

#[test]
fn what_calls_a_function_that_is_not_there_is_told_before_it_is_rendered() {
    for (text, wanted) in [
        ("a\n{% if false %}{{ frob('x') }}{% endif %}", "app.conf.j2:2: there is no function frob"),
        ("{{ servce ('web') }}", "app.conf.j2:1: there is no function servce; did you mean `service`?"),
        (
            "{{ keyOrDefault('a', 'b') }}",
            "app.conf.j2:1: there is no function keyOrDefault; did you mean `key_or_default`?",
        ),
        (
            "{{ 'a' }}\n\n{{ no_counterpart('x') }}",
            "app.conf.j2:3: `no_counterpart` has no counterpart here: `reeve import`",
        ),
        ("{{ merge_map(1) }}", "app.conf.j2:1: `merge_map` has no counterpart here"),
    ] {
        let error = check(&template(text)).expect_err(text);
        assert!(error.starts_with(wanted), "{text}: {error}");
    }
    for good in [
        "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1) }}",
        "{% set f = 1 %}{{ f }}{% if frob is defined %}{{ frob }}{% endif %}",
        "{% for s in service('web') %}{{ s.frob() }}{{ loop.index }}{% endfor %}{{ namespace(a=1).a }}{{ range(3) }}",
        "frob('x') is text, and {{ 'frob(1)' }} too",
    ] {
        assert_eq!(check(&template(good)), Ok(()), "{good}");
    }
}

#[test]
fn a_run_tells_everything_that_it_asked_for_even_beyond_what_is_not_known() {
    let text = "{% for s in services() %}{% for i in service(s.Name) %}{{ i.Nothing.x }}{% endfor %}{% endfor %}\
                {{ key('a') | parse_json }}{{ (key('b') | parse_json).c.d }}{{ key('c') | parse_int | add(1) }}{{ key('d') }}";
    let first = run(&template(text), &Arc::default(), at());
    let names: Vec<String> = first.missing.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["services()", "key(a)", "key(b)", "key(c)", "key(d)"]);
    assert!(first.text.is_err());
    let known = run(&template("{{ key('app/port') }}"), &answers(), at());
    assert!(known.missing.is_empty() && known.asked.len() == 1);
}

#[test]
fn a_template_that_does_not_end_or_writes_too_much_hurts_only_itself() {
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let huge = "{% for a in loop_range(1000000) %}{{ 'x' | repeat(1000) }}{% endfor %}";
    let deep = "{% macro deep(n) %}{{ deep(n) }}{% endmacro %}{{ deep(1) }}";
    for text in [endless, huge, deep] {
        assert!(render(text).is_err(), "{text}");
        assert_eq!(render("{{ key('app/port') }}").as_deref(), Ok("8080"), "after {text}");
    }
}

#[test]
fn a_missing_key_is_empty_where_the_template_says_so() {
    let lax = Template { error_on_missing: false, ..template("[{{ key('app/none') }}]") };
    assert_eq!(run(&lax, &answers(), at()).text.as_deref(), Ok("[]"));
}

#[test]
fn other_delimiters_are_other_delimiters() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let delimiters = Delimiters { block: pair("<%", "%>"), variable: pair("<<", ">>"), comment: pair("<#", "#>") };
    let other = Template { delimiters, ..template("{{ x }}<% if true %><< key('app/port') >><# c #><% endif %>") };
    assert_eq!(run(&other, &answers(), at()).text.as_deref(), Ok("{{ x }}8080"));
    assert!(syntax(&Delimiters { block: pair("{{", "}}"), ..Delimiters::default() }).is_err());
}

#[test]
fn the_digest_of_the_inputs_follows_the_data_and_the_template_and_nothing_else() {
    let of = |text: &str, answers: &Arc<Answers>| {
        let template = template(text);
        let run = run(&template, answers, at());
        inputs(&template, &run.asked, answers)
    };
    let text = "{{ key('app/port') }}";
    let first = of(text, &answers());
    assert_eq!(first, of(text, &answers()));
    assert_ne!(first, of("{{ key('app/port') }} ", &answers()));
    let mut other = (*answers()).clone();
    other.insert(Dependency::Key { path: "unrelated".to_owned(), datacenter: None }, answer(json!("1")));
    assert_eq!(first, of(text, &Arc::new(other.clone())));
    other.insert(Dependency::Key { path: "app/port".to_owned(), datacenter: None }, answer(json!("1")));
    assert_ne!(first, of(text, &Arc::new(other)));
}
