//! Checkpoints of PyTorch in a zip: the list at the end names each part, where it begins and its length.
//!
//! What it holds as pickle is never loaded. The list is at the end and the parts come before it: kept are the
//! file's last bytes, and where local heads begin.

use super::Judged;
use super::stream::Fields;

/// The longest list that is checked.
const MAX_TAIL: usize = 16 << 20;
/// The most parts.
const MAX_PARTS: usize = 500_000;
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const LISTED: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
/// The shortest local head.
const LOCAL_BYTES: u64 = 30;

/// A file whose bytes are coming.
#[derive(Debug, Default)]
pub(super) struct Zip {
    length: u64,
    seen: u64,
    /// The last bytes, up to twice the limit.
    tail: Vec<u8>,
    /// The last bytes of the piece before, in which a head may begin.
    border: Vec<u8>,
    heads: Vec<u64>,
    too_many: bool,
}

struct Part {
    head: u64,
    bytes: u64,
    name_length: u64,
    is_pickle: bool,
    is_version: bool,
}

struct List {
    at: u64,
    bytes: u64,
    parts: u64,
}

impl Zip {
    pub(super) fn new(length: u64) -> Self {
        Self { length, ..Self::default() }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(1 << 20) {
            self.piece(piece);
        }
    }

    fn piece(&mut self, bytes: &[u8]) {
        let begins = self.seen - self.border.len() as u64;
        let joined = [self.border.as_slice(), &bytes[..bytes.len().min(3)]].concat();
        self.look(&joined, begins, self.border.len());
        self.look(bytes, self.seen, bytes.len());
        let keep = 3.min(bytes.len());
        self.border.extend_from_slice(&bytes[bytes.len() - keep..]);
        let surplus = self.border.len().saturating_sub(3);
        self.border.drain(..surplus);
        self.seen += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * MAX_TAIL {
            self.tail.drain(..self.tail.len() - MAX_TAIL);
        }
    }

    /// Notes the heads that begin within the first `up_to` bytes.
    fn look(&mut self, bytes: &[u8], at: u64, up_to: usize) {
        let places = bytes.iter().take(up_to).enumerate().filter(|(_, byte)| **byte == b'P');
        for (place, _) in places {
            if bytes[place..].starts_with(&LOCAL) {
                if self.heads.len() >= 2 * MAX_PARTS {
                    self.too_many = true;
                    return;
                }
                self.heads.push(at + place as u64);
            }
        }
    }

    pub(super) fn end(self) -> Vec<Judged> {
        match self.judge() {
            Ok(told) => told,
            Err(wrong) => vec![wrong],
        }
    }

    fn judge(&self) -> Result<Vec<Judged>, Judged> {
        let tail_begins = self.length.saturating_sub(self.tail.len() as u64);
        let list = self.list(tail_begins)?;
        if list.at < tail_begins || list.parts > MAX_PARTS as u64 || self.too_many {
            return Ok(vec![Judged::told("its list of parts is too long to be checked")]);
        }
        let begins = (list.at - tail_begins) as usize;
        let text = begins.checked_add(list.bytes as usize).and_then(|end| self.tail.get(begins..end));
        let text = text.ok_or_else(|| Judged::broken("its list of parts is cut off"))?;
        let mut fields = Fields::of(text);
        let mut parts = Vec::new();
        for number in 1..=list.parts {
            let part = part(&mut fields).ok_or_else(|| {
                Judged::broken(format!("its list of parts is damaged at part {number} of {}", list.parts))
            })?;
            parts.push(part);
        }
        if fields.used() != text.len() {
            return Err(Judged::broken("its list of parts is longer than it says"));
        }
        self.parts(&mut parts, list.at)
    }

    fn parts(&self, parts: &mut [Part], list_at: u64) -> Result<Vec<Judged>, Judged> {
        parts.sort_by_key(|part| part.head);
        let mut before = 0;
        for part in &*parts {
            if self.heads.binary_search(&part.head).is_err() {
                return Err(Judged::broken(format!(
                    "no part begins at byte {}, where its list says so",
                    part.head
                )));
            }
            if part.head < before {
                return Err(Judged::broken(format!("its parts overlap at byte {}", part.head)));
            }
            before = (part.head + LOCAL_BYTES + part.name_length).saturating_add(part.bytes);
            if before > list_at {
                return Err(Judged::broken(format!(
                    "the part at byte {} goes beyond the parts' end",
                    part.head
                )));
            }
        }
        if !parts.iter().any(|part| part.is_pickle) {
            return Ok(vec![Judged::told("it is a zip and no checkpoint of PyTorch: it has no data.pkl")]);
        }
        if !parts.iter().any(|part| part.is_version) {
            return Err(Judged::broken("it has no part `version`, without which PyTorch does not take it"));
        }
        Ok(vec![Judged::told(
            "it holds pickle, which can run code when it is loaded: load it with weights_only",
        )])
    }

