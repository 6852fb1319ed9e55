//! Functions of Go's templates and of consul-template that have no counterpart here, with what to do instead.
//!
//! Owns the reasons, for whoever writes one into a template and for the importer: both say the same.

const VAULT: &str = "reeve reads no Vault; write the secret into a file, and read that with `file`";
const NOMAD: &str = "reeve reads no Nomad";
const CONNECT: &str = "reeve has no part in Consul's service mesh";
const MERGE: &str = "read both maps, one after the other: `one.key | default(other.key)`";

/// By consul-template's name.
const ABSENT: &[(&str, &str)] = &[
    ("call", "templates hold no functions as values"),
    ("caLeaf", CONNECT),
    ("caRoots", CONNECT),
    ("connect", CONNECT),
    ("executeTemplate", "use a macro"),
    ("explodeMap", "use `explode` of a `tree`, or `parse_json` of one key"),
    ("exportedServices", "reeve reads no exported services"),
    ("hmacSHA256Hex", "reeve makes no signatures"),
    ("html", "the output is no web page"),
    ("js", "use `to_json`"),
    ("keyExistsGet", "use `key_exists` and `key`"),
    ("md5sum", "reeve has no MD5; use `sha256_hex`"),
    ("mergeMap", MERGE),
    ("mergeMapWithOverride", MERGE),
    ("nomadService", NOMAD),
    ("nomadServices", NOMAD),
    ("nomadVar", NOMAD),
    ("nomadVarExists", NOMAD),
    ("nomadVarList", NOMAD),
    ("nomadVarListSafe", NOMAD),
    ("partitions", "reeve reads one partition, the agent's"),
    ("peerings", "reeve reads no peerings"),
    ("pkiCert", VAULT),
    ("plugin", "templates start no programs; write the result into a key or a file"),
    ("scratch", "use `{% set … %}`, or `namespace()` for what a loop changes"),
    ("secret", VAULT),
    ("secrets", VAULT),
    ("sockaddr", "write the address, or read it with `env`"),
    ("splitToMap", "use `split`, and a loop"),
    ("urlquery", "templates have nothing that encodes a URL"),
    ("writeToFile", "a template writes its own destination only; make the file a template of its own"),
];

/// What to do without this one; `None`: nobody has it, or it has a counterpart. Also as it would be called here,
/// `merge_map`.
pub(crate) fn absent(name: &str) -> Option<&'static str> {
    let plain = name.replace('_', "");
    ABSENT.iter().find(|(known, _)| known.eq_ignore_ascii_case(&plain)).map(|(_, reason)| *reason)
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ABSENT.iter().map(|(name, _)| *name)
}
