//! geth, with a chain of its own (`--dev`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};
use tests::wait_for;

use crate::node::{Process, ask, free_port, log_of, program};

pub(crate) struct Geth {
    process: Process,
    port: u16,
}

impl Geth {
    /// Starts one on a data folder, which is made where there is none.
    pub(crate) fn start(data: &Path, more: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new(program("geth"));
        command.arg("--dev").arg("--datadir").arg(data).args(["--http", "--http.addr", "127.0.0.1"]);
        command.args(["--http.port", &port.to_string(), "--http.api", "eth,net,web3,debug,admin,txpool"]);
        command.args([
            "--ipcdisable",
            "--authrpc.port",
            "0",
            "--port",
            "0",
            "--nodiscover",
            "--maxpeers",
            "0",
        ]);
        command.args(["--nat", "none", "--cache", "64"]).args(more);
        let mut geth = Self { process: Process::start(&mut command, log_of(data)), port };
        wait_for("geth", 60, || {
            geth.process.is_there();
            geth.call("eth_blockNumber", json!([]))
        });
        geth
    }

    fn call(&self, method: &str, parameters: Value) -> Option<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": parameters });
        let answer = ask(&format!("http://127.0.0.1:{}", self.port), Some(&body))?;
        answer.get("result").filter(|result| !result.is_null()).cloned()
    }

    fn block(&self, which: &str) -> Option<(u64, String)> {
        let block = self.call("eth_getBlockByNumber", json!([which, false]))?;
        Some((number(&block["number"]), block["hash"].as_str()?.to_owned()))
    }

    /// The newest block's number and hash.
    pub(crate) fn head(&self) -> (u64, String) {
        self.block("latest").expect("a head")
    }

    pub(crate) fn hash(&self, block: u64) -> Option<String> {
        Some(self.block(&format!("{block:#x}"))?.1)
    }

    /// How many blocks are in the freezer.
    pub(crate) fn ancients(&self) -> u64 {
        self.call("debug_dbAncients", json!([])).and_then(|count| count.as_u64()).expect("a number")
    }

    /// A transaction.
    pub(crate) fn pay(&self) {
        static TO: AtomicU64 = AtomicU64::new(1);
        let to = format!("0x{:040x}", 0x1000 + TO.fetch_add(1, Ordering::Relaxed));
        let accounts = self.call("eth_accounts", json!([])).expect("accounts");
        let payment = json!([{ "from": accounts[0], "to": to, "value": "0x1" }]);
        self.call("eth_sendTransaction", payment).expect("it is sent");
    }

    pub(crate) fn stop(self) {
        self.process.stop();
    }
}

fn number(value: &Value) -> u64 {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).expect("a number");
    u64::from_str_radix(digits, 16).expect("a number")
}

/// Moves the blocks of a stopped geth into its freezer, by geth's own code.
pub(crate) struct Freezing {
    program: PathBuf,
    chaindata: PathBuf,
}

impl Freezing {
    pub(crate) fn new(data: &Path) -> Self {
        Self { program: program("gethfreeze"), chaindata: data.join("geth/chaindata") }
    }

    /// Opens it, and leaves `keep` blocks in the store.
    pub(crate) fn run(&self, keep: u64) {
        let said = Command::new(&self.program).arg(&self.chaindata).arg(keep.to_string()).output();
        let said = said.expect("it runs");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// Block by block until `keep` are left in the store, while `work` is done.
    pub(crate) fn down_to(&self, keep: u64, work: impl FnOnce() -> Value) {
        thread::scope(|scope| {
            scope.spawn(|| {
                for keep in (keep..keep + 20).rev() {
                    self.run(keep);
                }
            });
            work();
        });
    }
}
