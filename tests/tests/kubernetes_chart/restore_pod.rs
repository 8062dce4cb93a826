//! A sidecar's volume is restored in place: its restore pod stands in for it while what mounts the volume stands.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::{Cluster, SHELL_IMAGE, Steps, wait_for};

use crate::scene::{IMAGE, USER, add_image, await_agent, chart, give, install, namespace, nsctl, said};

#[path = "restore_pod_killed.rs"]
mod killed;

const VALUES: &str = r#"
image: { repository: localhost/neurashield/backup, tag: test, pullPolicy: Never }
controller:
  config: { schedules: {}, restores: {} }
  environment: { NEURASHIELD_STEPS: { secret: steps, key: folder } }
  resources: { requests: { cpu: 10m, memory: 32Mi } }
storage:
  backups: { claim: backup-pvc, existing: false, size: 1Gi, storageClass: dynamic }
  state: { claim: backup-state, existing: false, size: 1Gi, storageClass: dynamic }
joins:
  - namespace: shop
    serviceAccount: shop
    name: shop
    sources: ["models/shop"]
    restore:
      workloads: [deployment/shop, deployment/web]
      claims: [{ claim: data, path: /data }, { claim: steps, path: /steps }]
      user: 10001
      group: 10001
      config: { sources: [{ component: models, kind: files, name: shop, path: /data }] }
      environment: { NEURASHIELD_STEPS: { secret: steps, key: folder } }
      stopLimit: 60s
      startLimit: 90s
      healthLimit: 25s
      resources: { requests: { cpu: 10m, memory: 32Mi } }
"#;

/// What uses the volume: it holds what it found when it was started, and is ready unless that is `bad`.
const PROGRAM: &str = "trap exit TERM; cp /data/value /tmp/found; while :; do sleep 1 & wait $!; done";
const READY: &str = "[ \"$(cat /tmp/found)\" != bad ]";

/// The replicas of what uses the volume, and of its restore pod.
const WHOLE: [&str; 3] = ["1", "2", "0"];

struct Scene {
    cluster: Cluster,
    data: PathBuf,
    /// By which the controller is held.
    controller: Steps,
    /// By which the restore pod's agent is held.
    agent: Steps,
    folder: tempfile::TempDir,
}

fn security() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": false, "runAsUser": USER, "runAsGroup": USER,
        "capabilities": { "drop": ["ALL"] },
    })
}

fn program(name: &str) -> Value {
    json!({
        "name": name, "image": SHELL_IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", PROGRAM],
        "securityContext": security(), "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        "readinessProbe": { "exec": { "command": ["sh", "-c", READY] }, "periodSeconds": 1 },
    })
}

/// A sidecar as the chart's notes describe it.
fn sidecar() -> Value {
    json!({
        "name": "backup-agent", "image": IMAGE, "imagePullPolicy": "Never", "command": ["neurashield-agent"],
        "args": ["--config", "/etc/neurashield/agent.yaml"], "securityContext": security(),
        "env": [
            { "name": "NEURASHIELD_NAME", "value": "shop" },
            { "name": "NEURASHIELD_CONTROLLER", "value": "https://backup-service.backup.svc:8443" },
            { "name": "NEURASHIELD_JOIN__SERVICE_ACCOUNT", "value": "true" },
            { "name": "NEURASHIELD_STATE", "value": "/var/lib/neurashield-agent/state" },
        ],
        "volumeMounts": [
            { "name": "data", "mountPath": "/data" },
            { "name": "join", "mountPath": "/var/run/secrets/neurashield", "readOnly": true },
            { "name": "agent", "mountPath": "/etc/neurashield", "readOnly": true },
            { "name": "state", "mountPath": "/var/lib/neurashield-agent" },
        ],
    })
}

fn deploy(cluster: &Cluster, name: &str, replicas: u32, containers: &[Value]) {
    let join = json!({ "defaultMode": 0o444, "sources": [
        { "serviceAccountToken": { "path": "token", "audience": "neurashield-backup", "expirationSeconds": 3600 } },
        { "configMap": { "name": "backup-service-authority", "optional": true, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
    ] });
    let pod = json!({
        "serviceAccountName": "shop", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 5,
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": containers,
        "volumes": [
            { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "join", "projected": join },
            { "name": "agent", "configMap": { "name": "agent" } },
            { "name": "state", "emptyDir": {} },
        ],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "strategy": { "type": "Recreate" },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod },
        },
    });
    cluster.apply(&deployment.to_string());
}

