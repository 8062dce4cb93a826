//! GGUF, versions 2 and 3: a head, pairs of names and values, the list of tensors, the tensors.
//!
//! Names and values are skipped as they come; kept is where each tensor lies.

use super::Judged;
use super::stream::{Fields, Items, Next, Stream};

/// The most pairs, and the most tensors.
const MAX_ITEMS: u64 = 1 << 20;
/// As readers have it.
const MAX_NAME: u64 = 64 << 10;
const MAX_DIMENSIONS: u32 = 4;
/// Lists in lists, at most so deep.
const MAX_DEPTH: usize = 4;
/// What tensors are aligned to unless a pair says otherwise.
const USUAL_ALIGNMENT: u64 = 32;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A file whose bytes are coming.
#[derive(Debug)]
pub(super) struct Gguf {
    stream: Stream,
    parts: Parts,
}

#[derive(Debug)]
struct Parts {
    length: u64,
    state: State,
    pairs: u64,
    tensors: u64,
    alignment: u64,
    /// Of lists that are being read: the type of their values, and how many are to come.
    lists: Vec<(u32, u64)>,
    /// Where each tensor begins in the data, and how many bytes it has, if its type is known.
    places: Vec<(u64, Option<u64>)>,
    /// Where the data begins.
    data: Option<u64>,
    is_other: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Pairs,
    Tensors,
}

impl Gguf {
    pub(super) fn new(length: u64) -> Self {
        let parts = Parts {
            length,
            state: State::Head,
            pairs: 0,
            tensors: 0,
            alignment: USUAL_ALIGNMENT,
            lists: Vec::new(),
            places: Vec::new(),
            data: None,
            is_other: false,
        };
        Self { stream: Stream::default(), parts }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.feed(&mut self.parts, bytes)
    }

    pub(super) fn end(mut self) -> Vec<Judged> {
        // An empty list at the very end is not looked at before.
        self.stream.feed(&mut self.parts, &[]);
        let (at, wrong) = self.stream.finish();
        match (wrong, self.parts.data) {
            (Some(wrong), _) => vec![Judged::broken(wrong)],
            _ if self.parts.is_other => {
                vec![Judged::told("it is GGUF of a version or byte order that is not checked")]
            }
            (None, None) => vec![Judged::broken(format!("it ends within its header, at byte {at}"))],
            (None, Some(data)) => {
                let is_unknown = self.parts.places.iter().any(|(_, bytes)| bytes.is_none());
                match self.parts.places(data) {
                    Err(judged) => vec![judged],
                    Ok(()) if is_unknown => {
                        vec![Judged::told(
                            "it has tensors of a type that is not known here: their ends are not checked",
                        )]
                    }
                    Ok(()) => Vec::new(),
                }
            }
        }
    }
}

impl Items for Parts {
    fn item(&mut self, bytes: &[u8], at: u64) -> Next {
        match self.step(bytes, at) {
            Ok(Some(next)) => next,
            Ok(None) => Next::More,
            Err(wrong) => Next::Wrong(wrong),
        }
    }
}

