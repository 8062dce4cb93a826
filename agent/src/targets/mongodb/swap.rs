//! The swap: each live collection is renamed away, each staged one takes its place.
//!
//! What is to be done follows from the journal and from the names that are there, and every step may be
//! repeated: whoever is killed between two renames is followed by one who goes on, or goes back. Must stay
//! true: nothing that was live is dropped before all is live for good; what came in between is kept and told; nothing
//! is renamed or defined by whoever may have lost the restore to another agent ([`super::owner`]).

use std::collections::BTreeSet;

use mongodb::bson::{Document, doc};
use proto::failure::chain;
use runtime::steps;

use super::error::{RestoreError, failed};
use super::fence::{self, Lies};
use super::journal::{Journal, Move, What};
use super::owner::Lease;
use super::select::Name;
use crate::sources::mongodb::names::Staged;
use crate::sources::mongodb::server::{Server, Trouble};
use crate::steps::Step;

/// The server's number for a name that is taken.
pub(super) const EXISTS: i32 = 48;
/// So often a name is cleared of what somebody keeps writing to it.
pub(super) const TRIES: i32 = 50;
/// So many collections that cannot be dropped are named.
const NAMED: usize = 5;
/// More than a restore has collections: numbers of what came a second time.
pub(super) const AGAIN: i32 = 10_000_000;

/// The names of a server, as they are now.
pub(super) struct Swap<'a> {
    pub(super) server: &'a Server,
    pub(super) id: &'a str,
    there: BTreeSet<Name>,
    /// Renames wait for it.
    lease: Option<&'a Lease>,
    /// Names that stay taken.
    pub(super) fences: &'a [Name],
    /// What people should know.
    pub(super) notes: Vec<String>,
}

impl<'a> Swap<'a> {
    /// Looks at what there is in the databases of a journal.
    pub(super) fn look(server: &'a Server, journal: &'a Journal<'_>) -> Result<Self, RestoreError> {
        let mut there = BTreeSet::new();
        for database in &journal.databases {
            let listed = server.list(database, doc! { "listCollections": 1, "nameOnly": true });
            for one in listed.map_err(failed(format!("list the collections of {database}")))? {
                let collection = one.get_str("name").unwrap_or_default().to_owned();
                there.insert(Name { database: database.to_owned(), collection });
            }
        }
        let (lease, fences) = (journal.lease.as_ref(), journal.fences.as_slice());
        Ok(Self { server, id: &journal.id, there, lease, fences, notes: Vec::new() })
    }

    /// Makes all of it live, from wherever it stands.
    pub(super) fn forward(&mut self, moves: &[Move]) -> Result<(), RestoreError> {
        let middle = moves.len() / 2;
        for (at, step) in moves.iter().enumerate() {
            self.away(step)?;
            match at {
                0 => steps::reach(Step::FirstOldAway),
                at if at == middle => steps::reach(Step::MiddleOldAway),
                _ => {}
            }
            self.put(step)?;
            match at {
                0 => steps::reach(Step::FirstSwapped),
                at if at == middle => steps::reach(Step::MiddleSwapped),
                _ => {}
            }
        }
        steps::reach(Step::LastSwapped);
        Ok(())
    }

    /// Makes what was live before live again, from wherever it stands.
    pub(super) fn back(&mut self, moves: &[Move]) -> Result<(), RestoreError> {
        for (at, step) in moves.iter().rev().enumerate() {
            match &step.what {
                What::View { old: Some(old), .. } => self.define(step, old)?,
                What::View { old: None, .. } => self.drop_view(step)?,
                What::Collection { .. } | What::Removed => self.give_back(step)?,
            }
            if at == 0 {
                steps::reach(Step::FirstMovedBack);
            }
        }
        Ok(())
    }

