//! A constant load through nginx while something is changed, and what became of each request.
//!
//! What counts as failed: an answer that is not 2xx or 3xx, or not the answer to what was asked; a cut answer; a refused
//! connection; no answer at all. A *kept* connection that is closed before any byte of the answer (nginx does so to idle
//! ones at every reload) is tried once more on a new one, as clients do, and counted apart. So are answers that take longer
//! than the drain, and open WebSockets: what is promised for those ends with the drain.
//!
//! The rate does not wait for answers: an outage shows as the requests that fell into it. Rate, time and what is under way
//! at once are bounded.

mod connection;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use connection::{Broken, Connection, Socket};

/// No scenario takes so long; a load that nobody ends, ends by itself.
const LIMIT: Duration = Duration::from_secs(600);
/// Longer than each answer takes, and than nginx needs to give a dead server up.
const PATIENCE: Duration = Duration::from_secs(30);
/// More under way than this says that nothing is answered any more; it must not take the machine as well.
const UNDER_WAY: usize = 200;
const SOCKETS: usize = 4;

/// One kind of request.
struct Lane {
    name: &'static str,
    every: Duration,
    post: bool,
    /// What the answer takes.
    delay: Duration,
    /// Over connections that are kept and used again.
    kept: bool,
    /// Takes longer than the drain: counted apart.
    beyond: bool,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// For a drain of `DRAIN`.
const LANES: [Lane; 7] = [
    Lane { name: "GET kept", every: ms(40), post: false, delay: ms(0), kept: true, beyond: false },
    Lane { name: "GET new", every: ms(60), post: false, delay: ms(0), kept: false, beyond: false },
    Lane { name: "POST 0.5 s kept", every: ms(125), post: true, delay: ms(500), kept: true, beyond: false },
    Lane { name: "POST 0.5 s new", every: ms(125), post: true, delay: ms(500), kept: false, beyond: false },
    Lane { name: "POST 2 s new", every: ms(400), post: true, delay: ms(2000), kept: false, beyond: false },
    Lane { name: "GET 3 s kept", every: ms(700), post: false, delay: ms(3000), kept: true, beyond: false },
    Lane { name: "POST 9 s new", every: ms(2000), post: true, delay: ms(9000), kept: false, beyond: true },
];

/// The drain that the upstream under load has to have: longer than the answers that must not fail, shorter than the others.
pub const DRAIN: &str = "5s";

/// A request that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub lane: &'static str,
    pub began: Instant,
    pub ended: Instant,
    pub reason: String,
}

impl Failure {
    /// At some moment between these two: what is done to the servers takes time, and so does looking at the clock.
    pub fn under_way(&self, from: Instant, to: Instant) -> bool {
        self.began <= to && self.ended >= from
    }
}

#[derive(Debug, Clone, Default)]
struct Count {
    sent: usize,
    ok: usize,
    retried: usize,
    failed: usize,
}

#[derive(Debug, Clone, Default)]
struct Sockets {
    opened: usize,
    /// By the other side, at whatever moment.
    closed: usize,
    messages: usize,
}

/// What became of a load.
#[derive(Debug, Clone)]
pub struct Report {
    counts: [Count; LANES.len()],
    sockets: Sockets,
    /// Of the lanes whose answers the drain covers, and of handshakes.
    pub failures: Vec<Failure>,
    began: Instant,
}

/// A load that is going on. Dropped, it ends.
pub struct Load {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    report: Arc<Mutex<Report>>,
}

struct Shared {
    port: u16,
    report: Arc<Mutex<Report>>,
    /// Idle connections, by lane.
    kept: [Mutex<Vec<Connection>>; LANES.len()],
    number: AtomicUsize,
    under_way: AtomicUsize,
}

