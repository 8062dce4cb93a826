//! Which member of a server's set is locked, and what it says of its lock.
//!
//! Must stay true: a router is never locked; neither is the primary of a set that has another member; one that somebody
//! else has locked is left alone. What is unlocked is the process that was locked, and not the next one at its address.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ServerAddress;
use runtime::config::SecretSource;

use crate::sources::mongodb::server::{Server, Trouble};

/// How long a member is looked for.
const FIND: Duration = Duration::from_secs(5);
/// How long a server may wait for its writers before it is locked, where it heeds that.
const TAKE: i32 = 20_000;
/// The server's number for what the user may not do, and for an unlock of what is not locked.
const FORBIDDEN: i32 = 13;
const NOT_LOCKED: i32 = 20;

/// A member that may be locked.
pub(super) struct Member {
    pub(super) server: Server,
    pub(super) address: String,
    /// Of its process: another one has no lock of ours. Empty where it does not say.
    pub(super) process: String,
}

/// Connects to the member that is to be locked: a secondary, or the only member there is; else this says why there is
/// none.
pub(super) fn choose(server: &Server, uri: &SecretSource) -> Result<Member, String> {
    let role = role(server).map_err(|trouble| trouble.to_string())?;
    if role.get_str("msg").is_ok_and(|word| word == "isdbgrid") {
        return Err("the router of a cluster is never locked".to_owned());
    }
    let listed = |key| role.get_array(key).into_iter().flatten().filter_map(Bson::as_str).map(str::to_owned);
    let members: Vec<String> = listed("hosts").chain(listed("passives")).collect();
    let own: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let candidates = match (role.get_str("setName").is_ok(), own.as_slice()) {
        // The connection string says which.
        (true, [one]) if server.is_direct() => vec![one.clone()],
        (true, _) => members.clone(),
        (false, [one]) => vec![one.clone()],
        (false, _) => return Err("the connection string names several servers that are no set".to_owned()),
    };
    let is_alone = members.len() < 2;
    for address in candidates {
        let Ok(member) = connect(uri, &address) else { continue };
        let Ok(role) = self::role(&member) else { continue };
        let is = |key| role.get_bool(key).unwrap_or_default();
        if is("arbiterOnly") || role.get_str("msg").is_ok_and(|word| word == "isdbgrid") {
            continue;
        }
        if is("secondary") || (is_alone && (is("ismaster") || is("isWritablePrimary"))) {
            return Ok(Member { server: member, address, process: process(&role) });
        }
    }
    Err("no secondary answers, and the primary of a set is not locked".to_owned())
}

/// Connects to this member alone.
pub(super) fn connect(uri: &SecretSource, address: &str) -> Result<Server, String> {
    let parsed = ServerAddress::parse(address).map_err(|_| "its address cannot be understood".to_owned())?;
    Server::connect_member(uri, parsed, FIND).map_err(|error| proto::failure::chain(&error))
}

/// What it is in its set. Also where it does not know the command by its newer name.
fn role(server: &Server) -> Result<Document, Trouble> {
    server.command("admin", doc! { "isMaster": 1 })
}

/// What its process is called: another one after each start.
fn process(role: &Document) -> String {
    let id = role.get_document("topologyVersion").and_then(|version| version.get_object_id("processId"));
    id.map(|id| id.to_hex()).unwrap_or_default()
}

/// True if nobody may write there.
pub(super) fn is_locked(server: &Server) -> Result<bool, Trouble> {
    let told = server.command("admin", doc! { "currentOp": 1, "$ownOps": true })?;
    Ok(told.get_bool("fsyncLock").unwrap_or_default())
}

/// Locks it. The error says whether it may be locked all the same.
pub(super) fn lock(server: &Server) -> Result<(), (String, bool)> {
    let answer = server.command("admin", doc! { "fsync": 1, "lock": true, "maxTimeMS": TAKE });
    match answer {
        Ok(answer) => match number(&answer, "lockCount") {
            None | Some(1) => Ok(()),
            Some(_) => Err(("somebody else has locked it, too".to_owned(), true)),
        },
        Err(trouble) if trouble.code == Some(FORBIDDEN) => Err((
            "the user may not lock it: give it the role `hostManager` in the database `admin`".to_owned(),
            false,
        )),
        Err(trouble) => Err((trouble.to_string(), trouble.code.is_none())),
    }
}

/// Lets writers go on, and looks whether they do. One that was started anew since has no lock.
pub(super) fn unlock(server: &Server, of: &str) -> Result<(), Trouble> {
    let now = process(&role(server)?);
    if (!of.is_empty() && now != of) || !is_locked(server)? {
        return Ok(());
    }
    let others = match server.command("admin", doc! { "fsyncUnlock": 1 }) {
        Ok(answer) => number(&answer, "lockCount").unwrap_or_default(),
        Err(trouble) if trouble.code == Some(NOT_LOCKED) => 0,
        Err(trouble) => return Err(trouble),
    };
    if others > 0 {
        tracing::warn!("a MongoDB server stays locked: somebody else has locked it, too");
    } else if is_locked(server)? {
        return Err(Trouble::unfit("it is still locked"));
    }
    Ok(())
}

fn number(answer: &Document, key: &str) -> Option<i64> {
    let value = answer.get(key)?;
    value.as_i64().or(value.as_i32().map(i64::from)).or(value.as_f64().map(|number| number as i64))
}
