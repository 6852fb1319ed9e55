//! Requests without a pause, one connection each, while something is changed: whatever a user would have seen fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use super::http;

pub struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Traffic {
    /// POST, which nginx does not try again elsewhere, and which takes a while, so that some are always under way.
    pub fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            spawn(move || {
                let (mut good, mut bad) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let failed = match http::post(port, "/?delay=100ms") {
                        Ok(answer) if answer.status == 200 => {
                            good += 1;
                            continue;
                        }
                        Ok(answer) => answer.status.to_string(),
                        Err(error) => error.to_string(),
                    };
                    bad.push(failed);
                    // An error comes at once, and must not take the machine from those who mend it.
                    sleep(Duration::from_millis(20));
                }
                (good, bad)
            })
        };
        let clients = (0..3).map(client).collect();
        Self { stop, clients }
    }

    /// Fails when one request failed.
    #[track_caller]
    pub fn all_were_answered(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut good, mut bad) = (0, Vec::new());
        for client in self.clients {
            let (answered, failed) = client.join().expect("no panic inside");
            good += answered;
            bad.extend(failed);
        }
        let first = &bad[..bad.len().min(5)];
        assert!(good > 0 && bad.is_empty(), "{good} requests were answered, {} were not: {first:?} …", bad.len());
    }
}
