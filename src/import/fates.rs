//! What becomes of each setting of consul-template.
//!
//! Owns the table of settings and of the flags that mean the same. It must not know templates themselves: those of a
//! `template` block are read by `consul_template`.

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A setting of reeve with this key takes the value.
    Setting(&'static str),
    /// A credential: the setting of reeve names a file that holds it.
    Secret(&'static str),
    /// It is no longer needed, or always so: why.
    Settled(&'static str),
    /// Nothing in reeve does this: why, and what to do.
    Gap(&'static str, &'static str),
    /// Read by the importer itself.
    Own,
}

use Fate::{Gap, Own, Secret, Setting, Settled};

const VAULT: Fate =
    Gap("reeve reads no Vault", "let Vault's agent write the secrets into files, and read them with `file`");
const NOMAD: Fate = Gap("reeve reads no Nomad", "");
const EXEC: Fate = Gap(
    "reeve starts no program of its own",
    "make the program a service of the spec or of systemd, and let the template's `command` or `signal` reload it",
);
const RETRY: Fate = Settled("reeve tries for ever, with growing pauses, and keeps the last files meanwhile");
const TRANSPORT: Fate = Settled("reeve keeps few connections of its own");
const DEDUPLICATE: Fate = Settled("not needed: reeve asks the local agent, with few connections");
const SYSLOG: Fate = Gap("reeve logs to stderr", "systemd and Docker pass stderr on to the system's log");
const LOG_FILE: Fate = Gap("reeve logs to stderr", "redirect stderr, or let systemd or Docker keep the log");

/// By the beginning of the setting's path; the longest counts.
const FATES: &[(&str, Fate)] = &[
    ("consul.address", Setting("consul.address")),
    ("consul.token", Secret("consul.token_file")),
    ("consul.token_file", Setting("consul.token_file")),
    ("consul.auth", Gap("reeve knows Consul's tokens, and no user and password", "use a token (`consul.token_file`)")),
    ("consul.retry", RETRY),
    ("consul.transport", TRANSPORT),
    ("consul.ssl.enabled", Own),
    ("consul.ssl.verify", Own),
    ("consul.ssl.ca_cert", Setting("consul.ca_file")),
    ("consul.ssl.cert", Setting("consul.cert_file")),
    ("consul.ssl.key", Setting("consul.key_file")),
    ("consul.ssl.ca_path", Gap("reeve reads one file of authorities", "put them into one file (`consul.ca_file`)")),
    ("consul.ssl.server_name", Gap("reeve checks the name in the address", "write that name into `consul.address`")),
    ("consul.namespace", Gap("reeve reads one namespace, the token's", "")),
    ("consul.partition", Gap("reeve reads one partition, the agent's", "")),
    ("consul", Gap("reeve has no such setting", "")),
    ("log_level", Own),
    ("log_file", LOG_FILE),
    ("syslog", SYSLOG),
    ("pid_file", Settled("the lock holds the pid (`lock` in reeve.yaml)")),
    ("kill_signal", Settled("SIGTERM and SIGINT end reeve, within 2 seconds")),
    ("reload_signal", Settled("SIGHUP makes reeve read its settings again; specs and templates are watched")),
    ("max_stale", Settled("not needed: reeve asks the local agent, and does not believe a sudden emptiness")),
    ("block_query_wait", Settled("not needed: reeve hears of changes, and looks at everything anew every 30s")),
    ("deduplicate", DEDUPLICATE),
    ("dedup", DEDUPLICATE),
    ("wait", Own),
    ("template", Own),
    ("default_delimiters", Own),
    ("retry", RETRY),
    ("once", Settled("`reeve apply` passes until everything is as the spec says, and ends")),
    ("dry", Settled("`reeve plan` shows what would change, `reeve render NAME` the whole file")),
    ("parse_only", Settled("`reeve validate` checks it offline")),
    ("template_error_fatal", Settled("a template that fails stops only itself")),
    ("err_on_failed_lookup", Settled("always so: an undefined value is an error with file and line")),
    ("telemetry", Settled("always so: `/metrics` on `http.listen`")),
    ("exec", EXEC),
    ("vault", VAULT),
    ("nomad", NOMAD),
];

/// The fate of a setting by its path, and the beginning of it that was found: what is told once of a whole block.
pub fn of(path: &str) -> Option<(&'static str, Fate)> {
    FATES
        .iter()
        .filter(|(known, _)| path == *known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with('.')))
        .max_by_key(|(known, _)| known.len())
        .copied()
}

/// The names of all settings, for "did you mean".
pub fn names() -> impl Iterator<Item = &'static str> {
    FATES.iter().map(|(name, _)| *name).filter(|name| !name.contains('.'))
}

