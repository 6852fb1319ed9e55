//! How many watches there may be at once, and on which connection each is.
//!
//! Without HTTP/2 each takes a connection of its own, and an agent takes 200 from one address. With it, which an agent
//! speaks by TLS, very many share a few. It only counts and remembers: what is sent, and whether HTTP/2 is spoken, is the
//! client's to know.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

/// Watches under way at once, each on a connection of its own. Two controllers and everybody's own tools must fit into the
/// agent's 200.
pub(super) const WATCHES: usize = 64;
/// Shared connections, and watches under way on one. An agent takes 250 requests on one, but what stands before it may take
/// fewer, though hardly less than 100 (RFC 9113): what is beyond would wait until a watch is answered. One is left for the
/// question whether it still speaks HTTP/2.
const LANES: usize = 16;
const STREAMS: usize = 99;
/// A connection that a network swallowed looks like watches that wait.
const STILL_THERE: Duration = Duration::from_secs(20);
const STILL_THERE_LIMIT: Duration = Duration::from_secs(10);
/// So long nothing goes by HTTP/2 after it has failed where HTTP/1 had not: something takes fewer requests at once than it
/// should, and each change of mind reads everything.
const RETREAT: Duration = Duration::from_secs(10 * 60);

/// What a client of a lane is made of; nothing where no HTTP/2 is spoken.
type Make = Arc<dyn Fn() -> Option<reqwest::ClientBuilder> + Send + Sync>;

#[derive(Clone)]
pub(super) struct Lanes {
    all: Arc<[Lane]>,
    make: Make,
    /// HTTP/2 is spoken.
    multiplexes: watch::Sender<bool>,
    /// Since when it is not tried, although it once worked.
    retreat: Arc<Mutex<Option<Instant>>>,
}

/// One connection for many watches.
struct Lane {
    /// Made when it is first needed: a command that watches nothing reads no certificates for it.
    http: OnceLock<Option<reqwest::Client>>,
    streams: Semaphore,
}

impl Lane {
    /// Of its own pool, and never by HTTP/1: then each of its watches would take a connection.
    fn http(&self, make: &Make) -> Option<&reqwest::Client> {
        let client = || {
            make()?
                .http2_prior_knowledge()
                .http2_adaptive_window(true)
                .http2_keep_alive_interval(STILL_THERE)
                .http2_keep_alive_timeout(STILL_THERE_LIMIT)
                .build()
                .ok()
        };
        self.http.get_or_init(client).as_ref()
    }
}

impl Lanes {
    pub fn new(make: Make) -> Self {
        let lane = |_| Lane { http: OnceLock::new(), streams: Semaphore::new(STREAMS) };
        let all = (0..LANES).map(lane).collect();
        Self { all, make, multiplexes: watch::Sender::new(false), retreat: Arc::default() }
    }

    /// HTTP/2 is spoken, so that many watches share a connection, and it is seen when that is lost.
    pub fn multiplex(&self) -> bool {
        *self.multiplexes.borrow()
    }

    pub fn room(&self) -> usize {
        if self.multiplex() { LANES * STREAMS } else { WATCHES }
    }

    /// Tells when the room has become another one.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.multiplexes.subscribe()
    }

    /// The client for the next watch, and its turn there; none: on a connection of its own.
    pub fn free(&self) -> Option<(&reqwest::Client, &Semaphore)> {
        if !self.multiplex() {
            return None;
        }
        let free = self.all.iter().find(|lane| lane.streams.available_permits() > 0);
        let lane = free.or(self.all.last())?;
        Some((lane.http(&self.make)?, &lane.streams))
    }

    /// By which it is to be asked now whether HTTP/2 is spoken.
    pub fn asked(&self) -> Option<&reqwest::Client> {
        let retreats = self.retreat().is_some_and(|since| since.elapsed() < RETREAT);
        if retreats { None } else { self.all.first()?.http(&self.make) }
    }

    /// True: it worked, and does not any more.
    pub fn found(&self, multiplexes: bool) -> bool {
        let lost = self.multiplex() && !multiplexes;
        if lost {
            *self.retreat() = Some(Instant::now());
        }
        self.multiplexes.send_if_modified(|before| std::mem::replace(before, multiplexes) != multiplexes);
        lost
    }

    fn retreat(&self) -> MutexGuard<'_, Option<Instant>> {
        // Only ever a whole value.
        self.retreat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
