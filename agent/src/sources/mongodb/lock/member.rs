//! Which member of a server's set is locked, and what it says of its lock.
//!
//! Must stay true: a router is never locked; neither is the primary of a set that has another member, hidden ones
//! included, nor a secondary that is behind; one that somebody else has locked is left alone, and so is one that the user
//! could not unlock, or that does not count its unlocks. What is unlocked is the process that was locked, and not the next
//! one at its address.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ServerAddress;
use runtime::config::SecretSource;

use crate::sources::mongodb::server::{ANSWER, Kept, NAME, Server, Trouble};

/// How long a member is looked for, and for how long one that may be locked: it may answer slowly.
pub(super) const FIND: Duration = Duration::from_secs(5);
pub(super) const FIND_LOCKED: Duration = Duration::from_secs(20);
/// How long a server may wait for its writers before it is locked, where it heeds that; those that are known do not.
const TAKE: i32 = 20_000;
/// How long a look at it may take that something else waits for.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// For how long something may hold what a lock waits for before it is not asked for at all.
const HELD_UP_SECS: i64 = 5;
/// A secondary that is further behind is not what anybody means by a backup of now.
const BEHIND_MS: i64 = 60_000;
/// The server's number for what the user may not do, and for an unlock of what is not locked.
pub(super) const FORBIDDEN: i32 = 13;
pub(super) const NOT_LOCKED: i32 = 20;
/// Its numbers for what it had begun and has not ended: nobody knows what came of it.
pub(super) const BROKEN_OFF: [i32; 8] = [50, 91, 189, 262, 11_600, 11_601, 11_602, 13_436];
/// The states of a primary among a set's members, and of an arbiter, which has no data.
const PRIMARY: i64 = 1;
const ARBITER: i64 = 7;
/// The commands that lock and unlock.
const LOCKING: [&str; 2] = ["fsync", "fsyncUnlock"];
const MONITOR: &str = "give the user the role `clusterMonitor` in the database `admin`";
const HOST_MANAGER: &str = "give it the role `hostManager` in the database `admin`";

/// A member that may be locked.
pub(super) struct Member {
    pub(super) server: Server,
    pub(super) address: String,
    /// Of its process: another one has no lock of ours.
    pub(super) process: String,
}

/// What a server is to who has locked it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Is {
    Locked,
    Free,
    /// Another process than the one that was locked.
    Another,
}

/// What is seen of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) is: Is,
    /// It works on a lock or an unlock that an agent has sent: nobody can say yet what comes of it.
    pub(super) is_busy: bool,
}

/// What came of a wish to lock.
pub(super) enum Asked {
    Locked,
    /// Somebody else has locked it, too.
    Shared,
    /// It is not locked by us.
    Refused(String),
    /// It may be locked, or become so.
    Unknown(String),
}

/// Connects to the member that is to be locked: a secondary, or the only member there is; else this says why there is
/// none.
pub(super) fn choose(server: &Server, uri: &SecretSource) -> Result<Member, String> {
    let set = role(server, ANSWER).map_err(|trouble| trouble.to_string())?;
    if is_router(&set) {
        return Err("the router of a cluster is never locked".to_owned());
    }
    let listed = |key| set.get_array(key).into_iter().flatten().filter_map(Bson::as_str).map(str::to_owned);
    let members: Vec<String> = listed("hosts").chain(listed("passives")).collect();
    let own: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let is_set = set.get_str("setName").is_ok();
    let candidates = match (is_set, own.as_slice()) {
        // The connection string says which.
        (true, [one]) if server.is_direct() => vec![one.clone()],
        (true, _) => members.clone(),
        (false, [one]) => vec![one.clone()],
        (false, _) => return Err("the connection string names several servers that are no set".to_owned()),
    };
    let mut why = "no secondary answers, and the primary of a set is not locked".to_owned();
    for address in candidates {
        let Ok(member) = connect(uri, &address, FIND, None) else { continue };
        let Ok(role) = self::role(&member, ANSWER) else { continue };
        let is = |key| role.get_bool(key).unwrap_or_default();
        if is("arbiterOnly") || is_router(&role) {
            continue;
        }
        let may = if is("secondary") {
            // By a connection string that means this one alone, nobody else was asked.
            let first = if server.is_direct() { of_primary(&member) } else { Ok(set.clone()) };
            first.and_then(|first| is_up_to_date(&first, &role, &address))
        } else if members.len() < 2 && (is("ismaster") || is("isWritablePrimary")) {
            if is_set { is_alone(&member) } else { Ok(()) }
        } else {
            continue;
        };
        let may = may.and_then(|()| may_lock(&member)).and_then(|()| counts(&member));
        match may.and_then(|()| known(&role)) {
            // It may be unlocked by this one.
            Ok(process) => {
                let server = connect(uri, &address, FIND_LOCKED, None)?;
                return Ok(Member { server, address, process });
            }
            Err(refused) => why = refused,
        }
    }
    Err(why)
}

