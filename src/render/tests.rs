//! What is rendered, and what is refused. Whether nginx accepts it is `tests/real`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::syntax::{Directive, parse};
use super::*;
use crate::observed::{Endpoint, RoutedUpstream};
use crate::spec::upstream::{AccessLog, Balance, CatalogQuery, Listen, Redirect, Timeouts, Tls, Upstream, WhenEmpty};

const FOLDER: &str = "/var/lib/reeve/generations";

fn owner() -> Owner {
    Owner { project: "shop".to_owned(), node: "edge-1".to_owned() }
}

fn probe() -> SocketAddr {
    "127.0.0.1:9465".parse().expect("an address")
}

fn id() -> GenerationId {
    GenerationId { hash: "0123456789ab".to_owned(), number: 1 }
}

fn plain(name: &str, port: u16) -> Upstream {
    Upstream {
        name: name.to_owned(),
        query: Some(CatalogQuery { service: "web".to_owned(), tag: None, datacenter: None, filter: None }),
        listen: Listen { address: None, port },
        server_name: vec![],
        path: "/".to_owned(),
        balance: Balance::RoundRobin,
        drain: Duration::from_secs(10),
        when_empty: WhenEmpty::default(),
        headers: BTreeMap::new(),
        access_log: None,
        tls: None,
        max_body_size: None,
        redirect: None,
        timeouts: Timeouts::default(),
        keepalive: None,
        websocket: false,
        grpc: false,
        directives: BTreeMap::new(),
    }
}

fn endpoint(address: &str, port: u16) -> Endpoint {
    Endpoint { address: address.to_owned(), port, weight: 1, container: None }
}

fn routed(upstream: Upstream, endpoints: Vec<Endpoint>) -> RoutedUpstream {
    RoutedUpstream { upstream: upstream.into(), endpoints: endpoints.into(), files: BTreeMap::new() }
}

fn set(all: Vec<RoutedUpstream>) -> BTreeMap<String, RoutedUpstream> {
    all.into_iter().map(|one| (one.upstream.name.clone(), one)).collect()
}

fn built_in() -> Renderer {
    Renderer::new(BUILT_IN, BUILT_IN_NAME).expect("the built-in template")
}

fn render(upstreams: &BTreeMap<String, RoutedUpstream>) -> Result<NewGeneration, RenderError> {
    built_in().render(&id(), &owner(), upstreams, probe(), Path::new(FOLDER))
}

