//! The nginx program: what it was built with, the check of a configuration, the start.
//!
//! Every run has a time limit, and is killed when it passes. What nginx said is kept, because it is the reason a person
//! gets to read.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::files::Stamp;

/// How long `nginx -t` may take: 46 ms at 1000 services, but name servers may be slow.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the start may take until nginx is a daemon.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what is left in the pipe of one that has ended is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// nginx retries and warns; more than this nobody reads.
const MAX_OUTPUT: usize = 64 * 1024;

/// What `nginx -V` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub version: String,
    pub prefix: PathBuf,
    /// May be relative to the prefix.
    pub pid_path: PathBuf,
    pub error_log_path: PathBuf,
}

impl Build {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.split_once("nginx version: "))?.1;
        let version = line.split_once('/').map_or(line, |(_, version)| version).trim().to_owned();
        let argument = |name: &str| {
            let rest = text.split_once(&format!("--{name}="))?.1;
            rest.split_whitespace().next().map(PathBuf::from)
        };
        Some(Self {
            version,
            prefix: argument("prefix").unwrap_or_else(|| PathBuf::from("/usr/local/nginx")),
            pid_path: argument("pid-path").unwrap_or_else(|| PathBuf::from("logs/nginx.pid")),
            error_log_path: argument("error-log-path").unwrap_or_else(|| PathBuf::from("logs/error.log")),
        })
    }
}

/// How nginx is called.
#[derive(Debug, Clone)]
pub struct Binary {
    name: PathBuf,
    prefix: Option<PathBuf>,
}

/// The end of a run.
#[derive(Debug)]
pub struct Outcome {
    pub success: bool,
    pub output: String,
}

impl Binary {
    pub fn new(name: PathBuf, prefix: Option<PathBuf>) -> Self {
        Self { name, prefix }
    }

    /// Its full path, found as a shell finds it.
    ///
    /// # Errors
    /// It is nowhere. Debian's `nginx` is in `/usr/sbin`, which a user's PATH lacks, so that folder is looked in too.
    pub fn path(&self) -> Result<PathBuf, String> {
        if self.name.components().count() > 1 {
            return match self.name.exists() {
                true => Ok(std::path::absolute(&self.name).unwrap_or_else(|_| self.name.clone())),
                false => Err(format!("nginx is not there: no file {} (`nginx.binary`)", self.name.display())),
            };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let more = ["/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(more)
            .map(|folder| folder.join(&self.name))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                format!(
                    "nginx is not installed: no `{}` in PATH; install it, or set `nginx.binary`",
                    self.name.display()
                )
            })
    }

    /// The program's stamp, to know when to ask again.
    ///
    /// # Errors
    /// It is nowhere.
    pub fn stamp(&self) -> Result<Stamp, String> {
        let path = self.path()?;
        Stamp::of(&path).map_err(|error| format!("cannot look at {}: {error}", path.display()))
    }

    /// # Errors
    /// It cannot be run, or says something unknown.
    pub async fn build(&self) -> Result<Build, String> {
        let outcome = self.run(&[OsStr::new("-V")], VERSION_TIMEOUT).await?;
        Build::parse(&outcome.output)
            .ok_or_else(|| format!("{} -V said something unknown: {}", self.name.display(), outcome.output.trim()))
    }

    /// `nginx -t` with this main configuration.
    ///
    /// # Errors
    /// nginx could not be run, or not in time. A refusal is an outcome.
    pub async fn check(&self, config: &Path) -> Result<Outcome, String> {
        self.run(&self.arguments(config, true), CHECK_TIMEOUT).await
    }

    /// Starts the daemon; returns when it has detached itself, or has refused.
    ///
    /// # Errors
    /// nginx could not be run, or did not detach itself in time.
    pub async fn start(&self, config: &Path) -> Result<Outcome, String> {
        self.run(&self.arguments(config, false), START_TIMEOUT).await
    }

    fn arguments<'a>(&'a self, config: &'a Path, test: bool) -> Vec<&'a OsStr> {
        let mut arguments: Vec<&OsStr> = Vec::new();
        if let Some(prefix) = &self.prefix {
            arguments.extend([OsStr::new("-p"), prefix.as_os_str()]);
        }
        arguments.extend([OsStr::new("-c"), config.as_os_str()]);
        if test {
            arguments.push(OsStr::new("-t"));
        }
        arguments
    }

