//! How an agent is reached: by its socket, with a certificate, with a token; and what is said when it is closed.

use std::process::Command;

use reeve::backend::consul::Consul;
use reeve::plan::ConsulAction;
use reeve::world::ActionError;
use serde_json::json;

use super::agent::{Agent, Mode};
use super::{differences, interest, own, owner, ready, register, wanted};
use crate::support::ports::fresh;

#[tokio::test]
async fn an_agent_is_reached_through_its_socket() {
    let (agent, _) = Agent::ready(Mode::Dev).await;
    let mut settings = agent.settings();
    settings.address = format!("unix://{}/http.sock", agent.folder.path().display());
    let consul = Consul::new(&settings, owner("shop")).expect("good settings");
    register(&consul, &wanted(1)).await;
    assert!(differences(&wanted(1), &own(&consul, &wanted(1).id).await).is_empty());
}

#[tokio::test]
async fn an_agent_that_asks_for_a_certificate_is_reached_with_ours_only() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [&["ca", "create"][..], &["cert", "create", "-server"], &["cert", "create", "-client"]] {
        let made = Command::new("consul")
            .arg("tls")
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .expect("`consul` is on PATH (`make demo` installs it)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let file = |name: &str| folder.path().join(name);
    let port = fresh();
    let agent = Agent::start(
        Mode::Dev,
        &json!({
            "ports": { "https": port },
            "ca_file": file("consul-agent-ca.pem"),
            "cert_file": file("dc1-server-consul-0.pem"),
            "key_file": file("dc1-server-consul-0-key.pem"),
            "verify_incoming": true,
        }),
    );
    let mut settings = agent.settings();
    settings.address = format!("https://127.0.0.1:{port}");
    settings.ca_file = Some(file("consul-agent-ca.pem"));
    let without = Consul::new(&settings, owner("shop")).expect("good settings");
    settings.cert_file = Some(file("dc1-client-consul-0.pem"));
    settings.key_file = Some(file("dc1-client-consul-0-key.pem"));
    let with = Consul::new(&settings, owner("shop")).expect("good settings");
    ready(&with).await;
    register(&with, &wanted(1)).await;
    let error = without.view(&interest()).await.expect_err("it has no certificate").0;
    assert!(error.contains("ertificate"), "the cause is in the reason: {error}");
}

#[tokio::test]
async fn a_token_opens_what_acls_close_and_its_lack_is_named() {
    let token = "11111111-2222-3333-4444-555555555555";
    let agent = Agent::start(
        Mode::Dev,
        &json!({ "acl": {
            "enabled": true, "default_policy": "deny", "tokens": { "master": token, "agent": token }
        } }),
    );
    let mut settings = agent.settings();
    settings.token = Some(token.to_owned());
    let with = Consul::new(&settings, owner("shop")).expect("good settings");
    ready(&with).await;
    register(&with, &wanted(1)).await;
    let without = agent.consul();
    let error = without.view(&interest()).await.expect_err("the agent is closed").0;
    assert!(error.contains("403") && !error.contains(token), "{error}");
    let error = without.execute(&ConsulAction::Register(Box::new(wanted(2)))).await.expect_err("it is closed");
    assert!(matches!(&error, ActionError::Permanent(text) if text.contains("service:write")), "{error}");
}
