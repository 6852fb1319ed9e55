//! What a template sees: upstreams turned into `upstream` blocks, servers and locations, all values checked.
//!
//! Owns the meaning (which upstreams share a server, which headers are sent, what an empty upstream answers) and finds
//! the upstreams at fault, so that one bad upstream never costs the others their update. It must not write nginx's
//! language: that is the template's, with the filters of `quote`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use minijinja::value::Value;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::endpoints;
use super::quote::{self, Refused};
use crate::observed::{Balancer, Endpoint, HttpBlock, RoutedUpstream};
use crate::spec::Owner;
use crate::spec::container::hex;
use crate::spec::table::DIRECTIVES;
use crate::spec::upstream::{AccessLog, Balance, Listen, Tls, Upstream, WhenEmpty};

/// The name of the default server of an address.
const DEFAULT_NAME: &str = "_";

/// Headers of the original practice: every proxied request carries them, unless the upstream sets its own.
const DEFAULT_HEADERS: [(&str, &str); 4] = [
    ("HOST", "$host"),
    ("X-Real-IP", "$remote_addr"),
    ("Client-IP", "$remote_addr"),
    ("X-Forwarded-For", "$proxy_add_x_forwarded_for"),
];

/// All files but the first one, `reeve.conf`.
#[derive(Debug, Default)]
pub struct Scene {
    pub upstreams: Vec<UpstreamScene>,
    pub servers: Vec<ServerScene>,
}

