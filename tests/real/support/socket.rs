//! A Docker socket that can be taken away, fall silent or become slow: a proxy in front of the real one. Stopping the
//! machine's Docker would stop everybody's.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const DOCKER: &str = "/var/run/docker.sock";

pub struct Proxy {
    path: PathBuf,
    faults: Arc<Faults>,
    open: Option<Open>,
}

/// What happens to the engine's answers.
#[derive(Default)]
struct Faults {
    /// Nothing is passed on, and nothing is closed.
    silent: AtomicBool,
    /// The same for event streams alone.
    silent_events: AtomicBool,
    /// Before each piece of an answer, in milliseconds.
    delay: AtomicU64,
    /// The first lines of all requests.
    requests: Mutex<Vec<String>>,
}

struct Open {
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<UnixStream>>>,
    accepting: thread::JoinHandle<()>,
}

impl Proxy {
    /// Nothing listens yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), faults: Arc::default(), open: None }
    }

    pub fn silence(&self, silent: bool) {
        self.faults.silent.store(silent, Ordering::Relaxed);
    }

    pub fn silence_events(&self, silent: bool) {
        self.faults.silent_events.store(silent, Ordering::Relaxed);
    }

    pub fn slow_down(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).expect("a short one");
        self.faults.delay.store(delay, Ordering::Relaxed);
    }

    pub fn forget_requests(&self) {
        self.faults.requests.lock().expect("no panic inside").clear();
    }

    /// Method and path of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.faults.requests.lock().expect("no panic inside").clone()
    }

    pub fn open(&mut self) {
        assert!(self.open.is_none(), "it is open");
        let listener = UnixListener::bind(&self.path).expect("the socket is made");
        listener.set_nonblocking(true).expect("a socket option");
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (stopped, kept, faults) = (Arc::clone(&stop), Arc::clone(&connections), Arc::clone(&self.faults));
        let accepting = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        // Docker itself may be restarting; the client then sees a closed connection.
                        let _ = join(client, &kept, &faults);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
                    Err(error) => panic!("accept: {error}"),
                }
            }
        });
        self.open = Some(Open { stop, connections, accepting });
    }

    /// The socket is gone, and every connection through it is broken off.
    pub fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.stop.store(true, Ordering::Relaxed);
        let _ = std::fs::remove_file(&self.path);
        let _ = open.accepting.join();
        for connection in open.connections.lock().expect("no panic inside").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Threads that hold an answer back end.
        self.silence(false);
        self.silence_events(false);
        self.close();
    }
}

fn join(client: UnixStream, kept: &Mutex<Vec<UnixStream>>, faults: &Arc<Faults>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let engine = UnixStream::connect(DOCKER)?;
    kept.lock().expect("no panic inside").extend([client.try_clone()?, engine.try_clone()?]);
    let events = Arc::new(AtomicBool::new(false));
    let asked = Way {
        from: client.try_clone()?,
        to: engine.try_clone()?,
        faults: Arc::default(),
        events: events.clone(),
        noted: Some(faults.clone()),
    };
    let answered = Way { from: engine, to: client, faults: faults.clone(), events, noted: None };
    thread::spawn(move || asked.pass_on(true));
    thread::spawn(move || answered.pass_on(false));
    Ok(())
}

/// One direction of a connection.
struct Way {
    from: UnixStream,
    to: UnixStream,
    faults: Arc<Faults>,
    /// The connection carries an event stream.
    events: Arc<AtomicBool>,
    /// Where requests are noted.
    noted: Option<Arc<Faults>>,
}

impl Way {
    fn pass_on(mut self, requests: bool) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = self.from.read(&mut bytes) {
            let piece = &bytes[..length];
            if let Some(noted) = &self.noted {
                let line = String::from_utf8_lossy(piece).lines().next().unwrap_or_default().to_owned();
                // What is no head is the body of one.
                if let Some((request, _)) = line.split_once(" HTTP/1.1") {
                    noted.requests.lock().expect("no panic inside").push(request.to_owned());
                }
            }
            if requests && piece.windows(8).any(|window| window == b"/events?") {
                self.events.store(true, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(self.faults.delay.load(Ordering::Relaxed)));
            while self.silent() {
                thread::sleep(Duration::from_millis(5));
            }
            if self.to.write_all(piece).is_err() {
                break;
            }
        }
        // Half: the other direction may still have an answer under way.
        let _ = self.to.shutdown(Shutdown::Write);
    }

    fn silent(&self) -> bool {
        let of_events = self.events.load(Ordering::Relaxed) && self.faults.silent_events.load(Ordering::Relaxed);
        of_events || self.faults.silent.load(Ordering::Relaxed)
    }
}
