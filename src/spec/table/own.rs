//! reeve's own keys: `register` of a service, `upstreams` and `discovery`.

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

pub static DISCOVERY: Table = Table::new(
    "a discovery section",
    "Registers the containers of this host that reeve did not make, by registrator's `SERVICE_*` conventions.",
    &[
        key(
            "containers",
            Kind::Choice(&["all", "labelled", "none"]),
            "Which containers: `all`, `labelled` (those with a SERVICE_NAME), or `none` (default).",
        ),
        key(
            "address",
            Kind::Choice(&["published", "container"]),
            "What is registered: `published` (default: the advertise address and the host port), or `container`.",
        ),
        key(
            "networks",
            Kind::Texts,
            "Docker's names of networks; with `address: container`, the first one that a container is attached to counts.",
        ),
        key("tags", Kind::Texts, "Tags that each registration gets beside its own."),
        key(
            "ids",
            Kind::Choice(&["reeve", "registrator"]),
            "The form of the ids: `reeve` (default, <node>:<container>:<port>/<protocol>), or `registrator`.",
        ),
        key("hostname", Kind::Text, "What registrator's ids begin with; default: the host's name."),
        key("metadata", Kind::Texts, "SERVICE_* attributes that become metadata, such as `team`; default: none."),
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
            Kind::Either(&[
                Kind::Choice(&["round_robin", "least_conn", "ip_hash", "random", "random_two"]),
                Kind::Mapping(&HASH),
            ]),
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

/// nginx directives that an upstream may set. None of them can execute, include, write or read a file, or open another way
/// to a server; each is valid in a location.
pub static DIRECTIVES: &[&str] = &[
    "add_header",
    "chunked_transfer_encoding",
    "client_body_buffer_size",
    "client_body_timeout",
    "default_type",
    "etag",
    "expires",
    "grpc_buffer_size",
    "grpc_next_upstream",
    "grpc_next_upstream_timeout",
    "grpc_next_upstream_tries",
    "grpc_socket_keepalive",
    "gzip",
    "gzip_buffers",
    "gzip_comp_level",
    "gzip_http_version",
    "gzip_min_length",
    "gzip_proxied",
    "gzip_types",
    "gzip_vary",
    "if_modified_since",
    "keepalive_disable",
    "keepalive_requests",
    "keepalive_time",
    "keepalive_timeout",
    "limit_rate",
    "limit_rate_after",
    "log_not_found",
    "log_subrequest",
    "max_ranges",
    "msie_padding",
    "port_in_redirect",
    "postpone_output",
    "proxy_buffer_size",
    "proxy_buffering",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_cookie_domain",
    "proxy_cookie_path",
    "proxy_force_ranges",
    "proxy_hide_header",
    "proxy_ignore_client_abort",
    "proxy_ignore_headers",
    "proxy_intercept_errors",
    "proxy_limit_rate",
    "proxy_max_temp_file_size",
    "proxy_next_upstream",
    "proxy_next_upstream_timeout",
    "proxy_next_upstream_tries",
    "proxy_pass_header",
    "proxy_pass_request_headers",
    "proxy_redirect",
    "proxy_request_buffering",
    "proxy_socket_keepalive",
    "proxy_temp_file_write_size",
    "reset_timedout_connection",
    "satisfy",
    "send_lowat",
    "send_timeout",
    "server_name_in_redirect",
    "server_tokens",
    "tcp_nodelay",
    "tcp_nopush",
];
