//! The built program: commands that end, and the daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{SOON, check, eventually, http, nginx, within};

/// No command of these tests takes so long; one that hangs must not hold the whole run up.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub line: String,
    /// `None`: it was ended, or killed by us.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self
    }

    /// Both streams: where a sentence goes is not the point of every test.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        let both = format!("{}{}", self.stdout, self.stderr);
        assert!(both.contains(words), "{} does not say {words:?}:\n{both}", self.line);
        self
    }

    /// `(object, action)` of each action that `apply` reports as done.
    pub fn done(&self) -> Vec<(String, String)> {
        let lines = self.stderr.lines().filter_map(|line| {
            let (rest, _) = line.strip_prefix("  ")?.rsplit_once(" (")?;
            line.ends_with(" ms)").then_some(())?;
            let (object, action) = rest.rsplit_once(": ")?;
            Some((object.to_owned(), action.replace(' ', "_")))
        });
        lines.collect()
    }
}

/// The program with nothing of this machine's settings or of the caller's environment.
fn program(folder: &Path, settings: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("HOME", folder).arg("--config").arg(settings);
    command
}

/// Runs a command to its end.
pub fn run(folder: &Path, settings: &Path, arguments: &[&str]) -> Outcome {
    begin(folder, settings, arguments).wait()
}

/// Runs a command as if on another machine, in namespaces of its own for what is another one there: its name, or its id.
pub fn run_elsewhere(folder: &Path, settings: &Path, host: &Elsewhere<'_>, arguments: &[&str]) -> Outcome {
    let plain = program(folder, settings);
    let mut command = Command::new("unshare");
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let id = folder.join("machine-id");
    match host {
        Elsewhere::Named(name) => {
            command.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", *name]);
        }
        Elsewhere::Machine(machine) => {
            fs::write(&id, format!("{machine}\n")).expect("a file");
            command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/machine-id && exec \"$@\""]).arg(&id);
        }
    }
    command.arg(plain.get_program()).args(plain.get_args()).args(arguments);
    spawn(command, folder, format!("on {host:?}: reeve {}", arguments.join(" "))).wait()
}

#[derive(Debug)]
pub enum Elsewhere<'a> {
    /// By the kernel's name of the host.
    Named(&'a str),
    /// By the machine's id; of the same name.
    Machine(&'a str),
}

/// Runs a command that dies after an action: so many actions (`3`), or the first one of a kind (`register`).
pub fn run_until_crash(folder: &Path, settings: &Path, point: &str, arguments: &[&str]) -> Outcome {
    let mut command = program(folder, settings);
    command.env("CRASH_AFTER", point).args(arguments);
    spawn(command, folder, format!("CRASH_AFTER={point} reeve {}", arguments.join(" "))).wait()
}

/// A command that has been started.
pub struct Begun {
    line: String,
    child: Child,
    // Files, because a pipe that nobody reads stops the program when it is full.
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
}

pub fn begin(folder: &Path, settings: &Path, arguments: &[&str]) -> Begun {
    let mut command = program(folder, settings);
    command.args(arguments);
    spawn(command, folder, format!("reeve {}", arguments.join(" ")))
}

fn spawn(mut command: Command, folder: &Path, line: String) -> Begun {
    let output = tempfile::Builder::new().prefix("output-").tempdir_in(folder).expect("a folder").keep();
    let (stdout, stderr) = (output.join("stdout"), output.join("stderr"));
    let child = command
        .stdout(File::create(&stdout).expect("a file"))
        .stderr(File::create(&stderr).expect("a file"))
        .spawn()
        .expect("the program can be run");
    Begun { line, child, stdout, stderr, started: Instant::now() }
}

impl Begun {
    pub fn wait(mut self) -> Outcome {
        let status = end(&mut self.child, COMMAND_LIMIT);
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        Outcome {
            line: self.line.clone(),
            code: status.and_then(|status| status.code()),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            took: self.started.elapsed(),
        }
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        nginx::send(i32::try_from(self.child.id()).expect("a pid"), signal);
    }
}

/// Waits for the end; kills it at the limit, and says so.
fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        if started.elapsed() > limit {
            eprintln!("the program (pid {}) did not end within {} s, and is killed", child.id(), limit.as_secs());
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running `reeve run`. Dropped, it is ended.
pub struct Daemon {
    child: Child,
    pub log: PathBuf,
    port: u16,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::TERM);
            let _ = end(&mut self.child, Duration::from_secs(5));
        }
    }
}

