//! ConfigMaps and Secrets: backed up, changed, deleted, put back.

use serde_json::{Value, json};
use tests::{Cluster, Process, System, wait_for};

use crate::scene::{access, allow, cluster, object, start};

const SECRET: &str = "hunter2-and-more";
/// The same as the API has it.
const SEALED: &str = "aHVudGVyMi1hbmQtbW9yZQ==";

fn fill(cluster: &Cluster) {
    cluster.kubectl(&[
        "-n",
        "shop",
        "create",
        "configmap",
        "app",
        "--from-literal=LEVEL=info",
        "--from-literal=MODE=a",
    ]);
    cluster.kubectl(&["-n", "shop", "create", "configmap", "app-b", "--from-literal=X=1"]);
    cluster.kubectl(&["-n", "shop", "label", "configmap", "app", "team=shop"]);
    let secret = format!("--from-literal=password={SECRET}");
    cluster.kubectl(&["-n", "shop", "create", "secret", "generic", "db", &secret]);
    cluster.kubectl(&["-n", "web", "create", "configmap", "site", "--from-literal=NAME=web"]);
    // What nobody wants back.
    cluster.apply(
        r#"{ "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
            "metadata": { "name": "sh.helm.release.v1.shop.v1", "namespace": "shop" }, "stringData": { "release": "x" } }"#,
    );
    cluster.apply(
        r#"{ "apiVersion": "v1", "kind": "ConfigMap", "immutable": true,
            "metadata": { "name": "fixed", "namespace": "shop" }, "data": { "A": "1" } }"#,
    );
}

fn system(cluster: &Cluster) -> System {
    let mut system = System::prepare_held(&[]);
    let access = access(cluster, system.root());
    system.configure_agent(&format!(
        "  - {{ component: configs, kind: configs, name: cluster, kubernetes: {{ namespaces: [shop, web], secrets: true }} }}\n\
         kubernetes: {{ kubeconfig: {}, namespaces: [shop], stop_limit: 30s, health_limit: 60s }}\n",
        access.display()
    ));
    start(&mut system);
    system
}

fn data(cluster: &Cluster, namespace: &str, kind: &str, name: &str) -> Value {
    object(cluster, namespace, kind, name)["data"].clone()
}

fn restore<'a>(backup: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "--timestamp", backup, "--yes"], more].concat()
}

