//! A Consul cluster of a test's own in containers, three servers and a client, that reeve does not know of: it must not
//! mend what the test breaks.

use std::fmt::Write as _;

use super::docker::{STRANGER, docker, try_docker};
use super::shop::{CONSUL, WEB};
use super::{Site, check, http};

pub const SERVERS: [&str; 3] = ["consul1", "consul2", "consul3"];
pub const CLIENT: &str = "consul4";

/// Everything carries the site's mark for strangers, and is removed with the site.
pub struct Cluster {
    project: String,
    port: u16,
}

impl Cluster {
    /// Starts it where the site's settings name their agent.
    pub fn start(site: &Site) -> Self {
        let cluster = Self { project: site.project.clone(), port: site.ports.consul()[0] };
        let mark = cluster.mark();
        docker(&["network", "create", "--label", &mark, &cluster.network()]);
        for name in SERVERS.into_iter().chain([CLIENT]) {
            docker(&["volume", "create", "--label", &mark, &cluster.name(name)]);
            cluster.run(name, true);
        }
        cluster
    }

    fn mark(&self) -> String {
        format!("{STRANGER}={}", self.project)
    }

    pub fn network(&self) -> String {
        format!("{}-consul", self.project)
    }

    /// Docker's name of a member's container and of its volume.
    pub fn name(&self, member: &str) -> String {
        format!("{}-{member}", self.project)
    }

    /// `known`: with the node id that it had before.
    fn run(&self, member: &str, known: bool) {
        let (name, mark, network) = (self.name(member), self.mark(), self.network());
        let (volume, publish) = (format!("{name}:/consul/data"), format!("{}:8500", self.port));
        let mut arguments = vec!["run", "--detach", "--name", &name, "--hostname", member, "--label", &mark];
        arguments.extend(["--network", &network, "--network-alias", member, "--volume", &volume]);
        if member == CLIENT {
            arguments.extend(["--publish", &publish]);
        }
        let mut command = format!(
            "{CONSUL} agent -client=0.0.0.0 -node={member} -retry-interval=1s -hcl performance{{raft_multiplier=1}}"
        );
        for server in SERVERS {
            write!(command, " -retry-join={server}").expect("a String takes it");
        }
        if member != CLIENT {
            command.push_str(" -server -bootstrap-expect=3");
        }
        if known {
            let number = member.trim_start_matches("consul");
            write!(command, " -node-id=00000000-0000-4000-8000-00000000000{number}").expect("a String takes it");
        }
        arguments.extend(command.split(' '));
        docker(&arguments);
    }

    /// SIGKILL.
    pub fn kill(&self, member: &str) {
        docker(&["kill", &self.name(member)]);
    }

    pub fn revive(&self, member: &str) {
        docker(&["start", &self.name(member)]);
    }

    /// Its container is removed and made anew. `volume`: it keeps its data. `known`: it keeps its node id.
    pub fn recreate(&self, member: &str, volume: bool, known: bool) {
        let name = self.name(member);
        docker(&["rm", "--force", &name]);
        if !known {
            // And at another address.
            let (mark, holder) = (self.mark(), self.name("holder"));
            docker(&["run", "--detach", "--name", &holder, "--label", &mark, "--network", &self.network(), WEB]);
        }
        if !volume {
            docker(&["volume", "rm", &name]);
            docker(&["volume", "create", "--label", &self.mark(), &name]);
        }
        self.run(member, known);
    }

    /// Cut off from the others, and, for the client, from reeve too.
    pub fn cut(&self, member: &str) {
        docker(&["network", "disconnect", &self.network(), &self.name(member)]);
    }

    pub fn join(&self, member: &str) {
        docker(&["network", "connect", "--alias", member, &self.network(), &self.name(member)]);
    }

    /// The member that leads now, as the client says.
    pub fn leader(&self) -> Result<&'static str, String> {
        let answer = http::get(self.port, "/v1/status/leader").map_err(|error| error.to_string())?;
        let leader = answer.body.trim_matches('"').to_owned();
        let address = leader.split(':').next().unwrap_or_default();
        check(answer.status == 200 && !address.is_empty(), || format!("no leader: {}", answer.body))?;
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let leads = |member: &&str| {
            try_docker(&["inspect", "--format", format, &self.name(member)]).is_ok_and(|own| own == address)
        };
        SERVERS.into_iter().find(leads).ok_or_else(|| format!("{leader} is none of the servers"))
    }

    /// All three servers are voters that the autopilot calls healthy.
    pub fn complete(&self) -> Result<(), String> {
        self.leader()?;
        let path = "/v1/operator/autopilot/health";
        let answer = http::get(self.port, path).map_err(|error| error.to_string())?;
        check(answer.status == 200, || format!("{}: {}", answer.status, answer.body))
    }
}
