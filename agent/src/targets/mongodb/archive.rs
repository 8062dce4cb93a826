//! What the archive of a server holds, and its contents as they are read.

use std::collections::BTreeMap;

use bytes::Bytes;
use mongodb::bson::Document;
use repository::archive::entry::{Entry, EntryKind, FileContent, Layout, Piece, Pieces};
use repository::archive::order::Order;
use repository::archive::page::decode_pieces;
use repository::archive::path::EntryPath;
use repository::content::{ContentHasher, IdKey};
use repository::ids::BlobId;

use super::error::RestoreError;
use super::select::Name;
use crate::sources::mongodb::names::of_file;
use crate::targets::{BlobReader, CancelFlag};

const DOCUMENTS: &str = ".bson";
const METADATA: &str = ".metadata.json";
/// How many blobs are asked for in advance.
const AHEAD: usize = 64;
/// The descriptions of so many collections are more than any server has.
const MOST_METADATA: u64 = 64 << 20;

/// A collection or a view, as it was backed up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Archived {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) options: Document,
    pub(crate) indexes: Vec<Document>,
    /// Its documents and how many bytes they are; none where they could not be read.
    pub(crate) documents: Option<(EntryPath, u64)>,
    /// False if nothing says what it is, but that it has documents.
    pub(crate) is_described: bool,
}

/// What something in a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Collection,
    View,
    TimeSeries,
}

impl Kind {
    /// As servers and dumps call it.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "view" => Self::View,
            "timeseries" => Self::TimeSeries,
            _ => Self::Collection,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Collection => "a collection",
            Self::View => "a view",
            Self::TimeSeries => "a time series",
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    options: Document,
    #[serde(default)]
    indexes: Vec<Document>,
    collection_name: Option<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

/// Everything in the archive that has a name in a database, in the order of the names.
pub(crate) fn read<E>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    contents: &mut Contents<'_>,
) -> Result<Vec<Archived>, RestoreError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut described = BTreeMap::new();
    let mut documents = BTreeMap::new();
    let mut total = 0;
    for entry in checked(entries) {
        let entry = entry?;
        let (EntryKind::File(content), Some((database, file))) = (&entry.kind, names(&entry.path)) else {
            continue;
        };
        if let Some(stem) = file.strip_suffix(METADATA) {
            total += content.size;
            if total > MOST_METADATA {
                return Err(RestoreError::archive(
                    &entry.path,
                    "the descriptions of collections are too long",
                ));
            }
            let mut json = Vec::new();
            contents.read(&entry.path, content, &mut |piece| {
                json.extend_from_slice(piece);
                Ok(())
            })?;
            let metadata: Metadata = serde_json::from_slice(&json).map_err(|error| {
                RestoreError::archive(&entry.path, format!("it is no description of a collection: {error}"))
            })?;
            described.insert((database.to_owned(), stem.to_owned()), (entry.path.clone(), metadata));
        } else if let Some(stem) = file.strip_suffix(DOCUMENTS) {
            let of = (entry.path.clone(), content.size);
            documents.insert((database.to_owned(), stem.to_owned()), of);
        }
    }
    let mut archived = Vec::new();
    for ((database, stem), (path, metadata)) in described {
        let Some(collection) = metadata.collection_name.or_else(|| of_file(&stem)) else {
            return Err(RestoreError::archive(&path, "it does not say what its collection is called"));
        };
        archived.push(Archived {
            documents: documents.remove(&(database.clone(), stem)),
            name: Name { database, collection },
            kind: Kind::of(&metadata.kind),
            options: metadata.options,
            indexes: metadata.indexes,
            is_described: true,
        });
    }
    // A dump may have documents that nobody has described.
    for ((database, stem), of) in documents {
        let Some(collection) = of_file(&stem) else { continue };
        let name = Name { database, collection };
        let (options, indexes) = Default::default();
        archived.push(Archived {
            name,
            kind: Kind::Collection,
            options,
            indexes,
            documents: Some(of),
            is_described: false,
        });
    }
    archived.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(archived)
}

