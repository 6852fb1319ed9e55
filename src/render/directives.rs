//! The directives that a spec may set on an upstream by name.
//!
//! They tune how a request is passed on or answered, stand in a `location`, and cannot route elsewhere, open a file of
//! somebody's choice for serving, run code or change what reeve itself writes. Everything else has a key of its own.

/// Sorted.
pub const ALLOWED: &[&str] = &[
    "add_header",
    "allow",
    "auth_basic",
    "auth_basic_user_file",
    "auth_delay",
    "charset",
    "chunked_transfer_encoding",
    "client_body_buffer_size",
    "client_body_timeout",
    "default_type",
    "deny",
    "etag",
    "expires",
    "grpc_buffer_size",
    "grpc_hide_header",
    "grpc_ignore_headers",
    "grpc_intercept_errors",
    "grpc_next_upstream",
    "grpc_next_upstream_timeout",
    "grpc_next_upstream_tries",
    "grpc_pass_header",
    "grpc_socket_keepalive",
    "gunzip",
    "gzip",
    "gzip_buffers",
    "gzip_comp_level",
    "gzip_disable",
    "gzip_http_version",
    "gzip_min_length",
    "gzip_proxied",
    "gzip_types",
    "gzip_vary",
    "keepalive_requests",
    "keepalive_time",
    "keepalive_timeout",
    "limit_conn",
    "limit_conn_status",
    "limit_rate",
    "limit_rate_after",
    "limit_req",
    "limit_req_status",
    "lingering_close",
    "lingering_time",
    "lingering_timeout",
    "postpone_output",
    "proxy_buffer_size",
    "proxy_buffering",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_cookie_domain",
    "proxy_cookie_flags",
    "proxy_cookie_path",
    "proxy_force_ranges",
    "proxy_headers_hash_bucket_size",
    "proxy_headers_hash_max_size",
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
    "proxy_redirect",
    "proxy_request_buffering",
    "proxy_socket_keepalive",
    "proxy_temp_file_write_size",
    "real_ip_header",
    "real_ip_recursive",
    "reset_timedout_connection",
    "satisfy",
    "send_timeout",
    "server_tokens",
    "set_real_ip_from",
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
