//! Compression of blobs, and its bounded reverse.
//!
//! A sample from the middle decides whether compression is tried at all: weights, encrypted and already
//! compressed data would cost most of a backup's time and give nothing.

use std::cell::RefCell;

use zstd::bulk;
use zstd::zstd_safe::{CParameter, CompressionLevel, ParamSwitch};

use crate::codec::Malformed;
use crate::pack::blob::{Codec, MAX_PLAIN};

/// Level 3 takes a third more time than 2 for blobs of a mebibyte and saves 3 to 5 % of what shrinks: docs/benchmarks.md.
const LEVEL: CompressionLevel = 2;
/// What differs from the level: matches of five bytes count, and of places where there is none every third is looked
/// at. A tenth less time, and a quarter of a per cent more bytes. zstd would take such a step for a wish not to
/// pack literals at all, which are all that shrinks in weights.
const CHANGES: [CParameter; 3] = [
    CParameter::MinMatch(5),
    CParameter::TargetLength(3),
    CParameter::LiteralCompressionMode(ParamSwitch::Enable),
];
const PROBE_LEVEL: CompressionLevel = 1;
const SAMPLE: usize = 32 << 10;
/// Compression has to save at least one byte in this many.
const WORTH: usize = 32;

/// Compresses blobs; one for each thread, since its tables are worth keeping.
pub struct Compressor {
    full: bulk::Compressor<'static>,
    probe: bulk::Compressor<'static>,
}

impl Compressor {
    /// A compressor at the format's level.
    pub fn new() -> Self {
        let make = |level| bulk::Compressor::new(level).expect("zstd accepts its own levels");
        let mut full = make(LEVEL);
        for change in CHANGES {
            full.set_parameter(change).expect("they are within zstd's bounds");
        }
        Self { full, probe: make(PROBE_LEVEL) }
    }

    /// The compressed form, if it is worth having; `None` means: store it raw.
    pub fn compress(&mut self, plaintext: &[u8]) -> Option<Vec<u8>> {
        if plaintext.len() > 4 * SAMPLE && !self.sample_shrinks(plaintext) {
            return None;
        }
        let compressed = self.full.compress(plaintext).expect("the buffer has zstd's own bound");
        is_worth_it(plaintext.len(), compressed.len()).then_some(compressed)
    }

    fn sample_shrinks(&mut self, plaintext: &[u8]) -> bool {
        let middle = plaintext.len() / 2;
        let sample = &plaintext[middle - SAMPLE / 2..middle + SAMPLE / 2];
        let compressed = self.probe.compress(sample).expect("the buffer has zstd's own bound");
        is_worth_it(sample.len(), compressed.len())
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

fn is_worth_it(plain: usize, compressed: usize) -> bool {
    compressed + plain / WORTH <= plain
}

thread_local! {
    /// Its tables are worth keeping, too.
    static DECOMPRESSOR: RefCell<bulk::Decompressor<'static>> =
        RefCell::new(bulk::Decompressor::new().expect("there is memory for it"));
}

/// The plaintext, which must be exactly `plain_length` bytes. Memory is bounded by `plain_length`, which
/// must itself be within [`MAX_PLAIN`].
pub fn decompress(codec: Codec, stored: Vec<u8>, plain_length: u32) -> Result<Vec<u8>, Malformed> {
    let malformed = |why| Malformed::new("blob", why);
    if plain_length > MAX_PLAIN {
        return Err(malformed("its length is out of bounds"));
    }
    let plaintext = match codec {
        Codec::Raw => stored,
        Codec::Zstd => DECOMPRESSOR
            .with_borrow_mut(|decompressor| decompressor.decompress(&stored, plain_length as usize))
            .map_err(|_| malformed("it does not decompress to its length"))?,
    };
    if plaintext.len() == plain_length as usize {
        Ok(plaintext)
    } else {
        Err(malformed("it does not decompress to its length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shrinks_and_noise_is_left_alone() {
        let text = b"the same words again and again; ".repeat(20_000);
        let mut noise = vec![0; 600_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut compressor = Compressor::new();
        assert!(compressor.compress(&noise).is_none());
        let compressed = compressor.compress(&text).expect("text shrinks");
        assert!(compressed.len() < text.len() / 100);
        assert_eq!(decompress(Codec::Zstd, compressed, text.len() as u32), Ok(text));
    }

    #[test]
    fn a_bomb_is_refused_without_memory() {
        let bomb = bulk::compress(&vec![0; 32 << 20], 1).expect("compressed");
        assert!(decompress(Codec::Zstd, bomb, 1 << 20).is_err());
        assert!(decompress(Codec::Raw, vec![1, 2, 3], 4).is_err());
    }
}
