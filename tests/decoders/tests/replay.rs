//! Each decoder takes its corpus and mutations of it, and comes back.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use decoders::TARGETS;

/// Mutations of each target; as many as there is time for, so that a slow machine does not wait.
/// `NEURASHIELD_ONSLAUGHT=long` takes ten seconds for each.
const MUTATIONS: u64 = 10_000;
const TIME: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);
/// A corpus is small: what it finds is what counts.
const MAX_FILES: usize = 30;
const MAX_BYTES: u64 = 4_096;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(target: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(corpus().join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut files: Vec<PathBuf> = names.map(|name| name.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end.max(1)
    }
}

fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, 0x80, b'/', b'.', b'"'][dice.below(7)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, dice.below(256) as u8),
            // The largest numbers in both notations, where a length may stand.
            4 => drop(bytes.splice(at..at, [0xff; 9].into_iter().chain([1]))),
            5 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0xff),
            6 => bytes.extend_from_slice(&other[dice.below(other.len())..]),
            _ => drop(bytes.drain(at..(at + 1 + dice.below(16)).min(bytes.len()).max(at))),
        }
    }
    bytes.truncate(2 * MAX_BYTES as usize);
}

#[test]
fn every_decoder_has_a_small_corpus_and_every_corpus_a_decoder() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "names are used once");
    let folders =
        fs::read_dir(corpus()).expect("the corpora").map(|name| name.expect("an entry").file_name());
    let folders: BTreeSet<String> = folders.map(|name| name.into_string().expect("text")).collect();
    assert_eq!(folders, names);
    for name in &names {
        let files = files(name);
        assert!((1..=MAX_FILES).contains(&files.len()), "{name} has {} files", files.len());
        for file in files {
            let length = file.metadata().expect("there").len();
            assert!(length <= MAX_BYTES, "{} has {length} bytes", file.display());
        }
    }
}

#[test]
fn every_decoder_comes_back_from_its_corpus_and_from_mutations_of_it() {
    let is_long = std::env::var_os("NEURASHIELD_ONSLAUGHT").is_some_and(|form| form == "long");
    let (most, time) = if is_long { (u64::MAX, LONG) } else { (MUTATIONS, TIME) };
    for (seed, (name, target)) in TARGETS.iter().enumerate() {
        let corpus: Vec<Vec<u8>> = files(name).iter().map(|file| fs::read(file).expect("read")).collect();
        corpus.iter().for_each(|bytes| target(bytes));
        let (mut dice, started) = (Dice(seed as u64), Instant::now());
        let mut tried = 0;
        while tried < most && started.elapsed() < time {
            let mut bytes = corpus[dice.below(corpus.len())].clone();
            let other = &corpus[dice.below(corpus.len())];
            mutate(&mut dice, &mut bytes, other);
            let shown = Shown(name, &bytes);
            target(&bytes);
            std::mem::forget(shown);
            tried += 1;
        }
        assert!(tried >= 50, "{name}: {tried} mutations in {time:?}");
        println!("{name}: {} files, {tried} mutations", corpus.len());
    }
}

/// Says which bytes did it, when the decoder panics.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{} did not come back from {hex}", self.0);
    }
}
