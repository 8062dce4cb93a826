//! Pages round-trip, are stable under change, and refuse whatever is not a page.

use super::*;

fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).expect(text)
}

fn file(name: &str, size: u64, layout: Layout, pieces: Pieces) -> Entry {
    let id = ContentId::new([size as u8; 32]);
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    Entry { path: path(name), metadata, kind: EntryKind::File(FileContent { size, id, layout, pieces }) }
}

fn piece(blob: u8, offset: u32, length: u32) -> Piece {
    Piece { blob: BlobId::new([blob; 32]), offset, length }
}

fn zoo() -> Vec<Entry> {
    let plain = |name, kind| Entry { path: path(name), metadata: Metadata::default(), kind };
    let old = Timestamp { seconds: -86_400, nanoseconds: 999_999_999 };
    let xattrs = vec![(b"user.a".to_vec(), vec![0, 255]), (b"user.b".to_vec(), vec![])];
    let rich = Metadata { mode: 0o4755, uid: u32::MAX, gid: 7, mtime: old, xattrs };
    let holes = Layout::Sparse(vec![Extent { offset: 4096, length: 10 }, Extent { offset: 9000, length: 5 }]);
    vec![
        Entry { path: EntryPath::root(), metadata: rich, kind: EntryKind::Folder },
        file("a", 0, Layout::Dense, Pieces::Inline(vec![])),
        file("b", 30, Layout::Dense, Pieces::Inline(vec![piece(1, 0, 10), piece(1, 50, 20)])),
        file("c", 10_000, holes, Pieces::Inline(vec![piece(2, 3, 15)])),
        file("d", 1 << 40, Layout::Dense, Pieces::Listed(vec![BlobId::new([7; 32]); 2])),
        file("e", 4096, Layout::Sparse(vec![]), Pieces::Inline(vec![])),
        plain("f", EntryKind::Symlink { target: b"../outside".to_vec() }),
        plain("g", EntryKind::HardLink { to: path("b") }),
        plain("h", EntryKind::Fifo),
        plain("i", EntryKind::Socket),
        plain("j", EntryKind::Device { block: true, major: 8, minor: 1 }),
        plain("k", EntryKind::Device { block: false, major: 1, minor: 3 }),
    ]
}

fn pages(entries: &[Entry]) -> Vec<Page> {
    let mut builder = PageBuilder::new(&IdKey::new([5; 32]));
    let mut pages: Vec<Page> = entries.iter().filter_map(|entry| builder.add(entry)).collect();
    pages.extend(builder.finish());
    pages
}

#[test]
fn every_kind_of_entry_round_trips() {
    let pages = pages(&zoo());
    assert_eq!(pages.len(), 1);
    assert_eq!(decode_page(&pages[0].bytes).expect("sound"), zoo());
}

#[test]
fn a_page_cut_anywhere_or_with_a_flipped_byte_never_panics() {
    let bytes = pages(&zoo()).remove(0).bytes;
    for length in 0..bytes.len() {
        assert!(decode_page(&bytes[..length]).is_err(), "{length}");
    }
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let _total = decode_page(&damaged);
        }
    }
}

fn many(count: u32) -> Vec<Entry> {
    let name = |i| format!("folder-{:03}/file-{i:07}", i / 500);
    (0..count)
        .map(|i| file(&name(i), 5, Layout::Dense, Pieces::Inline(vec![piece((i / 100) as u8, i, 5)])))
        .collect()
}

#[test]
fn one_changed_entry_changes_one_page() {
    let mut entries = many(60_000);
    let before = pages(&entries);
    assert!(before.len() > 10 && before.iter().all(|page| page.bytes.len() <= MAX_PAGE + 200));
    entries[30_000].metadata.mode = 0o600;
    entries.remove(40_000);
    let after = pages(&entries);
    let changed = after.iter().filter(|page| !before.contains(page)).count();
    assert!(changed <= 3, "{changed} of {}", after.len());
    let all: Vec<Entry> = after.iter().flat_map(|page| decode_page(&page.bytes).expect("sound")).collect();
    assert_eq!(all, entries);
}

#[test]
fn the_table_finds_the_page_of_a_path() {
    let pages = pages(&many(60_000));
    let line =
        |page: &Page| PageLine { first: page.first.clone(), id: BlobId::new([0; 32]), entries: page.entries };
    let table = PageTable { pages: pages.iter().map(line).collect() };
    assert_eq!(PageTable::decode(&table.encode()), Ok(table.clone()));
    assert_eq!(table.entries(), 60_000);
    for (index, page) in pages.iter().enumerate() {
        for entry in decode_page(&page.bytes).expect("sound").iter().step_by(97) {
            assert_eq!(table.page_of(&entry.path), index);
        }
    }
    assert_eq!(table.page_of(&EntryPath::root()), 0);
}

#[test]
fn lists_of_pieces_round_trip() {
    let most = MAX_INLINE_PIECES as u32;
    let pieces: Vec<Piece> = (0..most).map(|i| piece((i % 7) as u8, i, i + 1)).collect();
    assert_eq!(decode_pieces(&encode_pieces(&pieces)), Ok(pieces));
    assert!(decode_pieces(&[1, 2, 3]).is_err());
}

#[test]
fn a_page_ends_before_its_paths_are_too_much_for_memory_and_one_that_goes_on_is_refused() {
    let deep = vec!["x".repeat(250); 200].join("/");
    let entries: Vec<Entry> = (0..1_000)
        .map(|n| Entry {
            path: path(&format!("{deep}/{n:04}")),
            metadata: Metadata::default(),
            kind: EntryKind::Fifo,
        })
        .collect();
    let pages = pages(&entries);
    assert!(pages.len() > 1 && pages.iter().all(|page| page.bytes.len() < MAX_PAGE));
    let back: Vec<Entry> = pages.iter().flat_map(|page| decode_page(&page.bytes).expect("sound")).collect();
    assert_eq!(back, entries);
    // A writer that goes on: some kilobytes that would take 50 MB.
    let mut builder = PageBuilder::new(&IdKey::new([5; 32]));
    for entry in &entries {
        builder.paths = 0;
        assert!(builder.add(entry).is_none());
    }
    let bomb = builder.finish().expect("a page").bytes;
    assert!(bomb.len() < 100 << 10);
    assert_eq!(decode_page(&bomb), Err(Malformed::new("page", "its paths are too long together")));
}

#[test]
fn what_claims_more_than_it_can_hold_is_refused_at_once() {
    let page = |count: u64, rest: usize| {
        let mut out = Encoder::new();
        out.varint(0);
        out.varint(count);
        out.raw(&vec![0; rest]);
        out.finish()
    };
    for claim in [1 << 32, u64::MAX, MAX_ENTRIES as u64 + 1] {
        assert!(decode_page(&page(claim, 64)).is_err());
    }
    let most = (MAX_ENTRIES + 1) * LEAST_ENTRY;
    let many = Err(Malformed::new("page", "it holds too many entries"));
    assert_eq!(decode_page(&page(MAX_ENTRIES as u64 + 1, most)), many);
    let pieces = encode_pieces(&vec![piece(1, 0, 1); MAX_INLINE_PIECES + 1]);
    assert_eq!(decode_pieces(&pieces), Err(Malformed::new("list of pieces", "it holds too many pieces")));
    let line = PageLine { first: EntryPath::root(), id: BlobId::new([1; 32]), entries: 1 << 32 };
    assert!(PageTable::decode(&PageTable { pages: vec![line] }.encode()).is_err());
}
