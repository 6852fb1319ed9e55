//! `upstreams`: what nginx listens on and routes to. Nothing that this lets through can break out of its place in nginx's
//! language; the renderer quotes it all the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::names;
use super::super::suggest::did_you_mean;
use super::super::table::DIRECTIVES;
use super::super::tree::{Entry, Node, shown};
use super::super::upstream::{AccessLog, Balance, CatalogQuery, Listen, Redirect, Timeouts, Tls, Upstream, WhenEmpty};
use super::{Context, DraftedUpstream, ReadError, boolean, duration, integer, size, text};

const DRAIN: Duration = Duration::from_secs(10);

/// Directives that have a key of their own, or that the configuration itself sets.
const INSTEAD: &[(&str, &str)] = &[
    ("proxy_set_header", "use `headers`"),
    ("grpc_set_header", "use `headers`"),
    ("proxy_connect_timeout", "use `timeouts: { connect: … }`"),
    ("proxy_read_timeout", "use `timeouts: { read: … }`"),
    ("proxy_send_timeout", "use `timeouts: { send: … }`"),
    ("client_max_body_size", "use `max_body_size`"),
    ("keepalive", "use `keepalive`"),
    ("access_log", "use `access_log`"),
    ("ssl_certificate", "use `tls`"),
    ("ssl_certificate_key", "use `tls`"),
    ("return", "use `redirect`"),
    ("rewrite", "use `redirect`, or a server of nginx's main configuration"),
    ("proxy_pass", "use `service`"),
    ("proxy_http_version", "reeve sets it: it is 1.1"),
    ("listen", "use `listen`"),
    ("server_name", "use `server_name`"),
];

/// Reads one upstream; `None` when what is essential is missing.
pub fn read(entry: &Entry, context: &mut Context<'_>) -> Option<DraftedUpstream> {
    let node = &entry.value;
    if let Err(reason) = names::key(&entry.key) {
        let message = format!("`{}` is not an upstream's name: {reason}", shown(&entry.key));
        context.report.error(&entry.key_place, message);
    }
    if node.entries().is_empty() {
        if node.is_null() {
            let message = format!("the upstream `{}` says nothing", shown(&entry.key));
            context.report.error_help(&entry.key_place, message, "it needs `service` and `listen`");
        }
        return None;
    }
    let redirect = redirect(node, context);
    let query = query(entry, context);
    let listen = listen(entry, context);
    let server_name = server_name(node, context);
    let path = path(node, context);
    let balance = balance(node, context);
    let tls = tls(node, context);
    if boolean(node, "websocket") == Some(true)
        && boolean(node, "grpc") == Some(true)
        && let Some(grpc) = node.get("grpc")
    {
        let help = "make two upstreams with different paths";
        context.report.error_help(&grpc.key_place, "an upstream cannot be both `websocket` and `grpc`", help);
    }
    let upstream = Upstream {
        name: entry.key.clone(),
        query,
        listen: listen?,
        server_name,
        path,
        balance,
        drain: duration(node, "drain").unwrap_or(DRAIN),
        when_empty: when_empty(node, context),
        headers: headers(node, context),
        access_log: access_log(node, context),
        tls,
        max_body_size: size(node, "max_body_size"),
        redirect,
        timeouts: timeouts(node, context),
        keepalive: integer(node, "keepalive").and_then(|number| u32::try_from(number).ok()),
        websocket: boolean(node, "websocket").unwrap_or(false),
        grpc: boolean(node, "grpc").unwrap_or(false),
        directives: directives(node, context),
    };
    let place_of = |key: &str| node.get(key).map(|entry| entry.value.place.clone());
    Some(DraftedUpstream {
        upstream,
        place: entry.key_place.clone(),
        listen: place_of("listen").unwrap_or_else(|| entry.key_place.clone()),
        service: place_of("service"),
        tls: node.get("tls").map(|entry| entry.key_place.clone()),
        server_name: place_of("server_name").unwrap_or_else(|| entry.key_place.clone()),
    })
}

