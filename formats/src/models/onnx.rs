//! ONNX: a protobuf message. Walked are the model, its graph and the graph's initial tensors; a tensor's
//! bytes may lie in a file beside it.

use super::stream::{Fields, Items, Next, Stream};
use super::{External, Judged};

/// The most parts outside of the file that are remembered.
const MAX_EXTERNAL: usize = 20_000;
/// The longest text of a reference to another file.
const MAX_TEXT: u64 = 4 << 10;
const MAX_DIMENSIONS: usize = 1 << 10;

/// A file whose bytes are coming.
#[derive(Debug)]
pub(super) struct Onnx {
    stream: Stream,
    walk: Walk,
}

#[derive(Debug)]
struct Walk {
    length: u64,
    /// The messages that are open, the innermost last, and where each ends.
    open: Vec<(Message, u64)>,
    has_graph: bool,
    has_version: bool,
    has_operators: bool,
    tensors: u64,
    tensor: Tensor,
    pair: (Vec<u8>, Vec<u8>),
    external: Vec<External>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Tensor,
    /// A name and a value of where a tensor's bytes lie.
    Pair,
    /// Dimensions, one varint after the other.
    Dimensions,
}

#[derive(Debug, Default)]
struct Tensor {
    elements: Option<u64>,
    dimensions: usize,
    kind: u64,
    raw: Option<u64>,
    is_external: bool,
    location: Vec<u8>,
    offset: u64,
    bytes: Option<u64>,
}

impl Onnx {
    pub(super) fn new(length: u64) -> Self {
        let walk = Walk {
            length,
            open: vec![(Message::Model, length)],
            has_graph: false,
            has_version: false,
            has_operators: false,
            tensors: 0,
            tensor: Tensor::default(),
            pair: Default::default(),
            external: Vec::new(),
        };
        Self { stream: Stream::default(), walk }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.feed(&mut self.walk, bytes)
    }

    /// What is wrong with it, and which parts of other files it needs.
    pub(super) fn end(mut self) -> (Vec<Judged>, Vec<External>) {
        let (at, wrong) = self.stream.finish();
        let wrong = wrong.or_else(|| self.walk.close(at).err());
        let judged = match wrong {
            Some(wrong) => vec![Judged::broken(wrong)],
            None if !self.walk.open.is_empty() || at != self.walk.length => {
                vec![Judged::broken(format!("it ends within a part that begins before byte {at}"))]
            }
            None if !self.walk.has_graph || !self.walk.has_version || !self.walk.has_operators => {
                vec![Judged::broken(
                    "it is no ONNX model: a version, a graph or the operators' version is missing",
                )]
            }
            None => Vec::new(),
        };
        (judged, self.walk.external)
    }
}

impl Items for Walk {
    fn item(&mut self, bytes: &[u8], at: u64) -> Next {
        match self.field(bytes, at) {
            Ok(Some((take, skip))) => Next::Took { take, skip },
            Ok(None) => Next::More,
            Err(wrong) => Next::Wrong(wrong),
        }
    }
}

impl Walk {
    /// Closes the messages that end at `at`.
    fn close(&mut self, at: u64) -> Result<(), String> {
        while let Some((message, _)) = self.open.pop_if(|(_, end)| *end <= at) {
            match message {
                Message::Tensor => self.tensor_ended(at)?,
                Message::Pair => self.pair_ended(at)?,
                Message::Model | Message::Graph | Message::Dimensions => {}
            }
        }
        Ok(())
    }

