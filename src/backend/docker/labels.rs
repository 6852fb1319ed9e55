//! The labels that make a container, network or volume ours, and the facts in them.
//!
//! Owns their names and their text. Compose's own labels are never written, so that `docker compose` does not take our
//! containers for its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::observed::{Adopted, ChosenPort};
use crate::plan::action::NewContainer;
use crate::spec::container::{ConfigHash, FileContent, FileMount};
use crate::spec::{Network, Owner, Volume};

/// `project@node`.
pub(super) const OWNER: &str = "reeve.owner";
pub(super) const SERVICE: &str = "reeve.service";
const SLOT: &str = "reeve.slot";
const HASH: &str = "reeve.hash";
/// Canonical JSON of what the object was made from.
pub(super) const CONFIG: &str = "reeve.config";
const IMAGE: &str = "reeve.image";
const PORTS: &str = "reeve.ports";
const REGISTERS: &str = "reeve.registers";
const DEPENDS_ON: &str = "reeve.depends_on";
/// JSON list of the paths that are copied in between creation and start: without them it must not start.
const FILES: &str = "reeve.files";

/// What the labels of one of our containers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) service: String,
    pub(super) slot: u32,
    pub(super) hash: ConfigHash,
    pub(super) config: String,
    pub(super) image_id: String,
    pub(super) chosen_ports: Vec<ChosenPort>,
    pub(super) registers: bool,
    pub(super) depends_on: BTreeSet<String>,
    pub(super) files: Vec<String>,
}

impl Marks {
    /// `None` when a label is missing or unreadable: then it was not made by us, whatever its owner label says, and is
    /// left alone.
    pub(super) fn read(labels: &BTreeMap<String, String>) -> Option<Self> {
        let text = |key: &str| labels.get(key).cloned();
        Some(Self {
            service: text(SERVICE)?,
            slot: text(SLOT)?.parse().ok()?,
            hash: ConfigHash::from_label(&text(HASH)?),
            config: text(CONFIG)?,
            image_id: text(IMAGE)?,
            chosen_ports: serde_json::from_str(&text(PORTS)?).ok()?,
            registers: text(REGISTERS)? == "true",
            depends_on: serde_json::from_str(&text(DEPENDS_ON)?).ok()?,
            files: serde_json::from_str(&text(FILES)?).ok()?,
        })
    }
}

impl From<&Adopted> for Marks {
    fn from(adopted: &Adopted) -> Self {
        let Adopted { service, slot, container: _, hash, config, image_id, chosen_ports, registers, depends_on } =
            adopted;
        Self {
            service: service.clone(),
            slot: *slot,
            hash: hash.clone(),
            config: config.clone(),
            image_id: image_id.clone(),
            chosen_ports: chosen_ports.clone(),
            registers: *registers,
            depends_on: depends_on.clone(),
            files: Vec::new(),
        }
    }
}

/// The files that must be copied in: the others are bind-mounted.
pub(super) fn copied(files: &[FileMount]) -> impl Iterator<Item = &FileMount> {
    files.iter().filter(|file| match file.content {
        FileContent::File { .. } => false,
        FileContent::Inline(_) | FileContent::Secret(_) => true,
    })
}

/// Ours win over labels of the spec with the same name.
pub(super) fn of_container(new: &NewContainer, owner: &Owner, image_id: &str) -> HashMap<String, String> {
    let json = |result: serde_json::Result<String>| result.expect("plain lists and strings always serialise");
    let mut labels: HashMap<_, _> = new.config.labels.clone().into_iter().collect();
    let files: Vec<_> = copied(&new.config.files).map(|file| file.target.as_str()).collect();
    // All of them, always: a container inherits its image's labels, and an image can be a copy of one of our containers.
    labels.extend([
        (OWNER.to_owned(), owner.to_string()),
        (SERVICE.to_owned(), new.service.clone()),
        (SLOT.to_owned(), new.slot.to_string()),
        (HASH.to_owned(), new.hash.as_str().to_owned()),
        (CONFIG.to_owned(), new.config.canonical()),
        (IMAGE.to_owned(), image_id.to_owned()),
        (PORTS.to_owned(), json(serde_json::to_string(&new.host_ports))),
        (REGISTERS.to_owned(), new.registers.to_string()),
        (DEPENDS_ON.to_owned(), json(serde_json::to_string(&new.depends_on))),
        (FILES.to_owned(), json(serde_json::to_string(&files))),
    ]);
    labels
}

pub(super) fn of_network(network: &Network, owner: &Owner) -> HashMap<String, String> {
    let config = serde_json::to_string(network).expect("maps have string keys and no value can fail to serialise");
    with_config(&network.labels, owner, config)
}

pub(super) fn of_volume(volume: &Volume, owner: &Owner) -> HashMap<String, String> {
    let config = serde_json::to_string(volume).expect("maps have string keys and no value can fail to serialise");
    with_config(&volume.labels, owner, config)
}

fn with_config(labels: &BTreeMap<String, String>, owner: &Owner, config: String) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = labels.clone().into_iter().collect();
    labels.extend([(OWNER.to_owned(), owner.to_string()), (CONFIG.to_owned(), config)]);
    labels
}
