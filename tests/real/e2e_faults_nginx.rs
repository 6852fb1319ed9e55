//! Faults of nginx and of reeve's folder while a shop serves: killed, started by hand with something old, a reload that
//! nginx refuses, a disk that is full, a folder that cannot be written. What serves goes on being routed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::nginx::{self, send};
use crate::support::program::Daemon;
use crate::support::watcher::Watcher;
use crate::support::{Shop, Site, check, eventually};

#[track_caller]
fn whole_again(site: &Site, daemon: &mut Daemon, replicas: usize) {
    eventually("all is as the spec says", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", replicas)?;
        site.loaded_is_current()
    });
    daemon.lives();
}

#[test]
fn an_nginx_that_is_killed_in_any_way_comes_back_with_every_endpoint() {
    let site = Site::new("kill");
    let mut daemon = site.run(&Shop::new(&site, 2));
    let watcher = Watcher::without_traffic(&site);
    let master = || site.nginx.master().expect("it runs");
    // The master alone, whose workers go on; one worker, whom the master replaces; all of them, and the pid file stays.
    let victims: [&dyn Fn() -> Vec<i32>; 3] = [
        &|| vec![master()],
        &|| site.nginx.processes().into_iter().filter(|pid| *pid != master()).take(1).collect(),
        &|| site.nginx.processes().into_iter().collect(),
    ];
    for (number, victims) in victims.iter().enumerate() {
        let before = site.nginx.processes();
        let gone = victims();
        gone.iter().for_each(|pid| send(*pid, Signal::KILL));
        eventually("they are gone, and others run", || {
            let now = site.nginx.processes();
            check(!now.is_empty() && now != before && gone.iter().all(|pid| !now.contains(pid)), || {
                format!("{number}: {before:?}, now {now:?}")
            })
        });
        whole_again(&site, &mut daemon, 2);
    }
    watcher.saw_nothing_lost();
}

#[test]
fn an_nginx_that_somebody_starts_with_an_old_generation_gets_the_present_one() {
    let site = Site::new("old");
    let shop = Shop::new(&site, 2);
    site.apply(&Shop { replicas: 1, ..shop.clone() });
    let old = fs::read_link(site.state().join("current")).expect("`current` is a link");
    let mut daemon = site.run(&shop);
    site.serves(site.listen(), "web", 2).expect("it serves");
    // As after a restored backup: the link is old, and nginx is started with it before anybody looks.
    daemon.signal(Signal::STOP);
    site.nginx.quit();
    let link = site.state().join("current.mine");
    std::os::unix::fs::symlink(&old, &link).expect("a link");
    fs::rename(link, site.state().join("current")).expect("switched");
    site.nginx.command(&[]).expect("nginx starts with the old generation");
    eventually("the old one is loaded", || {
        let loaded = site.loaded();
        check(loaded.is_some() && loaded == site.nginx.generation(), || format!("{loaded:?}"))
    });
    daemon.signal(Signal::CONT);
    whole_again(&site, &mut daemon, 2);
}