/// Compares with `tests/render/<name>.txt`; `REEVE_GOLDEN=overwrite` writes it anew.
fn golden(name: &str, upstreams: &BTreeMap<String, RoutedUpstream>) {
    let generation = render(upstreams).expect(name);
    let text: String = generation.files.iter().map(|(file, text)| format!("==> {file}\n{text}")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render").join(format!("{name}.txt"));
    if std::env::var("REEVE_GOLDEN").as_deref() == Ok("overwrite") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(&path, &text).expect("written");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(&wanted, &text);
    let diff = diff.unified_diff().context_radius(2).to_string();
    assert!(text == wanted, "{} differs; REEVE_GOLDEN=overwrite writes it anew\n{diff}", path.display());
}

#[test]
fn the_original_practice_renders_as_written_by_hand() {
    let mut upstream = plain("http_backend", 1216);
    upstream.server_name = vec!["localhost".to_owned(), "10.8.99.45".to_owned()];
    upstream.access_log = Some(AccessLog::File(PathBuf::from("/var/log/nginx/access.log")));
    let endpoints = (81..=84).map(|port| endpoint("10.8.99.45", port)).collect();
    golden("original-practice", &set(vec![routed(upstream, endpoints)]));
}

#[test]
fn every_feature_has_its_text() {
    let mut all = Vec::new();
    for (name, balance) in [
        ("least", Balance::LeastConn),
        ("ip", Balance::IpHash),
        ("rnd", Balance::Random),
        ("two", Balance::RandomTwo),
        ("key", Balance::Hash("$request_uri".to_owned())),
    ] {
        let mut upstream = plain(name, 8000);
        upstream.server_name = vec![format!("{name}.example")];
        upstream.balance = balance;
        all.push(routed(upstream, vec![Endpoint { weight: 3, ..endpoint("10.0.0.1", 80) }, endpoint("fd00::1", 80)]));
    }
    let mut chat = plain("chat", 8001);
    chat.websocket = true;
    chat.keepalive = Some(16);
    chat.path = "/chat".to_owned();
    all.push(routed(chat, vec![endpoint("chat.internal", 3000)]));
    let mut api = plain("api", 8001);
    api.path = "/api".to_owned();
    api.keepalive = Some(8);
    api.headers = BTreeMap::from([
        ("Host".to_owned(), "api.internal".to_owned()),
        ("X-Env".to_owned(), "demo \"one\"; two".to_owned()),
    ]);
    api.timeouts = Timeouts {
        connect: Some(Duration::from_millis(1500)),
        read: Some(Duration::from_secs(90)),
        send: Some(Duration::from_secs(5)),
    };
    api.max_body_size = Some(0);
    api.access_log = Some(AccessLog::Off);
    api.directives = BTreeMap::from([
        ("proxy_buffering".to_owned(), "off".to_owned()),
        ("proxy_buffers".to_owned(), "8 16k".to_owned()),
        ("add_header".to_owned(), "X-Frame-Options \"SAME ORIGIN\" always".to_owned()),
    ]);
    all.push(routed(api, vec![endpoint("10.0.0.2", 80)]));
    let mut rpc = plain("rpc", 8443);
    rpc.grpc = true;
    rpc.listen.address = Some("127.0.0.1".parse().expect("an address"));
    rpc.tls = Some(Tls { certificate: PathBuf::from("/etc/tls/a b.pem"), key: PathBuf::from("/etc/tls/a.key") });
    rpc.timeouts.read = Some(Duration::from_secs(60));
    all.push(routed(rpc, vec![endpoint("10.0.0.3", 50051)]));
    let mut empty = plain("empty", 8002);
    empty.when_empty = WhenEmpty::Status(502);
    all.push(routed(empty, vec![]));
    let mut kept = plain("kept", 8003);
    kept.when_empty = WhenEmpty::Keep;
    all.push(routed(kept, vec![]));
    let mut https = plain("https", 80);
    https.redirect = Some(Redirect { to: "https".to_owned(), code: 301 });
    https.listen.address = Some("::".parse().expect("an address"));
    all.push(routed(https, vec![]));
    let mut moved = plain("moved", 80);
    moved.server_name = vec!["~^(www\\.)?old\\.example$".to_owned()];
    moved.redirect = Some(Redirect { to: "https://new.example$request_uri".to_owned(), code: 308 });
    all.push(routed(moved, vec![]));
    golden("features", &set(all));
}

#[test]
fn upstreams_that_share_listen_and_name_are_locations_of_one_server() {
    let mut site = plain("site", 80);
    site.server_name = vec!["b.example".to_owned(), "A.example".to_owned()];
    let mut api = plain("api", 80);
    api.server_name = vec!["a.example".to_owned()];
    api.path = "/api".to_owned();
    let mut other = plain("other", 80);
    other.listen.address = Some("0.0.0.0".parse().expect("an address"));
    let upstreams = [site, api, other].map(|upstream| routed(upstream, vec![endpoint("10.0.0.1", 80)]));
    golden("shared-server", &set(upstreams.to_vec()));
}

#[test]
fn nothing_to_route_is_a_generation_with_only_the_probe() {
    golden("nothing", &BTreeMap::new());
}

#[test]
fn the_hash_tells_every_input_apart_and_nothing_else() {
    let renderer = built_in();
    let upstreams = set(vec![routed(plain("a", 80), vec![endpoint("10.0.0.1", 80)])]);
    let hash = renderer.generation_hash(&owner(), &upstreams, probe());
    assert_eq!(hash, renderer.generation_hash(&owner(), &upstreams.clone(), probe()));
    assert!(GenerationId::parse(&format!("{hash}-1")).is_some(), "{hash}");
    let mut seen = BTreeSet::from([hash]);
    let mut differs = |hash: String| assert!(seen.insert(hash), "two inputs gave the same hash");
    let other = Owner { project: "shop".to_owned(), node: "edge-2".to_owned() };
    differs(renderer.generation_hash(&other, &upstreams, probe()));
    differs(renderer.generation_hash(&owner(), &upstreams, "127.0.0.1:1".parse().expect("an address")));
    differs(renderer.generation_hash(&owner(), &BTreeMap::new(), probe()));
    let edited = Renderer::new(&format!("{BUILT_IN} "), "x").expect("valid");
    differs(edited.generation_hash(&owner(), &upstreams, probe()));
    let mut renewed = upstreams.clone();
    renewed.get_mut("a").expect("there").files.insert("/a.pem".to_owned(), "1".to_owned());
    differs(renderer.generation_hash(&owner(), &renewed, probe()));
    let mut more = upstreams;
    more.get_mut("a").expect("there").endpoints.push(endpoint("10.0.0.2", 80));
    differs(renderer.generation_hash(&owner(), &more, probe()));
}

#[test]
fn one_bad_upstream_is_named_and_the_others_can_be_rendered() {
    let bad_address = |name: &str, address: &str| routed(plain(name, 80), vec![endpoint(address, 80)]);
    let with = |name: &str, change: &dyn Fn(&mut Upstream)| {
        let mut upstream = plain(name, 1000);
        upstream.server_name = vec![name.to_owned()];
        change(&mut upstream);
        routed(upstream, vec![endpoint("10.0.0.1", 80)])
    };
    let header = |name: &str, value: &str| {
        let pair = (name.to_owned(), value.to_owned());
        move |upstream: &mut Upstream| upstream.headers.extend([pair.clone()])
    };
    let cases: Vec<(RoutedUpstream, &str)> = vec![
        (bad_address("address", "10.0.0.1; }"), "address of an endpoint"),
        (bad_address("colons", "a:b"), "neither an IP nor a host name"),
        (bad_address("newline", "a\nb"), "control character"),
        (with("path", &|upstream| upstream.path = "api".to_owned()), "path must begin"),
        (with("pathline", &|upstream| upstream.path = "/a\nb".to_owned()), "path holds a control"),
        (with("name", &|upstream| upstream.server_name = vec!["a b".to_owned()]), "server_name"),
        (with("header", &header("X-A", "a\r\nX-B: b")), "the value of the header X-A holds a control"),
        (with("headername", &header("X A", "a")), "the name of a header"),
        (with("directive", &|upstream| drop(upstream.directives.insert("root".into(), "/".into()))), "allowed"),
        (
            with("value", &|upstream| drop(upstream.directives.insert("etag".into(), "on; root /".into()))),
            "the value of the directive etag",
        ),
        (with("hash", &|upstream| upstream.balance = Balance::Hash("a\nb".into())), "hash key"),
        (with("probe", &|upstream| upstream.listen.port = 9465), "address of the probe"),
        (with("code", &|upstream| upstream.when_empty = WhenEmpty::Status(200)), "no error status"),
        (
            with("redirect", &|upstream| upstream.redirect = Some(Redirect { to: "https".into(), code: 200 })),
            "redirect.code",
        ),
        (
            with("tls", &|upstream| {
                upstream.listen.port = 1001;
                upstream.tls = Some(Tls { certificate: "a.pem".into(), key: "/b".into() });
            }),
            "absolute path",
        ),
    ];
    let mut all = set(cases.iter().map(|(one, _)| one.clone()).collect());
    all.insert("good".to_owned(), with("good", &|_| {}));
    let faults = built_in().faults(&owner(), &all, probe());
    for (one, words) in &cases {
        let reason = faults.get(&one.upstream.name).unwrap_or_else(|| panic!("{} has no fault", one.upstream.name));
        assert!(reason.contains(words), "{}: {reason}", one.upstream.name);
    }
    assert_eq!(faults.len(), cases.len());
    match render(&all) {
        Err(RenderError::Upstreams(named)) => assert_eq!(named, faults),
        other => panic!("{other:?}"),
    }
    all.retain(|name, _| !faults.contains_key(name));
    assert!(render(&all).expect("the rest").files.contains_key("files/upstream-good.conf"));
}

#[test]
fn of_two_upstreams_that_exclude_each_other_the_later_one_is_at_fault() {
    let tls = |path: &str| Some(Tls { certificate: path.into(), key: "/k".into() });
    let one = |name: &str, port: u16, change: &dyn Fn(&mut Upstream)| {
        let mut upstream = plain(name, port);
        change(&mut upstream);
        routed(upstream, vec![endpoint("10.0.0.1", 80)])
    };
    let all = set(vec![
        one("a1", 1, &|_| {}),
        one("a2", 1, &|_| {}),
        one("b1", 2, &|upstream| upstream.tls = tls("/a")),
        one("b2", 2, &|upstream| upstream.path = "/b".to_owned()),
        one("c1", 3, &|_| {}),
        one("c2", 3, &|upstream| {
            upstream.grpc = true;
            upstream.path = "/c".to_owned();
        }),
        one("d1", 4, &|upstream| upstream.tls = tls("/a")),
        one("d2", 4, &|upstream| {
            upstream.tls = tls("/b");
            upstream.path = "/d".to_owned();
        }),
        one("E", 5, &|_| {}),
        one("e", 6, &|_| {}),
    ]);
    let faults = built_in().faults(&owner(), &all, probe());
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["a2", "b2", "c2", "d2", "e"]);
    assert!(faults["a2"].contains("a1 has the same listen 1"), "{}", faults["a2"]);
}

