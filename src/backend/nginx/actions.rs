//! What the actions on nginx do. Each is one idempotent call that ends with a proof: a generation that nginx has accepted,
//! a configuration that was seen loaded, ports that were seen free.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::generations::{Found, Rejection};
use super::loaded::{LogTail, Look, blocking, read_pid};
use super::main_config::{CheckPlaces, MainConfig};
use super::probe::Answer;
use super::{Memory, Nginx, Shared, lua, process};
use crate::backend::directory::{check_owner, claim};
use crate::observed::{GenerationId, Loaded, NginxProcess, Stage};
use crate::plan::NginxAction;
use crate::plan::action::NewGeneration;
use crate::render::SECRET_FILE;
use crate::render::endpoints::{self, Endpoints};
use crate::spec::container::hex;
use crate::world::ActionError;

/// How long orphans may take to let go of their ports. They close what they listen on at once; then they finish requests.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);

/// After so long every worker has looked at the set that was just sent.
const AGREED: Duration = Duration::from_millis(5);

/// Prefix of the copy beside the main configuration: hidden, so that no pattern of an `include` takes it in.
const COPY_PREFIX: &str = ".reeve-check-";

impl Nginx {
    /// Does one action. Actions wait for each other.
    ///
    /// # Errors
    /// Conflict: the world is not as it was planned. Permanent: nginx refuses the configuration, or the folder is not ours.
    /// Transient: everything that may pass.
    pub async fn execute(&self, action: &NginxAction) -> Result<(), ActionError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.acting.lock().await;
        check_owner(&shared.directory, &shared.owner).map_err(ActionError::Permanent)?;
        match action {
            NginxAction::WriteGeneration(new) => self.write(new).await,
            NginxAction::SwitchGeneration { id } => self.switch(id).await,
            NginxAction::Reload { expect } => self.reload(expect).await,
            NginxAction::Start { expect } => self.start(expect).await,
            NginxAction::SetEndpoints { expect, endpoints } => self.set_endpoints(expect, endpoints).await,
            NginxAction::QuitOrphans { pids } => self.quit_orphans(pids).await,
            NginxAction::RemoveGeneration { id } => self.remove(id).await,
        }
    }

    async fn write(&self, new: &NewGeneration) -> Result<(), ActionError> {
        let shared = self.shared.clone();
        let build = shared.build().await.map_err(ActionError::Transient)?;
        let id = &new.id;
        let main = {
            let (shared, new) = (shared.clone(), new.clone());
            blocking(move || {
                let disk = shared.disk(&build, false).map_err(ActionError::Transient)?;
                if !disk.main.included() {
                    return Err(ActionError::Permanent(format!(
                        "nginx's main configuration {} does not include reeve's: add this line to its http block: {}",
                        shared.config.display(),
                        shared.include_line()
                    )));
                }
                if let Some(there) = disk.generations.get(&new.id) {
                    return already(there, &new).map(|()| None);
                }
                claim(&shared.directory, &shared.owner).map_err(ActionError::Transient)?;
                for outdated in &disk.retry {
                    shared.generations.remove(outdated).map_err(ActionError::Transient)?;
                }
                shared.generations.clean().map_err(ActionError::Transient)?;
                shared.store.provide(&new)?;
                shared.generations.write(&new).map_err(ActionError::Transient)?;
                Ok(Some(disk.main))
            })
            .await?
        };
        let Some(main) = main else { return Ok(()) };
        let synced = {
            let (shared, id) = (shared.clone(), id.clone());
            blocking(move || shared.generations.sync(&id))
        };
        let (checked, synced) = tokio::join!(self.check(id, &main), synced);
        synced.map_err(ActionError::Transient)?;
        match checked.map_err(ActionError::Transient)? {
            None => {
                let id = id.clone();
                blocking(move || shared.generations.mark_checked(&id)).await.map_err(ActionError::Transient)
            }
            Some(message) => {
                let error = refused(id, &message);
                self.record(id, main, message, Stage::Check).await?;
                Err(error)
            }
        }
    }

    /// Records beside a generation that nginx has refused it.
    async fn record(
        &self,
        id: &GenerationId,
        main: MainConfig,
        message: String,
        stage: Stage,
    ) -> Result<(), ActionError> {
        let shared = self.shared.clone();
        let build = shared.build().await.map_err(ActionError::Transient)?;
        let id = id.clone();
        blocking(move || {
            let surroundings = {
                let mut memory = shared.memory();
                let Memory { files, sources, .. } = &mut *memory;
                shared.surroundings(&main, sources, files, &build)
            };
            let rejection = Rejection { message, surroundings, at: Timestamp::now(), stage };
            shared.generations.mark_rejected(&id, &rejection)
        })
        .await
        .map_err(ActionError::Transient)
    }

    /// What passed the check and was not loaded: that is recorded, and `current` goes back to the generation that nginx
    /// runs, so that a reboot serves. A crash in between is put right by the planner.
    async fn not_loaded(&self, id: &GenerationId, main: MainConfig, reason: String, stage: Stage) -> ActionError {
        let shared = &self.shared;
        let pid_file = main.pid_file.clone();
        let error = match stage {
            Stage::Start => format!("nginx was started, and did not load the generation {id}: {reason}"),
            Stage::Check | Stage::Load => {
                format!("nginx was told to reload, and the generation {id} was not seen loaded: {reason}")
            }
        };
        if let Err(unrecorded) = self.record(id, main, reason, stage).await {
            return ActionError::Transient(format!("{error}; {unrecorded}"));
        }
        let look = async {
            let ids = shared.generations.ids()?;
            shared.observer.look(&pid_file, &ids).await
        };
        if let Ok(Look { loaded: Loaded::Generation(running), .. }) = look.await
            && running != *id
            && let Err(stays) = self.switch(&running).await
        {
            tracing::warn!("`current` still points at the generation {id}, which cannot be loaded: {stays}");
        }
        ActionError::Refused(error)
    }

    /// `nginx -t` on a copy of the main configuration that includes this generation. `Some`: nginx's refusal.
    async fn check(&self, id: &GenerationId, main: &MainConfig) -> Result<Option<String>, String> {
        let shared = &self.shared;
        let folder = tempfile::Builder::new()
            .prefix(".check-")
            .tempdir_in(shared.generations.folder())
            .map_err(|error| format!("cannot make a folder for the check of the generation {id}: {error}"))?;
        let beside = shared.config.parent().unwrap_or(Path::new("/"));
        // One name for each folder of reeve's: what a crash left is overwritten, and two reeves do not meet.
        let digest = hex(&Sha256::digest(shared.directory.as_os_str().as_encoded_bytes()));
        let places = CheckPlaces {
            entry: shared.generations.path(id).join(crate::render::ENTRY_FILE),
            main_copy: beside.join(format!("{COPY_PREFIX}{}", &digest[..8])),
            folder: folder.path().to_owned(),
            pid_file: folder.path().join("pid"),
        };
        let copies = main.copies(&places)?;
        let mut written = Removed::default();
        for copy in &copies {
            std::fs::write(&copy.path, &copy.text).map_err(|error| {
                format!("cannot write {} for the check of the generation {id}: {error}", copy.path.display())
            })?;
            written.0.push(copy.path.clone());
        }
        let outcome = shared.binary.check(&places.main_copy).await?;
        if outcome.success {
            return Ok(None);
        }
        let mut message = outcome.output;
        for copy in &copies {
            message = message.replace(&copy.path.display().to_string(), &copy.original.display().to_string());
        }
        Ok(Some(essence(&message)))
    }

    async fn switch(&self, id: &GenerationId) -> Result<(), ActionError> {
        let shared = self.shared.clone();
        let id = id.clone();
        blocking(move || {
            shared.usable(&id)?;
            match shared.generations.current() {
                Ok(Some(current)) if current == id => Ok(()),
                Ok(_) => shared.generations.switch(&id).map_err(ActionError::Transient),
                Err(error) => Err(ActionError::Transient(error)),
            }
        })
        .await
    }

    async fn reload(&self, expect: &GenerationId) -> Result<(), ActionError> {
        let shared = &self.shared;
        let main = self.expect_current(expect).await?;
        let Some(master) = self.master(&main).await? else {
            return Err(ActionError::Conflict(format!(
                "nginx does not run (no master by its pid file {}), so it cannot be reloaded",
                main.pid_file.display()
            )));
        };
        let before = shared.observer.serving(master).await;
        let log = LogTail::new(main.error_log.clone());
        signal(master, Signal::HUP)
            .map_err(|error| ActionError::Transient(format!("cannot send HUP to nginx's master {master}: {error}")))?;
        let give_up = || {
            if process::live_master(master).is_none() {
                return Some(format!("nginx's master {master} has died"));
            }
            log.final_reason()
        };
        let loaded = shared.observer.wait(|| Some(master), &before, expect, shared.load_timeout, give_up).await;
        let Err(reason) = loaded else { return Ok(()) };
        let reason = with_log(reason, &log);
        if process::live_master(master).is_none() {
            // Somebody ended it: that says nothing about the generation.
            return Err(ActionError::Transient(format!("nginx was told to reload, and has ended: {reason}")));
        }
        Err(self.not_loaded(expect, main, reason, Stage::Load).await)
    }

    async fn start(&self, expect: &GenerationId) -> Result<(), ActionError> {
        let shared = &self.shared;
        let main = self.expect_current(expect).await?;
        if main.foreground {
            return Err(ActionError::Permanent(format!(
                "nginx's main configuration {} says `daemon off`, so reeve cannot start it: start it where that is meant, or \
                 remove the line",
                shared.config.display()
            )));
        }
        let pid_file = main.pid_file.clone();
        if let Some(master) = self.master(&main).await? {
            return Err(ActionError::Conflict(format!("nginx runs already (master {master})")));
        }
        let log = LogTail::new(main.error_log.clone());
        let outcome = shared.binary.start(&shared.config).await.map_err(ActionError::Transient)?;
        if !outcome.success {
            return Err(self.not_loaded(expect, main, essence(&outcome.output), Stage::Start).await);
        }
        let master = || read_pid(&pid_file).and_then(process::live_master).map(|master| master.pid);
        let none = BTreeSet::new();
        let loaded = shared.observer.wait(master, &none, expect, shared.load_timeout, || log.final_reason()).await;
        match loaded {
            Ok(()) => Ok(()),
            Err(reason) => Err(self.not_loaded(expect, main, with_log(reason, &log), Stage::Start).await),
        }
    }

    async fn set_endpoints(&self, expect: &GenerationId, endpoints: &Endpoints) -> Result<(), ActionError> {
        let shared = self.shared.clone();
        let text = endpoints::text(endpoints);
        let secret = shared.generations.secret(expect);
        {
            let (shared, expect) = (shared.clone(), expect.clone());
            blocking(move || {
                shared.is_current(&expect)?;
                shared.usable(&expect)
            })
            .await?;
        }
        // Traffic does not wait for the disk. One without the other, after a crash or a failure, is seen by the next look.
        let (answer, written) = tokio::join!(lua::push(shared.observer.probe(), &secret, &text), {
            let (shared, expect, text) = (shared.clone(), expect.clone(), text.clone());
            blocking(move || shared.generations.write_endpoints(&expect, &text).map_err(ActionError::Transient))
        });
        written?;
        let answer = answer.map_err(ActionError::Transient)?;
        let said = answer.body.trim();
        match (answer.status, said.split(' ').next().and_then(GenerationId::parse)) {
            (200, Some(loaded)) if loaded == *expect => {
                // Each worker looks for a new set once in a millisecond.
                tokio::time::sleep(AGREED).await;
                Ok(())
            }
            (200, _) => Err(ActionError::Conflict(format!("nginx runs another generation than {expect}: {said}"))),
            (403, _) => Err(ActionError::Conflict(format!(
                "nginx refuses reeve's secret for the endpoints of generation {expect}: it runs another one, or {} was edited",
                secret.display()
            ))),
            (status, _) => Err(ActionError::Transient(format!(
                "nginx does not take the endpoints of generation {expect} (status {status}): {said}"
            ))),
        }
    }

    async fn quit_orphans(&self, pids: &[i32]) -> Result<(), ActionError> {
        let table = blocking(process::all_of_nginx).await;
        let alive: Vec<i32> = pids.iter().copied().filter(|pid| process::read(*pid).is_some()).collect();
        for pid in &alive {
            if !table.get(pid).is_some_and(|process| process::is_orphan(process, &table)) {
                return Err(ActionError::Conflict(format!("process {pid} is no nginx worker without a master")));
            }
        }
        let held: BTreeSet<u64> = alive.iter().flat_map(|pid| process::sockets_of(*pid)).collect();
        for pid in &alive {
            match signal(*pid, Signal::QUIT) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(ActionError::Transient(format!("cannot send QUIT to nginx's worker {pid}: {error}")));
                }
            }
        }
        let began = Instant::now();
        loop {
            let held = held.clone();
            let blocked: Vec<u16> = blocking(move || {
                process::listening()
                    .into_iter()
                    .filter(|socket| held.contains(&socket.inode))
                    .map(|socket| socket.port)
                    .collect()
            })
            .await;
            let serving = alive
                .iter()
                .any(|pid| process::read(*pid).is_some_and(|process| process.role() == process::Role::Worker));
            if blocked.is_empty() && !serving {
                return Ok(());
            }
            if began.elapsed() > ORPHAN_TIMEOUT {
                return Err(ActionError::Transient(format!(
                    "nginx's workers without a master {alive:?} were told to quit and still hold the ports {blocked:?} after \
                     {} s; end them with `kill`",
                    ORPHAN_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn remove(&self, id: &GenerationId) -> Result<(), ActionError> {
        let shared = self.shared.clone();
        for answer in shared.observer.round(4).await {
            if matches!(&answer, Answer::Worker { id: loaded, .. } if loaded == id) {
                return Err(ActionError::Conflict(format!("the generation {id} is loaded, and cannot be removed")));
            }
        }
        let id = id.clone();
        blocking(move || {
            if shared.generations.current().map_err(ActionError::Transient)?.as_ref() == Some(&id) {
                return Err(ActionError::Conflict(format!(
                    "the generation {id} is the current one, and cannot be removed"
                )));
            }
            shared.generations.remove(&id).map_err(ActionError::Transient)?;
            shared.clean_store().map_err(ActionError::Transient)
        })
        .await
    }

    /// nginx's master, recognised as `view` recognises it: by the pid file, or by a worker that answers for one of our
    /// generations.
    async fn master(&self, main: &MainConfig) -> Result<Option<i32>, ActionError> {
        let shared = &self.shared;
        let ids = shared.generations.ids().map_err(ActionError::Transient)?;
        let look = shared.observer.look(&main.pid_file, &ids).await.map_err(ActionError::Transient)?;
        Ok(match look.process {
            NginxProcess::Running { master } => Some(master),
            NginxProcess::Stopped | NginxProcess::Orphans { .. } => None,
        })
    }

    /// The main configuration, when `current` is the expected generation.
    async fn expect_current(&self, expect: &GenerationId) -> Result<MainConfig, ActionError> {
        let shared = self.shared.clone();
        let build = shared.build().await.map_err(ActionError::Transient)?;
        let expect = expect.clone();
        blocking(move || {
            shared.is_current(&expect)?;
            let mut memory = shared.memory();
            let Memory { files, sources, .. } = &mut *memory;
            shared.main_config(&build, sources, files).map_err(ActionError::Transient)
        })
        .await
    }
}

impl Shared {
    /// Removes from the store what no generation on disk needs. One that cannot be read may need anything.
    fn clean_store(&self) -> Result<(), String> {
        let mut memory = self.memory();
        let Memory { files, manifests, .. } = &mut *memory;
        let mut left = Vec::new();
        for id in self.generations.ids()? {
            match self.generations.manifest(&id, files, manifests) {
                Some(manifest) => left.push(manifest),
                None => return Ok(()),
            }
        }
        self.store
            .keep_only(left.iter().map(|manifest| &**manifest))
            .map_err(|error| format!("cannot clean up the copies of TLS files beside the generations: {error}"))
    }

    fn is_current(&self, expect: &GenerationId) -> Result<(), ActionError> {
        match self.generations.current().map_err(ActionError::Transient)? {
            Some(current) if current == *expect => Ok(()),
            Some(current) => Err(ActionError::Conflict(format!("the current generation is {current}, not {expect}"))),
            None => Err(ActionError::Conflict(format!("no generation is current; expected {expect}"))),
        }
    }

    /// May nginx be pointed at it?
    fn usable(&self, id: &GenerationId) -> Result<(), ActionError> {
        let mut memory = self.memory();
        let Memory { files, manifests, .. } = &mut *memory;
        let found = self.generations.read(id, false, files, manifests).map_err(ActionError::Transient)?;
        match found {
            None => Err(ActionError::Conflict(format!("the generation {id} is not there"))),
            Some(Found::Unchecked) => {
                Err(ActionError::Conflict(format!("the generation {id} was not checked by nginx")))
            }
            Some(Found::Complete(generation, _)) => match generation.rejected {
                Some(rejection) => Err(refused(id, &rejection.message)),
                None if !generation.damaged.is_empty() => Err(damaged(id, &generation.damaged)),
                None => Ok(()),
            },
        }
    }
}

/// The generation stands there already: is it what should be written?
fn already(there: &crate::observed::Generation, new: &NewGeneration) -> Result<(), ActionError> {
    if let Some(rejection) = &there.rejected {
        return Err(refused(&new.id, &rejection.message));
    }
    if !there.damaged.is_empty() {
        return Err(damaged(&new.id, &there.damaged));
    }
    let same = |(name, text): (&String, &std::sync::Arc<str>)| {
        there.manifest.files.get(name) == Some(&hex(&Sha256::digest(text.as_bytes())))
    };
    let written = there.manifest.files.keys().filter(|name| name.as_str() != SECRET_FILE).count();
    if written == new.files.len() && new.files.iter().all(same) {
        return Ok(());
    }
    Err(ActionError::Conflict(format!("another generation has the id {} already", new.id)))
}

fn damaged(id: &GenerationId, files: &[String]) -> ActionError {
    ActionError::Conflict(format!("the generation {id} was edited by somebody ({})", files.join(", ")))
}

fn refused(id: &GenerationId, message: &str) -> ActionError {
    ActionError::Refused(format!("nginx refuses the generation {id}: {message}"))
}

/// A reason, and what nginx wrote to its log about it.
fn with_log(reason: String, log: &LogTail) -> String {
    let mut text = timeless(&reason);
    for line in log.reasons().iter().map(|line| timeless(line)) {
        if !text.contains(line.as_str()) {
            text.push_str("\n    ");
            text.push_str(&line);
        }
    }
    text
}

/// nginx's reasons without its talk: the lines that made it refuse, or everything when there is none.
pub(super) fn essence(output: &str) -> String {
    const LONGEST: usize = 4096;
    let serious: Vec<&str> =
        output.lines().filter(|line| line.contains("[emerg]") || line.contains("[crit]")).collect();
    let mut lines: Vec<String> = Vec::new();
    for line in if serious.is_empty() { output.lines().collect() } else { serious } {
        let line = timeless(line);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let text = lines.join("\n");
    let end = (0..=text.len().min(LONGEST)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].trim().to_owned()
}

/// A line of nginx without time and process: the same fault has the same words.
fn timeless(line: &str) -> String {
    let Some(at) = line.find('[').filter(|at| line[..*at].starts_with(|c: char| c.is_ascii_digit())) else {
        return line.trim().to_owned();
    };
    let said = &line[at..];
    let Some((level, rest)) = said.split_once("] ") else { return line.trim().to_owned() };
    let rest = match rest.split_once(": ") {
        Some((process, rest)) if process.bytes().all(|byte| byte.is_ascii_digit() || byte == b'#') => rest,
        Some(_) | None => rest,
    };
    format!("nginx: {level}] {}", rest.trim())
}

fn signal(pid: i32, signal: Signal) -> Result<(), rustix::io::Errno> {
    // 0 and negative numbers would mean whole groups of processes.
    let pid = if pid > 1 { Pid::from_raw(pid) } else { None };
    kill_process(pid.ok_or(rustix::io::Errno::SRCH)?, signal)
}

/// Files that vanish again, however the check ends.
#[derive(Default)]
struct Removed(Vec<std::path::PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove the copy of nginx's main configuration");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_essence_of_a_refusal_is_its_serious_lines() {
        let output = "nginx: [warn] x\nnginx: [emerg] bad in /a:3\nnginx: configuration file /a test failed\n";
        assert_eq!(essence(output), "nginx: [emerg] bad in /a:3");
        assert_eq!(essence("something else\n"), "something else");
        let both = "2026/01/01 00:00:00 [emerg] 12#12: bad \"x\": no\nnginx: [emerg] bad \"x\": no\n";
        assert_eq!(essence(both), "nginx: [emerg] bad \"x\": no", "said twice, with and without time");
        assert!(essence(&"ä".repeat(5000)).len() <= 4096);
    }

    #[test]
    fn no_signal_goes_to_a_group_of_processes() {
        for pid in [-1, 0, 1] {
            assert_eq!(signal(pid, Signal::HUP), Err(rustix::io::Errno::SRCH), "{pid}");
        }
    }
}