    /// Where the list of parts lies.
    fn list(&self, tail_begins: u64) -> Result<List, Judged> {
        let cut_off =
            || Judged::broken("it is cut off: a zip ends with a list of its parts, and there is none");
        let from = self.tail.len().saturating_sub(22 + 0xffff);
        let mut places = (from..self.tail.len().saturating_sub(21)).rev();
        let at = places.find(|at| self.tail[*at..].starts_with(&END.to_le_bytes())).ok_or_else(cut_off)?;
        let mut fields = Fields::of(&self.tail[at + 4..]);
        let (disks, here) = (fields.u32(), fields.u16());
        let (all, bytes, begins) = (fields.u16(), fields.u32(), fields.u32());
        let (Some(disks), Some(here), Some(all), Some(bytes), Some(begins), Some(comment)) =
            (disks, here, all, bytes, begins, fields.u16())
        else {
            return Err(cut_off());
        };
        let damaged = || Judged::broken("the end of its list of parts is damaged");
        if at + 22 + usize::from(comment) != self.tail.len() {
            return Err(damaged());
        }
        let end_at = tail_begins + at as u64;
        // PyTorch writes the long form always.
        let locator = at.checked_sub(20).map(|at| &self.tail[at..]);
        let list = match locator.filter(|tail| tail.starts_with(&LOCATOR_64.to_le_bytes())) {
            None if disks != 0 || here != all || all == 0xffff || begins == u32::MAX => return Err(damaged()),
            None => List { at: begins.into(), bytes: bytes.into(), parts: all.into() },
            Some(locator) => {
                let mut fields = Fields::of(locator.get(8..).unwrap_or_default());
                let place =
                    fields.u64().and_then(|place| place.checked_sub(tail_begins)).ok_or_else(damaged)?;
                let long = usize::try_from(place)
                    .ok()
                    .and_then(|place| self.tail.get(place..))
                    .ok_or_else(damaged)?;
                let list = long_end(long).ok_or_else(damaged)?;
                let is_short = |short: u64, long: u64, marks: u64| short == marks || short == long;
                if place + 56 != (at - 20) as u64
                    || !is_short(all.into(), list.parts, 0xffff)
                    || !is_short(bytes.into(), list.bytes, u32::MAX.into())
                    || !is_short(begins.into(), list.at, u32::MAX.into())
                {
                    return Err(damaged());
                }
                if list.at.checked_add(list.bytes) != Some(tail_begins + place) {
                    return Err(damaged());
                }
                return Ok(list);
            }
        };
        if list.at + list.bytes != end_at {
            return Err(damaged());
        }
        Ok(list)
    }
}

fn long_end(bytes: &[u8]) -> Option<List> {
    let mut fields = Fields::of(bytes);
    if fields.u32()? != END_64 || fields.u64()? != 44 {
        return None;
    }
    fields.take(4)?;
    let disks = (fields.u32()?, fields.u32()?);
    let (here, parts) = (fields.u64()?, fields.u64()?);
    let (bytes, at) = (fields.u64()?, fields.u64()?);
    (disks == (0, 0) && here == parts).then_some(List { at, bytes, parts })
}

fn part(fields: &mut Fields<'_>) -> Option<Part> {
    if fields.u32()? != LISTED {
        return None;
    }
    fields.take(6)?;
    let method = fields.u16()?;
    fields.take(8)?;
    let (packed, plain) = (fields.u32()?, fields.u32()?);
    let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
    fields.take(8)?;
    let head = fields.u32()?;
    let name = fields.take(name.into())?;
    let extra = fields.take(extra.into())?;
    fields.take(comment.into())?;
    let mut long = long_fields(extra, [plain, packed, head])?.into_iter();
    let (plain, packed, head) = (long.next()?, long.next()?, long.next()?);
    let is_stored = method == 0;
    let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    (matches!(method, 0 | 8) && (!is_stored || plain == packed)).then_some(Part {
        head,
        bytes: packed,
        name_length: name.len() as u64,
        is_pickle: last == b"data.pkl" || last == b"constants.pkl",
        is_version: last == b"version",
    })
}

/// The fields in their long form, where the short one says that there is one.
fn long_fields(extra: &[u8], short: [u32; 3]) -> Option<[u64; 3]> {
    let mut all = short.map(u64::from);
    if !short.contains(&u32::MAX) {
        return Some(all);
    }
    let mut fields = Fields::of(extra);
    loop {
        let (id, length) = (fields.u16()?, fields.u16()?);
        let value = fields.take(length.into())?;
        if id == 1 {
            let mut value = Fields::of(value);
            for (long, short) in all.iter_mut().zip(short) {
                if short == u32::MAX {
                    *long = value.u64()?;
                }
            }
            return Some(all);
        }
    }
}
