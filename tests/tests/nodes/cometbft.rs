//! CometBFT, one validator with its own chain of keys and values.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tests::wait_for;

use crate::node::{Process, ask, free_port, log_of, program};

pub(crate) struct Comet {
    process: Process,
    port: u16,
    put: AtomicU64,
}

impl Comet {
    /// Makes a chain in the new folder `home`, with a pause of `commit` after each block, and starts it.
    pub(crate) fn make(home: &Path, commit: &str) -> Self {
        let made =
            Command::new(program("cometbft")).arg("init").arg("--home").arg(home).output().expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = home.join("config/config.toml");
        let text = fs::read_to_string(&settings).expect("settings");
        let faster = text.replace("timeout_commit = \"1s\"", &format!("timeout_commit = \"{commit}\""));
        assert_ne!(text, faster);
        fs::write(&settings, faster).expect("written");
        Self::open(home)
    }

    /// Starts one on a folder that is there.
    pub(crate) fn open(home: &Path) -> Self {
        let (port, peers) = (free_port(), free_port());
        let mut command = Command::new(program("cometbft"));
        command.arg("start").arg("--home").arg(home).args(["--proxy_app", "persistent_kvstore"]);
        command.args(["--rpc.laddr", &format!("tcp://127.0.0.1:{port}"), "--p2p.pex=false"]);
        command.args(["--p2p.laddr", &format!("tcp://127.0.0.1:{peers}")]);
        let process = Process::start(&mut command, log_of(home));
        let mut comet = Self { process, port, put: AtomicU64::new(0) };
        wait_for("cometbft", 60, || {
            comet.process.is_there();
            comet.ask("status").filter(|_| comet.height() > 0)
        });
        comet
    }

    fn ask(&self, what: &str) -> Option<Value> {
        ask(&format!("http://127.0.0.1:{}/{what}", self.port), None)?.get("result").cloned()
    }

    /// The newest block.
    pub(crate) fn height(&self) -> u64 {
        let status = self.ask("status").unwrap_or_default();
        status["sync_info"]["latest_block_height"]
            .as_str()
            .and_then(|height| height.parse().ok())
            .unwrap_or(0)
    }

    /// A key and a value.
    pub(crate) fn put(&self) {
        let nth = self.put.fetch_add(1, Ordering::Relaxed);
        self.ask(&format!("broadcast_tx_sync?tx=%22k{nth}={}%22", "v".repeat(200)));
    }

    /// How far the validator of a folder has signed.
    pub(crate) fn signed(home: &Path) -> u64 {
        let state = fs::read(home.join("data/priv_validator_state.json")).expect("a state");
        let state: Value = serde_json::from_slice(&state).expect("JSON");
        state["height"].as_str().expect("text").parse().expect("a number")
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.process.is_stopped()
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) fn stop(self) {
        self.process.stop();
    }
}