    fn give_back(&mut self, step: &Move) -> Result<(), RestoreError> {
        let [new, old] = [Staged::New, Staged::Old].map(|staged| self.staged(step, staged));
        let replaces = step.what != What::Collection { replaces: false };
        // What was loaded is live if it is staged no more; what was there before has to lie aside then.
        let is_new = matches!(step.what, What::Collection { .. }) && !self.has(&new);
        let lies = fence::lies(self, step)?;
        // Where it is not known whether what was loaded is live, what is live is not staged, since that is dropped.
        if self.has(&step.name) && is_new && (lies == Lies::Old || !replaces) {
            self.rename(&step.name, &new)?;
        }
        if matches!(lies, Lies::Old | Lies::Either) {
            self.settle(&old, step)?;
        }
        // Whoever went before may have died between the two.
        match self.fences.contains(&old) && self.has(&step.name) {
            true => fence::take_at_once(self, &old, step),
            false => Ok(()),
        }
    }

    /// Drops what is staged under these words but for `fences`. What cannot be dropped keeps nothing else; it is named by the error,
    /// and is for the next time. A lost connection ends it.
    pub(super) fn tidy(&mut self, words: &[Staged], fences: &[Name]) -> Result<(), RestoreError> {
        let ours = |name: &&Name| {
            Staged::of(&name.collection)
                .is_some_and(|(id, staged, _)| id == self.id && words.contains(&staged))
        };
        let ours: Vec<Name> =
            self.there.iter().filter(ours).filter(|name| !fences.contains(name)).cloned().collect();
        let mut left = Vec::new();
        for name in &ours {
            match self.drop(name) {
                Ok(()) => {}
                Err(RestoreError::Server { action, source }) if source.is_connection => {
                    return Err(RestoreError::Server { action, source });
                }
                Err(error) => left.push(chain(&error)),
            }
        }
        if left.is_empty() { Ok(()) } else { Err(RestoreError::Refused(told(&left))) }
    }

    /// What is live goes out of the way of what is staged.
    fn away(&mut self, step: &Move) -> Result<(), RestoreError> {
        let is_due = match step.what {
            What::Collection { replaces } => replaces && self.has(&self.staged(step, Staged::New)),
            What::Removed => true,
            What::View { .. } => false,
        };
        let old = self.staged(step, Staged::Old);
        match is_due && self.has(&step.name) && !self.has(&old) {
            true => self.rename(&step.name, &old),
            false => Ok(()),
        }
    }

    /// What is staged takes its place.
    fn put(&mut self, step: &Move) -> Result<(), RestoreError> {
        match &step.what {
            What::Collection { .. } => {
                let new = self.staged(step, Staged::New);
                if !self.has(&new) {
                    return Ok(());
                }
                self.settle(&new, step)
            }
            What::Removed => Ok(()),
            What::View { new: Some(new), .. } => self.define(step, new),
            What::View { new: None, .. } => self.drop_view(step),
        }
    }

    /// Gives the name of `step` to `from`. Whatever somebody writes to it meanwhile is set aside.
    pub(super) fn settle(&mut self, from: &Name, step: &Move) -> Result<(), RestoreError> {
        for _ in 0..TRIES {
            if self.has(&step.name) {
                self.set_aside(step)?;
            }
            self.check()?;
            match self.try_rename(from, &step.name) {
                // Somebody wrote to it just now.
                Err(trouble) if trouble.code == Some(EXISTS) => drop(self.there.insert(step.name.clone())),
                renamed => return renamed.map_err(failed(format!("rename {from} to {}", step.name))),
            }
        }
        Err(RestoreError::Refused(format!("somebody keeps writing to {}: stop it", step.name)))
    }

    /// Nobody knows what it is: it is kept.
    fn set_aside(&mut self, step: &Move) -> Result<(), RestoreError> {
        let came = self.free_came(step);
        self.rename(&step.name, &came)?;
        self.notes.push(format!(
            "{}: somebody wrote to it while it was replaced; what came is kept as {came}",
            step.name
        ));
        Ok(())
    }

    /// Where the next one goes that is set aside.
    pub(super) fn free_came(&self, step: &Move) -> Name {
        let named = |time: i32| Name {
            database: step.name.database.clone(),
            collection: Staged::Came.name(self.id, step.number + time * AGAIN),
        };
        let came = (0..=TRIES).map(named).find(|name| !self.has(name));
        came.unwrap_or_else(|| self.staged(step, Staged::Came))
    }

