//! Drills, as a user sees them: what was backed up is restored into an agent's scratch folder, opened there by a program
//! of its own, and removed; what was opened is told with its age, what was not is a finding.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{Answer, System, project, wait_for};

const FAILED: i32 = 1;
const INCOMPLETE: i32 = 3;
const DAMAGED: i32 = 4;
const UNREACHABLE: i32 = 5;

/// A system whose agent opens each of these components by a line for a shell, in which `$1` is the restored folder.
struct Drilled {
    system: System,
}

impl Drilled {
    fn new(sources: &[(&str, &Path)], openers: &[(&str, String)]) -> Self {
        let drilled = Self { system: System::prepare(sources) };
        drilled.mark(openers);
        drilled
    }

    fn mark(&self, openers: &[(&str, String)]) {
        let lines = openers.iter().map(|(component, line)| {
            let (command, more) = line.split_once(" # ").unwrap_or((line, ""));
            let quoted = command.replace('\'', "''");
            format!("    - {{ component: {component}, command: [/bin/sh, -c, '{quoted}', opener, '{{}}']{more} }}\n")
        });
        let scratch = self.scratch();
        let text =
            format!("drills:\n  scratch: {}\n  open:\n{}", scratch.display(), lines.collect::<String>());
        self.system.configure_agent(&text);
    }

    fn start(&mut self) {
        self.system.start_controller();
        self.system.invite();
        self.system.start_agent();
        self.system.await_agent();
        self.system.run(&["backup"]);
    }

    fn scratch(&self) -> PathBuf {
        self.system.root().join("scratch")
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.scratch()).expect("listed").next().is_none()
    }

    fn drill(&self, component: &str) -> Answer {
        self.system.nsctl(&["verify", "--depth", "drilled", "--components", component, "-o", "json"])
    }

    /// What the newest backup's archive of this component has of verifications to the depth `drilled`.
    fn kept(&self, component: &str) -> Option<Value> {
        let shown = self.system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
        let archives = shown["archives"].as_array().expect("a list").iter();
        let archive = archives.clone().find(|one| one["component"] == component).expect("it is there");
        let mut all = archive["verifications"].as_array().expect("a list").iter();
        all.find(|one| one["depth"] == "drilled").cloned()
    }
}

fn findings(job: &Value) -> String {
    job["parts"][0]["findings"].to_string()
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }
    folder
}

fn is_there(process: &Path) -> bool {
    let number = fs::read_to_string(process).expect("it was noted");
    // One that has ended and is not reaped is gone for everybody.
    let stat = fs::read_to_string(format!("/proc/{}/stat", number.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['R', 'S', 'D', 'T']))
}

/// The keys of a node, which no copy holds.
const KEYS: [(&str, &[u8]); 3] =
    [("geth/nodekey", b"node"), ("keystore/UTC--aa", b"account"), ("config/priv_validator_key.json", b"{}")];

fn leveldb_writer() -> PathBuf {
    let built = Command::new(project().join("tests/engines/writer"))
        .arg("leveldb")
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    assert!(built.status.success(), "the writer cannot be built");
    PathBuf::from(String::from_utf8(built.stdout).expect("UTF-8").trim())
}

