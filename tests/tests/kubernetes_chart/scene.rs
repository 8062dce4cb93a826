//! What the tests of the chart have in common: values, the image, namespaces and volumes, the commands of its users.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tests::{Cluster, project, wait_for};

pub(crate) const IMAGE: &str = "localhost/neurashield/backup:test";
/// Whose the volumes are in these tests: the chart's user.
pub(crate) const USER: u32 = 10_001;
/// What the chart is installed with.
pub(crate) const VALUES: &str = r#"
image: { repository: localhost/neurashield/backup, tag: test, pullPolicy: Never }
controller:
  config: { schedules: {}, restores: {} }
  resources: { requests: { cpu: 10m, memory: 32Mi } }
storage:
  backups: { claim: backup-pvc, existing: false, size: 1Gi, storageClass: dynamic }
  state: { claim: backup-state, existing: false, size: 1Gi, storageClass: dynamic }
ingress: { enabled: true, host: backup.example.org, tls: backup-tls }
agents:
  - name: models
    namespace: shop
    claims: [{ claim: models, path: /data/models }]
    user: 10001
    group: 10001
    workloads: [shop]
    config: { sources: [{ component: models, kind: files, name: models, path: /data/models }] }
    sources: ["models/*"]
    storageClass: dynamic
    resources: { requests: { cpu: 10m, memory: 32Mi } }
"#;

/// An agent more, which holds the ConfigMaps of a namespace and one of its Secrets; and who may join as a sidecar.
pub(crate) const CONFIGS: &str = r#"
  - name: configs
    namespace: shop
    config:
      sources:
        - { component: configs, kind: configs, name: shop, kubernetes: { namespaces: [shop], secret_names: [db] } }
    rights:
      - namespace: shop
        rules:
          - { apiGroups: [""], resources: [configmaps], verbs: [get, list] }
          - { apiGroups: [""], resources: [secrets], resourceNames: [db], verbs: [get, list, create, patch] }
    storageClass: dynamic
    resources: { requests: { cpu: 10m, memory: 32Mi } }
joins: [{ namespace: shop, serviceAccount: side, name: side, sources: ["side/*"] }]
"#;

pub(crate) fn chart() -> String {
    project().join("deploy/helm/neurashield-backup").display().to_string()
}

/// The chart's image from static programs, laid out by the script that the Dockerfile uses.
pub(crate) fn add_image(cluster: &Cluster) {
    let programs = std::env::var_os("NEURASHIELD_PROGRAMS");
    let programs =
        programs.expect("NEURASHIELD_PROGRAMS names static programs: deploy/static-programs FOLDER");
    let folder = tempfile::tempdir().expect("a folder");
    let script = "\"$0\" \"$1\" \"$2\" && chown -R 10001:10001 \"$2/owned\" && cp -a \"$2/owned/.\" \"$2/root\" && \
                  chmod 0755 \"$2/root\" && chown 0:0 \"$2/root\" \"$2/root/var\" \"$2/root/var/lib\" \
                  \"$2/root/opt\" \"$2/root/opt/neurashield\"";
    let laid_out = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .arg(project().join("deploy/image/lay-out"))
        .arg(programs)
        .arg(folder.path())
        .status();
    assert!(laid_out.is_ok_and(|status| status.success()));
    let config = r#"{"Entrypoint":["nsctl"],"Cmd":["up"],"Env":["PATH=/usr/local/bin:/scripts"]}"#;
    cluster.add_image(IMAGE, &folder.path().join("root"), config);
}

/// A namespace that takes only pods of the standard `restricted`.
pub(crate) fn namespace(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["create", "namespace", name]);
    cluster.kubectl(&["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"]);
}

/// What a driver of volumes does that knows `fsGroup`; the one of these tests does not.
pub(crate) fn give(cluster: &Cluster, namespace: &str, claim: &str) -> PathBuf {
    let folder = cluster.volume(namespace, claim);
    wait_for("the volume's folder", 30, || folder.is_dir().then_some(()));
    chown(&folder, Some(0), Some(USER)).expect("owned");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)).expect("set");
    folder
}

pub(crate) fn fill(folder: &Path, text: &str) {
    fs::create_dir_all(folder.join("sub")).expect("made");
    fs::write(folder.join("value"), text).expect("written");
    fs::write(folder.join("sub/noise"), blake3::hash(text.as_bytes()).as_bytes().repeat(10_000))
        .expect("written");
    let ours = ["value", "sub"].map(|name| folder.join(name));
    let owned = Command::new("chown").arg("-R").arg(format!("{USER}:{USER}")).args(ours).status();
    assert!(owned.is_ok_and(|status| status.success()));
}

pub(crate) fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// A command of the users' runbooks in the controller's pod.
pub(crate) fn runbook(cluster: &Cluster, words: &[&str]) -> (i32, String) {
    let pod = ["-n", "backup", "exec", "deploy/backup-service", "--", "/scripts/backup-recovery.sh"];
    let output = cluster.run("kubectl", &[&pod[..], words].concat());
    (output.status.code().expect("it was not killed"), said(&output))
}

