//! A Docker Engine of a test's own: `dockerd` in a folder, with an image from scratch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::wait_for;

/// The image's name.
const IMAGE: &str = "app:1";

/// The engine. Dropped, it is stopped, and its containers with it.
#[derive(Debug)]
pub struct DockerEngine {
    folder: tempfile::TempDir,
    daemon: Child,
}

impl DockerEngine {
    /// Starts it, without networks. Needs root, `dockerd` and `docker` of any age, and a static `busybox`.
    pub fn start() -> Self {
        Self::start_with(&["--iptables=false", "--bridge=none"])
    }

    /// The same with networks of its own, for Compose; needs `iptables` as well.
    pub fn with_networks() -> Self {
        Self::start_with(&["--bip=172.29.77.1/24", "--default-address-pool=base=172.29.80.0/20,size=26"])
    }

    fn start_with(words: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("neurashield-docker-").tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = fs::File::create(at("log")).expect("made");
        let daemon = Command::new("dockerd")
            .args(["-H", &format!("unix://{}", at("docker.sock")), "--data-root", &at("data")])
            .args(["--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("this test needs a Docker Engine: install docker.io (and busybox-static)");
        let engine = Self { folder, daemon };
        wait_for("the engine to answer", 60, || engine.docker(&["info"]).status.success().then_some(()));
        engine.make_image();
        engine
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn docker(&self, words: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket().display())).args(words);
        command.output().expect("docker runs")
    }

    /// What `docker WORDS` says; panics if it fails.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.docker(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// An image whose only file is a shell; it has a file of `/data` open for writing and waits.
    fn make_image(&self) {
        let root = self.folder.path().join("root");
        fs::create_dir_all(root.join("bin")).expect("made");
        fs::create_dir(root.join("data")).expect("made");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("this test needs a static busybox");
        for name in ["sh", "cat", "grep", "sleep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("linked");
        }
        let archive = self.folder.path().join("root.tar");
        let tar = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status();
        assert!(tar.is_ok_and(|status| status.success()));
        // Ends at once when it is told to: the shell of a container ignores signals that it does not trap.
        let command = "CMD [\"/bin/sh\", \"-c\", \"trap 'exit 0' TERM; exec 9>>/data/held; while :; do sleep 0.1; done\"]";
        self.run(&["import", "-c", command, archive.to_str().expect("UTF-8"), IMAGE]);
    }

    /// Makes and starts a container called `name` that has `data` as `/data`. It is healthy while the value
    /// there does not begin with `bad`.
    pub fn start_container(&self, name: &str, data: &Path, labels: &[&str]) {
        let volume = format!("{}:/data", data.display());
        let mut words = vec!["run", "-d", "--name", name, "--network", "none", "-v", &volume];
        words.extend(["--health-cmd", "! grep -q ^bad /data/value", "--health-interval", "300ms"]);
        words.extend(["--health-retries", "2"]);
        labels.iter().for_each(|label| words.extend(["-l", label]));
        words.push(IMAGE);
        self.run(&words);
    }

    /// A field of a container, as a template of `docker inspect` gives it.
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.run(&["inspect", "-f", template, name])
    }
}

impl Drop for DockerEngine {
    fn drop(&mut self) {
        let containers = self.docker(&["ps", "-aq"]);
        for id in String::from_utf8_lossy(&containers.stdout).split_whitespace() {
            let _ = self.docker(&["rm", "-f", id]);
        }
        let stopped = Command::new("kill").arg(self.daemon.id().to_string()).status();
        if stopped.is_ok_and(|status| status.success()) {
            let _ = self.daemon.wait();
        }
    }
}