/// A secondary that is delayed on purpose or behind shows no present.
fn is_up_to_date(set: &Document, role: &Document, address: &str) -> Result<(), String> {
    let delay = ["secondaryDelaySecs", "slaveDelay"].into_iter().find_map(|key| number(role, key));
    if delay.is_some_and(|delay| delay > 0) {
        return Err(format!("the secondary {address} is delayed, and the primary of a set is not locked"));
    }
    let written = |of: &Document| {
        let last = of.get_document("lastWrite").and_then(|last| last.get_datetime("lastWriteDate"));
        last.ok().map(|last| last.timestamp_millis())
    };
    match (written(set), written(role)) {
        (Some(first), Some(own)) if first.saturating_sub(own) > BEHIND_MS => Err(format!(
            "the secondary {address} is more than {} seconds behind, and the primary of a set is not locked",
            BEHIND_MS / 1_000
        )),
        _ => Ok(()),
    }
}

/// What the set's primary has written, as this member knows it; nothing where there is no primary.
fn of_primary(server: &Server) -> Result<Document, String> {
    let status = server
        .command("admin", doc! { "replSetGetStatus": 1 })
        .map_err(|trouble| format!("how far it is behind its set is not known ({trouble}): {MONITOR}"))?;
    let mut members = status.get_array("members").into_iter().flatten().filter_map(Bson::as_document);
    let primary = members.find(|member| number(member, "state") == Some(PRIMARY));
    let last = primary.and_then(|primary| primary.get_datetime("optimeDate").ok().copied());
    Ok(last.map(|last| doc! { "lastWrite": { "lastWriteDate": last } }).unwrap_or_default())
}

/// Hidden members are in no list that everybody gets.
fn is_alone(server: &Server) -> Result<(), String> {
    let status = server.command("admin", doc! { "replSetGetStatus": 1 }).map_err(|trouble| {
        format!("whether its set has hidden members is not known ({trouble}): {MONITOR}")
    })?;
    let members = status.get_array("members").into_iter().flatten().filter_map(Bson::as_document);
    match members.filter(|member| number(member, "state") != Some(ARBITER)).count() {
        1 => Ok(()),
        _ => Err(
            "its set has other members, hidden ones, and the primary of a set is not locked: name one by \
                  `directConnection=true`"
                .to_owned(),
        ),
    }
}

/// Who cannot unlock does not lock: these are two rights.
pub(super) fn may_lock(server: &Server) -> Result<(), String> {
    let status = server.command("admin", doc! { "connectionStatus": 1, "showPrivileges": true });
    let status =
        status.map_err(|trouble| format!("whether the user may unlock it is not known: {trouble}"))?;
    let told = status.get_document("authInfo").ok();
    let list = |key| told.and_then(|told| told.get_array(key).ok()).into_iter().flatten();
    if list("authenticatedUsers").next().is_none() {
        // A server without users asks nobody.
        return Ok(());
    }
    let may = |action: &str| {
        list("authenticatedUserPrivileges").filter_map(Bson::as_document).any(|privilege| {
            let of = privilege.get_document("resource");
            let fits = |key| of.clone().is_ok_and(|of| of.get_bool(key).unwrap_or_default());
            let actions = privilege.get_array("actions").into_iter().flatten();
            (fits("cluster") || fits("anyResource"))
                && actions.filter_map(Bson::as_str).any(|one| one == action)
        })
    };
    match ["fsync", "unlock"].into_iter().find(|action| !may(action)) {
        None => Ok(()),
        Some(action) => Err(format!("the user has not the right `{action}`: {HOST_MANAGER}")),
    }
}