    fn field(&mut self, bytes: &[u8], at: u64) -> Result<Option<(usize, u64)>, String> {
        self.close(at)?;
        let Some((message, end)) = self.open.last().copied() else {
            return Ok(None);
        };
        let wrong = || format!("it is not protobuf at byte {at}");
        let mut fields = Fields::of(bytes);
        if message == Message::Dimensions {
            let Some(side) = varint(&mut fields).map_err(|()| wrong())? else { return Ok(None) };
            self.tensor.dimension(side);
            return Ok(Some((fields.used(), 0)));
        }
        let Some(tag) = varint(&mut fields).map_err(|()| wrong())? else { return Ok(None) };
        let number = tag >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(wrong());
        }
        let skip = match tag & 7 {
            0 => {
                let Some(value) = varint(&mut fields).map_err(|()| wrong())? else { return Ok(None) };
                self.number(message, number, value);
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let Some(length) = varint(&mut fields).map_err(|()| wrong())? else { return Ok(None) };
                let begins = at + fields.used() as u64;
                let ends = begins
                    .checked_add(length)
                    .filter(|ends| *ends <= end)
                    .ok_or_else(|| format!("a part at byte {at} goes beyond the end of what it is in"))?;
                match self.part(message, number, length, &mut fields) {
                    Part::Enter(inner) => {
                        self.open.push((inner, ends));
                        0
                    }
                    Part::Skip => length,
                    Part::Taken => 0,
                    Part::More => return Ok(None),
                }
            }
            _ => return Err(wrong()),
        };
        if at + fields.used() as u64 + skip > end {
            return Err(format!("a value at byte {at} goes beyond the end of what it is in"));
        }
        Ok(Some((fields.used(), skip)))
    }

    fn number(&mut self, message: Message, number: u64, value: u64) {
        match (message, number) {
            (Message::Model, 1) => self.has_version = true,
            (Message::Tensor, 1) => self.tensor.dimension(value),
            (Message::Tensor, 2) => self.tensor.kind = value,
            (Message::Tensor, 14) => self.tensor.is_external = value == 1,
            _ => {}
        }
    }

    fn part(&mut self, message: Message, number: u64, length: u64, fields: &mut Fields<'_>) -> Part {
        match (message, number) {
            (Message::Model, 7) => {
                self.has_graph = true;
                Part::Enter(Message::Graph)
            }
            (Message::Model, 8) => {
                self.has_operators = true;
                Part::Skip
            }
            (Message::Graph, 5) => {
                self.tensors += 1;
                self.tensor = Tensor { elements: Some(1), ..Tensor::default() };
                Part::Enter(Message::Tensor)
            }
            (Message::Tensor, 1) => Part::Enter(Message::Dimensions),
            (Message::Tensor, 9) => {
                self.tensor.raw = Some(length);
                Part::Skip
            }
            (Message::Tensor, 13) => {
                self.pair = Default::default();
                Part::Enter(Message::Pair)
            }
            (Message::Pair, 1 | 2) if length <= MAX_TEXT => match fields.take(length as usize) {
                None => Part::More,
                Some(text) => {
                    *(if number == 1 { &mut self.pair.0 } else { &mut self.pair.1 }) = text.to_vec();
                    Part::Taken
                }
            },
            _ => Part::Skip,
        }
    }

    fn pair_ended(&mut self, at: u64) -> Result<(), String> {
        let (name, value) = std::mem::take(&mut self.pair);
        let number = || {
            let text = std::str::from_utf8(&value).ok().and_then(|text| text.trim().parse().ok());
            text.ok_or_else(|| format!("where a tensor lies is not a number, before byte {at}"))
        };
        match name.as_slice() {
            b"location" => self.tensor.location = value,
            b"offset" => self.tensor.offset = number()?,
            b"length" => self.tensor.bytes = Some(number()?),
            _ => {}
        }
        Ok(())
    }

    fn tensor_ended(&mut self, at: u64) -> Result<(), String> {
        let tensor = std::mem::take(&mut self.tensor);
        let which = self.tensors;
        let bits = bits(tensor.kind);
        let Some(elements) = tensor.elements else {
            return Err(format!("its tensor {which}, before byte {at}, has a shape that cannot be"));
        };
        let needs = bits.and_then(|bits| Some(elements.checked_mul(bits)?.div_ceil(8)));
        let given = if tensor.is_external { tensor.bytes } else { tensor.raw };
        if let (Some(needs), Some(given)) = (needs, given)
            && needs != given
        {
            return Err(format!("its tensor {which} has {given} bytes, and its shape says {needs}"));
        }
        if tensor.is_external {
            if tensor.location.is_empty() {
                return Err(format!("its tensor {which} lies in another file, and it does not say in which"));
            }
            let bytes = tensor.bytes.or(needs).unwrap_or(0);
            let ends = tensor.offset.checked_add(bytes);
            let ends = ends.ok_or_else(|| format!("its tensor {which} lies beyond all measure"))?;
            let has_room = self.external.len() < MAX_EXTERNAL;
            let same = self.external.iter_mut().rev().take(4).find(|other| other.file == tensor.location);
            match same {
                Some(other) => other.ends = other.ends.max(ends),
                None if has_room => {
                    self.external.push(External { file: tensor.location, ends });
                }
                None => {}
            }
        }
        Ok(())
    }
}

enum Part {
    Enter(Message),
    Skip,
    Taken,
    More,
}

impl Tensor {
    fn dimension(&mut self, side: u64) {
        self.dimensions += 1;
        let is_sane = self.dimensions <= MAX_DIMENSIONS && side <= i64::MAX as u64;
        self.elements = self.elements.filter(|_| is_sane).and_then(|all| all.checked_mul(side));
    }
}

/// A varint, `None` if it has not come whole.
fn varint(fields: &mut Fields<'_>) -> Result<Option<u64>, ()> {
    let mut value = 0_u64;
    for place in 0..10 {
        let Some(&[byte]) = fields.take(1) else { return Ok(None) };
        if place == 9 && byte > 1 {
            return Err(());
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Err(())
}

/// Bits of an element of a type; none for texts and unknown types.
fn bits(kind: u64) -> Option<u64> {
    Some(match kind {
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        1 | 6 | 12 => 32,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        21..=23 => 4,
        _ => return None,
    })
}
