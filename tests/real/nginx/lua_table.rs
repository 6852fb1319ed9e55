//! nginx's own balancer and ours in Lua, on the same cases: both have to do the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reeve::observed::{Balancer, Endpoint};
use reeve::settings::EndpointsMode;
use reeve::spec::upstream::{AccessLog, Balance, Upstream, WhenEmpty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::site::{LUA_MODULES, Site, backend, body, exchange, free_port, get, read_head, routed, set, upstream};

/// One upstream on both paths: a new nginx with one worker for each.
struct Case {
    upstream: Upstream,
    endpoints: Vec<Endpoint>,
    /// What the user's own `http` block says.
    http: &'static str,
}

fn at(port: u16) -> Endpoint {
    weighing(port, 1)
}

fn weighing(port: u16, weight: u32) -> Endpoint {
    Endpoint { address: "127.0.0.1".to_owned(), port, weight, container: None }
}

fn case(balance: Balance, endpoints: Vec<Endpoint>) -> Case {
    Case { upstream: Upstream { balance, ..upstream("web", free_port()) }, endpoints, http: "" }
}

impl Case {
    fn port(&self) -> u16 {
        self.upstream.listen.port
    }

    async fn start(&self, balancer: Balancer) -> Site {
        let http = format!("{} include REEVE/current/reeve.conf;", self.http);
        let mut site = Site::with(&format!("{LUA_MODULES}worker_processes 1;"), &http);
        if balancer == Balancer::Lua {
            site.settings.endpoints = EndpointsMode::Lua;
            site.nginx = site.fresh();
            site.renderer = site.renderer.balanced_by(Balancer::Lua, site.view().await.http);
        }
        let mut routed = routed(self.upstream.clone(), &[]);
        routed.endpoints = self.endpoints.clone().into();
        site.load(&set(vec![routed])).await;
        site
    }

    /// What both paths answer to the same; the site is ended in between.
    async fn both<T, F: Future<Output = T>>(&self, ask: impl Fn(u16) -> F) -> [T; 2] {
        let mut outcomes = Vec::new();
        for balancer in [Balancer::Nginx, Balancer::Lua] {
            let site = self.start(balancer).await;
            outcomes.push(ask(self.port()).await);
            site.send("-QUIT", site.master());
            site.view_until("it has ended", |seen| seen.loaded == reeve::observed::Loaded::Nothing).await;
        }
        outcomes.try_into().unwrap_or_else(|_| panic!("two"))
    }
}

/// The status of an answer, and who gave it.
fn outcome(answer: &str) -> String {
    let status = answer.split(' ').nth(1).unwrap_or("nothing");
    match status {
        "200" => super::site::who(answer).to_owned(),
        other => other.to_owned(),
    }
}

async fn sequence(port: u16, requests: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..requests {
        all.push(outcome(&get(port, "x", "/").await));
    }
    all
}

/// A server that reads a request and closes without an answer; counts them.
async fn broken() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            read_head(&mut stream).await;
        }
    });
    (port, count)
}

#[tokio::test]
async fn round_robin_takes_turns_by_weight_in_the_same_order() {
    let (a, b, c) = (backend("a").await, backend("b").await, backend("c").await);
    let case = case(Balance::RoundRobin, vec![weighing(a, 5), weighing(b, 1), weighing(c, 2)]);
    let [nginx, lua] = case.both(|port| sequence(port, 24)).await;
    assert_eq!(lua, nginx);
    assert_eq!(nginx.iter().filter(|name| *name == "a").count(), 15);
}

#[tokio::test]
async fn a_hash_finds_the_same_endpoint_for_each_key() {
    let (a, b, c) = (backend("a").await, backend("b").await, backend("c").await);
    let case = case(Balance::Hash("$uri".to_owned()), vec![at(a), weighing(b, 2), at(c)]);
    let [nginx, lua] = case
        .both(|port| async move {
            let mut all = BTreeMap::new();
            for key in 0..60 {
                let path = format!("/{key}");
                all.insert(path.clone(), outcome(&get(port, "x", &path).await));
            }
            all
        })
        .await;
    assert_eq!(lua, nginx);
    assert!(["a", "b", "c"].iter().all(|name| nginx.values().any(|who| who == name)), "{nginx:?}");
}

