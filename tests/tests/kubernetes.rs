//! The chart, as users get it, on a real Kubernetes: real pods, the chart's service accounts and rights, namespaces
//! that take nothing but the Pod Security Standard `restricted`. `NEURASHIELD_PROGRAMS` names a folder of static
//! programs (`deploy/static-programs`); `tests/run kubernetes` makes them.

#[path = "kubernetes_chart/restore_pod.rs"]
mod restore_pod;
#[path = "kubernetes_chart/scene.rs"]
mod scene;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::{Cluster, assert_equal_folders, project, wait_for};

use crate::scene::{
    CONFIGS, VALUES, add_image, await_agent, chart, fill, get, give, install, namespace, nsctl, run_trainer,
    runbook, said, take_recovery_key, trainer,
};

#[test]
fn the_chart_is_clean_and_an_api_server_takes_every_object_that_it_can_make() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().expect("a folder");
    let values = folder.path().join("values.yaml");
    let full = format!(
        "{VALUES}{}",
        r#"
  - name: node
    kind: DaemonSet
    hostPaths: [{ host: /var/lib/app, path: /host/app, readOnly: true }]
    config:
      sources:
        - { component: models, kind: files, name: app, path: /host/app }
        - { component: configs, kind: configs, name: shop, kubernetes: { namespaces: [shop], pod_env: true } }
    workloads: [shop]
    rights: [{ namespace: shop, rules: [{ apiGroups: [""], resources: [configmaps], verbs: [get, list] }] }]
    egress: [{ ports: [{ port: 27017, protocol: TCP }] }]
joins:
  - namespace: shop
    serviceAccount: shop
    name: shop
    sources: ["database/*"]
    restore:
      workloads: [deployment/shop, statefulset/db]
      claims: [{ claim: data, path: /data }]
      user: 1000
      config: { sources: [{ component: database, kind: mongodb, name: shop, path: /data }] }
      egress: [{ ports: [{ port: 53, protocol: UDP }] }]
serviceMonitor: { enabled: true }
prometheusRule: { enabled: true }
"#
    );
    fs::write(&values, full).expect("written");
    let values = values.to_str().expect("UTF-8");
    let chart = chart();
    cluster.helm(&["lint", "--strict", &chart]);
    cluster.helm(&["lint", "--strict", &chart, "-f", values]);
    cluster.kubectl(&["create", "namespace", "backup"]);
    cluster.kubectl(&["create", "namespace", "shop"]);
    let objects = cluster.helm(&[
        "template",
        "backup",
        &chart,
        "-n",
        "backup",
        "-f",
        values,
        "--kube-version",
        "1.33.0",
    ]);
    // Of kinds that an operator of Prometheus brings, no API server of ours knows anything.
    let (foreign, known): (Vec<&str>, Vec<&str>) =
        objects.split("\n---\n").partition(|object| object.contains("monitoring.coreos.com/v1"));
    assert_eq!(foreign.len(), 2);
    let shipped =
        fs::read_to_string(project().join("deploy/observability/prometheus-rules.yml")).expect("read");
    let rules = foreign.concat();
    for line in shipped.lines().filter(|line| !line.trim().is_empty()) {
        assert!(rules.contains(line), "a rule of deploy/observability is not in the chart: {line}");
    }
    let all = known.join("\n---\n");
    let words = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    let output = cluster.with_input("kubectl", &words, all.as_bytes());
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("Warning"), "{}", said(&output));

    // The kubelet gives no file of somebody's claim to a group; each node's folder is a source of its own.
    let agent = |kind: &str, name: &str| {
        let (kind, name) = (format!("kind: {kind}"), format!("name: {name}"));
        let is_it = |object: &&&str| object.lines().any(|line| line == kind) && object.contains(&name);
        *known.iter().find(is_it).expect("the agent is there")
    };
    let models = agent("Deployment", "backup-agent-models");
    assert!(models.contains("runAsGroup: 10001") && !models.contains("fsGroup"), "{models}");
    let node = agent("DaemonSet", "backup-agent-node");
    assert!(node.contains("NEURASHIELD_SOURCES__0__NAME, value: app-$(NODE)"), "{node}");
    // What it may serve is what it is configured to, where nothing else is said.
    let rules = agent("Secret", "backup-service");
    assert!(rules.contains("- models/app-*"), "{rules}");
    let roles = fs::read_to_string(project().join("deploy/manifests/agent-roles.yaml")).expect("read");
    for (ours, shipped) in [
        ("backup-agent-models-workloads", "neurashield-agent-workloads"),
        ("backup-agent-node-own-pod", "neurashield-agent-own-pod"),
        ("backup-agent-node-pod-env", "neurashield-agent-pod-env"),
    ] {
        assert_eq!(
            rules_of(&cluster, "Role", ours, &all),
            rules_of(&cluster, "ClusterRole", shipped, &roles),
            "the chart gives the rights that deploy/manifests/agent-roles.yaml says"
        );
    }

    // What may not be: rights by wildcard, every secret of a namespace, settings that do not exist.
    for wrong in [
        "agents[0].rights[0].rules[0].verbs[0]=*",
        "agents[0].rights[0].rules[0].resources[0]=secrets",
        "controller.usr=5",
        "controller.user=0",
        "agents[0].name=Models",
        "agents[0].claims[0].claim=models,agents[0].claims[0].path=/models",
        "agents[0].config.sources=null",
        "joins[0].namespace=shop,joins[0].serviceAccount=a,joins[0].name=a",
        "joins[0].namespace=a,joins[0].serviceAccount=a,joins[0].name=a,joins[0].sources={x/*},\
         joins[0].restore.workloads={cronjob/x}",
    ] {
        let right = "agents=[{\"name\":\"models\",\"config\":{\"sources\":[{\"component\":\"models\",\"name\":\"m\"}]},\"rights\":[{\"namespace\":\"shop\",\"rules\":\
                     [{\"apiGroups\":[\"\"],\"resources\":[\"configmaps\"],\"verbs\":[\"get\"]}]}]}]";
        let template = ["template", "backup", &chart, "--kube-version", "1.33.0", "--set-json", right];
        assert!(cluster.run("helm", &template).status.success());
        let output = cluster.run("helm", &[&template[..], &["--set", wrong]].concat());
        assert!(!output.status.success() && said(&output).contains("schema"), "{wrong}: {}", said(&output));
    }
    // And what is refused by its meaning, with what to do.
    for (wrong, why) in [
        ("ingress.enabled=true", "ingress.tls"),
        ("service.type=NodePort", "networkPolicy.grpc"),
        ("controller.config.kubernetes.audience=other", "the chart's to write"),
        (
            "joins[0].namespace=b,joins[0].serviceAccount=a,joins[0].name=a,joins[0].sources={x/*},\
             joins[1].namespace=c,joins[1].serviceAccount=a,joins[1].name=a,joins[1].sources={x/*}",
            "two agents are called a",
        ),
    ] {
        let words = ["template", "backup", &chart, "--kube-version", "1.33.0", "--set", wrong];
        let output = cluster.run("helm", &words);
        assert!(!output.status.success() && said(&output).contains(why), "{wrong}: {}", said(&output));
    }
}

