//! What follows a changed file: a command with a time limit and its own process group, and a signal.
//!
//! A command that hangs is killed with everything that it started; what it wrote last is in the error. It gets the daemon's
//! environment without what is reeve's own, which may hold credentials.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::record::Records;
use crate::backend::docker::Docker;
use crate::observed::{TemplateRecord, TemplateStage};
use crate::plan::action::TemplateRun;
use crate::spec::template::{CommandLine, SignalTarget, TemplateSignal};
use crate::world::ActionError;

/// What is kept of a command's output, in bytes: its end.
const LONGEST_TAIL: usize = 4096;
/// Lines of it that an error shows.
const MOST_LINES: usize = 12;
/// How long the output of a command that has ended may still come. Whoever inherited it may keep it open for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs the command, then sends the signal, and takes the marks off.
pub(super) async fn follow_up(records: &Records, run: &TemplateRun, docker: &Docker) -> Result<(), ActionError> {
    let mut result = Ok(());
    if let Some(command) = &run.follow_up.command {
        result = self::run(command).await.map_err(ActionError::Transient);
    }
    if let (Ok(()), Some(signal)) = (&result, &run.follow_up.signal) {
        result = send(signal, run, docker).await;
    }
    let names: Vec<&str> = run.templates.keys().map(String::as_str).collect();
    let title = format!("template {}", names.join(", "));
    if let Err(error) = result {
        let reason = error.to_string();
        for (name, text) in &run.templates {
            if let Ok(Some(record)) = records.read(name) {
                records.failed(name, TemplateStage::Command, text, &reason, &record);
            }
        }
        return Err(titled(&title, error));
    }
    for (name, text) in &run.templates {
        let done = records.read(name).and_then(|record| match record {
            // A file that was written in the meantime needs a run of its own.
            Some(record) if record.text == *text => {
                records.write(name, &TemplateRecord { pending: false, failed: None, ..record })
            }
            Some(_) | None => Ok(()),
        });
        done.map_err(|reason| ActionError::Transient(format!("template {name}: {reason}; the command is run again")))?;
    }
    Ok(())
}

fn titled(title: &str, error: ActionError) -> ActionError {
    match error {
        ActionError::Conflict(text) => ActionError::Conflict(format!("{title}: {text}")),
        ActionError::Transient(text) => ActionError::Transient(format!("{title}: {text}")),
        ActionError::Permanent(text) => ActionError::Permanent(format!("{title}: {text}")),
        ActionError::Refused(text) => ActionError::Refused(format!("{title}: {text}")),
    }
}

/// Kills the group when the future is dropped: the daemon ends, or its time is up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, fails, or takes too long: with the end of its output.
pub(super) async fn run(command: &CommandLine) -> Result<(), String> {
    let title = format!("`{}`", command.title());
    let Some((program, arguments)) = command.words.split_first() else {
        return Err("there is no command".to_owned());
    };
    let mut process = Command::new(program);
    process.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process.process_group(0).kill_on_drop(true).current_dir("/");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REEVE_") || name == "CRASH_AFTER" {
            process.env_remove(name);
        }
    }
    let mut child = process.spawn().map_err(|error| format!("{title} cannot be started: {error}"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let tail: Arc<Mutex<Vec<u8>>> = Arc::default();
    let mut readers = tokio::task::JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        readers.spawn(keep_tail(stdout, tail.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.spawn(keep_tail(stderr, tail.clone()));
    }
    let ended = tokio::time::timeout(command.timeout, child.wait()).await;
    let problem = match ended {
        Err(_) => {
            drop(group);
            format!("{title} took longer than {:?} and was killed, with all that it had started", command.timeout)
        }
        Ok(Err(error)) => format!("{title} cannot be waited for: {error}"),
        Ok(Ok(status)) => {
            // What it left running on purpose goes on.
            group.0 = None;
            if status.success() {
                return Ok(());
            }
            format!("{title} failed with {status}")
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, async { while readers.join_next().await.is_some() {} }).await;
    let output = tail.lock().unwrap_or_else(PoisonError::into_inner);
    Err(with_output(problem, &output))
}

fn with_output(problem: String, output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect())
        .filter(|line: &String| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(MOST_LINES)..];
    if last.is_empty() { problem } else { format!("{problem}: {}", last.join("\n  ")) }
}

async fn keep_tail(mut stream: impl AsyncRead + Unpin, tail: Arc<Mutex<Vec<u8>>>) {
    let mut part = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut part).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&part[..length]);
        let over = tail.len().saturating_sub(LONGEST_TAIL);
        tail.drain(..over);
    }
}

