//! What a request meets: names, paths, statuses, upgrades, TLS.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use reeve::observed::Endpoint;
use reeve::spec::upstream::{AccessLog, Balance, Redirect, Timeouts, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::site::{LIMIT, Site, backend, body, free_port, get, read_head, routed, set, upstream, who};

#[tokio::test]
async fn upstreams_of_one_listen_are_told_apart_by_name_and_by_path() {
    let site = Site::new();
    let port = free_port();
    let (one, two, api) = (backend("one").await, backend("two").await, backend("api").await);
    let mut first = upstream("first", port);
    first.server_name = vec!["one.test".to_owned()];
    first.headers = BTreeMap::from([("X-Env".to_owned(), "a \"b\"; c".to_owned())]);
    let mut second = upstream("second", port);
    second.server_name = vec!["two.test".to_owned(), "zwei.test".to_owned()];
    let mut path = upstream("path", port);
    path.server_name = vec!["one.test".to_owned()];
    path.path = "/api".to_owned();
    path.keepalive = Some(4);
    site.load(&set(vec![routed(first, &[one]), routed(second, &[two]), routed(path, &[api])])).await;
    let answer = get(port, "one.test", "/some/where?x=1").await;
    assert_eq!(who(&answer), "one");
    for line in [
        "GET /some/where?x=1 HTTP/1.0",
        "HOST: one.test",
        "X-Real-IP: 127.0.0.1",
        "Client-IP: 127.0.0.1",
        "X-Forwarded-For: 127.0.0.1",
        "X-Env: a \"b\"; c",
    ] {
        assert!(body(&answer).contains(line), "{line} is not in {answer}");
    }
    let answer = get(port, "one.test", "/api/x").await;
    assert_eq!(who(&answer), "api");
    assert!(answer.contains("GET /api/x HTTP/1.1"), "the prefix stays, and keepalive means HTTP/1.1: {answer}");
    assert_eq!(who(&get(port, "two.test", "/api").await), "two");
    assert_eq!(who(&get(port, "zwei.test", "/").await), "two");
}

#[tokio::test]
async fn an_upstream_without_endpoints_answers_its_status_and_the_others_go_on() {
    let site = Site::new();
    let (port, other, one) = (free_port(), free_port(), backend("one").await);
    let mut redirect = upstream("redirect", port);
    redirect.path = "/old".to_owned();
    redirect.redirect = Some(Redirect { to: "https".to_owned(), code: 308 });
    site.load(&set(vec![
        routed(upstream("empty", port), &[]),
        routed(redirect, &[]),
        routed(upstream("web", other), &[one]),
    ]))
    .await;
    assert!(get(port, "x", "/").await.starts_with("HTTP/1.1 503 "));
    let answer = get(port, "site.test", "/old/a?b=c").await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(answer.contains("Location: https://site.test/old/a?b=c\r\n"), "{answer}");
    assert_eq!(who(&get(other, "x", "/").await), "one");
}

#[tokio::test]
async fn every_balance_and_every_option_is_accepted_by_nginx() {
    let site = Site::new();
    let port = free_port();
    let mut all = Vec::new();
    let balances = [
        Balance::LeastConn,
        Balance::IpHash,
        Balance::Random,
        Balance::RandomTwo,
        Balance::Hash("$request_uri".to_owned()),
    ];
    for (number, balance) in balances.into_iter().enumerate() {
        let mut one = upstream(&format!("b{number}"), port);
        one.server_name =
            vec![format!("b{number}.test"), format!("*.b{number}.test"), format!("~^x{number}\\d{{1,2}}$")];
        one.balance = balance;
        one.keepalive = Some(8);
        one.websocket = true;
        one.max_body_size = Some(10 << 20);
        one.access_log = Some(AccessLog::File(site.path("access log")));
        one.timeouts = Timeouts {
            connect: Some(Duration::from_millis(1500)),
            read: Some(Duration::from_secs(3600)),
            send: Some(Duration::from_micros(10)),
        };
        let mut routed = routed(one, &[1, 2]);
        routed.endpoints.push(Endpoint { address: "::1".to_owned(), port: 3, weight: 5, container: None });
        all.push(routed);
    }
    let mut six = upstream("six", port);
    six.listen.address = Some("::1".parse().expect("an address"));
    six.path = "/a b/ü;{}".to_owned();
    six.access_log = Some(AccessLog::Off);
    all.push(routed(six, &[1]));
    // Each in a location of its own, because some of them only fit together with others.
    let values = [
        ("add_header", "X-A \"b c\" always"),
        ("proxy_buffers", "8 16k"),
        ("proxy_buffering", "off"),
        ("proxy_next_upstream", "error timeout http_502"),
        ("proxy_cookie_path", "/a /b"),
        ("gzip_types", "text/plain text/css"),
        ("expires", "1h"),
        ("limit_rate", "1m"),
    ];
    for (number, (name, value)) in values.into_iter().enumerate() {
        let mut one = upstream(&format!("d{number}"), port);
        one.path = format!("/d{number}");
        one.directives = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        all.push(routed(one, &[1]));
    }
    site.write(&set(all), 1).await;
}

#[tokio::test]
async fn a_websocket_passes_in_both_directions() {
    let site = Site::new();
    let (port, one) = (free_port(), backend("one").await);
    let mut chat = upstream("chat", port);
    chat.websocket = true;
    site.load(&set(vec![routed(chat, &[one])])).await;
    assert_eq!(who(&get(port, "x", "/").await), "one", "a plain request passes too");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let head = tokio::time::timeout(LIMIT, read_head(&mut stream)).await.expect("an answer in time");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for _ in 0..2 {
        stream.write_all(b"hello").await.expect("sent");
        let mut echo = [0; 5];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut echo)).await.expect("in time").expect("echoed");
        assert_eq!(&echo, b"hello");
    }
}