/// Where it does not say how many unlocks it has carried out, an unlock whose answer is lost could only be guessed at.
fn counts(server: &Server) -> Result<(), String> {
    let told = unlocks(server, ANSWER).map(|_| ());
    told.map_err(|trouble| format!("how many unlocks it has carried out is not known ({trouble}): {MONITOR}"))
}

/// Connects to this member alone, looking for it for so long; by connections that are kept, if it says which.
pub(super) fn connect(
    uri: &SecretSource,
    address: &str,
    find: Duration,
    kept: Option<Kept>,
) -> Result<Server, String> {
    let parsed = ServerAddress::parse(address).map_err(|_| "its address cannot be understood".to_owned())?;
    Server::connect_member(uri, parsed, find, kept).map_err(|error| proto::failure::chain(&error))
}

/// What it is in its set. Also where it does not know the command by its newer name.
fn role(server: &Server, longest: Duration) -> Result<Document, Trouble> {
    server.command_within(longest, "admin", doc! { "isMaster": 1 })
}

/// Keeps the connection from being taken for one that nobody needs. One that is not waited for to its end is closed.
pub(super) fn ping(server: &Server) -> Result<(), Trouble> {
    server.command_within(ANSWER, "admin", doc! { "ping": 1 }).map(drop)
}

fn is_router(role: &Document) -> bool {
    role.get_str("msg").is_ok_and(|word| word == "isdbgrid")
}

/// What its process is called: another one after each start.
fn process(role: &Document) -> String {
    let id = role.get_document("topologyVersion").and_then(|version| version.get_object_id("processId"));
    id.map(|id| id.to_hex()).unwrap_or_default()
}

/// A server that says nothing of its process (before 4.4) could be another one after a start.
fn known(role: &Document) -> Result<String, String> {
    Some(process(role)).filter(|process| !process.is_empty()).ok_or_else(|| {
        "it does not say which of its processes it is: only servers from 4.4 on are locked".to_owned()
    })
}

/// True if it is another process than the one that was locked, `of`. An earlier release may not have known that one.
pub(super) fn is_another(server: &Server, of: &str, longest: Duration) -> Result<bool, Trouble> {
    Ok(!of.is_empty() && process(&role(server, longest)?) != of)
}

/// What it is now to who has locked the process `of`. What is asked may take so long, each.
pub(super) fn look(server: &Server, of: &str, longest: Duration) -> Result<Seen, Trouble> {
    let told = operations(server, longest)?;
    let is_locked = told.get_bool("fsyncLock").unwrap_or_default();
    let running = told.get_array("inprog").into_iter().flatten().filter_map(Bson::as_document);
    let is_busy = running.filter(|one| one.get_str("appName").is_ok_and(|name| name == NAME)).any(|one| {
        let command = one.get_document("command");
        command.is_ok_and(|command| LOCKING.iter().any(|name| command.contains_key(name)))
    });
    // Asked last: what was seen before is of this process or an earlier one.
    let is = match () {
        () if is_another(server, of, longest)? => Is::Another,
        () if is_locked => Is::Locked,
        () => Is::Free,
    };
    Ok(Seen { is, is_busy })
}

/// True if nobody may write there.
pub(super) fn is_locked(server: &Server) -> Result<bool, Trouble> {
    Ok(operations(server, LOOK)?.get_bool("fsyncLock").unwrap_or_default())
}

/// What it works on for this user; for everybody, where it has no users.
fn operations(server: &Server, longest: Duration) -> Result<Document, Trouble> {
    server.command_within(longest, "admin", doc! { "currentOp": 1, "$ownOps": true })
}

/// How many unlocks it has carried out since its start. By that an unlock whose answer was lost is told from one that
/// has not come: who has locked it is nowhere to be seen.
pub(super) fn unlocks(server: &Server, longest: Duration) -> Result<i64, Trouble> {
    counted(&server.command_within(longest, "admin", doc! { "serverStatus": 1 })?)
}

