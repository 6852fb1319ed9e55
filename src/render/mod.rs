//! Rendering: upstreams with their endpoints become the files of a generation. Pure.
//!
//! Owns nginx's language in both directions: `scene` (what is to be said, values checked), the template (how it is laid
//! out), `quote` (nothing breaks out of its place), `syntax` (reading it back, and reading main configurations).
//! It must not read or write files, ask nginx, or know what is loaded: that is `backend::nginx`.

pub mod endpoints;
pub mod quote;
pub mod scene;
pub mod syntax;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{AutoEscape, Captured, Environment, ErrorKind, Output, State, UndefinedBehavior};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::observed::{Balancer, GenerationId, HttpBlock, Manifest, RoutedUpstream};
use crate::plan::action::NewGeneration;
use crate::spec::Owner;
use crate::spec::container::hex;
use crate::spec::upstream::AccessLog;

/// The template that is used when the settings name none.
pub const BUILT_IN: &str = include_str!("../../config/generation.conf.j2");
/// The program that balances by Lua, for the generations that have it.
pub const LUA: &str = include_str!("../../config/endpoints.lua");
/// Its name among a generation's files.
pub const LUA_FILE: &str = "files/endpoints.lua";
/// The endpoints of such a generation, beside its other files: not one of them, since they change.
pub const ENDPOINTS_FILE: &str = "endpoints";
/// What keeps everybody but reeve from setting them: the backend makes it up, and it is in no plan.
pub const SECRET_FILE: &str = "secret.conf";
/// The path of the probe under which they are set.
pub const ENDPOINTS_PATH: &str = "/endpoints";

/// Its name in errors.
pub const BUILT_IN_NAME: &str = "config/generation.conf.j2";

/// Raised when `scene` starts to give templates something else for the same upstreams: the generations made by an older
/// reeve are then rendered anew.
const SCENE_VERSION: &str = "reeve:v2:generation";

/// Fuel for a rendering, whatever it renders: used up by an endless loop within a second.
const FUEL: u64 = 5_000_000;
/// And for each upstream and endpoint on top of it: several times what the built-in template needs.
const FUEL_UPSTREAM: u64 = 5_000;
const FUEL_ENDPOINT: u64 = 200;

/// Where copies of TLS files and templates stand, by digest: beside the folder of generations.
pub fn store_folder(generations: &Path) -> PathBuf {
    generations.with_file_name("store")
}

/// The file that the main configuration includes, and the only one at a generation's top level.
pub const ENTRY_FILE: &str = "reeve.conf";

/// nginx's Lua has a worker look through all of its memory after so many requests, for what can be given back: by default
/// after 1,000, which takes one or two of a hundred of its time when it is busy.
pub const TRIM: u32 = 100_000;

/// What a template sets that knows how to have upstreams balanced by Lua.
const LUA_MARK: &str = "balances_by_lua";

const MACROS: [&str; 3] = ["main", "upstream", "server"];

/// Why nothing was rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// These upstreams cannot be rendered; without them the others can. See `Renderer::faults`.
    #[error("{}", list(.0))]
    Upstreams(BTreeMap<String, String>),
    /// An error of the template. `upstreams`: those whose file was being rendered; empty when it is not theirs.
    #[error("template {place}: {reason}")]
    Template { place: String, reason: String, upstreams: Vec<String> },
    /// A value that all files share: the folder, the owner, the probe.
    #[error("{0}")]
    Shared(String),
}

fn list(faults: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = faults.iter().map(|(name, reason)| format!("upstream {name}: {reason}")).collect();
    lines.join("\n")
}

