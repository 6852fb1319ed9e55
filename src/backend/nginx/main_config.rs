//! The user's main configuration: does it include reeve's entry file, where are its pid file and error log, and the copy
//! of it that a new generation is checked with.
//!
//! It is read, never changed. Includes are followed only as far as the line is not found without them; no directive is
//! judged: that is `nginx -t`'s.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::binary::Build;
use super::files::{Files, Stamp};
use super::{glob, http_block};
use crate::observed::HttpBlock;
use crate::render::quote;
use crate::render::syntax::{self, Directive};
use crate::spec::container::hex;

/// Includes nest so deep; nginx has no limit, but a file that includes itself has none either.
const MAX_DEPTH: usize = 10;
/// So many files are followed.
const MAX_FILES: usize = 10_000;

/// One file of the configuration.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: Arc<str>,
    pub tree: Vec<Directive>,
}

/// An `include` on the way from the main file to reeve's entry file.
#[derive(Debug, Clone)]
struct Hop {
    source: Arc<Source>,
    span: Range<usize>,
    /// All files that it means; more than one for a pattern.
    all: Vec<PathBuf>,
}

/// What reeve needs to know of the main configuration.
#[derive(Debug)]
pub struct MainConfig {
    root: Arc<Source>,
    /// The way to the include line; empty: it is not there.
    hops: Vec<Hop>,
    pid_span: Option<Range<usize>>,
    /// The pid is set in an included file.
    pid_elsewhere: bool,
    pub pid_file: PathBuf,
    /// `None`: it does not go to a file.
    pub error_log: Option<PathBuf>,
    /// `daemon off`: nginx stays in the foreground.
    pub foreground: bool,
    /// `worker_shutdown_timeout`, as it is written.
    pub worker_shutdown_timeout: Option<String>,
}

/// The line that the main configuration must contain.
pub fn include_line(entry: &Path) -> String {
    let path = entry.to_string_lossy();
    let word = quote::quote(&path).unwrap_or_else(|_| path.clone());
    format!("include {word};")
}

/// Sources, parsed once.
#[derive(Debug, Default)]
pub struct Sources {
    known: BTreeMap<PathBuf, (Arc<str>, Arc<Source>)>,
}

impl Sources {
    fn get(&mut self, files: &mut Files, path: &Path) -> Result<Arc<Source>, String> {
        let content = files.get(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if let Some((digest, source)) = self.known.get(path)
            && *digest == content.digest
        {
            return Ok(source.clone());
        }
        let tree = syntax::parse(&content.text)
            .map_err(|error| format!("{}:{}: {}", path.display(), error.line, error.reason))?;
        let source = Arc::new(Source { path: path.to_owned(), text: content.text, tree });
        self.known.insert(path.to_owned(), (content.digest, source.clone()));
        Ok(source)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Main,
    Http,
}

struct Walk<'a> {
    sources: &'a mut Sources,
    files: &'a mut Files,
    /// Relative includes mean files beside the main configuration, wherever the include stands.
    folder: PathBuf,
    entry: String,
    followed: usize,
}

impl MainConfig {
    /// Reads it. `entry`: reeve's entry file, which the include line names. `prefix`: nginx's.
    ///
    /// # Errors
    /// The main file cannot be read, or is not in nginx's language. Included files with errors are passed over: what
    /// they hold is nginx's to judge.
    pub fn read(
        sources: &mut Sources,
        files: &mut Files,
        config: &Path,
        entry: &Path,
        build: &Build,
        prefix: &Path,
    ) -> Result<Self, String> {
        let root = sources.get(files, config).map_err(|error| format!("nginx's main configuration: {error}"))?;
        let folder = config.parent().unwrap_or(Path::new("/")).to_owned();
        let entry = entry.to_string_lossy().into_owned();
        let mut walk = Walk { sources, files, folder, entry, followed: 0 };
        let hops = walk.find_entry(&root, &root.tree, Context::Main, 0).unwrap_or_default();

        let own = |name: &str| root.tree.iter().find(|directive| directive.name == name);
        let pid_span = own("pid").map(|directive| directive.span.clone());
        let mut value = |name: &str| {
            let own = own(name).and_then(|directive| directive.args.first().cloned());
            own.or_else(|| walk.find_value(&root, name, 0))
        };
        let pid = value("pid");
        let pid_elsewhere = pid.is_some() && pid_span.is_none();
        let pid_file = prefix.join(pid.as_ref().map_or(build.pid_path.as_path(), Path::new));
        let error_log = value("error_log").map_or_else(|| build.error_log_path.clone(), PathBuf::from);
        let to_file = !matches!(error_log.to_str(), None | Some("stderr" | "" | "off"))
            && !error_log.to_string_lossy().starts_with("syslog:")
            && !error_log.to_string_lossy().starts_with("memory:");
        let error_log = to_file.then(|| prefix.join(error_log));
        let foreground = value("daemon").as_deref() == Some("off");
        let worker_shutdown_timeout = value("worker_shutdown_timeout");
        Ok(Self { root, hops, pid_span, pid_elsewhere, pid_file, error_log, foreground, worker_shutdown_timeout })
    }

