//! What the end-to-end tests stand on: a site of a test's own (project, ports, folder, Consul agent, nginx), the built
//! program, and the servers' own interfaces to look at what it did.
//!
//! Nothing here uses the library: the program is driven as an operator does it, and judged by what Docker, Consul and nginx
//! say themselves.

pub mod agent;
pub mod cluster;
pub mod counter;
pub mod docker;
pub mod engine;
pub mod golden;
pub mod http;
pub mod load;
pub mod nginx;
pub mod ports;
pub mod program;
pub mod shop;
pub mod site;
pub mod snapshot;
pub mod socket;
pub mod traffic;
pub mod watcher;

use std::time::{Duration, Instant};

pub use shop::Shop;
pub use site::Site;

/// Long enough for every wait on a loaded machine of two cores, short enough for a person who looks at a red test.
pub const SOON: Duration = Duration::from_secs(40);

/// Asks until there is an answer. `probe` says in its error how far things are; the last one is in the panic.
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    within(SOON, what, probe)
}

#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(answer) => return answer,
            Err(so_far) if started.elapsed() > limit => {
                panic!("not within {} s: {what}\n  the last look: {so_far}", limit.as_secs());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// For `eventually`: a condition with words for when it does not hold.
pub fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
