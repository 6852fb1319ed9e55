//! nginx on this host: what is on disk, what runs, what is loaded; and the actions that change it.
//!
//! Owns everything below `<directory>/generations` and `<directory>/store`, and `<directory>/current`. It never writes into nginx's own folders
//! (except for the moment of a check, a copy of the main configuration beside it), never changes what stands in a written
//! generation, and decides nothing: which generation is wanted is the planner's.
//!
//! - `generations`: the folders, the link, manifests, damage, refusals. `store`: copies of TLS files and templates.
//! - `main_config`: the user's main configuration: the include line, the copy for the check.
//! - `binary`: running nginx (`-V`, `-t`, start). `process`: `/proc`. `probe`, `loaded`: what the workers answer.
//! - `lua`: is there Lua, and the exchange of endpoints with it. `listens`: can an address be bound? `actions`: what the actions do. `watch`: what wakes the loop.

mod actions;
mod binary;
mod files;
mod generations;
mod glob;
mod http_block;
mod kept;
mod listens;
mod loaded;
mod lua;
mod main_config;
mod probe;
mod process;
mod spare;
mod store;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::binary::{Binary, Build};
use self::files::{Files, Stamp};
use self::generations::{Found, Generations, Manifests};
use self::kept::{Heard, Kept};
use self::loaded::{Observer, blocking};
use self::main_config::{MainConfig, Sources};
use self::store::Store;
use crate::backend::directory::check_owner;
use crate::observed::{self, Generation, GenerationId, HttpBlock, Interest, Loaded, NginxProcess};
use crate::render::endpoints;
use crate::settings::{EndpointsMode, NginxSettings};
use crate::spec::Owner;
use crate::spec::upstream::Listen;
use crate::world::ViewError;

pub use self::generations::MANIFEST_FILE;

/// nginx on this host, as one owner of one folder sees it. Cheap to clone; clones share what they remember.
#[derive(Debug, Clone)]
pub struct Nginx {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    binary: Binary,
    /// The main configuration; absolute.
    config: PathBuf,
    prefix: Option<PathBuf>,
    load_timeout: Duration,
    endpoints: EndpointsMode,
    directory: PathBuf,
    owner: Owner,
    generations: Generations,
    store: Store,
    observer: Observer,
    memory: Mutex<Memory>,
    heard: Heard,
    /// One action at a time: they share the link, the folder and the process.
    acting: tokio::sync::Mutex<()>,
}

/// What was read before, to be looked at and not read again. Never a fact: all of it can be read anew at any time.
#[derive(Debug, Default)]
struct Memory {
    build: Option<(Stamp, Build)>,
    files: Files,
    sources: Sources,
    manifests: Manifests,
    kept: Kept,
    /// Whether nginx has Lua, for a program and everything that it reads.
    lua: Option<((Stamp, String), Lua)>,
    /// What was seen loaded last, and since when.
    loaded: Option<(Loaded, Timestamp)>,
    /// The same with the endpoints that Lua has, as a hash.
    routed: Option<((Loaded, Option<String>), Timestamp)>,
}

/// Can it balance by Lua, if not, why; and what of the `http` block has to be heeded then.
type Lua = (Result<(), String>, HttpBlock);

type TlsDigests = BTreeMap<String, BTreeMap<String, Result<String, String>>>;

/// What stands on disk.
#[derive(Debug)]
struct Disk {
    main: MainConfig,
    current: Option<GenerationId>,
    generations: BTreeMap<GenerationId, Generation>,
    /// All folders, also those that do not count as generations (unchecked, or refused for a reason that may be gone).
    ids: BTreeSet<GenerationId>,
    /// Those of them whose refusal no longer holds.
    retry: BTreeSet<GenerationId>,
}