impl Load {
    /// Through the upstream that listens on this port of the loopback.
    pub fn start(port: u16) -> Self {
        let (stop, stopping) = watch::channel(false);
        let began = Instant::now();
        let report = Arc::new(Mutex::new(Report {
            counts: Default::default(),
            sockets: Sockets::default(),
            failures: Vec::new(),
            began,
        }));
        let shared = Arc::new(Shared {
            port,
            report: report.clone(),
            kept: Default::default(),
            number: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let thread = std::thread::spawn(move || runtime.block_on(run(shared, stopping)));
        Self { stop, thread: Some(thread), report }
    }

    /// How many requests have been answered as they should so far.
    pub fn answered(&self) -> usize {
        lock(&self.report).counts.iter().map(|count| count.ok).sum()
    }

    /// Sends no more, waits for the answers that are due, and tells what became of all.
    pub fn end(mut self) -> Report {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load does not panic");
        }
        lock(&self.report).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(shared: Arc<Shared>, stopping: watch::Receiver<bool>) {
    let lanes = (0..LANES.len()).map(|lane| tokio::spawn(send_all(shared.clone(), lane, stopping.clone())));
    let sockets = (0..SOCKETS).map(|_| tokio::spawn(talk(shared.clone(), stopping.clone())));
    for task in lanes.chain(sockets).collect::<Vec<_>>() {
        task.await.expect("no panic inside");
    }
}

/// One request after the other at the lane's rate, whatever becomes of those before.
async fn send_all(shared: Arc<Shared>, lane: usize, mut stopping: watch::Receiver<bool>) {
    let mut ticks = interval(LANES[lane].every);
    // A machine that was busy elsewhere must not make up for it by a burst: the rate is what is constant.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    while started.elapsed() < LIMIT {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => break,
        }
        while requests.try_join_next().is_some() {}
        requests.spawn(send(shared.clone(), lane));
    }
    requests.join_all().await;
}

async fn send(shared: Arc<Shared>, lane: usize) {
    let began = Instant::now();
    let full = shared.under_way.fetch_add(1, Ordering::Relaxed) >= UNDER_WAY;
    let mut retried = false;
    let result = if full {
        Err(format!("{UNDER_WAY} requests are under way, unanswered"))
    } else {
        match timeout(PATIENCE, ask(&shared, lane, &mut retried)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    };
    shared.under_way.fetch_sub(1, Ordering::Relaxed);
    let mut report = lock(&shared.report);
    let count = &mut report.counts[lane];
    count.sent += 1;
    count.retried += usize::from(retried);
    match result {
        Ok(()) => count.ok += 1,
        Err(reason) => {
            count.failed += 1;
            let Lane { name, beyond, .. } = LANES[lane];
            if !beyond {
                report.failures.push(Failure { lane: name, began, ended: Instant::now(), reason });
            }
        }
    }
}

async fn ask(shared: &Shared, lane: usize, retried: &mut bool) -> Result<(), String> {
    let Lane { post, delay, kept, .. } = LANES[lane];
    let body = format!("request {}", shared.number.fetch_add(1, Ordering::Relaxed));
    let path = format!("/{}?delay={}ms", if post { "echo" } else { "" }, delay.as_millis());
    let request = if post {
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    } else {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    };
    let idle = if kept { lock(&shared.kept[lane]).pop() } else { None };
    let mut first = None;
    if let Some(mut connection) = idle {
        let sent = Instant::now();
        match connection.exchange(&request).await {
            // One that was closed while the answer was being made is no idle one: the request had been taken.
            Err(Broken::BeforeAnswer(_)) if delay.is_zero() || sent.elapsed() < delay / 2 => *retried = true,
            answer => first = Some((connection, answer)),
        }
    }
    let (connection, answer) = match first {
        Some(first) => first,
        None => {
            let mut connection = Connection::open(shared.port).await.map_err(|error| format!("connect: {error}"))?;
            let answer = connection.exchange(&request).await;
            (connection, answer)
        }
    };
    let answer = answer.map_err(|broken| broken.to_string())?;
    if !(200..400).contains(&answer.status) {
        return Err(format!("answered {}", answer.status));
    }
    let right = if post { answer.body == body } else { answer.body.starts_with("web ") };
    if !right {
        return Err(format!("answered {:?} to {body:?}", answer.body));
    }
    if kept && answer.keep_alive {
        lock(&shared.kept[lane]).push(connection);
    }
    Ok(())
}

/// Holds one WebSocket open and talks over it; opens the next one when it is closed.
async fn talk(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let started = Instant::now();
    while started.elapsed() < LIMIT && !*stopping.borrow() {
        let began = Instant::now();
        let opened = match timeout(PATIENCE, Socket::open(shared.port)).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let mut socket = match opened {
            Ok(socket) => socket,
            Err(reason) => {
                let failure = Failure { lane: "WebSocket handshake", began, ended: Instant::now(), reason };
                lock(&shared.report).failures.push(failure);
                sleep(ms(200)).await;
                continue;
            }
        };
        lock(&shared.report).sockets.opened += 1;
        loop {
            let echoed = timeout(PATIENCE, socket.echo()).await.is_ok_and(|echoed| echoed);
            {
                let mut report = lock(&shared.report);
                if !echoed {
                    report.sockets.closed += 1;
                    break;
                }
                report.sockets.messages += 1;
            }
            tokio::select! {
                () = sleep(ms(500)) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        }
    }
}

impl Report {
    fn sum(&self, beyond: bool, figure: impl Fn(&Count) -> usize) -> usize {
        let lanes = LANES.iter().zip(&self.counts).filter(|(lane, _)| lane.beyond == beyond);
        lanes.map(|(_, count)| figure(count)).sum()
    }

    /// A row of the table that `make test-long` prints.
    pub fn row(&self, scenario: &str) -> String {
        let beyond = format!("{} of {}", self.sum(true, |count| count.failed), self.sum(true, |count| count.sent));
        let sockets = format!("{} of {}", self.sockets.closed, self.sockets.opened);
        let (sent, failed) = (self.sum(false, |count| count.sent), self.failures.len());
        let retried = self.sum(false, |count| count.retried);
        format!("| {scenario:<50} | {sent:>5} | {failed:>6} | {retried:>7} | {beyond:>8} | {sockets:>8} |")
    }

    /// Fails when a kept connection was closed under a request: it was tried again, and nobody can tell that of a POST.
    #[track_caller]
    pub fn none_tried_again(&self) {
        let retried = self.sum(false, |count| count.retried);
        assert!(retried == 0, "{retried} requests met a closed connection:\n{self}");
    }

    /// Prints what became of the load; fails when a request failed, but for those that nobody could have saved.
    #[track_caller]
    pub fn none_failed_but(&self, scenario: &str, beyond_help: impl Fn(&Failure) -> bool) {
        eprintln!("{}", self.row(scenario));
        let answered = self.counts.iter().zip(&LANES).all(|(count, lane)| count.ok > 0 || lane.beyond);
        assert!(answered && self.sockets.messages > 0, "not every kind of request was answered at all:\n{self}");
        let failed = self.failures.iter().filter(|failure| !beyond_help(failure)).count();
        assert!(failed == 0, "{failed} requests failed:\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (lane, Count { sent, ok, retried, failed }) in LANES.iter().zip(&self.counts) {
            writeln!(f, "  {:<16} {sent} sent, {ok} ok, {failed} failed, {retried} tried again", lane.name)?;
        }
        let Sockets { opened, closed, messages } = self.sockets;
        writeln!(f, "  {:<16} {opened} opened, {closed} closed on us, {messages} messages echoed", "WebSocket")?;
        for failure in self.failures.iter().take(10) {
            let at = |moment: Instant| moment.duration_since(self.began).as_secs_f64();
            let Failure { lane, began, ended, reason } = failure;
            writeln!(f, "  {:.3}-{:.3} s {lane}: {reason}", at(*began), at(*ended))?;
        }
        Ok(())
    }
}