/// One `upstream` block, with the map that it needs.
#[derive(Debug, Serialize)]
pub struct UpstreamScene {
    /// As the spec names it.
    pub title: String,
    /// As nginx names it: unique among all projects of one nginx.
    pub name: String,
    /// `["least_conn"]`, `["hash", "$key", "consistent"]`; empty: round robin.
    pub balance: Vec<String>,
    /// `address:port`, and ` weight=N` behind it where it is not 1: the words of a `server` line.
    pub endpoints: Vec<Value>,
    pub keepalive: Option<u32>,
    pub websocket: Option<Websocket>,
    /// The method by which Lua balances it, in place of `balance` and `endpoints`.
    pub lua: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Websocket {
    /// Variable with the value of the `Connection` header: `upgrade` when the client asks for it.
    pub variable: String,
    /// Its value for every other request.
    pub otherwise: &'static str,
}

/// One `server` block: a set of names on one address.
#[derive(Debug, Serialize)]
pub struct ServerScene {
    #[serde(skip)]
    pub file: String,
    pub listen: String,
    /// Words behind the address: `default_server`, `ssl`, `http2`.
    pub options: Vec<&'static str>,
    pub names: Vec<String>,
    pub tls: Option<TlsScene>,
    pub locations: Vec<LocationScene>,
    /// Lua balances one of its locations.
    pub lua: bool,
    /// Upstreams that this server belongs to: an error in it is theirs.
    #[serde(skip)]
    pub members: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsScene {
    pub certificate: String,
    pub key: String,
}

/// One `location` block. `answer` is set: it answers by itself; else it passes requests to `upstream`.
#[derive(Debug, Serialize)]
pub struct LocationScene {
    pub path: String,
    pub answer: Option<Answer>,
    /// `proxy` or `grpc`: the beginning of the directives' names.
    pub module: &'static str,
    /// `http` or `grpc`.
    pub scheme: &'static str,
    pub upstream: String,
    pub http11: bool,
    /// Pairs of name and value. Most locations have the same: one list, shared.
    pub headers: Value,
    /// `[directive's name behind the module, milliseconds]`.
    pub timeouts: Vec<(&'static str, u64)>,
    pub max_body_size: Option<u64>,
    /// `off`, or a file.
    pub access_log: Option<String>,
    pub directives: Vec<(String, String)>,
    pub lua: Option<LuaLocation>,
}

/// What a location does whose upstream Lua balances.
#[derive(Debug, Serialize)]
pub struct LuaLocation {
    /// As the spec names the upstream.
    pub title: String,
    /// The status that it answers without endpoints.
    pub when_empty: u16,
    /// What is hashed to find the endpoint.
    pub key: Option<String>,
    /// Whether there are endpoints is asked before anything else, which costs each request a phase in Lua. Else the balancer
    /// finds out, and the location's `error_page` tells its 502 from others.
    pub asked_first: bool,
}

#[derive(Debug, Serialize)]
pub struct Answer {
    pub code: u16,
    /// Where a redirect points to.
    pub to: Option<String>,
}

/// The scene of all upstreams that can be rendered, and why the others cannot, by name.
///
/// When two upstreams exclude each other, the one whose name sorts later is at fault, so that the outcome never depends
/// on anything but the set.
pub fn build(
    owner: &Owner,
    routed: &BTreeMap<String, RoutedUpstream>,
    probe: SocketAddr,
    balancer: Balancer,
    http: HttpBlock,
) -> (Scene, BTreeMap<String, String>) {
    let mut faults = BTreeMap::new();
    let mut lower = BTreeMap::new();
    let mut good = BTreeMap::new();
    for (name, one) in routed {
        let checked = check(name, one, probe).and_then(|()| match lower.insert(name.to_ascii_lowercase(), name) {
            Some(other) => Err(format!("its name differs from {other} only in case, which nginx does not see")),
            None => Ok(()),
        });
        match checked {
            Ok(()) => {
                good.insert(name.as_str(), one);
            }
            Err(reason) => {
                faults.insert(name.clone(), reason);
            }
        }
    }
    exclude_conflicts(&mut good, &mut faults);

    let passing = good.iter().filter(|(_, one)| passes(one) || lua(one, balancer));
    let upstreams = passing.map(|(name, one)| upstream(owner, name, one, balancer)).collect();
    let servers = servers(owner, &good, balancer, http);
    (Scene { upstreams, servers }, faults)
}

/// It has somebody to pass requests to.
fn passes(one: &RoutedUpstream) -> bool {
    one.upstream.redirect.is_none() && !one.endpoints.is_empty()
}

/// Lua balances it, whether it has endpoints or not.
fn lua(one: &RoutedUpstream, balancer: Balancer) -> bool {
    balancer == Balancer::Lua && endpoints::by_lua(one)
}

/// The balancer may find out that it is empty, if the `http` block lets it: with an `error_page` a location has none of the
/// user's, and his directives would have to be in two locations.
pub fn balancer_may_find_out(one: &RoutedUpstream) -> bool {
    endpoints::by_lua(one) && one.upstream.directives.is_empty()
}

/// What is wrong with one upstream, whatever the others are.
fn check(name: &str, one: &RoutedUpstream, probe: SocketAddr) -> Result<(), String> {
    let upstream = &one.upstream;
    let at = |what: &str| {
        let what = what.to_owned();
        move |refused: Refused| format!("{what} {refused}")
    };
    quote::check_name(name).map_err(at("its name"))?;
    let same_address = upstream.listen.address.is_none_or(|address| address.is_unspecified() || address == probe.ip());
    if upstream.listen.port == probe.port() && same_address {
        return Err(format!("listen {} is the address of the probe ({probe}): choose another one", upstream.listen));
    }
    for server_name in &upstream.server_name {
        if server_name.is_empty() || server_name.chars().any(char::is_whitespace) {
            return Err("server_name is empty or holds a blank".to_owned());
        }
        quote::quote(server_name).map_err(at("server_name"))?;
    }
    if !upstream.path.starts_with('/') {
        return Err("path must begin with /".to_owned());
    }
    quote::quote(&upstream.path).map_err(at("path"))?;
    for endpoint in &one.endpoints {
        quote::check_address(&endpoint.address).map_err(at("the address of an endpoint"))?;
        if endpoint.address.contains(':') && endpoint.address.parse::<IpAddr>().is_err() {
            return Err(format!("the address of an endpoint ({}) is neither an IP nor a host name", endpoint.address));
        }
        if endpoint.port == 0 {
            return Err(format!("the endpoint {} has no port", endpoint.address));
        }
    }
    if let Balance::Hash(key) = &upstream.balance {
        if key.is_empty() {
            return Err("the hash key of balance is empty".to_owned());
        }
        quote::quote(key).map_err(at("the hash key of balance"))?;
    }
    match upstream.when_empty {
        WhenEmpty::Status(400..=599) | WhenEmpty::Keep => {}
        WhenEmpty::Status(code) => return Err(format!("when_empty {code} is no error status (400 to 599)")),
    }
    let mut seen = BTreeSet::new();
    for (header, value) in &upstream.headers {
        quote::check_name(header).map_err(at("the name of a header"))?;
        quote::quote(value).map_err(at(&format!("the value of the header {header}")))?;
        if !seen.insert(header.to_ascii_lowercase()) {
            return Err(format!("the header {header} is set twice, in different case"));
        }
    }
    if let Some(AccessLog::File(path)) = &upstream.access_log {
        let text = utf8(path).ok_or("access_log is not UTF-8")?;
        if text.is_empty() {
            return Err("access_log is empty".to_owned());
        }
        quote::quote(text).map_err(at("access_log"))?;
    }
    if let Some(tls) = &upstream.tls {
        for (what, path) in [("tls.certificate", &tls.certificate), ("tls.key", &tls.key)] {
            let text = utf8(path).ok_or_else(|| format!("{what} is not UTF-8"))?;
            if !text.starts_with('/') || text.contains('$') {
                return Err(format!("{what} must be an absolute path without $"));
            }
            quote::quote(text).map_err(at(what))?;
        }
    }
    if let Some(redirect) = &upstream.redirect {
        if !matches!(redirect.code, 301 | 302 | 303 | 307 | 308) {
            return Err(format!("redirect.code {} is none of 301, 302, 303, 307, 308", redirect.code));
        }
        if redirect.to.is_empty() {
            return Err("redirect.to is empty".to_owned());
        }
        quote::quote(&redirect.to).map_err(at("redirect.to"))?;
    }
    if upstream.grpc && upstream.websocket {
        return Err("grpc and websocket exclude each other".to_owned());
    }
    for (directive, value) in &upstream.directives {
        if !DIRECTIVES.contains(&directive.as_str()) {
            return Err("a name in directives is not in the list of allowed ones".to_owned());
        }
        quote::words(value).map_err(at(&format!("the value of the directive {directive}")))?;
    }
    Ok(())
}

/// Takes out the upstreams that cannot stand beside an earlier one.
fn exclude_conflicts(good: &mut BTreeMap<&str, &RoutedUpstream>, faults: &mut BTreeMap<String, String>) {
    let mut paths: BTreeMap<(Listen, String, &str), &str> = BTreeMap::new();
    let mut certificates: BTreeMap<(Listen, String), (&Tls, &str)> = BTreeMap::new();
    // How the first upstream of an address speaks: all others on it must speak the same.
    let mut speech: BTreeMap<Listen, (bool, bool, &str)> = BTreeMap::new();
    let mut rejected = Vec::new();
    for (name, one) in good.iter() {
        let upstream = &one.upstream;
        let listen = normal(upstream.listen);
        let names = names(upstream);
        let fault = match speech.get(&listen) {
            Some((tls, _, other)) if *tls != upstream.tls.is_some() => Some(format!(
                "listen {listen}: {other} {} TLS there, and one address speaks either with or without it",
                if *tls { "uses" } else { "does not use" }
            )),
            Some((false, grpc, other)) if *grpc != upstream.grpc => Some(format!(
                "listen {listen} without TLS is either for gRPC (HTTP/2 only) or for HTTP/1.1, and {other} {}",
                if *grpc { "is gRPC" } else { "is not gRPC" }
            )),
            _ => None,
        };
        let fault = fault.or_else(|| {
            names.iter().find_map(|server_name| {
                let place = server_name.as_str();
                if let Some(other) = paths.get(&(listen, server_name.clone(), upstream.path.as_str())) {
                    return Some(format!("{other} has the same listen {listen}, server_name {place} and path"));
                }
                match (&upstream.tls, certificates.get(&(listen, server_name.clone()))) {
                    (Some(tls), Some((known, other))) if tls != *known => Some(format!(
                        "{other} has another certificate for the same listen {listen} and server_name {place}"
                    )),
                    _ => None,
                }
            })
        });
        if let Some(reason) = fault {
            rejected.push(*name);
            faults.insert((*name).to_owned(), reason);
            continue;
        }
        speech.entry(listen).or_insert((upstream.tls.is_some(), upstream.grpc, name));
        for server_name in names {
            if let Some(tls) = &upstream.tls {
                certificates.insert((listen, server_name.clone()), (tls, name));
            }
            paths.insert((listen, server_name, &upstream.path), name);
        }
    }
    for name in rejected {
        good.remove(name);
    }
}

/// `0.0.0.0:80` and `80` are one address to nginx.
fn normal(listen: Listen) -> Listen {
    let address = listen.address.filter(|address| *address != IpAddr::from([0, 0, 0, 0]));
    Listen { address, port: listen.port }
}

/// Its server names: sorted, without doubles, the case that nginx does not see taken out.
fn names(upstream: &Upstream) -> BTreeSet<String> {
    if upstream.server_name.is_empty() {
        return BTreeSet::from([DEFAULT_NAME.to_owned()]);
    }
    let fold = |name: &String| if name.starts_with('~') { name.clone() } else { name.to_ascii_lowercase() };
    upstream.server_name.iter().map(fold).collect()
}

/// nginx's name of an upstream. A project's name holds no dot, so no two projects get the same.
fn nginx_name(owner: &Owner, name: &str) -> String {
    format!("{}.{name}", owner.project)
}

fn websocket(owner: &Owner, name: &str, upstream: &Upstream) -> Option<Websocket> {
    if !upstream.websocket {
        return None;
    }
    let digest = hex(&Sha256::digest(format!("{owner}/{name}")));
    let variable = format!("$reeve_{}_connection", &digest[..12]);
    Some(Websocket { variable, otherwise: if upstream.keepalive.is_some() { "" } else { "close" } })
}

fn upstream(owner: &Owner, name: &str, one: &RoutedUpstream, balancer: Balancer) -> UpstreamScene {
    let balance = match &one.upstream.balance {
        Balance::RoundRobin => vec![],
        Balance::LeastConn => vec!["least_conn".to_owned()],
        Balance::IpHash => vec!["ip_hash".to_owned()],
        Balance::Random => vec!["random".to_owned()],
        Balance::RandomTwo => vec!["random".to_owned(), "two".to_owned()],
        Balance::Hash(key) => vec!["hash".to_owned(), key.clone(), "consistent".to_owned()],
    };
    UpstreamScene {
        title: name.to_owned(),
        name: nginx_name(owner, name),
        balance,
        endpoints: one.endpoints.iter().map(server_words).collect(),
        keepalive: one.upstream.keepalive.filter(|connections| *connections > 0),
        websocket: websocket(owner, name, &one.upstream),
        lua: lua(one, balancer).then_some(match &one.upstream.balance {
            Balance::RoundRobin => "round_robin",
            Balance::LeastConn => "least_conn",
            Balance::IpHash => "ip_hash",
            Balance::Random => "random",
            Balance::RandomTwo => "random_two",
            Balance::Hash(_) => "hash",
        }),
    }
}

fn server_words(endpoint: &Endpoint) -> Value {
    match endpoint.weight {
        // nginx refuses a weight of 0.
        0 | 1 => Value::from(endpoint.to_string()),
        // The address was checked, so the words are harmless as they are.
        weight => Value::from_safe_string(format!("{endpoint} weight={weight}")),
    }
}

fn servers(
    owner: &Owner,
    good: &BTreeMap<&str, &RoutedUpstream>,
    balancer: Balancer,
    http: HttpBlock,
) -> Vec<ServerScene> {
    // Per name, so that upstreams whose lists of names overlap only in part still meet in one server. Names with the
    // same upstreams are then one server again.
    let mut by_name: BTreeMap<(Listen, String), Vec<&str>> = BTreeMap::new();
    let mut options: BTreeMap<Listen, (bool, bool)> = BTreeMap::new();
    for (name, one) in good {
        let listen = normal(one.upstream.listen);
        let option = options.entry(listen).or_default();
        option.0 |= one.upstream.tls.is_some();
        option.1 |= one.upstream.grpc;
        for server_name in names(&one.upstream) {
            by_name.entry((listen, server_name)).or_default().push(name);
        }
    }
    let mut groups: BTreeMap<(Listen, bool, Vec<&str>), Vec<String>> = BTreeMap::new();
    for ((listen, server_name), members) in by_name {
        groups.entry((listen, server_name == DEFAULT_NAME, members)).or_default().push(server_name);
    }
    let default_headers = pairs(&DEFAULT_HEADERS);
    let mut servers: Vec<(Listen, ServerScene)> = groups
        .into_iter()
        .map(|((listen, default, members), names)| {
            let (ssl, http2) = options.get(&listen).copied().unwrap_or_default();
            let flags = [(default, "default_server"), (ssl, "ssl"), (http2, "http2")];
            let tls = members.iter().find_map(|name| good.get(name).and_then(|one| one.upstream.tls.as_ref()));
            let members_of = members.iter().filter_map(|name| Some((*name, *good.get(name)?)));
            let mut locations: Vec<LocationScene> =
                members_of.map(|(name, one)| location(owner, name, one, &default_headers, balancer, http)).collect();
            locations.sort_by(|a, b| a.path.cmp(&b.path));
            if locations.iter().all(|location| location.path != "/") {
                // Without it nginx would serve files of its own for every other path.
                locations.insert(0, LocationScene::answering("/".to_owned(), Answer { code: 404, to: None }));
            }
            let scene = ServerScene {
                file: server_file(listen, names.first().map_or(DEFAULT_NAME, String::as_str)),
                listen: listen.to_string(),
                options: flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect(),
                names,
                tls: tls.map(|tls| TlsScene {
                    certificate: tls.certificate.to_string_lossy().into_owned(),
                    key: tls.key.to_string_lossy().into_owned(),
                }),
                lua: locations.iter().any(|location| location.lua.is_some()),
                locations,
                members: members.into_iter().map(str::to_owned).collect(),
            };
            (listen, scene)
        })
        .collect();
    servers.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.names.cmp(&other.names)));
    servers.into_iter().map(|(_, scene)| scene).collect()
}

/// A file's name that a reader recognises; where the plain words do not tell it apart, a digest does.
fn server_file(listen: Listen, name: &str) -> String {
    let full = format!("{listen}-{name}");
    let plain: String = full
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() || "._-".contains(character) { character } else { '_' })
        .take(100)
        .collect();
    if plain == full {
        return format!("server-{plain}.conf");
    }
    let digest = hex(&Sha256::digest(full.as_bytes()));
    format!("server-{plain}-{}.conf", &digest[..8])
}