/// A compiled template.
pub struct Renderer {
    environment: Environment<'static>,
    name: String,
    source: Arc<str>,
    digest: String,
    /// It knows how to have upstreams balanced by Lua.
    knows_lua: bool,
    balancer: Balancer,
    http: HttpBlock,
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renderer").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Renderer {
    /// Compiles a template. `name` is its path, for errors.
    ///
    /// # Errors
    /// A template that does not parse, or lacks one of the three macros.
    pub fn new(source: &str, name: &str) -> Result<Self, RenderError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        // Never on: with it, errors carry the values of variables.
        environment.set_debug(false);
        // Not HTML; but any mode other than `None` keeps apart what a filter has made harmless from what nobody has looked at.
        environment.set_auto_escape_callback(|_| AutoEscape::Custom("nginx".into()));
        environment.set_formatter(write_value);
        environment.add_filter("quote", |value: Value| {
            filter(&value, |text| quote::quote(text).map(|text| text.into_owned()))
        });
        environment.add_filter("words", |value: Value| filter(&value, quote::words));
        environment.add_filter("plain", |value: Value| filter(&value, |text| quote::check(text).map(str::to_owned)));
        let syntax = minijinja::syntax::SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()
            .map_err(|error| RenderError::Shared(format!("the template engine refused its own settings: {error}")))?;
        environment.set_syntax(syntax);
        let digest = hex(&Sha256::digest(source.as_bytes()));
        let mut renderer = Self {
            environment,
            name: name.to_owned(),
            source: source.into(),
            digest,
            knows_lua: false,
            balancer: Balancer::Nginx,
            http: HttpBlock::default(),
        };
        let added = renderer.environment.add_template_owned(name.to_owned(), source.to_owned());
        added.map_err(|error| renderer.template_error(&error, &[]))?;
        let exports: Vec<String> = {
            let template = renderer.environment.get_template(name);
            let template = template.map_err(|error| renderer.template_error(&error, &[]))?;
            let captured = template.render_captured(()).map_err(|error| renderer.template_error(&error, &[]))?;
            captured.state().exports().into_iter().map(str::to_owned).collect()
        };
        if let Some(missing) = MACROS.iter().find(|wanted| !exports.iter().any(|have| have == *wanted)) {
            return Err(RenderError::Template {
                place: name.to_owned(),
                reason: format!("it defines no macro `{missing}`; it needs {}", MACROS.join(", ")),
                upstreams: Vec::new(),
            });
        }
        renderer.knows_lua = exports.iter().any(|name| name == LUA_MARK);
        Ok(renderer)
    }

    /// The same template, for generations that are balanced like this, inside of such an `http` block.
    pub fn balanced_by(&self, balancer: Balancer, http: HttpBlock) -> Self {
        Self {
            environment: self.environment.clone(),
            name: self.name.clone(),
            source: self.source.clone(),
            digest: self.digest.clone(),
            knows_lua: self.knows_lua,
            balancer,
            http,
        }
    }

    pub fn balancer(&self) -> Balancer {
        self.balancer
    }

    /// Why generations in this folder cannot be balanced by Lua, if so, whatever nginx can do.
    pub fn without_lua(&self, generations_folder: &Path) -> Option<String> {
        if !self.knows_lua {
            return Some(format!("the template {} does not know how (it does not set `{LUA_MARK}`)", self.name));
        }
        let path = generations_folder.display().to_string();
        let refused = quote::check(&path).err()?;
        Some(format!("the path of the folder {path} {refused}"))
    }

    /// Digest of the template's source, in hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The first part of a generation's id: 12 hexadecimal digits over all that the generation is rendered from, so that
    /// a planner can tell that nothing changed without rendering.
    pub fn generation_hash(
        &self,
        owner: &Owner,
        upstreams: &BTreeMap<String, RoutedUpstream>,
        probe: SocketAddr,
    ) -> String {
        let mut sha = Sha256::new();
        for part in [SCENE_VERSION, &self.digest, &owner.to_string(), &probe.to_string()] {
            sha.update(part.as_bytes());
            sha.update([0]);
        }
        if self.balancer == Balancer::Lua {
            sha.update(LUA);
            // Only where it makes a difference: an edit of the user's must not cost a reload for nothing.
            let meddles = self.http.meddles && upstreams.values().any(scene::balancer_may_find_out);
            sha.update([u8::from(self.http.trims), u8::from(meddles)]);
        }
        let mut json = Vec::with_capacity(64 * 1024);
        for (name, upstream) in upstreams {
            json.clear();
            let written = match self.balancer {
                // Its endpoints may be set without another generation.
                Balancer::Lua if endpoints::by_lua(upstream) => {
                    serde_json::to_writer(&mut json, &(name, &upstream.upstream, &upstream.files))
                }
                Balancer::Nginx | Balancer::Lua => serde_json::to_writer(&mut json, &(name, upstream)),
            };
            written.expect("maps have string keys, and writing to memory cannot fail");
            sha.update(&json);
            sha.update([0]);
        }
        hex(&sha.finalize()[..6])
    }

    fn scene(
        &self,
        owner: &Owner,
        upstreams: &BTreeMap<String, RoutedUpstream>,
        probe: SocketAddr,
    ) -> (scene::Scene, BTreeMap<String, String>) {
        scene::build(owner, upstreams, probe, self.balancer, self.http)
    }

    /// Why single upstreams cannot be rendered, by name; empty: all can. The rest can be rendered without them.
    pub fn faults(
        &self,
        owner: &Owner,
        upstreams: &BTreeMap<String, RoutedUpstream>,
        probe: SocketAddr,
    ) -> BTreeMap<String, String> {
        self.scene(owner, upstreams, probe).1
    }

    /// Upstreams that nginx's message is about, by the files of theirs that it names; empty: it is about none in particular.
    pub fn blamed(
        &self,
        owner: &Owner,
        upstreams: &BTreeMap<String, RoutedUpstream>,
        probe: SocketAddr,
        message: &str,
    ) -> BTreeSet<String> {
        let mut blamed: BTreeSet<String> =
            upstreams.iter().filter(|(_, routed)| is_about(message, routed)).map(|(name, _)| name.clone()).collect();
        let names_file = |file: &str| message.contains(&format!("/{file}:"));
        if !message.contains("/files/") {
            return blamed;
        }
        let (scene, _) = self.scene(owner, upstreams, probe);
        for upstream in &scene.upstreams {
            if names_file(&upstream_file(&upstream.title)) {
                blamed.insert(upstream.title.clone());
            }
        }
        for server in &scene.servers {
            if names_file(&server_file(server)) {
                blamed.extend(server.members.iter().cloned());
            }
        }
        blamed
    }

    /// Renders every file of the generation `id`, which will stand in `generations_folder/<id>`.
    ///
    /// # Errors
    /// Upstreams at fault (all of them), an error of the template, a folder whose path cannot be written into a
    /// configuration.
    pub fn render(
        &self,
        id: &GenerationId,
        owner: &Owner,
        upstreams: &BTreeMap<String, RoutedUpstream>,
        probe: SocketAddr,
        generations_folder: &Path,
    ) -> Result<NewGeneration, RenderError> {
        let folder = checked_folder(generations_folder)?;
        quote::check(&owner.to_string())
            .map_err(|refused| RenderError::Shared(format!("the owner {owner} {refused}; set another `node`")))?;
        let (mut scene, faults) = self.scene(owner, upstreams, probe);
        if !faults.is_empty() {
            return Err(RenderError::Upstreams(faults));
        }
        read_copies(&mut scene, upstreams, folder);

        let endpoints: u64 = scene.upstreams.iter().map(|upstream| upstream.endpoints.len() as u64).sum();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_UPSTREAM * upstreams.len() as u64 + FUEL_ENDPOINT * endpoints));
        let template = environment.get_template(&self.name).map_err(|error| self.template_error(&error, &[]))?;
        let mut macros = template.render_captured(()).map_err(|error| self.template_error(&error, &[]))?;

        let mut files: BTreeMap<String, Arc<str>> = BTreeMap::new();
        for upstream in &scene.upstreams {
            let text = self.call(&mut macros, "upstream", upstream, std::slice::from_ref(&upstream.title))?;
            files.insert(upstream_file(&upstream.title), text);
        }
        for server in &scene.servers {
            files.insert(server_file(server), self.call(&mut macros, "server", server, &server.members)?);
        }
        let main = Main {
            id: id.to_string(),
            owner: owner.to_string(),
            probe: probe.to_string(),
            files: files.keys().map(|file| format!("{folder}/{id}/{file}")).collect(),
            lua: (self.balancer == Balancer::Lua).then(|| MainLua::of(id, folder, upstreams, self.http)),
        };
        if self.balancer == Balancer::Lua {
            files.insert(LUA_FILE.to_owned(), Arc::from(LUA));
        }
        files.insert(ENTRY_FILE.to_owned(), self.call(&mut macros, "main", &main, &[])?);

        let manifest = Manifest {
            owner: owner.to_string(),
            template: self.digest.clone(),
            upstreams: upstreams.clone(),
            balancer: self.balancer,
            files: BTreeMap::new(),
            suspects: BTreeMap::new(),
            template_refused: 0,
        };
        Ok(NewGeneration { id: id.clone(), manifest, files, template: self.source.clone() })
    }

    /// Calls one macro of the template.
    fn call(
        &self,
        macros: &mut Captured<'_>,
        name: &str,
        argument: &impl Serialize,
        upstreams: &[String],
    ) -> Result<Arc<str>, RenderError> {
        let argument = Value::from(minijinja::value::Serde(argument));
        let rendered = macros.with_state_mut(|state| state.call_macro(name, &[argument]));
        rendered.map(Arc::from).map_err(|error| self.template_error(&error, upstreams))
    }

    /// File, line and the line itself. The engine's own details may hold values, so only those that cannot are shown.
    fn template_error(&self, error: &minijinja::Error, upstreams: &[String]) -> RenderError {
        let name = error.name().unwrap_or(&self.name);
        let place = error.line().map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
        let own = std::error::Error::source(error).and_then(|source| source.downcast_ref::<NotHarmless>());
        let mut reason = match (own, error.kind()) {
            (Some(own), _) => own.to_string(),
            (
                None,
                kind @ (ErrorKind::SyntaxError
                | ErrorKind::UnknownFilter
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownFunction
                | ErrorKind::TemplateNotFound),
            ) => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
            (None, kind) => kind.to_string(),
        };
        let line = error.line().and_then(|line| self.source.lines().nth(line - 1));
        if let Some(line) = line.filter(|_| name == self.name) {
            reason.push_str("\n    ");
            reason.push_str(line.trim());
        }
        RenderError::Template { place, reason, upstreams: upstreams.to_vec() }
    }
}

