//! A Kubernetes of a test's own: one node with real pods, by `tests/engines/kubernetes`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::{project, wait_for};

/// The image with a shell that every cluster has.
pub const SHELL_IMAGE: &str = "localhost/busybox:1";

/// The cluster. Dropped, or when the test's process is gone, it ends with everything in it.
#[derive(Debug)]
pub struct Cluster {
    /// Where its state is. Volumes of the storage class `dynamic` are folders of `volumes` in it.
    folder: tempfile::TempDir,
    /// Its `kubectl` and `helm`.
    programs: PathBuf,
    server: Child,
}

impl Cluster {
    /// Starts it, in about seven seconds. Needs root; what it is made of is built once per machine.
    pub fn start() -> Self {
        let programs = engine::<&str>(&[]).output().expect("the engine's script runs");
        assert!(programs.status.success(), "{}", String::from_utf8_lossy(&programs.stderr));
        let programs = String::from_utf8(programs.stdout).expect("UTF-8").trim().into();
        let folder = tempfile::Builder::new().prefix("neurashield-kubernetes-").tempdir().expect("a folder");
        // Pods of other users go through it to their volumes.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("set");
        let words: [&OsStr; 2] = ["serve".as_ref(), folder.path().as_os_str()];
        let mut server = engine(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the engine's script runs");
        let output = server.stdout.take().expect("it is piped");
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said).expect("read");
        assert_eq!(said, "READY\n", "the cluster starts: see what its script said");
        Self { folder, programs, server }
    }

    /// A file of its folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `KUBECONFIG` has to name for its administrator.
    pub fn access(&self) -> PathBuf {
        self.at("access/admin")
    }

    /// The address by which pods reach what this host listens at.
    pub fn host_address(&self) -> String {
        let number = std::fs::read_to_string(self.at("number")).expect("read");
        format!("10.94.{}.1", number.trim())
    }

    /// `kubectl` or `helm` as the administrator, ready to be run.
    pub fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        // What helm keeps for its user stays in the folder, too.
        command.args(words).env("KUBECONFIG", self.access()).env("HOME", self.folder.path());
        command
    }

    /// Runs one of them and gives what came of it.
    pub fn run(&self, program: &str, words: &[&str]) -> Output {
        self.command(program, words).output().expect("it runs")
    }

    /// What `kubectl WORDS` says; panics if it fails.
    pub fn kubectl(&self, words: &[&str]) -> String {
        succeeded(words, self.run("kubectl", words))
    }

    /// What `helm WORDS` says; panics if it fails.
    pub fn helm(&self, words: &[&str]) -> String {
        succeeded(words, self.run("helm", words))
    }

    /// Makes or changes what is described, in JSON or YAML; the API server refuses fields that it does not know.
    pub fn apply(&self, text: &str) {
        let words = ["apply", "--validate=strict", "-f", "-"];
        let output = self.with_input("kubectl", &words, text.as_bytes());
        succeeded(&words, output);
    }

    /// Runs one of them with something to read.
    pub fn with_input(&self, program: &str, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(program, words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut pipe = child.stdin.take().expect("it is piped");
        // Whoever stops reading has a reason, which its answer tells.
        let _ = pipe.write_all(input);
        drop(pipe);
        child.wait_with_output().expect("it ends")
    }

    /// Gives the node an image of the files in `root`. `config` is what an image's configuration says of its
    /// process, in JSON: `{"Entrypoint": ["/program"]}`. Pods take it with `imagePullPolicy: Never`.
    pub fn add_image(&self, name: &str, root: &Path, config: &str) {
        let words: [&OsStr; 5] =
            ["image".as_ref(), self.folder.path().as_ref(), root.as_ref(), name.as_ref(), config.as_ref()];
        let output = engine(&words).output().expect("the engine's script runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until the pods that a selector chooses are ready, and tells what is wrong if they do not become so.
    pub fn await_ready(&self, namespace: &str, selector: &str) {
        let words = ["-n", namespace, "wait", "pod", "-l", selector, "--for=condition=Ready", "--timeout=1s"];
        let is_ready = || self.run("kubectl", &words).status.success();
        let started = std::time::Instant::now();
        while !is_ready() {
            if started.elapsed().as_secs() >= 90 {
                let pods = self.kubectl(&["-n", namespace, "describe", "pod", "-l", selector]);
                panic!("the pods {selector} of {namespace} do not become ready:\n{pods}");
            }
        }
    }

    /// The folder of the volume that a claim was given.
    pub fn volume(&self, namespace: &str, claim: &str) -> PathBuf {
        let name = wait_for("the claim to have a volume", 30, || {
            let path = "jsonpath={.spec.volumeName}";
            let name = self.kubectl(&["-n", namespace, "get", "pvc", claim, "-o", path]);
            (!name.is_empty()).then_some(name)
        });
        let path = self.kubectl(&["get", "pv", &name, "-o", "jsonpath={.spec.hostPath.path}"]);
        let folder = Path::new(&path).file_name().expect("the path of a volume has a name");
        self.at("volumes").join(folder)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

fn engine<S: AsRef<OsStr>>(words: &[S]) -> Command {
    let mut command = Command::new(project().join("tests/engines/kubernetes"));
    command.args(words);
    command
}

fn succeeded(words: &[&str], output: Output) -> String {
    assert!(
        output.status.success(),
        "{words:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}
