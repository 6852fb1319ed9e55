//! One probe of a declared check, made by reeve itself: for a container without a HEALTHCHECK, before it is registered.
//!
//! It asks what Consul's own check will ask, at the container's address: one GET (2xx passes, redirects are followed), one
//! TCP connection, or one call of the gRPC health protocol. It decides nothing.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use axum::body::Bytes;
use axum::http;
use tokio::net::TcpStream;

use crate::observed::{Probe, ProbeTarget};
use crate::spec::CheckKind;

/// As Consul's HTTP client.
const REDIRECTS: usize = 10;
/// A HealthCheckResponse is a few bytes; what is longer is something else.
const LONGEST_MESSAGE: usize = 1024;

/// Probes once, within the check's timeout. Never fails: the reason is in the answer.
pub async fn probe(address: IpAddr, target: &ProbeTarget) -> Probe {
    let check = &target.check;
    let place = host_and_port(&address.to_string(), target.port);
    let (what, result) = match &check.kind {
        CheckKind::Http { path } => {
            let url = format!("http://{place}{path}");
            (format!("GET {url}"), within(check.timeout, get(&url)).await)
        }
        CheckKind::Tcp => (
            format!("TCP connection to {place}"),
            within(check.timeout, async {
                TcpStream::connect((address, target.port)).await.map(drop).map_err(|error| format!("failed: {error}"))
            })
            .await,
        ),
        CheckKind::Grpc { service } => (
            format!("gRPC health check of {service:?} at {place}"),
            within(check.timeout, grpc(address, target.port, service)).await,
        ),
    };
    match result {
        Ok(()) => Probe::Passing,
        Err(reason) => Probe::Failing(format!("{what} {reason}")),
    }
}

/// `address:port`, an IPv6 address in brackets.
pub(crate) fn host_and_port(address: &str, port: u16) -> String {
    match address.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{address}]:{port}"),
        Err(_) => format!("{address}:{port}"),
    }
}

async fn within(limit: Duration, work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(format!("gave no answer within {limit:?}")))
}