async fn send(signal: &TemplateSignal, run: &TemplateRun, docker: &Docker) -> Result<(), ActionError> {
    match &signal.target {
        SignalTarget::PidFile(path) => to_process(path, &signal.signal).map_err(ActionError::Transient),
        SignalTarget::Service(_) => {
            for (id, name) in &run.containers {
                docker.signal(id, name, &signal.signal).await?;
            }
            Ok(())
        }
    }
}

fn to_process(path: &Path, name: &str) -> Result<(), String> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| format!("{name} cannot be sent: the pid file {shown} cannot be read: {error}"))?;
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
    let Some(pid) = pid else {
        return Err(format!("{name} cannot be sent: the pid file {shown} does not hold the number of a process"));
    };
    let Some(signal) = number(name) else { return Err(format!("there is no signal {name}")) };
    kill_process(pid, signal).map_err(|error| {
        format!("{name} cannot be sent to process {} ({shown}): {error}: does it run?", pid.as_raw_nonzero())
    })
}

fn number(name: &str) -> Option<Signal> {
    Some(match name {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "TERM" => Signal::TERM,
        "WINCH" => Signal::WINCH,
        "ALRM" => Signal::ALARM,
        "CONT" => Signal::CONT,
        "KILL" => Signal::KILL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, timeout: Duration) -> CommandLine {
        CommandLine { words: vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()], timeout }
    }

    #[tokio::test]
    async fn a_command_that_fails_shows_the_end_of_what_it_wrote() {
        let error =
            run(&shell("seq 1 2000; echo bad >&2; exit 3", Duration::from_secs(20))).await.expect_err("it fails");
        assert!(error.contains("exit status: 3") && error.contains("bad"), "{error}");
        assert!(error.lines().count() <= MOST_LINES && !error.contains("\n  1000\n"), "{error}");
        run(&shell("true", Duration::from_secs(20))).await.expect("it succeeds");
        let words = vec!["/no/such/program".to_owned()];
        let missing = run(&CommandLine { words, timeout: Duration::from_secs(1) }).await.expect_err("it is not there");
        assert!(missing.contains("cannot be started"), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let line = format!("sleep 300 & echo $! > {}; wait", file.display());
        let error = run(&shell(&line, Duration::from_millis(500))).await.expect_err("it hangs");
        assert!(error.contains("was killed"), "{error}");
        let pid: i32 = fs::read_to_string(&file).expect("it was written").trim().parse().expect("a number");
        let gone = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let limit = std::time::Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(std::time::Instant::now() < limit, "the child of the command still runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[test]
    fn a_signal_is_not_sent_where_the_pid_file_is_no_pid_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        assert!(to_process(&file, "HUP").is_err_and(|error| error.contains("cannot be read")));
        for text in ["", "0", "1", "-1", "abc"] {
            fs::write(&file, text).expect("written");
            assert!(to_process(&file, "HUP").is_err_and(|error| error.contains("does not hold")), "{text}");
        }
    }

    #[test]
    fn every_signal_of_the_spec_has_a_number() {
        assert!(crate::spec::template::SIGNALS.iter().all(|name| number(name).is_some()));
    }
}