fn query(entry: &Entry, context: &mut Context<'_>) -> Option<CatalogQuery> {
    let node = &entry.value;
    match (node.get("service"), node.get("redirect")) {
        (None, None) => {
            let message = format!("the upstream `{}` has no `service`", shown(&entry.key));
            context.report.error_help(&entry.key_place, message, "say which Consul service it routes to");
            return None;
        }
        (None, Some(_)) => {
            for key in ["tag", "datacenter", "filter"] {
                if let Some(other) = node.get(key) {
                    context.report.error(&other.key_place, format!("`{key}` means nothing without `service`"));
                }
            }
            return None;
        }
        (Some(_), Some(redirect)) => {
            let help = "it answers by itself; take `service` or `redirect` out";
            context.report.error_help(&redirect.key_place, "an upstream with a `redirect` routes to no service", help);
        }
        (Some(_), None) => {}
    }
    for key in ["service", "tag", "datacenter"] {
        if let Some(entry) = node.get(key)
            && let Some(text) = entry.value.text()
            && let Err(reason) = if key == "tag" { names::nginx_word(text) } else { names::consul(text) }
        {
            let message = format!("`{}` is not a `{key}` of Consul: {reason}", entry.value.shown());
            context.report.error(&entry.value.place, message);
        }
    }
    if let Some(entry) = node.get("filter")
        && let Some(text) = entry.value.text()
        && (text.trim().is_empty() || text.len() > 2048 || text.chars().any(char::is_control))
    {
        let message = "a filter is one line, not empty, and at most 2048 bytes";
        context.report.error(&entry.value.place, message);
    }
    let owned = |key: &str| text(node, key).map(str::to_owned);
    Some(CatalogQuery {
        service: owned("service")?,
        tag: owned("tag"),
        datacenter: owned("datacenter"),
        filter: owned("filter"),
    })
}

fn listen(entry: &Entry, context: &mut Context<'_>) -> Option<Listen> {
    let Some(listen) = entry.value.get("listen") else {
        let message = format!("the upstream `{}` has no `listen`", shown(&entry.key));
        context.report.error_help(&entry.key_place, message, "say on which port nginx listens for it: `listen: 8080`");
        return None;
    };
    let text = listen.value.text()?;
    let parsed = parse_listen(text);
    if parsed.is_none() {
        let message = format!("`{}` is not an address to listen on", listen.value.shown());
        context.report.error_help(
            &listen.value.place,
            message,
            "write a port, `address:port` or `[IPv6 address]:port`",
        );
    }
    parsed
}

/// `1216`, `*:1216`, `192.0.2.1:1216`, `[::1]:1216`.
pub fn parse_listen(text: &str) -> Option<Listen> {
    let (address, port) = match text.rsplit_once(':') {
        None => (None, text),
        Some(("*", port)) => (None, port),
        Some((address, port)) => {
            let address = match address.strip_prefix('[') {
                Some(inner) => IpAddr::V6(inner.strip_suffix(']')?.parse().ok()?),
                None => IpAddr::V4(address.parse().ok()?),
            };
            (Some(address), port)
        }
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| *port > 0 && digits)?;
    Some(Listen { address, port })
}

fn server_name(node: &Node, context: &mut Context<'_>) -> Vec<String> {
    let mut server_names: Vec<String> = Vec::new();
    let Some(list) = node.value("server_name") else { return server_names };
    for item in list.items() {
        let Some(text) = item.text() else { continue };
        if let Err(reason) = names::server_name(text) {
            let message = format!("`{}` is not a server's name: {reason}", item.shown());
            context.report.error(&item.place, message);
            continue;
        }
        let lower = text.to_ascii_lowercase();
        match server_names.contains(&lower) {
            true => context.report.error(&item.place, format!("the server's name `{}` is given twice", item.shown())),
            false => server_names.push(lower),
        }
    }
    server_names.sort();
    server_names
}

fn path(node: &Node, context: &mut Context<'_>) -> String {
    let Some(entry) = node.get("path") else { return "/".to_owned() };
    let Some(text) = entry.value.text() else { return "/".to_owned() };
    let problem = match text.starts_with('/') {
        true => names::nginx_word(text).err(),
        false => Some("it must begin with `/`".to_owned()),
    };
    if let Some(problem) = problem {
        context.report.error(&entry.value.place, format!("`{}` is not a path: {problem}", entry.value.shown()));
    }
    text.to_owned()
}

