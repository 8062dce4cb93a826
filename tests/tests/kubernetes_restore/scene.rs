//! A cluster with a namespace, and an agent beside it that may do there what a role allows.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::{Cluster, System, project};

/// The service account of the agent lies in this namespace.
pub(crate) const AGENT: &str = "neurashield";

/// Makes the namespaces and the agent's account, with no right yet.
pub(crate) fn cluster(namespaces: &[&str]) -> Cluster {
    let cluster = Cluster::start();
    for namespace in namespaces.iter().chain(&[AGENT]) {
        cluster.kubectl(&["create", "namespace", namespace]);
    }
    cluster.kubectl(&["-n", AGENT, "create", "serviceaccount", "agent"]);
    let roles = project().join("deploy/manifests/agent-roles.yaml");
    cluster.kubectl(&["apply", "-f", roles.to_str().expect("UTF-8")]);
    cluster
}

/// Gives the agent one of its roles in a namespace.
pub(crate) fn allow(cluster: &Cluster, namespace: &str, role: &str) {
    let (role, account) = (format!("neurashield-agent-{role}"), format!("{AGENT}:agent"));
    let words = ["--clusterrole", &role, "--serviceaccount", &account];
    cluster.kubectl(&[&["-n", namespace, "create", "rolebinding", &role], words.as_slice()].concat());
}

/// How the agent reaches the cluster: as its service account.
pub(crate) fn access(cluster: &Cluster, folder: &Path) -> PathBuf {
    let admin = cluster.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"]);
    let mut access: Value = serde_json::from_str(&admin).expect("JSON");
    let token = cluster.kubectl(&["-n", AGENT, "create", "token", "agent", "--duration", "10h"]);
    access["users"][0]["user"] = serde_json::json!({ "token": token });
    let file = folder.join("kubeconfig");
    fs::write(&file, access.to_string()).expect("written");
    file
}

/// Starts controller and agent of a prepared system.
pub(crate) fn start(system: &mut System) {
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
}

/// An object as the cluster has it.
pub(crate) fn object(cluster: &Cluster, namespace: &str, kind: &str, name: &str) -> Value {
    let json = cluster.kubectl(&["-n", namespace, "get", kind, name, "-o", "json"]);
    serde_json::from_str(&json).expect("JSON")
}