/// The rules of one of the roles that `text` describes.
fn rules_of(cluster: &Cluster, kind: &str, name: &str, text: &str) -> Value {
    let words = ["apply", "--dry-run=client", "-o", "json", "-f", "-"];
    let output = cluster.with_input("kubectl", &words, text.as_bytes());
    assert!(output.status.success(), "{}", said(&output));
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut all = all["items"].as_array().expect("a list").iter();
    let role = all.find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    role.expect("the role is there")["rules"].clone()
}

#[test]
fn the_plain_manifests_are_those_of_the_chart() {
    let programs = Command::new(project().join("tests/engines/kubernetes")).output().expect("it runs");
    let programs = String::from_utf8(programs.stdout).expect("UTF-8");
    let made = tempfile::tempdir().expect("a folder");
    let helm = Path::new(programs.trim()).join("helm");
    let generated = Command::new(project().join("deploy/manifests/generate"))
        .arg(made.path())
        .env("HELM", helm)
        .output()
        .expect("it runs");
    assert!(generated.status.success(), "{}", said(&generated));
    for entry in fs::read_dir(made.path()).expect("listed") {
        let name = entry.expect("read").file_name();
        let [fresh, kept] = [made.path(), &project().join("deploy/manifests")]
            .map(|folder| fs::read_to_string(folder.join(&name)).expect("read"));
        assert!(fresh == kept, "{} is not what deploy/manifests/generate makes", name.display());
    }
}

