//! What a block links to.

use serde_json::Value;

use super::block::{Cid, held_by_name, is_leaf};
use super::{cbor, codec, dag_pb};

/// A block of [`super::MAX_BLOCK`] cannot link to more by whole hashes; one that does by shorter ones is not followed,
/// since each link takes 150 bytes of memory.
const MOST: usize = 256 << 10;

const TOO_MANY: Unreadable = Unreadable("it links to more blocks than one can by whole hashes");

/// Adds a link, unless there are too many.
pub(super) fn add<T>(links: &mut Vec<T>, link: T) -> Result<(), Unreadable> {
    if links.len() == MOST {
        return Err(TOO_MANY);
    }
    links.push(link);
    Ok(())
}

/// A block's links cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(pub(super) &'static str);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(self.0)
    }
}

/// The blocks that the block `cid` with these bytes links to, in their order, without those whose names hold
/// their bytes and link to nothing.
pub fn links(cid: &Cid, bytes: &[u8]) -> Result<Vec<Cid>, Unreadable> {
    let links = match cid.codec() {
        _ if is_leaf(cid) => Vec::new(),
        codec::DAG_PB => dag_pb::Node::read(bytes)?.links.into_iter().map(|link| link.cid).collect(),
        codec::DAG_CBOR => cbor::links(bytes)?,
        codec::DAG_JSON => json(bytes)?,
        _ => return Err(Unreadable("its links are of a kind that is not known here")),
    };
    Ok(links.into_iter().filter(|link| held_by_name(link).is_none() || !is_leaf(link)).collect())
}

/// As [`links`], but of the blocks that there are: instead of a name that holds its bytes comes what those link to.
pub fn linked(cid: &Cid, bytes: &[u8]) -> Result<Vec<Cid>, Unreadable> {
    // A name within a name is shorter than that, so this ends soon.
    let (mut blocks, mut left) = (Vec::new(), links(cid, bytes)?);
    left.reverse();
    while let Some(link) = left.pop() {
        match held_by_name(&link) {
            None => add(&mut blocks, link)?,
            Some(bytes) => {
                let within = links(&link, bytes)?;
                if left.len() + within.len() > MOST {
                    return Err(TOO_MANY);
                }
                left.extend(within.into_iter().rev());
            }
        }
    }
    Ok(blocks)
}

/// Links of DAG-JSON: `{"/": "a CID"}`.
fn json(bytes: &[u8]) -> Result<Vec<Cid>, Unreadable> {
    let wrong = Unreadable("it is not DAG-JSON");
    let value: Value = serde_json::from_slice(bytes).map_err(|_| wrong)?;
    let (mut links, mut left) = (Vec::new(), vec![&value]);
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values.iter().rev()),
            Value::Object(fields) => match (fields.len(), fields.get("/")) {
                (1, Some(Value::String(cid))) => add(&mut links, cid.parse().map_err(|_| wrong)?)?,
                // Bytes.
                (1, Some(Value::Object(_))) => {}
                _ => left.extend(fields.values().rev()),
            },
            _ => {}
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs::block::Hash;
    use crate::ipfs::named;

    #[test]
    fn a_block_of_very_many_short_links_is_not_followed() {
        let short = Cid::new_v1(codec::RAW, Hash::wrap(0x12, b"").expect("short"));
        let block = |count| dag_pb::node(&vec![("", short); count], b"");
        let followed = |block: &[u8]| linked(&named(codec::DAG_PB, block), block).map(|links| links.len());
        assert_eq!(followed(&block(MOST)), Ok(MOST));
        assert_eq!(followed(&block(MOST + 1)), Err(TOO_MANY));
        let block = format!("[{}]", vec![format!(r#"{{"/":"{short}"}}"#); MOST + 1].join(","));
        assert!(linked(&named(codec::DAG_JSON, block.as_bytes()), block.as_bytes()).is_err());
    }

    #[test]
    fn links_are_found_in_each_format() {
        let (leaf, other) = (named(codec::RAW, b"leaf"), named(codec::DAG_CBOR, b"other"));
        let json =
            format!(r#"{{"a":[{{"/":"{leaf}"}},{{"/":{{"bytes":"AA"}}}}],"b":{{"c":{{"/":"{other}"}}}}}}"#);
        assert_eq!(links(&named(codec::DAG_JSON, json.as_bytes()), json.as_bytes()), Ok(vec![leaf, other]));
        let pb = dag_pb::node(&[("x", leaf), ("y", other)], b"data");
        assert_eq!(links(&named(codec::DAG_PB, &pb), &pb), Ok(vec![leaf, other]));
        assert_eq!(links(&named(codec::RAW, b"\xff"), b"\xff"), Ok(vec![]));
        assert!(links(&named(codec::DAG_PB, b"\xff"), b"\xff").is_err());
        assert!(links(&named(0x78, b""), b"").is_err(), "git");
        assert_eq!(links(&named(codec::CBOR, b"\xf6"), b"\xf6"), Ok(vec![]));
        // A name that holds its bytes is no block that could be missing.
        let identity = Cid::new_v1(codec::RAW, Hash::wrap(0, b"tiny").expect("short"));
        let pb = dag_pb::node(&[("i", identity)], b"");
        assert_eq!(links(&named(codec::DAG_PB, &pb), &pb), Ok(vec![]));
        // But one with links leads to blocks.
        let inner = dag_pb::node(&[("o", other), ("i", identity)], b"");
        let identity = Cid::new_v1(codec::DAG_PB, Hash::wrap(0, &inner).expect("short"));
        let pb = dag_pb::node(&[("x", leaf), ("i", identity), ("y", leaf)], b"");
        assert_eq!(links(&named(codec::DAG_PB, &pb), &pb), Ok(vec![leaf, identity, leaf]));
        assert_eq!(linked(&named(codec::DAG_PB, &pb), &pb), Ok(vec![leaf, other, leaf]));
        assert_eq!(linked(&identity, &inner), Ok(vec![other]));
    }
}
