//! The floor: what the parts need of themselves for one change of endpoints. A registration (or its end) at the agent, a
//! blocking query that tells of it, and then either `nginx -t` and HUP, or one request that sets the endpoints for a
//! balancer in Lua. An nginx of its own, which reeve knows nothing of.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::nginx::{Nginx, send};
use crate::support::{Site, http};

const BALANCER: &str = r#"
    lua_shared_dict floor 1m;
    upstream site {
        server 0.0.0.1;
        balancer_by_lua_block {
            local ports = ngx.shared.floor
            local turn = ports:incr("turn", 1, 0) % ports:get("count")
            require("ngx.balancer").set_current_peer("127.0.0.1", ports:get(turn))
        }
    }
"#;
const SETS: &str = r#"
        location = /set {
            content_by_lua_block {
                local dict, count = ngx.shared.floor, 0
                for port in ngx.var.arg_ports:gmatch("%d+") do
                    dict:set(count, tonumber(port))
                    count = count + 1
                end
                dict:set("count", count)
                dict:set("number", ngx.var.arg_number)
            }
        }
        location / { content_by_lua_block { ngx.print("floor-", ngx.shared.floor:get("number"), " ", ngx.worker.pid()) } }
"#;

pub struct Floor {
    pub nginx: Nginx,
    pub listen: u16,
    pub probe: u16,
    service: String,
    number: usize,
    lua: bool,
}

impl Floor {
    /// It serves what is on that port.
    pub fn start(site: &Site, lua: bool, base: u16) -> Self {
        let folder: PathBuf = site.folder().join("floor");
        let mut nginx = Nginx::new(folder, site.folder().join("floor-state"));
        let (listen, probe) = (site.ports.listen(6), site.ports.listen(7));
        if lua {
            nginx.load_lua();
            nginx.write_config(&format!(
                "{BALANCER}    server {{ listen 127.0.0.1:{listen}; location / {{ proxy_pass http://site; }} }}\n    \
                 server {{\n        listen 127.0.0.1:{probe};{SETS}    }}\n"
            ));
        }
        let service = format!("{}-floor", site.project);
        let mut floor = Self { nginx, listen, probe, service, number: 0, lua };
        floor.write(&[base]);
        floor.nginx.command(&[]).expect("it starts");
        if lua {
            floor.set(&[base]);
        }
        site.consul().register("base", &floor.service, "127.0.0.1", base);
        floor
    }

    fn write(&mut self, ports: &[u16]) {
        if self.lua {
            return;
        }
        self.number += 1;
        let servers: String = ports.iter().map(|port| format!("server 127.0.0.1:{port};")).collect();
        self.nginx.write_config(&format!(
            "upstream site {{ {servers} }}\nserver {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://site; }} }}\n\
             server {{ listen 127.0.0.1:{}; location / {{ return 200 \"floor-{} $pid\"; }} }}\n",
            self.listen, self.probe, self.number
        ));
    }

    fn set(&mut self, ports: &[u16]) {
        self.number += 1;
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let path = format!("/set?ports={}&number={}", ports.join(","), self.number);
        let answer = http::get(self.probe, &path).expect("it answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// From now on nginx is to route to these.
    fn route(&mut self, ports: &[u16]) {
        if self.lua {
            self.set(ports);
            return;
        }
        self.write(ports);
        self.nginx.command(&["-t"]).expect("nginx accepts it");
        send(self.nginx.master().expect("it runs"), Signal::HUP);
    }

    /// Registers what is on that port, waits until a blocking query that waits since `index` tells, and routes to all of
    /// these.
    pub fn add(&mut self, site: &Site, index: u64, port: u16, all: &[u16]) {
        site.consul().register("floor", &self.service, "127.0.0.1", port);
        self.wait_for_news(site, index);
        self.route(all);
    }

    /// The same the other way round.
    pub fn remove(&mut self, site: &Site, index: u64, left: &[u16]) {
        site.consul().deregister("floor");
        self.wait_for_news(site, index);
        self.route(left);
    }

    pub fn index(&self, site: &Site) -> u64 {
        // The index is in the header alone: the newest ModifyIndex of the service stands for it.
        let entries = site.consul().get(&format!("/v1/health/service/{}", self.service));
        let newest = |value: &Value| value.as_u64().unwrap_or_default();
        let of = |entry: &Value| {
            let checks = entry["Checks"].as_array().into_iter().flatten().map(|one| newest(&one["ModifyIndex"]));
            checks.chain([newest(&entry["Service"]["ModifyIndex"])]).max().unwrap_or_default()
        };
        entries.as_array().into_iter().flatten().map(of).max().unwrap_or_default()
    }

    /// A blocking query until the answer is another one than at that index.
    fn wait_for_news(&self, site: &Site, index: u64) {
        site.consul().get(&format!("/v1/health/service/{}?index={index}&wait=5s", self.service));
    }
}
