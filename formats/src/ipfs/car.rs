//! CAR, version 1: a header with roots, then blocks, each with its length and its CID before it.

use super::block::Cid;
use super::{MAX_BLOCK, cbor};

/// The longest CID.
const MAX_CID: usize = 160;
/// The longest header: some 25,000 roots.
const MAX_HEADER: usize = 1 << 20;

/// The header of a file whose roots are these.
pub fn header(roots: &[Cid]) -> Vec<u8> {
    let mut map = vec![0xa2, 0x65];
    map.extend(b"roots");
    cbor_head(&mut map, 4, roots.len() as u64);
    for root in roots {
        let cid = root.to_bytes();
        map.extend([0xd8, 42]);
        cbor_head(&mut map, 2, cid.len() as u64 + 1);
        map.push(0);
        map.extend(cid);
    }
    map.push(0x67);
    map.extend(b"version");
    map.push(1);
    let mut header = Vec::with_capacity(map.len() + 5);
    push_varint(&mut header, map.len() as u64);
    header.extend(map);
    header
}

/// What comes before a block of `length` bytes.
pub fn section_head(cid: &Cid, length: usize) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut head = Vec::with_capacity(cid.len() + 5);
    push_varint(&mut head, (cid.len() + length) as u64);
    head.extend(cid);
    head
}

fn cbor_head(to: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    match number {
        0..24 => to.push(major | number as u8),
        24..0x100 => to.extend([major | 24, number as u8]),
        0x100..0x1_0000 => {
            to.push(major | 25);
            to.extend((number as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            to.push(major | 26);
            to.extend((number as u32).to_be_bytes());
        }
        _ => {
            to.push(major | 27);
            to.extend(number.to_be_bytes());
        }
    }
}

pub(super) fn push_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// The number that `bytes` begin with, and the rest; `None` if it is not whole, or is none.
pub(super) fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        number |= part.checked_shl(7 * at as u32).filter(|shifted| shifted >> (7 * at) == part)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

/// A file of blocks is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongCar {
    /// Where.
    pub offset: u64,
    /// Why.
    pub what: &'static str,
}

impl std::fmt::Display for WrongCar {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "it is no file of blocks: {} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for WrongCar {}

/// A block with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The name.
    pub cid: Cid,
    /// The bytes, which may be others than the name says.
    pub block: Vec<u8>,
    /// It is the first root.
    pub is_root: bool,
}

/// Takes a file apart as its bytes come. It holds no more than a block, or the header.
#[derive(Debug, Default)]
pub struct CarReader {
    held: Vec<u8>,
    /// Where what is held begins.
    offset: u64,
    has_header: bool,
    root: Option<Cid>,
}

impl CarReader {
    /// The first root, once the header has come.
    pub fn root(&self) -> Option<&Cid> {
        self.root.as_ref()
    }

    /// Takes the next bytes and gives each whole block to `each`, until that says false.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Section) -> bool,
    ) -> Result<bool, WrongCar> {
        loop {
            let (needed, most) = (self.needed()?, bytes.len());
            if self.held.len() < needed {
                let take = (needed - self.held.len()).min(most);
                self.held.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if take == 0 {
                    return Ok(true);
                }
                continue;
            }
            let (length, rest) = read_varint(&self.held).ok_or(self.wrong("a length that is none"))?;
            let (end, body) = (self.held.len(), self.held.len() - rest.len());
            debug_assert_eq!(length as usize, end - body, "no more is held than one section");
            let section = match self.has_header {
                true => Some(self.section(body)?),
                false => None,
            };
            if !self.has_header {
                let header = &self.held[body..];
                if !header.windows(9).any(|part| part == b"gversion\x01") {
                    return Err(self.wrong("a header of another version"));
                }
                let roots = cbor::links(header).map_err(|_| self.wrong("a header that is none"))?;
                self.root = roots.first().copied();
            }
            self.has_header = true;
            self.offset += end as u64;
            self.held.clear();
            if let Some(section) = section
                && !each(section)
            {
                return Ok(false);
            }
        }
    }

    /// The file has ended.
    pub fn end(&self) -> Result<(), WrongCar> {
        match (self.has_header, self.held.is_empty()) {
            (true, true) => Ok(()),
            _ => Err(self.wrong("its end in the middle of something")),
        }
    }

    /// How many bytes have to be held before the next step.
    fn needed(&self) -> Result<usize, WrongCar> {
        let Some((length, rest)) = read_varint(&self.held) else {
            return match self.held.len() {
                10.. => Err(self.wrong("a length that is none")),
                held => Ok(held + 1),
            };
        };
        let limit = if self.has_header { MAX_BLOCK + MAX_CID } else { MAX_HEADER };
        match usize::try_from(length).ok().filter(|length| (1..=limit).contains(length)) {
            Some(length) => Ok(self.held.len() - rest.len() + length),
            None => Err(self.wrong("an impossible length")),
        }
    }

    fn section(&self, body: usize) -> Result<Section, WrongCar> {
        let mut rest = &self.held[body..];
        let cid = Cid::read_bytes(&mut rest).map_err(|_| self.wrong("no CID"))?;
        Ok(Section { cid, block: rest.to_vec(), is_root: self.root == Some(cid) })
    }

    fn wrong(&self, what: &'static str) -> WrongCar {
        WrongCar { offset: self.offset, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs::{codec, named};
    use proptest::prelude::*;

    fn cid(bytes: &[u8]) -> Cid {
        named(codec::RAW, bytes)
    }

    fn car(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut car = header(&[cid(b"root")]);
        for block in blocks {
            car.extend(section_head(&cid(block), block.len()));
            car.extend(block);
        }
        car
    }

    #[test]
    fn the_header_is_that_of_other_writers() {
        // `ipfs dag export` of the empty folder, by Kubo.
        let empty: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("a CID");
        let mut expected = vec![0x38, 0xa2, 0x65];
        expected.extend(b"roots\x81\xd8\x2a\x58\x23\x00");
        expected.extend(empty.to_bytes());
        expected.extend(b"gversion\x01");
        assert_eq!(header(&[empty]), expected);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_comes(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            parts in 1_usize..50,
        ) {
            let car = car(&blocks);
            let (mut reader, mut read) = (CarReader::default(), Vec::new());
            for part in car.chunks(parts) {
                reader.read(part, |section| { read.push(section); true }).expect("read");
            }
            prop_assert_eq!(reader.end(), Ok(()));
            prop_assert_eq!(reader.root(), Some(&cid(b"root")));
            let expected: Vec<_> =
                blocks.into_iter().map(|block| Section { cid: cid(&block), is_root: block == b"root", block }).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn other_bytes_are_an_error_and_no_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            is_begun in any::<bool>(),
        ) {
            if is_begun {
                let mut begun = car(&[b"x".to_vec()]);
                begun.append(&mut bytes);
                bytes = begun;
            }
            let mut reader = CarReader::default();
            let _ = reader.read(&bytes, |_| true).map(|_| reader.end());
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_told() {
        let car = car(&[b"some block".to_vec()]);
        for cut in 0..car.len() {
            let mut reader = CarReader::default();
            reader.read(&car[..cut], |_| true).expect("nothing is wrong yet");
            let header = header(&[cid(b"root")]).len();
            assert_eq!(reader.end().is_ok(), cut == header, "{cut}");
        }
    }
}
