//! Workloads: down before the swap, up after it, whatever is killed.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tests::{Cluster, Process, SHELL_IMAGE, System, wait_for};

use crate::scene::{access, allow, cluster, object, start};

struct Scene {
    cluster: Cluster,
    system: System,
    data: PathBuf,
}

/// What runs in a pod: it holds what it found when it was started, and is ready unless that is `bad`.
fn pod(data: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 2,
        "volumes": [{ "name": "data", "hostPath": { "path": data } }],
        "containers": [{
            "name": "app", "image": SHELL_IMAGE, "imagePullPolicy": "Never",
            "command": ["sh", "-c", "trap exit TERM; cp /data/value /tmp/found; while :; do sleep 1 & wait $!; done"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            "readinessProbe": {
                "exec": { "command": ["sh", "-c", "[ \"$(cat /tmp/found)\" != bad ]"] }, "periodSeconds": 1,
            },
        }],
    })
}

impl Scene {
    /// The folder has the value `one`, and is backed up; then `two`. A Deployment, a StatefulSet and a CronJob
    /// run with it, and another Deployment does not.
    fn set() -> (Self, String) {
        let cluster = cluster(&["shop"]);
        allow(&cluster, "shop", "workloads");
        let mut system = System::prepare_held(&[]);
        let data = system.root().join("data");
        fs::create_dir(&data).expect("made");
        // Pods of the cluster look into it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(system.root(), open).expect("set");
        fs::write(data.join("value"), "one").expect("written");
        system.serve(&[("models", &data)]);
        let access = access(&cluster, system.root());
        system.configure_agent(&format!(
            "kubernetes: {{ kubeconfig: {}, namespaces: [shop], stop_limit: 60s, health_limit: 20s }}\n",
            access.display()
        ));
        let path = data.display().to_string();
        let workload = |kind: &str, name: &str, replicas: u32, after: &str| {
            json!({
                "apiVersion": "apps/v1", "kind": kind,
                "metadata": { "name": name, "namespace": "shop", "annotations": {
                    "neurashield.backup/stop-for": "models, ipfs", "neurashield.backup/start-after": after,
                } },
                "spec": {
                    "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "serviceName": name,
                    "template": { "metadata": { "labels": { "app": name } }, "spec": pod(&path) },
                },
            })
        };
        let mut api = workload("Deployment", "api", 2, "statefulset/db");
        let mut resting = workload("Deployment", "resting", 0, "");
        for one in [&mut api, &mut resting] {
            one["spec"].as_object_mut().expect("an object").remove("serviceName");
        }
        cluster.apply(&api.to_string());
        cluster.apply(&resting.to_string());
        cluster.apply(&workload("StatefulSet", "db", 1, "").to_string());
        let mut once = pod(&path);
        once["restartPolicy"] = json!("Never");
        once["containers"][0]["command"] = json!(["sh", "-c", "sleep 1"]);
        cluster.apply(
            &json!({
                "apiVersion": "batch/v1", "kind": "CronJob",
                "metadata": { "name": "tick", "namespace": "shop", "annotations": {
                    "neurashield.backup/stop-for": "all",
                } },
                "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": { "template": { "spec": once } } } },
            })
            .to_string(),
        );
        start(&mut system);
        let backup = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
        fs::write(data.join("value"), "two").expect("written");
        for app in ["api", "db"] {
            cluster.await_ready("shop", &format!("app={app}"));
        }
        (Self { cluster, system, data }, backup)
    }

    /// Replicas of api, db and resting, and whether tick is suspended.
    fn states(&self) -> (i64, i64, i64, bool) {
        let replicas = |kind, name| object(&self.cluster, "shop", kind, name)["spec"]["replicas"].as_i64();
        let suspended = object(&self.cluster, "shop", "cronjob", "tick")["spec"]["suspend"].as_bool();
        let of = |kind, name| replicas(kind, name).expect("a number");
        (
            of("deployment", "api"),
            of("statefulset", "db"),
            of("deployment", "resting"),
            suspended.unwrap_or(false),
        )
    }

    /// What the pods of a workload found when they were started.
    fn found(&self, target: &str) -> String {
        self.cluster.kubectl(&["-n", "shop", "exec", target, "--", "cat", "/tmp/found"])
    }

    /// All runs as it did, on `value`, and no note is left.
    fn assert_whole(&self, value: &str, when: &str) {
        assert_eq!(self.states(), (2, 1, 0, false), "{when}");
        assert_eq!(fs::read_to_string(self.data.join("value")).expect("read"), value, "{when}");
        assert_eq!(
            (self.found("deploy/api"), self.found("sts/db")),
            (value.to_owned(), value.to_owned()),
            "{when}"
        );
        for (kind, name) in [("deployment", "api"), ("statefulset", "db"), ("cronjob", "tick")] {
            let noted = object(&self.cluster, "shop", kind, name)["metadata"]["annotations"].to_string();
            assert!(!noted.contains("prior-state") && !noted.contains("stopped-by"), "{when}: {noted}");
        }
    }
}