fn claim(cluster: &Cluster, name: &str) -> PathBuf {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "dynamic",
                  "resources": { "requests": { "storage": "1Gi" } } },
    });
    cluster.apply(&claim.to_string());
    give(cluster, "shop", name)
}

/// A folder by which steps are held, at this path of the pods that have the volume `at` there.
fn steps(cluster: &Cluster, namespace: &str, at: &Path, path: &str) -> Steps {
    let folder = at.join("held");
    let steps = Steps::make(&folder);
    chown(&folder, Some(USER), Some(USER)).expect("owned");
    let literal = format!("--from-literal=folder={path}/held");
    cluster.kubectl(&["-n", namespace, "create", "secret", "generic", "steps", &literal]);
    steps
}

impl Scene {
    fn set() -> Self {
        let cluster = Cluster::start();
        add_image(&cluster);
        namespace(&cluster, "backup");
        namespace(&cluster, "shop");
        let folder = tempfile::tempdir().expect("a folder");
        let values = folder.path().join("values.yaml");
        fs::write(&values, VALUES).expect("written");
        cluster.kubectl(&["-n", "shop", "create", "serviceaccount", "shop"]);
        let data = claim(&cluster, "data");
        let of_agent = claim(&cluster, "steps");
        let agent = steps(&cluster, "shop", &of_agent, "/steps");
        let (held, claims) = (&cluster, [("backup", "backup-pvc"), ("backup", "backup-state")]);
        let controller = std::thread::scope(|scope| {
            let installed = scope.spawn(|| install(held, &values, &claims));
            // Its pod waits for the secret, and so for the folder.
            let state = wait_for("the state's claim", 60, || {
                let there = held.run("kubectl", &["-n", "backup", "get", "pvc", "backup-state"]);
                there.status.success().then(|| held.volume("backup", "backup-state"))
            });
            wait_for("the state's folder", 60, || state.is_dir().then_some(()));
            let controller = steps(held, "backup", &state, "/var/lib/neurashield");
            installed.join().expect("it is installed");
            controller
        });
        let config = "sources: [{ component: models, kind: files, name: shop, path: /data }]\n";
        let literal = format!("--from-literal=agent.yaml={config}");
        cluster.kubectl(&["-n", "shop", "create", "configmap", "agent", &literal]);
        let scene = Self { cluster, data, controller, agent, folder };
        scene.fill("one");
        deploy(&scene.cluster, "shop", 1, &[program("app"), sidecar()]);
        deploy(&scene.cluster, "web", 2, &[program("app")]);
        scene.await_ready();
        scene
    }

    fn await_ready(&self) {
        for app in ["shop", "web"] {
            self.cluster.await_ready("shop", &format!("app={app}"));
        }
        await_agent(&self.cluster);
    }