impl Parts {
    fn step(&mut self, bytes: &[u8], at: u64) -> Result<Option<Next>, String> {
        match self.state {
            State::Head => self.head(bytes),
            State::Pairs => match self.lists.last().copied() {
                Some((_, 0)) => {
                    self.lists.pop();
                    self.step(bytes, at)
                }
                Some((kind, _)) => self.value(&mut Fields::of(bytes), kind, at, true),
                None if self.pairs == 0 => {
                    self.state = State::Tensors;
                    self.step(bytes, at)
                }
                None => self.pair(bytes, at),
            },
            State::Tensors if self.tensors == 0 => {
                self.data = Some(at.next_multiple_of(self.alignment));
                Ok(Some(Next::Enough))
            }
            State::Tensors => self.tensor(bytes, at),
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Option<Next>, String> {
        let mut fields = Fields::of(bytes);
        let Some(magic) = fields.take(4) else { return Ok(None) };
        if magic != b"GGUF" {
            return Err("it does not begin as GGUF".to_owned());
        }
        let (Some(version), Some(tensors), Some(pairs)) = (fields.u32(), fields.u64(), fields.u64()) else {
            return Ok(None);
        };
        if matches!(version, 1 | 4..=9) || matches!(version.swap_bytes(), 1..=9) {
            self.is_other = true;
            return Ok(Some(Next::Enough));
        }
        if !matches!(version, 2 | 3) {
            return Err(format!("it is GGUF of version {version}, which is not known here"));
        }
        if tensors > MAX_ITEMS || pairs > MAX_ITEMS {
            return Err(format!("it claims to have {tensors} tensors and {pairs} settings"));
        }
        (self.tensors, self.pairs, self.state) = (tensors, pairs, State::Pairs);
        Ok(Some(took(&fields, 0)))
    }

    fn pair(&mut self, bytes: &[u8], at: u64) -> Result<Option<Next>, String> {
        let mut fields = Fields::of(bytes);
        let Some(name) = name(&mut fields, at)? else { return Ok(None) };
        let Some(kind) = fields.u32() else { return Ok(None) };
        if name == b"general.alignment" {
            if kind != 4 {
                return Err("its alignment is not a number".to_owned());
            }
            let Some(alignment) = fields.u32() else { return Ok(None) };
            if !alignment.is_power_of_two() || alignment < 8 {
                return Err(format!("its alignment is {alignment}"));
            }
            self.alignment = alignment.into();
            self.pairs -= 1;
            return Ok(Some(took(&fields, 0)));
        }
        let next = self.value(&mut fields, kind, at, false)?;
        if next.is_some() {
            self.pairs -= 1;
        }
        Ok(next)
    }

    /// One value; `is_listed`: one of the innermost list.
    fn value(
        &mut self,
        fields: &mut Fields<'_>,
        kind: u32,
        at: u64,
        is_listed: bool,
    ) -> Result<Option<Next>, String> {
        let left = self.length.saturating_sub(at);
        let beyond = || format!("a setting goes beyond its end, from byte {at} on");
        let next = match kind {
            STRING => {
                let Some(length) = fields.u64() else { return Ok(None) };
                if length > left {
                    return Err(beyond());
                }
                took(fields, length)
            }
            ARRAY => {
                let (Some(of), Some(count)) = (fields.u32(), fields.u64()) else { return Ok(None) };
                if is_listed {
                    self.counted();
                }
                if let Some(size) = size(of) {
                    let bytes = count.checked_mul(size).filter(|bytes| *bytes <= left).ok_or_else(beyond)?;
                    return Ok(Some(took(fields, bytes)));
                }
                if !matches!(of, STRING | ARRAY) || self.lists.len() >= MAX_DEPTH || count > left {
                    return Err(format!("it has a list of an unknown type at byte {at}"));
                }
                self.lists.push((of, count));
                return Ok(Some(took(fields, 0)));
            }
            other => {
                let size =
                    size(other).ok_or_else(|| format!("it has a setting of an unknown type at byte {at}"))?;
                if size > left {
                    return Err(beyond());
                }
                took(fields, size)
            }
        };
        if is_listed {
            self.counted();
        }
        Ok(Some(next))
    }

    fn counted(&mut self) {
        if let Some((_, count)) = self.lists.last_mut() {
            *count -= 1;
        }
    }

    fn tensor(&mut self, bytes: &[u8], at: u64) -> Result<Option<Next>, String> {
        let mut fields = Fields::of(bytes);
        if name(&mut fields, at)?.is_none() {
            return Ok(None);
        }
        let Some(dimensions) = fields.u32() else { return Ok(None) };
        if dimensions > MAX_DIMENSIONS {
            return Err(format!("it has a tensor of {dimensions} dimensions at byte {at}"));
        }
        let mut elements = Some(1_u64);
        let mut row = 1;
        for place in 0..dimensions {
            let Some(side) = fields.u64() else { return Ok(None) };
            row = if place == 0 { side } else { row };
            elements = elements.and_then(|all| all.checked_mul(side));
        }
        let (Some(kind), Some(offset)) = (fields.u32(), fields.u64()) else { return Ok(None) };
        let elements = elements.ok_or_else(|| format!("it has a tensor beyond all measure at byte {at}"))?;
        let bytes = match block(kind) {
            None => None,
            Some((each, _)) if row % each != 0 => {
                return Err(format!("it has a tensor whose rows do not fit its type at byte {at}"));
            }
            Some((each, size)) => {
                let bytes = (elements / each).checked_mul(size);
                Some(bytes.ok_or_else(|| format!("it has a tensor beyond all measure at byte {at}"))?)
            }
        };
        if offset % self.alignment != 0 {
            return Err(format!("it has a tensor that is not aligned at byte {at}"));
        }
        self.places.push((offset, bytes));
        self.tensors -= 1;
        Ok(Some(took(&fields, 0)))
    }

    /// Each tensor lies in the file, and none on another.
    fn places(mut self, data: u64) -> Result<(), Judged> {
        self.places.sort_unstable();
        let room = self.length.saturating_sub(data);
        let mut before = 0;
        for (begin, bytes) in self.places {
            if begin < before {
                return Err(Judged::broken(format!("its tensors overlap at byte {begin} of its data")));
            }
            before = begin.saturating_add(bytes.unwrap_or(0));
            if before > room {
                let what = format!("a tensor ends at byte {before} of its data, which has {room}");
                return Err(Judged::broken(what));
            }
        }
        Ok(())
    }
}

fn took(fields: &Fields<'_>, skip: u64) -> Next {
    Next::Took { take: fields.used(), skip }
}

fn name<'a>(fields: &mut Fields<'a>, at: u64) -> Result<Option<&'a [u8]>, String> {
    let Some(length) = fields.u64() else { return Ok(None) };
    if length > MAX_NAME {
        return Err(format!("it has a name of {length} bytes at byte {at}"));
    }
    let Some(name) = fields.take(length as usize) else { return Ok(None) };
    if std::str::from_utf8(name).is_err() {
        return Err(format!("it has a name that is no text at byte {at}"));
    }
    Ok(Some(name))
}

/// Bytes of a value of a simple type.
fn size(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// Of a tensor's type: the elements of a block and its bytes.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        _ => return None,
    })
}
