//! The templates backend: destinations on this host, what reeve noted of them, and the commands that follow.
//!
//! - `place`: one look at a destination
//! - `record`: `templates/<name>.json` in reeve's folder, the mark that a command is pending among it
//! - `write`: staging, checking, replacing
//! - `command`: processes with a limit, and signals
//!
//! It finds out what a template asks for by running it, as often as new questions come up, and reads that; what follows
//! is the planner's. A destination is only ever replaced by a rename, and only inside the allowed folders.

mod command;
mod place;
mod record;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::consul::Consul;
use super::docker::Docker;
use crate::observed::{Answer, Answers, Dependency, Interest, TemplateRecord, TemplateSeen, Templates as Seen, View};
use crate::plan::action::TemplateAction;
use crate::settings::Settings;
use crate::spec::{Owner, Template};
use crate::template;
use crate::world::{ActionError, Wake, WakeSource};
use record::Records;

/// So often may what was read lead to new questions.
const ROUNDS: usize = 32;
/// All rounds together: below `observed::VIEW_TIMEOUT`.
const LIMIT: Duration = Duration::from_secs(8);
/// How often the time stamps of destinations, and of files that templates read, are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Largest file that `file()` reads, in bytes.
const LARGEST_FILE: u64 = 16 << 20;

#[derive(Clone)]
pub struct Templates {
    directory: PathBuf,
    owner: Arc<Owner>,
    allow: Arc<Vec<PathBuf>>,
    records: Records,
    memory: Arc<Mutex<Memory>>,
}

/// Lost with the process, it only costs another run of each template and prolongs a wait.
#[derive(Default)]
struct Memory {
    templates: BTreeMap<String, Past>,
    /// Files whose change wakes.
    files: BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
struct Past {
    asked: BTreeSet<Dependency>,
    inputs: String,
    error: Option<String>,
    changed_at: Option<Timestamp>,
    unwritten_since: Option<Timestamp>,
}

impl Templates {
    pub fn new(settings: &Settings, owner: Owner) -> Self {
        let directory = std::path::absolute(&settings.directory).unwrap_or_else(|_| settings.directory.clone());
        Self {
            records: Records::new(&directory),
            directory,
            owner: Arc::new(owner),
            allow: Arc::new(settings.templates.allow.clone()),
            memory: Arc::default(),
        }
    }

    /// Everything of the templates of the interest. Never fails: what cannot be read is Unknown, one by one.
    pub async fn view(&self, interest: &Interest, consul: &Consul) -> Seen {
        if interest.templates.is_empty() {
            *self.memory() = Memory::default();
            consul.follow(BTreeSet::new());
            return Seen::default();
        }
        let (answers, runs) = self.run(interest, consul).await;
        let this = self.clone();
        let templates = interest.templates.clone();
        let look = tokio::task::spawn_blocking(move || this.look(&templates, &answers, runs));
        look.await.unwrap_or_else(|error| {
            let reason = format!("the templates cannot be looked at: {error}");
            let unknown =
                |name: &String| (name.clone(), View::Unknown { reason: reason.clone(), since: Timestamp::now() });
            Seen { seen: interest.templates.keys().map(unknown).collect(), ..Seen::default() }
        })
    }

    /// Runs the templates until nothing new is asked for, and reads what they ask for.
    async fn run(&self, interest: &Interest, consul: &Consul) -> (Arc<Answers>, BTreeMap<String, Past>) {
        let deadline = Instant::now() + LIMIT;
        let before = self.memory().templates.clone();
        let known = |name: &String| before.get(name).map(|past| past.asked.clone()).unwrap_or_default();
        let mut missing: BTreeSet<Dependency> = interest.templates.keys().flat_map(known).collect();
        let mut answers: Arc<Answers> = Arc::default();
        let mut runs: BTreeMap<String, Past> = BTreeMap::new();
        for round in 0..=ROUNDS {
            let read = if round < ROUNDS && Instant::now() < deadline {
                self.read(&missing, consul, deadline).await
            } else {
                let reason =
                    format!("the templates ask for ever more: it was not read within {ROUNDS} rounds and {LIMIT:?}");
                let unknown =
                    |one: &Dependency| (one.clone(), View::Unknown { reason: reason.clone(), since: Timestamp::now() });
                missing.iter().map(unknown).collect()
            };
            Arc::make_mut(&mut answers).extend(read);
            missing = BTreeSet::new();
            for template in interest.templates.values() {
                // The same template and the same data do the same.
                if let Some(past) = before.get(&template.name).filter(|past| !past.inputs.is_empty())
                    && past.asked.iter().all(|one| answers.contains_key(one))
                    && template::inputs(template, &past.asked, &answers) == past.inputs
                {
                    runs.insert(template.name.clone(), past.clone());
                    continue;
                }
                let run = run_apart(template.clone(), answers.clone()).await;
                missing.extend(run.missing.iter().cloned());
                let inputs = template::inputs(template, &run.asked, &answers);
                let past = before.get(&template.name).cloned().unwrap_or_default();
                let error = run.text.err();
                runs.insert(template.name.clone(), Past { asked: run.asked, inputs, error, ..past });
            }
            if missing.is_empty() {
                break;
            }
        }
        let asked: BTreeSet<Dependency> = runs.values().flat_map(|run| run.asked.iter().cloned()).collect();
        Arc::make_mut(&mut answers).retain(|one, _| asked.contains(one));
        consul.follow(asked.into_iter().filter(Dependency::of_consul).collect());
        (answers, runs)
    }

