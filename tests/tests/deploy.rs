//! The image and the Compose files, as users get them, on a real Docker Engine: the stack starts, and the
//! commands of the users' runbooks work as they stand. `NEURASHIELD_PROGRAMS` names a folder of static programs
//! (`deploy/static-programs`); `tests/run deploy` makes them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tests::{DockerEngine, assert_equal_folders, project, wait_for};

const IMAGE: &str = "neurashield/backup:test";

/// Services that use the data: stand-ins for the users' own, of an image that is a shell.
const STACK: &str = r#"
services:
  trainer:
    image: app:1
    labels: { neurashield.backup.stop-for: models }
    volumes: ["models:/data"]
  geth:
    image: app:1
    labels: { neurashield.backup.stop-for: blockchain }
    volumes: ["blockchain:/data"]
  mongodb:
    image: app:1
    labels: { neurashield.backup.stop-for: database }
    volumes: ["mongodb:/data"]
  backup:
    volumes: ["mongodb:/app/backend/data/db"]
volumes:
  mongodb:
"#;

/// What somebody has after copying `deploy/compose` to a host.
struct Host {
    folder: tempfile::TempDir,
    engine: DockerEngine,
    files: &'static [&'static str],
    variables: Vec<(&'static str, String)>,
}

/// One engine after another: each has networks of the same addresses.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Host {
    fn set(files: &'static [&'static str]) -> Self {
        let engine = DockerEngine::with_networks();
        let folder = tempfile::Builder::new().prefix("neurashield-deploy-").tempdir().expect("a folder");
        let shipped = project().join("deploy/compose/.");
        let copied = Command::new("cp").arg("-r").arg(shipped).arg(folder.path()).status();
        assert!(copied.is_ok_and(|status| status.success()));
        fs::write(folder.path().join("stack.yml"), STACK).expect("written");
        fs::create_dir(folder.path().join("app")).expect("made");
        fs::write(folder.path().join("app/app.env"), "MODE=production\n").expect("written");
        fs::create_dir(folder.path().join("backups")).expect("made");
        let variables = vec![
            ("NEURASHIELD_IMAGE", IMAGE.to_owned()),
            ("NEURASHIELD_BACKUPS", folder.path().join("backups").display().to_string()),
            ("NEURASHIELD_DOCKER_SOCKET", engine.socket().display().to_string()),
            ("NEURASHIELD_WEB_PORT", free_port().to_string()),
            ("NEURASHIELD_GRPC_PORT", free_port().to_string()),
            ("DOCKER_HOST", format!("unix://{}", engine.socket().display())),
            ("COMPOSE_PROJECT_NAME", "stack".to_owned()),
            ("PROGRAMS", programs().display().to_string()),
        ];
        let host = Self { folder, engine, files, variables };
        let built = host.run(project().join("deploy/image/build"), &[IMAGE]);
        assert!(built.status.success(), "{built:?}");
        host
    }

    fn run(&self, program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.folder.path()).envs(self.variables.iter().cloned());
        command.output().expect("it runs")
    }

    /// `docker-compose WORDS`, with the exit code and what it said on both of its outputs.
    fn compose(&self, words: &[&str]) -> (i32, String) {
        let files = self.files.iter().flat_map(|file| ["-f", file]);
        let all: Vec<&str> = files.chain(words.iter().copied()).collect();
        let output = self.run("docker-compose", &all);
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code().expect("it was not killed"), said.concat())
    }

    fn done(&self, words: &[&str]) -> String {
        let (code, said) = self.compose(words);
        assert_eq!(code, 0, "docker-compose {words:?}: {said}");
        said
    }

    /// A command of the users' runbooks.
    fn runbook(&self, words: &[&str]) -> (i32, String) {
        self.compose(&[&["exec", "-T", "backup", "/scripts/backup-recovery.sh"], words].concat())
    }

    fn container(&self, service: &str) -> String {
        self.done(&["ps", "-q", service]).trim().to_owned()
    }

    fn await_healthy(&self, service: &str) {
        let id = self.container(service);
        wait_for("the service to be healthy", 90, || {
            (self.engine.inspect(&id, "{{.State.Health.Status}}") == "healthy").then_some(())
        });
    }

    /// Where a volume of the stack lies.
    fn volume(&self, name: &str) -> PathBuf {
        let format = "{{.Mountpoint}}";
        self.engine.run(&["volume", "inspect", "-f", format, &format!("stack_{name}")]).into()
    }

    fn backups(&self) -> Vec<String> {
        let listed = fs::read_dir(self.folder.path().join("backups")).expect("listed");
        let names = listed.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("20")).collect();
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let (code, said) = self.compose(&["down", "-v", "-t", "5"]);
        if code != 0 {
            eprintln!("docker-compose down: {said}");
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("bound").port()
}

fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let folder = std::env::var_os("NEURASHIELD_PROGRAMS");
        folder
            .expect("NEURASHIELD_PROGRAMS names a folder of static programs: deploy/static-programs FOLDER")
            .into()
    })
}

fn fill(folder: &Path, text: &str) {
    fs::create_dir_all(folder.join("sub")).expect("made");
    fs::write(folder.join("value"), text).expect("written");
    fs::write(folder.join("sub/noise"), blake3::hash(text.as_bytes()).as_bytes().repeat(10_000))
        .expect("written");
}

#[test]
fn the_compose_stack_backs_up_verifies_and_restores_by_the_commands_of_the_runbooks() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let host = Host::set(&["docker-compose.yml", "stack.yml"]);
    let settings = host.folder.path().join("neurashield.yaml");
    let database = "    - { component: database, kind: files, name: db, path: /app/backend/data/db }\n";
    let text = fs::read_to_string(&settings).expect("read") + database;
    fs::write(&settings, text).expect("written");
    host.done(&["up", "-d"]);
    let volumes = ["models", "blockchain", "mongodb", "ipfs"];
    volumes.iter().for_each(|name| fill(&host.volume(name), name));
    host.await_healthy("backup");

    let (code, said) = host.runbook(&["--backup"]);
    assert_eq!(code, 0, "{said}");
    let [backup] = host.backups().try_into().expect("one backup");
    for component in ["database", "models", "blockchain", "ipfs", "configs"] {
        assert!(host.folder.path().join("backups").join(&backup).join(component).is_dir(), "{component}");
    }
    for words in [&["--verify"][..], &["--verify", "--timestamp", &backup]] {
        let (code, said) = host.runbook(words);
        assert_eq!(code, 0, "{words:?}: {said}");
    }

    let before = host.folder.path().join("before");
    fs::create_dir(&before).expect("made");
    for name in volumes {
        let copied = Command::new("cp").arg("-a").arg(host.volume(name)).arg(before.join(name)).status();
        assert!(copied.is_ok_and(|status| status.success()));
        fill(&host.volume(name), "changed");
        fs::write(host.volume(name).join("new"), "new").expect("written");
    }
    let started = |service: &str| host.engine.inspect(&host.container(service), "{{.State.StartedAt}}");
    let (trainer, mongodb, geth) = (started("trainer"), started("mongodb"), started("geth"));
    let (code, said) =
        host.runbook(&["--restore", "--timestamp", &backup, "--components", "database,models"]);
    assert_eq!(code, 0, "{said}");
    for name in ["mongodb", "models"] {
        assert_equal_folders(&host.volume(name), &before.join(name));
    }
    assert_eq!(fs::read_to_string(host.volume("blockchain").join("value")).expect("read"), "changed");
    assert!(started("trainer") > trainer && started("mongodb") > mongodb, "what uses the data was stopped");
    assert_eq!(started("geth"), geth, "nothing else was");

    let (code, said) = host.runbook(&["--restore", "--timestamp", "20200101_000000"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no backup 20200101_000000"), "{said}");
    let logs = host.done(&["logs", "backup"]);
    assert!(logs.contains("\"job\""), "{logs}");
}

#[test]
fn a_service_that_may_only_read_backs_up_and_refuses_to_restore_in_place() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let host = Host::set(&["docker-compose.yml", "read-only.yml"]);
    host.done(&["up", "-d"]);
    // A folder of a node that is empty is told as incomplete: it may be a volume that is not there.
    ["models", "ipfs"].iter().for_each(|name| fill(&host.volume(name), "one"));
    host.await_healthy("backup");
    let (code, said) = host.runbook(&["--backup"]);
    assert_eq!(code, 0, "{said}");
    fill(&host.volume("models"), "two");
    let (code, said) = host.runbook(&["--restore", "--timestamp", "latest", "--components", "models"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("read-only") || said.contains("Read-only"), "{said}");
    assert_eq!(fs::read_to_string(host.volume("models").join("value")).expect("read"), "two");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let host = Host::set(&["docker-compose.yml"]);
    let backups = host.folder.path().join("backups");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(&backups).status();
    assert!(mounted.is_ok_and(|status| status.success()));
    host.done(&["up", "-d"]);
    let models = host.volume("models");
    fill(&host.volume("ipfs"), "ipfs");
    let noise = blake3::Hasher::new();
    let mut bytes = vec![0; 48 << 20];
    noise.finalize_xof().fill(&mut bytes);
    fs::write(models.join("large.bin"), bytes).expect("written");
    host.await_healthy("backup");
    let (code, said) = host.runbook(&["--backup"]);
    assert_eq!(code, 3, "what there is room for is backed up, and the rest is missing: {said}");
    assert!(said.contains("no space is left"), "{said}");
    assert!(host.done(&["exec", "-T", "backup", "nsctl", "list"]).contains("incomplete"), "{said}");
    fs::remove_file(models.join("large.bin")).expect("removed");
    fill(&models, "small");
    let (code, said) = host.runbook(&["--backup"]);
    assert_eq!(code, 0, "{said}");
    host.done(&["down", "-v", "-t", "5"]);
    assert!(Command::new("umount").arg(&backups).status().is_ok_and(|status| status.success()));
}

#[test]
fn a_controller_without_rights_says_whose_folder_it_needs_and_serves_an_agent_beside_it() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let host = Host::set(&["controller-and-agents.yml"]);
    let backups = host.folder.path().join("backups");
    fs::set_permissions(&backups, fs::Permissions::from_mode(0o755)).expect("set");
    host.done(&["up", "-d", "controller"]);
    let logs = wait_for("the controller to say what is wrong", 60, || {
        let logs = host.done(&["logs", "controller"]);
        logs.contains("Permission denied").then_some(logs)
    });
    assert!(logs.contains("/opt/neurashield/backups"), "{logs}");
    let owned = Command::new("chown").arg("10001:10001").arg(&backups).status();
    assert!(owned.is_ok_and(|status| status.success()));
    host.await_healthy("controller");
    let invite =
        "docker-compose -f controller-and-agents.yml exec -T controller nsctl agent invite --name host -q";
    let invited = host.run("sh", &["-c", &format!("umask 077; {invite} > join-token")]);
    assert!(invited.status.success(), "{invited:?}");
    host.done(&["up", "-d", "agent"]);
    ["models", "ipfs"].iter().for_each(|name| fill(&host.volume(name), "one"));
    let nsctl = |words: &[&str]| host.compose(&[&["exec", "-T", "controller", "nsctl"], words].concat());
    wait_for("the agent to join", 60, || nsctl(&["agent", "list"]).1.contains("connected").then_some(()));
    let (code, said) = nsctl(&["backup"]);
    assert_eq!(code, 0, "{said}");
    fill(&host.volume("models"), "two");
    let (code, said) = nsctl(&["restore", "--timestamp", "latest", "--components", "models", "--yes"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read_to_string(host.volume("models").join("value")).expect("read"), "one");
}