#[test]
fn a_message_of_nginx_blames_the_upstreams_whose_files_it_names() {
    let mut api = plain("api", 80);
    api.path = "/api".to_owned();
    let mut secure = plain("secure", 443);
    secure.tls = Some(Tls { certificate: "/tls/a.pem".into(), key: "/tls/a.key".into() });
    let all = set([plain("web", 80), api, secure].map(|one| routed(one, vec![endpoint("10.0.0.1", 80)])).to_vec());
    let blamed = |message: &str| Vec::from_iter(built_in().blamed(&owner(), &all, probe(), message));
    let file = |name: &str| format!("nginx: [emerg] no in {FOLDER}/0123456789ab-1/files/{name}:3");
    assert_eq!(blamed(&file("upstream-api.conf")), ["api"]);
    assert_eq!(blamed(&file("server-80-_.conf")), ["api", "web"]);
    assert_eq!(blamed("nginx: [emerg] cannot load certificate \"/tls/a.pem\": BIO_new_file() failed"), ["secure"]);
    assert_eq!(blamed("nginx: [emerg] unknown directive \"x\" in /etc/nginx/nginx.conf:3"), Vec::<String>::new());
}

#[test]
fn a_folder_that_nginx_would_take_for_a_pattern_is_refused() {
    for folder in ["relative", "/a*b", "/a[b]", "/a\nb"] {
        let result = built_in().render(&id(), &owner(), &BTreeMap::new(), probe(), Path::new(folder));
        assert!(matches!(result, Err(RenderError::Shared(_))), "{folder}: {result:?}");
    }
    let spaced = built_in().render(&id(), &owner(), &BTreeMap::new(), probe(), Path::new("/a b"));
    assert!(spaced.is_ok());
}

