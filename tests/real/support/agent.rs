//! A Consul agent of a test's own on the host, and what is asked of it over HTTP as an operator would with curl.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{check, http, within};

pub struct Agent {
    ports: [u16; 4],
    node: String,
    folder: PathBuf,
    /// It keeps its state on disk, and has it again after `kill` and `start`.
    pub keeps_state: bool,
    /// Checks may be programs.
    pub runs_scripts: bool,
    pub tls: Option<Tls>,
    process: Option<Child>,
}

pub struct Tls {
    pub port: u16,
    folder: PathBuf,
}

impl Tls {
    pub fn ca(&self) -> PathBuf {
        self.folder.join("consul-agent-ca.pem")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Agent {
    /// Nothing runs yet.
    pub fn new(folder: &Path, node: &str, ports: [u16; 4]) -> Self {
        Self {
            ports,
            node: node.to_owned(),
            folder: folder.to_owned(),
            keeps_state: false,
            runs_scripts: false,
            tls: None,
            process: None,
        }
    }

    /// It is to be asked by TLS, too, on this port, with a certificate that is made for it.
    pub fn use_tls(&mut self, port: u16) {
        let folder = self.folder.join("tls");
        std::fs::create_dir(&folder).expect("a folder");
        for arguments in [&["ca", "create"][..], &["cert", "create", "-server", "-dc", "dc1"]] {
            let made = Command::new("consul").arg("tls").args(arguments).current_dir(&folder).output();
            let made = made.expect("`consul` is on PATH");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        self.tls = Some(Tls { port, folder });
    }

    /// Starts it, with an empty state unless it keeps its own (`-dev` has nothing on disk), and waits until it has a leader.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let [http, server, serf_lan, serf_wan] = self.ports;
        let mut config = json!({
            "node_name": self.node,
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": { "http": http, "server": server, "serf_lan": serf_lan, "serf_wan": serf_wan, "dns": -1, "grpc": -1 },
            "log_level": "warn",
            "disable_update_check": true,
        });
        let mut arguments = vec!["agent"];
        if self.runs_scripts {
            config["enable_script_checks"] = json!(true);
        }
        if let Some(tls) = &self.tls {
            config["ports"]["https"] = json!(tls.port);
            config["ca_file"] = json!(tls.ca());
            config["cert_file"] = json!(tls.folder.join("dc1-server-consul-0.pem"));
            config["key_file"] = json!(tls.folder.join("dc1-server-consul-0-key.pem"));
        }
        if self.keeps_state {
            config["server"] = json!(true);
            config["bootstrap_expect"] = json!(1);
            config["data_dir"] = json!(self.folder.join("consul-data"));
            config["performance"] = json!({ "raft_multiplier": 1 });
        } else {
            arguments.push("-dev");
        }
        let file = self.folder.join("consul.json");
        std::fs::write(&file, config.to_string()).expect("the agent's configuration is written");
        let log = std::fs::File::create(self.folder.join("consul.log")).expect("the agent's log is made");
        let child = Command::new("consul")
            .args(arguments)
            .arg("-config-file")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("`consul` is on PATH (`make demo` installs it)");
        self.process = Some(child);
        within(super::SOON, "the agent has a leader and has registered itself", || {
            let nodes = http::get(http, "/v1/catalog/nodes").map_err(|error| error.to_string())?;
            check(nodes.status == 200 && nodes.body.contains(&self.node), || nodes.body.clone())
        });
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It has ended already when this fails.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    pub fn api(&self) -> Api {
        Api { port: self.ports[0] }
    }
}

/// The HTTP interface of some agent.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    pub port: u16,
}

impl Api {
    #[track_caller]
    pub fn get(self, path: &str) -> Value {
        let answer = http::get(self.port, path).unwrap_or_else(|error| panic!("consul {path}: {error}"));
        assert_eq!(answer.status, 200, "consul {path}: {}", answer.body);
        answer.json()
    }

    #[track_caller]
    pub fn put(self, path: &str, body: &Value) {
        let answer = http::put(self.port, path, body).unwrap_or_else(|error| panic!("consul {path}: {error}"));
        assert_eq!(answer.status, 200, "consul {path}: {}", answer.body);
    }

    pub fn try_get(self, path: &str) -> Result<Value, String> {
        let answer = http::get(self.port, path).map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{}: {}", answer.status, answer.body)) }
    }

    /// What the agent has, by id.
    #[track_caller]
    pub fn services(self) -> BTreeMap<String, Value> {
        let all = self.get("/v1/agent/services");
        all.as_object().expect("an object").iter().map(|(id, service)| (id.clone(), service.clone())).collect()
    }

    /// Ids of the agent's services with this mark in their `Meta`.
    #[track_caller]
    pub fn registrations(self, owner: &str) -> BTreeSet<String> {
        let services = self.services().into_iter();
        let ours = services.filter(|(_, service)| {
            service["Meta"].as_object().is_some_and(|meta| meta.values().any(|value| value.as_str() == Some(owner)))
        });
        ours.map(|(id, _)| id).collect()
    }

    /// `address:port` of the passing instances of a service, by the catalog.
    #[track_caller]
    pub fn passing(self, service: &str) -> BTreeSet<String> {
        let answer = self.get(&format!("/v1/health/service/{service}?passing=1"));
        answer.as_array().into_iter().flatten().map(|entry| endpoint(&entry["Service"])).collect()
    }

    /// As somebody else would do it: a service without any mark of ours.
    #[track_caller]
    pub fn register(self, id: &str, name: &str, address: &str, port: u16) {
        self.put("/v1/agent/service/register", &json!({"ID": id, "Name": name, "Address": address, "Port": port}));
    }

    #[track_caller]
    pub fn deregister(self, id: &str) {
        // An id of ours has a slash in it.
        self.put(&format!("/v1/agent/service/deregister/{}", id.replace('/', "%2F")), &Value::Null);
    }
}

pub fn endpoint(service: &Value) -> String {
    format!("{}:{}", service["Address"].as_str().unwrap_or_default(), service["Port"])
}
