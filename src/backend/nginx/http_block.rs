//! What the user's own `http` block may say while an upstream that Lua balances is found empty by the balancer.
//!
//! Owns the list. A request to an empty upstream then goes on to where endpoints are chosen, and nginx's 502 is turned into
//! the status of `when_empty`. A cache would keep that 502, a rule of access or a limit would answer before it, an
//! `error_page` would not be inherited, somebody's Lua would lose its `ngx.ctx`. So whatever is not known to change none of
//! that counts as changing it, and whether there are endpoints is asked before anything else. Must not judge the directives
//! otherwise: that is nginx's.

/// Beginnings that stand for many: buffers, sizes and times of whatever kind.
const FAMILIES: [&str; 12] = [
    "ssl_",
    "gzip",
    "keepalive_",
    "client_",
    "lingering_",
    "open_file_cache",
    "open_log_file_cache",
    "resolver",
    "types_hash_",
    "server_names_hash_",
    "variables_hash_",
    "map_hash_",
];

const NAMES: [&str; 60] = [
    "include",
    "server",
    "upstream",
    "map",
    "geo",
    "split_clients",
    "types",
    "default_type",
    "charset",
    "log_format",
    "access_log",
    "error_log",
    "log_not_found",
    "sendfile",
    "sendfile_max_chunk",
    "aio",
    "directio",
    "tcp_nopush",
    "tcp_nodelay",
    "reset_timedout_connection",
    "send_timeout",
    "output_buffers",
    "postpone_output",
    "request_pool_size",
    "connection_pool_size",
    "large_client_header_buffers",
    "server_tokens",
    "server_name_in_redirect",
    "port_in_redirect",
    "absolute_redirect",
    "underscores_in_headers",
    "ignore_invalid_headers",
    "merge_slashes",
    "etag",
    "msie_padding",
    "add_header",
    "expires",
    "real_ip_header",
    "real_ip_recursive",
    "set_real_ip_from",
    "limit_req_zone",
    "limit_conn_zone",
    "proxy_cache_path",
    "fastcgi_cache_path",
    "proxy_temp_path",
    "fastcgi_temp_path",
    "uwsgi_temp_path",
    "scgi_temp_path",
    "proxy_headers_hash_max_size",
    "proxy_headers_hash_bucket_size",
    "proxy_buffering",
    "proxy_buffer_size",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "lua_package_path",
    "lua_package_cpath",
    "lua_malloc_trim",
];

/// Known to change nothing of how an empty upstream answers.
pub fn leaves_alone(name: &str) -> bool {
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debian_delivers_is_left_alone_and_what_answers_or_keeps_answers_is_not() {
        let debian = [
            "sendfile",
            "tcp_nopush",
            "types_hash_max_size",
            "include",
            "default_type",
            "ssl_protocols",
            "ssl_prefer_server_ciphers",
            "access_log",
            "gzip",
        ];
        assert!(debian.into_iter().all(leaves_alone));
        let others = [
            "error_page",
            "proxy_intercept_errors",
            "proxy_cache",
            "proxy_cache_valid",
            "limit_req",
            "limit_conn",
            "auth_basic",
            "auth_request",
            "allow",
            "deny",
            "access_by_lua_block",
            "header_filter_by_lua_file",
            "recursive_error_pages",
            "of_a_module_that_nobody_knows",
        ];
        assert!(!others.into_iter().any(leaves_alone));
    }
}
