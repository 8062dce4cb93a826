//! safetensors: the length of a header (8 bytes, little endian), the header as JSON, the tensors.
//!
//! The header gives each tensor its element type, its shape and where its bytes lie; together they fill the
//! rest of the file without a hole, which is what its readers demand.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Judged, hash};

/// No reader takes a longer header.
const MAX_HEADER: u64 = 100_000_000;
/// The longest header that is parsed here.
const MAX_PARSED: u64 = 24 << 20;
/// The most tensors whose places are compared.
const MAX_TENSORS: usize = 500_000;

/// A file whose bytes are coming.
#[derive(Debug)]
pub(super) struct Safetensors {
    length: u64,
    head: Vec<u8>,
}

/// What the header says.
#[derive(Debug, Default)]
struct Header {
    /// Where each tensor begins and ends, from the end of the header on.
    places: Vec<(u64, u64)>,
    names: HashSet<u64>,
    /// Of the first tensor whose bytes are not as many as its shape has.
    misfit: Option<usize>,
    unknown: bool,
    repeated: Option<usize>,
    too_many: bool,
}

#[derive(Deserialize)]
struct Tensor<'a> {
    #[serde(borrow)]
    dtype: std::borrow::Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Safetensors {
    pub(super) fn new(length: u64) -> Self {
        Self { length, head: Vec::new() }
    }

    fn header_length(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.head.get(..8)?.try_into().expect("eight bytes were taken")))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        let (first, rest) = bytes.split_at(bytes.len().min(8_usize.saturating_sub(self.head.len())));
        self.head.extend_from_slice(first);
        let Some(length) = self.header_length() else { return true };
        if length > MAX_PARSED || length > self.length {
            return false;
        }
        let missing = 8 + length as usize - self.head.len();
        self.head.extend_from_slice(&rest[..missing.min(rest.len())]);
        missing > rest.len()
    }

    /// What is wrong with it, and the names of its tensors.
    pub(super) fn end(self) -> (Vec<Judged>, HashSet<u64>) {
        match self.judge() {
            Ok((told, names)) => (told, names),
            Err(broken) => (vec![broken], HashSet::new()),
        }
    }

    fn judge(self) -> Result<(Vec<Judged>, HashSet<u64>), Judged> {
        let Some(length) = self.header_length() else {
            return Err(Judged::broken("it is too short to be safetensors"));
        };
        let Some(data) = self.length.checked_sub(8).and_then(|rest| rest.checked_sub(length)) else {
            return Err(Judged::broken(format!("its header of {length} bytes goes beyond its end")));
        };
        if length > MAX_HEADER {
            return Err(Judged::broken(format!("its header of {length} bytes is longer than readers take")));
        }
        if length > MAX_PARSED {
            return Ok((vec![Judged::told("its header is too long to be checked")], HashSet::new()));
        }
        let text = self.head.get(8..8 + length as usize).unwrap_or_default();
        if text.first() != Some(&b'{') || std::str::from_utf8(text).is_err() {
            return Err(Judged::broken("its header is not JSON"));
        }
        let header: Header = serde_json::from_slice(text).map_err(|error| {
            Judged::broken(format!("its header is not one of safetensors: column {}", error.column()))
        })?;
        header.judge(data)
    }
}

impl Header {
    fn judge(mut self, data: u64) -> Result<(Vec<Judged>, HashSet<u64>), Judged> {
        if let Some(tensor) = self.repeated {
            return Err(Judged::broken(format!("its tensor {tensor} has the name of an earlier one")));
        }
        if let Some(tensor) = self.misfit {
            let what = format!("its tensor {tensor} has not as many bytes as its type and shape say");
            return Err(Judged::broken(what));
        }
        if self.too_many {
            return Ok((vec![Judged::told("it has too many tensors to be checked")], HashSet::new()));
        }
        self.places.sort_unstable();
        let mut at = 0;
        for (begin, end) in &self.places {
            if *begin != at {
                return Err(Judged::broken(format!(
                    "its tensors overlap or leave a hole at byte {at} of its data"
                )));
            }
            at = *end;
        }
        if at != data {
            return Err(Judged::broken(format!(
                "its tensors have {at} bytes, and the file has {data} for them"
            )));
        }
        let told = self.unknown.then(|| Judged::told("it has tensors of a type that is not known here"));
        Ok((told.into_iter().collect(), self.names))
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor<'_>) {
        let number = self.names.len() + 1;
        if self.names.len() >= MAX_TENSORS {
            self.too_many = true;
            return;
        }
        if !self.names.insert(hash(name.as_bytes())) {
            self.repeated.get_or_insert(number);
        }
        let (begin, end) = tensor.data_offsets;
        let elements = tensor.shape.iter().try_fold(1_u64, |all, side| all.checked_mul(*side));
        let fits = match (bits(&tensor.dtype), elements, end.checked_sub(begin)) {
            (_, None, _) | (_, _, None) => false,
            (None, ..) => {
                self.unknown = true;
                true
            }
            (Some(bits), Some(elements), Some(bytes)) => elements.checked_mul(bits) == bytes.checked_mul(8),
        };
        if !fits {
            self.misfit.get_or_insert(number);
        }
        self.places.push((begin, end));
    }
}

fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut has_metadata = false;
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(A::Error::custom("twice"));
                        }
                        map.next_value::<Texts>()?;
                    } else {
                        header.tensor(&name, &map.next_value::<Tensor<'de>>()?);
                    }
                }
                Ok(header)
            }
        }
        from.deserialize_map(Tensors)
    }
}

/// A map of texts to texts; which ones is of no interest.
struct Texts;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Texts;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a map of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                while map.next_key::<IgnoredAny>()?.is_some() {
                    map.next_value::<std::borrow::Cow<'de, str>>()?;
                }
                Ok(Texts)
            }
        }
        from.deserialize_map(Map)
    }
}