    /// What the programs have written.
    fn fill(&self, text: &str) {
        for (name, size) in [("value", 1), ("sub/noise", 10_000), ("sub/deep/more", 3)] {
            let file = self.data.join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, text.repeat(size)).expect("written");
        }
        for name in ["value", "sub", "sub/noise", "sub/deep", "sub/deep/more"] {
            chown(self.data.join(name), Some(USER), Some(USER)).expect("owned");
        }
    }

    fn assert_filled(&self, text: &str, when: &str) {
        for (name, size) in [("value", 1), ("sub/noise", 10_000), ("sub/deep/more", 3)] {
            let is = fs::read_to_string(self.data.join(name)).expect("read");
            assert!(
                is == text.repeat(size),
                "{when}: {name} is not that of {text}: {}",
                &is[..is.len().min(20)]
            );
        }
        let names = fs::read_dir(&self.data).expect("listed").map(|entry| entry.expect("read").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("UTF-8")).collect();
        names.retain(|name| !name.starts_with(".neurashield-"));
        names.sort();
        assert_eq!(names, ["sub", "value"], "{when}");
    }

    fn replicas(&self, name: &str) -> String {
        let path = "jsonpath={.spec.replicas}";
        self.cluster.kubectl(&["-n", "shop", "get", "deployment", name, "-o", path])
    }

    fn all_replicas(&self) -> [String; 3] {
        ["shop", "web", "backup-restore-shop"].map(|name| self.replicas(name))
    }

    /// All is told to run as it did. An ended job's are started by a look from time to time.
    fn await_whole(&self) {
        wait_for("all to run again", 90, || (self.all_replicas() == WHOLE).then_some(()));
    }

    /// All runs as it did, on `text`, and the restore pod is gone.
    fn assert_whole(&self, text: &str, when: &str) {
        self.assert_filled(text, when);
        assert_eq!(self.all_replicas(), WHOLE, "{when}");
        let component = "app.kubernetes.io/component=restore-pod";
        let pods = self.cluster.kubectl(&["-n", "shop", "get", "pod", "-l", component, "-o", "name"]);
        assert_eq!(pods, "", "{when}");
        self.await_ready();
        for app in ["deploy/shop", "deploy/web"] {
            let found = ["-n", "shop", "exec", app, "-c", "app", "--", "cat", "/tmp/found"];
            assert_eq!(self.cluster.kubectl(&found), text, "{when}: {app}");
        }
    }

    fn backup(&self) -> String {
        let answer = nsctl(&self.cluster, &["backup", "-o", "json"]);
        let job: Value = serde_json::from_str(&answer).expect("JSON");
        job["backup"].as_str().expect("a name").to_owned()
    }

    /// Restores, and gives what came of it.
    fn restore(&self, backup: &str, more: &[&str]) -> (bool, String) {
        let pod = ["-n", "backup", "exec", "deploy/backup-service", "--", "nsctl"];
        let words = ["restore", "--timestamp", backup, "--components", "models"];
        let sure = if more.contains(&"--plan") { &[][..] } else { &["--yes"][..] };
        let output = self.cluster.run("kubectl", &[&pod[..], &words, sure, more].concat());
        (output.status.success(), said(&output))
    }

    fn start(&self, backup: &str) -> String {
        self.start_with(backup, &["--no-safety-backup"])
    }

    fn start_with(&self, backup: &str, more: &[&str]) -> String {
        let words =
            ["restore", "--timestamp", backup, "--components", "models", "--yes", "--detach", "-o", "json"];
        let answer = nsctl(&self.cluster, &[&words[..], more].concat());
        let job: Value = serde_json::from_str(&answer).expect("JSON");
        job["id"].as_str().expect("an id").to_owned()
    }

    fn await_end(&self, id: &str) -> Value {
        let pod = ["-n", "backup", "exec", "deploy/backup-service", "--", "nsctl", "jobs", "-o", "json"];
        let ended = || {
            let output = self.cluster.run("kubectl", &pod);
            let listed: Value = serde_json::from_slice(&output.stdout).ok()?;
            let job = listed["jobs"].as_array()?.iter().find(|job| job["id"] == id)?.clone();
            ["complete", "incomplete", "failed", "cancelled"]
                .iter()
                .any(|end| job["state"] == *end)
                .then_some(job)
        };
        wait_for("the job to end", 240, ended)
    }

    /// `kill -9` of the process in a pod's container, which is started again in it. Gives the pod.
    fn kill_process(&self, namespace: &str, labels: &str) -> String {
        let path = "jsonpath={.items[0].metadata.name} {.items[0].status.containerStatuses[0].containerID}";
        let of = |id: &str| -> Vec<String> {
            let in_it = |process: &fs::DirEntry| {
                let groups = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
                groups.contains(id)
            };
            let all = fs::read_dir("/proc").expect("listed").filter_map(Result::ok);
            let named = all.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
            named.filter(in_it).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        // The kubelet says later than the container does that it runs, or that it is another one.
        let (name, ids) = wait_for("its process to be there", 60, || {
            let pod = self.cluster.kubectl(&["-n", namespace, "get", "pod", "-l", labels, "-o", path]);
            let (name, id) = pod.split_once(' ')?;
            let ids = of(id.rsplit('/').next().filter(|id| !id.is_empty())?);
            (!ids.is_empty()).then(|| (name.to_owned(), ids))
        });
        let killed = std::process::Command::new("kill").arg("-9").args(&ids).status();
        assert!(killed.is_ok_and(|status| status.success()));
        name
    }

    /// The same; then a new pod.
    fn kill(&self, namespace: &str, labels: &str) {
        let name = self.kill_process(namespace, labels);
        // A container that died again and again is started late.
        self.cluster.kubectl(&["-n", namespace, "delete", "pod", &name, "--force", "--grace-period=0"]);
    }

    fn kill_controller(&self) {
        self.kill("backup", "app.kubernetes.io/component=controller");
        self.cluster.await_ready("backup", "app.kubernetes.io/component=controller");
    }
}

