//! One stage of the pipeline over so many MiB, for `tests/stages` to count the instructions of.
//!
//! usage: stages cut|id|compress|probe|seal|open MIB

use std::env;
use std::hint::black_box;

use repository::content::IdKey;
use repository::cut::{Chunker, Compressor, GearKey, MAX_CHUNK, decompress};
use repository::ids::{DomainId, RepositoryId};
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::seal::SealingPublicKey;
use repository::pack::segment::SegmentBuilder;

const MIB: usize = 1 << 20;
/// X25519's base point: nobody opens what is sealed here.
const PUBLIC: [u8; 32] =
    [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length / 8).flat_map(|_| next().to_le_bytes()).collect()
}

/// Half noise and half words, as much of what is backed up is.
fn mixed(length: usize) -> Vec<u8> {
    let mut data = noise(length);
    let words = b"the block at this height was made by the validator of the round before; ";
    for line in data.chunks_mut(256) {
        let half = line.len() / 2;
        line[..half].iter_mut().zip(words.iter().cycle()).for_each(|(byte, word)| *byte = *word);
    }
    data
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [stage, mib] = &arguments[..] else { panic!("usage: stages cut|id|compress|probe|seal|open MIB") };
    let mib: usize = mib.parse().expect("a number of MiB");
    let data = mixed(MIB);
    match stage.as_str() {
        "cut" => {
            let (chunker, data) = (Chunker::new(&GearKey::new([7; 32])), noise(MAX_CHUNK));
            let mut left = mib * MIB;
            while left > 0 {
                left = left.saturating_sub(black_box(chunker.cut(&data[..data.len().min(left)])));
            }
        }
        "id" => (0..mib).for_each(|_| {
            black_box(blob_id(&IdKey::new([2; 32]), BlobKind::Data, &data));
        }),
        "compress" => {
            let mut compressor = Compressor::new();
            (0..mib).for_each(|_| assert!(black_box(compressor.compress(&data)).is_some()));
        }
        "probe" => {
            let (mut compressor, noise) = (Compressor::new(), noise(MIB));
            (0..mib).for_each(|_| assert!(black_box(compressor.compress(&noise)).is_none()));
        }
        "seal" => {
            let public = SealingPublicKey { epoch: 1, key: PUBLIC };
            let (repository, domain) = (RepositoryId::new([1; 16]), DomainId::new([1; 16]));
            let mut segment = SegmentBuilder::new(Class::Data, repository, domain, &public);
            let id = blob_id(&IdKey::new([2; 32]), BlobKind::Data, &data);
            for _ in 0..mib {
                segment.add(id, BlobKind::Data, Codec::Raw, MIB as u32, &data);
            }
            black_box(segment.finish());
        }
        "open" => {
            let stored = Compressor::new().compress(&data).expect("it shrinks");
            for _ in 0..mib {
                black_box(decompress(Codec::Zstd, stored.clone(), MIB as u32).expect("our own"));
            }
        }
        other => panic!("there is no stage {other}"),
    }
}