/// An nginx whose main configuration breaks right after each check that it passed, for as long as the file `break` is
/// there: the reload that follows is refused.
fn breaks_after_the_check(site: &Site) -> PathBuf {
    let script = site.folder().join("nginx-that-breaks");
    let (config, flag) = (site.nginx.config(), site.folder().join("break"));
    let text = format!(
        "#!/bin/sh\n{real} \"$@\"; code=$?\ncase \" $* \" in *\" -t \"*)\n\
         [ $code = 0 ] && [ -e {flag} ] && ! grep -q no_such_directive {config} && echo 'no_such_directive on;' >>{config};;\n\
         esac\nexit $code\n",
        real = real_nginx().display(),
        flag = flag.display(),
        config = config.display(),
    );
    fs::write(&script, text).expect("the script is written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("ours");
    script
}

fn real_nginx() -> PathBuf {
    let path = std::env::var("PATH").expect("a PATH");
    let all = path.split(':').map(|folder| Path::new(folder).join(nginx::BINARY));
    all.into_iter().find(|path| path.exists()).expect("nginx is on PATH")
}

#[test]
fn a_reload_that_nginx_refuses_leaves_the_last_generation_in_force_until_it_is_mended() {
    let mut site = Site::new("refused");
    site.nginx_binary = breaks_after_the_check(&site).display().to_string();
    // How long a load is waited for is in `nginx`, which the site writes.
    site.write_settings();
    let settings = fs::read_to_string(site.settings()).expect("readable");
    fs::write(site.settings(), settings.replace("nginx:\n", "nginx:\n  load_timeout: 2s\n")).expect("written");
    let shop = Shop::new(&site, 2);
    let mut daemon = site.run(&shop);
    let good = fs::read_to_string(site.nginx.config()).expect("readable");
    let watcher = Watcher::start(&site);
    let loaded = site.loaded();

    fs::write(site.folder().join("break"), "").expect("written");
    site.write_spec(&Shop { replicas: 3, ..shop.clone() });
    eventually("a reload failed", || {
        let text = daemon.get("/metrics")?.body;
        let failed = crate::support::program::value(&text, "reeve_nginx_reloads_total{result=\"failed\"}");
        check(failed.is_some_and(|failed| failed >= 1.0), || format!("{failed:?}"))
    });
    daemon.makes_passes(1);
    assert_eq!(site.loaded(), loaded, "what was loaded stays");
    site.served_by(site.listen(), 4).expect("it goes on serving");

    fs::remove_file(site.folder().join("break")).expect("removed");
    fs::write(site.nginx.config(), good).expect("mended");
    whole_again(&site, &mut daemon, 3);
    watcher.saw_nothing_lost();
}

/// A small file system of its own below reeve's folder; unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).expect("the folder is made");
        let disk = Self(path.to_owned());
        disk.run("mount", &["-t", "tmpfs", "-o", "size=2m,mode=755", "reeve-test"]);
        disk
    }

    fn read_only(&self, yes: bool) {
        self.run("mount", &["-o", if yes { "remount,ro" } else { "remount,rw" }]);
    }

    /// Not a byte is left.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("ballast")).expect("a file");
        for size in [64 * 1024, 1024, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("the ballast is there");
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).arg(&self.0).output().expect("it can be run");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: nginx may have a file of it open until it is ended.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_or_cannot_be_written_holds_changes_back_and_nothing_else() {
    let site = Site::new("disk");
    let disk = Disk::mount(site.state());
    let shop = Shop::new(&site, 2);
    let mut daemon = site.run(&shop);
    let watcher = Watcher::start(&site);
    for replicas in [3, 2] {
        let (loaded, full) = (site.loaded(), replicas == 3);
        if full {
            disk.fill();
        } else {
            disk.read_only(true);
        }
        // What has to be written is new: the upstream's text differs.
        let mut changed = Shop { replicas, ..shop.clone() };
        changed.upstreams[0].1 =
            changed.upstreams[0].1.replace(" }", &format!(", headers: {{ X-Run: r{replicas} }} }}"));
        site.write_spec(&changed);
        let words = if full { "No space left on device" } else { "Read-only file system" };
        eventually("it says so", || daemon.waits(&[words]).map(drop));
        daemon.makes_passes(1);
        assert_eq!(site.loaded(), loaded, "what was loaded stays");
        site.served_by(site.listen(), 4).expect("it goes on serving");
        // A fresh start has nothing but what is on disk.
        drop(daemon);
        daemon = site.start(&[]);
        eventually("a fresh one says so, too", || daemon.waits(&[words]).map(drop));
        assert_eq!(site.loaded(), loaded);
        if full {
            disk.free();
        } else {
            disk.read_only(false);
        }
        whole_again(&site, &mut daemon, replicas as usize);
    }
    watcher.saw_nothing_lost();
    drop(daemon);
}
