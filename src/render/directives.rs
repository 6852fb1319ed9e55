//! The directives that a spec may set on an upstream by name.
//!
//! They tune how a request is passed on or answered, stand in a `location`, and cannot route elsewhere, open a file of
//! somebody's choice for serving, run code or change what reeve itself writes. Everything else has a key of its own.

/// Sorted.
pub const ALLOWED: &[&str] = &[
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

pub fn is_allowed(name: &str) -> bool {
    ALLOWED.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_holds_nothing_that_reeve_writes_itself() {
        assert!(ALLOWED.is_sorted());
        for own in ["proxy_pass", "grpc_pass", "return", "include", "proxy_set_header", "root", "alias", "access_log"] {
            assert!(!is_allowed(own), "{own}");
        }
    }
}
