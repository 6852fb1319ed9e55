//! A proxy in front of Consul that counts the requests and the connections which are open at once. What goes through it by
//! TLS has no requests that it could count.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    stop: AtomicBool,
}

pub struct Counter {
    pub port: u16,
    counts: Arc<Counts>,
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
    }
}

impl Counter {
    pub fn before(consul: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let port = listener.local_addr().expect("an address").port();
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        thread::spawn(move || {
            while !counted.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => drop(join(client, consul, &counted)),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { port, counts }
    }

    /// Requests so far, and kilobytes of their answers.
    pub fn requests(&self) -> (usize, usize) {
        (self.counts.requests.load(Ordering::Relaxed), self.counts.bytes.load(Ordering::Relaxed) / 1000)
    }

    pub fn most_connections(&self) -> usize {
        self.counts.most_open.load(Ordering::Relaxed)
    }
}

fn join(client: TcpStream, consul: u16, counts: &Arc<Counts>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    let agent = TcpStream::connect((Ipv4Addr::LOCALHOST, consul))?;
    agent.set_nodelay(true)?;
    let open = counts.open.fetch_add(1, Ordering::Relaxed) + 1;
    counts.most_open.fetch_max(open, Ordering::Relaxed);
    let (asked, answered) = (counts.clone(), counts.clone());
    let (from, to) = (client.try_clone()?, agent.try_clone()?);
    // A request's head is one piece: it is small, and the next is sent after the answer.
    thread::spawn(move || pass_on(from, to, |_| _ = asked.requests.fetch_add(1, Ordering::Relaxed)));
    thread::spawn(move || {
        pass_on(agent, client, |length| _ = answered.bytes.fetch_add(length, Ordering::Relaxed));
        answered.open.fetch_sub(1, Ordering::Relaxed);
    });
    Ok(())
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, count: impl Fn(usize)) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        count(length);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