    async fn read(&self, wanted: &BTreeSet<Dependency>, consul: &Consul, deadline: Instant) -> Answers {
        let (remote, local): (BTreeSet<_>, BTreeSet<_>) = wanted.iter().cloned().partition(Dependency::of_consul);
        let mut answers = if remote.is_empty() { Answers::new() } else { consul.answers(&remote, deadline).await };
        answers.extend(local.into_iter().map(|dependency| {
            let view = read_here(&dependency);
            (dependency, view)
        }));
        answers
    }

    fn look(
        &self,
        templates: &BTreeMap<String, Arc<Template>>,
        answers: &Arc<Answers>,
        mut runs: BTreeMap<String, Past>,
    ) -> Seen {
        let now = Timestamp::now();
        let mut seen = BTreeMap::new();
        let mut files = BTreeSet::new();
        let mounts = place::mounts();
        for template in templates.values() {
            let Some(run) = runs.get_mut(&template.name) else { continue };
            let view = match self.records.read(&template.name) {
                Ok(record) => {
                    let record = record.filter(|record| record.destination == template.destination);
                    let view = one(template, run, record, &mounts, now);
                    files.insert(view.real.clone());
                    View::Known(view)
                }
                Err(reason) => View::Unknown { reason, since: now },
            };
            let read = run.asked.iter().filter_map(|one| match one {
                Dependency::File(path) => Some(path.clone()),
                _ => None,
            });
            files.extend(read);
            seen.insert(template.name.clone(), view);
        }
        *self.memory() = Memory { templates: runs, files };
        Seen {
            seen,
            answers: answers.clone(),
            allowed: self.allow.iter().map(|folder| place::resolved(folder)).collect(),
            own: place::resolved(&self.directory),
        }
    }

    /// # Errors
    /// What failed, on which template, why.
    pub async fn execute(&self, action: &TemplateAction, docker: &Docker) -> Result<(), ActionError> {
        match action {
            TemplateAction::Write(new) => {
                super::directory::claim(&self.directory, &self.owner).map_err(ActionError::Transient)?;
                write::write(self, new).await
            }
            TemplateAction::Run(run) => command::follow_up(&self.records, run, docker).await,
            TemplateAction::Note { name, record } => {
                super::directory::claim(&self.directory, &self.owner).map_err(ActionError::Transient)?;
                self.records.write(name, record).map_err(ActionError::Transient)
            }
        }
    }

    /// Wakes when a destination, or a file that a template reads, changes. Never returns.
    pub async fn watch(&self, wake: Wake) {
        let mut before: BTreeMap<PathBuf, Option<place::Stamp>> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let files = self.memory().files.clone();
            let now: BTreeMap<PathBuf, Option<place::Stamp>> =
                files.into_iter().map(|path| (path.clone(), place::stamp(&path))).collect();
            let changed = now.iter().any(|(path, stamp)| before.get(path).is_some_and(|known| known != stamp));
            before = now;
            if changed {
                wake(WakeSource::TemplateFile, Timestamp::now());
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Whole values are replaced.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On a thread of its own: a template that does not end takes a second to be found out.
async fn run_apart(template: Arc<Template>, answers: Arc<Answers>) -> template::Run {
    let name = template.origin.clone();
    let run = tokio::task::spawn_blocking(move || template::run(&template, &answers, Timestamp::UNIX_EPOCH)).await;
    run.unwrap_or_else(|_| template::Run {
        asked: BTreeSet::new(),
        missing: BTreeSet::new(),
        text: Err(format!("{name}: the template engine gave up on it, which is a defect of reeve")),
    })
}

fn one(
    template: &Template,
    run: &mut Past,
    record: Option<TemplateRecord>,
    mounts: &[(PathBuf, String)],
    now: Timestamp,
) -> TemplateSeen {
    let real = place::resolved(&template.destination);
    let written = record.as_ref().filter(|record| !record.text.is_empty() && record.inputs == run.inputs);
    let known = run.changed_at.filter(|_| run.unwritten_since.is_none() || written.is_none());
    let changed_at = written.map_or_else(|| known.unwrap_or(now), |record| record.changed_at);
    run.changed_at = Some(changed_at);
    run.unwritten_since = if written.is_some() { None } else { Some(run.unwritten_since.unwrap_or(now)) };
    TemplateSeen {
        destination: place::destination(&template.destination, &real),
        mounted: mounts.iter().find(|(path, _)| *path == real).map(|(_, what)| what.clone()),
        real,
        record: record.map(Arc::new),
        asked: run.asked.clone(),
        inputs: run.inputs.clone(),
        changed_at,
        unwritten_since: run.unwritten_since.unwrap_or(now),
        error: run.error.clone(),
        owner: place::owner(template),
    }
}

/// A variable, or a file.
fn read_here(dependency: &Dependency) -> View<Answer> {
    let known = |data: serde_json::Value| {
        View::Known(Answer { data, entries: BTreeSet::new(), shrunk_at: Timestamp::UNIX_EPOCH })
    };
    match dependency {
        Dependency::Environment(name) => known(std::env::var(name).map_or(serde_json::Value::Null, Into::into)),
        Dependency::File(path) => match file(path) {
            Ok(text) => known(text.map_or(serde_json::Value::Null, Into::into)),
            Err(reason) => View::Unknown { reason, since: Timestamp::now() },
        },
        _ => View::Unknown { reason: "it is not of this host".to_owned(), since: Timestamp::now() },
    }
}

/// The text of a regular file; `None`: it does not exist.
fn file(path: &Path) -> Result<Option<String>, String> {
    use std::io::Read as _;
    let fail = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if !metadata.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(fail)?;
    opened.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!("{} has more than {} MiB", path.display(), LARGEST_FILE >> 20));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| format!("{} is not UTF-8 text", path.display()))
}
