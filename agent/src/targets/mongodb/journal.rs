//! The journal of a restore: a collection of the server itself, in the database `neurashield_restore`, called
//! like the restore.
//!
//! It lies beside what it describes. A failover or a roll-back of the server takes both back to the same point;
//! and whoever has lost the agent with its state still finds which collection had which name. Must stay true:
//! what it says is confirmed by most members before anything follows from it.

use mongodb::bson::{Bson, Document, doc};

use super::error::{RestoreError, failed};
use super::owner::{self, CLAIMED, Lease, OWNER};
use super::select::Name;
use crate::sources::mongodb::names::{HEAD, JOURNALS, PHASES, Staged};
use crate::sources::mongodb::server::Server;

/// The keys of a name, and of a head that says what is kept taken.
const DATABASE: &str = "database";
const COLLECTION: &str = "collection";
const FENCES: &str = "fences";
const FENCED: &str = "fenced_at";
/// Moves that are written at once.
const BATCH: usize = 500;

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing that is live has changed.
    Loading,
    /// What is live is renamed.
    Swapping,
    /// All is renamed back.
    Undoing,
    /// All is live for good; what lets documents expire is to be built, what is left to be tidied.
    Live,
    /// What lets documents expire was tried once, and is not again: somebody may have dropped it since. What is left
    /// is to be tidied.
    Built,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Loading, Self::Swapping, Self::Undoing, Self::Live, Self::Built];

    fn word(self) -> &'static str {
        let at = Self::ALL.iter().position(|one| *one == self).expect("all of them are there");
        PHASES[at]
    }
}

/// What is found under the name of a journal.
pub(super) enum Found<'a> {
    Journal(Journal<'a>),
    /// It cannot be understood, and this lies aside which was live before its restore.
    Nothing(Vec<Name>),
    /// It has gone.
    Gone,
}

/// What happens to one name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Move {
    pub(super) number: i32,
    pub(super) name: Name,
    pub(super) what: What,
    /// What is built once it is live for good.
    pub(super) expiring: Vec<Document>,
    pub(super) expires: Option<Bson>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// A staged collection takes the place of a live one, if there was one.
    Collection { replaces: bool },
    /// A live collection goes.
    Removed,
    /// A view, of which nothing but its definition is kept.
    View { new: Option<Document>, old: Option<Document> },
}

impl Name {
    fn to_document(&self) -> Document {
        doc! { DATABASE: &self.database, COLLECTION: &self.collection }
    }

    fn from_document(document: &Document) -> Option<Self> {
        let text = |key| document.get_str(key).ok().map(str::to_owned);
        Some(Self { database: text(DATABASE)?, collection: text(COLLECTION)? })
    }
}

impl Move {
    fn to_document(&self) -> Document {
        let mut document = doc! {
            "_id": self.number,
            DATABASE: &self.name.database,
            COLLECTION: &self.name.collection,
            "expiring": &self.expiring,
        };
        if let Some(expires) = &self.expires {
            document.insert("expires", expires);
        }
        match &self.what {
            What::Collection { replaces } => drop(document.insert("replaces", *replaces)),
            What::Removed => drop(document.insert("removed", true)),
            What::View { new, old } => drop(document.insert("view", doc! { "new": new, "old": old })),
        }
        document
    }

    fn from_document(document: &Document) -> Option<Self> {
        let expiring = document.get_array("expiring").ok()?.iter();
        let definition = |view: &Document, key| view.get_document(key).ok().cloned();
        let what = match (document.get_bool("replaces"), document.get_document("view")) {
            (Ok(replaces), _) => What::Collection { replaces },
            (_, Ok(view)) => What::View { new: definition(view, "new"), old: definition(view, "old") },
            _ => document.get_bool("removed").is_ok().then_some(What::Removed)?,
        };
        Some(Self {
            number: document.get_i32("_id").ok()?,
            name: Name::from_document(document)?,
            what,
            expiring: expiring.filter_map(Bson::as_document).cloned().collect(),
            expires: document.get("expires").cloned(),
        })
    }
}