impl LocationScene {
    fn answering(path: String, answer: Answer) -> Self {
        Self {
            path,
            answer: Some(answer),
            module: "proxy",
            scheme: "http",
            upstream: String::new(),
            http11: false,
            headers: Value::from(Vec::<Value>::new()),
            timeouts: Vec::new(),
            max_body_size: None,
            access_log: None,
            directives: Vec::new(),
            lua: None,
        }
    }
}

fn location(
    owner: &Owner,
    name: &str,
    one: &RoutedUpstream,
    default_headers: &Value,
    balancer: Balancer,
    http: HttpBlock,
) -> LocationScene {
    let upstream = &one.upstream;
    let access_log = upstream.access_log.as_ref().map(|log| match log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::File(path) => path.to_string_lossy().into_owned(),
    });
    let directives = upstream.directives.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    // `keep`, and there never was one.
    let when_empty = match upstream.when_empty {
        WhenEmpty::Status(code) => code,
        WhenEmpty::Keep => 503,
    };
    let by_lua = lua(one, balancer).then(|| LuaLocation {
        title: name.to_owned(),
        when_empty,
        key: match &upstream.balance {
            Balance::Hash(key) => Some(key.clone()),
            Balance::RoundRobin | Balance::LeastConn | Balance::IpHash | Balance::Random | Balance::RandomTwo => None,
        },
        asked_first: http.meddles || !balancer_may_find_out(one),
    });
    let answer = match (&upstream.redirect, one.endpoints.is_empty() && by_lua.is_none()) {
        (Some(redirect), _) => {
            let to = if redirect.to == "https" { "https://$host$request_uri" } else { &redirect.to };
            Some(Answer { code: redirect.code, to: Some(to.to_owned()) })
        }
        (None, true) => Some(Answer { code: when_empty, to: None }),
        (None, false) => None,
    };
    if let Some(answer) = answer {
        return LocationScene {
            access_log,
            directives,
            max_body_size: upstream.max_body_size,
            ..LocationScene::answering(upstream.path.clone(), answer)
        };
    }
    let websocket = websocket(owner, name, upstream);
    let timeouts = [
        ("connect_timeout", upstream.timeouts.connect),
        ("read_timeout", upstream.timeouts.read),
        ("send_timeout", upstream.timeouts.send),
    ];
    LocationScene {
        path: upstream.path.clone(),
        answer: None,
        module: if upstream.grpc { "grpc" } else { "proxy" },
        scheme: if upstream.grpc { "grpc" } else { "http" },
        upstream: nginx_name(owner, name),
        http11: !upstream.grpc
            && (upstream.keepalive.is_some_and(|connections| connections > 0) || websocket.is_some()),
        headers: headers(upstream, websocket.as_ref(), default_headers),
        timeouts: timeouts.into_iter().filter_map(|(name, time)| time.map(|time| (name, milliseconds(time)))).collect(),
        max_body_size: upstream.max_body_size,
        access_log,
        directives,
        lua: by_lua,
    }
}

