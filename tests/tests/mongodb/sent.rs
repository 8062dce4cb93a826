//! The commands that the agent's driver says it has sent, by its own events: the agent logs them where its log's filter
//! asks for them.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{Process, System};

/// What the agent's driver has sent so far.
pub(crate) fn sent(system: &System) -> Vec<Value> {
    let log = system.log(Process::Agent);
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "neurashield_mongodb").collect()
}

/// The names of all commands that were sent of a kind.
pub(crate) fn of<'a>(sent: &'a [Value], command: &str) -> Vec<&'a Value> {
    sent.iter().filter(|one| one["command"] == command).collect()
}

/// All collections are read by sessions of one and the same instant, but for the first command, which is told it.
pub(crate) fn assert_of_one_instant(sent: &[Value]) {
    let finds = of(sent, "find");
    let at: Vec<_> =
        finds.iter().filter(|find| find["level"] == "snapshot").map(|find| &find["at"]).collect();
    let instants: BTreeSet<_> = at.iter().skip(1).map(|at| at.as_str().expect("text")).collect();
    assert!(at.len() > 2 && *at[0] == "" && instants.len() == 1 && !instants.contains(""), "{finds:#?}");
}

/// Users and roles are read like any other collection.
pub(crate) fn assert_users_are_read(sent: &[Value]) {
    for collection in ["system.users", "system.roles"] {
        let reads = of(sent, "find");
        let is_it = |find: &&&Value| find["database"] == "admin" && find["of"] == collection;
        assert!(reads.iter().any(|find| is_it(&find)), "{collection}: {reads:#?}");
    }
}

/// It was locked once, by the guard, and unlocked once.
pub(crate) fn assert_locked_once(sent: &[Value]) {
    for command in ["fsync", "fsyncUnlock"] {
        let by: Vec<_> = of(sent, command).iter().map(|one| one["by"].clone()).collect();
        assert_eq!(by, ["guard"], "{command}");
    }
}