    /// The view has this definition.
    fn define(&mut self, step: &Move, definition: &Document) -> Result<(), RestoreError> {
        let name = &step.name;
        // A collation stays that of the view for its life; and what is no view is somebody's.
        let is_other = |live: &Document| {
            let collation = |of: &Document| of.get_document("collation").ok().cloned();
            let options = live.get_document("options").cloned().unwrap_or_default();
            !is_view(live) || collation(&options) != collation(definition)
        };
        if self.has(name) && self.described(name)?.is_none_or(|live| is_other(&live)) {
            self.drop_view(step)?;
        }
        let mut command = match self.has(name) {
            true => doc! { "collMod": &name.collection },
            false => doc! { "create": &name.collection },
        };
        let is_there = self.has(name);
        self.check()?;
        command.extend(definition.clone().into_iter().filter(|(key, _)| !(is_there && key == "collation")));
        self.server
            .change(&name.database, command, None)
            .map_err(failed(format!("define the view {name}")))?;
        self.there.insert(name.clone());
        Ok(())
    }

    pub(super) fn drop(&mut self, name: &Name) -> Result<(), RestoreError> {
        if self.has(name) {
            match self.server.change(&name.database, doc! { "drop": &name.collection }, None) {
                Ok(_) => {}
                Err(trouble) if trouble.is_vanished => {}
                Err(trouble) => return Err(failed(format!("drop {name}"))(trouble)),
            }
            self.there.remove(name);
        }
        Ok(())
    }

    /// What is not a view any more is somebody's.
    fn drop_view(&mut self, step: &Move) -> Result<(), RestoreError> {
        match self.described(&step.name)?.map(|live| is_view(&live)) {
            None => drop(self.there.remove(&step.name)),
            Some(true) => {
                self.there.insert(step.name.clone());
                self.check()?;
                self.drop(&step.name)?;
            }
            Some(false) => self.set_aside(step)?,
        }
        Ok(())
    }

    /// What the server says of this name now.
    fn described(&self, name: &Name) -> Result<Option<Document>, RestoreError> {
        let command = doc! { "listCollections": 1, "filter": { "name": &name.collection } };
        let listed = self.server.list(&name.database, command);
        let listed = listed.map_err(failed(format!("look at the view {name}")))?;
        Ok(listed.first().and_then(|one| Document::try_from(&**one).ok()))
    }

    /// It is still ours to rename.
    pub(super) fn check(&self) -> Result<(), RestoreError> {
        self.lease.map_or(Ok(()), |lease| lease.check(self.server))
    }

    pub(super) fn rename(&mut self, from: &Name, to: &Name) -> Result<(), RestoreError> {
        self.check()?;
        self.try_rename(from, to).map_err(failed(format!("rename {from} to {to}")))
    }

    fn try_rename(&mut self, from: &Name, to: &Name) -> Result<(), Trouble> {
        let command = doc! { "renameCollection": from.to_string(), "to": to.to_string() };
        self.server.change("admin", command, None)?;
        self.there.remove(from);
        self.there.insert(to.clone());
        Ok(())
    }

    pub(super) fn has(&self, name: &Name) -> bool {
        self.there.contains(name)
    }

    /// True if it is there now.
    pub(super) fn is_there(&self, name: &Name) -> Result<bool, RestoreError> {
        Ok(self.described(name)?.is_some())
    }

    /// It is there no more.
    pub(super) fn went(&mut self, name: &Name) {
        self.there.remove(name);
    }

    /// It is there now.
    pub(super) fn came(&mut self, name: &Name) {
        self.there.insert(name.clone());
    }

    pub(super) fn staged(&self, step: &Move, staged: Staged) -> Name {
        let database = step.name.database.clone();
        Name { database, collection: staged.name(self.id, step.number) }
    }
}

/// The first ones, and how many there are.
fn told(left: &[String]) -> String {
    let named = left.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    if left.len() > NAMED { format!("{named}; and {} more", left.len() - NAMED) } else { named }
}

fn is_view(listed: &Document) -> bool {
    listed.get_str("type").is_ok_and(|word| word == "view")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_dropped_is_named_and_counted() {
        let left = |count| (0..count).map(|at| format!("c{at}")).collect::<Vec<_>>();
        assert_eq!(told(&left(2)), "c0; c1");
        assert_eq!(told(&left(7)), "c0; c1; c2; c3; c4; and 2 more");
    }
}
