//! DAG-PB: a list of links and some bytes, as Protocol Buffers; and what UnixFS makes of it.

use super::block::Cid;
use super::links::{Unreadable, add};

const WRONG: Unreadable = Unreadable("it is not DAG-PB");

/// A block of files or folders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    pub(super) links: Vec<Link>,
    data: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) cid: Cid,
    name: Vec<u8>,
}

/// What a folder's block lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// Names, and what lies there.
    Plain(Vec<(Vec<u8>, Cid)>),
    /// A part of a large folder: names, and blocks that list more.
    Shard(Vec<(Vec<u8>, Cid)>, Vec<Cid>),
}

impl Node {
    /// Reads a block.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut node = Self::default();
        let mut fields = Fields(bytes);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (1, Value::Bytes(bytes)) => node.data = bytes.to_vec(),
                (2, Value::Bytes(bytes)) => add(&mut node.links, link(bytes)?)?,
                _ => return Err(WRONG),
            }
        }
        Ok(node)
    }

    /// What it lists, if it is a folder or a part of one.
    pub fn directory(&self) -> Option<Directory> {
        let (mut kind, mut fanout) = (None, 256);
        let mut fields = Fields(&self.data);
        while let Ok(Some((field, value))) = fields.next() {
            match (field, value) {
                (1, Value::Number(number)) => kind = Some(number),
                (6, Value::Number(number)) => fanout = number,
                _ => {}
            }
        }
        let named = |link: &Link| (link.name.clone(), link.cid);
        match kind {
            Some(1) => Some(Directory::Plain(self.links.iter().map(named).collect())),
            Some(5) => {
                // Each name begins with its place in the shard; one that is no more than that is a shard.
                let width = format!("{:X}", u64::saturating_sub(fanout, 1)).len();
                let (shards, names): (Vec<_>, Vec<_>) =
                    self.links.iter().partition(|link| link.name.len() <= width);
                let names = names.into_iter().map(|link| (link.name[width..].to_vec(), link.cid));
                Some(Directory::Shard(names.collect(), shards.into_iter().map(|link| link.cid).collect()))
            }
            _ => None,
        }
    }
}

/// A block that links to `links`, whose names are in order, and holds `data`.
pub fn node(links: &[(&str, Cid)], data: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, cid) in links {
        let mut link = Vec::new();
        bytes_field(&mut link, 1, &cid.to_bytes());
        bytes_field(&mut link, 2, name.as_bytes());
        // How much lies below: of no interest to whoever made this one.
        link.extend([3 << 3, 0]);
        bytes_field(&mut block, 2, &link);
    }
    bytes_field(&mut block, 1, data);
    block
}

fn bytes_field(to: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    to.push(field << 3 | 2);
    super::car::push_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn link(bytes: &[u8]) -> Result<Link, Unreadable> {
    let (mut cid, mut name) = (None, Vec::new());
    let mut fields = Fields(bytes);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(bytes)) => cid = Some(Cid::try_from(bytes).map_err(|_| WRONG)?),
            (2, Value::Bytes(bytes)) => name = bytes.to_vec(),
            (3, Value::Number(_)) => {}
            _ => return Err(WRONG),
        }
    }
    Ok(Link { cid: cid.ok_or(WRONG)?, name })
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Unreadable> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(WRONG),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn number(&mut self) -> Result<u64, Unreadable> {
        let (number, rest) = super::car::read_varint(self.0).ok_or(WRONG)?;
        self.0 = rest;
        Ok(number)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len()).ok_or(WRONG)?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs::{codec, named};

    #[test]
    fn folders_and_shards_of_folders_list_their_names() {
        let cid = named(codec::RAW, b"x");
        let folder = node(&[("a", cid), ("b c", cid)], &[8, 1]);
        let names = vec![(b"a".to_vec(), cid), (b"b c".to_vec(), cid)];
        assert_eq!(Node::read(&folder).expect("read").directory(), Some(Directory::Plain(names)));
        // Type 5, fan-out 256.
        let shard = node(&[("0F", cid), ("A0name", cid)], &[8, 5, 0x30, 0x80, 2]);
        let expected = Directory::Shard(vec![(b"name".to_vec(), cid)], vec![cid]);
        assert_eq!(Node::read(&shard).expect("read").directory(), Some(expected));
        let file = node(&[("", cid)], &[8, 2]);
        assert_eq!(Node::read(&file).expect("read").directory(), None);
        for cut in 1..folder.len() {
            let _ = Node::read(&folder[..cut]).map(|node| node.directory());
        }
    }
}
