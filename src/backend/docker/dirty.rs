//! What has changed since the last look: marks by events and by our own writes.
//!
//! A mark carries no fact, it only says what has to be read again. It is taken away by the look that began after it; one
//! that is made while a look is under way stays for the next, since that look may have read before the change.

use std::collections::BTreeMap;

use super::names::{HUB, Reference};
use crate::plan::DockerAction;

/// More than this to read, and one list of everything is cheaper than so many reads.
const MOST: usize = 256;

/// What has to be read again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// By id or by name: what was made just now is known by its name alone.
    Container(String),
    /// By id, which is never given again: nothing is left to be read.
    Gone(String),
    NetworkId(String),
    NetworkName(String),
    Volume(String),
    /// Whatever is that image, or was.
    ImageId(String),
    /// What this reference names.
    Image(String),
    AnyImage,
}

#[derive(Debug, Default)]
pub(super) struct Dirty(BTreeMap<Change, u64>);

impl Dirty {
    pub(super) fn mark(&mut self, change: Change, clock: u64) {
        match &change {
            Change::Gone(id) => drop(self.0.remove(&Change::Container(id.clone()))),
            // Our own write that removed it ends after the engine has told so.
            Change::Container(id) if self.0.contains_key(&Change::Gone(id.clone())) => return,
            _ => {}
        }
        self.0.insert(change, clock);
    }

    /// When this container was last marked.
    pub(super) fn container(&self, id: &str) -> Option<u64> {
        self.0.get(&Change::Container(id.to_owned())).copied()
    }

    /// `None`: too many.
    pub(super) fn changes(&self) -> Option<Vec<Change>> {
        let read = self.0.keys().filter(|change| !matches!(change, Change::Gone(_))).count();
        (read <= MOST).then(|| self.0.keys().cloned().collect())
    }

    /// A look that began at `since` has ended.
    pub(super) fn seen(&mut self, since: u64) {
        self.0.retain(|_, clock| *clock > since);
    }
}

/// What an action of ours may have changed, whatever became of it.
pub(super) fn of_action(action: &DockerAction) -> Change {
    match action {
        DockerAction::CreateNetwork(network) => Change::NetworkName(network.name.clone()),
        DockerAction::RemoveNetwork { id, .. } => Change::NetworkId(id.clone()),
        DockerAction::CreateVolume(volume) => Change::Volume(volume.name.clone()),
        DockerAction::RemoveVolume { name } => Change::Volume(name.clone()),
        DockerAction::PullImage { image, .. } => Change::Image(image.clone()),
        DockerAction::CreateContainer(new) => Change::Container(new.name.clone()),
        DockerAction::StartContainer { container, .. } => Change::Container(container.clone()),
        DockerAction::StopContainer { id, .. }
        | DockerAction::UnpauseContainer { id, .. }
        | DockerAction::RemoveContainer { id, .. }
        | DockerAction::ConnectNetwork { id, .. }
        | DockerAction::DisconnectNetwork { id, .. } => Change::Container(id.clone()),
    }
}

/// What an event of an image says: the engine names what it removes by id alone, what it tags by both, and what it loads
/// or pulls in a way that depends on how that was asked for.
pub(super) fn of_image_event(action: &str, id: &str, name: &str) -> Change {
    match action {
        "tag" if !name.is_empty() => Change::Image(name.to_owned()),
        "untag" | "delete" if !id.is_empty() => Change::ImageId(id.to_owned()),
        _ => Change::AnyImage,
    }
}

/// Do both name the same image? The engine leaves its own registry out.
pub(super) fn same_reference(a: &str, b: &str) -> bool {
    fn parts(text: &str) -> (&str, &str) {
        let Reference { name, tag, .. } = Reference::parse(text);
        let name = name.strip_prefix(HUB).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
        (name.strip_prefix("library/").unwrap_or(name), tag)
    }
    parts(a) == parts(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_is_made_during_a_look_outlives_it() {
        let mut dirty = Dirty::default();
        dirty.mark(Change::Container("a".to_owned()), 1);
        dirty.mark(Change::Container("b".to_owned()), 1);
        dirty.mark(Change::Container("b".to_owned()), 2);
        dirty.seen(1);
        assert_eq!(dirty.changes(), Some(vec![Change::Container("b".to_owned())]));
    }

    #[test]
    fn what_is_gone_is_not_read_whatever_else_marks_it() {
        let (read, gone) = (Change::Container("a".to_owned()), Change::Gone("a".to_owned()));
        let mut dirty = Dirty::default();
        dirty.mark(read.clone(), 1);
        dirty.mark(gone.clone(), 2);
        dirty.mark(read, 3);
        assert_eq!(dirty.changes(), Some(vec![gone]));
        dirty.seen(2);
        assert_eq!(dirty.changes(), Some(vec![]));
    }

    #[test]
    fn very_many_marks_are_no_list_of_reads() {
        let mut dirty = Dirty::default();
        for number in 0..=MOST {
            dirty.mark(Change::Container(number.to_string()), 1);
        }
        assert_eq!(dirty.changes(), None);
    }

    #[test]
    fn a_tag_is_known_however_its_registry_is_written() {
        assert!(same_reference("docker.io/library/redis", "redis:latest"));
        assert!(same_reference("localhost/web:1", "localhost/web:1"));
        assert!(!same_reference("localhost/web:1", "localhost/web:2"));
        assert!(!same_reference("reg.example:5000/web", "web"));
    }

    #[test]
    fn what_an_event_of_an_image_does_not_tell_is_read_for_all() {
        assert_eq!(of_image_event("tag", "sha256:1", "web:1"), Change::Image("web:1".to_owned()));
        assert_eq!(of_image_event("untag", "sha256:1", "sha256:1"), Change::ImageId("sha256:1".to_owned()));
        assert_eq!(of_image_event("load", "sha256:1", "sha256:1"), Change::AnyImage);
    }
}