/// The journal of one restore.
pub(super) struct Journal<'a> {
    server: &'a Server,
    pub(super) id: String,
    /// Whose it is; none: an earlier release has written it.
    pub(super) owner: Option<String>,
    pub(super) phase: Phase,
    /// In which something may be staged.
    pub(super) databases: Vec<String>,
    /// What a late owner may still rename to ([`super::fence`]), and since when these names are taken.
    pub(super) fences: Vec<Name>,
    pub(super) fenced_at: Option<i64>,
    /// Held by its owner while it renames.
    pub(super) lease: Option<Lease>,
}

impl<'a> Journal<'a> {
    /// A new one: from here on something may be staged in these databases.
    pub(super) fn begin(
        server: &'a Server,
        id: &str,
        owner: &str,
        databases: Vec<String>,
    ) -> Result<Self, RestoreError> {
        let owned = Some(owner.to_owned());
        let mut journal = Self {
            server,
            id: id.to_owned(),
            owner: owned,
            phase: Phase::Loading,
            databases,
            fences: Vec::new(),
            fenced_at: None,
            lease: None,
        };
        let head = doc! {
            "_id": HEAD, "phase": Phase::Loading.word(), "databases": &journal.databases, OWNER: owner,
        };
        journal.write(vec![head])?;
        match journal.is_alone() {
            Ok(()) => {
                journal.hold();
                Ok(journal)
            }
            Err(refused) => {
                journal.end()?;
                Err(refused)
            }
        }
    }

    /// From here on its owner counts, as long as this lives.
    pub(super) fn hold(&mut self) {
        self.lease = self.owner.as_ref().map(|owner| Lease::begin(self.server, &self.id, owner));
    }

    /// Another one at the same server, that of a second component say, would take this one for left over. One that has
    /// only something left to drop is in nobody's way.
    fn is_alone(&self) -> Result<(), RestoreError> {
        for id in Self::ids(self.server)?.into_iter().filter(|id| *id != self.id) {
            match Self::open(self.server, &id)? {
                Found::Journal(other) if other.phase != Phase::Built => {
                    let why = format!("another restore ({id}) goes on there: wait for its end");
                    return Err(RestoreError::Refused(why));
                }
                Found::Nothing(away) if !away.is_empty() => return Err(not_understood(&id, &away)),
                Found::Journal(_) | Found::Nothing(_) | Found::Gone => {}
            }
        }
        Ok(())
    }

    /// What is going to be renamed, once [`Phase::Swapping`] is said.
    pub(super) fn announce(&self, moves: &[Move]) -> Result<(), RestoreError> {
        // What is written to a journal that another agent has ended would make it anew.
        self.lease.as_ref().map_or(Ok(()), |lease| lease.check(self.server))?;
        for batch in moves.chunks(BATCH) {
            self.write(batch.iter().map(Move::to_document).collect())?;
        }
        Ok(())
    }

    /// False if another agent has taken it over, or has ended it. What was written to it since is nobody's then.
    pub(super) fn is_ours(&self) -> Result<bool, RestoreError> {
        let Some(lease) = &self.lease else { return Ok(true) };
        let is_ours = lease.is_ours(self.server)?;
        let is_left = || Ok::<_, RestoreError>(Self::ids(self.server)?.contains(&self.id));
        if !is_ours && owner::head(self.server, &self.id)?.is_none() && is_left()? {
            self.end()?;
        }
        Ok(is_ours)
    }

    /// An error once it is not ours any more.
    pub(super) fn keep(&self) -> Result<(), RestoreError> {
        if self.is_ours()? { Ok(()) } else { Err(owner::lost()) }
    }

    /// It is that far from now on.
    pub(super) fn go(&mut self, phase: Phase) -> Result<(), RestoreError> {
        self.update(doc! { "$set": { "phase": phase.word() } })?;
        self.phase = phase;
        Ok(())
    }