#[test]
fn a_claim_is_backed_up_and_restored_by_the_chart_through_upgrade_rollback_and_a_new_install() {
    let cluster = Cluster::start();
    add_image(&cluster);
    namespace(&cluster, "backup");
    namespace(&cluster, "shop");
    cluster.apply(
        r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"models","namespace":"shop"},
            "spec":{"accessModes":["ReadWriteOnce"],"storageClassName":"dynamic","resources":{"requests":{"storage":"1Gi"}}}}"#,
    );
    let models = give(&cluster, "shop", "models");
    fill(&models, "one");
    let folder = tempfile::tempdir().expect("a folder");
    let values = folder.path().join("values.yaml");
    fs::write(&values, VALUES).expect("written");
    let claims = [("backup", "backup-pvc"), ("backup", "backup-state")];
    install(&cluster, &values, &claims);
    let agent = await_agent(&cluster);
    assert_eq!(agent["name"], "models");
    cluster.helm(&["test", "backup", "-n", "backup", "--timeout", "1m"]);
    take_recovery_key(&cluster);
    let version = nsctl(&cluster, &["--version"]);
    assert!(version.contains('('), "the version names its commit: {version}");

    let address = cluster.kubectl(&[
        "-n",
        "backup",
        "get",
        "service",
        "backup-service",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ]);
    let (status, page) = get(&format!("http://{address}:8080/restore/sign-in"));
    assert!(status == "200" && page.contains("NeuraShield"), "{status}: {page}");
    assert_eq!(get(&format!("http://{address}:9090/readyz")).0, "200");
    assert!(get(&format!("http://{address}:9090/metrics")).1.contains("neurashield_ready 1"));

    for words in [&["--backup"][..], &["--verify"]] {
        let (code, said) = runbook(&cluster, words);
        assert_eq!(code, 0, "{words:?}: {said}");
    }
    let before = folder.path().join("before");
    let copied = Command::new("cp").arg("-a").arg(&models).arg(&before).status();
    assert!(copied.is_ok_and(|status| status.success()));
    fill(&models, "changed");
    fs::write(models.join("new"), "new").expect("written");
    run_trainer(&cluster);
    let ran = trainer(&cluster);
    let (code, said) = runbook(&cluster, &["--restore", "--timestamp", "latest", "--components", "models"]);
    assert_eq!(code, 0, "{said}");
    cluster.await_ready("shop", "app=trainer");
    assert_ne!(trainer(&cluster), ran, "what uses the claim was stopped and started: {said}");
    // The time of the volume's own folder is its owner's to set, who is root.
    let touched = Command::new("touch").arg("-r").arg(&before).arg(&models).status();
    assert!(touched.is_ok_and(|status| status.success()));
    assert_equal_folders(&models, &before);

    // An upgrade and back: the same agent, the same backups.
    let chart = chart();
    let values = values.to_str().expect("UTF-8");
    let changed = "controller.config.retention.keep_last=7";
    let upgrade = ["upgrade", "backup", &chart, "-n", "backup", "-f", values, "--set", changed];
    cluster.helm(&[&upgrade[..], &["--wait", "--timeout", "3m"]].concat());
    let pod = ["-n", "backup", "exec", "deploy/backup-service", "--", "neurashield-controller"];
    let shown = [&pod[..], &["config", "show", "--config", "/etc/neurashield/controller.yaml"]].concat();
    let shown = cluster.kubectl(&shown);
    assert!(shown.contains("keep_last: 7"), "{shown}");
    assert_eq!(await_agent(&cluster)["id"], agent["id"]);
    cluster.helm(&["rollback", "backup", "1", "-n", "backup", "--wait", "--timeout", "3m"]);
    await_agent(&cluster);
    fill(&models, "two");
    let (code, said) = runbook(&cluster, &["--backup"]);
    assert_eq!(code, 0, "{said}");

    // The state is made anew from the repository, as for a rollback over a change of its tables: the same agent.
    let rebuild = ["--set", "rebuild.enabled=true", "--wait", "--wait-for-jobs", "--timeout", "3m"];
    let upgrade = ["upgrade", "backup", &chart, "-n", "backup", "-f", values];
    cluster.helm(&[&upgrade[..], &rebuild].concat());
    let replicas = ["-n", "backup", "get", "deployment", "backup-service", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.kubectl(&replicas), "0", "nobody writes meanwhile");
    cluster.helm(&[&upgrade[..], &["--wait", "--timeout", "3m"]].concat());
    assert_eq!(await_agent(&cluster)["id"], agent["id"]);
    let listed: Value = serde_json::from_str(&nsctl(&cluster, &["list", "-o", "json"])).expect("JSON");
    assert!(listed["backups"].as_array().is_some_and(|all| all.len() >= 2), "{listed}");

    // What is uninstalled leaves its backups and its state, and goes on with them.
    cluster.helm(&["uninstall", "backup", "-n", "backup", "--wait", "--timeout", "2m"]);
    let left = cluster.kubectl(&["get", "pvc", "-n", "backup", "-o", "name"]);
    assert!(left.contains("backup-pvc") && left.contains("backup-state"), "{left}");
    install(&cluster, Path::new(values), &claims);
    await_agent(&cluster);
    fill(&models, "three");
    let (code, said) = runbook(&cluster, &["--restore", "--timestamp", "latest", "--components", "models"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read_to_string(models.join("value")).expect("read"), "two");
}