/// nginx reads the copies of TLS files: what is good stays so, whatever becomes of the originals.
fn read_copies(scene: &mut scene::Scene, upstreams: &BTreeMap<String, RoutedUpstream>, generations: &str) {
    let store = store_folder(Path::new(generations));
    for server in &mut scene.servers {
        let Some(tls) = &mut server.tls else { continue };
        for path in [&mut tls.certificate, &mut tls.key] {
            let mut members = server.members.iter().filter_map(|name| upstreams.get(name));
            if let Some(digest) = members.find_map(|routed| routed.files.get(path.as_str())) {
                *path = store.join(digest).to_string_lossy().into_owned();
            }
        }
    }
}

/// Where nginx names no file of ours, but something that only some upstreams use: a TLS file, a log, a listen address.
fn is_about(message: &str, routed: &RoutedUpstream) -> bool {
    let upstream = &routed.upstream;
    let names_path = |path: &Path| message.contains(&format!("\"{}\"", path.display()));
    let tls = upstream.tls.as_ref().is_some_and(|tls| names_path(&tls.certificate) || names_path(&tls.key));
    let copy = routed.files.values().any(|digest| message.contains(digest.as_str()));
    let log = matches!(&upstream.access_log, Some(AccessLog::File(path)) if names_path(path));
    let address = match upstream.listen.address {
        None => format!("0.0.0.0:{}", upstream.listen.port),
        Some(_) => upstream.listen.to_string(),
    };
    let bind = message.contains(&format!("bind() to {address} failed"));
    tls || copy || log || bind
}