/// The entries, in the order in which an archive has them.
pub(crate) fn checked<E>(
    entries: impl Iterator<Item = Result<Entry, E>>,
) -> impl Iterator<Item = Result<Entry, RestoreError>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut order = Order::default();
    entries.map(move |entry| {
        let entry = entry.map_err(|error| RestoreError::Entries(Box::new(error)))?;
        match order.check(&entry) {
            Ok(()) => Ok(entry),
            Err(cause) => Err(RestoreError::archive(&entry.path, cause)),
        }
    })
}

/// The database and the file of an entry that has them.
fn names(path: &EntryPath) -> Option<(&str, &str)> {
    let mut names = path.names().map(|name| std::str::from_utf8(name).ok());
    match (names.next()??, names.next()??, names.next()) {
        (database, file, None) => Some((database, file)),
        _ => None,
    }
}

/// Reads contents, and proves that they are the right ones.
pub(crate) struct Contents<'a> {
    pub(crate) blobs: &'a mut dyn BlobReader,
    pub(crate) id_key: &'a IdKey,
    pub(crate) cancel: &'a CancelFlag,
}

impl Contents<'_> {
    /// Gives the bytes of a file piece by piece. Only once this has returned without an error were they right.
    pub(crate) fn read(
        &mut self,
        path: &EntryPath,
        content: &FileContent,
        each: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        if content.layout != Layout::Dense {
            return Err(RestoreError::archive(path, "it has holes, which no dump has"));
        }
        let mut hasher = ContentHasher::new(self.id_key);
        let mut length = 0;
        let mut each = |piece: &[u8]| {
            hasher.data(piece);
            length += piece.len() as u64;
            match length <= content.size {
                true => each(piece),
                false => Err(RestoreError::archive(path, "its pieces are longer than the file")),
            }
        };
        match &content.pieces {
            Pieces::Inline(pieces) => self.pieces(path, pieces, &[], &mut each)?,
            Pieces::Listed(lists) => {
                for (n, list) in lists.iter().enumerate() {
                    let bytes = self.blob(path, list)?;
                    let pieces = decode_pieces(&bytes).map_err(|error| {
                        RestoreError::archive(path, format!("its list of pieces: {error}"))
                    })?;
                    self.pieces(path, &pieces, &lists[n + 1..], &mut each)?;
                }
            }
        }
        for extent in content.layout.extents(content.size) {
            hasher.extent_ends(extent);
        }
        match length == content.size && hasher.finish(content.size) == content.id {
            true => Ok(()),
            false => Err(RestoreError::archive(path, "its content is not what was backed up")),
        }
    }

    fn pieces(
        &mut self,
        path: &EntryPath,
        pieces: &[Piece],
        after: &[BlobId],
        each: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut last: Option<(BlobId, Bytes)> = None;
        for (n, piece) in pieces.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let bytes = match last.take() {
                Some((id, bytes)) if id == piece.blob => bytes,
                _ => {
                    let mut upcoming: Vec<BlobId> =
                        pieces[n..].iter().take(AHEAD).map(|piece| piece.blob).collect();
                    upcoming.extend(after.iter().take(AHEAD.saturating_sub(upcoming.len())));
                    upcoming.dedup();
                    self.blobs.hint(&upcoming);
                    self.blob(path, &piece.blob)?
                }
            };
            let range = piece.offset as usize..piece.offset as usize + piece.length as usize;
            let Some(part) = bytes.get(range) else {
                return Err(RestoreError::archive(path, "a piece lies outside of its blob"));
            };
            each(part)?;
            last = Some((piece.blob, bytes));
        }
        Ok(())
    }

    fn blob(&mut self, path: &EntryPath, id: &BlobId) -> Result<Bytes, RestoreError> {
        self.blobs.blob(id).map_err(|source| RestoreError::Blob { path: path.clone(), source })
    }
}
