//! DAG-CBOR: items within items; a link is a byte string under tag 42, with a zero before the CID.

use super::block::Cid;
use super::links::{Unreadable, add};

const WRONG: Unreadable = Unreadable("it is not DAG-CBOR");
const LINK: u64 = 42;

/// The links, in their order.
pub(super) fn links(bytes: &[u8]) -> Result<Vec<Cid>, Unreadable> {
    let (mut links, mut rest) = (Vec::new(), bytes);
    // How many items are still to come: an item with others in it is over when they are.
    let mut due = 1_u64;
    let mut after_tag = false;
    while due > 0 {
        due -= 1;
        let (major, number) = head(&mut rest)?;
        let is_link = std::mem::take(&mut after_tag);
        match major {
            2 | 3 => {
                let length = usize::try_from(number).ok().filter(|length| *length <= rest.len());
                let (content, behind) = rest.split_at(length.ok_or(WRONG)?);
                rest = behind;
                if is_link {
                    let (0, Some(cid)) = (content.first().copied().unwrap_or(1), content.get(1..)) else {
                        return Err(WRONG);
                    };
                    add(&mut links, Cid::try_from(cid).map_err(|_| WRONG)?)?;
                }
            }
            4 | 5 => {
                let items = number.checked_mul(u64::from(major) - 3).ok_or(WRONG)?;
                due = due.checked_add(items).ok_or(WRONG)?;
            }
            6 => {
                after_tag = number == LINK;
                due = due.checked_add(1).ok_or(WRONG)?;
            }
            _ => {}
        }
        // Each item takes a byte at least.
        if due > rest.len() as u64 {
            return Err(WRONG);
        }
    }
    if rest.is_empty() { Ok(links) } else { Err(WRONG) }
}

/// Passes over the next item with all that is in it.
pub(super) fn skip(rest: &mut &[u8]) -> Result<(), Unreadable> {
    let mut due = 1_u64;
    while due > 0 {
        due -= 1;
        let (major, number) = head(rest)?;
        match major {
            2 | 3 => {
                let length = usize::try_from(number).map_err(|_| WRONG)?;
                *rest = rest.get(length..).ok_or(WRONG)?;
            }
            4 | 5 => {
                let items = number.checked_mul(u64::from(major) - 3).ok_or(WRONG)?;
                due = due.checked_add(items).ok_or(WRONG)?;
            }
            6 => due += 1,
            _ => {}
        }
        // Each item takes a byte at least.
        if due > rest.len() as u64 {
            return Err(WRONG);
        }
    }
    Ok(())
}

/// The kind of the next item, and its number, length or count. Lengths that come later are not DAG-CBOR.
pub(super) fn head(rest: &mut &[u8]) -> Result<(u8, u64), Unreadable> {
    let (first, behind) = rest.split_first().ok_or(WRONG)?;
    let width = match first & 31 {
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        small if small < 24 => 0,
        _ => return Err(WRONG),
    };
    let (number, behind) = behind.split_at_checked(width).ok_or(WRONG)?;
    *rest = behind;
    let number = match width {
        0 => u64::from(first & 31),
        _ => number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    };
    Ok((first >> 5, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_wherever_they_are() {
        let cid = crate::ipfs::named(0x71, b"x");
        let mut link = vec![0xd8, 42, 0x58, 37, 0];
        link.extend(cid.to_bytes());
        // {"a": [link, 1.5], "b": link, "c": h'2a', "d": null}
        let mut bytes = vec![0xa4, 0x61, b'a', 0x82];
        bytes.extend(&link);
        bytes.extend([0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 0x61, b'b']);
        bytes.extend(&link);
        bytes.extend([0x61, b'c', 0x41, 0x2a, 0x61, b'd', 0xf6]);
        assert_eq!(links(&bytes), Ok(vec![cid, cid]));
        for cut in 0..bytes.len() {
            assert_eq!(links(&bytes[..cut]), Err(WRONG), "{cut}");
        }
        // A claim of more than there can be, nested without an end, and something behind the end.
        assert_eq!(links(&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255]), Err(WRONG));
        assert_eq!(links(&vec![0x81; 100_000]), Err(WRONG));
        assert_eq!(links(&[0xf6, 0xf6]), Err(WRONG));
    }
}