fn balance(node: &Node, context: &mut Context<'_>) -> Balance {
    let Some(entry) = node.get("balance") else { return Balance::RoundRobin };
    match entry.value.text() {
        Some("least_conn") => Balance::LeastConn,
        Some("ip_hash") => Balance::IpHash,
        Some("random") => Balance::Random,
        Some("random_two") => Balance::RandomTwo,
        Some(_) => Balance::RoundRobin,
        None => {
            let Some(hash) = entry.value.get("hash") else {
                let help = "for example `balance: { hash: $request_uri }`";
                context.report.error_help(&entry.key_place, "a balance given as a mapping needs `hash`", help);
                return Balance::RoundRobin;
            };
            let text = hash.value.text().unwrap_or_default();
            let problem = names::nginx_text(text).err().or_else(|| {
                let blank = text.is_empty() || text.contains([' ', '#']);
                blank.then(|| "it must be one word, such as `$request_uri`".to_owned())
            });
            if let Some(problem) = problem {
                let message = format!("`{}` cannot be hashed: {problem}", hash.value.shown());
                context.report.error(&hash.value.place, message);
            }
            Balance::Hash(text.to_owned())
        }
    }
}

fn when_empty(node: &Node, context: &mut Context<'_>) -> WhenEmpty {
    let Some(entry) = node.get("when_empty") else { return WhenEmpty::default() };
    let Some(text) = entry.value.text() else { return WhenEmpty::default() };
    if text == "keep" {
        return WhenEmpty::Keep;
    }
    match text.parse::<u16>().ok().filter(|status| (400..=599).contains(status) && *status != 499) {
        Some(status) => WhenEmpty::Status(status),
        None => {
            let message = format!("`{}` is not an answer without endpoints", entry.value.shown());
            context.report.error_help(&entry.value.place, message, "it must be a status from 400 to 599, or `keep`");
            WhenEmpty::default()
        }
    }
}

fn headers(node: &Node, context: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let Some(section) = node.value("headers") else { return headers };
    for entry in section.entries() {
        if let Err(reason) = names::header(&entry.key) {
            let message = format!("`{}` is not a header's name: {reason}", shown(&entry.key));
            context.report.error(&entry.key_place, message);
        }
        if let Some(known) = headers.keys().find(|known| known.eq_ignore_ascii_case(&entry.key)) {
            let message = format!("the header `{}` is the same as `{known}`", shown(&entry.key));
            context.report.error_help(
                &entry.key_place,
                message,
                "HTTP does not tell capitals apart in a header's name",
            );
        }
        let value = entry.value.text().unwrap_or_default();
        if let Err(reason) = names::nginx_text(value) {
            let message = format!("this cannot be the value of the header `{}`: {reason}", shown(&entry.key));
            context.report.error(&entry.value.place, message);
        }
        headers.insert(entry.key.clone(), value.to_owned());
    }
    headers
}

fn access_log(node: &Node, context: &mut Context<'_>) -> Option<AccessLog> {
    let entry = node.get("access_log")?;
    let text = entry.value.text()?;
    if text == "off" {
        return Some(AccessLog::Off);
    }
    let problem = match text.starts_with('/') {
        true => names::nginx_word(text).err(),
        false => Some("it must be `off`, or a path that begins with `/`".to_owned()),
    };
    if let Some(problem) = problem {
        let message = format!("`{}` is not an access log: {problem}", entry.value.shown());
        context.report.error(&entry.value.place, message);
    }
    Some(AccessLog::File(text.into()))
}

