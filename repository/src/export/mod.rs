//! An archive as plain bytes: the content of one file, or all of it as a tar file (PAX).
//!
//! Must stay true: memory does not grow with a file or an archive; bytes are handed on in parts of at most
//! [`PART`], in order.

mod tar;

use bytes::Bytes;

use crate::archive::entry::{EntryKind, FileContent, Pieces};
use crate::archive::order::Order;
use crate::codec::Malformed;
use crate::error::RepositoryError;
use crate::read::ArchiveReader;

/// The most bytes that are handed on at once: a message of the wire has a limit.
pub const PART: usize = 512 << 10;
const ZEROS: Bytes = Bytes::from_static(&[0; 64 << 10]);

/// All entries with their contents, as a tar file; `put` may end it early. Sockets are left out, sparse
/// files are written in full; what `leaves_out` names is left out, but for folders, and so are other names of it.
pub fn archive<E: From<RepositoryError>>(
    reader: &mut ArchiveReader,
    leaves_out: fn(&[u8]) -> bool,
    put: &mut dyn FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    // Entries hold the reader while they come; contents need it too: a page at a time.
    let table = reader.page_table()?;
    let mut order = Order::default();
    for page in &table.pages {
        for entry in reader.page(&page.id)? {
            // Whoever unpacks it trusts it to lead through no link of its own.
            order.check(&entry).map_err(|why| reader.damaged_blob(&page.id, Malformed::new("page", why)))?;
            // A link would lead to what is not there.
            let is_out = match &entry.kind {
                EntryKind::Folder => false,
                EntryKind::HardLink { to } => leaves_out(to.as_bytes()) || leaves_out(entry.path.as_bytes()),
                _ => leaves_out(entry.path.as_bytes()),
            };
            if is_out {
                continue;
            }
            let Some(header) = tar::header(&entry) else { continue };
            put(header.into())?;
            if let EntryKind::File(of) = &entry.kind {
                content(reader, of, put)?;
                put(ZEROS.slice(..tar::padding(of.size)))?;
            }
        }
    }
    put(ZEROS.slice(..tar::END))
}

/// A file's bytes in order, holes as zeros.
pub fn content<E: From<RepositoryError>>(
    reader: &mut ArchiveReader,
    content: &FileContent,
    put: &mut dyn FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut extents = content.layout.extents(content.size).into_iter();
    let mut at = 0;
    let mut end = 0;
    let lists = match &content.pieces {
        Pieces::Inline(pieces) => vec![Ok(pieces.clone())],
        Pieces::Listed(lists) => lists.iter().map(Err).collect(),
    };
    for list in lists {
        let pieces = match list {
            Ok(pieces) => pieces,
            Err(id) => reader.piece_list(id)?,
        };
        for piece in pieces {
            let mut data = reader.piece(&piece)?;
            while !data.is_empty() {
                if at == end {
                    let Some(extent) = extents.next() else { return Ok(()) };
                    zeros(extent.offset - at, put)?;
                    (at, end) = (extent.offset, extent.offset + extent.length);
                }
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                let taken = data.split_to(data.len().min(left).min(PART));
                at += taken.len() as u64;
                put(taken)?;
            }
        }
    }
    zeros(content.size - at, put)
}

fn zeros<E>(mut count: u64, put: &mut dyn FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
    while count > 0 {
        let now = count.min(ZEROS.len() as u64);
        put(ZEROS.slice(..now as usize))?;
        count -= now;
    }
    Ok(())
}
