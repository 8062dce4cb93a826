//! An agent in a pod: who else has its volume mounted, and that it never stops itself.
//!
//! The agent's process runs on this host with the name of the pod that stands in for it and mounts the volume at
//! the same path: what it asks the API, and what it is answered, is as in the pod.

use std::fs;

use serde_json::{Value, json};
use tests::{Cluster, Process, SHELL_IMAGE, System, wait_for};

use crate::scene::{access, allow, cluster};

fn container(name: &str, path: &str) -> Value {
    json!({
        "name": name, "image": SHELL_IMAGE, "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done"],
        "volumeMounts": [{ "name": "data", "mountPath": path }],
    })
}

fn deploy(cluster: &Cluster, name: &str, containers: &[Value]) {
    let pod = json!({
        "terminationGracePeriodSeconds": 2, "containers": containers,
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "selector": { "matchLabels": { "app": name } }, "strategy": { "type": "Recreate" },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod },
        },
    });
    cluster.apply(&deployment.to_string());
}

/// The names of a Deployment's pods.
fn pods(cluster: &Cluster, app: &str) -> String {
    let (app, names) = (format!("app={app}"), "jsonpath={.items[*].metadata.name}");
    cluster.kubectl(&["-n", "shop", "get", "pod", "-l", &app, "-o", names])
}

/// The agent starts in the pod that is there now.
fn start_agent(cluster: &Cluster, system: &mut System) {
    let pod = wait_for("one pod of the agent", 60, || {
        let names = pods(cluster, "agent");
        (!names.is_empty() && !names.contains(' ')).then_some(names)
    });
    let become_it = format!("printf %s {pod} >/proc/sys/kernel/hostname && exec \"$@\"");
    system.start_agent_by(&["unshare", "--uts", "sh", "-c", &become_it, "sh"]);
    system.await_agent();
}

#[test]
fn who_else_has_the_volume_mounted_is_named_and_the_agent_never_stops_itself() {
    let cluster = cluster(&["shop"]);
    allow(&cluster, "shop", "workloads");
    cluster.apply(
        r#"{ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data", "namespace": "shop" },
            "spec": { "storageClassName": "dynamic", "accessModes": ["ReadWriteOnce"],
                      "resources": { "requests": { "storage": "1Mi" } } } }"#,
    );
    deploy(&cluster, "web", &[container("web", "/data")]);
    cluster.await_ready("shop", "app=web");
    let data = cluster.volume("shop", "data");
    let path = data.display().to_string();
    deploy(&cluster, "agent", &[container("agent", &path)]);
    cluster.await_ready("shop", "app=agent");

    let mut system = System::prepare_held(&[]);
    fs::write(data.join("value"), "one").expect("written");
    system.serve(&[("models", &data)]);
    let file = access(&cluster, system.root());
    let mut reach: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    reach["contexts"][0]["context"]["namespace"] = json!("shop");
    fs::write(&file, reach.to_string()).expect("written");
    let limits = "stop_limit: 60s, health_limit: 60s";
    system.configure_agent(&format!("kubernetes: {{ kubeconfig: {}, {limits} }}\n", file.display()));
    system.set_variable("KUBERNETES_SERVICE_HOST", "as in a pod");
    system.start_controller();
    system.invite();
    start_agent(&cluster, &mut system);
    let backup = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    fs::write(data.join("value"), "two").expect("written");
    let restore = ["restore", "--timestamp", &backup, "--yes"];

    // Nobody has said that it is stopped.
    let refused = system.nsctl(&restore).expect(1);
    let told = "shop/deployment/web has";
    assert!(
        refused.err.contains(told) && refused.err.contains("neurashield.backup/stop-for=models"),
        "{}",
        refused.err
    );
    let annotate = |name: &str, text: &str| {
        cluster.kubectl(&["-n", "shop", "annotate", "deployment", name, text]);
    };
    annotate("web", "neurashield.backup/stop-for=models");
    let (web, agent) = (pods(&cluster, "web"), pods(&cluster, "agent"));
    system.run(&restore);
    assert_eq!(fs::read_to_string(data.join("value")).expect("read"), "one");
    assert_ne!(pods(&cluster, "web"), web, "it went down and up");
    assert_eq!(pods(&cluster, "agent"), agent, "{}", system.log(Process::Agent));

    // The agent's own.
    annotate("agent", "neurashield.backup/stop-for=models");
    let refused = system.nsctl(&restore).expect(1);
    assert!(refused.err.contains("the agent itself runs in shop/deployment/agent"), "{}", refused.err);
    annotate("agent", "neurashield.backup/stop-for-");

    // Whoever does not know its own pod stops nothing.
    system.kill_agent();
    cluster.kubectl(&["-n", "shop", "delete", "pod", "-l", "app=agent"]);
    cluster.await_ready("shop", "app=agent");
    system.start_agent_by(&[
        "unshare",
        "--uts",
        "sh",
        "-c",
        "printf gone >/proc/sys/kernel/hostname && exec \"$@\"",
        "sh",
    ]);
    system.await_agent();
    let refused = system.nsctl(&restore).expect(1);
    assert!(refused.err.contains("has no pod gone in the namespace shop"), "{}", refused.err);

    // A sidecar of what writes there.
    system.kill_agent();
    let former = pods(&cluster, "agent");
    deploy(&cluster, "agent", &[container("agent", &path), container("geth", "/root")]);
    wait_for("the pod of before to be gone", 60, || {
        (!pods(&cluster, "agent").contains(&former)).then_some(())
    });
    cluster.await_ready("shop", "app=agent");
    start_agent(&cluster, &mut system);
    let refused = system.nsctl(&restore).expect(1);
    assert!(refused.err.contains("(the containers agent, geth)"), "{}", refused.err);
    assert!(refused.err.contains("run it as a Deployment of its own"), "{}", refused.err);
}
