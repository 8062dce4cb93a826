//! The parity of one pack: shards, their checksums, and how a damaged pack is made whole from them.
//!
//! Pure: bytes in, bytes out. Must stay true: what [`mend`] gives back is the pack that its name says, or
//! nothing; which shards are wrong is told by checksums, so that any of them may be, up to the strength.

use aws_lc_rs::digest;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::codec::{Decoder, Encoder, Malformed};
use crate::ids::PackId;
use crate::pack::file::MAX_PACK;

/// The most data shards that share their parity.
const STRIPE: u64 = 256;
/// The longest shard, in bytes. A shard is what one wrong byte costs.
const LONGEST_SHARD: u64 = 64 << 10;
const SHORTEST_SHARD: u64 = 64;
const MAGIC: &[u8; 8] = b"NSparity";
const VERSION: u16 = 1;
const WHAT: &str = "parity file";

type Sum = [u8; 32];

/// How much of a pack may be lost and still be made good, in hundredths of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strength(u8);

impl Strength {
    /// What is taken where nothing is set.
    pub(super) const USUAL: Self = Self(5);

    /// `percent` from 1 to 50.
    pub fn percent(percent: u8) -> Option<Self> {
        (1..=50).contains(&percent).then_some(Self(percent))
    }
}

/// What a parity file says of its pack.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    pack: PackId,
    length: u64,
    shard: u32,
    /// Data shards in a full stripe, and parity shards in every one.
    stripe: u32,
    parity: u32,
    data_sums: Vec<Sum>,
    parity_sums: Vec<Sum>,
}

impl Head {
    fn new(pack: PackId, length: u64, strength: Strength) -> Self {
        let shard = length.div_ceil(STRIPE).next_multiple_of(SHORTEST_SHARD);
        let shard = shard.clamp(SHORTEST_SHARD, LONGEST_SHARD);
        let stripe = length.div_ceil(shard).clamp(1, STRIPE);
        let parity = (stripe * u64::from(strength.0)).div_ceil(100).max(1);
        let narrow = |value: u64| u32::try_from(value).expect("shards are few and short");
        Self {
            pack,
            length,
            shard: narrow(shard),
            stripe: narrow(stripe),
            parity: narrow(parity),
            data_sums: Vec::new(),
            parity_sums: Vec::new(),
        }
    }

    fn data_shards(&self) -> usize {
        self.length.div_ceil(u64::from(self.shard)) as usize
    }

    fn stripes(&self) -> usize {
        self.data_shards().div_ceil(self.stripe as usize)
    }

    /// Header and checksums; their own checksum is at the end.
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(MAGIC);
        out.u16(VERSION);
        out.u16(0);
        out.raw(self.pack.as_bytes());
        out.u64(self.length);
        [self.shard, self.stripe, self.parity].into_iter().for_each(|number| out.u32(number));
        self.data_sums.iter().chain(&self.parity_sums).for_each(|sum| out.raw(sum));
        let mut head = out.finish();
        head.extend(sum(&head));
        head
    }

    /// Reads a head from the start of `bytes`.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(WHAT, bytes);
        if &decoder.array()? != MAGIC {
            return Err(Malformed::new(WHAT, "it does not begin like one"));
        }
        if decoder.u16()? != VERSION || decoder.u16()? != 0 {
            return Err(Malformed::new(WHAT, "its version is not known to this program"));
        }
        let mut head = Self {
            pack: PackId::new(decoder.array()?),
            length: decoder.u64()?,
            shard: decoder.u32()?,
            stripe: decoder.u32()?,
            parity: decoder.u32()?,
            data_sums: Vec::new(),
            parity_sums: Vec::new(),
        };
        let is_sane = (1..=MAX_PACK).contains(&head.length)
            && (SHORTEST_SHARD..=LONGEST_SHARD).contains(&u64::from(head.shard))
            && head.shard.is_multiple_of(2)
            && (1..=STRIPE).contains(&u64::from(head.stripe))
            && (1..=head.stripe).contains(&head.parity);
        if !is_sane {
            return Err(Malformed::new(WHAT, "its sizes are out of bounds"));
        }
        let (data, parity) = (head.data_shards(), head.stripes() * head.parity as usize);
        head.data_sums = (0..data).map(|_| decoder.array()).collect::<Result<_, _>>()?;
        head.parity_sums = (0..parity).map(|_| decoder.array()).collect::<Result<_, _>>()?;
        let told: Sum = decoder.array()?;
        let end = bytes.len() - decoder.remaining() - told.len();
        if sum(&bytes[..end]) != told {
            return Err(Malformed::new(WHAT, "its checksums are damaged"));
        }
        Ok(head)
    }

    /// The parity shards in `file`.
    fn parity_in<'a>(&self, file: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let start = self.encoded_length().min(file.len());
        let length = self.parity_sums.len() * self.shard as usize;
        file[start..file.len().min(start + length)].chunks_exact(self.shard as usize)
    }

    fn encoded_length(&self) -> usize {
        MAGIC.len() + 4 + PackId::LEN + 20 + 32 * (self.data_sums.len() + self.parity_sums.len() + 1)
    }
}

