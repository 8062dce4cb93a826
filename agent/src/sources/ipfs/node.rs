//! What a node says of itself: its pins, the root of its files, what it has.

use formats::ipfs::Cid;
use serde_json::Value;

use super::rpc::{Call, Rpc, Trouble};

/// How often pins and files are looked at until nothing has changed meanwhile.
const LOOKS: usize = 3;
/// The most pins that are taken: a few hundred bytes of memory for each one.
const MOST_PINS: usize = 4 << 20;

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
        // What was written to the files is not in their root before that.
        rpc.json(Call::new("files/flush").arg("/")).map(drop).or_else(not_known)?;
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

/// What a node does not know is done some other way, or not needed.
fn not_known(trouble: Trouble) -> Result<(), Trouble> {
    if trouble.is_connection { Err(trouble) } else { Ok(()) }
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
    let stat = rpc.json(Call::new("files/stat").arg("/"))?;
    let root = stat.get("Hash").and_then(Value::as_str).and_then(|cid| cid.parse().ok());
    root.ok_or_else(|| Trouble::new("it does not say what the root of its files is"))
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