pub(crate) fn nsctl(cluster: &Cluster, words: &[&str]) -> String {
    let pod = ["-n", "backup", "exec", "deploy/backup-service", "--", "nsctl"];
    cluster.kubectl(&[&pod[..], words].concat())
}

pub(crate) fn await_agent(cluster: &Cluster) -> Value {
    let agents = || -> Option<Value> {
        let listed: Value = serde_json::from_str(&nsctl(cluster, &["agent", "list", "-o", "json"])).ok()?;
        listed["agents"].as_array()?.iter().find(|agent| agent["connected"] == true).cloned()
    };
    wait_for("the agent to join", 150, agents)
}

/// Installs the chart and waits; meanwhile the volumes get their owners.
pub(crate) fn install(cluster: &Cluster, values: &Path, claims: &[(&str, &str)]) {
    let chart = chart();
    let values = values.to_str().expect("UTF-8");
    let words = ["install", "backup", &chart, "-n", "backup", "-f", values, "--wait", "--timeout", "3m"];
    std::thread::scope(|scope| {
        let helm = scope.spawn(|| cluster.run("helm", &words));
        wait_for("the claims", 60, || {
            let known = |(namespace, claim): &(&str, &str)| {
                cluster.run("kubectl", &["-n", namespace, "get", "pvc", claim]).status.success()
            };
            claims.iter().all(known).then_some(())
        });
        claims.iter().for_each(|(namespace, claim)| {
            give(cluster, namespace, claim);
        });
        let output = helm.join().expect("no panic");
        if !output.status.success() {
            let pods = cluster.kubectl(&["describe", "pods", "-A"]);
            let logs =
                cluster.run("kubectl", &["-n", "backup", "logs", "deploy/backup-service", "--tail=20"]);
            panic!("helm {words:?}: {}\n{pods}\n{}", said(&output), said(&logs));
        }
    });
}

/// Takes the recovery key out of the state's volume by the pod that is shipped for that, and says that it is kept.
pub(crate) fn take_recovery_key(cluster: &Cluster) {
    let pod = fs::read_to_string(project().join("deploy/manifests/recovery-key.yaml")).expect("read");
    let pod = pod.replace("image: busybox:1", &format!("image: {}", tests::SHELL_IMAGE));
    let made = cluster.with_input("kubectl", &["-n", "backup", "apply", "-f", "-"], pod.as_bytes());
    assert!(made.status.success(), "{}", said(&made));
    let ready = ["-n", "backup", "wait", "--for=condition=Ready", "pod/recovery-key", "--timeout=60s"];
    cluster.kubectl(&ready);
    let shell = ["-n", "backup", "exec", "recovery-key", "--"];
    let key = cluster.kubectl(&[&shell[..], &["cat", "/state/recovery-key.txt"]].concat());
    let confirm = ["nsctl", "repository", "key", "confirm", "--recovery-key-file", "-"];
    let confirm = [&["-n", "backup", "exec", "-i", "deploy/backup-service", "--"][..], &confirm].concat();
    let confirmed = cluster.with_input("kubectl", &confirm, key.as_bytes());
    assert!(confirmed.status.success(), "{}", said(&confirmed));
    cluster.kubectl(&[&shell[..], &["rm", "/state/recovery-key.txt"]].concat());
    cluster.kubectl(&["-n", "backup", "delete", "pod", "recovery-key", "--now"]);
    let slots = nsctl(cluster, &["repository", "key", "list"]);
    assert!(slots.contains("the recovery key was confirmed"), "{slots}");
}

/// A program of the users' that has the claim mounted and says that it is to be stopped for a restore.
pub(crate) fn run_trainer(cluster: &Cluster) {
    let restricted =
        serde_json::json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let pod = serde_json::json!({
        "terminationGracePeriodSeconds": 2,
        "securityContext": { "runAsNonRoot": true, "runAsUser": USER, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{
            "name": "trainer", "image": tests::SHELL_IMAGE, "imagePullPolicy": "Never",
            "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done"],
            "securityContext": restricted, "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "models" } }],
    });
    let note = serde_json::json!({ "neurashield.backup/stop-for": "models" });
    let deployment = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "trainer", "namespace": "shop", "annotations": note },
        "spec": {
            "selector": { "matchLabels": { "app": "trainer" } },
            "template": { "metadata": { "labels": { "app": "trainer" } }, "spec": pod },
        },
    });
    cluster.apply(&deployment.to_string());
    cluster.await_ready("shop", "app=trainer");
}

/// The name of its pod, which is another one each time it is started.
pub(crate) fn trainer(cluster: &Cluster) -> String {
    let words = ["-n", "shop", "get", "pod", "-l", "app=trainer", "-o", "jsonpath={.items[*].metadata.name}"];
    cluster.kubectl(&words)
}

/// What `curl` says to an address of the cluster: the status, and the body.
pub(crate) fn get(url: &str) -> (String, String) {
    let output = Command::new("curl").args(["-s", "-w", "\n%{http_code}", url]).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}
