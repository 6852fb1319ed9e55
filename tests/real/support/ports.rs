//! Ports of a test's own, beside other tests, other test runs and a demo.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

/// Below the ports that the kernel gives to outgoing connections, which could take one of ours at any moment.
const FIRST: u16 = 20_000;
const BLOCK: u16 = 40;
const BLOCKS: u16 = 300;

/// A block of neighbouring ports, because a range of host ports must be one.
pub struct Ports {
    base: u16,
    /// The last port of the block is listened on as long as the block is in use: that keeps other processes off.
    _claim: TcpListener,
}

impl Ports {
    pub fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let spread = u16::try_from(std::process::id() % u32::from(BLOCKS)).expect("fewer than BLOCKS");
        for _ in 0..BLOCKS {
            let block = (NEXT.fetch_add(1, Ordering::Relaxed) + spread) % BLOCKS;
            let base = FIRST + block * BLOCK;
            let Ok(claim) = TcpListener::bind((Ipv4Addr::LOCALHOST, base + BLOCK - 1)) else { continue };
            if (base..base + BLOCK - 1).all(free) {
                return Self { base, _claim: claim };
            }
        }
        panic!("no {BLOCK} free ports in a row from {FIRST} on");
    }

    /// `http.listen` of the daemon.
    pub fn http(&self) -> u16 {
        self.base
    }

    /// `nginx.probe`.
    pub fn probe(&self) -> u16 {
        self.base + 1
    }

    /// Consul's: HTTP, server, serf LAN, serf WAN.
    pub fn consul(&self) -> [u16; 4] {
        [self.base + 2, self.base + 3, self.base + 4, self.base + 5]
    }

    /// Consul's HTTPS.
    pub fn consul_tls(&self) -> u16 {
        self.base + 6
    }

    /// For the upstreams' `listen`, from 0 on.
    pub fn listen(&self, number: u16) -> u16 {
        assert!(number < 8, "the block has 8 ports to listen on");
        self.base + 8 + number
    }

    /// For published ports, from 0 on.
    pub fn published(&self, number: u16) -> u16 {
        assert!(number < 20, "the block has 20 ports to publish");
        self.base + 16 + number
    }
}

/// A port that is given out once in this process, and that nobody else takes while it runs: what the kernel gives to
/// whoever asks for any port could be another's before the server of the test is up.
pub fn fresh() -> u16 {
    static GIVEN: Mutex<(Vec<Ports>, u16)> = Mutex::new((Vec::new(), 0));
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (blocks, used) = &mut *given;
    if blocks.is_empty() || *used == BLOCK - 1 {
        blocks.push(Ports::claim());
        *used = 0;
    }
    *used += 1;
    blocks.last().expect("one was claimed").base + *used - 1
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}
