//! Whose restore a journal is of, where several agents serve one server.
//!
//! Must stay true: a restore that goes on at another agent is not ended by this one. Its journal says whose it is and has
//! a number that its owner counts up; where that stands still for [`STALE`], by the clock of who looks, the owner has
//! died, or cannot reach the server. One agent alone takes it over then: the journal changes its owner in one step, and
//! what the old owner wants to write there later is refused.

use std::thread;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use tokio_util::task::AbortOnDropHandle;

use super::error::{RestoreError, failed};
use crate::sources::mongodb::names::{HEAD, JOURNALS};
use crate::sources::mongodb::server::Server;

/// The keys of a journal's head.
pub(super) const OWNER: &str = "owner";
const BEAT: &str = "beat";
/// How often an owner counts.
const EVERY: Duration = Duration::from_secs(5);
/// Longer than an answer may take, so that a slow server does not make an owner dead.
const STALE: Duration = Duration::from_secs(60);
/// How often somebody looks who waits.
const LOOK: Duration = Duration::from_secs(1);

/// A journal's owner counts for as long as this lives.
pub(super) struct Beating(#[expect(dead_code, reason = "it ends with this")] AbortOnDropHandle<()>);

impl Beating {
    pub(super) fn begin(server: &Server, id: &str, owner: &str) -> Self {
        let count = doc! { "q": { "_id": HEAD, OWNER: owner }, "u": { "$inc": { BEAT: 1_i64 } } };
        Self(server.repeat(EVERY, JOURNALS, doc! { "update": id, "updates": [count] }))
    }
}

/// What a journal's head says of its owner; none: an earlier release has written it.
pub(super) fn of(head: &Document) -> Option<String> {
    head.get_str(OWNER).ok().map(str::to_owned)
}

/// Makes the journal `id` that of `us`, once it has been seen that its `owner` is gone; an error: it goes on. Blocks.
#[expect(clippy::disallowed_methods, reason = "a stop makes it no safer to decide earlier; it has an end")]
pub(super) fn take_over(server: &Server, id: &str, owner: &str, us: &str) -> Result<(), RestoreError> {
    if owner == us {
        return Ok(());
    }
    let (mut first, began) = (None, Instant::now());
    let goes_on = || {
        RestoreError::Refused(format!(
            "another agent restores there ({id}): wait for its end; if that agent has died, try again in a minute"
        ))
    };
    while began.elapsed() < STALE {
        let beat = beat(server, id)?;
        if *first.get_or_insert(beat) != beat {
            return Err(goes_on());
        }
        thread::sleep(LOOK);
    }
    tracing::warn!(restore = id, owner, "the agent that restores there is gone: its restore is ended here");
    let mut query = doc! { "_id": HEAD, OWNER: owner };
    if let Some(beat) = first.flatten() {
        query.insert(BEAT, beat);
    }
    let claim = doc! { "q": query, "u": { "$set": { OWNER: us } } };
    let told = server.change(JOURNALS, doc! { "update": id, "updates": [claim] }, None);
    let told = told.map_err(failed("take over the restore of another agent"))?;
    if told.get_i32("n").ok() == Some(1) { Ok(()) } else { Err(goes_on()) }
}

/// How far its owner has counted; none: it has not begun, or the journal has gone.
fn beat(server: &Server, id: &str) -> Result<Option<i64>, RestoreError> {
    let find = doc! { "find": id, "filter": { "_id": HEAD }, "limit": 1 };
    let heads = server.list(JOURNALS, find).map_err(failed("look at the restore of another agent"))?;
    let head = heads.first().and_then(|head| Document::try_from(&**head).ok());
    Ok(head.and_then(|head| head.get_i64(BEAT).ok()))
}
