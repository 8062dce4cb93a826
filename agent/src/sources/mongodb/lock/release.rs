//! How a lock is let go: one try, and tries until it is.
//!
//! Must stay true: what nobody here has asked for is not unlocked. The record says that an unlock is sent before it is
//! sent; one that was answered is not sent again, and one that was not only if the server has begun with none since it was
//! sent, and works on none. Who has locked a server is nowhere to be seen: where it has carried one out and is locked all
//! the same, a person says what is to be done. A lock that was asked for and not answered may come yet: its record stays
//! for longer than what was sent can live, whatever else is unlocked meanwhile, and what comes is unlocked.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::member::{self, Is};
use super::record::{Owned, Stage};
use crate::sources::mongodb::server::{ANSWER, Server, Trouble};

/// How long after a try in vain the next one comes.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// By what a server is reached.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    /// What is sent by this is not kept waiting by a look: a server that is locked may not let anybody in anew.
    pub(super) unlocks: &'a Server,
    pub(super) looks: &'a Server,
}

/// What came of a try.
#[derive(Debug, PartialEq)]
pub(super) enum Came {
    /// It was locked until now, by us as far as anybody can know. True: it stays locked by somebody else.
    Released(bool),
    /// It was not locked by us any more: why.
    Lost(&'static str),
    /// It is not locked and may be yet.
    Waits,
    /// It works on a lock or an unlock.
    Works,
    /// Nobody but a person can say what is to be done.
    Person(String),
}

const ANEW: Came = Came::Lost("it was started anew");
/// Why a lock is lost that somebody else may take away the next time, too.
pub(super) const FOREIGN: &str = "somebody else has unlocked it";
/// What is told where what is known does not say that it was locked all the time.
pub(super) const UNSURE: &str = "sees that somebody else has unlocked it since it was locked";
pub(super) const UNCOUNTED: &str = "does not hear in time how often it was unlocked since it was locked";
const BY_ANOTHER: Came = Came::Lost(FOREIGN);
const UNHEARD: Came = Came::Lost("the answer to its unlock was lost, and it is not locked any more");

/// Lets it go, if that is ours to do. `tell` hears of what is tried once more.
pub(super) fn once(ways: Ways<'_>, owned: &mut Owned, tell: &dyn Fn(&str)) -> Result<Came, Trouble> {
    let came = match owned.record().stage {
        Stage::Intended => return Ok(Came::Lost("it was never asked to lock")),
        // Nothing was sent yet, and ours is there as far as is known. If it is not, the server refuses to unlock; nothing
        // is asked before that which a server with all its writers waiting may be slow to say.
        Stage::Held | Stage::Shared => unlock(ways, owned, tell)?,
        // Whoever has lost an answer has lost its connection, and may not get another one: what is looked by is connected.
        Stage::Asked(_) | Stage::Unlocking | Stage::Doubtful => {
            by_look(Ways { unlocks: ways.looks, ..ways }, owned, tell)?
        }
    };
    match owned.may_come() {
        Some(at) if came != ANEW && matches!(came, Came::Released(_) | Came::Lost(_)) => {
            // Whoever's that was: what we have asked for may be on its way yet.
            if owned.record().stage != Stage::Asked(at) {
                tell("sees it unlocked, and looks on whether what it has asked for comes late");
            }
            owned.ask_on(at, matches!(came, Came::Released(_))).map_err(unwritten)?;
            Ok(Came::Waits)
        }
        _ => Ok(came),
    }
}

/// The same where an answer was lost.
fn by_look(ways: Ways<'_>, owned: &mut Owned, tell: &dyn Fn(&str)) -> Result<Came, Trouble> {
    let (stage, process) = (owned.record().stage, owned.record().process.clone());
    let look = || member::look(ways.looks, &process, ANSWER);
    let seen = look()?;
    match (seen.is, stage) {
        (Is::Another, _) => Ok(ANEW),
        // An unlock that is sent beside it would wait behind it, and might come to somebody else's lock.
        _ if seen.is_busy => Ok(Came::Works),
        (Is::Free, Stage::Unlocking | Stage::Doubtful) => Ok(UNHEARD),
        (Is::Free, _) => Ok(BY_ANOTHER),
        (Is::Locked, Stage::Doubtful) => Ok(doubtful()),
        (Is::Locked, Stage::Unlocking) => {
            // After the look: an unlock counts once the server begins with it.
            if owned.record().unlocks == Some(member::unlocks(ways.looks, ANSWER)?) {
                tell("unlocks it again: the server has not carried out the first unlock");
                return send(ways, owned, owned.record().unlocks);
            }
            // One was begun with, just now perhaps; or an earlier release did not look.
            let seen = look()?;
            match seen.is {
                Is::Another => Ok(ANEW),
                _ if seen.is_busy => Ok(Came::Works),
                Is::Free => Ok(UNHEARD),
                Is::Locked => doubt(owned),
            }
        }
        (Is::Locked, _) => unlock(ways, owned, tell),
    }
}

/// Unlocks it for the first time.
fn unlock(ways: Ways<'_>, owned: &mut Owned, tell: &dyn Fn(&str)) -> Result<Came, Trouble> {
    let record = owned.record();
    // Only unlocks after this one make it doubtful that ours was carried out. If they cannot be counted now, those since
    // it was locked do.
    let counted = member::unlocks_soon(ways.looks).ok();
    if record.stage == Stage::Held && counted != record.unlocks {
        tell(if counted.is_some() { UNSURE } else { UNCOUNTED });
    }
    let is_another = |server| member::is_another(server, &record.process, ANSWER);
    // It may let nobody in anew: what answers now unlocks.
    let (unlocks, is_another) = match is_another(ways.unlocks) {
        Err(_) if !std::ptr::eq(ways.unlocks, ways.looks) => (ways.looks, is_another(ways.looks)?),
        told => (ways.unlocks, told?),
    };
    if is_another {
        return Ok(ANEW);
    }
    let before = counted.or(record.unlocks);
    send(Ways { unlocks, ..ways }, owned, before)
}

/// Unlocks it. The record says so first, and how many unlocks there were before.
fn send(ways: Ways<'_>, owned: &mut Owned, unlocks: Option<i64>) -> Result<Came, Trouble> {
    let before = owned.record().stage;
    owned.unlock(unlocks).map_err(unwritten)?;
    match member::unlock(ways.unlocks) {
        Ok(stays) => Ok(Came::Released(stays)),
        Err(trouble) => match trouble.code {
            Some(member::NOT_LOCKED) => Ok(BY_ANOTHER),
            Some(code) if !member::BROKEN_OFF.contains(&code) => {
                // It was refused: nothing of it can come any more.
                owned.set(before).map_err(unwritten)?;
                if code == member::FORBIDDEN { Ok(forbidden()) } else { Err(trouble) }
            }
            // It was refused, by a server that gives no number for that: most likely since it was not locked.
            None if !trouble.is_connection => {
                match member::look(ways.looks, &owned.record().process, ANSWER)?.is {
                    Is::Another => Ok(ANEW),
                    Is::Free => Ok(BY_ANOTHER),
                    Is::Locked => doubt(owned),
                }
            }
            _ => Err(trouble),
        },
    }
}

/// Nothing is sent any more.
fn doubt(owned: &mut Owned) -> Result<Came, Trouble> {
    owned.set(Stage::Doubtful).map_err(unwritten)?;
    Ok(doubtful())
}

fn unwritten(error: std::io::Error) -> Trouble {
    Trouble::unfit(&format!("its record: {error}"))
}

fn forbidden() -> Came {
    Came::Person(
        "the user may not unlock it (any more): run db.fsyncUnlock() there, and give the user the role `hostManager`"
            .to_owned(),
    )
}

fn doubtful() -> Came {
    Came::Person(
        "the answer to our unlock was lost, one was carried out, and it is locked all the same, by somebody else as it \
         seems: see whether anybody needs it locked, else run db.fsyncUnlock() there"
            .to_owned(),
    )
}

/// Until it is let go, or that was tried for so long; none: in vain. `tell` hears of what does not work. The record ends
/// if nothing can be locked any more. What may come yet is not waited for once `is_over`.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
pub(super) fn until(
    ways: Ways<'_>,
    mut owned: Owned,
    longest: Duration,
    tell: &dyn Fn(&str),
    is_over: &dyn Fn() -> bool,
) -> Option<Came> {
    let began = Instant::now();
    loop {
        match once(ways, &mut owned, tell) {
            Ok(came @ (Came::Released(_) | Came::Lost(_))) => {
                owned.end();
                return Some(came);
            }
            Ok(came @ Came::Person(_)) => return Some(came),
            Ok(came @ (Came::Waits | Came::Works)) if is_over() => return Some(came),
            Ok(Came::Waits | Came::Works) => {}
            Err(trouble) => tell(&format!("tries to unlock it: {trouble}")),
        }
        if began.elapsed() > longest {
            return None;
        }
        thread::sleep(AGAIN);
    }
}

/// The same once nobody else looks after the record.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
pub(super) fn after(ways: Ways<'_>, record: &Path, longest: Duration, tell: &dyn Fn(&str)) -> Option<Came> {
    let began = Instant::now();
    loop {
        match Owned::take(record) {
            Ok(None) => return Some(Came::Lost("it was let go meanwhile")),
            Ok(Some(owned)) => return until(ways, owned, longest, tell, &|| false),
            // Its guard is at it.
            Err(_) if began.elapsed() > longest => return None,
            Err(_) => thread::sleep(AGAIN),
        }
    }
}