/// The default headers, what websocket and keepalive need, and the upstream's own, which win.
fn headers(upstream: &Upstream, websocket: Option<&Websocket>, default_headers: &Value) -> Value {
    let keepalive = upstream.keepalive.is_some_and(|connections| connections > 0) && !upstream.grpc;
    if upstream.headers.is_empty() && websocket.is_none() && !keepalive {
        return default_headers.clone();
    }
    let own: BTreeSet<String> = upstream.headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    let mut headers: Vec<(&str, &str)> = DEFAULT_HEADERS.to_vec();
    match websocket {
        Some(websocket) => headers.extend([("Upgrade", "$http_upgrade"), ("Connection", websocket.variable.as_str())]),
        None if keepalive => headers.push(("Connection", "")),
        None => {}
    }
    headers.retain(|(name, _)| !own.contains(&name.to_ascii_lowercase()));
    headers.extend(upstream.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    pairs(&headers)
}

fn pairs(headers: &[(&str, &str)]) -> Value {
    let pair = |(name, value): &(&str, &str)| Value::from(vec![Value::from(*name), Value::from(*value)]);
    Value::from(headers.iter().map(pair).collect::<Vec<_>>())
}

fn milliseconds(time: Duration) -> u64 {
    // Rounded up: nginx reads 0 as "at once".
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(2_000_000_000)
}

fn utf8(path: &Path) -> Option<&str> {
    path.to_str()
}
