//! The keys of names, into a node that does not have them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::{Done, NodeError, Tools, Wanted, archive, note};
use crate::sources::ipfs::rpc::{Call, Rpc, SentFile, Trouble};
use crate::targets::BlobReader;

/// Imports each key whose name is free. One that is there is left as it is; one that the node does not take is told.
pub(super) fn import(
    wanted: &Wanted,
    rpc: &Arc<Rpc>,
    blobs: &mut dyn BlobReader,
    tools: &Tools<'_>,
    done: &mut Done,
) -> Result<(), NodeError> {
    if wanted.keys.is_empty() {
        return Ok(());
    }
    let there = match names(rpc) {
        Ok(there) => there,
        Err(trouble) if trouble.is_connection => return Err(trouble.into()),
        Err(trouble) => {
            note(&mut done.notes, format!("no key is restored: {trouble}"));
            return Ok(());
        }
    };
    for key in &wanted.keys {
        if there.contains(&key.name) {
            continue;
        }
        let mut bytes = Vec::new();
        archive::read(&key.content, blobs, tools.id_key, tools.cancel, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        let call = Call::new("key/import").arg(&key.name).with("format", "libp2p-protobuf-cleartext");
        let import = rpc.sent_lines(call, Some(SentFile::whole(&bytes)), |_| Ok(()));
        match rpc.runtime().block_on(import) {
            Ok(()) => done.keys += 1,
            Err(trouble) if trouble.is_connection => return Err(trouble.into()),
            Err(trouble) => note(&mut done.notes, format!("the key {} is not restored: {trouble}", key.name)),
        }
    }
    Ok(())
}

/// The names of keys that the node has.
fn names(rpc: &Rpc) -> Result<HashSet<String>, Trouble> {
    // Called so by every version.
    let listed = rpc.json(Call::new("key/list"))?;
    let keys = listed.get("Keys").and_then(Value::as_array).cloned().unwrap_or_default();
    let names = keys.iter().filter_map(|key| key.get("Name").and_then(Value::as_str));
    Ok(names.map(str::to_owned).collect())
}
