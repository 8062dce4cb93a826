//! A drill of a geth by the example of docs/operations.md: what was backed up while it ran is opened by geth itself at
//! the agent, without its keys; a folder with no chain in it is not taken for one.

use std::fs;

use tests::{System, wait_for};

use crate::geth::Geth;
use crate::node::program;
use crate::{backup, log_of_job};

/// The words of the example, with the geth of this machine.
fn command() -> String {
    let docs = fs::read_to_string(tests::project().join("docs/operations.md")).expect("read");
    let from = docs.find("          head=$(").expect("the example");
    let to = from + docs[from..].find("        - open-geth").expect("its end");
    let script = docs[from..to].replace("/usr/bin/geth", &program("geth").display().to_string());
    format!(
        "      command:\n        - /bin/sh\n        - -c\n        - |\n{script}        - open-geth\n        - \"{{}}\"\n"
    )
}

#[test]
fn a_geth_is_drilled_by_the_example_of_the_documents() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("node");
    let geth = Geth::start(&data, &["--gcmode", "archive", "--dev.period", "1"]);
    let mut system = System::prepare(&[]);
    let scratch = system.root().join("scratch");
    system.configure_agent(&format!(
        "  - {{ component: blockchain, kind: blockchain, name: chain, path: {} }}\n\
         drills:\n  scratch: {}\n  open:\n    - component: blockchain\n{}      timeout: 2m\n",
        data.display(),
        scratch.display(),
        command()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    wait_for("blocks", 30, || (geth.head().0 >= 3).then_some(()));
    let (before, _) = geth.head();
    assert_eq!(backup(&system)["consistency"], "bracketed");
    let words = ["verify", "--depth", "drilled", "--components", "blockchain", "-o", "json"];
    let job = system.nsctl(&words).expect(0).json();
    let log = log_of_job(&system, &job);
    let head = log.lines().find_map(|line| line.rsplit_once("the newest block is ")).expect("it is told").1;
    println!("geth, drilled: head {before} before the backup, {head} in the drill");
    assert!(head.trim().parse::<u64>().expect("a number") >= before, "{log}");
    assert!(job.to_string().contains("left out"), "its keys: {job:#}");
    assert!(fs::read_dir(&scratch).expect("listed").next().is_none());
    assert!(system.nsctl(&["list"]).expect(0).out.contains("drilled"));

    // geth makes a new chain of a folder without one, and ends with 0: the example does not.
    geth.stop();
    fs::remove_dir_all(data.join("geth/chaindata")).expect("lost");
    system.run(&["backup"]);
    let job = system.nsctl(&words).expect(4).json();
    assert!(job.to_string().contains("the drill failed: /bin/sh ended with 1"), "{job:#}");
    assert!(job.to_string().contains("the newest block is 0"), "{job:#}");
    assert!(fs::read_dir(&scratch).expect("listed").next().is_none());
}
