//! The outer structure of BSON: documents by their length, and the elements at their top.

/// The shortest document: a length and its end.
const SHORTEST: usize = 5;
/// The longest document that a server keeps; it allows itself a little more in places.
pub(super) const LONGEST: usize = (16 << 20) + (16 << 10);

/// How long the document is that begins with these bytes; none while that is not known.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(length) = bytes.first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    match (SHORTEST..=LONGEST).contains(&length) {
        true => Ok(Some(length)),
        false => Err("the length of a document is impossible"),
    }
}

/// One element of a document.
pub(super) struct Element<'a> {
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Element<'_> {
    /// A number that is whole.
    pub(super) fn number(&self) -> Option<u64> {
        match self.kind {
            0x10 => u64::try_from(i32::from_le_bytes(self.value.try_into().ok()?)).ok(),
            0x12 => u64::try_from(i64::from_le_bytes(self.value.try_into().ok()?)).ok(),
            0x01 => {
                let real = f64::from_le_bytes(self.value.try_into().ok()?);
                (real >= 0.0 && real.fract() == 0.0 && real < 9.0e15).then_some(real as u64)
            }
            _ => None,
        }
    }

    /// How many bytes of data are in it.
    pub(super) fn data_length(&self) -> Option<u64> {
        const HEAD: usize = 5;
        (self.kind == 0x05).then(|| self.value.len().saturating_sub(HEAD) as u64)
    }
}

/// Calls `each` with the elements of a whole document.
pub(super) fn elements<'a>(
    document: &'a [u8],
    mut each: impl FnMut(Element<'a>),
) -> Result<(), &'static str> {
    const BROKEN: &str = "an element of a document is broken";
    let (mut rest, end) =
        document.get(4..).and_then(|body| body.split_last()).map(|(end, rest)| (rest, *end)).ok_or(BROKEN)?;
    if end != 0 {
        return Err("a document has no end");
    }
    while let Some((kind, after)) = rest.split_first() {
        let at = after.iter().position(|byte| *byte == 0).ok_or(BROKEN)?;
        let (name, value) = (&after[..at], &after[at + 1..]);
        let length = value_length(*kind, value).ok_or(BROKEN)?;
        let value = value.get(..length).ok_or(BROKEN)?;
        each(Element { kind: *kind, name, value });
        rest = &after[at + 1 + length..];
    }
    Ok(())
}

/// How many bytes a value of this kind has; none: it is of no known kind, or wrong.
fn value_length(kind: u8, value: &[u8]) -> Option<usize> {
    let counted = |more: usize| {
        let length = i32::from_le_bytes(*value.first_chunk()?);
        usize::try_from(length).ok()?.checked_add(more)
    };
    let text = |from: usize| Some(from + value.get(from..)?.iter().position(|byte| *byte == 0)? + 1);
    match kind {
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x02 | 0x0d | 0x0e => counted(4),
        0x03 | 0x04 => {
            let length = counted(0)?;
            (length >= SHORTEST && value.get(length - 1) == Some(&0)).then_some(length)
        }
        0x05 => counted(5),
        0x06 | 0x0a | 0x7f | 0xff => Some(0),
        0x07 => Some(12),
        0x08 => Some(1),
        0x0b => text(text(0)?),
        0x0c => counted(16),
        0x0f => counted(0).filter(|length| *length >= SHORTEST),
        0x10 => Some(4),
        0x13 => Some(16),
        _ => None,
    }
}