impl Disk {
    /// Digests of the templates that what is in force, or should be, was rendered from.
    fn templates(&self, loaded: &Loaded) -> BTreeSet<String> {
        let loaded = match loaded {
            Loaded::Generation(id) => Some(id),
            Loaded::Nothing | Loaded::Mixed(_) | Loaded::Stranger(_) => None,
        };
        let ids = loaded.into_iter().chain(&self.current);
        ids.filter_map(|id| self.generations.get(id)).map(|generation| generation.manifest.template.clone()).collect()
    }
}

impl Nginx {
    /// `directory`: reeve's folder. Nothing is read or written yet.
    pub fn new(settings: &NginxSettings, directory: PathBuf, owner: Owner) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let directory = absolute(&directory);
        Self {
            shared: Arc::new(Shared {
                binary: Binary::new(settings.binary.clone(), settings.prefix.clone()),
                config: absolute(&settings.config),
                prefix: settings.prefix.as_deref().map(absolute),
                load_timeout: settings.load_timeout,
                endpoints: settings.endpoints,
                store: Store::new(&directory.join("generations")),
                generations: Generations::new(directory.clone()),
                directory,
                owner,
                observer: Observer::new(settings.probe),
                memory: Mutex::default(),
                heard: Heard::default(),
                acting: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Everything that can be seen of nginx. Writes nothing.
    ///
    /// # Errors
    /// nginx is not installed, the main configuration cannot be read, the folder is another owner's, or nginx runs and does
    /// not answer.
    pub async fn view(&self, interest: &Interest) -> Result<observed::Nginx, ViewError> {
        self.look(interest).await.map_err(ViewError)
    }

    async fn look(&self, interest: &Interest) -> Result<observed::Nginx, String> {
        let shared = &self.shared;
        let build = shared.build().await?;
        let version = build.version.clone();
        let disk = {
            let (shared, build) = (shared.clone(), build.clone());
            blocking(move || shared.disk(&build, true))
        };
        let (disk, first) = tokio::join!(disk, shared.observer.ask_a_worker());
        let mut disk = disk?;
        let (lua, http) = shared.lua(&build, &disk.main).await?;
        let look = shared.observer.judge(first, &disk.main.pid_file, &disk.ids).await?;
        shared.endpoints_in_force(&look.loaded, &mut disk.generations).await?;
        // What the workers that answer hold. With a manifest that cannot be believed, nothing is known to be held.
        let ids: Vec<&GenerationId> = match &look.loaded {
            Loaded::Generation(id) => vec![id],
            Loaded::Mixed(ids) => ids.iter().collect(),
            Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
        };
        let held: BTreeSet<Listen> = ids
            .into_iter()
            .filter_map(|id| disk.generations.get(id))
            .flat_map(|generation| generation.manifest.upstreams.values().map(|one| one.upstream.listen))
            .collect();
        let endpoints = match &look.loaded {
            Loaded::Generation(id) => disk.generations.get(id).and_then(|one| one.endpoints.as_ref()?.loaded.clone()),
            Loaded::Mixed(_) | Loaded::Nothing | Loaded::Stranger(_) => None,
        };
        let (loaded_since, routed_since) = {
            let mut memory = shared.memory();
            let Memory { loaded, routed, .. } = &mut *memory;
            (since(loaded, look.loaded.clone()), since(routed, (look.loaded.clone(), endpoints)))
        };
        let master = match look.process {
            NginxProcess::Running { master } => Some(master),
            NginxProcess::Stopped | NginxProcess::Orphans { .. } => None,
        };
        let held = if master.is_some() { held } else { BTreeSet::new() };
        // What is left to read, in one go: each is a hand-over to another thread and back, and traffic waits for all of them.
        let (templates, tls, listens) = {
            let shared = shared.clone();
            let (sources, tls, listens) =
                (disk.templates(&look.loaded), interest.tls_files.clone(), interest.listens.clone());
            blocking(move || {
                (shared.templates(&sources), shared.tls_digests(&tls), listens::states(&listens, &held, master))
            })
            .await
        };

        Ok(observed::Nginx {
            version,
            include_line: shared.include_line(),
            included: disk.main.included(),
            config: shared.config.display().to_string(),
            process: look.process,
            current: disk.current,
            generations: disk.generations,
            loaded_since,
            routed_since,
            loaded: look.loaded,
            templates,
            retiring_workers: look.retiring_workers,
            listens,
            tls,
            worker_shutdown_timeout: disk.main.worker_shutdown_timeout,
            lua,
            http,
        })
    }
}

/// Since when exactly this has been seen.
fn since<T: PartialEq>(memory: &mut Option<(T, Timestamp)>, seen: T) -> Timestamp {
    match memory {
        Some((before, since)) if *before == seen => *since,
        Some(_) | None => memory.insert((seen, Timestamp::now())).1,
    }
}

impl Shared {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn include_line(&self) -> String {
        main_config::include_line(&self.generations.entry())
    }

    /// What nginx was built with; asked again only when the program is another one.
    async fn build(&self) -> Result<Build, String> {
        let stamp = self.binary.stamp()?;
        if let Some((known, build)) = &self.memory().build
            && *known == stamp
        {
            return Ok(build.clone());
        }
        let build = self.binary.build().await?;
        self.memory().build = Some((stamp, build.clone()));
        Ok(build)
    }

    /// Can it balance by Lua, and what of the `http` block has to be heeded then? Asked again only when the program, or
    /// something that it reads, is another one.
    async fn lua(&self, build: &Build, main: &MainConfig) -> Result<Lua, String> {
        if self.endpoints == EndpointsMode::Reload {
            return Ok((Err("nginx.endpoints is reload".to_owned()), HttpBlock::default()));
        }
        let (key, basis) = {
            let mut memory = self.memory();
            let Memory { files, sources, lua, .. } = &mut *memory;
            let key = (self.binary.stamp()?, self.surroundings(main, sources, files, build));
            if let Some((known, lua)) = lua
                && *known == key
            {
                return Ok(lua.clone());
            }
            (key, main.lua_basis(sources, files, &self.generations.entry()))
        };
        let works = lua::works(&self.binary, &basis).await?;
        let lua = (works, basis.http_block);
        self.memory().lua = Some((key, lua.clone()));
        Ok(lua)
    }

    /// Puts into the manifests of loaded generations the endpoints that nginx routes to, which may not be those of the file.
    async fn endpoints_in_force(
        &self,
        loaded: &Loaded,
        generations: &mut BTreeMap<GenerationId, Generation>,
    ) -> Result<(), String> {
        let ids: Vec<&GenerationId> = match loaded {
            Loaded::Generation(id) => vec![id],
            Loaded::Mixed(ids) => ids.iter().collect(),
            Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
        };
        for id in ids {
            let Some(generation) = generations.get_mut(id) else { continue };
            let Some(seen) = &mut generation.endpoints else { continue };
            seen.loaded = self.observer.endpoints_of(id);
            if seen.loaded == seen.file {
                continue;
            }
            let Some((hash, set)) = lua::in_force(self.observer.probe(), &self.generations.secret(id), id).await?
            else {
                // It runs with another secret than the one on disk, so that is damaged, and there will be another generation.
                continue;
            };
            let manifest = Arc::make_mut(&mut generation.manifest);
            if hash == endpoints::NONE {
                // nginx could not read the file at its start.
                let balanced = manifest.upstreams.values_mut().filter(|routed| endpoints::by_lua(routed));
                balanced.for_each(|routed| routed.endpoints.clear());
            }
            endpoints::replace(manifest, &set);
            seen.loaded = Some(hash);
        }
        Ok(())
    }

    /// Reads the main configuration and the generations. Blocks.
    fn disk(&self, build: &Build, with_text: bool) -> Result<Disk, String> {
        check_owner(&self.directory, &self.owner)?;
        let mut memory = self.memory();
        let Memory { files, sources, manifests, kept, loaded, .. } = &mut *memory;
        // First of all: what is heard from here on is for the next look.
        let began = Instant::now();
        let watched = kept.begin(&self.heard, began);
        let main = self.main_config(build, sources, files)?;
        let current = self.generations.current()?;
        let ids = self.generations.ids()?;
        let loaded: Vec<&GenerationId> = match loaded {
            Some((Loaded::Generation(id), _)) => vec![id],
            Some((Loaded::Mixed(ids), _)) => ids.iter().collect(),
            Some((Loaded::Nothing | Loaded::Stranger(_), _)) | None => Vec::new(),
        };
        let mut surroundings = None;
        let mut found = BTreeMap::new();
        let mut retry = BTreeSet::new();
        let mut believed = Vec::new();
        for id in &ids {
            let only_kept = current.as_ref() != Some(id) && !loaded.contains(&id);
            if let Some(generation) = kept.get(id).filter(|_| only_kept) {
                found.insert(id.clone(), generation.clone());
                believed.push(self.generations.path(id));
                continue;
            }
            kept.forget(id);
            let is_current = with_text && current.as_ref() == Some(id);
            let Some(Found::Complete(generation, rejection)) =
                self.generations.read(id, is_current, files, manifests)?
            else {
                continue;
            };
            if only_kept && watched && rejection.is_none() {
                kept.remember(id, &generation, began);
            }
            if let Some(rejection) = rejection {
                let now = surroundings.get_or_insert_with(|| self.surroundings(&main, sources, files, build));
                if !rejection.holds(now) {
                    retry.insert(id.clone());
                    continue;
                }
            }
            found.insert(id.clone(), *generation);
        }
        let path = |id| self.generations.path(id).join(MANIFEST_FILE);
        let used: BTreeSet<Arc<str>> = found.keys().filter_map(|id| files.digest(&path(id)).ok()).collect();
        manifests.retain(|digest, _| used.contains(digest));
        // An action looks at less than a look does.
        if with_text {
            files.forget_unused(&believed);
        }
        Ok(Disk { main, current, generations: found, ids, retry })
    }

    fn main_config(&self, build: &Build, sources: &mut Sources, files: &mut Files) -> Result<MainConfig, String> {
        let prefix = self.prefix.as_ref().unwrap_or(&build.prefix);
        MainConfig::read(sources, files, &self.config, &self.generations.entry(), build, prefix)
    }

    fn surroundings(&self, main: &MainConfig, sources: &mut Sources, files: &mut Files, build: &Build) -> String {
        main.surroundings(sources, files, &self.generations.entry(), &build.version)
    }

    /// The sources of these templates, as far as they were kept.
    fn templates(&self, digests: &BTreeSet<String>) -> BTreeMap<String, Arc<str>> {
        let mut memory = self.memory();
        let mut source = |digest: &String| {
            let content = memory.files.get(&self.store.path(digest)).ok()?;
            // An edited copy is none.
            (*content.digest == **digest).then(|| (digest.clone(), content.text))
        };
        digests.iter().filter_map(&mut source).collect()
    }

    /// Digests of the TLS files, by upstream and path; for one that cannot be read, why.
    fn tls_digests(&self, wanted: &BTreeMap<String, Vec<PathBuf>>) -> TlsDigests {
        let mut memory = self.memory();
        let mut digest = |path: &PathBuf| {
            let digest = memory.files.digest(path).map(|digest| digest.to_string()).map_err(|error| error.to_string());
            (path.display().to_string(), digest)
        };
        wanted.iter().map(|(upstream, paths)| (upstream.clone(), paths.iter().map(&mut digest).collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NginxAction;

    #[test]
    fn its_futures_may_go_to_any_thread() {
        fn may_go<T: Send>(_: impl Fn(&'static Nginx, &'static Interest, &'static NginxAction) -> T) {}
        may_go(|nginx, interest, _| nginx.view(interest));
        may_go(|nginx, _, action| nginx.execute(action));
    }
}
