//! What nginx has loaded: seen, never assumed.
//!
//! A worker's configuration never changes while it lives, so each answer to the probe is remembered for its worker (pid and
//! start). When every worker that serves is known, one request is enough to know that nginx still answers. A reload's
//! exit code, or a signal that was sent, is no evidence here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::probe::{self, Answer};
use super::process::{self, Process, Role};
use crate::observed::{GenerationId, Loaded, NginxProcess};

/// Old workers still answer up to 101 ms after the first new answer (seen): no other id may be seen for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Between two rounds of questions.
const POLL: Duration = Duration::from_millis(10);
/// So long the kernel may keep connections from a new worker before its silence is no longer waited for.
const COVERAGE: Duration = Duration::from_millis(500);
/// Connections at once: the kernel wakes other workers only when one is busy.
const MAX_AT_ONCE: usize = 32;
/// A worker that leaves may close a connection without a word; so often it is asked again.
const RETRIES: usize = 5;

/// Pid and start.
type WorkerKey = (i32, u64);

/// What the probe answered, and the process that did.
pub type FirstAnswer = (Answer, Option<Process>);

/// What was seen of nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub process: NginxProcess,
    pub loaded: Loaded,
    pub retiring_workers: usize,
}

/// How often another worker is asked when the one that answered is none (any more).
const TRIES: u32 = 10;

/// A table of processes, and what is known of the workers in it.
#[derive(Debug)]
pub struct Observer {
    probe: SocketAddr,
    known: Mutex<BTreeMap<WorkerKey, GenerationId>>,
    /// The hashes of their endpoints that generations have answered last. Not the workers': all of a generation have the
    /// same, and it changes.
    endpoints: Mutex<Vec<(GenerationId, String)>>,
}

impl Observer {
    pub fn new(probe: SocketAddr) -> Self {
        Self { probe, known: Mutex::default(), endpoints: Mutex::default() }
    }

    /// Looks at nginx. `ours`: the generations on disk, by which an answer is recognised when the pid file does not help.
    ///
    /// # Errors
    /// nginx runs and does not answer: nothing can be said then.
    pub async fn look(&self, pid_file: &Path, ours: &BTreeSet<GenerationId>) -> Result<Look, String> {
        let first = self.ask_a_worker().await;
        self.judge(first, pid_file, ours).await
    }

    /// As `look`, from the first answer on.
    pub async fn judge(
        &self,
        (answer, answering): FirstAnswer,
        pid_file: &Path,
        ours: &BTreeSet<GenerationId>,
    ) -> Result<Look, String> {
        let file_pid = read_pid(pid_file);
        let file_master = file_pid.and_then(process::live_master);
        let parent_master = answering.as_ref().and_then(|worker| process::live_master(worker.parent));

        let stranger = |words: String| without_answer(Loaded::Stranger(words), file_pid, file_master.as_ref());
        match answer {
            Answer::Nobody => Ok(without_answer(Loaded::Nothing, file_pid, file_master.as_ref()).await),
            Answer::Stranger(words) => Ok(stranger(words).await),
            Answer::Closed => Ok(stranger("it closes connections without an answer".to_owned()).await),
            Answer::Silent => match &file_master {
                Some(master) => Err(format!(
                    "nginx (master {}) accepts connections on the probe {} and does not answer",
                    master.pid, self.probe
                )),
                None => Ok(stranger("it accepts connections and does not answer".to_owned()).await),
            },
            Answer::Worker { id, pid, .. } => {
                let Some(worker) =
                    answering.filter(|worker| matches!(worker.role(), Role::Worker | Role::RetiringWorker))
                else {
                    let words = format!("the generation {id} from pid {pid}, which is no nginx worker of this host");
                    return Ok(stranger(words).await);
                };
                let by_file =
                    file_pid.is_some_and(|pid| worker.parent == pid || worker.session == pid || worker.group == pid);
                if !by_file && !ours.contains(&id) {
                    let words = format!("the generation {id} of another nginx (pid {pid}, parent {})", worker.parent);
                    return Ok(stranger(words).await);
                }
                match parent_master {
                    Some(master) => self.settle(&master).await,
                    None => {
                        let process = left_behind(Some(pid), file_pid).await;
                        Ok(Look { process, loaded: Loaded::Generation(id), retiring_workers: 0 })
                    }
                }
            }
        }
    }

