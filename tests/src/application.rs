//! An application that uses a folder, and that a restore stops and starts: `tests/restore_app.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{System, project, wait_for};

/// The application. Dropped, it is stopped.
#[derive(Debug)]
pub struct Application {
    data: PathBuf,
    run: PathBuf,
}

impl Application {
    /// One that uses the folder `data`; `run` is a folder for itself, which is made.
    pub fn new(data: &Path, run: &Path) -> Self {
        fs::create_dir(run).expect("made");
        Self { data: data.to_owned(), run: run.to_owned() }
    }

    /// One that uses the folder `data`, of which a controller and an agent that run take care as `models`.
    pub fn in_care_of(system: &mut System, data: &Path) -> Self {
        let app = Self::new(data, &system.root().join("run"));
        system.serve(&[("models", data)]);
        system.configure_agent(&app.settings("models"));
        app.start();
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        app
    }

    /// The lines of the agent's configuration by which it is stopped for `component`.
    pub fn settings(&self, component: &str) -> String {
        let command = |name: &str| format!("[{}]", self.words(name).join(", "));
        format!(
            "applications:\n  - {{ name: app, uses: [{component}], stop: {}, start: {}, is_running: {}, \
             healthy: {}, time_limit: 30s, health_limit: 700ms }}\n",
            command("stop"),
            command("start"),
            command("is-running"),
            command("healthy")
        )
    }

    fn words(&self, command: &str) -> Vec<String> {
        let program = project().join("tests/restore_app.py");
        let words = [program.as_path(), Path::new(command), &self.data, &self.run];
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        ["python3".to_owned(), "-IS".to_owned()].into_iter().chain(words.map(text)).collect()
    }

    fn call(&self, command: &str) -> Output {
        let words = self.words(command);
        Command::new(&words[0]).args(&words[1..]).output().expect("python3 runs")
    }

    /// Starts it.
    pub fn start(&self) {
        let output = self.call("start");
        assert!(output.status.success(), "{output:?}");
    }

    /// Stops it.
    pub fn stop(&self) {
        let output = self.call("stop");
        assert!(output.status.success(), "{output:?}");
    }

    /// True if it runs.
    pub fn runs(&self) -> bool {
        self.call("is-running").status.success()
    }

    /// What it answers with: the value in its folder.
    pub fn value(&self) -> String {
        let output = self.call("get");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Lets it write another value.
    pub fn set(&self, value: &str) {
        let output = self.call(&format!("set={value}"));
        assert!(output.status.success(), "{output:?}");
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        fs::read(self.run.join("starts")).map_or(0, |starts| starts.len())
    }

    /// The next such command is held at its start.
    pub fn hold(&self, command: &str) {
        // Of an earlier time, if at all.
        let _ = fs::remove_file(self.run.join(format!("at-{command}")));
        fs::write(self.run.join(format!("hold-{command}")), "").expect("written");
    }

    /// True once a command is held.
    pub fn is_held(&self, command: &str) -> bool {
        self.run.join(format!("at-{command}")).exists()
    }

    /// Waits until a command is held.
    pub fn await_held(&self, command: &str) {
        wait_for("the command to begin", 60, || self.is_held(command).then_some(()));
    }

    /// Lets go who is held.
    pub fn let_go(&self, command: &str) {
        // Nobody is held if it is not there.
        let _ = fs::remove_file(self.run.join(format!("hold-{command}")));
    }

    /// The next stop fails, and happens a second later all the same.
    pub fn stop_late(&self) {
        fs::write(self.run.join("late-stop"), "").expect("written");
    }

    /// Waits until the late stop has happened.
    pub fn await_late_stop(&self) {
        wait_for("the late stop", 60, || self.run.join("was-late").exists().then_some(()));
    }

    /// From now on such a command fails, or does not any more.
    pub fn fail(&self, command: &str, fails: bool) {
        let file = self.run.join(format!("fail-{command}"));
        match fails {
            true => fs::write(file, "").expect("written"),
            false => fs::remove_file(file).expect("it was there"),
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // Whatever a test has left in its way.
        for command in ["stop", "start", "is-running", "healthy"] {
            self.let_go(command);
            let _ = fs::remove_file(self.run.join(format!("fail-{command}")));
        }
        let _ = self.call("stop");
    }
}