fn tls(node: &Node, context: &mut Context<'_>) -> Option<Tls> {
    let entry = node.get("tls")?;
    let mut paths = Vec::new();
    for key in ["certificate", "key"] {
        let Some(file) = entry.value.get(key) else {
            context.report.error(&entry.key_place, format!("`tls` needs `{key}`"));
            continue;
        };
        let text = file.value.text()?;
        let path = context.path(text);
        let shown = path.to_string_lossy();
        // With a variable in it nginx would look for another file with each request.
        let variable = shown.contains('$').then(|| "`$` is not allowed in it".to_owned());
        if let Some(reason) = names::nginx_text(&shown).err().or(variable) {
            let message = format!("`{}` cannot be given to nginx: {reason}", file.value.shown());
            context.report.error(&file.value.place, message);
        }
        if let Err(ReadError::Missing) = context.read(&path) {
            let message = format!("the file `{}` does not exist", file.value.shown());
            let help = "until it does, nginx refuses this upstream, and reeve keeps its last good configuration";
            context.report.warning(&file.value.place, message, help);
        }
        paths.push(path);
    }
    let [certificate, key] = <[_; 2]>::try_from(paths).ok()?;
    Some(Tls { certificate, key })
}

fn redirect(node: &Node, context: &mut Context<'_>) -> Option<Redirect> {
    let entry = node.get("redirect")?;
    let (to, code) = match entry.value.text() {
        Some(_) => (&entry.value, 308),
        None => {
            let Some(to) = entry.value.get("to") else {
                context.report.error(&entry.key_place, "a redirect needs `to`");
                return None;
            };
            (&to.value, integer(&entry.value, "code").and_then(|code| u16::try_from(code).ok()).unwrap_or(308))
        }
    };
    let text = to.text()?;
    let target =
        text == "https" || text.starts_with("http://") || text.starts_with("https://") || text.starts_with('/');
    let problem = match target {
        true => names::nginx_text(text).err(),
        false => Some("it must be `https`, a URL, or a path that begins with `/`".to_owned()),
    };
    let problem =
        problem.or_else(|| text.contains([' ', '#']).then(|| "a blank and `#` are not allowed in it".to_owned()));
    let problem = problem.or_else(|| unknown_variable(text).map(|name| format!("`{name}` is not a variable for it")));
    if let Some(problem) = problem {
        let message = format!("`{}` is not a target of a redirect: {problem}", to.shown());
        context.report.error_help(&to.place, message, "for example `https`, or `https://example.com$request_uri`");
    }
    Some(Redirect { to: text.to_owned(), code })
}

/// A variable other than those that a redirect can hold; another one could let a request inject a line.
fn unknown_variable(text: &str) -> Option<String> {
    text.split('$').skip(1).find_map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        let known = ["host", "request_uri", "scheme", "server_name", "server_port"];
        (!known.contains(&name)).then(|| format!("${name}"))
    })
}

fn timeouts(node: &Node, context: &mut Context<'_>) -> Timeouts {
    let Some(section) = node.value("timeouts") else { return Timeouts::default() };
    for key in ["connect", "read", "send"] {
        if duration(section, key).is_some_and(|value| value < Duration::from_millis(1))
            && let Some(entry) = section.get(key)
        {
            context.report.error(&entry.value.place, format!("the timeout `{key}` must be at least 1ms"));
        }
    }
    Timeouts { connect: duration(section, "connect"), read: duration(section, "read"), send: duration(section, "send") }
}

fn directives(node: &Node, context: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut directives = BTreeMap::new();
    let Some(section) = node.value("directives") else { return directives };
    for entry in section.entries() {
        if !DIRECTIVES.contains(&entry.key.as_str()) {
            let message = format!("the directive `{}` is not allowed here", shown(&entry.key));
            let instead = INSTEAD.iter().find(|(name, _)| *name == entry.key).map(|(_, instead)| (*instead).to_owned());
            let help = instead.or_else(|| did_you_mean(&entry.key, DIRECTIVES.iter().copied())).unwrap_or_else(|| {
                "allowed are those that only tune a location; put others into nginx's main configuration".to_owned()
            });
            context.report.error_help(&entry.key_place, message, help);
            continue;
        }
        let value = entry.value.text().unwrap_or_default();
        let problem = names::nginx_text(value).err();
        let problem = problem.or_else(|| value.trim().is_empty().then(|| "it is empty".to_owned()));
        let problem = problem.or_else(|| value.contains('#').then(|| "`#` is not allowed in it".to_owned()));
        if let Some(problem) = problem {
            let message = format!("this cannot be the value of `{}`: {problem}", entry.key);
            context.report.error(&entry.value.place, message);
        }
        directives.insert(entry.key.clone(), value.to_owned());
    }
    directives
}
