//! What was done that somebody may notice, and how much of it one crash may cost.

use reeve::plan::Action;
use reeve::plan::action::{DockerAction, NginxAction};

use crate::scenario::fails;
use crate::state::State;

/// What was done that somebody may notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub creates: u32,
    pub stops: u32,
    pub reloads: u32,
}

impl Tally {
    /// What was done already is not done again.
    pub fn count(&mut self, action: &Action, state: &State) {
        match action {
            Action::Docker(DockerAction::CreateContainer(new)) if state.container(&new.name).is_none() => {
                self.creates += 1
            }
            // Whether one that dies by itself is stopped before or after is chance.
            Action::Docker(DockerAction::StopContainer { id, .. })
                if state.container(id).is_some_and(|container| container.state.running() && !fails(container)) =>
            {
                self.stops += 1;
            }
            Action::Nginx(NginxAction::Reload { .. } | NginxAction::Start { .. }) => self.reloads += 1,
            _ => {}
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            creates: self.creates + other.creates,
            stops: self.stops + other.stops,
            reloads: self.reloads + other.reloads,
        }
    }

    pub fn beyond(self, other: Self) -> Self {
        Self {
            creates: self.creates.saturating_sub(other.creates),
            stops: self.stops.saturating_sub(other.stops),
            reloads: self.reloads.saturating_sub(other.reloads),
        }
    }

    pub fn most(self, other: Self) -> Self {
        Self {
            creates: self.creates.max(other.creates),
            stops: self.stops.max(other.stops),
            reloads: self.reloads.max(other.reloads),
        }
    }
}

/// What a version that dies again and again in its first minute costs by itself, one replica of each of two services: it
/// lives for three seconds and waits for five, and its death and its return are a reload each. How often that happens
/// depends on when the roll-out comes to it, which a pass that sees too little moves by up to all of that minute.
const FLAPS: u32 = 2 * 2 * 60 / (3 + 5);
/// A crash costs no time, and moves it by one death and one return.
const FLAP: u32 = 2;

/// What one crash, or one late view, may cost at most beside what would have been done without it. `fails`: versions of
/// the specs fail.
pub fn too_much(kind: &str, more: Tally, fails: bool) -> Option<String> {
    let flaps = match kind {
        "crash" => FLAP,
        "stale" => FLAPS,
        _ => return None,
    };
    // Which replicas a roll-out to a version that fails has come to when it is given up depends on when that came, too: an
    // old one that does not serve at that moment is replaced first, and with it both of the service.
    let (begun, flaps) = if fails { (2, flaps) } else { (0, 0) };
    let most = Tally { creates: begun, stops: begun, reloads: 2 + flaps };
    let over = more.beyond(most);
    (over != Tally::default()).then(|| format!("one {kind} costs {more:?} more, where {most:?} are the most"))
}
