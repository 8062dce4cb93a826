//! Environments of processes, as a user sees them: the agent's own and a container's are files of a backup, parse at
//! its verification, and come back as files that say what to do with them; nothing claims to put them back by itself.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};
use tests::{ApiServer, Process, System};

/// A Docker Engine that knows one container, as far as it is asked here.
fn engine(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    return;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).expect("text");
            let body = match head.split(' ').nth(1).expect("a path") {
                "/containers/json?all=true" => {
                    r#"[{"Id":"aaaaaaaaaaaaaaaa","Names":["/web"],"Labels":{"app":"shop"},"State":"running"}]"#
                }
                "/containers/aaaaaaaaaaaaaaaa/json" => {
                    r#"{"State":{"Running":true},"Config":{"Env":["MODE=fast and good","PASSWORD=it's hunter2 $x",
                        "TWO=it's\ntwo \"x\" `y` \\z"]}}"#
                }
                _ => "{}",
            };
            let length = body.len();
            drop(write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
    });
}

#[test]
fn environments_are_files_of_a_backup_and_come_back_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("docker.sock");
    engine(&socket);
    let mut system = System::prepare(&[]);
    system.set_variable("SHOP_LEVEL", "deep\nand \"wide\"");
    system.set_variable("NEURASHIELD_DOCKER__SOCKET", socket.to_str().expect("UTF-8"));
    let env = |more: &str| {
        format!(
            "  - {{ component: configs, kind: configs, name: env, env: {{ agent: true, container_labels: [app]{more} }} }}\n"
        )
    };
    system.configure_agent(&env(""));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let job = system.run(&["backup"]);
    assert_eq!(job["state"], "complete", "{job:#}");
    let listed = system.nsctl(&["ls", "latest", "configs", "-R"]).expect(0).out;
    assert!(
        listed.contains("environment/agent.env") && listed.contains("environment/containers/web.env"),
        "{listed}"
    );
    system.nsctl(&["verify", "--depth", "opened"]).expect(0);

    // By itself nothing gives a process another environment.
    let refused = system.nsctl(&["restore", "--timestamp", "latest", "--yes"]);
    let shown = format!("{}{}", refused.out, refused.err);
    assert!(
        refused.code != 0 && shown.contains("cannot be put back by itself") && shown.contains("--to"),
        "{shown}"
    );
    let to = folder.path().join("to");
    system.run(&["restore", "--timestamp", "latest", "--to", to.to_str().expect("UTF-8"), "--yes"]);
    let files = to.join("configs/environment");
    let web = fs::read_to_string(files.join("containers/web.env")).expect("it is there");
    assert!(web.contains("MODE='fast and good'\n") && web.contains("env_file"), "{web}");
    let own = fs::read_to_string(files.join("agent.env")).expect("it is there");
    assert!(own.contains("SHOP_LEVEL='deep\nand \"wide\"'\n") && !own.contains("NEURASHIELD_"), "{own}");
    // A shell reads what was there.
    for (name, value) in [("PASSWORD", "it's hunter2 $x"), ("TWO", "it's\ntwo \"x\" `y` \\z")] {
        let read = std::process::Command::new("sh")
            .args(["-c", &format!(". \"$0\"; printf %s \"${name}\"")])
            .arg(files.join("containers/web.env"))
            .output()
            .expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&read.stdout), value);
    }
    // What takes lines as they are is not promised to.
    assert!(web.contains("`docker run --env-file` takes"), "{web}");

    // One that is named and is not there makes the backup incomplete.
    system.reconfigure_agent("kind: configs", &env(", containers: [gone]"));
    system.kill_agent();
    system.start_agent();
    system.await_agent();
    let shown = system.nsctl(&["backup"]).expect(3);
    assert!(format!("{}{}", shown.out, shown.err).contains("no container gone"), "{}", shown.out);
    for log in [system.log(Process::Agent), system.log(Process::Controller)] {
        assert!(!log.contains("hunter2") && !log.contains("panicked"), "a value is in a log");
    }
}

/// A cluster with a pod, as far as it is asked here.
fn says(path: &str) -> Option<Value> {
    let metadata =
        json!({ "name": "web-1", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z" });
    match path.split('?').next()? {
        "/api/v1/namespaces/shop/pods" => Some(
            json!({ "kind": "PartialObjectMetadataList", "metadata": {}, "items": [{ "metadata": metadata }] }),
        ),
        "/api/v1/namespaces/shop/configmaps" => {
            let map = json!({ "name": "kube-root-ca.crt", "namespace": "shop" });
            Some(
                json!({ "kind": "PartialObjectMetadataList", "metadata": {}, "items": [{ "metadata": map }] }),
            )
        }
        "/api/v1/namespaces/shop/pods/web-1" => Some(json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": metadata,
            "spec": { "containers": [{ "name": "app", "env": [
                { "name": "MODE", "value": "two words" },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
            ] }] },
        })),
        _ => None,
    }
}

#[test]
fn what_pods_are_given_is_in_the_backup_by_their_spec_and_secrets_stay_references() {
    let mut system = System::prepare(&[]);
    let cluster = ApiServer::start(|method, path, _| if method == "GET" { says(path) } else { None });
    let kubeconfig = system.root().join("kubeconfig");
    cluster.kubeconfig(&kubeconfig);
    system.configure_agent(&format!(
        "  - {{ component: configs, name: shop, kind: configs, kubernetes: {{ namespaces: [shop], pod_env: true }} }}\n\
         kubernetes: {{ kubeconfig: {}, enabled: false }}\n",
        kubeconfig.display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let job = system.run(&["backup"]);
    assert_eq!(job["state"], "complete", "{job:#}");
    let file = "kubernetes/shop/Pod/web-1/app.env";
    let text = system.nsctl(&["cat", "latest", "configs", file]).expect(0).out;
    assert!(
        text.contains("MODE='two words'\n")
            && text.contains("# PASSWORD is the key password of the Secret db"),
        "{text}"
    );
    system.nsctl(&["verify", "--depth", "opened"]).expect(0);
    // A restore into the cluster leaves them alone: what makes the pod gives it its environment.
    let plan = system.nsctl(&["restore", "--timestamp", "latest", "--plan"]);
    assert!(!format!("{}{}", plan.out, plan.err).contains("app.env"), "{}{}", plan.out, plan.err);
    assert!(!system.log(Process::Agent).contains("panicked"));
}