    pub fn included(&self) -> bool {
        !self.hops.is_empty()
    }

    /// The copies to check a generation with: the text of each file to write, the main one first.
    ///
    /// The main copy stands beside the original, because relative includes are resolved from there; the others may stand
    /// anywhere. Every line keeps its number.
    pub fn copies(&self, check: &CheckPlaces) -> Result<Vec<Copy>, String> {
        let quoted = |path: &Path| {
            let text = path.to_string_lossy().into_owned();
            quote::quote(&text)
                .map(|word| word.into_owned())
                .map_err(|why| format!("the path {} {why}", path.display()))
        };
        let mut copies = Vec::new();
        let mut deeper: Option<(PathBuf, PathBuf)> = None;
        for (depth, hop) in self.hops.iter().enumerate().rev() {
            let mut edits = Vec::new();
            let include = match deeper.take() {
                None => format!("include {};", quoted(&check.entry)?),
                Some((original, copy)) => {
                    let mut line = String::new();
                    for file in &hop.all {
                        let file = if *file == original { &copy } else { file };
                        line.push_str(&format!("include {}; ", quoted(file)?));
                    }
                    line
                }
            };
            edits.push((hop.span.clone(), include));
            let mut tail = String::new();
            let copy = if depth == 0 {
                let pid = format!("pid {};", quoted(&check.pid_file)?);
                match &self.pid_span {
                    Some(span) => edits.push((span.clone(), pid)),
                    // A second `pid` would be refused; then the check may leave an empty pid file behind, which is read as
                    // "not running" by everybody.
                    None if self.pid_elsewhere => {}
                    None => tail = format!("\n{pid}\n"),
                }
                check.main_copy.clone()
            } else {
                check.folder.join(format!("{depth}.conf"))
            };
            copies.push(Copy {
                original: hop.source.path.clone(),
                path: copy.clone(),
                text: edited(&hop.source.text, edits) + &tail,
            });
            deeper = Some((hop.source.path.clone(), copy));
        }
        copies.reverse();
        Ok(copies)
    }

    /// Digest over the state of every file that nginx reads for this configuration, reeve's own left out: what a refusal
    /// may also be about. When it changes, a refused generation deserves another try.
    pub fn surroundings(&self, sources: &mut Sources, files: &mut Files, entry: &Path, binary: &str) -> String {
        let folder = self.root.path.parent().unwrap_or(Path::new("/")).to_owned();
        let entry = entry.to_string_lossy().into_owned();
        let mut walk = Walk { sources, files, folder, entry, followed: 0 };
        let mut sha = Sha256::new();
        sha.update(binary);
        walk.stamps(&self.root.path, &self.root.tree, &mut sha, 0);
        hex(&sha.finalize()[..8])
    }
}

/// What a configuration needs of the user's to tell whether nginx has Lua.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LuaBasis {
    /// Lines for the main context: the modules that are loaded, and whom the workers run as.
    pub main: Vec<String>,
    /// Lines for the `http` block.
    pub http: Vec<String>,
    /// A directive of the user's that ours would be the second of.
    pub taken: Option<String>,
    /// What generations have to heed of the rest.
    pub http_block: HttpBlock,
}

/// Where the files of one check stand.
#[derive(Debug)]
pub struct CheckPlaces {
    /// The entry file of the generation that is checked.
    pub entry: PathBuf,
    /// Beside the main configuration.
    pub main_copy: PathBuf,
    /// For the copies of included files.
    pub folder: PathBuf,
    pub pid_file: PathBuf,
}

