//! Processes of nginx as `/proc` shows them: the master, its workers, workers without a master, who listens where.
//!
//! Owns the reading of `/proc`. It must not signal anybody, and it believes a process id only after it has looked what
//! runs under it: a pid file may be stale, and its number taken by something else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// A process, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Clock ticks since boot: with the pid, an identity that is not used twice.
    pub started: u64,
    /// What the process calls itself.
    pub title: String,
}

/// What a process of nginx is for, by its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    Worker,
    /// A worker that finishes its last requests and accepts no new ones.
    RetiringWorker,
    /// The cache manager and loader.
    Helper,
    NotNginx,
}

impl Process {
    pub fn role(&self) -> Role {
        let Some(title) = self.title.strip_prefix("nginx: ") else { return Role::NotNginx };
        if title.starts_with("master process") {
            Role::Master
        } else if title.starts_with("worker process is shutting down") {
            Role::RetiringWorker
        } else if title.starts_with("worker process") {
            Role::Worker
        } else if title.starts_with("cache manager process") || title.starts_with("cache loader process") {
            Role::Helper
        } else {
            Role::NotNginx
        }
    }

    /// The identity: a pid is used again, a pid with its start is not.
    pub fn key(&self) -> (i32, u64) {
        (self.pid, self.started)
    }
}

/// A living process; `None` when it is gone or a zombie.
pub fn read(pid: i32) -> Option<Process> {
    if pid <= 0 {
        return None;
    }
    let stat = from_proc(&format!("/proc/{pid}/stat")).ok()?;
    // Its second field may hold anything.
    let mut process = parse_stat(&String::from_utf8_lossy(&stat))?;
    let title = from_proc(&format!("/proc/{pid}/cmdline")).ok()?;
    let title = title.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    process.title = title.trim_end().to_owned();
    Some(process)
}

/// A file of `/proc`, which tells no length: without room for all of it, it would be read in a dozen small pieces, and a look
/// reads dozens of them.
fn from_proc(path: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Fields of `/proc/<pid>/stat`. The second one, in brackets, may hold anything, brackets and blanks too.
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(' ')?;
    let fields: Vec<&str> = rest.get(rest.rfind(')')? + 1..)?.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X" | "x") {
        return None;
    }
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i32>().ok());
    Some(Process {
        pid: pid.parse().ok()?,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        started: fields.get(19)?.parse().ok()?,
        title: String::new(),
    })
}

/// Every process of nginx on this host, by pid. One look through all of `/proc`.
pub fn all_of_nginx() -> BTreeMap<i32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            // The title first: of nearly every process that is all that has to be read.
            let title = from_proc(&format!("/proc/{pid}/cmdline")).ok()?;
            title.starts_with(b"nginx: ").then_some(pid)
        })
        .filter_map(|pid| Some((pid, read(pid)?)))
        .collect()
}

/// A master and its children: without a look through all of `/proc` where the kernel lists children.
pub fn family(master: i32) -> BTreeMap<i32, Process> {
    match from_proc(&format!("/proc/{master}/task/{master}/children")) {
        Ok(children) => {
            let children = String::from_utf8_lossy(&children);
            let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            std::iter::once(master).chain(children).filter_map(|pid| Some((pid, read(pid)?))).collect()
        }
        Err(_) => all_of_nginx(),
    }
}

/// A master that lives.
pub fn live_master(pid: i32) -> Option<Process> {
    read(pid).filter(|process| process.role() == Role::Master)
}

/// The workers of a master that accept requests, and those that retire.
pub fn workers(of_nginx: &BTreeMap<i32, Process>, master: i32) -> (Vec<Process>, Vec<Process>) {
    let mut serving = Vec::new();
    let mut retiring = Vec::new();
    for process in of_nginx.values().filter(|process| process.parent == master) {
        match process.role() {
            Role::Worker => serving.push(process.clone()),
            Role::RetiringWorker => retiring.push(process.clone()),
            Role::Master | Role::Helper | Role::NotNginx => {}
        }
    }
    (serving, retiring)
}

/// Is it a worker or helper of nginx whose master is gone?
pub fn is_orphan(process: &Process, of_nginx: &BTreeMap<i32, Process>) -> bool {
    let child = matches!(process.role(), Role::Worker | Role::RetiringWorker | Role::Helper);
    child && !of_nginx.get(&process.parent).is_some_and(|parent| parent.role() == Role::Master)
}

/// Orphans of one nginx: those of the session of `witness` (a worker that answered the probe), and those that the master
/// of a stale pid file has left.
pub fn orphans(of_nginx: &BTreeMap<i32, Process>, witness: Option<i32>, stale_master: Option<i32>) -> Vec<i32> {
    let session = witness.and_then(|pid| of_nginx.get(&pid)).map(|process| (process.session, process.group));
    of_nginx
        .values()
        .filter(|process| is_orphan(process, of_nginx))
        .filter(|process| {
            session == Some((process.session, process.group))
                || stale_master.is_some_and(|master| process.session == master || process.group == master)
        })
        .map(|process| process.pid)
        .collect()
}