fn sum(bytes: &[u8]) -> Sum {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The parity file of the pack with these bytes.
pub fn encode(pack: PackId, bytes: &[u8], strength: Strength) -> Vec<u8> {
    let mut head = Head::new(pack, bytes.len() as u64, strength);
    let mut parity = Vec::new();
    let shards: Vec<Vec<u8>> = bytes.chunks(head.shard as usize).map(|part| padded(part, &head)).collect();
    for stripe in shards.chunks(head.stripe as usize) {
        let mut encoder = ReedSolomonEncoder::new(stripe.len(), head.parity as usize, head.shard as usize)
            .expect("the counts and the size are within the code's bounds");
        for shard in stripe {
            encoder.add_original_shard(shard).expect("as many shards of that size as were announced");
        }
        let made = encoder.encode().expect("every data shard was given");
        made.recovery_iter().for_each(|shard| parity.extend_from_slice(shard));
    }
    head.data_sums = shards.iter().map(|shard| sum(shard)).collect();
    head.parity_sums = parity.chunks(head.shard as usize).map(sum).collect();
    let head = head.encode();
    let length = u32::try_from(head.len()).expect("a pack has few shards");
    [&head[..], &parity, &head, &length.to_le_bytes()].concat()
}

fn padded(part: &[u8], head: &Head) -> Vec<u8> {
    let mut shard = part.to_vec();
    shard.resize(head.shard as usize, 0);
    shard
}

/// The head, from whichever of its two copies is sound.
fn read_head(file: &[u8]) -> Result<Head, Malformed> {
    Head::decode(file).or_else(|error| {
        let second = file.split_last_chunk::<4>().and_then(|(rest, length)| {
            let start = rest.len().checked_sub(u32::from_le_bytes(*length) as usize)?;
            Head::decode(&rest[start..]).ok()
        });
        second.ok_or(error)
    })
}

/// True if nothing in a pack's parity file is damaged, its spare copies included.
pub(super) fn is_sound(pack: &PackId, file: &[u8]) -> bool {
    let Ok(head) = Head::decode(file) else { return false };
    let expected = 2 * head.encoded_length() + head.parity_sums.len() * head.shard as usize + 4;
    let (first, length) = (&file[..head.encoded_length()], (head.encoded_length() as u32).to_le_bytes());
    head.pack == *pack
        && file.len() == expected
        && file.ends_with(&[first, &length].concat())
        && head.parity_in(file).zip(&head.parity_sums).all(|(shard, told)| sum(shard) == *told)
}

/// The pack as it was, made from what is left of it and its parity file; `None` where too much is damaged.
pub fn mend(pack: &PackId, damaged: &[u8], file: &[u8]) -> Option<Vec<u8>> {
    let head = read_head(file).ok().filter(|head| head.pack == *pack)?;
    let shard = head.shard as usize;
    let mut shards: Vec<Option<Vec<u8>>> = vec![None; head.data_shards()];
    for (nth, part) in damaged[..damaged.len().min(head.length as usize)].chunks(shard).enumerate() {
        let part = padded(part, &head);
        shards[nth] = (sum(&part) == head.data_sums[nth]).then_some(part);
    }
    let parity: Vec<Option<&[u8]>> = {
        let mut found: Vec<Option<&[u8]>> = head
            .parity_in(file)
            .zip(&head.parity_sums)
            .map(|(shard, told)| (sum(shard) == *told).then_some(shard))
            .collect();
        found.resize(head.parity_sums.len(), None);
        found
    };
    let stripes = shards.chunks_mut(head.stripe as usize);
    for (stripe, parity) in stripes.zip(parity.chunks(head.parity as usize)) {
        restore_stripe(stripe, parity, shard)?;
    }
    let mut whole: Vec<u8> = shards.into_iter().flatten().flatten().collect();
    whole.truncate(head.length as usize);
    (sum(&whole) == *pack.as_bytes()).then_some(whole)
}

fn restore_stripe(stripe: &mut [Option<Vec<u8>>], parity: &[Option<&[u8]>], shard: usize) -> Option<()> {
    if stripe.iter().all(Option::is_some) {
        return Some(());
    }
    let mut decoder = ReedSolomonDecoder::new(stripe.len(), parity.len(), shard).ok()?;
    for (nth, shard) in stripe.iter().enumerate() {
        shard.as_ref().map_or(Ok(()), |shard| decoder.add_original_shard(nth, shard)).ok()?;
    }
    for (nth, shard) in parity.iter().enumerate() {
        shard.map_or(Ok(()), |shard| decoder.add_recovery_shard(nth, shard)).ok()?;
    }
    let restored = decoder.decode().ok()?;
    let restored: Vec<(usize, Vec<u8>)> =
        restored.restored_original_iter().map(|(nth, shard)| (nth, shard.to_vec())).collect();
    restored.into_iter().for_each(|(nth, shard)| stripe[nth] = Some(shard));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn pack(length: usize) -> (PackId, Vec<u8>, Vec<u8>) {
        let bytes = noise(1, length);
        let id = PackId::new(sum(&bytes));
        let file = encode(id, &bytes, Strength::percent(5).expect("in range"));
        (id, bytes, file)
    }

    #[test]
    fn packs_of_every_size_are_mended_within_the_strength_and_not_beyond() {
        // Less than a shard, few shards, a full stripe, one byte more than a full stripe of long shards.
        for length in [1, 63, 1_000, 40_000, 1 << 20, (16 << 20) + 1] {
            let (id, bytes, file) = pack(length);
            assert!(is_sound(&id, &file));
            let head = Head::decode(&file).expect("sound");
            let shard = head.shard as usize;
            let strength = head.parity as usize;
            let mut damaged = bytes.clone();
            for nth in 0..strength.min(head.data_shards()) {
                damaged[nth * shard] ^= 1;
            }
            assert_eq!(mend(&id, &damaged, &file).as_deref(), Some(&bytes[..]), "{length}");
            if head.data_shards() > strength {
                damaged[strength * shard] ^= 1;
                assert_eq!(mend(&id, &damaged, &file), None, "{length}");
            }
        }
    }

    #[test]
    fn a_pack_that_was_cut_short_or_grew_is_mended() {
        let (id, bytes, file) = pack(100_000);
        assert_eq!(mend(&id, &bytes[..97_000], &file).as_deref(), Some(&bytes[..]));
        assert_eq!(mend(&id, &[&bytes[..], b"more"].concat(), &file).as_deref(), Some(&bytes[..]));
        assert_eq!(mend(&id, &[], &file), None);
    }

    #[test]
    fn every_wrong_byte_of_a_parity_file_is_noticed_and_none_makes_a_wrong_pack() {
        let (id, bytes, file) = pack(3_000);
        let mut damaged = bytes.clone();
        damaged[1_500] ^= 1;
        for at in 0..file.len() {
            let mut hurt = file.clone();
            hurt[at] ^= 0x10;
            assert!(!is_sound(&id, &hurt), "byte {at}");
            assert!(mend(&id, &damaged, &hurt).is_some_and(|whole| whole == bytes), "byte {at}");
        }
    }

    #[test]
    fn the_parity_of_another_pack_mends_nothing() {
        let (id, bytes, _) = pack(3_000);
        let other = noise(2, 3_000);
        let file = encode(PackId::new(sum(&other)), &other, Strength::percent(50).expect("in range"));
        assert!(!is_sound(&id, &file));
        assert_eq!(mend(&id, &bytes, &file), None);
    }
}
