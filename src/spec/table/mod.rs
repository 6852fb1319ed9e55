//! What a spec may say, as data: every key with its kind, its meaning, and whether reeve supports it.
//!
//! Owns the one list that drives all three: the check of shapes and names (`shape`), how files merge (`merge`), and the
//! JSON Schema (`schema`), so that they cannot disagree. It must not hold code that reads values.

mod compose;
mod container;
mod own;
mod template;

pub use compose::SPEC;
#[cfg(test)]
pub use container::SERVICE;
pub use own::DIRECTIVES;

/// The keys of one kind of mapping.
#[derive(Debug)]
pub struct Table {
    /// With its article, for messages: `a service`.
    pub name: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
    /// Keys that begin with `x-` are left alone.
    pub extensions: bool,
    /// A later file replaces the whole mapping when it gives this key another value.
    pub whole_when: Option<&'static str>,
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// One sentence for the editor; for a key that is not supported, what to do instead.
    pub doc: &'static str,
    pub standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Compose's, with its meaning.
    Supported,
    /// Compose's, and reeve cannot do it.
    Unsupported,
    /// reeve's; may be written with `x-` before it.
    Own,
}

/// What a value must look like.
#[derive(Debug)]
pub enum Kind {
    /// Anything; merged as Compose merges what it does not know.
    Any,
    Text,
    Choice(&'static [&'static str]),
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    /// A number of CPUs.
    Cpus,
    Duration,
    Size,
    /// A text that is split as a shell does, or a list; a later file replaces it.
    Command,
    /// A text or a list of texts; a later file appends what is new.
    Texts,
    /// A list of texts; a later file appends what is new.
    List,
    /// A mapping, or a list of `NAME=value`.
    Pairs,
    /// A mapping, or a list of `name:address`.
    Hosts,
    /// A mapping of names to texts.
    Options,
    /// A mapping with these keys.
    Mapping(&'static Table),
    /// A mapping of names that the user chooses.
    MapOf(&'static Kind),
    /// The same, or a list of the names alone.
    Named(&'static Kind),
    /// A list of texts in a short form, or mappings.
    Entries {
        long: &'static Table,
        /// Which of two entries a later file replaces.
        identity: Identity,
        /// One text alone is a list of it.
        single: bool,
    },
    ListOf(&'static Kind),
    /// The first kind that takes the value's shape.
    Either(&'static [Kind]),
}

/// What makes two entries of a list the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The whole port.
    Port,
    /// Where it is mounted.
    Volume,
    /// The target, else the source.
    Grant,
    Device,
    Path,
}

impl Table {
    pub const fn new(name: &'static str, doc: &'static str, keys: &'static [Key]) -> Self {
        Self { name, doc, keys, extensions: true, whole_when: None }
    }

    pub const fn without_extensions(mut self) -> Self {
        self.extensions = false;
        self
    }

    pub const fn whole_when(mut self, key: &'static str) -> Self {
        self.whole_when = Some(key);
        self
    }

    /// The key of this name. `x-upstreams` finds `upstreams`.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let own = |key: &&Key| key.standing == Standing::Own && name.strip_prefix("x-") == Some(key.name);
        self.keys.iter().find(|key| key.name == name).or_else(|| self.keys.iter().find(own))
    }

    /// The keys that may be used.
    pub fn usable(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().filter(|key| matches!(key.standing, Standing::Supported | Standing::Own))
    }
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, doc, standing: Standing::Supported }
}

const fn own(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, doc, standing: Standing::Own }
}

const fn unsupported(name: &'static str, instead: &'static str) -> Key {
    Key { name, kind: Kind::Any, doc: instead, standing: Standing::Unsupported }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn visit(table: &'static Table, seen: &mut BTreeSet<&'static str>) {
        if !seen.insert(table.doc) {
            return;
        }
        let mut names = BTreeSet::new();
        for key in table.keys {
            assert!(names.insert(key.name), "{} has `{}` twice", table.name, key.name);
            assert!(!key.doc.is_empty(), "`{}` of {} has no meaning", key.name, table.name);
            visit_kind(&key.kind, seen);
        }
    }

    fn visit_kind(kind: &'static Kind, seen: &mut BTreeSet<&'static str>) {
        match kind {
            Kind::Mapping(table) | Kind::Entries { long: table, .. } => visit(table, seen),
            Kind::MapOf(kind) | Kind::Named(kind) | Kind::ListOf(kind) => visit_kind(kind, seen),
            Kind::Either(kinds) => kinds.iter().for_each(|kind| visit_kind(kind, seen)),
            _ => {}
        }
    }

    #[test]
    fn every_key_is_listed_once_and_has_a_meaning() {
        let mut seen = BTreeSet::new();
        visit(&SPEC, &mut seen);
        assert!(seen.len() > 20, "{seen:?}");
    }

    #[test]
    fn own_keys_are_found_with_compose_prefix() {
        assert_eq!(SPEC.key("x-upstreams").map(|key| key.name), Some("upstreams"));
        assert_eq!(SERVICE.key("x-register").map(|key| key.name), Some("register"));
        assert!(SERVICE.key("x-image").is_none());
    }
}
