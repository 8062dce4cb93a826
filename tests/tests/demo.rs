//! The two ways to run everything on one host: `nsctl demo` and `nsctl up`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tests::{Answer, programs, wait_for};

fn nsctl() -> Command {
    Command::new(programs().join("nsctl"))
}

fn signal(name: &str, process: u32) {
    let sent =
        Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// Processes with `text` among their arguments.
fn processes_with(text: &str) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").expect("listed").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |process: &u32| {
        let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(text)
    };
    numbers.filter(has).collect()
}

#[test]
fn every_step_of_the_demo_holds_and_nothing_stays() {
    let place = tempfile::tempdir().expect("a folder");
    let output = nsctl().args(["demo", "--exit"]).env("TMPDIR", place.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.matches('✓').count(), 13, "{said}");
    assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 0, "its folder is gone");
    assert_eq!(processes_with(place.path().to_str().expect("UTF-8")), [0; 0]);
}

#[test]
fn a_demo_that_waits_shows_its_page_and_goes_by_ctrl_c() {
    let place = tempfile::tempdir().expect("a folder");
    let mut demo =
        nsctl().arg("demo").env("TMPDIR", place.path()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(demo.stderr.take().expect("piped")).lines();
    let page =
        lines.find_map(|line| Some(line.expect("UTF-8").split_once("http://localhost:")?.1.to_owned()));
    let port: u16 = page
        .expect("the page")
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .expect("a port");
    let page = Command::new("curl")
        .args(["-sSfL", &format!("http://localhost:{port}/")])
        .output()
        .expect("curl runs");
    let shown = String::from_utf8_lossy(&page.stdout);
    assert!(page.status.success() && shown.contains("Sign in"), "{page:?}");
    signal("INT", demo.id());
    assert_eq!(demo.wait().expect("ended").code(), Some(0));
    assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 0);
}

#[test]
fn no_process_of_a_demo_outlives_it_even_when_it_is_killed() {
    let place = tempfile::tempdir().expect("a folder");
    let text = place.path().to_str().expect("UTF-8").to_owned();
    let mut demo =
        nsctl().arg("demo").env("TMPDIR", place.path()).stderr(Stdio::null()).spawn().expect("it runs");
    wait_for("both children", 60, || (processes_with(&text).len() == 2).then_some(()));
    demo.kill().expect("killed");
    demo.wait().expect("reaped");
    wait_for("both children to end", 60, || processes_with(&text).is_empty().then_some(()));
}

/// `nsctl up` with one component.
struct Host {
    folder: TempDir,
    service: Child,
}

impl Host {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir(root.join("models")).expect("made");
        fs::write(root.join("models/weights"), "weights").expect("written");
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [grpc, web, probes] = held.each_ref().map(|port| port.local_addr().expect("bound"));
        drop(held);
        let at = root.display();
        let config = format!(
            "controller:\n  repository: {at}/backups\n  state: {at}/controller\n  \
             listen: {{ grpc: \"{grpc}\", web: \"{web}\", probes: \"{probes}\", socket: {at}/controller.sock }}\n\
             agent:\n  state: {at}/agent\n  sources:\n    \
             - {{ component: models, kind: files, name: models, path: {at}/models }}\n"
        );
        fs::write(root.join("neurashield.yaml"), config).expect("written");
        let service = Self::spawn(root);
        let host = Self { folder, service };
        host.await_agent();
        host
    }

    fn spawn(root: &Path) -> Child {
        let log = fs::File::options().create(true).append(true).open(root.join("up.log")).expect("a log");
        let mut up = nsctl();
        up.args(["up", "--config"]).arg(root.join("neurashield.yaml"));
        up.env("NEURASHIELD_KEY__PASSPHRASE_FILE", "").env("NEURASHIELD_LOG_FORMAT", "text");
        up.stdin(Stdio::null()).stderr(log).spawn().expect("it starts")
    }

    fn nsctl(&self, words: &[&str]) -> Answer {
        let server = format!("unix://{}", self.folder.path().join("controller.sock").display());
        let output =
            nsctl().args(["--server", &server]).args(words).stdin(Stdio::null()).output().expect("it runs");
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn await_agent(&self) {
        wait_for("the agent", 60, || {
            let answer = self.nsctl(&["agent", "list", "-o", "json"]);
            (answer.code == 0 && answer.json()["agents"][0]["connected"] == true).then_some(())
        });
    }

    fn agent_process(&self) -> u32 {
        let found = processes_with(&format!("{}/agent", self.folder.path().display()));
        assert_eq!(found.len(), 1, "one agent");
        found[0]
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("up.log")).expect("readable")
    }

    fn token(&self) -> PathBuf {
        self.folder.path().join("agent/join-token")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.service.kill().ok();
        self.service.wait().ok();
    }
}

#[test]
fn the_single_host_service_backs_up_keeps_its_agent_alive_and_stops_cleanly() {
    let mut host = Host::start();
    host.nsctl(&["backup"]).expect(0);
    wait_for("the used token to go", 10, || (!host.token().exists()).then_some(()));

    let first = host.agent_process();
    let environment = fs::read(format!("/proc/{first}/environ")).expect("readable");
    assert!(!String::from_utf8_lossy(&environment).contains("NEURASHIELD_KEY"), "an agent sees no key");
    signal("KILL", first);
    wait_for("another agent", 30, || {
        processes_with(&format!("{}/agent", host.folder.path().display()))
            .iter()
            .any(|now| *now != first)
            .then_some(())
    });
    host.await_agent();
    host.nsctl(&["backup"]).expect(0);
    let agents = host.nsctl(&["agent", "list", "-o", "json"]).expect(0).json();
    assert_eq!(agents["agents"].as_array().map(Vec::len), Some(1), "it is the same agent: {agents:#}");

    let second = host.agent_process();
    signal("TERM", host.service.id());
    assert_eq!(host.service.wait().expect("ended").code(), Some(0), "{}", host.log());
    assert!(!Path::new(&format!("/proc/{second}")).exists(), "the agent was stopped with it");

    host.service = Host::spawn(host.folder.path());
    host.await_agent();
    let listing = host.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(2));
    assert!(!host.token().exists(), "an agent that has joined needs no token");
}