impl Daemon {
    /// `port`: of `http.listen`.
    pub fn start(folder: &Path, settings: &Path, port: u16, arguments: &[&str]) -> Self {
        let log = folder.join("reeve.log");
        let file = File::options().create(true).append(true).open(&log).expect("the log is made");
        let child = program(folder, settings)
            .arg("run")
            .args(arguments)
            .stdout(file.try_clone().expect("a handle"))
            .stderr(file)
            .spawn()
            .expect("the program can be run");
        Self { child, log, port }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        nginx::send(i32::try_from(self.child.id()).expect("a pid"), signal);
    }

    /// Signals it, and waits for the end.
    pub fn end(mut self, signal: Signal) -> (Option<i32>, Duration) {
        let started = Instant::now();
        self.signal(signal);
        let status = end(&mut self.child, Duration::from_secs(15));
        (status.and_then(|status| status.code()), started.elapsed())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn logs(&self, words: &str) -> Result<(), String> {
        let log = self.log();
        check(log.contains(words), || format!("{words:?} is not in the log:\n{log}"))
    }

    /// It must not have died or been started anew in a test that says "without a restart".
    #[track_caller]
    pub fn lives(&mut self) {
        let ended = self.child.try_wait().expect("a child of ours");
        assert_eq!(ended, None, "the daemon ended:\n{}", self.log());
    }

    pub fn get(&self, path: &str) -> Result<http::Answer, String> {
        http::get(self.port, path).map_err(|error| format!("{path}: {error}"))
    }

    /// `/v1/status`.
    pub fn status(&self) -> Result<Value, String> {
        let answer = self.get("/v1/status")?;
        check(answer.status == 200, || answer.body.clone())?;
        Ok(answer.json())
    }

    /// The value of a series, by the beginning of its line up to the value: `reeve_drift_total{system="docker"}`.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").expect("the daemon answers").body;
        value(&text, series).unwrap_or_else(|| panic!("no series {series} in\n{text}"))
    }

    /// Waits until a series has this value: a pass tells its figures when it has ended.
    #[track_caller]
    pub fn metric_becomes(&self, series: &str, wanted: f64) {
        eventually(&format!("{series} {wanted}"), || {
            let text = self.get("/metrics")?.body;
            let seen = value(&text, series);
            check(seen.is_some_and(|seen| (seen - wanted).abs() < f64::EPSILON), || format!("{seen:?}"))
        });
    }

    /// Passes of any result.
    #[track_caller]
    pub fn passes(&self) -> f64 {
        ["idle", "applied", "failed"]
            .iter()
            .map(|result| self.metric(&format!("reeve_passes_total{{result=\"{result}\"}}")))
            .sum()
    }

    /// Waits for that many more passes: at the longest, one for each time that the loop looks without being woken.
    #[track_caller]
    pub fn makes_passes(&self, more: u32) {
        let before = self.passes();
        within(SOON * more, &format!("{more} more passes"), || {
            let now = self.passes();
            check(now >= before + f64::from(more), || format!("{} passes", now - before))
        });
    }

    #[track_caller]
    pub fn drift(&self, system: &str) -> f64 {
        self.metric(&format!("reeve_drift_total{{system=\"{system}\"}}"))
    }

    /// Everything is as the spec says: no steps, nothing that blocks, every service complete.
    pub fn converged(&self) -> Result<(), String> {
        converged(&self.status()?)
    }

    /// Some object waits, and its reason has these words. The whole `object: reason`.
    pub fn waits(&self, words: &[&str]) -> Result<String, String> {
        waiting(&self.status()?, words)
    }
}

pub fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// All that waits, as `object: reason`.
pub fn all_waiting(status: &Value) -> Vec<String> {
    let places = list(status, "services").chain(list(status, "upstreams"));
    let places = places.chain(list(status, "templates")).chain([status]);
    let waiting = places.flat_map(|place| list(place, "waiting"));
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    waiting.map(|one| format!("{}: {}", text(one, "object"), text(one, "reason"))).collect()
}

pub fn waiting(status: &Value, words: &[&str]) -> Result<String, String> {
    let all = all_waiting(status);
    let found = all.iter().find(|line| words.iter().all(|word| line.contains(word)));
    found.cloned().ok_or_else(|| format!("nothing waits with {words:?}, but:\n  {}", all.join("\n  ")))
}

pub fn converged(status: &Value) -> Result<(), String> {
    let waiting = all_waiting(status);
    check(status["steps"] == 0 && waiting.is_empty(), || {
        format!("{} steps; waiting:\n  {}", status["steps"], waiting.join("\n  "))
    })?;
    for backend in list(status, "backends") {
        check(backend["known"] == true, || format!("{backend}"))?;
    }
    for service in list(status, "services") {
        let wanted = &service["desired"];
        for figure in ["running", "healthy", "registered", "routed"] {
            // Null: it makes no sense for this service.
            check(service[figure].is_null() || service[figure] == *wanted, || format!("{figure}: {service}"))?;
        }
    }
    Ok(())
}