fn upstream_file(name: &str) -> String {
    format!("files/upstream-{name}.conf")
}

fn server_file(server: &scene::ServerScene) -> String {
    format!("files/{}", server.file)
}

#[derive(Serialize)]
struct Main {
    id: String,
    owner: String,
    probe: String,
    files: Vec<String>,
    lua: Option<MainLua>,
}

/// What the program in Lua is told.
#[derive(Serialize)]
struct MainLua {
    /// Name of the shared memory: each generation has its own, so that old workers and new ones keep apart.
    memory: String,
    megabytes: u64,
    program: String,
    endpoints: String,
    secret: String,
    path: &'static str,
    /// After so many requests a worker gives memory back that it does not use; none: the user's `http` block says it.
    trim: Option<u32>,
}

impl MainLua {
    fn of(id: &GenerationId, folder: &str, upstreams: &BTreeMap<String, RoutedUpstream>, http: HttpBlock) -> Self {
        // Two sets at once, with room to grow; memory that is not used costs nothing.
        let bytes = endpoints::text(&endpoints::of(upstreams)).len() as u64;
        let place = |file: &str| format!("{folder}/{id}/{file}");
        Self {
            memory: format!("reeve_{}_{}", id.hash, id.number),
            megabytes: (bytes.saturating_mul(16) >> 20).next_power_of_two().max(16),
            program: place(LUA_FILE),
            endpoints: place(ENDPOINTS_FILE),
            secret: place(SECRET_FILE),
            path: ENDPOINTS_PATH,
            trim: (!http.trims).then_some(TRIM),
        }
    }
}