#[derive(Debug)]
pub struct Copy {
    pub original: PathBuf,
    pub path: PathBuf,
    pub text: String,
}

fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for (span, replacement) in edits {
        // A directive over several lines keeps them, so that nginx's messages name the lines of the original.
        let lines = text.get(span.clone()).map_or(0, |old| old.matches('\n').count());
        text.replace_range(span, &(replacement + &"\n".repeat(lines)));
    }
    text
}

impl MainConfig {
    /// What of it decides whether Lua can be had.
    pub fn lua_basis(&self, sources: &mut Sources, files: &mut Files, entry: &Path) -> LuaBasis {
        let folder = self.root.path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut walk = Walk { sources, files, folder, entry: entry.to_string_lossy().into_owned(), followed: 0 };
        let mut basis = LuaBasis::default();
        walk.lua_basis(&self.root, &self.root.tree, Context::Main, &mut basis, 0);
        basis
    }
}

impl Walk<'_> {
    fn lua_basis(
        &mut self,
        source: &Arc<Source>,
        directives: &[Directive],
        context: Context,
        basis: &mut LuaBasis,
        depth: usize,
    ) {
        if depth > MAX_DEPTH {
            basis.http_block.meddles = true;
            return;
        }
        for directive in directives {
            let name = directive.name.as_str();
            let line = || source.text.get(directive.span.clone()).map(|line| line.replace('\n', " "));
            match context {
                Context::Main if matches!(name, "load_module" | "user") => basis.main.extend(line()),
                Context::Http if name.starts_with("init_by_lua") => {
                    basis.taken = Some(format!("`{name}` ({}:{})", source.path.display(), directive.line));
                }
                Context::Http if name == "lua_malloc_trim" => basis.http_block.trims = true,
                Context::Http
                    if name.ends_with("_temp_path") || matches!(name, "lua_package_path" | "lua_package_cpath") =>
                {
                    basis.http.extend(line());
                }
                Context::Main | Context::Http => {}
            }
            basis.http_block.meddles |= context == Context::Http && !http_block::leaves_alone(name);
            if context == Context::Main && name == "http" {
                self.lua_basis(source, directive.block.as_deref().unwrap_or_default(), Context::Http, basis, depth);
            }
            if name == "include" && directive.args.len() == 1 {
                for target in glob::expand(&self.folder.join(&directive.args[0])) {
                    match self.follow(&target) {
                        Some(inner) => self.lua_basis(&inner, &inner.tree, context, basis, depth + 1),
                        // Nobody knows what it says; reeve's own says nothing.
                        None => basis.http_block.meddles |= target.to_string_lossy() != self.entry.as_str(),
                    }
                }
            }
        }
    }

    /// The way to the entry file: what stands in this file first, then the includes in their order.
    fn find_entry(
        &mut self,
        source: &Arc<Source>,
        directives: &[Directive],
        context: Context,
        depth: usize,
    ) -> Option<Vec<Hop>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let includes =
            || directives.iter().filter(|directive| directive.name == "include" && directive.args.len() == 1);
        if context == Context::Http {
            let direct = includes().find(|directive| directive.args[0] == self.entry);
            if let Some(direct) = direct {
                let all = vec![PathBuf::from(&self.entry)];
                return Some(vec![Hop { source: source.clone(), span: direct.span.clone(), all }]);
            }
        } else {
            for http in directives.iter().filter(|directive| directive.name == "http") {
                let inner = http.block.as_deref().unwrap_or_default();
                if let Some(hops) = self.find_entry(source, inner, Context::Http, depth) {
                    return Some(hops);
                }
            }
        }
        for include in includes() {
            let all = glob::expand(&self.folder.join(&include.args[0]));
            for target in &all {
                let Some(inner) = self.follow(target) else { continue };
                if let Some(mut hops) = self.find_entry(&inner, &inner.tree, context, depth + 1) {
                    hops.insert(0, Hop { source: source.clone(), span: include.span.clone(), all: all.clone() });
                    return Some(hops);
                }
            }
        }
        None
    }

    /// The first argument of a directive of the main context, in the files that the main file includes there.
    fn find_value(&mut self, source: &Arc<Source>, name: &str, depth: usize) -> Option<String> {
        if depth > MAX_DEPTH {
            return None;
        }
        for include in source.tree.iter().filter(|directive| directive.name == "include" && directive.args.len() == 1) {
            for target in glob::expand(&self.folder.join(&include.args[0])) {
                let Some(inner) = self.follow(&target) else { continue };
                let own = inner.tree.iter().find(|directive| directive.name == name);
                let value = own.and_then(|directive| directive.args.first().cloned());
                if let Some(value) = value.or_else(|| self.find_value(&inner, name, depth + 1)) {
                    return Some(value);
                }
            }
        }
        None
    }

    fn follow(&mut self, target: &Path) -> Option<Arc<Source>> {
        self.followed += 1;
        if self.followed > MAX_FILES || target.to_string_lossy() == self.entry.as_str() {
            return None;
        }
        self.sources.get(self.files, target).ok()
    }

    fn stamps(&mut self, path: &Path, directives: &[Directive], sha: &mut Sha256, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        sha.update(path.to_string_lossy().as_bytes());
        sha.update(Stamp::of(path).map_or_else(|error| error.kind().to_string(), |stamp| stamp.line()));
        self.stamps_of_includes(directives, sha, depth);
    }

    fn stamps_of_includes(&mut self, directives: &[Directive], sha: &mut Sha256, depth: usize) {
        for directive in directives {
            if let Some(block) = &directive.block {
                self.stamps_of_includes(block, sha, depth);
            }
            if directive.name != "include" || directive.args.len() != 1 {
                continue;
            }
            for target in glob::expand(&self.folder.join(&directive.args[0])) {
                match self.follow(&target) {
                    Some(inner) => self.stamps(&target, &inner.tree, sha, depth + 1),
                    None => sha.update(target.to_string_lossy().as_bytes()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "/r/current/reeve.conf";

    struct Etc(tempfile::TempDir);

    impl Etc {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            for (name, text) in files {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
                std::fs::write(path, text).expect("written");
            }
            Self(folder)
        }

        fn read(&self) -> Result<MainConfig, String> {
            let build = Build {
                version: "1.22.1".to_owned(),
                prefix: "/usr/share/nginx".into(),
                pid_path: "/run/nginx.pid".into(),
                error_log_path: "stderr".into(),
            };
            MainConfig::read(
                &mut Sources::default(),
                &mut Files::default(),
                &self.0.path().join("nginx.conf"),
                Path::new(ENTRY),
                &build,
                Path::new("/prefix"),
            )
        }

        fn copies(&self) -> Vec<Copy> {
            let places = CheckPlaces {
                entry: "/r/generations/1/reeve.conf".into(),
                main_copy: self.0.path().join(".copy"),
                folder: "/tmp/copies".into(),
                pid_file: "/tmp/pid".into(),
            };
            self.read().expect("read").copies(&places).expect("copies")
        }
    }

    #[test]
    fn the_line_counts_only_in_the_http_block() {
        for (text, included) in [
            ("http { include /r/current/reeve.conf; }", true),
            ("http { include \"/r/current/reeve.conf\"; }", true),
            ("http { server { include /r/current/reeve.conf; } }", false),
            ("include /r/current/reeve.conf; http { }", false),
            ("http { # include /r/current/reeve.conf;\n }", false),
            ("http { include /r/current/*.conf; }", false),
            ("http { include parts/*.conf; }", true),
            ("include main.d/http; ", true),
        ] {
            let etc = Etc::new(&[
                ("nginx.conf", text),
                ("parts/a.conf", "server { listen 1; }"),
                ("parts/b.conf", "include /r/current/reeve.conf;"),
                ("main.d/http", "http { include parts/*.conf; }"),
            ]);
            assert_eq!(etc.read().expect(text).included(), included, "{text}");
        }
    }

    #[test]
    fn pid_file_and_error_log_are_found_where_nginx_looks() {
        let etc = Etc::new(&[("nginx.conf", "pid run/x.pid; error_log logs/e.log warn; http {}")]);
        let main = etc.read().expect("read");
        assert_eq!(main.pid_file, Path::new("/prefix/run/x.pid"));
        assert_eq!(main.error_log.as_deref(), Some(Path::new("/prefix/logs/e.log")));
        let etc = Etc::new(&[("nginx.conf", "include more; http {}"), ("more", "daemon off; pid /p;")]);
        let main = etc.read().expect("read");
        assert_eq!((main.pid_file.as_path(), main.error_log, main.foreground), (Path::new("/p"), None, true));
        let etc = Etc::new(&[("nginx.conf", "error_log syslog:server=x; http {}")]);
        let main = etc.read().expect("read");
        assert_eq!((main.pid_file.as_path(), main.error_log), (Path::new("/run/nginx.pid"), None));
    }

    #[test]
    fn the_copy_differs_only_in_the_include_and_the_pid_and_keeps_line_numbers() {
        let etc = Etc::new(&[(
            "nginx.conf",
            "user x;\npid\n  /run/a.pid;\nhttp {\n  include mime;\n  include /r/current/reeve.conf;\n  b;\n}\n",
        )]);
        let copies = etc.copies();
        assert_eq!(copies.len(), 1);
        assert_eq!(
            copies[0].text,
            "user x;\npid /tmp/pid;\n\nhttp {\n  include mime;\n  include /r/generations/1/reeve.conf;\n  b;\n}\n"
        );
        let etc = Etc::new(&[("nginx.conf", "http { include /r/current/reeve.conf; } # end")]);
        assert_eq!(
            etc.copies()[0].text,
            "http { include /r/generations/1/reeve.conf; } # end\npid /tmp/pid;\n",
            "a pid of its own must not vanish in a comment"
        );
    }

    #[test]
    fn a_line_in_an_included_file_is_redirected_through_copies() {
        let etc = Etc::new(&[
            ("nginx.conf", "pid /p; http { include parts/*.conf; }"),
            ("parts/a.conf", "x;"),
            ("parts/b.conf", "y; include /r/current/reeve.conf;"),
        ]);
        let copies = etc.copies();
        let a = etc.0.path().join("parts/a.conf");
        assert_eq!(
            copies[0].text,
            format!("pid /tmp/pid; http {{ include {}; include /tmp/copies/1.conf;  }}", a.display())
        );
        assert_eq!(copies[1].text, "y; include /r/generations/1/reeve.conf;");
        assert_eq!(copies[1].original, etc.0.path().join("parts/b.conf"));
    }

    #[test]
    fn a_broken_main_configuration_is_an_error_with_file_and_line_a_broken_included_one_is_not() {
        let etc = Etc::new(&[("nginx.conf", "http {\n")]);
        let error = etc.read().expect_err("broken");
        assert!(error.contains("nginx.conf:2: unexpected end of file"), "{error}");
        let etc =
            Etc::new(&[("nginx.conf", "http { include bad; include self; }"), ("bad", "{"), ("self", "include self;")]);
        assert!(!etc.read().expect("read").included());
    }

    #[test]
    fn the_surroundings_change_with_every_file_that_nginx_reads() {
        let etc = Etc::new(&[("nginx.conf", "http { server { include snippet; } }"), ("snippet", "a;")]);
        let digest = || {
            let main = etc.read().expect("read");
            main.surroundings(&mut Sources::default(), &mut Files::default(), Path::new(ENTRY), "1")
        };
        let before = digest();
        assert_eq!(before, digest());
        std::fs::write(etc.0.path().join("snippet"), "a; b;").expect("written");
        assert_ne!(before, digest());
    }

    #[test]
    fn what_the_http_block_itself_says_is_heeded_wherever_it_stands_and_nothing_that_a_server_says() {
        let seen = |files: &[(&str, &str)]| {
            let etc = Etc::new(files);
            let main = etc.read().expect("read");
            main.lua_basis(&mut Sources::default(), &mut Files::default(), Path::new(ENTRY)).http_block
        };
        let of = |trims, meddles| HttpBlock { trims, meddles };
        let main =
            ("nginx.conf", "http { include conf.d/*; server { error_page 502 /x; } include /r/current/reeve.conf; }");
        assert_eq!(seen(&[main]), of(false, false));
        assert_eq!(seen(&[main, ("conf.d/a", "error_page 404 /none;")]), of(false, true));
        assert_eq!(seen(&[main, ("conf.d/a", "grpc_intercept_errors on;")]), of(false, true));
        assert_eq!(
            seen(&[main, ("conf.d/a", "server { location / { proxy_intercept_errors on; } }")]),
            of(false, false)
        );
        assert_eq!(seen(&[main, ("conf.d/a", "lua_malloc_trim 0;")]), of(true, false));
        assert_eq!(seen(&[main, ("conf.d/a", "gzip on; {")]), of(false, true), "what cannot be read says anything");
    }
}
