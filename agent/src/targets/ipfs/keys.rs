//! The keys of names, into a node that does not have them.

use std::sync::Arc;

use super::{Done, NodeError, Tools, Wanted, archive, note};
use crate::sources::ipfs::node::key_names;
use crate::sources::ipfs::rpc::{Call, Rpc, SentFile, Trouble};
use crate::targets::BlobReader;

/// So much of keys is held until they are imported.
const MOST_BYTES: usize = 16 << 20;

/// A key with its bytes.
pub(super) type Read = (String, Vec<u8>);

/// Reads all keys of the archive.
pub(super) fn read(
    wanted: &Wanted,
    blobs: &mut dyn BlobReader,
    tools: &Tools<'_>,
) -> Result<Vec<Read>, NodeError> {
    let (mut keys, mut held) = (Vec::new(), 0);
    for key in &wanted.keys {
        let mut bytes = Vec::new();
        archive::read(&key.content, blobs, tools.id_key, tools.cancel, |part| {
            held += part.len();
            bytes.extend_from_slice(part);
            match held <= MOST_BYTES {
                true => Ok(()),
                false => Err(NodeError::Archive(format!("its keys are longer than {MOST_BYTES} bytes"))),
            }
        })?;
        keys.push((key.name.clone(), bytes));
    }
    Ok(keys)
}

/// Imports each key whose name is free. One that is there is left as it is; what is not imported is told.
pub(super) fn import(keys: &[Read], rpc: &Arc<Rpc>, done: &mut Done) -> Result<(), Trouble> {
    if keys.is_empty() {
        return Ok(());
    }
    let there = match key_names(rpc) {
        Ok(there) => there,
        Err(trouble) if trouble.is_gone() => return Err(trouble),
        Err(trouble) => {
            note(&mut done.notes, format!("no key is restored: {trouble}"));
            return Ok(());
        }
    };
    for (name, bytes) in keys {
        if there.contains(name) {
            let text =
                format!("the node has a key {name:?}: it is left as it is, whether it is the same or not");
            note(&mut done.notes, text);
            continue;
        }
        let call = Call::new("key/import")
            .arg(name)
            .with("format", "libp2p-protobuf-cleartext")
            .with("allow-any-key-type", "true");
        let import = rpc.sent_lines(call, Some(SentFile::whole(bytes)), |_| Ok(()));
        match rpc.runtime().block_on(import) {
            Ok(()) => done.keys += 1,
            Err(trouble) if trouble.is_gone() => return Err(trouble),
            Err(trouble) => note(&mut done.notes, format!("the key {name:?} is not restored: {trouble}")),
        }
    }
    Ok(())
}