/// A certificate for `site.test`, made by the `openssl` program.
fn certificate(folder: &Path) -> Tls {
    let tls = Tls { certificate: folder.join("site.pem"), key: folder.join("site.key") };
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=site.test", "-keyout"])
        .arg(&tls.key)
        .arg("-out")
        .arg(&tls.certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl runs").success());
    tls
}

#[tokio::test]
async fn tls_and_grpc_are_served_and_a_renewed_certificate_is_another_digest() {
    let mut site = Site::new();
    let (port, rpc, one) = (free_port(), free_port(), backend("one").await);
    let tls = certificate(site.folder.path());
    let paths = vec![tls.certificate.clone(), tls.key.clone(), "/no/such/file".into()];
    site.tls_files = BTreeMap::from([("secure".to_owned(), paths)]);
    let before = site.view().await.tls;
    assert!(
        before["secure"]["/no/such/file"].as_ref().is_err_and(|words| words.contains("No such file")),
        "{before:?}"
    );

    let mut secure = upstream("secure", port);
    secure.server_name = vec!["site.test".to_owned()];
    secure.tls = Some(tls.clone());
    let mut grpc = upstream("grpc", port);
    grpc.server_name = vec!["site.test".to_owned()];
    grpc.path = "/rpc".to_owned();
    grpc.tls = Some(tls.clone());
    grpc.grpc = true;
    let mut plain = upstream("plain", rpc);
    plain.grpc = true;
    plain.timeouts.read = Some(Duration::from_secs(5));
    site.load(&set(vec![routed(secure, &[one]), routed(grpc, &[one]), routed(plain, &[one])])).await;

    // Not the standard library's: it would hold up the backend, which runs on this thread.
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "10", "--http1.1", "--cacert"])
        .arg(&tls.certificate)
        .args(["--resolve", &format!("site.test:{port}:127.0.0.1"), &format!("https://site.test:{port}/")])
        .output()
        .await
        .expect("curl runs");
    assert!(output.stdout.starts_with(b"one\n"), "{output:?}");

    certificate(site.folder.path());
    let after = site.view().await.tls;
    assert_ne!(before["secure"], after["secure"]);
}

#[tokio::test]
async fn workers_that_finish_old_requests_are_counted_as_a_generation() {
    let site = Site::new();
    let (port, one) = (free_port(), backend("one").await);
    let mut chat = upstream("chat", port);
    chat.websocket = true;
    site.load(&set(vec![routed(chat.clone(), &[one])])).await;
    assert_eq!(site.view().await.retiring_workers, 0);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    chat.keepalive = Some(1);
    site.load(&set(vec![routed(chat, &[one])])).await;
    site.view_until("one old generation", |seen| seen.retiring_workers == 1).await;
    drop(stream);
    site.view_until("it is gone", |seen| seen.retiring_workers == 0).await;
}
