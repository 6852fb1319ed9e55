//! Looks all the time, while a fault is made and mended: at what nginx has loaded, at what would answer if it were asked,
//! and at what users get.
//!
//! What it accuses: an endpoint that nginx routed to when the watch began, that answers when it is asked itself, and that
//! nginx does not route to any more. The generation that is loaded is told by nginx itself, on the probe port.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use super::nginx::servers_in;
use super::traffic::Traffic;
use super::{Site, http};

const PAUSE: Duration = Duration::from_millis(30);

pub struct Watcher {
    stop: Arc<AtomicBool>,
    eye: JoinHandle<Seen>,
    traffic: Option<Traffic>,
}

/// What was seen, in words.
struct Seen {
    looks: usize,
    unrouted: Vec<String>,
}

impl Watcher {
    /// Watches the endpoints that the shop's upstream has now, and sends requests through it.
    pub fn start(site: &Site) -> Self {
        let watcher = Self::without_traffic(site);
        Self { traffic: Some(Traffic::start(site.listen())), ..watcher }
    }

    /// The same without requests, for a fault in which nobody could answer them.
    pub fn without_traffic(site: &Site) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let endpoints = site.nginx.servers("site");
        assert!(!endpoints.is_empty(), "there is nothing to watch");
        let eye = Eye { probe: site.ports.probe(), generations: site.state().join("generations"), endpoints };
        let stopped = Arc::clone(&stop);
        Self { stop, eye: spawn(move || eye.look_until(&stopped)), traffic: None }
    }

    /// Ends the watch. Fails when an endpoint that serves was unrouted, or a request was not answered.
    #[track_caller]
    pub fn saw_nothing_lost(self) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.eye.join().expect("no panic inside");
        if let Some(traffic) = self.traffic {
            traffic.all_were_answered();
        }
        let first = &seen.unrouted[..seen.unrouted.len().min(5)];
        assert!(seen.unrouted.is_empty(), "{} of {} looks: {first:#?}", seen.unrouted.len(), seen.looks);
        assert!(seen.looks > 2, "it has looked {} times", seen.looks);
    }
}

struct Eye {
    probe: u16,
    generations: PathBuf,
    endpoints: BTreeSet<String>,
}

impl Eye {
    fn look_until(&self, stopped: &AtomicBool) -> Seen {
        let begun = Instant::now();
        let mut seen = Seen { looks: 0, unrouted: Vec::new() };
        while !stopped.load(Ordering::Relaxed) {
            sleep(PAUSE);
            // Without an nginx that answers, nothing is said about what it routes.
            let Some((generation, routed)) = self.routed() else { continue };
            seen.looks += 1;
            for endpoint in self.endpoints.difference(&routed) {
                if serves(endpoint) {
                    let at = begun.elapsed().as_millis();
                    seen.unrouted.push(format!("{endpoint} answers, and {generation} does not have it ({at} ms)"));
                }
            }
        }
        seen
    }

    /// What is loaded, and where it sends requests.
    fn routed(&self) -> Option<(String, BTreeSet<String>)> {
        let answer = http::get(self.probe, "/").ok().filter(|answer| answer.status == 200)?;
        let generation = answer.body.split(' ').next()?.to_owned();
        let folder = self.generations.join(&generation);
        if !folder.join("reeve.conf").exists() {
            // Old workers answered once more, and it is removed already.
            return None;
        }
        // An upstream without endpoints has no file.
        Some((generation, servers_in(&folder.join("files/upstream-site.conf")).unwrap_or_default()))
    }
}

/// Asked itself, it says that it is well. A health check that fails on purpose is a reason to unroute it.
fn serves(endpoint: &str) -> bool {
    let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.is_some_and(|port| http::get(port, "/health").is_ok_and(|answer| answer.status == 200))
}