#[test]
fn an_error_in_a_template_names_file_and_line_and_no_value() {
    let template = |body: &str| {
        format!(
            "{{% macro main(g) %}}x{{% endmacro %}}\n{{% macro upstream(u) %}}\n{body}\n{{% endmacro %}}\n{{% macro server(s) %}}{{% endmacro %}}\n"
        )
    };
    let mut upstream = plain("a", 80);
    upstream.balance = Balance::Hash("t0psecret;".to_owned());
    let upstreams = set(vec![routed(upstream, vec![endpoint("10.0.0.1", 80)])]);
    for (body, words) in [
        ("{{ u.nope }}", "undefined"),
        ("{{ u.balance[1] }}", "use the filter `quote`"),
        ("{{ u.balance }}", "list or map"),
        ("{{ u.websocket }}", "none cannot be written"),
        ("{{ u.balance[1]|plain }}", "only letters"),
        ("{{ u.balance[1]|int }}", "invalid"),
        ("{% for i in range(100000) %}{% for i in range(100000) %}{% endfor %}{% endfor %}", "fuel"),
    ] {
        let renderer = Renderer::new(&template(body), "my.j2").expect(body);
        let error = renderer.render(&id(), &owner(), &upstreams, probe(), Path::new(FOLDER)).expect_err(body);
        let text = error.to_string();
        assert!(text.contains("my.j2:3") && text.contains(words), "{body}: {text}");
        assert!(!text.contains("t0psecret"), "{body}: {text}");
        assert!(matches!(error, RenderError::Template { upstreams, .. } if upstreams == ["a"]), "{body}");
    }
    let text = Renderer::new(&template("{{ u.name|nope }"), "my.j2").expect_err("syntax").to_string();
    assert!(text.contains("my.j2:3"), "{text}");
    let text = Renderer::new("{% macro main(g) %}{% endmacro %}", "my.j2").expect_err("macros").to_string();
    assert!(text.contains("no macro `upstream`"), "{text}");
}

