//! Models as the formats' own libraries write them (`models/make.py`), damaged in hundreds of ways: each damage of
//! what a check looks at is found, nothing panics, and no more than 64 MiB are taken meanwhile, whatever a
//! header claims.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use formats::models::ModelsCheck;
use repository::check::{CheckedFile, ContentCheck, Finding, Severity};
use serde_json::Value;

const MOST: usize = 64 << 20;

/// Counts what is taken: no other way tells of what was asked for and given back.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(
    unsafe_code,
    reason = "an allocator has no safe form; it passes on what it is given and counts bytes"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

type Files = BTreeMap<String, Vec<u8>>;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models"))
}

fn models() -> Files {
    let names = fs::read_dir(folder()).expect("listed").map(|file| file.expect("a file").file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    let models = names.filter(|name| !matches!(name.as_str(), "make.py" | "damages.json"));
    models.map(|name| (name.clone(), fs::read(folder().join(name)).expect("read"))).collect()
}

fn found(files: &Files, piece: usize) -> Vec<Finding> {
    let mut check = ModelsCheck::default();
    let mut found = Vec::new();
    for (path, content) in files {
        let file = CheckedFile { path: path.as_bytes(), length: content.len() as u64, is_proven: false };
        if check.file(file) {
            content.chunks(piece).all(|bytes| check.bytes(bytes));
            found.extend(check.file_end());
        }
    }
    found.extend(check.end());
    found
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("a byte");
    (0..text.len()).step_by(2).map(digits).collect()
}

#[test]
fn every_damage_of_what_is_checked_is_found_within_a_fixed_memory() {
    let whole = models();
    assert_eq!(whole.len(), 9, "{:?}", whole.keys());
    let told = found(&whole, 4_096);
    assert!(told.iter().all(|finding| finding.severity == Severity::Told), "{told:?}");
    let damages: Vec<Value> =
        serde_json::from_slice(&fs::read(folder().join("damages.json")).expect("read")).expect("JSON");
    assert!(damages.len() >= 200, "{}", damages.len());

    let (mut missed, mut broken) = (Vec::new(), 0);
    let mut most = 0;
    for damage in &damages {
        let name = damage["file"].as_str().expect("a name");
        let number =
            |key: &str| usize::try_from(damage[key].as_u64().expect("a number")).expect("it is small");
        let mut files = whole.clone();
        if damage["remove"] == true {
            files.remove(name);
        } else {
            let (at, put) = (number("at"), unhex(damage["put"].as_str().expect("bytes")));
            files.get_mut(name).expect("a model").splice(at..at + number("drop"), put);
        }
        for piece in [4_096, 7] {
            let before = NOW.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            let found = found(&files, piece);
            broken += usize::from(found.iter().any(|finding| finding.severity == Severity::Broken));
            most = most.max(PEAK.load(Ordering::Relaxed).saturating_sub(before));
            // A kind that is not known may be a new one: that is told, and may be right.
            if !found.iter().any(|finding| finding.severity == Severity::Broken || !told.contains(finding)) {
                missed.push(format!("{name}: {}: {found:?}", damage["what"]));
            }
        }
    }
    println!("{} damages, {} of them break a model, {most} bytes at most", damages.len(), broken / 2);
    assert!(broken / 2 + 10 > damages.len(), "{broken} of twice {}", damages.len());
    assert!(missed.is_empty(), "{} of {}:\n{}", missed.len(), damages.len(), missed.join("\n"));
    assert!(most < MOST, "{most} bytes");
}
