//! The doctor and the bundle, on the built programs: what a user sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tests::{ApiServer, System, programs};

fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("models")).expect("made");
    fs::write(folder.path().join("models/weights"), "weights").expect("written");
    folder
}

/// The findings of a check that are not fine.
fn wrong(findings: &Value, check: &str) -> Vec<String> {
    let findings = findings["findings"].as_array().expect("findings").iter();
    let of_check = findings.filter(|one| one["check"] == check && one["level"] != "fine");
    of_check
        .inspect(|one| {
            assert!(one["why"].as_str().is_some_and(|why| !why.is_empty()), "{one}");
            assert!(one["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{one}");
        })
        .map(|one| one["finding"].as_str().expect("words").to_owned())
        .collect()
}

#[test]
fn the_doctor_finds_what_hinders_a_backup_and_what_no_backup_holds() {
    let data = data();
    let volumes = data.path().join("volumes");
    for name in ["covered-by-nobody", "ignored"] {
        fs::create_dir_all(volumes.join(name)).expect("made");
        fs::write(volumes.join(name).join("file"), "data").expect("written");
    }
    let models = data.path().join("models");
    let mut system = System::prepare(&[("models", &models)]);
    let look_here = format!(
        "look_here: {{ folders: [{volumes}], ignore: [{volumes}/ignored] }}\n",
        volumes = volumes.display()
    );
    let file = system.root().join("agent.yaml");
    fs::write(&file, fs::read_to_string(&file).expect("there") + &look_here).expect("written");
    system.start_controller();
    system.invite();
    system.set_agent_ahead(Some(120));
    system.start_agent();
    system.await_agent();
    let doctor = || system.nsctl(&["doctor", "-o", "json"]).expect(1).json();

    let found = doctor();
    assert_eq!(wrong(&found, "backup-exists"), ["models: there is no complete backup"]);
    let uncovered = wrong(&found, "data-in-no-plan");
    assert!(uncovered.iter().any(|words| words.contains("volumes/covered-by-nobody")), "{uncovered:?}");
    assert!(
        !uncovered.iter().any(|words| words.contains("ignored") || words.contains("models")),
        "{uncovered:?}"
    );
    let clock = wrong(&found, "clock");
    assert!(clock.len() == 1 && clock[0].contains("test-agent is 1"), "{clock:?}");
    assert_eq!(wrong(&found, "alerts-configured"), ["no alert sink is configured"]);
    assert_eq!(wrong(&found, "schedule-exists").len(), 2, "{found}");
    assert_eq!(wrong(&found, "state-permissions"), [""; 0]);

    system.nsctl(&["backup"]).expect(0);
    fs::set_permissions(system.root().join("controller"), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::rename(&models, data.path().join("elsewhere")).expect("renamed");
    let found = doctor();
    assert_eq!(wrong(&found, "backup-exists"), [""; 0]);
    let source = wrong(&found, "source-readable");
    assert!(source.len() == 1 && source[0].starts_with("models/models: "), "{source:?}");
    let modes = wrong(&found, "state-permissions");
    assert!(modes.len() == 1 && modes[0].contains("(mode 0755)"), "{modes:?}");

    // Its own list says why and what to do, for people as well.
    let said = system.nsctl(&["doctor"]).expect(1).out;
    assert!(said.contains("why: ") && said.contains("to do: "), "{said}");
}

fn nsctl(words: &[&str], folder: &Path) -> tests::Answer {
    let output = Command::new(programs().join("nsctl")).args(words).current_dir(folder).output();
    tests::Answer::of(&output.expect("it runs"))
}

#[test]
fn where_no_controller_answers_the_doctor_looks_at_what_there_is() {
    let data = data();
    let models = data.path().join("models");
    let mut system = System::start(&[("models", &models)]);
    system.nsctl(&["backup"]).expect(0);
    system.kill_controller();
    let config = system.root().join("controller.yaml");
    let server = format!("unix://{}/controller.sock", system.root().display());
    let words = ["doctor", "-o", "json", "--server", &server, "--config", config.to_str().expect("text")];
    let found = nsctl(&words, data.path()).expect(5).json();
    assert_eq!(wrong(&found, "controller-reachable").len(), 1);
    let fine: Vec<&str> = found["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|one| one["level"] == "fine")
        .map(|one| one["check"].as_str().expect("a word"))
        .collect();
    for check in ["configuration", "state-space", "state-permissions", "disk-space", "repository-opens"] {
        assert!(fine.contains(&check), "{check} in {found}");
    }

    fs::write(&config, "repository: [nonsense]\n").expect("written");
    let found = nsctl(&words, data.path()).expect(5).json();
    assert_eq!(wrong(&found, "configuration").len(), 1, "{found}");
}

#[test]
fn a_bundle_holds_what_helps_for_its_owner_alone_and_says_what_is_missing() {
    let data = data();
    let models = data.path().join("models");
    let mut system = System::start(&[("models", &models)]);
    system.nsctl(&["backup"]).expect(0);
    let file = data.path().join("bundle.tar.gz");
    let name = file.to_str().expect("text").to_owned();
    let said = system.nsctl(&["debug", "bundle", "--file", &name]).expect(0).out;
    assert!(said.contains("no secrets") && said.contains("what the doctor found"), "{said}");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let unpacked = data.path().join("unpacked");
    fs::create_dir(&unpacked).expect("made");
    let unpack = || {
        let tar = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&unpacked).status();
        assert!(tar.expect("tar runs").success());
        let inner = fs::read_dir(&unpacked).expect("listed").next().expect("a folder").expect("read");
        inner.path()
    };
    let folder = unpack();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_else(|_| panic!("{name}"));
    let json = |name: &str| serde_json::from_str::<Value>(&read(name)).expect("JSON");
    assert_eq!(json("jobs.json")[0]["kind"], "backup");
    let id = json("jobs.json")[0]["id"].as_str().expect("an id").to_owned();
    assert!(!read(&format!("logs/{id}.txt")).is_empty());
    assert_eq!(json("configuration.json")["state"], format!("{}/controller", system.root().display()));
    assert!(read("metrics.txt").contains("neurashield_build_info"));
    assert!(json("doctor.json")["findings"].as_array().expect("findings").len() > 15);
    assert_eq!(json("agents.json")[0]["name"], "test-agent");
    assert_eq!(json("backups.json").as_array().expect("backups").len(), 1);
    for name in ["README.txt", "machine.txt", "alerts.json", "deliveries.json", "schedules.json"] {
        assert!(read("README.txt").contains(name) || name == "README.txt", "{name}");
        read(name);
    }
    // What is there is not written over.
    system.nsctl(&["debug", "bundle", "--file", &name]).expect(2);

    system.kill_controller();
    fs::remove_file(&file).expect("removed");
    fs::remove_dir_all(&unpacked).and_then(|()| fs::create_dir(&unpacked)).expect("emptied");
    let said = system.nsctl(&["debug", "bundle", "--file", &name]).expect(3).out;
    assert!(said.contains("missing: all that a controller knows"), "{said}");
    let found = fs::read_to_string(unpack().join("doctor.json")).expect("there");
    assert!(found.contains("controller-reachable"), "{found}");
}

#[test]
fn namespaces_that_no_source_names_are_found_where_the_agent_may_list_them() {
    let data = data();
    let mut system = System::prepare(&[("models", &data.path().join("models"))]);
    let cluster = ApiServer::start(|method, path, _| match (method, path.split('?').next()?) {
        ("GET", "/api/v1/namespaces") => {
            let named = ["backup", "billing", "dev", "kube-system", "shop"];
            let items = named.map(|name| json!({ "metadata": { "name": name } }));
            Some(
                json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items }),
            )
        }
        _ => None,
    });
    let kubeconfig = system.root().join("kubeconfig");
    cluster.kubeconfig(&kubeconfig);
    let file = system.root().join("agent.yaml");
    let objects =
        "  - { component: configs, name: shop, kind: configs, kubernetes: { namespaces: [shop] } }\n";
    let rest = format!(
        "{objects}kubernetes: {{ kubeconfig: {} }}\nlook_here: {{ ignore_namespaces: [dev, backup] }}\n",
        kubeconfig.display()
    );
    fs::write(&file, fs::read_to_string(&file).expect("there") + &rest).expect("written");
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let found = system.nsctl(&["doctor", "-o", "json"]).expect(1).json();
    assert_eq!(
        wrong(&found, "data-in-no-plan")
            .into_iter()
            .filter(|words| words.contains("namespace"))
            .collect::<Vec<_>>(),
        ["no object of the namespace billing is in a backup"]
    );
    let unreadable = wrong(&found, "source-readable");
    assert!(unreadable.iter().any(|words| words.contains("may not list configmaps")), "{unreadable:?}");
}
