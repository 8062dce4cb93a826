//! The web page in a real browser, on the built programs and real data (`tests/web/drive.mjs`).
//!
//! With `NEURASHIELD_SCREENSHOTS` set to a folder, as the suite `web` runs it, pictures are taken of every page, over
//! weeks of backups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tests::{System, project, wait_for};

const COMPONENTS: [&str; 5] = ["models", "configs", "ipfs", "blockchain", "mongodb"];

const PASSWORD: &str = "correct horse battery";

/// The page's users, a browser, and five components with a verified backup.
struct Scene {
    system: System,
    data: PathBuf,
    /// How many backups there were before.
    past: usize,
    backup: String,
    environment: Vec<(String, String)>,
}

impl Scene {
    fn set() -> Self {
        let mut system = System::prepare_held(&[]);
        let data = system.root().join("data");
        let folders = COMPONENTS.map(|name| data.join(name));
        for folder in &folders {
            fs::create_dir_all(folder.join("deep")).expect("made");
            fs::write(folder.join("deep/<b>hostile<i> & name"), vec![7; 300_000]).expect("written");
        }
        let sources: Vec<(&str, &Path)> =
            COMPONENTS.into_iter().zip(folders.iter().map(PathBuf::as_path)).collect();
        system.serve(&sources);
        // As behind an Ingress: whatever leads past this path is found. Kim has a password.
        let password = system.root().join("kim");
        fs::write(&password, format!("{PASSWORD}\n")).expect("written");
        system.configure_controller(&format!(
            "web: {{ path: /restore/, users: {{ kim: {{ role: viewer, password_file: {} }} }} }}\n",
            password.display()
        ));
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        let past = match std::env::var_os("NEURASHIELD_SCREENSHOTS") {
            Some(_) => dress(&mut system, &folders),
            None => 0,
        };
        let mut scene = Self { system, data, past, backup: String::new(), environment: Vec::new() };
        scene.change_to("one");
        scene.backup = scene.system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
        scene.system.nsctl(&["verify", "--timestamp", &scene.backup]).expect(0);
        scene.change_to("two");
        let prepared = Command::new(project().join("tests/engines/browser")).output().expect("it runs");
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
        let prepared = String::from_utf8(prepared.stdout).expect("text");
        let (packages, browser) = prepared.trim().split_once('\n').expect("two lines");
        for (name, value) in [("PACKAGES", packages), ("BROWSER", browser), ("BACKUP", &scene.backup)] {
            scene.environment.push((name.to_owned(), value.to_owned()));
        }
        let url = format!("http://localhost:{}/restore", scene.system.web_port());
        scene.environment.push(("ROOT".to_owned(), scene.system.root().display().to_string()));
        scene.environment.push(("URL".to_owned(), url));
        scene.environment.push(("PASSWORD".to_owned(), PASSWORD.to_owned()));
        for role in ["viewer", "operator", "admin"] {
            let made = scene.system.nsctl(&["token", "create", role, "--role", role]).expect(0);
            scene.environment.push((role.to_uppercase(), made.out.trim().to_owned()));
        }
        scene
    }

    fn change_to(&self, value: &str) {
        for name in COMPONENTS {
            fs::write(self.data.join(name).join("value"), value).expect("written");
        }
    }

    fn values(&self) -> [String; 5] {
        COMPONENTS.map(|name| fs::read_to_string(self.data.join(name).join("value")).expect("there"))
    }

    /// Lets the browser do a part of `drive.mjs`; what it said.
    fn drive(&self, part: &str) -> String {
        Self::said(self.begin(part))
    }

    fn begin(&self, part: &str) -> Child {
        let mut command = Command::new("node");
        command.arg(project().join("tests/web/drive.mjs")).arg(part).envs(self.environment.iter().cloned());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("node runs")
    }

