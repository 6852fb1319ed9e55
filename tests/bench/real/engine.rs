//! Docker's API over its socket, as fast as it goes: no command line is started.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::shop::WEB;
use crate::support::socket::DOCKER;

/// As many as reeve does at once.
const AT_ONCE: usize = 16;

/// The status and the body.
pub fn call(method: &str, path: &str, body: &Value) -> (u16, String) {
    let mut stream = UnixStream::connect(DOCKER).expect("Docker runs");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket option");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} /v1.41{path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("Docker takes a request");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("Docker answers");
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// A web server with a published port, like one of reeve's; its id. `label`: `key=value`.
pub fn create(name: &str, labels: &[(&str, &str)]) -> String {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let body = json!({"Image": WEB, "Labels": labels, "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": ""}]}}});
    create_like(&body, name)
}

/// What makes containers like this one: its configuration, as Docker tells it, with other labels.
pub fn like(id: &str, (key, value): (&str, &str)) -> Value {
    let seen = inspect(id);
    let mut body = seen["Config"].clone();
    body["Hostname"] = Value::Null;
    // As many, and nobody's mark.
    let labels = seen["Config"]["Labels"].as_object().cloned().unwrap_or_default();
    let labels = labels.into_iter().map(|(name, value)| (format!("bench.{name}"), value));
    body["Labels"] = labels.chain([(key.to_owned(), value.into())]).collect::<serde_json::Map<_, _>>().into();
    body["HostConfig"] = seen["HostConfig"].clone();
    let networks = seen["NetworkSettings"]["Networks"].as_object().cloned().unwrap_or_default();
    let networks = networks.into_iter().map(|(name, _)| (name, json!({"Aliases": ["web"]})));
    body["NetworkingConfig"] = json!({"EndpointsConfig": networks.collect::<serde_json::Map<_, _>>()});
    body
}

/// Its id.
pub fn create_like(body: &Value, name: &str) -> String {
    let (status, answer) = call("POST", &format!("/containers/create?name={name}"), body);
    assert_eq!(status, 201, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["Id"].as_str().expect("an id").to_owned()
}

pub fn start(id: &str) {
    let (status, answer) = call("POST", &format!("/containers/{id}/start"), &Value::Null);
    assert!(matches!(status, 204 | 304), "{status} {answer}");
}

pub fn kill(id: &str) {
    let (status, answer) = call("POST", &format!("/containers/{id}/kill"), &Value::Null);
    assert!(matches!(status, 204 | 409), "{status} {answer}");
}

pub fn remove(id: &str) {
    let (status, answer) = call("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null);
    assert!(matches!(status, 204 | 404), "{status} {answer}");
}

pub fn stop(id: &str) {
    let (status, answer) = call("POST", &format!("/containers/{id}/stop?t=2"), &Value::Null);
    assert!(matches!(status, 204 | 304), "{status} {answer}");
}

pub fn inspect(id: &str) -> Value {
    let (status, answer) = call("GET", &format!("/containers/{id}/json"), &Value::Null);
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).expect("JSON")
}

/// When the engine told that this had happened to it, by the event's own time stamp.
pub fn told_at(id: &str, action: &str) -> Option<SystemTime> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let filters = format!("%7B%22container%22%3A%5B%22{id}%22%5D%2C%22event%22%3A%5B%22{action}%22%5D%7D");
    let path = format!("/events?since={}&until={:.6}&filters={filters}", now.as_secs() - 60, now.as_secs_f64());
    let (_, answer) = call("GET", &path, &Value::Null);
    let event: Value = serde_json::from_str(answer.lines().next_back()?).ok()?;
    Some(UNIX_EPOCH + Duration::from_nanos(event["timeNano"].as_u64()?))
}

/// Does it for each of them, so many at once.
pub fn each<T: Send + Clone, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.iter().cloned().rev().collect::<Vec<T>>());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let item = queue.lock().expect("no panic inside").pop();
                    let Some(item) = item else { break };
                    let result = work(&item);
                    done.lock().expect("no panic inside").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no panic inside")
}