#[test]
fn a_sidecar_s_volume_is_restored_in_place_by_its_restore_pod_whatever_is_killed() {
    let scene = Scene::set();
    let one = scene.backup();
    scene.fill("two");

    refused_before_anything_is_stopped(&scene, &one);
    may_scale_these_and_nothing_else(&scene);

    let (plan_is_made, plan) = scene.restore(&one, &["--plan"]);
    assert!(
        plan_is_made && plan.contains("stops, and starts again: shop/deployment/web, shop/deployment/shop"),
        "{plan}"
    );
    assert!(plan.contains("the restore pod shop/deployment/backup-restore-shop restores it"), "{plan}");
    assert_eq!(scene.replicas("backup-restore-shop"), "0", "a plan starts nothing");
    let (ok, told) = scene.restore(&one, &[]);
    assert!(ok, "{told}");
    scene.assert_whole("one", "after a restore");

    // Taken back by the safety backup, which the sidecar has made before it was stopped.
    let jobs: Value = serde_json::from_str(&nsctl(&scene.cluster, &["jobs", "-o", "json"])).expect("JSON");
    let job =
        jobs["jobs"].as_array().expect("a list").iter().find(|job| job["kind"] == "restore").expect("it");
    let steps: Vec<&str> = job["parts"][0]["restored"]["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| step["step"].as_str().expect("a word"))
        .collect();
    assert_eq!(steps, ["stopped", "stopped", "staged", "swapped", "started", "started"], "{job:#}");
    nsctl(&scene.cluster, &["undo", job["id"].as_str().expect("an id"), "--yes"]);
    scene.assert_whole("two", "after the undo");

    let bad = not_healthy_on_what_was_restored(&scene);
    killed::while_it_is_taken_back(&scene, &bad);
    killed::after_it_was_started(&scene, &bad);
    cannot_start(&scene, &one);
    killed::one_after_the_other(&scene, &one);
    killed::in_the_middle_and_nothing_starts_there(&scene, &one);
    rests(&scene, &one);
    known_to_the_chart(&scene);
}

/// With the reason, and all goes on to run.
fn refused_before_anything_is_stopped(scene: &Scene, backup: &str) {
    let cluster = &scene.cluster;
    let refused = |why: &str| {
        let (ok, told) = scene.restore(backup, &[]);
        assert!(!ok && told.contains(why), "{why}: {told}");
        scene.assert_filled("two", why);
        assert_eq!(scene.all_replicas(), WHOLE, "{why}");
    };
    let scaled = ["autoscale", "deployment", "web", "--min=1", "--max=4", "--cpu-percent=80"];
    cluster.kubectl(&[&["-n", "shop"][..], &scaled].concat());
    refused("the autoscaler web scales it");
    cluster.kubectl(&["-n", "shop", "delete", "hpa", "web"]);
    let flux = "kustomize.toolkit.fluxcd.io/name";
    cluster.kubectl(&["-n", "shop", "label", "deployment", "shop", &format!("{flux}=shop")]);
    refused("flux suspend kustomization shop -n flux-system");
    cluster.kubectl(&["-n", "shop", "label", "deployment", "shop", &format!("{flux}-")]);
    deploy(cluster, "lurker", 1, &[program("app")]);
    cluster.await_ready("shop", "app=lurker");
    refused("has the claim data mounted and would not be stopped");
    cluster.kubectl(&["-n", "shop", "delete", "deployment", "lurker"]);
    wait_for("it to be gone", 60, || {
        cluster
            .kubectl(&["-n", "shop", "get", "pod", "-l", "app=lurker", "-o", "name"])
            .is_empty()
            .then_some(())
    });
}

fn may_scale_these_and_nothing_else(scene: &Scene) {
    const CONTROLLER: &str = "system:serviceaccount:backup:backup-service";
    const APPLICATION: &str = "system:serviceaccount:shop:shop";
    let may = |who: &str, words: &[&str]| {
        let asks = [&["auth", "can-i", "--as", who, "-n", "shop"], words].concat();
        scene.cluster.run("kubectl", &asks).status.success()
    };
    for name in ["shop", "web", "backup-restore-shop"] {
        assert!(
            may(CONTROLLER, &["patch", &format!("deployments.apps/{name}"), "--subresource=scale"]),
            "{name}"
        );
        assert!(
            !may(CONTROLLER, &["patch", &format!("deployments.apps/{name}")]),
            "what runs in {name} stays"
        );
    }
    for words in [
        &["patch", "deployments.apps/other", "--subresource=scale"][..],
        &["list", "deployments.apps"],
        &["create", "pods"],
        &["delete", "pods"],
        &["create", "deployments.apps"],
        &["get", "secrets"],
        &["create", "pods", "--subresource=exec"],
    ] {
        assert!(!may(CONTROLLER, words), "{words:?}");
        assert!(!may(APPLICATION, words), "{words:?}");
    }
}

fn not_healthy_on_what_was_restored(scene: &Scene) -> String {
    fs::write(scene.data.join("value"), "bad").expect("written");
    let bad = scene.backup();
    scene.fill("good");
    let (ok, told) = scene.restore(&bad, &[]);
    assert!(!ok && told.contains("did not come up") && told.contains("taken back"), "{told}");
    scene.assert_whole("good", "after it was taken back");
    bad
}

/// What was stopped is started again.
fn cannot_start(scene: &Scene, backup: &str) {
    let image = |image: &str| {
        let set = format!("agent={image}");
        scene.cluster.kubectl(&["-n", "shop", "set", "image", "deployment/backup-restore-shop", &set]);
    };
    image("localhost/missing:1");
    let (ok, told) = scene.restore(backup, &[]);
    assert!(!ok && told.contains("did not join within") && told.contains("ErrImageNeverPull"), "{told}");
    assert!(
        told.contains("started again: shop/deployment/shop (1 replica), shop/deployment/web (2 replicas)"),
        "{told}"
    );
    scene.assert_whole("good", "after a restore pod that cannot start");
    image(IMAGE);
}

/// What has been at 0 already stays there, and its restore pod, which somebody has brought up, restores.
fn rests(scene: &Scene, backup: &str) {
    scene.fill("resting");
    let scale = |name: &str, replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        scene.cluster.kubectl(&["-n", "shop", "scale", &format!("deployment/{name}"), &replicas]);
    };
    scale("shop", "0");
    scale("web", "0");
    wait_for("a restore to be refused", 60, || {
        let (ok, told) = scene.restore(backup, &["--plan"]);
        (!ok && told.contains("`kubectl scale deployment/backup-restore-shop -n shop --replicas=1`"))
            .then_some(())
    });
    scale("backup-restore-shop", "1");
    wait_for("its agent to join", 90, || scene.restore(backup, &["--plan"]).0.then_some(()));
    let (ok, told) = scene.restore(backup, &[]);
    assert!(ok, "{told}");
    scene.assert_filled("one", "where all rests");
    assert_eq!(scene.all_replicas(), ["0", "0", "0"]);
    scale("shop", "1");
    scale("web", "2");
    scene.assert_whole("one", "after it was started by hand");
}

fn known_to_the_chart(scene: &Scene) {
    let values = scene.folder.path().join("values.yaml");
    let values = values.to_str().expect("UTF-8");
    scene.cluster.helm(&["lint", "--strict", &chart(), "-f", values]);
    scene.cluster.helm(&[
        "upgrade",
        "backup",
        &chart(),
        "-n",
        "backup",
        "-f",
        values,
        "--wait",
        "--timeout",
        "3m",
    ]);
    assert_eq!(scene.replicas("backup-restore-shop"), "0");
}
