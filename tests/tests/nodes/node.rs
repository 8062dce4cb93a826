//! What all nodes have in common: a process, its log, its port, what it answers.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The path of a program, which is built where it is not there.
pub(crate) fn program(name: &str) -> PathBuf {
    let chain = tests::project().join("tests/engines/chain");
    let built = Command::new(chain).arg(name).stderr(Stdio::inherit()).output().expect("it runs");
    assert!(built.status.success(), "{name} cannot be built");
    PathBuf::from(String::from_utf8(built.stdout).expect("UTF-8").trim())
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// A running node; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).expect("a log");
        let out = file.try_clone().expect("a handle");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(file).spawn().expect("it starts");
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Fails with what it has said if it has ended.
    pub(crate) fn is_there(&mut self) {
        if let Some(status) = self.child.try_wait().expect("asked") {
            panic!("it ended with {status}: {}", self.log());
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        stat.rsplit(')').next().expect("a state").trim_start().starts_with('T')
    }

    /// As its operator does: it is asked, and ends by itself.
    pub(crate) fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("asked").success());
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the address answers; none if nothing does.
pub(crate) fn ask(address: &str, body: Option<&Value>) -> Option<Value> {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "20", address]);
    if let Some(body) = body {
        curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    let said = curl.output().expect("curl runs");
    serde_json::from_slice(&said.stdout).ok()
}

/// A log beside a folder.
pub(crate) fn log_of(folder: &Path) -> PathBuf {
    folder.with_extension("log")
}