#[tokio::test]
async fn ip_hash_finds_the_same_endpoint_for_a_client_and_leaves_a_dead_one() {
    let (a, b, c) = (backend("a").await, backend("b").await, backend("c").await);
    let whole = case(Balance::IpHash, vec![at(a), weighing(b, 3), at(c)]);
    let [nginx, lua] = whole.both(|port| sequence(port, 6)).await;
    assert_eq!(lua, nginx);
    assert!(nginx.iter().all(|name| *name == nginx[0]), "{nginx:?}");
    // The endpoint that this client gets does not answer.
    let (dead, _) = broken().await;
    let chosen = ["a", "b", "c"].iter().position(|name| *name == nginx[0]).expect("one of them");
    let mut endpoints = whole.endpoints.clone();
    endpoints[chosen].port = dead;
    let [nginx, lua] = case(Balance::IpHash, endpoints).both(|port| sequence(port, 6)).await;
    assert_eq!(lua, nginx);
    assert!(nginx.iter().all(|name| name.len() == 1), "{nginx:?}");
}

#[tokio::test]
async fn a_failing_endpoint_is_passed_over_and_skipped_for_a_while() {
    let (a, b) = (backend("a").await, backend("b").await);
    let (dead, count) = broken().await;
    let case = case(Balance::RoundRobin, vec![at(dead), at(a), weighing(b, 2)]);
    let [nginx, lua] = case
        .both(|port| {
            let count = count.clone();
            async move {
                count.store(0, Ordering::Relaxed);
                let all = sequence(port, 12).await;
                (all, count.load(Ordering::Relaxed))
            }
        })
        .await;
    assert_eq!(lua, nginx);
    assert_eq!(nginx.1, 1, "after one failure it is not asked for ten seconds");
    assert!(nginx.0.iter().all(|name| name.len() == 1), "another answers: {nginx:?}");
}

async fn post(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let request = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("answered");
    outcome(&text)
}

#[tokio::test]
async fn a_post_is_not_sent_twice_and_its_failure_counts() {
    let a = backend("a").await;
    let (dead, count) = broken().await;
    let case = case(Balance::RoundRobin, vec![at(dead), at(a)]);
    let [nginx, lua] = case
        .both(|port| {
            let count = count.clone();
            async move {
                count.store(0, Ordering::Relaxed);
                let mut all = Vec::new();
                for _ in 0..6 {
                    all.push(post(port).await);
                }
                (all, count.load(Ordering::Relaxed))
            }
        })
        .await;
    assert_eq!(lua, nginx);
    assert_eq!(nginx, (["502", "a", "a", "a", "a", "a"].map(str::to_owned).to_vec(), 1));
}

#[tokio::test]
async fn when_all_endpoints_fail_the_answers_are_the_same_and_so_is_a_single_one() {
    let ((one, _), (two, _)) = (broken().await, broken().await);
    for endpoints in [vec![at(one), at(two)], vec![at(one)]] {
        let [nginx, lua] = case(Balance::RoundRobin, endpoints).both(|port| sequence(port, 5)).await;
        assert_eq!(lua, nginx);
        assert_eq!(nginx, vec!["502"; 5]);
    }
}

/// A server that holds each request until its connection ends, and tells of it.
async fn holding() -> (u16, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (sender, held) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                sender.send(()).expect("somebody waits");
                let mut rest = [0; 1];
                let end = stream.read(&mut rest).await;
                drop(end);
            });
        }
    });
    (port, held)
}

/// Sends a request: by whom it was answered, or, when it is held, `None` and its connection.
async fn answered_or_held(port: u16, held: &mut tokio::sync::mpsc::UnboundedReceiver<()>) -> Result<String, TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    let answered = tokio::select! {
        read = stream.read_to_string(&mut text) => {
            read.expect("answered");
            true
        }
        taken = held.recv() => {
            taken.expect("taken");
            false
        }
    };
    if answered { Ok(outcome(&text)) } else { Err(stream) }
}