#[test]
fn the_service_accounts_may_what_the_chart_says_and_nothing_else() {
    let cluster = Cluster::start();
    add_image(&cluster);
    namespace(&cluster, "backup");
    namespace(&cluster, "shop");
    cluster.apply(
        r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"models","namespace":"shop"},
            "spec":{"accessModes":["ReadWriteOnce"],"storageClassName":"dynamic","resources":{"requests":{"storage":"1Gi"}}}}"#,
    );
    give(&cluster, "shop", "models");
    let folder = tempfile::tempdir().expect("a folder");
    let values = folder.path().join("values.yaml");
    fs::write(&values, VALUES.replace("workloads: [shop]", "workloads: []") + CONFIGS).expect("written");
    let claims = [("backup", "backup-pvc"), ("backup", "backup-state"), ("shop", "backup-agent-configs")];
    cluster.kubectl(&["-n", "shop", "create", "secret", "generic", "db", "--from-literal=password=one"]);
    install(&cluster, &values, &claims);
    let agents = || -> Vec<Value> {
        let listed = nsctl(&cluster, &["agent", "list", "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["agents"].as_array().expect("a list").clone()
    };
    wait_for("both agents to join", 150, || {
        (agents().iter().filter(|agent| agent["connected"] == true).count() == 2).then_some(())
    });

    const CONTROLLER: &str = "system:serviceaccount:backup:backup-service";
    const AGENT: &str = "system:serviceaccount:shop:backup-agent-models";
    let may = |who: &str, words: &[&str]| {
        let output = cluster.run("kubectl", &[&["auth", "can-i", "--as", who], words].concat());
        // An error is no answer.
        match String::from_utf8_lossy(&output.stdout).split_whitespace().next() {
            Some("yes") => true,
            Some("no") => false,
            _ => panic!("{words:?}: {}", said(&output)),
        }
    };
    assert!(may(CONTROLLER, &["create", "tokenreviews.authentication.k8s.io"]));
    for space in ["backup", "shop"] {
        assert!(may(CONTROLLER, &["patch", "configmap/backup-service-authority", "-n", space]));
    }
    for who in [CONTROLLER, AGENT] {
        for words in [
            &["get", "secrets", "-n", "shop"][..],
            &["list", "secrets", "-A"],
            &["patch", "configmaps", "-n", "backup"],
            &["patch", "configmap/kube-root-ca.crt", "-n", "shop"],
            &["get", "pods", "-n", "shop"],
            &["create", "pods", "-n", "shop"],
            &["create", "subjectaccessreviews.authorization.k8s.io"],
            &["create", "serviceaccounts/token", "-n", "shop"],
            &["*", "*", "-A"],
        ] {
            assert!(!may(who, words), "{who} may {words:?}");
        }
    }
    assert!(!may(AGENT, &["create", "tokenreviews.authentication.k8s.io"]));
    // Not only said: with a real token of the agent's account the server refuses.
    let token = cluster.kubectl(&["-n", "shop", "create", "token", "backup-agent-models"]);
    let access = fs::read_to_string(cluster.access()).expect("read");
    let mut access: Value = serde_json::from_str(&access).expect("JSON");
    access["users"][0]["user"]["token"] = token.into();
    let its = folder.path().join("access");
    fs::write(&its, access.to_string()).expect("written");
    let asks = ["--kubeconfig", its.to_str().expect("UTF-8"), "-n", "shop", "get", "secrets"];
    let output = cluster.run("kubectl", &asks);
    assert!(!output.status.success() && said(&output).contains("Forbidden"), "{}", said(&output));

    // An agent that may not see what uses the claim restores nothing there.
    let (code, said_of_all) = runbook(&cluster, &["--backup"]);
    assert_eq!(code, 0, "{said_of_all}");
    let (code, refused) =
        runbook(&cluster, &["--restore", "--timestamp", "latest", "--components", "models"]);
    assert!(code != 0 && refused.contains("no token of its service account"), "{code}: {refused}");

    // One Secret, by its name: it is backed up and put back, and no other can be seen.
    const OF_CONFIGS: &str = "system:serviceaccount:shop:backup-agent-configs";
    assert!(may(OF_CONFIGS, &["get", "secret/db", "-n", "shop"]));
    for words in [&["get", "secret/other", "-n", "shop"][..], &["list", "secrets", "-n", "shop"]] {
        assert!(!may(OF_CONFIGS, words), "{words:?}");
    }
    cluster.kubectl(&["-n", "shop", "delete", "secret", "db"]);
    let restore =
        ["restore", "--timestamp", "latest", "--include", "Secret/db", "--no-safety-backup", "--yes"];
    nsctl(&cluster, &restore);
    let password = ["-n", "shop", "get", "secret", "db", "-o", "jsonpath={.data.password}"];
    assert_eq!(cluster.kubectl(&password), "b25l", "`one` in Base64");

    // A pod of another account of the same namespace shows its token and is refused.
    let agent = cluster.kubectl(&["-n", "shop", "get", "deployment", "backup-agent-models", "-o", "json"]);
    let agent: Value = serde_json::from_str(&agent).expect("JSON");
    let mut template = agent["spec"]["template"]["spec"].clone();
    template["serviceAccountName"] = "default".into();
    template["serviceAccount"] = "default".into();
    template["restartPolicy"] = "Never".into();
    let volumes = template["volumes"].as_array_mut().expect("a list");
    let state = volumes.iter_mut().find(|volume| volume["name"] == "state").expect("a state");
    *state = serde_json::json!({ "name": "state", "emptyDir": {} });
    let pod = |name: &str, spec: &Value| {
        let metadata = serde_json::json!({ "name": name, "namespace": "shop" });
        let pod =
            serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        cluster.apply(&pod.to_string());
    };
    pod("intruder", &template);
    wait_for("the intruder to be refused", 90, || {
        let log = cluster.run("kubectl", &["-n", "shop", "logs", "intruder"]);
        said(&log).contains("no rule of the controller lets agents of this service account").then_some(())
    });
    assert_eq!(agents().len(), 2, "{:?}", agents());

    // A sidecar joins, in a pod whose containers run as several users and that gives its volumes to no group.
    cluster.kubectl(&["-n", "shop", "create", "serviceaccount", "side"]);
    let mut sidecar = template;
    sidecar["serviceAccountName"] = "side".into();
    sidecar["serviceAccount"] = "side".into();
    sidecar["securityContext"] =
        serde_json::json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    let containers = sidecar["containers"].as_array_mut().expect("a list");
    containers[0]["securityContext"]["runAsUser"] = 3000.into();
    containers[0]["env"] = serde_json::json!([{ "name": "NEURASHIELD_NAME", "value": "side" }]);
    let mut security = containers[0]["securityContext"].clone();
    security["runAsUser"] = 2000.into();
    containers.push(serde_json::json!({
        "name": "app", "image": tests::SHELL_IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "600"],
        "securityContext": security,
    }));
    pod("sidecar", &sidecar);
    wait_for("the sidecar to join", 150, || {
        agents().iter().any(|agent| agent["name"] == "side" && agent["connected"] == true).then_some(())
    });
}