    /// It was taken over: its late owner may still rename to these names.
    pub(super) fn fence(&mut self, names: Vec<Name>) -> Result<(), RestoreError> {
        let new = names.into_iter().filter(|name| !self.fences.contains(name)).collect::<Vec<_>>();
        self.fences.extend(new);
        let fences: Vec<Document> = self.fences.iter().map(Name::to_document).collect();
        self.update(doc! { "$set": { FENCES: fences }, "$unset": { CLAIMED: true } })
    }

    /// Nothing is left but names that are kept taken since `now`, in milliseconds.
    pub(super) fn rest(&self, now: i64) -> Result<(), RestoreError> {
        self.update(doc! { "$set": { "phase": Phase::Built.word(), FENCED: now } })
    }

    fn update(&self, change: Document) -> Result<(), RestoreError> {
        let mut query = doc! { "_id": HEAD };
        if let Some(owner) = &self.owner {
            query.insert(OWNER, owner);
        }
        let change = doc! { "q": query, "u": change };
        let command = doc! { "update": &self.id, "updates": [change] };
        let told = self.server.change(JOURNALS, command, None).map_err(failed("write the journal"))?;
        if told.get_i32("n").ok() != Some(1) {
            let gone = "the journal of the restore is not there any more, or is another agent's";
            return Err(RestoreError::Lost(gone));
        }
        Ok(())
    }

    /// The names of all journals of this server.
    pub(super) fn ids(server: &Server) -> Result<Vec<String>, RestoreError> {
        let listed = server.list(JOURNALS, doc! { "listCollections": 1 });
        let listed = listed.map_err(failed("look for restores that were interrupted"))?;
        let names = listed.iter().filter_map(|one| one.get_str("name").ok());
        Ok(names.filter(|name| Staged::of(name).is_none()).map(str::to_owned).collect())
    }