    async fn run(&self, arguments: &[&OsStr], limit: Duration) -> Result<Outcome, String> {
        let path = self.path()?;
        let what = || {
            let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
            format!("{} {}", path.display(), words.join(" "))
        };
        let mut child = Command::new(&path)
            .args(arguments)
            .current_dir("/")
            // Through it nginx inherits sockets from another nginx.
            .env_remove("NGINX")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", what()))?;
        let mut stderr = child.stderr.take();
        let mut output = Vec::new();
        let read_and_wait = async {
            let mut buffer = [0; 4096];
            loop {
                // A daemon may keep its end of the pipe open for ever, so the child's end is what is waited for.
                let read = async {
                    match stderr.as_mut() {
                        Some(pipe) => pipe.read(&mut buffer).await.unwrap_or(0),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    count = read => {
                        if count == 0 {
                            stderr = None;
                        } else if output.len() < MAX_OUTPUT {
                            output.extend_from_slice(&buffer[..count]);
                        }
                    }
                    status = child.wait() => break status,
                }
            }
        };
        let status = tokio::time::timeout(limit, read_and_wait).await;
        // That it has ended can be known before what it said last: seen, under load, as a refusal without a word.
        if let (Ok(_), Some(mut pipe)) = (&status, stderr) {
            let mut rest = Vec::new();
            let mut pipe = (&mut pipe).take(MAX_OUTPUT.saturating_sub(output.len()) as u64);
            // Late, when a daemon keeps the pipe; what was read until then is kept.
            let (Ok(_) | Err(_)) = tokio::time::timeout(LAST_WORDS, pipe.read_to_end(&mut rest)).await;
            output.extend_from_slice(&rest);
        }
        let text = || String::from_utf8_lossy(&output).into_owned();
        match status {
            Ok(Ok(status)) => Ok(Outcome { success: status.success(), output: text() }),
            Ok(Err(error)) => Err(format!("cannot wait for {}: {error}", what())),
            Err(_) => {
                // The answer to a kill that fails is the same: it did not end in time.
                let (Ok(()) | Err(_)) = child.kill().await;
                Err(format!("{} did not end within {} s; it said: {}", what(), limit.as_secs(), text().trim()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_of_debians_nginx_is_read() {
        let text = "nginx version: nginx/1.22.1\nbuilt with OpenSSL\nconfigure arguments: --with-cc-opt='-g -O2' --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --error-log-path=stderr --pid-path=/run/nginx.pid --with-x\n";
        let build = Build::parse(text).expect("known");
        assert_eq!(build.version, "1.22.1");
        assert_eq!(build.prefix, Path::new("/usr/share/nginx"));
        assert_eq!(build.pid_path, Path::new("/run/nginx.pid"));
        assert_eq!(build.error_log_path, Path::new("stderr"));
        assert_eq!(Build::parse("bash: no"), None);
    }

    #[tokio::test]
    async fn what_a_program_said_last_is_read_though_its_end_was_seen_first() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("nginx");
        std::fs::write(&program, "#!/bin/sh\n(sleep 0.02; echo 'last words' >&2) &\nexit 1\n").expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let outcome = Binary::new(program, None).check(Path::new("/nginx.conf")).await.expect("it runs");
        assert!(!outcome.success);
        assert_eq!(outcome.output, "last words\n");
    }

    #[tokio::test]
    async fn a_missing_program_says_what_to_do() {
        let error = Binary::new("no-such-nginx".into(), None).build().await.expect_err("missing");
        assert!(error.contains("install it, or set `nginx.binary`"), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_pipe_open_does_not_hold_us() {
        let binary = Binary::new("/bin/sh".into(), None);
        let script = [OsStr::new("-c"), OsStr::new("echo said >&2; sleep 5 & exit 3")];
        let started = std::time::Instant::now();
        let outcome = binary.run(&script, Duration::from_secs(4)).await.expect("it ended");
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(!outcome.success);
        assert_eq!(outcome.output, "said\n");
    }

    #[tokio::test]
    async fn a_run_that_hangs_is_killed() {
        let binary = Binary::new("/bin/sh".into(), None);
        let script = [OsStr::new("-c"), OsStr::new("echo wait >&2; exec sleep 60")];
        let error = binary.run(&script, Duration::from_millis(300)).await.expect_err("too slow");
        assert!(error.contains("did not end") && error.contains("wait"), "{error}");
    }
}