/// Flags that take no value of their own.
pub const SWITCHES: &[&str] = &[
    "once",
    "dry",
    "parse-only",
    "dedup",
    "syslog",
    "consul-ssl",
    "consul-ssl-verify",
    "consul-retry",
    "vault-retry",
    "vault-renew-token",
    "vault-ssl",
    "vault-ssl-verify",
    "vault-unwrap-token",
    "v",
    "version",
    "h",
    "help",
    "create-dest-dirs",
    "template-error-fatal",
    "err-on-failed-lookup",
    "nomad-ssl",
    "nomad-ssl-verify",
    "consul-transport-disable-keep-alives",
    "vault-transport-disable-keep-alives",
];

/// The path of the setting that a flag means.
pub fn of_flag(flag: &str) -> Option<String> {
    let fixed = match flag {
        "config" | "template" => flag.to_owned(),
        "consul-addr" => "consul.address".to_owned(),
        "consul-ssl" => "consul.ssl.enabled".to_owned(),
        "consul-auth" | "consul-token" | "consul-token-file" | "consul-namespace" | "consul-partition" => {
            flag.replacen('-', ".", 1).replace('-', "_")
        }
        "log-level"
        | "pid-file"
        | "kill-signal"
        | "reload-signal"
        | "max-stale"
        | "block-query-wait"
        | "once"
        | "dry"
        | "parse-only"
        | "dedup"
        | "wait"
        | "syslog"
        | "exec"
        | "retry"
        | "template-error-fatal"
        | "err-on-failed-lookup" => flag.replace('-', "_"),
        "default-left-delimiter" => "default_delimiters.left".to_owned(),
        "default-right-delimiter" => "default_delimiters.right".to_owned(),
        "v" | "version" | "h" | "help" => "once".to_owned(),
        _ => {
            let (first, rest) = flag.split_once('-')?;
            let rest = rest.replace('-', "_");
            match (first, rest.split_once('_')) {
                ("consul", Some((section @ ("ssl" | "retry" | "transport"), key))) => format!("consul.{section}.{key}"),
                ("consul", _) if rest == "retry" => "consul.retry".to_owned(),
                ("vault" | "nomad" | "exec" | "syslog", _) => format!("{first}.{rest}"),
                ("log", Some(("file", _))) => "log_file".to_owned(),
                _ => return None,
            }
        }
    };
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_counts_and_a_part_of_a_word_does_not() {
        assert_eq!(of("consul.token").map(|(name, _)| name), Some("consul.token"));
        assert_eq!(of("consul.token_file").map(|(name, _)| name), Some("consul.token_file"));
        assert_eq!(of("consul.retry.attempts").map(|(name, _)| name), Some("consul.retry"));
        assert_eq!(of("consulate"), None);
        assert_eq!(of_flag("consul-ssl-ca-cert").as_deref(), Some("consul.ssl.ca_cert"));
        assert_eq!(of_flag("consul-token").as_deref(), Some("consul.token"));
        assert_eq!(of_flag("vault-addr").as_deref(), Some("vault.addr"));
        assert_eq!(of_flag("colour"), None);
    }
}
