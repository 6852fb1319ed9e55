//! A Docker engine of a test's own: it may be stopped and killed. It has a network namespace and folders of its own, since a
//! second engine in the machine's namespace takes the first one's bridge away.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::nginx::send;
use super::shop::WEB;
use super::{Site, check, within};

const LONG: Duration = Duration::from_secs(60);

pub struct Engine {
    folder: PathBuf,
    /// Name of the namespace, and the beginning of the names of the two ends of its link.
    namespace: String,
    /// This machine's end of the link, and the engine's.
    ends: [Ipv4Addr; 2],
    live_restore: bool,
    process: Option<Child>,
}

impl Engine {
    /// With the web server's image. `live_restore`: its containers outlive the daemon.
    pub fn start(site: &Site, live_restore: bool) -> Self {
        let port = site.ports.http();
        // Of a block that is for tests of networks, by the port, which is this test's alone.
        let third = u8::try_from(port / 40 % 128).expect("below 128") * 2;
        let mut engine = Self {
            folder: site.folder().join("engine"),
            namespace: format!("rv{port}"),
            ends: [1, 2].map(|last| Ipv4Addr::new(198, 18, third, last)),
            live_restore,
            process: None,
        };
        fs::create_dir_all(&engine.folder).expect("the folder is made");
        engine.link();
        engine.run();
        let image = engine.folder.join("web.tar");
        let image = image.to_str().expect("a plain path");
        command("docker", &["save", "--output", image, WEB]).expect("the image is there");
        command("docker", &["--host", &engine.host(), "load", "--input", image]).expect("the engine takes it");
        engine
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.join("docker.sock").display())
    }

    /// Where its containers' published ports are reached.
    pub fn address(&self) -> Ipv4Addr {
        self.ends[1]
    }

    /// Each with the time of its start.
    pub fn containers(&self) -> String {
        let host = self.host();
        let ids = command("docker", &["--host", &host, "ps", "--quiet", "--no-trunc"]).expect("the engine answers");
        let mut inspect = vec!["--host", &host, "inspect", "--format", "{{.Name}} {{.State.StartedAt}}"];
        inspect.extend(ids.lines());
        command("docker", &inspect).expect("the engine answers")
    }

    /// A namespace, and a link to it.
    fn link(&self) {
        let (name, [here, there]) = (&self.namespace, self.ends);
        let (outer, inner) = (format!("{name}a"), format!("{name}b"));
        for line in [
            format!("netns add {name}"),
            format!("link add {outer} type veth peer name {inner}"),
            format!("link set {inner} netns {name}"),
            format!("addr add {here}/30 dev {outer}"),
            format!("link set {outer} up"),
            format!("-n {name} addr add {there}/30 dev {inner}"),
            format!("-n {name} link set {inner} up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {here}"),
        ] {
            command("ip", &line.split(' ').collect::<Vec<_>>()).unwrap_or_else(|error| panic!("ip {line}: {error}"));
        }
    }

    pub fn run(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let path = |name: &str| self.folder.join(name);
        // Of a daemon that was killed; its containerd's pid may be another process by now.
        for stale in ["pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(path(stale));
        }
        let log = fs::File::options().create(true).append(true).open(path("log")).expect("the log is made");
        let mut daemon = Command::new("nsenter");
        // Not `ip netns exec`, which hides the control groups behind a new /sys.
        daemon.arg(format!("--net=/var/run/netns/{}", self.namespace)).arg("dockerd");
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            daemon.arg(flag).arg(path(name));
        }
        daemon.arg("--host").arg(self.host());
        if self.live_restore {
            daemon.arg("--live-restore");
        }
        let errors = log.try_clone().expect("a handle");
        self.process =
            Some(daemon.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("dockerd is started"));
        within(LONG, "the engine answers", || command("docker", &["--host", &self.host(), "version"]).map(drop));
    }

    /// As a service manager does it.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut process) = self.process.take() else { return };
        // `nsenter` becomes the daemon.
        send(i32::try_from(process.id()).expect("a pid"), signal);
        within(LONG, "the engine ends", || {
            let ended = process.try_wait().map_err(|error| error.to_string())?;
            check(ended.is_some(), || "it runs".to_owned())
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Only a daemon can end its containers.
        if self.process.is_none() && !std::thread::panicking() {
            self.run();
        }
        let host = self.host();
        let ids = command("docker", &["--host", &host, "ps", "--all", "--quiet"]).unwrap_or_default();
        let mut remove = vec!["--host", &host, "rm", "--force"];
        remove.extend(ids.lines());
        if !ids.is_empty()
            && let Err(error) = command("docker", &remove)
        {
            eprintln!("clean-up: {error}");
        }
        if let Some(mut process) = self.process.take() {
            send(i32::try_from(process.id()).expect("a pid"), Signal::TERM);
            // It ends its containerd; a daemon that does not end is of no use to anybody.
            for _ in 0..100 {
                if process.try_wait().is_ok_and(|ended| ended.is_some()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        unmount_below(&self.folder);
        for arguments in [vec!["netns", "del", &self.namespace], vec!["link", "del", &format!("{}a", self.namespace)]] {
            // The link goes with the namespace, sooner or later.
            let _ = command("ip", &arguments);
        }
    }
}

/// Layers of containers, and what the engine mounts over its own folders.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| Path::new(path).starts_with(folder));
    for path in below.collect::<Vec<_>>().into_iter().rev() {
        let _ = command("umount", &["--lazy", path]);
    }
}

fn command(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env_remove("DOCKER_HOST")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