#[tokio::test]
async fn least_conn_avoids_the_endpoint_that_is_busy() {
    let (slow, mut held) = holding().await;
    let (a, b) = (backend("a").await, backend("b").await);
    let case = case(Balance::LeastConn, vec![at(slow), at(a), weighing(b, 2)]);
    let mut outcomes = Vec::new();
    for balancer in [Balancer::Nginx, Balancer::Lua] {
        let site = case.start(balancer).await;
        // The one that the slow endpoint gets stays open.
        let mut open = Vec::new();
        let mut fast = Vec::new();
        for _ in 0..3 {
            match answered_or_held(case.port(), &mut held).await {
                Ok(name) => fast.push(name),
                Err(stream) => {
                    fast.push("slow".to_owned());
                    open.push(stream);
                }
            }
        }
        assert_eq!(open.len(), 1, "{fast:?}");
        fast.extend(sequence(case.port(), 9).await);
        outcomes.push(fast);
        drop(open);
        // What was open is counted down again, and the slow one is asked again.
        let mut stream = TcpStream::connect(("127.0.0.1", case.port())).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        site.send("-QUIT", site.master());
        drop(stream);
        site.view_until("it has ended", |seen| seen.loaded == reeve::observed::Loaded::Nothing).await;
    }
    assert_eq!(outcomes[1], outcomes[0]);
    assert_eq!(outcomes[0].iter().filter(|name| *name == "slow").count(), 1, "{outcomes:?}");
}

#[tokio::test]
async fn random_reaches_all_by_their_weight() {
    let (a, b) = (backend("a").await, backend("b").await);
    let case = case(Balance::Random, vec![weighing(a, 4), at(b)]);
    for all in case.both(|port| sequence(port, 300)).await {
        let count = all.iter().filter(|name| *name == "a").count();
        assert!((200..=280).contains(&count), "240 of 300 are expected: {count}");
        assert_eq!(all.iter().filter(|name| *name == "b").count(), 300 - count);
    }
}

#[tokio::test]
async fn random_two_takes_the_less_busy_of_the_two_that_it_draws() {
    const MANY: usize = 60;
    let (slow, mut held) = holding().await;
    let (a, b) = (backend("a").await, backend("b").await);
    let case = case(Balance::RandomTwo, vec![at(slow), at(a), at(b)]);
    for balancer in [Balancer::Nginx, Balancer::Lua] {
        let site = case.start(balancer).await;
        let mut open = None;
        for _ in 0..MANY {
            open = answered_or_held(case.port(), &mut held).await.err();
            if open.is_some() {
                break;
            }
        }
        assert!(open.is_some(), "each is drawn, and taken while nothing is under way");
        let all = sequence(case.port(), MANY).await;
        for name in ["a", "b"] {
            assert!(all.iter().any(|one| one == name), "{balancer:?}: {name} of {all:?}");
        }
        assert!(all.iter().all(|one| one == "a" || one == "b"), "whatever it is drawn with is less busy: {all:?}");
        drop(open);
        site.send("-QUIT", site.master());
        site.view_until("it has ended", |seen| seen.loaded == reeve::observed::Loaded::Nothing).await;
    }
}

/// Without the time of day, which differs.
fn timeless(answer: &str) -> String {
    answer.lines().filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn an_empty_upstream_answers_its_status() {
    let rest = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let requests = [
        format!("GET / {rest}\r\n"),
        format!("HEAD /a?b=c {rest}\r\n"),
        format!("POST /post {rest}Content-Length: 5\r\n\r\nhello"),
        format!("PUT /put {rest}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("GET /ws {rest}Upgrade: websocket\r\n\r\n"),
    ];
    for (when_empty, status) in
        [(WhenEmpty::Status(503), "503"), (WhenEmpty::Status(451), "451"), (WhenEmpty::Keep, "503")]
    {
        for header in [None, Some("X-From reeve always")] {
            let mut case = case(Balance::LeastConn, vec![]);
            case.upstream.when_empty = when_empty.clone();
            case.upstream.directives =
                header.into_iter().map(|value| ("add_header".to_owned(), value.to_owned())).collect();
            let requests = &requests;
            let [nginx, lua] = case
                .both(|port| async move {
                    let mut all = Vec::new();
                    for request in requests {
                        all.push(timeless(&exchange(port, request).await));
                    }
                    all
                })
                .await;
            assert_eq!(lua, nginx);
            assert!(nginx.iter().all(|answer| answer.starts_with(&format!("HTTP/1.1 {status}"))), "{nginx:?}");
            assert_eq!(nginx[0].contains("X-From: reeve"), header.is_some(), "{nginx:?}");
        }
    }
}

#[tokio::test]
async fn an_empty_upstream_logs_where_the_spec_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let mut case = case(Balance::RoundRobin, vec![]);
    case.upstream.access_log = Some(AccessLog::File(log.clone()));
    let answers = case.both(|port| sequence(port, 1)).await;
    assert_eq!(answers, [["503"], ["503"]]);
    let text = std::fs::read_to_string(log).expect("it is written");
    assert_eq!(text.lines().filter(|line| line.contains(" 503 ")).count(), 2, "one on each path: {text}");
}

/// A server that answers each request with this status.
async fn answering(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 {status} Own\r\nContent-Length: 3\r\nConnection: close\r\n\r\nown");
            let written = stream.write_all(answer.as_bytes()).await;
            drop(written);
        }
    });
    port
}