/// The same, if it says so soon. Later it is still heard, so that the connection stays.
pub(super) fn unlocks_soon(server: &Server) -> Result<i64, Trouble> {
    counted(&server.command_soon(LOOK, ANSWER, "admin", doc! { "serverStatus": 1 })?)
}

fn counted(status: &Document) -> Result<i64, Trouble> {
    let commands = status.get_document("metrics").and_then(|metrics| metrics.get_document("commands"));
    let counts = commands.and_then(|commands| commands.get_document(LOCKING[1]));
    let counted = counts.ok().and_then(|counts| Some(number(counts, "total")? - number(counts, "failed")?));
    counted.ok_or_else(|| Trouble::unfit("it does not say how many unlocks it has carried out"))
}

/// What keeps a lock waiting, and with the lock every writer behind it; none: nothing that can be seen.
pub(super) fn held_up(server: &Server) -> Option<String> {
    let long = [
        doc! { "secs_running": { "$gte": HELD_UP_SECS } },
        doc! { "transaction.timeOpenMicros": { "$gte": HELD_UP_SECS * 1_000_000 } },
    ];
    let command = doc! { "currentOp": 1, "$or": long.to_vec() };
    // Whoever may not see the operations of others is not kept from locking.
    let told = server.command_within(LOOK, "admin", command).ok()?;
    let mut running = told.get_array("inprog").into_iter().flatten().filter_map(Bson::as_document);
    let holds = |one: &&Document| {
        let locks = one.get_document("locks").and_then(|locks| locks.get_str("Global"));
        let is_of_a_client = ["client", "client_s"].iter().any(|key| one.contains_key(key));
        is_of_a_client && locks.is_ok_and(|mode| mode.eq_ignore_ascii_case("w"))
    };
    running.find(holds).map(|one| {
        let name = one.get_str("op").unwrap_or("operation");
        format!("a client's {name} has held what a lock waits for, for {HELD_UP_SECS} seconds or more")
    })
}

/// Locks it.
pub(super) fn lock(server: &Server) -> Asked {
    let answer = server.command("admin", doc! { "fsync": 1, "lock": true, "maxTimeMS": TAKE });
    match answer {
        Ok(answer) => match number(&answer, "lockCount") {
            None | Some(1) => Asked::Locked,
            Some(_) => Asked::Shared,
        },
        Err(trouble) if trouble.code == Some(FORBIDDEN) => {
            Asked::Refused(format!("the user may not lock it: {HOST_MANAGER}"))
        }
        Err(trouble) => match trouble.code {
            Some(code) if !BROKEN_OFF.contains(&code) => Asked::Refused(trouble.to_string()),
            _ => Asked::Unknown(trouble.to_string()),
        },
    }
}

/// Takes one lock away. True if it stays locked all the same: by somebody else.
pub(super) fn unlock(server: &Server) -> Result<bool, Trouble> {
    let answer = server.command("admin", doc! { "fsyncUnlock": 1 })?;
    match number(&answer, "lockCount") {
        Some(0) => Ok(false),
        Some(_) => Ok(true),
        // It was answered: if it cannot be looked at now, or is locked, that is nothing to unlock.
        None => Ok(is_locked(server).unwrap_or_default()),
    }
}

fn number(answer: &Document, key: &str) -> Option<i64> {
    let value = answer.get(key)?;
    value.as_i64().or(value.as_i32().map(i64::from)).or(value.as_f64().map(|number| number as i64))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;

    #[test]
    fn a_secondary_that_is_delayed_or_behind_is_not_locked() {
        let at = |ms| doc! { "lastWrite": { "lastWriteDate": DateTime::from_millis(ms) } };
        assert_eq!(is_up_to_date(&at(100_000), &at(40_000), "m"), Ok(()));
        let behind = is_up_to_date(&at(100_001), &at(40_000), "m").expect_err("it is behind");
        assert!(behind.contains("60 seconds behind"), "{behind}");
        let delayed = is_up_to_date(&doc! {}, &doc! { "secondaryDelaySecs": 3_600_i64 }, "m");
        assert!(delayed.expect_err("it is delayed").contains("delayed"));
        assert_eq!(is_up_to_date(&doc! {}, &doc! {}, "m"), Ok(()));
    }
}
