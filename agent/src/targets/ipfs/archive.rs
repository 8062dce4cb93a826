//! What an archive of a node holds, as a restore needs it.

use bytes::Bytes;
use formats::ipfs::{BLOCKS, Cid, DIRECT, RECURSIVE};
use repository::archive::entry::{Entry, EntryKind, FileContent, Layout, Piece, Pieces};
use repository::archive::page::decode_pieces;
use repository::content::{ContentHasher, IdKey};
use repository::ids::BlobId;

use super::NodeError;
use crate::sources::ipfs::keystore::key_name;
use crate::sources::ipfs::node::{MOST_PINS, Pin};
use crate::targets::{BlobReader, CancelFlag};

/// Blobs that are asked for ahead.
const AHEAD: usize = 8;
/// A longer file is no name, key or description.
const MAX_SMALL: u64 = 64 << 10;

/// What a node has kept.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) files: Cid,
    pub(crate) recursive: Vec<Pin>,
    pub(crate) direct: Vec<Pin>,
    pub(super) blocks: Option<FileContent>,
    pub(crate) keys: Vec<Key>,
}

/// A key of a name.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(super) name: String,
    pub(super) content: FileContent,
}

impl Wanted {
    /// Reads it from an archive's entries.
    pub(crate) fn read<E: std::fmt::Display>(
        entries: impl Iterator<Item = Result<Entry, E>>,
        blobs: &mut dyn BlobReader,
        id_key: &IdKey,
        cancel: &CancelFlag,
    ) -> Result<Self, NodeError> {
        let wrong = |why: &str| NodeError::Archive(why.to_owned());
        let (mut files, mut wanted) = (None, None::<Wanted>);
        let mut blank = Self::empty(Cid::default());
        for entry in entries {
            let Entry { path, kind, .. } = entry.map_err(|error| NodeError::Archive(error.to_string()))?;
            let EntryKind::File(content) = kind else { continue };
            let path = String::from_utf8_lossy(path.as_bytes()).into_owned();
            let mut small = || -> Result<Vec<u8>, NodeError> {
                let mut bytes = Vec::new();
                if content.size > MAX_SMALL {
                    return Err(wrong("a small file in it is large"));
                }
                read(&content, blobs, id_key, cancel, |part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                })?;
                Ok(bytes)
            };
            let pin = |cid: &str, name: Vec<u8>| {
                let cid = cid.parse().map_err(|_| wrong("a pin in it is none"))?;
                Ok::<Pin, NodeError>(Pin { cid, name: String::from_utf8_lossy(&name).into_owned() })
            };
            match path.rsplit_once('/') {
                Some((RECURSIVE, cid)) => blank.recursive.push(pin(cid, small()?)?),
                Some((DIRECT, cid)) => blank.direct.push(pin(cid, small()?)?),
                Some(("keystore", file)) => {
                    if let Some(name) = key_name(file) {
                        blank.keys.push(Key { name, content });
                    }
                }
                None if path == BLOCKS => blank.blocks = Some(content),
                None if path == "node.json" => {
                    let node: serde_json::Value =
                        serde_json::from_slice(&small()?).map_err(|_| wrong("node.json in it is no JSON"))?;
                    let root = node.get("FilesRoot").and_then(|root| root.as_str());
                    files = root.and_then(|root| root.parse().ok());
                }
                _ => {}
            }
            if blank.recursive.len() + blank.direct.len() + blank.keys.len() > 2 * MOST_PINS {
                return Err(wrong("it has more pins and keys than any node"));
            }
        }
        if let (Some(files), Some(_)) = (files, &blank.blocks) {
            wanted = Some(Self { files, ..blank });
        }
        wanted.ok_or_else(|| wrong("it is not what a running node has kept; restore it to a folder"))
    }

    /// How many bytes of blocks there are.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.as_ref().map_or(0, |blocks| blocks.size)
    }

    pub(super) fn empty(files: Cid) -> Self {
        Self { files, recursive: Vec::new(), direct: Vec::new(), blocks: None, keys: Vec::new() }
    }
}

/// Gives the bytes of a file to `each`, and proves at its end that they are what was backed up.
pub(super) fn read(
    content: &FileContent,
    blobs: &mut dyn BlobReader,
    id_key: &IdKey,
    cancel: &CancelFlag,
    mut each: impl FnMut(&[u8]) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    if content.layout != Layout::Dense {
        return Err(NodeError::Archive("a file in it has holes".to_owned()));
    }
    let mut hasher = ContentHasher::new(id_key);
    let mut last: Option<(BlobId, Bytes)> = None;
    let mut length = 0;
    let mut pieces = |pieces: &[Piece], blobs: &mut dyn BlobReader| -> Result<(), NodeError> {
        for (n, piece) in pieces.iter().enumerate() {
            if cancel.is_cancelled() {
                return Err(NodeError::Cancelled);
            }
            let bytes = match &last {
                Some((id, bytes)) if *id == piece.blob => bytes.clone(),
                _ => {
                    let ahead: Vec<BlobId> = pieces[n..].iter().take(AHEAD).map(|piece| piece.blob).collect();
                    blobs.hint(&ahead);
                    blobs.blob(&piece.blob)?
                }
            };
            let end = piece.offset as usize + piece.length as usize;
            let slice = bytes.get(piece.offset as usize..end);
            let slice = slice
                .ok_or_else(|| NodeError::Archive("a piece of a file lies outside of its blob".to_owned()))?;
            hasher.data(slice);
            length += slice.len() as u64;
            each(slice)?;
            last = Some((piece.blob, bytes));
        }
        Ok(())
    };
    match &content.pieces {
        Pieces::Inline(inline) => pieces(inline, blobs)?,
        Pieces::Listed(lists) => {
            for list in lists {
                blobs.hint(&[*list]);
                let listed = decode_pieces(&blobs.blob(list)?)
                    .map_err(|error| NodeError::Archive(format!("a list of pieces in it: {error}")))?;
                pieces(&listed, blobs)?;
            }
        }
    }
    for extent in content.layout.extents(content.size) {
        hasher.extent_ends(extent);
    }
    match length == content.size && hasher.finish(content.size) == content.id {
        true => Ok(()),
        false => Err(NodeError::Archive("a file in it is not what was backed up".to_owned())),
    }
}