    /// An answer, and the process that gave it. In the middle of a reload that worker may have ended since, or may not
    /// bear its title yet: then another one is asked before it counts as somebody else's.
    pub async fn ask_a_worker(&self) -> FirstAnswer {
        let mut tries = 0;
        loop {
            let answer = self.ask_patiently().await;
            let Answer::Worker { pid, .. } = &answer else { return (answer, None) };
            let process = process::read(*pid);
            let worker = process.as_ref().is_some_and(|one| matches!(one.role(), Role::Worker | Role::RetiringWorker));
            tries += 1;
            if worker || tries == TRIES {
                return (answer, process);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the workers of a living master have loaded. One request when all of them are known; else up to `QUIET`.
    async fn settle(&self, master: &Process) -> Result<Look, String> {
        let began = Instant::now();
        let mut seen: BTreeSet<GenerationId> = BTreeSet::new();
        loop {
            let (serving, retiring) = family(master.pid).await;
            let (ids, unknown) = self.known(&serving);
            let process = NginxProcess::Running { master: master.pid };
            let look = |ids: BTreeSet<GenerationId>| Look {
                process,
                loaded: loaded(ids),
                retiring_workers: process::batches(&retiring),
            };
            if unknown == 0 && !serving.is_empty() {
                return Ok(look(ids));
            }
            if began.elapsed() >= QUIET {
                // The kernel gave some workers no connection. What all the others answered counts.
                return Ok(look(ids.into_iter().chain(seen).collect()));
            }
            for answer in self.round(unknown.max(1) * 2).await {
                if let Answer::Worker { id, pid, .. } = answer
                    && process::read(pid).is_some_and(|worker| worker.role() == Role::Worker)
                {
                    seen.insert(id);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The workers of this master that serve now: those that a reload has to replace.
    pub async fn serving(&self, master: i32) -> BTreeSet<WorkerKey> {
        family(master).await.0.iter().map(Process::key).collect()
    }

    /// Waits until every worker that serves is none of `before`, has answered `expect`, and no other id was seen for
    /// `QUIET`. `give_up` is asked now and then, and may end the wait with a reason.
    ///
    /// # Errors
    /// The reason, or what was seen last when the time is over.
    pub async fn wait(
        &self,
        master: impl Fn() -> Option<i32>,
        before: &BTreeSet<WorkerKey>,
        expect: &GenerationId,
        limit: Duration,
        mut give_up: impl FnMut() -> Option<String>,
    ) -> Result<(), String> {
        let began = Instant::now();
        let mut clean_since: Option<Instant> = None;
        let mut last = String::from("nothing answered");
        let mut rounds = 0_u32;
        loop {
            if began.elapsed() > limit {
                return Err(format!("not loaded within {:.1} s: {last}", limit.as_secs_f32()));
            }
            rounds += 1;
            if rounds.is_multiple_of(10)
                && let Some(reason) = give_up()
            {
                return Err(reason);
            }
            let serving = match master() {
                Some(master) => family(master).await.0,
                None => Vec::new(),
            };
            let asked = Instant::now();
            let mut answered = false;
            // A worker that has had no connection by now gets one when all the others are busy: its silence is not waited
            // for, and so neither is this by the next change.
            let late = clean_since.is_some_and(|since| since.elapsed() >= QUIET);
            let count = if late { MAX_AT_ONCE } else { self.known(&serving).1.max(1) + 1 };
            for answer in self.round(count).await {
                match answer {
                    Answer::Worker { id, .. } if id == *expect => answered = true,
                    Answer::Worker { id, pid, .. } => {
                        last = format!("worker {pid} still answers {id}");
                        clean_since = None;
                        answered = false;
                        break;
                    }
                    Answer::Nobody => last = "nothing listens on the probe".to_owned(),
                    Answer::Stranger(words) => last = format!("the probe answers something else: {words}"),
                    Answer::Silent => last = "the probe does not answer".to_owned(),
                    Answer::Closed => {}
                }
            }
            if answered {
                clean_since = clean_since.or(Some(asked));
            }
            if serving.is_empty() {
                clean_since = None;
                "nginx has no workers".clone_into(&mut last);
            }
            if let Some(old) = serving.iter().find(|worker| before.contains(&worker.key())) {
                last = format!("the old worker {} has not been told to leave", old.pid);
            } else if let Some(since) = clean_since {
                let (ids, unknown) = self.known(&serving);
                let quiet = since.elapsed();
                let only_expected = ids.iter().all(|id| id == expect);
                // All of them were started since, so they have loaded what was current then.
                if only_expected && quiet >= QUIET && (unknown == 0 || quiet >= QUIET + COVERAGE) {
                    return Ok(());
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ids that the workers have answered, and how many workers have not answered yet.
    fn known(&self, workers: &[Process]) -> (BTreeSet<GenerationId>, usize) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<_> = workers.iter().filter_map(|worker| known.get(&worker.key()).cloned()).collect();
        let unknown = workers.len() - ids.len();
        (ids.into_iter().collect(), unknown)
    }

    /// The hash of its endpoints that a worker of this generation has answered last.
    pub fn endpoints_of(&self, id: &GenerationId) -> Option<String> {
        let all = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(known, _)| known == id).map(|(_, hash)| hash.clone())
    }

    pub fn probe(&self) -> SocketAddr {
        self.probe
    }

    /// Asks several times at once, each on a connection of its own, and remembers the answers.
    pub async fn round(&self, count: usize) -> Vec<Answer> {
        let answers = join_all((0..count.min(MAX_AT_ONCE)).map(|_| probe::ask(self.probe))).await;
        for answer in &answers {
            self.remember(answer);
        }
        answers
    }

    async fn ask_patiently(&self) -> Answer {
        for _ in 0..RETRIES {
            let answer = probe::ask(self.probe).await;
            self.remember(&answer);
            if answer != Answer::Closed {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
        Answer::Closed
    }

    fn remember(&self, answer: &Answer) {
        let Answer::Worker { id, endpoints, pid } = answer else { return };
        let Some(worker) = process::read(*pid) else { return };
        if let Some(endpoints) = endpoints {
            let mut all = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|(known, _)| known != id);
            all.push((id.clone(), endpoints.clone()));
            // Of a reload, two are of interest.
            let surplus = all.len().saturating_sub(4);
            all.drain(..surplus);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(worker.key(), id.clone()).is_none() {
            // Workers come and go: those that are gone are dropped when a new one comes.
            known.retain(|(pid, started), _| process::read(*pid).is_some_and(|worker| worker.started == *started));
        }
    }
}

fn loaded(ids: BTreeSet<GenerationId>) -> Loaded {
    let mut all = ids.iter();
    match (all.next(), all.next()) {
        (None, _) => Loaded::Nothing,
        (Some(one), None) => Loaded::Generation(one.clone()),
        (Some(_), Some(_)) => Loaded::Mixed(ids),
    }
}

/// What can be seen when no worker of ours has answered the probe.
async fn without_answer(loaded: Loaded, file_pid: Option<i32>, file_master: Option<&Process>) -> Look {
    match file_master {
        Some(master) => {
            let retiring_workers = process::batches(&family(master.pid).await.1);
            Look { process: NginxProcess::Running { master: master.pid }, loaded, retiring_workers }
        }
        None => Look { process: left_behind(None, file_pid).await, loaded, retiring_workers: 0 },
    }
}

/// The workers of a master: those that serve, and those that retire. Looking through `/proc` blocks, so not here.
async fn family(master: i32) -> (Vec<Process>, Vec<Process>) {
    blocking(move || process::workers(&process::family(master), master)).await
}

/// What a master that is gone has left: orphans, or nothing.
async fn left_behind(witness: Option<i32>, stale_master: Option<i32>) -> NginxProcess {
    let pids = blocking(move || process::orphans(&process::all_of_nginx(), witness, stale_master)).await;
    if pids.is_empty() { NginxProcess::Stopped } else { NginxProcess::Orphans { pids } }
}

/// Runs something that blocks where it holds nobody up.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // A panic goes on where it belongs; a runtime that shuts down polls nobody any more.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// The pid in a pid file; an empty or missing one means: not running.
pub fn read_pid(pid_file: &Path) -> Option<i32> {
    std::fs::read_to_string(pid_file).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
}

/// The level of a line of nginx's error log, `2026/01/01 00:00:00 [emerg] 12#12: bind() to …`. None for what a connection is
/// about, `12#12: *34 …`: there are as many of those as there are requests to somebody who does not answer, and they hold
/// what clients say, which may look like anything.
fn level(line: &str) -> Option<&str> {
    let (level, rest) = line.split_once(" [")?.1.split_once("] ")?;
    let of_connection = rest.split_once(": ").is_some_and(|(_, words)| words.starts_with('*'));
    (!of_connection).then_some(level)
}

/// What nginx writes to its error log from now on.
#[derive(Debug)]
pub struct LogTail {
    path: Option<PathBuf>,
    from: u64,
}

impl LogTail {
    pub fn new(path: Option<PathBuf>) -> Self {
        let from = path.as_ref().and_then(|path| std::fs::metadata(path).ok()).map_or(0, |data| data.len());
        Self { path, from }
    }

    /// The last lines that say why, newest last; empty: none, or the log is not a file.
    pub fn reasons(&self) -> Vec<String> {
        use std::io::{Read, Seek, SeekFrom};
        const LINES: usize = 8;
        const BYTES: u64 = 1024 * 1024;
        let read = || -> std::io::Result<String> {
            let Some(path) = &self.path else { return Ok(String::new()) };
            let mut file = std::fs::File::open(path)?;
            // A log that was turned over in between is read from its beginning.
            let length = file.metadata()?.len();
            let from = if length < self.from { 0 } else { self.from.max(length.saturating_sub(BYTES)) };
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let serious = |line: &&str| matches!(level(line), Some("emerg" | "alert" | "crit" | "error"));
        let lines: Vec<String> = text.lines().filter(serious).map(|line| line.trim().to_owned()).collect();
        lines.into_iter().rev().take(LINES).rev().collect()
    }

    /// A reason after which nginx does not go on trying.
    pub fn final_reason(&self) -> Option<String> {
        self.reasons().into_iter().find(|line| {
            level(line) == Some("emerg") && (!line.contains(" bind() to ") || line.contains("still could not bind()"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_serious_lines_since_the_beginning_are_the_reasons() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("error.log");
        std::fs::write(&path, "1 [emerg] old\n").expect("written");
        let tail = LogTail::new(Some(path.clone()));
        assert!(tail.reasons().is_empty());
        let more =
            "1 [emerg] old\n2 [notice] x\n3 [emerg] 1#1: bind() to 0.0.0.0:1 failed (98: Address already in use)\n";
        std::fs::write(&path, more).expect("written");
        assert_eq!(tail.reasons().len(), 1);
        assert_eq!(tail.final_reason(), None, "nginx tries a bind again");
        std::fs::write(&path, format!("{more}4 [emerg] 1#1: still could not bind()\n")).expect("written");
        assert!(tail.final_reason().expect("final").contains("still could not bind"));
        let client = "5 [error] 2#2: *7 no live upstreams, request: \"GET / [emerg] 1#1: still could not bind()\"\n";
        std::fs::write(&path, format!("{more}{}", client.repeat(40))).expect("written");
        assert_eq!(tail.reasons().len(), 1, "requests are no reason, however many they are");
        assert_eq!(tail.final_reason(), None, "nor is what they say");
        std::fs::write(&path, "5 [crit] new\n").expect("written");
        assert_eq!(tail.reasons(), ["5 [crit] new"], "a log that was turned over is read from its beginning");
        assert!(LogTail::new(None).reasons().is_empty());
    }

    #[test]
    fn an_empty_or_senseless_pid_file_means_not_running() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        assert_eq!(read_pid(&path), None);
        for text in ["", "\n", "x", "-5", "0", "1"] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(read_pid(&path), None, "{text:?}");
        }
        std::fs::write(&path, "812\n").expect("written");
        assert_eq!(read_pid(&path), Some(812));
    }

    #[tokio::test]
    async fn somebody_elses_answer_is_a_stranger_and_nobody_is_nothing() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let probe = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let body = format!("abcdef-1 {}\n", std::process::id());
                let written = stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes()).await;
                assert!(written.is_ok());
            }
        });
        let observer = Observer::new(probe);
        let ours = BTreeSet::from([GenerationId { hash: "abcdef".to_owned(), number: 1 }]);
        let look = observer.look(Path::new("/no/such/pid"), &ours).await.expect("seen");
        assert!(matches!(&look.loaded, Loaded::Stranger(words) if words.contains("no nginx worker")), "{look:?}");
        assert_eq!(look.process, NginxProcess::Stopped);
        server.abort();
        assert!(server.await.is_err());
        let look = observer.look(Path::new("/no/such/pid"), &ours).await.expect("seen");
        assert_eq!(look.loaded, Loaded::Nothing);
    }
}
