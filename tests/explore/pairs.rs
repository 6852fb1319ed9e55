//! Two faults on one way, with crashes and changes of the spec: what neither does alone. Small scenarios, since the pairs
//! are many; each begins where a change has just come.

use crate::proofs::{FIXED, ROLLBACK, TWO_PORTS, WEB};
use crate::scenario::Scenario;
use crate::scenarios::with;

/// Nothing changes but the world.
pub fn serves() -> Scenario {
    Scenario::new("pairs: it serves", &[WEB]).settled()
}

pub fn rolls_start_first() -> Scenario {
    Scenario::new("pairs: roll start-first", &[WEB, &with(WEB, &[("web:1", "web:2")])]).begun()
}

pub fn rolls_stop_first() -> Scenario {
    Scenario::new("pairs: roll stop-first", &[FIXED, &with(FIXED, &[("fixed:1", "fixed:2")])]).begun()
}

pub fn scales_down() -> Scenario {
    Scenario::new("pairs: scale down", &[WEB, &with(WEB, &[("replicas: 2", "replicas: 1")])]).begun()
}

pub fn registers_another_port() -> Scenario {
    let changed = with(TWO_PORTS, &[("port: 80,", "port: 90,")]);
    Scenario::new("pairs: registered by another port", &[TWO_PORTS, &changed]).begun()
}

/// The service, not what it is registered as.
pub fn renamed() -> Scenario {
    let named = with(WEB, &[("register: {", "register: { name: web,")]);
    let renamed = with(&named, &[("services:\n  web:", "services:\n  site:")]);
    Scenario::new("pairs: renamed", &[&named, &renamed]).begun()
}

pub fn rolls_back() -> Scenario {
    let text = with(WEB, &[("parallelism: 1 }", ROLLBACK)]);
    let bad = with(&text, &[("web:1", "web:bad")]);
    Scenario::new("pairs: roll back", &[&text, &bad]).begun()
}

/// Two specs come one after the other, at any moment, the second of them before the first one's roll-out is over.
pub fn in_a_row() -> Scenario {
    let rolled = with(WEB, &[("web:1", "web:2")]);
    Scenario::new("pairs: two specs in a row", &[WEB, &rolled, &with(WEB, &[("web:1", "web:3")])]).begun()
}