async fn get(url: &str) -> Result<(), String> {
    // A redirect may lead to TLS, for which reqwest wants a provider even when none is needed.
    drop(rustls::crypto::ring::default_provider().install_default());
    let chain = |error: reqwest::Error| format!("failed: {}", super::consul::chain(&error.without_url()));
    // A client of its own: a probe is rare, and a connection kept alive would not tell whether the port still answers.
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .user_agent(concat!("reeve/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(chain)?;
    let status = client.get(url).send().await.map_err(chain)?.status();
    if status.is_success() { Ok(()) } else { Err(format!("answered {}", status.as_u16())) }
}

/// `grpc.health.v1.Health/Check` over HTTP/2 without TLS.
async fn grpc(address: IpAddr, port: u16, service: &str) -> Result<(), String> {
    let failed = |error: h2::Error| format!("failed: {error}");
    let stream = TcpStream::connect((address, port)).await.map_err(|error| format!("failed: {error}"))?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let call = async {
        let request = http::Request::post(format!(
            "http://{}/grpc.health.v1.Health/Check",
            host_and_port(&address.to_string(), port)
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| format!("cannot be asked: {error}"))?;
        let mut sender = sender.ready().await.map_err(failed)?;
        let (response, mut body) = sender.send_request(request, false).map_err(failed)?;
        body.send_data(health_request(service), true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(format!("answered {}", head.status.as_u16()));
        }
        let mut message = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(failed)?;
            // Its window is given back although no more is expected: the server may wait for it.
            body.flow_control().release_capacity(piece.len()).map_err(failed)?;
            message.extend_from_slice(&piece);
            if message.len() > LONGEST_MESSAGE {
                return Err("answered something that is no health response".to_owned());
            }
        }
        let trailers = body.trailers().await.map_err(failed)?;
        // A call that fails at once has its status in the headers.
        let text = |name: &str| {
            trailers.iter().chain([&head.headers]).find_map(|map| map.get(name)).and_then(|value| value.to_str().ok())
        };
        match text("grpc-status") {
            Some("0") => serving(&message),
            Some("5") => Err(format!("answered that it does not know the service {service:?}")),
            Some("12") => Err("answered that it does not serve grpc.health.v1.Health".to_owned()),
            Some(code) => Err(format!("answered gRPC status {code} {}", text("grpc-message").unwrap_or_default())),
            None => Err("answered without a gRPC status".to_owned()),
        }
    };
    // The connection is driven only as long as the call needs it.
    tokio::select! {
        result = call => result,
        ended = connection => Err(ended.map_or_else(failed, |()| "failed: the connection was closed".to_owned())),
    }
}

/// A length-prefixed, uncompressed HealthCheckRequest: field 1 is the name.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A HealthCheckResponse: field 1 is the status, and 1 is SERVING.
fn serving(frame: &[u8]) -> Result<(), String> {
    match frame {
        [0, _, _, _, 2, 0x08, 1] => Ok(()),
        [0, _, _, _, 2, 0x08, 2] => Err("answered NOT_SERVING".to_owned()),
        [0, _, _, _, 2, 0x08, 3] => Err("answered SERVICE_UNKNOWN".to_owned()),
        [0, 0, 0, 0, 0] | [0, _, _, _, 2, 0x08, 0] => Err("answered UNKNOWN".to_owned()),
        _ => Err("answered something that is no health response".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::Redirect;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::spec::{Check, CheckAddress};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    async fn ask(port: u16, kind: CheckKind) -> Probe {
        let check = Check {
            kind,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(300),
            deregister_after: None,
            address: CheckAddress::Auto,
        };
        // Spawned, so that it is also seen to be `Send`.
        tokio::spawn(async move { probe(HERE, &ProbeTarget { port, check }).await }).await.expect("it does not panic")
    }

    fn reason(probe: Probe) -> String {
        match probe {
            Probe::Passing => panic!("it passes"),
            Probe::Failing(reason) => reason,
        }
    }

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((HERE, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        (listener, port)
    }

    async fn web() -> u16 {
        let (listener, port) = listener().await;
        let app = axum::Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/moved", get(|| async { Redirect::temporary("/") }))
            .route("/broken", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
            .route("/slow", get(std::future::pending::<()>));
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    #[tokio::test]
    async fn a_get_passes_with_2xx_and_names_what_it_got_otherwise() {
        let port = web().await;
        let http = |path: &str| CheckKind::Http { path: path.to_owned() };
        assert_eq!(ask(port, http("/")).await, Probe::Passing);
        assert_eq!(ask(port, http("/moved")).await, Probe::Passing);
        assert_eq!(
            reason(ask(port, http("/broken")).await),
            format!("GET http://127.0.0.1:{port}/broken answered 503")
        );
        assert_eq!(
            reason(ask(port, http("/slow")).await),
            format!("GET http://127.0.0.1:{port}/slow gave no answer within 300ms")
        );
    }

    #[tokio::test]
    async fn a_closed_port_fails_every_kind_with_the_reason() {
        let (listener, port) = listener().await;
        drop(listener);
        for kind in
            [CheckKind::Http { path: "/".to_owned() }, CheckKind::Tcp, CheckKind::Grpc { service: String::new() }]
        {
            let text = reason(ask(port, kind).await);
            assert!(text.contains("Connection refused"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_listening_port_passes_tcp() {
        let (_listener, port) = listener().await;
        assert_eq!(ask(port, CheckKind::Tcp).await, Probe::Passing);
    }

    /// Answers every call: `grpc-status` in the trailers after this message, or alone in the headers.
    async fn grpc_server(message: &'static [u8], status: &'static str) -> u16 {
        let (listener, port) = listener().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let status = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static(status),
                    )]);
                    let mut response = http::Response::new(());
                    if message.is_empty() {
                        *response.headers_mut() = status;
                        respond.send_response(response, true).expect("it is sent");
                        continue;
                    }
                    tokio::spawn(async move {
                        let asked = request.body_mut().data().await.expect("a message").expect("no error");
                        assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03web");
                        let mut body = respond.send_response(response, false).expect("it is sent");
                        body.send_data(Bytes::from_static(message), false).expect("it is sent");
                        body.send_trailers(status).expect("it is sent");
                    });
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn grpc_passes_only_when_serving() {
        let grpc = || CheckKind::Grpc { service: "web".to_owned() };
        let serving = grpc_server(b"\0\0\0\0\x02\x08\x01", "0").await;
        assert_eq!(ask(serving, grpc()).await, Probe::Passing);
        let not = grpc_server(b"\0\0\0\0\x02\x08\x02", "0").await;
        assert_eq!(
            reason(ask(not, grpc()).await),
            format!("gRPC health check of \"web\" at 127.0.0.1:{not} answered NOT_SERVING")
        );
        for (status, words) in [("5", "does not know"), ("12", "does not serve"), ("14", "status 14")] {
            let text = reason(ask(grpc_server(b"", status).await, grpc()).await);
            assert!(text.contains(words), "{text}");
        }
        let text = reason(ask(web().await, grpc()).await);
        assert!(text.starts_with("gRPC health check of"), "{text}");
    }

    #[test]
    fn an_ipv6_address_is_put_in_brackets() {
        assert_eq!(host_and_port("2001:db8::1", 80), "[2001:db8::1]:80");
        assert_eq!(host_and_port("web.example", 80), "web.example:80");
    }

    #[test]
    fn a_long_name_has_a_length_of_two_bytes() {
        let frame = health_request(&"x".repeat(200));
        assert_eq!(&frame[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }
}
