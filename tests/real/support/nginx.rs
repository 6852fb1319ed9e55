//! The nginx of one test: its main configuration, its processes, and what it routes by the files on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub const BINARY: &str = "nginx";

pub struct Nginx {
    /// Prefix, configuration, pid file and logs.
    pub folder: PathBuf,
    /// reeve's own directory.
    pub state: PathBuf,
    /// What stands at the top of the configuration.
    main: String,
}

impl Nginx {
    pub fn new(folder: PathBuf, state: PathBuf) -> Self {
        for sub in ["logs", "temp"] {
            fs::create_dir_all(folder.join(sub)).expect("nginx's folders are made");
        }
        let nginx = Self { folder, state, main: String::new() };
        nginx.write_own_config();
        nginx
    }

    fn write_own_config(&self) {
        self.write_config(&format!("    include {}/current/reeve.conf;\n", self.state.display()));
    }

    /// Loads Debian's Lua module, with the one that it needs.
    pub fn load_lua(&mut self) {
        let module = |name: &str| format!("load_module /usr/lib/nginx/modules/{name}.so;\n");
        self.main = module("ndk_http_module") + &module("ngx_http_lua_module");
        self.write_own_config();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("nginx.conf")
    }

    /// `http`: the text inside of the http block.
    pub fn write_config(&self, http: &str) {
        let folder = self.folder.display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("    {kind}_temp_path {folder}/temp/{kind};\n"))
            .collect();
        let text = format!(
            "{}worker_processes 2;\npid {folder}/nginx.pid;\nerror_log {folder}/logs/error.log;\n\
             worker_shutdown_timeout 10s;\nevents {{ worker_connections 256; }}\nhttp {{\n    access_log off;\n{temp}{http}}}\n",
            self.main
        );
        fs::write(self.config(), text).expect("nginx's configuration is written");
    }

    /// As somebody would by hand.
    pub fn command(&self, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(BINARY)
            .args(["-c"])
            .arg(self.config())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("nginx cannot be run ({error}); `make demo` installs it"))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// The master, by the pid file.
    pub fn master(&self) -> Option<i32> {
        fs::read_to_string(self.folder.join("nginx.pid")).ok()?.trim().parse().ok()
    }

    /// Master and workers, also workers whose master was killed: all that have our logs open. A link to the program has a
    /// longer name.
    pub fn processes(&self) -> BTreeSet<i32> {
        let ours = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            name.starts_with(BINARY)
                && descriptors
                    .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
                    .any(|target| target.starts_with(&self.folder))
        };
        let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }

    /// Ends all of it.
    pub fn quit(&self) {
        for signal in [Signal::QUIT, Signal::TERM, Signal::KILL] {
            for pid in self.processes() {
                send(pid, signal);
            }
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(3) {
                if self.processes().is_empty() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        eprintln!("clean-up: an nginx of {} does not end", self.folder.display());
    }

    /// The folder of the generation that `current` includes.
    pub fn generation(&self) -> Option<String> {
        let text = fs::read_to_string(self.state.join("current/reeve.conf")).ok()?;
        // `generation <hash>-<n>` is in its first comment; a template may say it only in what is answered on the probe port.
        let (_, rest) = text.split_once(": generation ").or_else(|| text.split_once("return 200 \""))?;
        rest.split([' ', '.']).next().map(str::to_owned)
    }

    /// The files that `current` includes, by name.
    pub fn files(&self) -> BTreeMap<String, PathBuf> {
        files_of(&self.state)
    }

    /// `address:port` of each server of the upstream in the generation that `current` includes.
    pub fn servers(&self, upstream: &str) -> BTreeSet<String> {
        servers_of(&self.state, upstream).unwrap_or_default()
    }
}

fn files_of(state: &Path) -> BTreeMap<String, PathBuf> {
    let text = fs::read_to_string(state.join("current/reeve.conf")).unwrap_or_default();
    let includes = text.lines().filter_map(|line| {
        let path = line.trim().strip_prefix("include ")?.trim_end_matches(';').trim_matches('"');
        Some(PathBuf::from(path))
    });
    includes.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path))).collect()
}

/// `None`: there is no such upstream, or it was exchanged between two looks.
pub fn servers_of(state: &Path, upstream: &str) -> Option<BTreeSet<String>> {
    servers_in(&files_of(state).remove(&format!("upstream-{upstream}.conf"))?)
}

/// `address:port` of each server that a file of a generation names; `None`: there is no such file.
pub fn servers_in(path: &Path) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(path).ok()?;
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("server "));
    Some(servers.map(|rest| rest.trim_end_matches(';').split(' ').next().unwrap_or_default().to_owned()).collect())
}

pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }
}