#[test]
fn workloads_are_stopped_get_the_restored_data_and_come_up_in_their_order() {
    let (mut scene, backup) = Scene::set();
    let restore = ["restore", "--timestamp", &backup, "--yes"];

    // What would start it again is refused before anything is stopped.
    scene.cluster.kubectl(&[
        "-n",
        "shop",
        "autoscale",
        "deployment",
        "api",
        "--min=1",
        "--max=4",
        "--cpu-percent=80",
    ]);
    let refused = scene.system.nsctl(&restore).expect(1);
    assert!(refused.err.contains("the autoscaler api scales it"), "{}", refused.err);
    scene.cluster.kubectl(&["-n", "shop", "delete", "hpa", "api"]);
    let label = "kustomize.toolkit.fluxcd.io/name=shop";
    scene.cluster.kubectl(&["-n", "shop", "label", "statefulset", "db", label]);
    let refused = scene.system.nsctl(&restore).expect(1);
    assert!(refused.err.contains("flux suspend kustomization shop -n flux-system"), "{}", refused.err);
    assert_eq!(scene.states(), (2, 1, 0, false), "nothing was stopped");
    scene.cluster.kubectl(&[
        "-n",
        "shop",
        "annotate",
        "statefulset",
        "db",
        "neurashield.backup/owner-paused=true",
    ]);

    let job = scene.system.run(&restore);
    scene.assert_whole("one", "after a restore");
    let steps = job["parts"][0]["restored"]["steps"].as_array();
    let told: Vec<String> = steps
        .expect("steps")
        .iter()
        .map(|step| {
            format!(
                "{} {}",
                step["step"].as_str().unwrap_or_default(),
                step["detail"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let at =
        |text: &str| told.iter().position(|line| line == text).unwrap_or_else(|| panic!("{text}: {told:?}"));
    assert!(at("stopped shop/deployment/api") < at("stopped shop/statefulset/db"), "{told:?}");
    assert!(at("started shop/statefulset/db") < at("started shop/deployment/api"), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("resting")), "{told:?}");

    // Not ready on what was restored: taken back by itself.
    fs::write(scene.data.join("value"), "bad").expect("written");
    let bad = scene.system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    fs::write(scene.data.join("value"), "good").expect("written");
    let refused = scene.system.nsctl(&["restore", "--timestamp", &bad, "--yes"]).expect(1);
    assert!(refused.err.contains("taken back") && refused.err.contains("did not come up"), "{}", refused.err);
    scene.assert_whole("good", "after it was taken back");

    killed_at_every_step(&mut scene, &backup);
}

fn killed_at_every_step(scene: &mut Scene, backup: &str) {
    let steps = [
        "workload-noted",
        "workload-told",
        "swap-begun",
        "first-old-away",
        "swap-durable",
        "workload-scaled",
        "swap-done",
    ];
    for (n, step) in steps.into_iter().enumerate() {
        fs::write(scene.data.join("value"), format!("before-{n}")).expect("written");
        scene.system.steps().ask(step);
        let id = scene.system.start_job(&["restore", "--timestamp", backup, "--yes", "--no-safety-backup"]);
        wait_for(step, 90, || scene.system.steps().reached(step));
        scene.system.kill_agent();
        scene.system.steps().give_up(step);
        scene.system.start_agent();
        let job = scene.system.await_end(&id);
        assert_eq!(job["state"], "complete", "{step}: {job:#}\n{}", scene.system.log(Process::Agent));
        scene.assert_whole("one", step);
    }

    // The controller is killed instead: what the agent has begun ends all the same.
    for (n, step) in ["workload-told", "swap-durable"].into_iter().enumerate() {
        fs::write(scene.data.join("value"), format!("again-{n}")).expect("written");
        scene.system.steps().ask(step);
        let id = scene.system.start_job(&["restore", "--timestamp", backup, "--yes", "--no-safety-backup"]);
        wait_for(step, 90, || scene.system.steps().reached(step));
        scene.system.kill_controller();
        scene.system.steps().let_go(step);
        scene.system.start_controller();
        let job = scene.system.await_end(&id);
        assert_eq!(job["state"], "complete", "{step}: {job:#}\n{}", scene.system.log(Process::Agent));
        scene.assert_whole("one", step);
    }

    // The agent's record is lost, too: what the objects say is enough.
    fs::write(scene.data.join("value"), "before").expect("written");
    scene.system.steps().ask("first-old-away");
    scene.system.start_job(&["restore", "--timestamp", backup, "--yes", "--no-safety-backup"]);
    wait_for("the swap", 90, || scene.system.steps().reached("first-old-away"));
    assert_eq!(scene.states(), (0, 0, 0, true));
    scene.system.kill_controller();
    scene.system.kill_agent();
    scene.system.steps().give_up("first-old-away");
    let runs = scene.system.root().join("agent/runs");
    fs::remove_dir_all(&runs).and_then(|()| fs::create_dir(&runs)).expect("emptied");
    scene.system.start_agent();
    wait_for("what was stopped to be started", 60, || (scene.states() == (2, 1, 0, false)).then_some(()));
    for app in ["api", "db"] {
        scene.cluster.await_ready("shop", &format!("app={app}"));
    }
    scene.assert_whole("one", "without a record");
}
