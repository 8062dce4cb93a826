//! What a node says of itself: its pins, the root of its files, what it has.

use std::collections::BTreeSet;

use formats::ipfs::Cid;
use serde_json::Value;

use super::rpc::{Call, Rpc, Trouble};

/// How often pins and files are looked at until nothing has changed meanwhile.
const LOOKS: usize = 3;
/// The most pins that are taken: a few hundred bytes of memory for each one.
pub(crate) const MOST_PINS: usize = 4 << 20;

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pin {
    pub(crate) cid: Cid,
    /// Empty: it has none. js-ipfs and old versions of Kubo know no names.
    pub(crate) name: String,
}

/// All that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Pins of whole graphs, in the order of their CIDs.
    pub(crate) recursive: Vec<Pin>,
    /// Pins of single blocks.
    pub(crate) direct: Vec<Pin>,
    /// The root of its files.
    pub(crate) files: Cid,
}

/// A line of `pin/ls`. CIDs are compared as what they stand for: how they are written differs.
pub(super) fn pin(line: &Value) -> Option<Pin> {
    let cid = line.get("Cid")?.as_str()?.parse().ok()?;
    let name = line.get("Name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Pin { cid, name })
}

impl Kept {
    /// Asks; true if it is the state of one moment: nothing had changed at a second look. Blocks.
    pub(crate) fn ask(rpc: &Rpc) -> Result<(Self, bool), Trouble> {
        flush(rpc)?;
        let mut before = Self::look(rpc)?;
        for _ in 1..LOOKS {
            let now = Self::look(rpc)?;
            if now == before {
                return Ok((now, true));
            }
            before = now;
        }
        Ok((before, false))
    }

    /// One look. Blocks.
    pub(crate) fn look(rpc: &Rpc) -> Result<Self, Trouble> {
        Ok(Self { recursive: pins(rpc, "recursive")?, direct: pins(rpc, "direct")?, files: files_root(rpc)? })
    }
}

/// Brings what was written to the files into their root. A node that has no such command has it there at once.
pub(crate) fn flush(rpc: &Rpc) -> Result<(), Trouble> {
    match rpc.done(Call::new("files/flush").arg("/")) {
        Err(trouble) if !trouble.is_not_known() => Err(trouble),
        _ => Ok(()),
    }
}

fn pins(rpc: &Rpc, kind: &str) -> Result<Vec<Pin>, Trouble> {
    let call = Call::new("pin/ls").with("type", kind).with("names", "true").with("stream", "true");
    let mut pins = Vec::new();
    rpc.lines(call, |line| {
        pins.push(pin(&line).ok_or_else(|| Trouble::new("it lists a pin that is none"))?);
        match pins.len() {
            ..=MOST_PINS => Ok(()),
            _ => Err(Trouble::new(format!("it has more than {MOST_PINS} pins"))),
        }
    })?;
    pins.sort_by_cached_key(|pin: &Pin| pin.cid.to_string());
    pins.dedup_by(|one, other| one.cid == other.cid);
    Ok(pins)
}

/// The root of its files.
pub(crate) fn files_root(rpc: &Rpc) -> Result<Cid, Trouble> {
    file(rpc, "/")
}

/// What is at a path of its files.
pub(crate) fn file(rpc: &Rpc, path: &str) -> Result<Cid, Trouble> {
    let stat = rpc.json(Call::new("files/stat").arg(path))?;
    let cid = stat.get("Hash").and_then(Value::as_str).and_then(|cid| cid.parse().ok());
    cid.ok_or_else(|| Trouble::new("it does not say what is at a path of its files"))
}

/// The names of its keys, but for that of its identity.
pub(crate) fn key_names(rpc: &Rpc) -> Result<BTreeSet<String>, Trouble> {
    // Called so by every version. js-ipfs gives each one twice.
    let listed = rpc.json(Call::new("key/list"))?;
    let keys = listed.get("Keys").and_then(Value::as_array).cloned().unwrap_or_default();
    let names = keys.iter().filter_map(|key| key.get("Name").and_then(Value::as_str));
    Ok(names.filter(|name| *name != "self").map(str::to_owned).collect())
}

/// How many bytes the node says it may still take.
pub(crate) fn free_bytes(rpc: &Rpc) -> Result<u64, Trouble> {
    let stat = rpc.json(Call::new("repo/stat").with("size-only", "true"))?;
    // Kubo gives numbers, js-ipfs texts.
    let number = |name| match stat.get(name)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    let free =
        number("StorageMax").zip(number("RepoSize")).map(|(most, now): (u64, u64)| most.saturating_sub(now));
    free.ok_or_else(|| Trouble::new("it does not say how much it may hold"))
}

/// Gives every block that it has itself to `each`. Blocks.
pub(crate) fn local_blocks(
    rpc: &Rpc,
    mut each: impl FnMut(Cid) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    rpc.lines(Call::new("refs/local"), |line| {
        let cid = line.get("Ref").and_then(Value::as_str).and_then(|cid| cid.parse().ok());
        each(cid.ok_or_else(|| Trouble::new("it lists a block that is none"))?)
    })
}
