//! A Docker socket that can be taken away: a proxy in front of the real one. Stopping the machine's Docker would stop
//! everybody's.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const DOCKER: &str = "/var/run/docker.sock";

pub struct Proxy {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<UnixStream>>>,
    accepting: thread::JoinHandle<()>,
}

impl Proxy {
    /// Nothing listens yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    pub fn open(&mut self) {
        assert!(self.open.is_none(), "it is open");
        let listener = UnixListener::bind(&self.path).expect("the socket is made");
        listener.set_nonblocking(true).expect("a socket option");
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&connections));
        let accepting = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        // Docker itself may be restarting; the client then sees a closed connection.
                        let _ = join(client, &kept);
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
        self.close();
    }
}

fn join(client: UnixStream, kept: &Mutex<Vec<UnixStream>>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let engine = UnixStream::connect(DOCKER)?;
    kept.lock().expect("no panic inside").extend([client.try_clone()?, engine.try_clone()?]);
    for (mut from, mut to) in [(client.try_clone()?, engine.try_clone()?), (engine, client)] {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            // Half: the other direction may still have an answer under way.
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