/// Name, arguments and inner directives, without places.
#[derive(Debug, PartialEq, Eq)]
struct Shape(Vec<String>, Option<Vec<Shape>>);

fn shapes(directives: &[Directive]) -> Vec<Shape> {
    let shape = |directive: &Directive| {
        let words = std::iter::once(directive.name.clone()).chain(directive.args.iter().cloned()).collect();
        Shape(words, directive.block.as_deref().map(shapes))
    };
    directives.iter().map(shape).collect()
}

fn line(words: &[&str]) -> Shape {
    Shape(words.iter().map(|word| (*word).to_owned()).collect(), None)
}

fn block(words: &[&str], inner: Vec<Shape>) -> Shape {
    Shape(words.iter().map(|word| (*word).to_owned()).collect(), Some(inner))
}

/// Text as hostile as a catalog or a spec can hold: everything that nginx's reader gives a meaning.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,20}", "[;{}\"'\\\\#$ \n\t]{0,12}", "[a-z0-9._-]{1,12}", "\\PC{0,8}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the strings are: an upstream is either refused, or its files read back as exactly the structure that was
    /// meant.
    #[test]
    fn no_string_of_the_catalog_or_the_spec_breaks_out_of_its_place(
        name in hostile(), server_name in hostile(), path in hostile(), key in hostile(), header in hostile(),
        value in hostile(), log in hostile(), address in hostile(), directive in hostile(), certificate in hostile(),
    ) {
        let mut upstream = plain(&name, 80);
        upstream.server_name = vec![server_name.clone()];
        upstream.path = format!("/{path}");
        upstream.balance = Balance::Hash(key.clone());
        upstream.headers = BTreeMap::from([(header.clone(), value.clone())]);
        upstream.access_log = Some(AccessLog::File(PathBuf::from(&log)));
        upstream.tls = Some(Tls { certificate: PathBuf::from(format!("/{certificate}")), key: "/k".into() });
        upstream.directives = BTreeMap::from([("etag".to_owned(), directive.clone())]);
        let all = set(vec![routed(upstream, vec![endpoint(&address, 80)])]);
        check_structure(&all)?;
    }

    /// As above, with one hostile string at a time, so that most of them get through.
    #[test]
    fn nor_does_a_single_one(which in 0..9_usize, text in hostile()) {
        let mut upstream = plain("a", 80);
        let mut address = "10.0.0.1".to_owned();
        match which {
            0 => upstream.server_name = vec![text],
            1 => upstream.path = format!("/{text}"),
            2 => upstream.balance = Balance::Hash(text),
            3 => drop(upstream.headers.insert("X-A".to_owned(), text)),
            4 => drop(upstream.headers.insert(text, "x".to_owned())),
            5 => upstream.access_log = Some(AccessLog::File(PathBuf::from(text))),
            6 => upstream.tls = Some(Tls { certificate: PathBuf::from(format!("/{text}")), key: "/k".into() }),
            7 => drop(upstream.directives.insert("etag".to_owned(), text)),
            _ => address = text,
        }
        check_structure(&set(vec![routed(upstream, vec![endpoint(&address, 80)])]))?;
    }
}

