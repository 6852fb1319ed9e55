# Everything at once.
consul {
  address = "127.0.0.1:8500"
  token   = "b1gs33cr3t-0000"
  auth { enabled = false username = "u" password = "hunter2" }
  ssl {
    enabled = true
    ca_cert = "/etc/consul/ca.pem"
    verify  = false
  }
  retry { enabled = true attempts = 12 backoff = "250ms" }
}
log_level = "warn"
max_stale = "10m"
pid_file  = "/run/consul-template.pid"
kill_signal = "SIGINT"
wait { min = "5s" max = "10s" }
deduplicate { enabled = true prefix = "consul-template/dedup/" }
vault {
  address = "https://vault.example:8200"
  renew_token = true
}
exec {
  command = "/usr/bin/app"
  splay   = "5s"
}
template {
  source      = "haproxy.ctmpl"
  destination = "/etc/haproxy/haproxy.cfg"
  command     = "systemctl reload haproxy || true"
  command_timeout = "60s"
  perms       = 0600
  user        = "haproxy"
  backup      = true
  wait { min = "2s" }
  error_on_missing_key = true
  create_dest_dirs = false
}
template {
  contents = <<-EOT
    [[ range services ]]name ${HOST} [[ .Name ]]
    [[ end ]]
  EOT
  destination     = "/etc/app/names"
  left_delimiter  = "[["
  right_delimiter = "]]"
  command         = ["pkill", "-HUP", "app"]
}
template {
  source      = "missing.ctmpl"
  destination = "/etc/app/names"
}
