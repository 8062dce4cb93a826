//! The order of an archive's entries, across its pages.
//!
//! Must stay true: what passes starts with the root folder, rises strictly in path order, lies in a folder
//! that came before, and links only backwards. So no entry can be written twice, or through another entry
//! that is a link, by whatever writes them as they come.

use super::entry::{Entry, EntryKind};
use super::path::EntryPath;

/// Deeper than any source goes.
pub const MAX_DEPTH: usize = 4_096;

/// Looks at entries as they come.
#[derive(Debug, Default)]
pub struct Order {
    last: Option<EntryPath>,
    /// The folders from the root down to where the last entry lies.
    folders: Vec<EntryPath>,
}

impl Order {
    /// Looks at the next entry; an error says what is wrong with it.
    pub fn check(&mut self, entry: &Entry) -> Result<(), &'static str> {
        let path = &entry.path;
        match &self.last {
            None if !path.is_root() || entry.kind != EntryKind::Folder => {
                return Err("the first entry is not the root folder");
            }
            Some(last) if path <= last => return Err("it stands out of order, or twice"),
            _ => {}
        }
        while self.folders.last().is_some_and(|folder| !path.is_within(folder)) {
            self.folders.pop();
        }
        if path.parent().as_ref() != self.folders.last() {
            return Err("what it lies in is no folder of the archive");
        }
        match &entry.kind {
            EntryKind::Folder if self.folders.len() >= MAX_DEPTH => return Err("it lies too deep"),
            EntryKind::Folder => self.folders.push(path.clone()),
            EntryKind::HardLink { to } if to >= path => return Err("it links to what comes later"),
            _ => {}
        }
        self.last = Some(path.clone());
        Ok(())
    }

    /// True before the first entry.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }
}