fn check_structure(all: &BTreeMap<String, RoutedUpstream>) -> Result<(), TestCaseError> {
    let generation = match render(all) {
        Ok(generation) => generation,
        Err(RenderError::Upstreams(_)) => return Ok(()),
        Err(other) => return Err(TestCaseError::fail(other.to_string())),
    };
    let (name, one) = all.first_key_value().expect("one upstream");
    let upstream = &one.upstream;
    let nginx_name = format!("shop.{name}");

    let text = &generation.files[&format!("files/upstream-{name}.conf")];
    let mut inner = vec![];
    if let Balance::Hash(key) = &upstream.balance {
        inner.push(line(&["hash", key, "consistent"]));
    }
    inner.push(line(&["server", &one.endpoints[0].to_string()]));
    prop_assert_eq!(shapes(&parse(text).expect("readable")), vec![block(&["upstream", &nginx_name], inner)]);

    let server = generation.files.iter().find(|(file, _)| file.starts_with("files/server-")).expect("a server").1;
    let tree = shapes(&parse(server).expect("readable"));
    prop_assert_eq!(tree.len(), 1);
    let Some(directives) = &tree[0].1 else { return Err(TestCaseError::fail("no block")) };
    let mut location = vec![];
    if let Some(AccessLog::File(path)) = &upstream.access_log {
        location.push(line(&["access_log", path.to_str().expect("UTF-8")]));
    }
    for (directive, value) in &upstream.directives {
        let words = &parse(&format!("x {value};")).expect("it was accepted")[0].args;
        let all: Vec<&str> = std::iter::once(directive.as_str()).chain(words.iter().map(String::as_str)).collect();
        location.push(line(&all));
    }
    for (header, value) in [
        ("HOST", "$host"),
        ("X-Real-IP", "$remote_addr"),
        ("Client-IP", "$remote_addr"),
        ("X-Forwarded-For", "$proxy_add_x_forwarded_for"),
    ] {
        if !upstream.headers.keys().any(|own| own.eq_ignore_ascii_case(header)) {
            location.push(line(&["proxy_set_header", header, value]));
        }
    }
    for (header, value) in &upstream.headers {
        location.push(line(&["proxy_set_header", header, value]));
    }
    location.push(line(&["proxy_pass", &format!("http://{nginx_name}")]));
    let mut wanted = vec![];
    let default = upstream.server_name.is_empty() || upstream.server_name == ["_"];
    let ssl = upstream.tls.is_some();
    let mut listen = vec!["listen", "80"];
    listen.extend(default.then_some("default_server"));
    listen.extend(ssl.then_some("ssl"));
    wanted.push(line(&listen));
    let folded = upstream
        .server_name
        .first()
        .map_or("_".to_owned(), |name| if name.starts_with('~') { name.clone() } else { name.to_ascii_lowercase() });
    wanted.push(line(&["server_name", &folded]));
    if let Some(tls) = &upstream.tls {
        wanted.push(line(&["ssl_certificate", tls.certificate.to_str().expect("UTF-8")]));
        wanted.push(line(&["ssl_certificate_key", "/k"]));
    }
    if upstream.path != "/" {
        wanted.push(block(&["location", "/"], vec![line(&["return", "404"])]));
    }
    wanted.push(block(&["location", &upstream.path], location));
    prop_assert_eq!(directives, &wanted);
    Ok(())
}

/// The figure of the design is for a release build: `cargo test --release --lib render -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, only meaningful in release"]
fn a_thousand_upstreams_with_ten_endpoints_render_in_20_ms() {
    let all: Vec<RoutedUpstream> = (0..1000_u16)
        .map(|number| {
            let mut upstream = plain(&format!("upstream-{number}"), 80);
            upstream.server_name = vec![format!("site-{number}.example")];
            let mut endpoints: Vec<Endpoint> =
                (0..10).map(|host| endpoint(&format!("10.1.{}.{host}", number % 256), 8000 + number % 100)).collect();
            endpoints.iter_mut().for_each(|endpoint| endpoint.container = Some("0123456789abcdef".repeat(4)));
            routed(upstream, endpoints)
        })
        .collect();
    let all = set(all);
    let renderer = built_in();
    let best = |work: &mut dyn FnMut()| {
        let once = |work: &mut dyn FnMut()| {
            let start = std::time::Instant::now();
            work();
            start.elapsed()
        };
        (0..20).map(|_| once(work)).min().expect("twenty")
    };
    let hashed = best(&mut || drop(renderer.generation_hash(&owner(), &all, probe())));
    let rendered =
        best(&mut || drop(renderer.render(&id(), &owner(), &all, probe(), Path::new(FOLDER)).expect("rendered")));
    println!("hash {hashed:?}, render {rendered:?}");
    assert!(hashed < Duration::from_millis(10) && rendered < Duration::from_millis(20));
}