#[test]
fn a_chain_that_is_written_and_models_are_opened_by_the_agents_own_programs_without_keys() {
    let writer = leveldb_writer();
    let node = folder(&KEYS);
    let store = node.path().join("data/chaindata");
    fs::create_dir_all(store.parent().expect("a parent")).expect("made");
    let mut writes = Command::new(&writer).arg("write").arg(&store).spawn().expect("it starts");
    // Of a kind that knows no keys: what is called as one stays out all the same.
    let models = folder(&[("a/weights.bin", &[7; 100_000]), ("tokens.txt", b"words"), KEYS[0]]);
    let settings = folder(&[("app.env", b"A=1")]);
    wait_for("tables", 20, || (fs::read_dir(&store).ok()?.count() > 20).then_some(()));
    let seen = tempfile::tempdir().expect("a folder");
    let at = |name: &str| seen.path().join(name).display().to_string();
    let mut drilled = Drilled::new(
        &[("models", models.path()), ("configs", settings.path())],
        &[
            (
                "blockchain",
                format!(
                    "cd \"$1\" && find . > {} && env > {} && {} check data/chaindata # , env: {{ PASSWORD: hunter2-42 }}",
                    at("files"),
                    at("env"),
                    writer.display()
                ),
            ),
            // It leaves something running, in its group and out of it, and its output holds a secret.
            (
                "models",
                format!(
                    "cmp \"$1\"/a/weights.bin {}/a/weights.bin; r=$?; sleep 300 & echo $! > {}; \
                     ( setsid sleep 300 & echo $! > {} ); ! [ -e \"$1\"/geth/nodekey ] || exit 9; \
                     echo $PASSWORD; exit $r # , env: {{ PASSWORD: hunter2-43 }}",
                    models.path().display(),
                    at("left"),
                    at("far")
                ),
            ),
        ],
    );
    // Before the marks in the file.
    let file = drilled.system.root().join("agent.yaml");
    let text = fs::read_to_string(&file).expect("it is there");
    let chain = format!(
        "sources:\n  - {{ component: blockchain, kind: blockchain, name: chain, path: {} }}\n",
        node.path().display()
    );
    fs::write(&file, text.replace("sources:\n", &chain)).expect("written");
    drilled.start();
    writes.kill().expect("killed");
    writes.wait().expect("reaped");

    let job = drilled.drill("blockchain,models").expect(0).json();
    assert_eq!(job["state"], "complete", "{job:#}");
    let said = job.to_string();
    assert!(said.contains("opened by /bin/sh at test-agent"), "{said}");
    assert!(said.contains("left out"), "of the keys it is told: {said}");
    let files = fs::read_to_string(at("files")).expect("it was opened");
    for (key, _) in KEYS {
        assert!(!files.contains(key), "{key} is there: {files}");
    }
    assert!(files.contains("./data/chaindata/CURRENT") && files.contains("./keystore\n"), "{files}");
    let env = fs::read_to_string(at("env")).expect("it was opened");
    assert!(
        env.contains("NEURASHIELD_SOURCE=blockchain/chain") && env.contains("PASSWORD=hunter2-42"),
        "{env}"
    );
    assert!(!env.contains("NEURASHIELD_LOG_FORMAT"), "nothing of the agent's own: {env}");
    assert!(drilled.is_empty());
    for left in ["left", "far"] {
        assert!(!is_there(&seen.path().join(left)), "what the program has started ends with it: {left}");
    }
    let id = job["id"].as_str().expect("an id");
    let log = drilled.system.nsctl(&["logs", id]).expect(0).out;
    assert!(log.contains("drill: ") && log.contains("(redacted)"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");

    for component in ["blockchain", "models"] {
        let kept = drilled.kept(component).expect("it was drilled");
        assert_eq!(kept["intact"], true, "{kept:#}");
    }
    let shown = drilled.system.nsctl(&["show", "latest"]).expect(0).out;
    assert!(
        shown.contains("blockchain/chain: drilled ") && shown.contains("models/models: drilled "),
        "{shown}"
    );
    assert!(!shown.contains("configs/configs: drilled"), "{shown}");

    // All: what nobody opens is verified, and told. By name it is refused before anything is done.
    let words = ["verify", "--depth", "drilled"];
    let answer = drilled.system.nsctl(&words).expect(INCOMPLETE);
    let said = format!("{}{}", answer.out, answer.err);
    assert!(said.contains("configs/configs") && said.contains("add `drills.open` for configs"), "{said}");
    let refused = drilled.drill("configs").expect(FAILED).err;
    assert!(refused.contains("no agent that is connected opens `configs` in drills"), "{refused}");
    assert!(refused.contains("add `drills.open` for configs"), "{refused}");
    let refused = drilled.system.nsctl(&[&words[..], &["--budget", "1MiB"]].concat());
    assert!(refused.code != 0 && refused.err.contains("leave out --budget"), "{}", refused.err);

    // By a schedule.
    let set = ["schedule", "set", "drill", "--verify", "0 6 * * sun", "--depth", "drilled"];
    drilled.system.nsctl(&[&set[..], &["--components", "models", "--no-retention"]].concat()).expect(0);
    drilled.system.nsctl(&["schedule", "run", "drill"]).expect(0);
    let ended = wait_for("the scheduled drill", 60, || {
        let jobs = drilled.system.nsctl(&["jobs", "-o", "json"]).expect(0).json();
        let mut all = jobs["jobs"].as_array()?.iter();
        all.find(|job| job["schedule"] == "drill" && !job["ended_at"].is_null()).cloned()
    });
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert!(ended.to_string().contains("opened by /bin/sh"), "{ended:#}");

    // The agent that opens it is away.
    drilled.system.kill_agent();
    wait_for("the end of the connection", 60, || (!drilled.system.is_agent_there()).then_some(()));
    let away = drilled.drill("models").expect(UNREACHABLE).err;
    assert!(away.contains("not connected: test-agent") && away.contains("start the agent"), "{away}");
}

#[test]
fn what_no_program_opens_is_a_finding_and_an_alert_and_nothing_of_it_stays() {
    let (broken, slow, large) = (folder(&[("a", b"1")]), folder(&[("a", b"1")]), folder(&[("a", b"1")]));
    let seen = tempfile::tempdir().expect("a folder");
    let at = |name: &str| seen.path().join(name).display().to_string();
    let mut drilled = Drilled::new(
        &[("broken", broken.path()), ("slow", slow.path()), ("held", large.path())],
        &[
            ("broken", "echo first; echo the last word >&2; exit 7".to_owned()),
            ("slow", format!("sleep 300 & echo $! > {}; wait # , timeout: 1s", at("slow"))),
            // Until it is let go.
            ("held", format!("echo $$ > {}; while [ ! -e {} ]; do sleep 0.05; done", at("held"), at("go"))),
        ],
    );
    drilled.start();
    let job = drilled.drill("broken").expect(DAMAGED).json();
    assert_eq!(job["state"], "failed", "{job:#}");
    assert!(
        findings(&job).contains("the drill failed: /bin/sh ended with 7, saying: first | the last word"),
        "{job:#}"
    );
    let kept = drilled.kept("broken").expect("it is kept");
    assert_eq!(kept["intact"], false, "{kept:#}");
    let listed = drilled.system.nsctl(&["list"]).expect(0).out;
    assert!(listed.contains("drill failed") && !listed.contains("damaged"), "{listed}");
    let alerts = drilled.system.nsctl(&["alert", "list", "-o", "json"]).expect(0).json();
    let mut all = alerts["alerts"].as_array().expect("a list").iter();
    let alert = all.find(|alert| alert["kind"] == "verify_failed").expect("it is told");
    assert!(alert["why"].as_str().expect("text").contains("broken/broken: the drill failed"), "{alert:#}");
    assert!(drilled.is_empty());

    let job = drilled.drill("slow").expect(DAMAGED).json();
    assert!(findings(&job).contains("did not end within 1s"), "{job:#}");
    assert!(!is_there(&seen.path().join("slow")), "it was killed with what it has started");
    assert!(drilled.is_empty());

    let begin = ["verify", "--depth", "drilled", "--components", "held"];
    let process = seen.path().join("held");
    let begun = |system: &System| {
        let job = system.start_job(&begin);
        wait_for("the program", 60, || {
            fs::read_to_string(&process).is_ok_and(|text| text.ends_with('\n')).then_some(())
        });
        job
    };
    let job = begun(&drilled.system);
    assert!(!drilled.is_empty());
    drilled.system.nsctl(&["cancel", &job]).expect(0);
    assert_eq!(drilled.system.await_end(&job)["state"], "cancelled");
    assert!(!is_there(&process) && drilled.is_empty());
    assert!(drilled.kept("held").is_none(), "nothing was found out");

    // The agent is killed: the program goes with it; what was restored goes when it is there again, and the drill is made.
    fs::remove_file(&process).expect("removed");
    let job = begun(&drilled.system);
    drilled.system.kill_agent();
    wait_for("the end of the program", 20, || (!is_there(&process)).then_some(()));
    assert!(!drilled.is_empty(), "a killed agent cleans up nothing");
    let left = fs::read_dir(drilled.scratch()).expect("listed").next().expect("one").expect("one").path();
    fs::write(left.join("restored/late"), "of the first attempt").expect("written");
    fs::write(seen.path().join("go"), "").expect("written");
    drilled.system.start_agent();
    let ended = drilled.system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(drilled.kept("held").expect("it was drilled")["intact"], true);
    assert!(drilled.is_empty());
}

#[test]
fn what_nobody_could_look_at_is_no_finding_and_no_link_leads_out_of_a_drill() {
    let live = folder(&[("file", b"live")]);
    let (linked, inner) = (folder(&[("a", b"1")]), folder(&[("a/b", b"1"), ("c", b"inside")]));
    std::os::unix::fs::symlink(live.path(), linked.path().join("data")).expect("made");
    std::os::unix::fs::symlink("../c", inner.path().join("a/link")).expect("made");
    let seen = tempfile::tempdir().expect("a folder");
    let run = seen.path().join("run");
    let mut drilled = Drilled {
        system: System::prepare_held(&[
            ("linked", linked.path()),
            ("inner", inner.path()),
            ("missing", inner.path()),
        ]),
    };
    drilled.mark(&[
        ("linked", format!("touch {}; echo changed > \"$1\"/data/file", run.display())),
        ("inner", "[ \"$(cat \"$1\"/a/link)\" = inside ]".to_owned()),
        ("missing", "exec /nowhere/engine".to_owned()),
    ]);
    drilled.start();

    // What it leads to would be opened, and is in no backup.
    let answer = drilled.drill("linked").expect(FAILED);
    let said = format!("{}{}", answer.out, answer.err);
    assert!(said.contains("lead out of the folder") && said.contains("data first"), "{said}");
    assert!(!run.exists() && drilled.is_empty());
    assert_eq!(fs::read(live.path().join("file")).expect("read"), b"live");
    assert!(drilled.kept("linked").is_none(), "nothing was found out");

    // The program is not there.
    let answer = drilled.drill("missing").expect(FAILED);
    let said = format!("{}{}", answer.out, answer.err);
    assert!(said.contains("ended with 127") && said.contains("drills.open"), "{said}");
    assert!(drilled.kept("missing").is_none(), "nothing was found out");

    // Cancelled before the first page of entries comes: what breaks off by that is not the archive's.
    drilled.system.steps().ask("keys-known");
    let job = drilled.system.start_job(&["verify", "--depth", "drilled", "--components", "inner"]);
    wait_for("the drill", 60, || drilled.system.steps().reached("keys-known"));
    drilled.system.nsctl(&["cancel", &job]).expect(0);
    tests::pause(500);
    drilled.system.steps().let_go("keys-known");
    assert_eq!(drilled.system.await_end(&job)["state"], "cancelled");
    wait_for("the agent's end of it", 20, || drilled.is_empty().then_some(()));
    assert!(drilled.kept("inner").is_none(), "nothing was found out");

    // A link that stays within comes back and is opened.
    drilled.drill("inner").expect(0);
    assert_eq!(drilled.kept("inner").expect("it was drilled")["intact"], true);
    assert!(drilled.is_empty());
}

/// Changes a byte in the middle of each pack of the repository.
fn damage(repository: &Path) {
    let mut waiting = vec![repository.join("repository/packs")];
    let mut changed = 0;
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("one").path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            let mut permissions = fs::metadata(&path).expect("there").permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
            fs::set_permissions(&path, permissions).expect("set");
            fs::write(&path, bytes).expect("written");
            changed += 1;
        }
    }
    assert!(changed > 0);
}