/// A value that a template wrote, or gave to a filter, and that could break out of its place. Never holds the value.
#[derive(Debug, thiserror::Error)]
enum NotHarmless {
    #[error("the value {0}; use the filter `quote` (one word) or `words` (several)")]
    Written(quote::Refused),
    #[error("the value {0}")]
    Filtered(quote::Refused),
    #[error("a {0} cannot be written; use for example {{{{ 'on' if x else 'off' }}}}")]
    Kind(&'static str),
}

impl From<NotHarmless> for minijinja::Error {
    fn from(error: NotHarmless) -> Self {
        Self::new(ErrorKind::InvalidOperation, "not harmless").with_source(error)
    }
}

/// Writes `{{ value }}`: what a filter made harmless, numbers, and strings that are harmless in any place.
fn write_value(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    use minijinja::value::ValueKind;
    let written = match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::None => return Err(NotHarmless::Kind("none").into()),
        ValueKind::Bool => return Err(NotHarmless::Kind("boolean").into()),
        ValueKind::Number => out.write_str(&value.to_string()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if !value.is_safe() {
                quote::check(text).map_err(NotHarmless::Written)?;
            }
            out.write_str(text)
        }
        _ => return Err(NotHarmless::Kind("list or map").into()),
    };
    written.map_err(|error| minijinja::Error::new(ErrorKind::WriteFailure, "no room").with_source(error))
}

/// A filter: text in, harmless text out.
fn filter(value: &Value, make: impl FnOnce(&str) -> Result<String, quote::Refused>) -> Result<Value, minijinja::Error> {
    // What a filter has made harmless stays as it is.
    if value.is_safe() {
        return Ok(value.clone());
    }
    let made = match value.as_str() {
        Some(text) => make(text),
        None if value.is_number() => make(&value.to_string()),
        None if value.is_undefined() => return Err(ErrorKind::UndefinedError.into()),
        None => return Err(NotHarmless::Kind("value that is not text").into()),
    };
    Ok(Value::from_safe_string(made.map_err(NotHarmless::Filtered)?))
}

/// nginx takes `*`, `?` and `[` in an include for a pattern, also when they are quoted.
fn checked_folder(folder: &Path) -> Result<&str, RenderError> {
    let refuse =
        |why: &str| RenderError::Shared(format!("the folder {} {why}; set another `directory`", folder.display()));
    let text = folder.to_str().ok_or_else(|| refuse("is not UTF-8"))?;
    if !text.starts_with('/') {
        return Err(refuse("is not absolute"));
    }
    if text.contains(['*', '?', '[', ']']) {
        return Err(refuse("holds one of * ? [ ], which nginx takes for a pattern"));
    }
    quote::quote(text).map_err(|refused| refuse(&refused.to_string()))?;
    Ok(text.trim_end_matches('/'))
}