    /// What the journal `id` says now.
    pub(super) fn open(server: &'a Server, id: &str) -> Result<Found<'a>, RestoreError> {
        let unread = || failed("look for restores that were interrupted");
        if !Self::ids(server)?.iter().any(|one| one == id) {
            return Ok(Found::Gone);
        }
        let find = doc! { "find": id, "filter": { "_id": HEAD } };
        let heads = server.list(JOURNALS, find).map_err(unread())?;
        let head = heads.first().and_then(|head| Document::try_from(&**head).ok());
        let is_empty = || {
            let any = server.list(JOURNALS, doc! { "find": id, "limit": 1 });
            any.map(|found| found.is_empty()).map_err(unread())
        };
        let word = head.as_ref().and_then(|head| head.get_str("phase").ok());
        let phase = match Phase::ALL.into_iter().find(|phase| Some(phase.word()) == word) {
            Some(phase) => phase,
            // It was made, and nothing was begun.
            None if head.is_none() && is_empty()? => Phase::Loading,
            None => return Ok(Found::Nothing(away(server, id)?)),
        };
        let head = head.unwrap_or_default();
        let databases = head.get_array("databases").into_iter().flatten();
        let databases = databases.filter_map(Bson::as_str).map(str::to_owned).collect();
        let owner = owner::of(&head);
        let fences = head.get_array(FENCES).into_iter().flatten();
        let fences = fences.filter_map(|one| Name::from_document(one.as_document()?)).collect();
        let fenced_at = head.get_i64(FENCED).ok();
        let (id, lease) = (id.to_owned(), None);
        Ok(Found::Journal(Self { server, id, owner, phase, databases, fences, fenced_at, lease }))
    }

    /// What it says is renamed.
    pub(super) fn moves(&self) -> Result<Vec<Move>, RestoreError> {
        let find = doc! { "find": &self.id, "filter": { "_id": { "$ne": HEAD } } };
        let listed = self.server.list(JOURNALS, find).map_err(failed("read the journal"))?;
        let read = |one: &mongodb::bson::RawDocumentBuf| {
            Document::try_from(&**one).ok().and_then(|document| Move::from_document(&document))
        };
        let mut moves = listed.iter().map(read).collect::<Option<Vec<_>>>().ok_or_else(|| {
            RestoreError::Refused(format!("the journal {JOURNALS}.{} cannot be understood", self.id))
        })?;
        moves.sort_by_key(|step| step.number);
        Ok(moves)
    }

    /// The restore is over: nothing of it is left.
    pub(super) fn end(&self) -> Result<(), RestoreError> {
        match self.server.change(JOURNALS, doc! { "drop": &self.id }, None) {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.is_vanished => Ok(()),
            Err(trouble) => Err(failed("remove the journal")(trouble)),
        }
    }

    fn write(&self, documents: Vec<Document>) -> Result<(), RestoreError> {
        let count = documents.len();
        let command = doc! { "insert": &self.id, "documents": documents };
        let told = self.server.change(JOURNALS, command, None).map_err(failed("write the journal"))?;
        match usize::try_from(told.get_i32("n").unwrap_or_default()) {
            Ok(written) if written == count => Ok(()),
            _ => Err(RestoreError::Refused("the server does not take the journal of the restore".to_owned())),
        }
    }
}

/// What lies aside in any database that was live before the restore `id`.
fn away(server: &Server, id: &str) -> Result<Vec<Name>, RestoreError> {
    let listed = server.command("admin", doc! { "listDatabases": 1, "nameOnly": true });
    let listed = listed.map_err(failed("list the databases"))?;
    let databases = listed.get_array("databases").into_iter().flatten();
    let mut away = Vec::new();
    for database in databases.filter_map(|one| one.as_document()?.get_str("name").ok()) {
        let listed = server.list(database, doc! { "listCollections": 1, "nameOnly": true });
        let listed = listed.map_err(failed(format!("list the collections of {database}")))?;
        for collection in listed.iter().filter_map(|one| one.get_str("name").ok()) {
            if Staged::of(collection).is_some_and(|(of, staged, _)| of == id && staged == Staged::Old) {
                away.push(Name { database: database.to_owned(), collection: collection.to_owned() });
            }
        }
    }
    Ok(away)
}

/// Nobody here knows whether they are to come back or to go: a person has to say so.
pub(super) fn not_understood(id: &str, away: &[Name]) -> RestoreError {
    const NAMED: usize = 5;
    let named: Vec<String> = away.iter().take(NAMED).map(ToString::to_string).collect();
    let more = away.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    RestoreError::Refused(format!(
        "the journal {JOURNALS}.{id} cannot be understood, and {}{more} were live before its restore: give each its name \
         back by renameCollection, or drop it where its name is taken by what should be there; then drop the journal",
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::mongodb::names::BUILT;

    #[test]
    fn each_phase_has_its_word() {
        let words = Phase::ALL.map(Phase::word);
        assert_eq!(words, ["loading", "swapping", "undoing", "live", "built"]);
        assert_eq!(Phase::Built.word(), BUILT);
    }

    #[test]
    fn a_move_is_read_as_it_was_written() {
        let name = Name { database: "shop".into(), collection: "a.b".into() };
        let index = doc! { "key": { "t": 1 }, "name": "t", "expireAfterSeconds": 5 };
        let view = |of: &str| doc! { "viewOn": of, "pipeline": [] };
        for (what, expires) in [
            (What::Collection { replaces: true }, Some(Bson::Int64(5))),
            (What::Collection { replaces: false }, None),
            (What::Removed, None),
            (What::View { new: Some(view("a")), old: Some(view("b")) }, None),
            (What::View { new: None, old: Some(view("b")) }, None),
        ] {
            let (name, expiring) = (name.clone(), vec![index.clone()]);
            let step = Move { number: 7, name, what, expiring, expires };
            assert_eq!(Move::from_document(&step.to_document()), Some(step));
        }
        assert_eq!(Move::from_document(&doc! { "_id": 1, "database": "x", "collection": "y" }), None);
    }
}