#[test]
fn configs_come_back_as_they_were_and_what_others_manage_is_told() {
    let cluster = cluster(&["shop", "web", "copy"]);
    fill(&cluster);
    for role in ["backup-configs", "restore-configs", "workloads"] {
        allow(&cluster, "shop", role);
    }
    let mut system = system(&cluster);

    // One namespace is forbidden: that is told with the right that is missing, and the backup is incomplete.
    let answer = system.nsctl(&["backup", "-o", "json"]).expect(3);
    assert_eq!(answer.json()["state"], "incomplete");
    let told = format!("{}{}", answer.out, answer.err);
    assert!(told.contains("the agent may not list configmaps in the namespace web"), "{told}");
    allow(&cluster, "web", "backup-configs");
    allow(&cluster, "web", "restore-configs");
    let job = system.run(&["backup"]);
    let backup = job["backup"].as_str().expect("a name").to_owned();
    system.run(&["verify", "--depth", "opened"]);
    let listed = system.nsctl(&["ls", &backup, "configs", "-R"]).expect(0).out;
    for path in [
        "kubernetes/shop/ConfigMap/app.json",
        "kubernetes/shop/ConfigMap/app-b.json",
        "kubernetes/shop/Secret/db.json",
        "kubernetes/web/ConfigMap/site.json",
    ] {
        assert!(listed.contains(path.rsplit('/').next().expect("a name")), "{path}: {listed}");
    }
    assert!(!listed.contains("kube-root-ca") && !listed.contains("helm.release"), "{listed}");
    let cat = system.nsctl(&["cat", &backup, "configs", "kubernetes/shop/Secret/db.json"]).expect(0);
    assert_eq!(
        cat.json(),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": { "password": SEALED },
            "metadata": { "name": "db", "namespace": "shop" },
        })
    );

    // As it was: nothing to do.
    let plan = |system: &System, more: &[&str]| {
        let words = [&["restore", "--timestamp", &backup, "--plan", "-o", "json"], more].concat();
        system.nsctl(&words).expect(0).json()["sources"][0].clone()
    };
    let nothing = plan(&system, &[]);
    assert_eq!(
        (&nothing["replaced"]["count"], &nothing["created"]["count"]),
        (&json!(0), &json!(0)),
        "{nothing:#}"
    );

    // Deleted: made again, with the same values.
    cluster.kubectl(&["-n", "shop", "delete", "configmap/app-b", "secret/db", "configmap/fixed"]);
    cluster.kubectl(&["-n", "web", "delete", "configmap/site"]);
    system.run(&restore(&backup, &[]));
    assert_eq!(data(&cluster, "shop", "secret", "db"), json!({ "password": SEALED }));
    assert_eq!(data(&cluster, "shop", "configmap", "app-b"), json!({ "X": "1" }));
    assert_eq!(data(&cluster, "web", "configmap", "site"), json!({ "NAME": "web" }));
    assert_eq!(object(&cluster, "shop", "configmap", "fixed")["immutable"], true);

    // Changed by somebody who owns it: told with the key and the owner, and nothing changes.
    let edit = json!({ "data": { "LEVEL": "debug", "EXTRA": "1" } }).to_string();
    cluster.kubectl(&["-n", "shop", "patch", "configmap", "app", "--field-manager=team-shop", "-p", &edit]);
    let refused = system.nsctl(&restore(&backup, &[])).expect(1);
    for told in [
        "shop/ConfigMap/app: ",
        "data.LEVEL belongs to team-shop",
        "data.EXTRA belongs to team-shop",
        "--force-conflicts",
    ] {
        assert!(refused.err.contains(told), "{told}: {}", refused.err);
    }
    assert_eq!(data(&cluster, "shop", "configmap", "app")["LEVEL"], "debug");
    let forced = plan(&system, &["--force-conflicts"]);
    assert_eq!(
        forced["replaced"]["names"],
        json!(["shop/ConfigMap/app (data.EXTRA, data.LEVEL)"]),
        "{forced:#}"
    );

    // A single key leaves the others as they are.
    system.run(&restore(&backup, &["--include", "ConfigMap/app:LEVEL", "--force-conflicts"]));
    let now = data(&cluster, "shop", "configmap", "app");
    assert_eq!(now, json!({ "LEVEL": "info", "MODE": "a", "EXTRA": "1" }));
    // The whole object has the keys that it had; taken back, it has those of before.
    let job = system.run(&restore(&backup, &["--force-conflicts"]));
    assert_eq!(data(&cluster, "shop", "configmap", "app"), json!({ "LEVEL": "info", "MODE": "a" }));
    system.run(&["undo", job["id"].as_str().expect("an id"), "--yes"]);
    assert_eq!(data(&cluster, "shop", "configmap", "app"), now);

    // Elsewhere: only where it does not change what is there.
    let elsewhere = ["--to-namespace", "copy", "--path", "kubernetes/shop"];
    let refused = system.nsctl(&restore(&backup, &elsewhere)).expect(1);
    assert!(
        refused.err.contains("the agent may not get configmaps app in the namespace copy"),
        "{}",
        refused.err
    );
    allow(&cluster, "copy", "restore-configs");
    system.run(&restore(&backup, &elsewhere));
    assert_eq!(data(&cluster, "copy", "secret", "db"), json!({ "password": SEALED }));
    cluster.kubectl(&["-n", "copy", "patch", "configmap", "app-b", "-p", r#"{"data":{"X":"2"}}"#]);
    let refused =
        system.nsctl(&restore(&backup, &[&elsewhere[..], &["--force-conflicts"]].concat())).expect(1);
    assert!(refused.err.contains("copy/ConfigMap/app-b is there and differs (data.X)"), "{}", refused.err);
    let nowhere = ["--to-namespace", "nowhere", "--path", "kubernetes/web"];
    let refused = system.nsctl(&restore(&backup, &nowhere)).expect(1);
    let told = "the agent may not get configmaps site in the namespace nowhere";
    assert!(refused.err.contains(told), "{}", refused.err);

    // What cannot be changed in place is refused with what to do.
    cluster.kubectl(&["-n", "shop", "delete", "configmap/fixed"]);
    cluster.apply(
        r#"{ "apiVersion": "v1", "kind": "ConfigMap", "immutable": true,
            "metadata": { "name": "fixed", "namespace": "shop" }, "data": { "A": "2" } }"#,
    );
    let only = ["--include", "shop/ConfigMap/fixed", "--force-conflicts"];
    let refused = system.nsctl(&restore(&backup, &only)).expect(1);
    assert!(refused.err.contains("shop/ConfigMap/fixed: it is immutable"), "{}", refused.err);

    killed_in_the_middle(&cluster, &mut system, &backup);

    let logs = format!("{}{}", system.log(Process::Agent), system.log(Process::Controller));
    for secret in [SECRET, SEALED] {
        assert!(!logs.contains(secret), "a value is in a log");
    }
}

/// The process that applies is killed after the first object: the same order once more ends it.
fn killed_in_the_middle(cluster: &Cluster, system: &mut System, backup: &str) {
    for step in ["swap-begun", "first-swapped", "last-swapped"] {
        cluster.kubectl(&["-n", "shop", "delete", "configmap/app-b", "secret/db"]);
        system.steps().ask(step);
        let only = ["--include", "ConfigMap/app-b", "Secret/db"];
        let id = system.start_job(&restore(backup, &only));
        wait_for("the step", 60, || system.steps().reached(step));
        system.kill_agent();
        system.steps().give_up(step);
        system.start_agent();
        let job = system.await_end(&id);
        assert_eq!(job["state"], "complete", "{step}: {job:#}\n{}", system.log(Process::Agent));
        assert_eq!(data(cluster, "shop", "secret", "db"), json!({ "password": SEALED }), "{step}");
        assert_eq!(data(cluster, "shop", "configmap", "app-b"), json!({ "X": "1" }), "{step}");
    }
}