fn noise(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let random = fs::File::open("/dev/urandom").expect("the random source");
    std::io::Read::read_to_end(&mut std::io::Read::take(random, length), &mut bytes).expect("read");
    bytes
}

/// A small file system, mounted at the folder until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(folder: &Path, size: &str) -> Self {
        fs::create_dir_all(folder).expect("made");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", size, "none"]).arg(folder).status();
        assert!(status.is_ok_and(|status| status.success()), "this test mounts a small disk: run it as root");
        Self(folder.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(std::thread::panicking() || status.is_ok_and(|status| status.success()));
    }
}

#[test]
fn what_does_not_fit_or_cannot_be_restored_is_opened_by_nobody() {
    let content = noise(3 << 20);
    let (large, small) = (folder(&[("noise", &content)]), folder(&[("noise", &content[..300_000])]));
    let seen = tempfile::tempdir().expect("a folder");
    let run = seen.path().join("run");
    let mut drilled = Drilled::new(
        &[("large", large.path()), ("small", small.path())],
        &[
            ("large", format!("touch {}", run.display())),
            ("small", format!("touch {}; cp \"$1\"/noise {}/noise", run.display(), seen.path().display())),
        ],
    );
    let disk = Disk::at(&drilled.scratch(), "size=2m");
    drilled.start();
    let answer = drilled.drill("large").expect(FAILED);
    let said = format!("{}{}", answer.out, answer.err);
    assert!(said.contains("are free") && said.contains("nothing was written"), "{said}");
    assert!(!run.exists() && drilled.is_empty());
    assert!(drilled.kept("large").is_none(), "nothing was found out");
    // What fits is the same, byte for byte.
    drilled.drill("small").expect(0);
    assert!(run.exists() && drilled.is_empty());
    assert_eq!(fs::read(seen.path().join("noise")).expect("opened"), content[..300_000]);
    fs::remove_file(&run).expect("removed");

    // An agent that does not serve it is given it only where the controller's configuration says so.
    let agents = drilled.system.nsctl(&["agent", "list", "-o", "json"]).expect(0).json();
    let id = agents["agents"][0]["id"].as_str().expect("an id").to_owned();
    drilled.system.kill_agent();
    drilled.system.reconfigure_agent("component: small, kind", "");
    drilled.system.start_agent();
    drilled.system.await_agent();
    let refused = drilled.drill("small").expect(FAILED).err;
    assert!(refused.contains("does not serve it") && refused.contains(&id), "{refused}");
    assert!(!run.exists());
    drilled.system.kill_controller();
    drilled.system.configure_controller(&format!("drills: {{ agents: [{id}] }}\n"));
    drilled.system.start_controller();
    drilled.system.await_agent();
    drilled.drill("small").expect(0);
    assert!(run.exists() && drilled.is_empty());
    fs::remove_file(&run).expect("removed");

    damage(&drilled.system.repository());
    let job = drilled.drill("small").expect(DAMAGED).json();
    assert!(findings(&job).contains("the drill failed: it cannot be restored"), "{job:#}");
    assert!(!run.exists() && drilled.is_empty());
    assert_eq!(drilled.kept("small").expect("it is kept")["intact"], false);
    drop(drilled);
    drop(disk);
}