/// Groups of processes that were started together: one reload starts all of its workers within moments.
pub fn batches(processes: &[Process]) -> usize {
    /// Half a second, in the ticks of every Linux that Debian ships (100 a second).
    const GAP: u64 = 50;
    let starts: BTreeSet<u64> = processes.iter().map(|process| process.started).collect();
    let gaps = starts.iter().zip(starts.iter().skip(1)).filter(|(one, next)| *next - *one > GAP).count();
    if starts.is_empty() { 0 } else { gaps + 1 }
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningSocket {
    pub address: IpAddr,
    pub port: u16,
    pub inode: u64,
}

/// Every TCP socket that listens in this network namespace.
pub fn listening() -> Vec<ListeningSocket> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(parse_socket).collect::<Vec<_>>())
        .collect()
}

fn parse_socket(line: &str) -> Option<ListeningSocket> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    // Words of 32 bits, each in the host's byte order.
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .filter_map(|index| u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok())
        .map(u32::to_ne_bytes)
        .collect();
    let address = match words.as_slice() {
        [one] => IpAddr::V4(Ipv4Addr::from(*one)),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(word);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(ListeningSocket { address, port: u16::from_str_radix(port, 16).ok()?, inode: fields.get(9)?.parse().ok()? })
}

/// Inodes of the sockets that a process holds; empty when it may not be looked at.
pub fn sockets_of(pid: i32) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| socket_inode(&fs::read_link(entry.path()).ok()?)).collect()
}

fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Who holds a socket, for a person: `docker-proxy (pid 812)`. Looks through every process that may be looked at.
pub fn holder(inode: u64) -> Option<String> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids {
        if sockets_of(pid).contains(&inode) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32, title: &str) -> Process {
        Process { pid, parent, group, session: group, started: 100, title: title.to_owned() }
    }

    fn table(all: Vec<Process>) -> BTreeMap<i32, Process> {
        all.into_iter().map(|process| (process.pid, process)).collect()
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_process_calls_itself() {
        let line = "12 (a) b (c) S 1 12 11 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 100 5";
        let process = parse_stat(line).expect("a process");
        assert_eq!((process.pid, process.parent, process.group, process.session), (12, 1, 12, 11));
        assert_eq!(process.started, 4711);
        assert_eq!(parse_stat(&line.replace(" S ", " Z ")), None, "a zombie does not live");
    }

    #[test]
    fn this_process_is_seen_and_is_not_nginx() {
        let own = read(i32::try_from(std::process::id()).expect("a pid")).expect("this process lives");
        assert_eq!(own.role(), Role::NotNginx);
        assert!(own.started > 0);
        assert_eq!(live_master(own.pid), None);
    }

    #[test]
    fn only_workers_of_the_lost_master_are_its_orphans() {
        let all = table(vec![
            process(10, 1, 10, "nginx: master process nginx"),
            process(11, 10, 10, "nginx: worker process"),
            process(20, 1, 19, "nginx: worker process"),
            process(21, 1, 19, "nginx: cache manager process"),
            process(30, 1, 29, "nginx: worker process"),
        ]);
        assert_eq!(orphans(&all, None, Some(19)), [20, 21]);
        assert_eq!(orphans(&all, Some(30), None), [30]);
        assert_eq!(orphans(&all, None, Some(10)), Vec::<i32>::new(), "its master lives");
        assert_eq!(orphans(&all, None, None), Vec::<i32>::new());
    }

    #[test]
    fn workers_are_told_apart_by_their_titles() {
        let all = table(vec![
            process(11, 10, 10, "nginx: worker process"),
            process(12, 10, 10, "nginx: worker process is shutting down"),
            process(13, 10, 10, "nginx: cache manager process"),
            process(14, 9, 10, "nginx: worker process"),
        ]);
        let (serving, retiring) = workers(&all, 10);
        assert_eq!(serving.iter().map(|process| process.pid).collect::<Vec<_>>(), [11]);
        assert_eq!(retiring.iter().map(|process| process.pid).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn workers_started_together_are_one_generation() {
        let at = |started| Process { started, ..process(1, 1, 1, "") };
        assert_eq!(batches(&[]), 0);
        assert_eq!(batches(&[at(100), at(101), at(120)]), 1);
        assert_eq!(batches(&[at(100), at(300), at(301)]), 2);
    }

    #[test]
    fn a_listening_socket_is_found_with_its_holder() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let socket = listening().into_iter().find(|socket| socket.port == port).expect("it listens");
        assert_eq!(socket.address, IpAddr::from([127, 0, 0, 1]));
        let holder = holder(socket.inode).expect("this process holds it");
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    }

    #[test]
    fn an_ipv6_address_is_read_in_its_order() {
        let line =
            "0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 77 1";
        let socket = parse_socket(line).expect("listens");
        if cfg!(target_endian = "little") {
            assert_eq!(socket.address, IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
        assert_eq!((socket.port, socket.inode), (8080, 77));
    }
}