    fn said(child: Child) -> String {
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

/// For the pictures, what a user's system has: weeks of backups of files that have names and grow, schedules,
/// somebody to tell. How many backups those are.
fn dress(system: &mut System, folders: &[PathBuf; 5]) -> usize {
    const WEEKS: u64 = 3;
    name_files(folders);
    let made = WEEKS * 7 / 3;
    for nth in 0..made {
        for (place, folder) in (1..).zip(folders) {
            fs::write(folder.join("data.0"), noise(40_000 * place * (nth + 5))).expect("written");
        }
        system.run(&["backup"]);
        system.nsctl(&["verify"]).expect(0);
        system.kill_agent();
        system.kill_controller();
        let ahead = Some((nth + 1) * 3 * 86_400);
        system.set_controller_ahead(ahead);
        system.set_agent_ahead(ahead);
        if nth + 1 == made {
            let (repository, key) = (system.repository(), system.recovery_key());
            let [repository, key] = [&repository, &key].map(|path| path.to_str().expect("text"));
            let confirm = ["confirm", "--repository", repository, "--recovery-key-file", key];
            system.nsctl(&[&["repository", "key"][..], &confirm].concat()).expect(0);
            configure(system);
        }
        system.start_controller();
        system.start_agent();
        system.await_agent();
    }
    usize::try_from(made).expect("few")
}

fn configure(system: &System) {
    system.keep_usual_schedules();
    system.configure_controller(
        "time_zone: Europe/Paris\n\
         alerts:\n  allow_private: true\n  sinks:\n    \
         on-call: { webhook: { url: \"https://localhost:1/alerts\" } }\n  \
         routes:\n    - { events: [backup_failed, verify_failed, backup_overdue], to: [on-call] }\n",
    );
}

fn noise(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at * at / 7 + at) as u8).collect()
}

fn name_files(folders: &[PathBuf; 5]) {
    let files = [
        ["llama-3-8b.safetensors", "tokenizer.json", "adapters/support-bot.safetensors"],
        ["app.yaml", "nginx.conf", "env/production.env"],
        ["blocks/AA.data", "datastore_spec", "config"],
        ["chaindata/000042.ldb", "chaindata/CURRENT", "nodekey.pub"],
        ["shop/orders.bson", "shop/customers.bson", "shop/orders.metadata.json"],
    ];
    for (folder, names) in folders.iter().zip(files) {
        for (nth, name) in (1..).zip(names) {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
            fs::write(path, noise(180_000 * nth)).expect("written");
        }
    }
}

#[test]
fn a_user_restores_two_of_five_components_and_takes_it_back_and_others_are_refused() {
    let mut scene = Scene::set();
    let said = scene.drive("restore");
    assert_eq!(scene.values(), ["one", "one", "two", "two", "two"]);
    let job = said.lines().find_map(|line| line.strip_prefix("JOB ")).expect("the restore's job");
    scene.environment.push(("JOB".to_owned(), job.to_owned()));
    if let Some(folder) = std::env::var_os("NEURASHIELD_SCREENSHOTS") {
        scene.environment.push(("SHOTS".to_owned(), folder.to_str().expect("text").to_owned()));
        scene.drive("screenshots");
    }
    let brief = scene.system.nsctl(&["token", "create", "brief", "--role", "viewer", "--expires", "1m"]);
    scene.environment.push(("BRIEF".to_owned(), brief.expect(0).out.trim().to_owned()));
    scene.drive("undo");
    assert_eq!(scene.values(), ["two"; 5], "the undo brought back what was there");
    a_restart_in_the_middle_loses_nothing(&mut scene);
    a_restore_that_fails_says_why(&scene);
    let backups = scene.system.nsctl(&["list", "-o", "json"]).expect(0).json();
    let made = backups["backups"].as_array().expect("a list").iter();
    let of_people = made.filter(|backup| backup["safety_of"].is_null()).count();
    assert_eq!(of_people, scene.past + 1, "no foreign site ordered one");
}

/// The controller goes and comes back while a restore is followed: the user signs in again, is back at the
/// job and sees its end.
fn a_restart_in_the_middle_loses_nothing(scene: &mut Scene) {
    let restarted = scene.system.root().join("restarted");
    scene.environment.push(("RESTARTED".to_owned(), restarted.display().to_string()));
    scene.system.steps().ask("all-staged");
    let browser = scene.begin("restart");
    wait_for("what is staged", 60, || scene.system.steps().reached("all-staged"));
    scene.system.kill_controller();
    scene.system.start_controller();
    fs::write(restarted, "").expect("written");
    scene.system.steps().let_go("all-staged");
    Scene::said(browser);
    assert_eq!(scene.values(), ["two", "two", "one", "two", "two"]);
}

/// Somebody adds a file that the restore would remove, after the plan was confirmed.
fn a_restore_that_fails_says_why(scene: &Scene) {
    scene.system.steps().ask("archive-made");
    let browser = scene.begin("failing");
    wait_for("the safety backup", 60, || scene.system.steps().reached("archive-made"));
    fs::write(scene.data.join("blockchain/news"), "of somebody").expect("written");
    scene.system.steps().let_go("archive-made");
    Scene::said(browser);
    assert_eq!(scene.values(), ["two", "two", "one", "two", "two"], "nothing was changed");
}
