//! A controller and an agent as two processes, and `nsctl` beside them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::s3::TestBucket;
use crate::{Forwarder, Steps, programs, wait_for};

/// What a command said.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// What a command that has ended said.
    pub fn of(output: &std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// This answer, if its exit code is `code`.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

const NO_SCHEDULES: &str = "schedules: {}\n";

/// A controller and an agent on this machine. Dropped, it kills both; its folder stays if a test panics.
pub struct System {
    folder: Option<TempDir>,
    root: PathBuf,
    controller: Option<Child>,
    agent: Option<Child>,
    ports: [u16; 3],
    environment: Vec<(String, String)>,
    held: Option<(Steps, Forwarder)>,
    agent_is_ahead: Option<u64>,
    controller_is_ahead: Option<u64>,
    bucket: Option<TestBucket>,
}

impl System {
    /// A system that serves these folders, each as the component of its name. Both processes run and the
    /// agent has joined.
    pub fn start(sources: &[(&str, &Path)]) -> Self {
        let mut system = Self::prepare(sources);
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        system
    }

    /// The same with nothing started. Its repository is a folder, or in a bucket where the suite says so.
    pub fn prepare(sources: &[(&str, &Path)]) -> Self {
        Self::prepare_in(TestBucket::of_environment(), sources)
    }

    /// The same with its repository in this bucket.
    pub fn prepare_in(bucket: Option<TestBucket>, sources: &[(&str, &Path)]) -> Self {
        let folder =
            tempfile::Builder::new().prefix("neurashield-test-").tempdir().expect("a temporary folder");
        let root = folder.path().to_owned();
        let ports = [(); 3].map(|()| free_port());
        let system = Self {
            folder: Some(folder),
            root,
            controller: None,
            agent: None,
            ports,
            environment: Vec::new(),
            held: None,
            agent_is_ahead: None,
            controller_is_ahead: None,
            bucket,
        };
        system.write_configuration(sources);
        system
    }

    /// The same for a test of failures: the programs can be held at their steps, and the network between
    /// them can be cut.
    pub fn prepare_held(sources: &[(&str, &Path)]) -> Self {
        Self::prepare_held_in(TestBucket::of_environment(), sources)
    }

    /// The same with the repository in this bucket.
    pub fn prepare_held_in(bucket: Option<TestBucket>, sources: &[(&str, &Path)]) -> Self {
        let mut system = Self::prepare_in(bucket, sources);
        let steps = Steps::make(&system.root.join("steps"));
        system.held = Some((steps, Forwarder::to(system.ports[0])));
        system.write_configuration(sources);
        system
    }

    /// Where the programs are held.
    pub fn steps(&self) -> &Steps {
        &self.held.as_ref().expect("prepare_held").0
    }

    /// The network between agent and controller.
    pub fn network(&self) -> &Forwarder {
        &self.held.as_ref().expect("prepare_held").1
    }

    /// The ids of the processes that run.
    pub fn process(&self, of: Process) -> Option<u32> {
        match of {
            Process::Agent => self.agent.as_ref(),
            Process::Controller => self.controller.as_ref(),
        }
        .map(Child::id)
    }

    /// Writes the configurations anew, with these folders; before anything is started.
    pub fn serve(&self, sources: &[(&str, &Path)]) {
        self.write_configuration(sources);
    }

    fn write_configuration(&self, sources: &[(&str, &Path)]) {
        let (root, [grpc, web, probes]) = (self.root.display(), self.ports);
        let reached_at = self.held.as_ref().map_or(grpc, |(_, network)| network.port());
        let repository = match &self.bucket {
            None => format!("repository: {root}/backups\n"),
            Some(bucket) => bucket.settings(),
        };
        let controller = format!(
            "{repository}state: {root}/controller\n\
             listen: {{ grpc: \"127.0.0.1:{grpc}\", web: \"127.0.0.1:{web}\", probes: \"127.0.0.1:{probes}\", \
             socket: {root}/controller.sock }}\n{NO_SCHEDULES}"
        );
        let line = |(component, path): &(&str, &Path)| {
            format!(
                "  - {{ component: {component}, kind: files, name: {component}, path: {} }}\n",
                path.display()
            )
        };
        let agent = format!(
            "name: test-agent\ncontroller: https://127.0.0.1:{reached_at}\nstate: {root}/agent\n\
             join: {{ token_file: {root}/token }}\nsources:\n{}",
            sources.iter().map(line).collect::<String>()
        );
        fs::write(self.root.join("controller.yaml"), controller).expect("written");
        fs::write(self.root.join("agent.yaml"), agent).expect("written");
    }

    /// Adds lines to the controller's configuration; before it starts.
    pub fn configure_controller(&self, lines: &str) {
        let file = fs::OpenOptions::new().append(true).open(self.root.join("controller.yaml"));
        file.expect("it is there").write_all(lines.as_bytes()).expect("written");
    }

    /// Adds settings to a source of the agent's configuration; before it starts.
    pub fn configure_source(&self, component: &str, more: &str) {
        let file = self.root.join("agent.yaml");
        let text = fs::read_to_string(&file).expect("it is there");
        let lines = text.lines().map(|line| match line.contains(&format!("component: {component},")) {
            true => format!("{}, {more} }}\n", line.trim_end().trim_end_matches('}').trim_end()),
            false => format!("{line}\n"),
        });
        fs::write(&file, lines.collect::<String>()).expect("written");
    }

    /// Adds lines to the agent's configuration; before it starts.
    pub fn configure_agent(&self, lines: &str) {
        let file = fs::OpenOptions::new().append(true).open(self.root.join("agent.yaml"));
        file.expect("it is there").write_all(lines.as_bytes()).expect("written");
    }

    /// Sets a variable in the environment of what is started from now on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// In place of what was configured for it by a line with `part` in it, this is; it counts from its next start on.
    pub fn reconfigure_agent(&self, part: &str, line: &str) {
        let file = self.root().join("agent.yaml");
        let text = fs::read_to_string(&file).expect("it is there");
        let kept: String = text.lines().filter(|is| !is.contains(part)).map(|is| format!("{is}\n")).collect();
        fs::write(&file, kept + line).expect("written");
    }

    /// The agent's clock is so many seconds ahead when it is started next; `None`: it is right.
    pub fn set_agent_ahead(&mut self, seconds: Option<u64>) {
        self.agent_is_ahead = seconds;
    }

    /// The same for the controller.
    pub fn set_controller_ahead(&mut self, seconds: Option<u64>) {
        self.controller_is_ahead = seconds;
    }

    /// Without this nothing happens by itself: no other test is to meet a backup at 01:00.
    pub fn keep_usual_schedules(&self) {
        let file = self.root.join("controller.yaml");
        let text = fs::read_to_string(&file).expect("it is there");
        fs::write(&file, text.replace(NO_SCHEDULES, "")).expect("written");
    }

    /// The system's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The repository's folder; where it is in a bucket, a fresh copy of that, to be looked at.
    pub fn repository(&self) -> PathBuf {
        match &self.bucket {
            None => self.root.join("backups"),
            Some(bucket) => bucket.copy_to(&self.root.join("copy")),
        }
    }

    /// What a daemon has logged so far.
    pub fn log(&self, of: Process) -> String {
        let name = match of {
            Process::Agent => "neurashield-agent.log",
            Process::Controller => "neurashield-controller.log",
        };
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    /// The file with the recovery key.
    pub fn recovery_key(&self) -> PathBuf {
        self.root.join("controller/recovery-key.txt")
    }

    /// The port of gRPC with TLS.
    pub fn grpc_port(&self) -> u16 {
        self.ports[0]
    }

    /// How many files one of the daemons has open.
    pub fn open_files(&self, of: Process) -> usize {
        let child = match of {
            Process::Agent => self.agent.as_ref(),
            Process::Controller => self.controller.as_ref(),
        };
        let folder = format!("/proc/{}/fd", child.expect("it runs").id());
        fs::read_dir(folder).expect("listed").count()
    }

    /// The port of the web page.
    pub fn web_port(&self) -> u16 {
        self.ports[1]
    }

    /// The port of probes and metrics.
    pub fn probes_port(&self) -> u16 {
        self.ports[2]
    }

    fn spawn(&self, program: &str, by: &[&str]) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.root.join(format!("{program}.log")))
            .expect("a log");
        let path = programs().join(program);
        let words: Vec<&OsStr> = by.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
        let steps = self.held.iter().map(|(steps, _)| (Steps::FOLDER, steps.folder()));
        let ahead = if program.ends_with("agent") { self.agent_is_ahead } else { self.controller_is_ahead };
        let ahead = ahead.iter().flat_map(|seconds| {
            let library = crate::clock::library(&self.root).into_os_string();
            [("LD_PRELOAD", library), (crate::clock::AHEAD, seconds.to_string().into())]
        });
        Command::new(words[0])
            .args(&words[1..])
            .envs(steps)
            .envs(ahead)
            .arg("--config")
            .arg(self.root.join(if program.ends_with("agent") { "agent.yaml" } else { "controller.yaml" }))
            .env("NEURASHIELD_LOG_FORMAT", "text")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts")
    }

    /// Starts the controller.
    pub fn begin_controller(&mut self) {
        self.controller = Some(self.spawn("neurashield-controller", &[]));
    }

    /// Starts the controller and waits until it answers.
    pub fn start_controller(&mut self) {
        self.begin_controller();
        wait_for("the controller to answer", 30, || (self.nsctl(&["list"]).code == 0).then_some(()));
    }

    /// Writes a fresh join token for the agent.
    pub fn invite(&self) {
        let token = self.nsctl(&["agent", "invite", "-o", "json"]).expect(0).json()["token"].clone();
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(self.root.join("token"))
            .expect("a file");
        file.write_all(token.as_str().expect("a token").as_bytes()).expect("written");
    }

    /// Starts the agent.
    pub fn start_agent(&mut self) {
        self.agent = Some(self.spawn("neurashield-agent", &[]));
    }

    /// Starts the agent by another program that becomes it, e.g. `setpriv`.
    pub fn start_agent_by(&mut self, by: &[&str]) {
        self.agent = Some(self.spawn("neurashield-agent", by));
    }

    /// Waits until the controller sees the agent.
    pub fn await_agent(&self) {
        wait_for("the agent to connect", 60, || self.is_agent_there().then_some(()));
    }

    /// True if the controller sees the agent.
    pub fn is_agent_there(&self) -> bool {
        let answer = self.nsctl(&["agent", "list", "-o", "json"]);
        if answer.code != 0 {
            return false;
        }
        let json = answer.json();
        json["agents"].as_array().is_some_and(|agents| agents.iter().any(|one| one["connected"] == true))
    }

    /// `kill -9` of the controller.
    pub fn kill_controller(&mut self) {
        kill(self.controller.take());
    }

    /// `kill -9` of the agent.
    pub fn kill_agent(&mut self) {
        kill(self.agent.take());
    }

    /// Runs `nsctl` against this controller.
    pub fn nsctl(&self, arguments: &[&str]) -> Answer {
        let output = self.nsctl_command(arguments).output().expect("nsctl runs");
        Answer::of(&output)
    }

    /// `nsctl` against this controller, to be run.
    pub fn nsctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs().join("nsctl"));
        command
            .arg("--server")
            .arg(format!("unix://{}/controller.sock", self.root.display()))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// As [`System::nsctl`], with the most memory in bytes that `nsctl` took. Its parent counts that.
    pub fn nsctl_with_peak(&self, arguments: &[&str]) -> (Answer, u64) {
        const PARENT: &str = "import resource, subprocess, sys\n\
            code = subprocess.call(sys.argv[2:])\n\
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024\n\
            open(sys.argv[1], 'w').write(str(peak))\n\
            sys.exit(code)";
        let peak = self.root.join("peak");
        let output = Command::new("python3")
            .args(["-c", PARENT])
            .arg(&peak)
            .arg(programs().join("nsctl"))
            .arg("--server")
            .arg(format!("unix://{}/controller.sock", self.root.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("python3 runs");
        let text = fs::read_to_string(&peak).expect("python3 wrote it");
        (Answer::of(&output), text.parse().expect("a number"))
    }

    /// Lets the peak of a process's memory (`VmHWM`) count from now on.
    pub fn forget_peak(&self, of: Process) {
        fs::write(format!("/proc/{}/clear_refs", self.pid(of)), "5").expect("written");
    }

    /// `nsctl repository VERB --repository …`.
    pub fn offline(&self, verb: &str, arguments: &[&str]) -> Answer {
        let place = match &self.bucket {
            None => self.repository().display().to_string(),
            Some(bucket) => bucket.location(),
        };
        let mut all = vec!["repository", verb, "--repository", &place];
        all.extend(arguments);
        let mut command = self.nsctl_command(&all);
        command.envs(self.bucket.iter().flat_map(TestBucket::variables));
        Answer::of(&command.output().expect("nsctl runs"))
    }

    /// A finished job's JSON; panics unless it ended `complete`.
    pub fn run(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let job = self.nsctl(&all).expect(0).json();
        assert_eq!(job["state"], "complete", "{job:#}");
        job
    }

    /// Starts a job and returns its id.
    pub fn start_job(&self, arguments: &[&str]) -> String {
        let mut all = arguments.to_vec();
        all.extend(["--detach", "-o", "json"]);
        let job = self.nsctl(&all).expect(0).json();
        job["id"].as_str().expect("an id").to_owned()
    }

    /// A job as it is now; `None` while the controller does not answer.
    pub fn job(&self, id: &str) -> Option<Value> {
        let answer = self.nsctl(&["jobs", "--limit", "1000", "-o", "json"]);
        if answer.code != 0 {
            return None;
        }
        answer.json()["jobs"].as_array()?.iter().find(|job| job["id"] == id).cloned()
    }

    /// Waits until the job has ended.
    pub fn await_end(&self, id: &str) -> Value {
        let ended = |job: &Value| {
            ["complete", "incomplete", "failed", "cancelled"].iter().any(|end| job["state"] == *end)
        };
        wait_for("the job to end", 180, || self.job(id).filter(ended))
    }

    /// Waits until a part of the job has gone past `bytes`.
    pub fn await_progress(&self, id: &str, bytes: u64) {
        wait_for("the job to get going", 60, || {
            let job = self.job(id)?;
            assert!(job["ended_at"].is_null(), "the job ended before it could be disturbed: {job:#}");
            job["parts"]
                .as_array()?
                .iter()
                .any(|part| part["done_bytes"].as_u64() > Some(bytes))
                .then_some(())
        });
    }

    /// The process id of a daemon that runs.
    pub fn pid(&self, of: Process) -> u32 {
        let child = match of {
            Process::Agent => self.agent.as_ref(),
            Process::Controller => self.controller.as_ref(),
        };
        child.expect("it runs").id()
    }

    /// Takes a daemon out of the system's care, e.g. to see how it ends.
    pub fn take(&mut self, which: Process) -> Child {
        let child = match which {
            Process::Agent => self.agent.take(),
            Process::Controller => self.controller.take(),
        };
        child.expect("it runs")
    }

    /// A line of `/proc/<pid>/<file>` of the agent or the controller, as a number.
    pub fn proc(&self, of: Process, file: &str, key: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.pid(of));
        let text = fs::read_to_string(&path).expect("readable");
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("the key");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }
}

/// One of the two daemons.
#[derive(Debug, Clone, Copy)]
pub enum Process {
    /// `neurashield-agent`.
    Agent,
    /// `neurashield-controller`.
    Controller,
}

/// A port that nobody listens at and that the kernel gives to no connection (it takes them from 32768 on),
/// so that it is still free when a program is started, or started again.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Each process of the tests begins elsewhere.
        let nth = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
        let port = u16::try_from(FIRST + nth % COUNT).expect("below 32000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().expect("it can be killed");
        child.wait().expect("it can be reaped");
    }
}

impl Drop for System {
    fn drop(&mut self) {
        kill(self.agent.take());
        kill(self.controller.take());
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept for a look: {}", folder.keep().display());
        }
    }
}
