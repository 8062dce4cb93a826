//! Agents that join by the service account of their pod. The API server here says of tokens what it is told to; a
//! real one is in the suite `kubernetes`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tests::{ApiServer, Process, System, wait_for};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";

/// What the API server was asked.
#[derive(Clone, Default)]
struct Asked {
    reviews: Arc<Mutex<Vec<Value>>>,
    /// What the controller has no right to.
    forbidden: Arc<Mutex<Vec<String>>>,
}

impl Asked {
    fn reviews(&self) -> Vec<Value> {
        self.reviews.lock().expect("no panic").clone()
    }

    fn forbidden(&self) -> Vec<String> {
        self.forbidden.lock().expect("no panic").clone()
    }
}

/// An API server that knows one token and one config map, whose content it mounts into a folder as a kubelet does.
fn api_server(user: &'static str, mounted: PathBuf) -> (ApiServer, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let server = ApiServer::start(move |method, path, body| match (method, path) {
        ("POST", path) if path.starts_with("/apis/authentication.k8s.io/v1/tokenreviews") => {
            seen.reviews.lock().expect("no panic").push(body.clone());
            let is_good = body["spec"]["token"] == TOKEN;
            let status = match is_good {
                true => {
                    json!({ "authenticated": true, "audiences": ["neurashield-backup"], "user": { "username": user } })
                }
                false => json!({ "error": "the token is not known" }),
            };
            Some(json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {},
                "spec": body["spec"], "status": status }))
        }
        ("PATCH", path) if path.starts_with("/api/v1/namespaces/shop/configmaps/authority") => {
            fs::write(mounted.join("ca.crt"), body["data"]["ca.crt"].as_str()?).ok()?;
            Some(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "authority" } }))
        }
        _ => {
            seen.forbidden.lock().expect("no panic").push(format!("{method} {path}"));
            None
        }
    });
    (server, asked)
}

/// A controller with a rule for `shop/agent`, and an agent whose pod has mounted what the chart mounts.
fn system(user: &'static str, token: &str, data: &Path) -> (System, Asked) {
    let system = System::prepare(&[("models", data)]);
    let mounted = system.root().join("mounted");
    fs::create_dir(&mounted).expect("made");
    fs::write(mounted.join("token"), token).expect("written");
    let (server, asked) = api_server(user, mounted.clone());
    let kubeconfig = system.root().join("kubeconfig");
    server.kubeconfig(&kubeconfig);
    system.configure_controller(&format!(
        "kubernetes:\n  kubeconfig: {}\n  authority: [{{ namespace: shop, config_map: authority }}]\n  \
         agents: [{{ namespace: shop, service_account: agent, name: \"test-*\", sources: [\"models/*\"] }}]\n",
        kubeconfig.display()
    ));
    let file = system.root().join("agent.yaml");
    let by_token = format!("join: {{ token_file: {}/token }}", system.root().display());
    let by_account =
        format!("join: {{ service_account: true, service_account_folder: {} }}", mounted.display());
    let text = fs::read_to_string(&file).expect("read");
    assert!(text.contains(&by_token));
    fs::write(&file, text.replace(&by_token, &by_account)).expect("written");
    (system, asked)
}

fn agents(system: &System) -> Vec<Value> {
    let listed = system.nsctl(&["agent", "list", "-o", "json"]).expect(0).json();
    listed["agents"].as_array().expect("a list").clone()
}

#[test]
fn an_agent_joins_by_its_service_account_and_a_new_pod_of_it_is_the_same_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights"), "weights").expect("written");
    let (mut system, asked) = system("system:serviceaccount:shop:agent", TOKEN, folder.path());
    // The agent is there before the controller has told anybody its certificate.
    system.start_agent();
    system.start_controller();
    system.await_agent();
    system.run(&["backup"]);
    let first = agents(&system);
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(asked.reviews()[0]["spec"]["audiences"], json!(["neurashield-backup"]));
    let audit = system.nsctl(&["audit", "-o", "json"]).expect(0).out;
    assert!(audit.contains("service account shop/agent"), "{audit}");

    // A pod whose state is gone with it: another key.
    system.kill_agent();
    fs::remove_dir_all(system.root().join("agent")).expect("removed");
    system.start_agent();
    wait_for("the agent to join again", 60, || (asked.reviews().len() > 1).then_some(()));
    system.await_agent();
    let second = agents(&system);
    assert_eq!(second.len(), 1, "{second:?}");
    assert_eq!(first[0]["id"], second[0]["id"]);
    system.run(&["backup"]);

    // Who was shut out does not come back by the same door.
    system.nsctl(&["agent", "revoke", "test-agent", "--yes"]).expect(0);
    system.kill_agent();
    fs::remove_dir_all(system.root().join("agent")).expect("removed");
    system.start_agent();
    wait_for("the agent to be told", 60, || system.log(Process::Agent).contains("was revoked").then_some(()));
    assert!(!system.is_agent_there());
    for log in [Process::Agent, Process::Controller].map(|of| system.log(of)) {
        assert!(!log.contains(TOKEN), "a token is in the log: {log}");
    }
    assert_eq!(asked.forbidden(), [""; 0], "the controller asks for what it has no right to");
}

#[test]
fn another_service_account_or_token_is_refused_and_told_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    for (user, token, told) in [
        (
            "system:serviceaccount:shop:default",
            TOKEN,
            "no rule of the controller lets agents of this service",
        ),
        ("system:serviceaccount:shop:agent", "a.forged.token", "does not accept the service account's token"),
    ] {
        let (mut system, asked) = system(user, token, folder.path());
        system.start_controller();
        system.start_agent();
        wait_for("the agent to be refused", 60, || system.log(Process::Agent).contains(told).then_some(()));
        assert_eq!(agents(&system), Vec::<Value>::new());
        assert_eq!(asked.forbidden(), [""; 0], "the controller asks for what it has no right to");
    }
}
