//! The answers of the daemon's server, over real loopback connections.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::plan::Plan;
use crate::status::tests as world;

struct Running {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn server(resync: Duration) -> Running {
    let shared = Shared::new(Arc::new(Metrics::new().expect("valid metrics")), resync);
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let address = server.address();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.run(Arc::clone(&shared), stop.clone()));
    Running { shared, address, stop, task }
}

fn report() -> Report {
    let status = Status::of(&world::spec(), &world::observed(), &Plan::default(), &[]);
    Report { at: world::at(0), node: "edge-1".to_owned(), observe_only: false, spec_refused: None, status }
}

/// Status line, headers and body.
async fn fetch(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer))
        .await
        .expect("answered in time")
        .expect("readable");
    answer
}

#[tokio::test]
async fn before_the_first_pass_it_is_alive_and_not_ready() {
    let running = server(Duration::from_secs(30)).await;
    assert!(fetch(running.address, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    let ready = fetch(running.address, "GET /readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.ends_with("not ready: the first pass is not done yet\n"), "{ready}");
    assert!(fetch(running.address, "GET /v1/status").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn after_a_pass_it_is_ready_and_answers_what_was_published() {
    let running = server(Duration::from_secs(30)).await;
    running.shared.publish(&report(), Arc::new(|| serde_json::json!({ "steps": [] })), None).expect("serialisable");
    assert!(fetch(running.address, "GET /readyz").await.ends_with("\r\n\r\nready\n"));
    let answer = fetch(running.address, "GET /v1/status").await;
    assert!(answer.contains("content-type: application/json"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert_eq!(serde_json::from_str::<Report>(body).expect("a report"), report());
    assert!(fetch(running.address, "GET /v1/plan").await.ends_with("{\"steps\":[]}"));
    let metrics = fetch(running.address, "GET /metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nreeve_build_info{"), "{metrics}");
}

#[tokio::test]
async fn a_loop_without_a_sign_of_life_is_not_ready() {
    let running = server(Duration::ZERO).await;
    running.shared.publish(&report(), Arc::new(|| serde_json::Value::Null), None).expect("serialisable");
    let ready = fetch(running.address, "GET /readyz").await;
    assert!(ready.contains("the loop has shown no sign of life"), "{ready}");
    running.shared.set_resync(Duration::from_secs(30));
    assert!(fetch(running.address, "GET /readyz").await.ends_with("ready\n"));
}

#[tokio::test]
async fn an_unknown_path_and_a_write_are_refused() {
    let running = server(Duration::from_secs(30)).await;
    let answer = fetch(running.address, "GET /v1/stauts").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("/v1/status\n"), "{answer}");
    assert!(fetch(running.address, "POST /v1/plan").await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let running = server(Duration::from_secs(30)).await;
    let error = Server::bind(running.address).await.expect_err("bound twice").to_string();
    assert!(error.starts_with(&format!("http.listen: {} is taken by another process", running.address)), "{error}");
}

#[tokio::test]
async fn it_stops_within_a_second_even_when_a_client_sends_half_a_request() {
    let running = server(Duration::from_secs(30)).await;
    let mut client = TcpStream::connect(running.address).await.expect("connected");
    client.write_all(b"GET /metr").await.expect("sent");
    fetch(running.address, "GET /healthz").await;
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), running.task).await.expect("ended in time").expect("no panic");
}