#[tokio::test]
async fn what_the_users_own_http_block_says_of_errors_holds() {
    let (own, (dead, _)) = (answering("502").await, broken().await);
    let page = "error_page 502 503 http://sorry.example/;";
    let cache = "proxy_cache_path REEVE-cache keys_zone=c:1m; proxy_cache c; proxy_cache_valid any 1m;";
    let both = "error_page 503 http://sorry.example/; proxy_intercept_errors on;";
    for (http, endpoints, wanted) in [
        ("", vec![], "503"),
        (page, vec![], "302"),
        (both, vec![], "302"),
        ("proxy_intercept_errors on;", vec![], "503"),
        (cache, vec![], "503"),
        ("", vec![at(dead)], "502"),
        (page, vec![at(dead)], "302"),
        (both, vec![at(dead), at(dead)], "502"),
        ("", vec![at(own)], "502 own"),
        (page, vec![at(own)], "502 own"),
        ("proxy_intercept_errors on;", vec![at(own)], "502 own"),
    ] {
        let case = Case { http, ..case(Balance::RoundRobin, endpoints) };
        let [nginx, lua] = case
            .both(|port| async move {
                // What a first answer leaves behind in a cache must not be the second one.
                get(port, "x", "/").await;
                let answer = get(port, "x", "/").await;
                let own = if body(&answer) == "own" { " own" } else { "" };
                format!("{}{own}", outcome(&answer))
            })
            .await;
        assert_eq!((lua.as_str(), nginx.as_str()), (wanted, wanted), "{http}");
    }
}

/// A server that has nginx look elsewhere for what it is asked at `/x`.
async fn redirecting(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            let more = if head.starts_with("GET /x ") { "X-Accel-Redirect: /plain\r\n" } else { "" };
            let answer =
                format!("HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
            let written = stream.write_all(answer.as_bytes()).await;
            drop(written);
        }
    });
    port
}

#[tokio::test]
async fn an_internal_redirect_leaves_nothing_counted() {
    let (a, b) = (redirecting("a").await, redirecting("b").await);
    let case = case(Balance::LeastConn, vec![at(a), at(b)]);
    let [nginx, lua] = case
        .both(|port| async move {
            let mut all = Vec::new();
            for path in ["/x", "/", "/", "/x", "/", "/x", "/", "/", "/x", "/x", "/", "/", "/", "/"] {
                all.push(outcome(&get(port, "x", path).await));
            }
            all
        })
        .await;
    assert_eq!(lua, nginx);
}

/// A server that keeps connections open, and answers how many it has had.
async fn keeping() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                while !read_head(&mut stream).await.is_empty() {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, count)
}

#[tokio::test]
async fn connections_to_each_endpoint_are_kept_open() {
    let ((one, first), (two, second)) = (keeping().await, keeping().await);
    let mut case = case(Balance::RoundRobin, vec![at(one), at(two)]);
    case.upstream.keepalive = Some(4);
    let counts = case
        .both(|port| {
            let (first, second) = (first.clone(), second.clone());
            async move {
                first.store(0, Ordering::Relaxed);
                second.store(0, Ordering::Relaxed);
                for _ in 0..10 {
                    assert_eq!(body(&get(port, "x", "/").await), "kept");
                }
                (first.load(Ordering::Relaxed), second.load(Ordering::Relaxed))
            }
        })
        .await;
    assert_eq!(counts, [(1, 1), (1, 1)]);
}
