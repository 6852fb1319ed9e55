//! reeve's own keys: `register` of a service, and `upstreams`.

use super::{Kind, Table, key};

pub static REGISTER: Table = Table::new(
    "a registration",
    "An entry in Consul for each replica.",
    &[
        key("name", Kind::Text, "Name of the Consul service; default: the service's name."),
        key("port", Kind::Text, "Container port, `80` or `53/udp`; default: the only one that the service names."),
        key(
            "address",
            Kind::Text,
            "What is registered: `published` (default: the advertise address and the host port), `container`, or an IP.",
        ),
        key("tags", Kind::Texts, "Tags of the registration."),
        key("meta", Kind::Options, "Metadata of the registration."),
        key("check", Kind::Either(&[Kind::Choice(&["tcp", "none"]), Kind::Mapping(&CHECK)]), "What Consul checks."),
    ],
);

static CHECK: Table = Table::new(
    "a check",
    "A health check that Consul makes; exactly one of http, tcp, grpc.",
    &[
        key("http", Kind::Text, "GET of this path; 2xx passes."),
        key("tcp", Kind::Boolean, "The port accepts connections."),
        key(
            "grpc",
            Kind::Either(&[Kind::Text, Kind::Boolean]),
            "The gRPC health protocol; `true`, or the name of the gRPC service.",
        ),
        key("interval", Kind::Duration, "Time between two checks; default: 5s."),
        key("timeout", Kind::Duration, "When an answer is too late; default: 2s."),
        key(
            "deregister_after",
            Kind::Duration,
            "Consul removes the registration when it was critical for so long; at least 1m.",
        ),
        key(
            "address",
            Kind::Choice(&["auto", "registered", "container"]),
            "Which address is checked; default: `auto`, the container's own where the agent can reach it.",
        ),
    ],
);

pub static UPSTREAM: Table = Table::new(
    "an upstream",
    "What nginx listens on, and the Consul service that it sends requests to.",
    &[
        key("service", Kind::Text, "The Consul service, whoever registered it."),
        key("tag", Kind::Text, "Only instances with this tag."),
        key("datacenter", Kind::Text, "Of this datacenter; default: the agent's."),
        key("filter", Kind::Text, "Only instances that match this filter expression of Consul."),
        key("listen", Kind::Text, "Port, or `address:port`."),
        key("server_name", Kind::Texts, "Names that the server answers to; default: any."),
        key("path", Kind::Text, "Prefix of the paths that are routed; default: `/`."),
        key(
            "balance",
            Kind::Either(&[Kind::Choice(&["round_robin", "least_conn", "ip_hash", "random"]), Kind::Mapping(&HASH)]),
            "How an endpoint is chosen; default: `round_robin`.",
        ),
        key("drain", Kind::Duration, "How long a replica stays after nginx stopped routing to it; default: 10s."),
        key("when_empty", Kind::Text, "Without endpoints: answer this status (default: 503), or `keep` the last ones."),
        key("headers", Kind::Options, "Request headers for the endpoint, beside the default ones; empty removes one."),
        key("access_log", Kind::Text, "Path of the log, or `off`."),
        key("tls", Kind::Mapping(&TLS), "Certificate and key: the address speaks TLS."),
        key("max_body_size", Kind::Size, "Largest request body; 0: no limit."),
        key(
            "redirect",
            Kind::Either(&[Kind::Text, Kind::Mapping(&REDIRECT)]),
            "Answer with a redirect instead of routing: `https`, or a URL.",
        ),
        key("timeouts", Kind::Mapping(&TIMEOUTS), "Limits for the endpoint."),
        key("keepalive", Kind::Integer { min: 1, max: 100_000 }, "Idle connections that each worker keeps open."),
        key("websocket", Kind::Boolean, "Pass on upgrades to WebSocket."),
        key("grpc", Kind::Boolean, "The endpoints speak gRPC."),
        key("directives", Kind::Options, "More nginx directives for the location, from a fixed list of names."),
    ],
);

static HASH: Table = Table::new(
    "a balance",
    "Consistent hashing.",
    &[key("hash", Kind::Text, "What is hashed, in nginx's variables: `$request_uri`.")],
)
.without_extensions();

static TLS: Table = Table::new(
    "a tls section",
    "Files of the certificate.",
    &[
        key("certificate", Kind::Text, "The certificate and its chain, PEM."),
        key("key", Kind::Text, "The private key, PEM."),
    ],
)
.without_extensions();

static REDIRECT: Table = Table::new(
    "a redirect",
    "Where to send the client.",
    &[
        key("to", Kind::Text, "`https` (same host and path), or a URL; `$host` and `$request_uri` may occur in it."),
        key("code", Kind::Choice(&["301", "302", "303", "307", "308"]), "Status; default: 308."),
    ],
)
.without_extensions();

static TIMEOUTS: Table = Table::new(
    "a timeouts section",
    "Limits for the endpoint.",
    &[
        key("connect", Kind::Duration, "Until a connection stands."),
        key("read", Kind::Duration, "Between two reads of the answer."),
        key("send", Kind::Duration, "Between two writes of the request."),
    ],
)
.without_extensions();
