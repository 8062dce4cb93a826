//! The commands that the driver sends, told where somebody asks for it by the filter of the log: to see what a server was
//! asked for, where nobody sees the server.
//!
//! Must stay true: nothing that stands in a document is told, and nothing of a user: names of commands, databases and
//! collections, and as of when something is read.

use std::sync::OnceLock;

use mongodb::bson::{Bson, Document};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;

/// What the log is filtered by: `NEURASHIELD_LOG=info,neurashield_mongodb=trace`.
const TARGET: &str = "neurashield_mongodb";

/// Where a process without a log tells the names of commands.
static TELL: OnceLock<fn(&str)> = OnceLock::new();

/// True if somebody wants to know.
pub(super) fn are_told() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// From now on the names of commands are told to this.
pub(super) fn tell_to(tell: fn(&str)) {
    let _ = TELL.set(tell);
}

/// What another process of ours has sent.
pub(super) fn sent_by_guard(command: &str) {
    tracing::trace!(target: TARGET, command, by = "guard");
}

/// For the driver; none: nobody wants to know, and it makes no events.
pub(super) fn handler() -> Option<EventHandler<CommandEvent>> {
    (are_told() || TELL.get().is_some()).then(|| {
        EventHandler::callback(|event| {
            if let CommandEvent::Started(started) = event {
                tell(&started.command_name, &started.db, &started.command);
            }
        })
    })
}

fn tell(name: &str, database: &str, command: &Document) {
    if let Some(tell) = TELL.get() {
        return tell(name);
    }
    let of = command.get(name).and_then(Bson::as_str).unwrap_or_default();
    let concern = command.get_document("readConcern").ok();
    let level = concern.and_then(|concern| concern.get_str("level").ok()).unwrap_or_default();
    let at = concern.and_then(|concern| concern.get_timestamp("atClusterTime").ok());
    let at = at.map(|at| format!("{}.{}", at.time, at.increment)).unwrap_or_default();
    tracing::trace!(target: TARGET, command = name, database, of, level, at);
}
