use formats::ipfs::{CarReader, codec, named};

use super::*;
use crate::sources::ipfs::files::tests::Held;
use crate::sources::ipfs::node::Pin;

fn pins(cids: &[Cid]) -> Vec<Pin> {
    cids.iter().map(|cid| Pin { cid: *cid, name: String::new() }).collect()
}

/// The walk over all of it, and the names that blocks were written under.
fn walked(held: Held, recursive: &[Cid], direct: &[Cid], files: Cid) -> (Walk<Held>, Vec<Cid>) {
    let kept = Kept { recursive: pins(recursive), direct: pins(direct), files };
    let there: Vec<Cid> = held.blocks.keys().copied().collect();
    let mut walk = Walk::over(held, &kept);
    there.iter().for_each(|cid| walk.has(cid).expect("not too many"));
    let mut file = Walk::<Held>::header(&kept);
    while walk.next(&mut file).expect("nothing is lost") {}
    let (mut reader, mut written) = (CarReader::default(), Vec::new());
    let read = reader.read(&file, |section| {
        written.push(section.cid);
        true
    });
    read.expect("a file of blocks");
    reader.end().expect("whole");
    (walk, written)
}

fn as_raw(cid: &Cid) -> Cid {
    Cid::new_v1(codec::RAW, *cid.hash())
}

#[test]
fn a_block_that_is_named_as_raw_bytes_is_followed_where_it_is_named_as_a_folder() {
    let make = || {
        let mut held = Held::default();
        let leaf = held.add(codec::RAW, b"leaf");
        let folder = held.folder(&[("leaf", leaf)]);
        let empty = held.folder(&[]);
        (held, leaf, folder, empty)
    };
    let (_, leaf, folder, empty) = make();
    let old: Cid = Cid::new_v0(*folder.hash()).expect("SHA-256");
    let both = [as_raw(&folder), folder];
    // As pins in both orders, raw alone, directly, and among the files.
    for (recursive, direct, needs_leaf) in [
        (vec![both[0], both[1]], vec![], true),
        (vec![both[1], both[0]], vec![], true),
        (vec![both[0], old], vec![], true),
        (vec![both[0]], vec![], false),
        (vec![folder], vec![both[0]], true),
        (vec![both[0]], vec![folder], false),
        (vec![old], vec![folder], true),
    ] {
        let (held, ..) = make();
        let (walk, written) = walked(held, &recursive, &direct, empty);
        assert_eq!(written.contains(&leaf), needs_leaf, "{recursive:?} {direct:?}");
        assert_eq!(walk.tally.wrong, 0);
        assert_eq!(walk.tally.blocks, if needs_leaf { 3 } else { 2 }, "each is counted once");
        if needs_leaf {
            // Whoever reads the file sees what it links to, too.
            assert!(written.iter().any(|cid| cid.codec() == codec::DAG_PB && cid.hash() == folder.hash()));
        }
    }
    let (mut held, ..) = make();
    let files = held.folder(&[("a", as_raw(&folder)), ("b", folder), ("c", as_raw(&folder)), ("d", folder)]);
    let (walk, written) = walked(held, &[], &[], files);
    assert!(written.contains(&leaf));
    assert_eq!((walk.tally.blocks, written.len()), (3, 4), "once more as a folder, and no more than that");
    assert_eq!(walk.tally.unprotected, 1, "the empty folder");
}

#[test]
fn what_is_missing_false_or_of_a_kind_that_nobody_knows_is_told_once_by_its_name() {
    let mut held = Held::default();
    let (missing, leaf) = (named(codec::RAW, b"missing"), held.add(codec::RAW, b"leaf"));
    let false_one = held.add(codec::RAW, b"false");
    held.blocks.insert(false_one, Bytes::from_static(b"FALSE"));
    let odd_hash = cid::multihash::Multihash::wrap(0x22, &[9; 16]).expect("short");
    let odd_hash = Cid::new_v1(codec::RAW, odd_hash);
    held.blocks.insert(odd_hash, Bytes::from_static(b"anything"));
    let odd_codec = held.add(0x78, b"a tree of git");
    let links = [("a", missing), ("b", leaf), ("c", missing), ("d", false_one), ("e", odd_hash)];
    let below = held.folder(&links);
    let files = held.folder(&[("1", below), ("2", odd_codec), ("3", below), ("4", odd_codec)]);
    let (walk, written) = walked(held, &[below], &[], files);
    let told: HashMap<Cid, &str> = walk.told.iter().map(|told| (told.cid, told.cause.as_str())).collect();
    assert_eq!((told.len(), walk.told.len(), walk.tally.wrong), (4, 4, 4), "{:?}", walk.told);
    assert!(told[&missing].contains("does not have") && told[&false_one].contains("not what its name says"));
    assert!(told[&odd_hash].contains("hash") && told[&odd_codec].contains("not known"));
    assert!(!written.contains(&missing) && !written.contains(&false_one));
    assert!([leaf, odd_hash, odd_codec, below, files].iter().all(|cid| written.contains(cid)));
}

#[test]
fn of_ever_so_many_missing_blocks_a_thousand_are_told_and_the_rest_is_counted() {
    let mut held = Held::default();
    let mut roots = Vec::new();
    for n in 0..3 {
        let links: Vec<(String, Cid)> = (0..700_u32)
            .map(|at| (format!("{at:04}"), named(codec::RAW, &[at.to_le_bytes(), [n; 4]].concat())))
            .collect();
        let links: Vec<(&str, Cid)> = links.iter().map(|(name, cid)| (name.as_str(), *cid)).collect();
        roots.push(held.folder(&links));
    }
    let files = held.folder(&[]);
    let (walk, _) = walked(held, &roots, &[], files);
    // All of them are damage of the node's own, which is no reason not to restore over it.
    assert!(walk.told.iter().all(|told| told.is_damage));
    let untold = Untold { damaged: 1_100, others: 0 };
    assert_eq!((walk.told.len(), walk.untold, walk.tally.wrong), (MOST_TOLD, untold, 2_100));
}

#[test]
fn folders_that_hold_one_another_many_times_over_are_walked_once() {
    let mut held = Held::default();
    let mut folder = held.add(codec::RAW, b"leaf");
    for _ in 0..200 {
        let many: Vec<(String, Cid)> = (0..20).map(|at| (format!("{at:02}"), folder)).collect();
        let many: Vec<(&str, Cid)> = many.iter().map(|(name, cid)| (name.as_str(), *cid)).collect();
        folder = held.folder(&many);
    }
    let (walk, written) = walked(held, &[folder], &[], folder);
    assert_eq!((written.len(), walk.tally.blocks), (201, 201));
    assert!(walk.fetch.asked.values().all(|asked| *asked == 1));
}

#[test]
fn what_is_left_of_a_hold_is_nobodys_content() {
    let mut held = Held::default();
    let files = held.folder(&[]);
    let (theirs, ours) = (held.add(codec::RAW, b"theirs"), held.add(codec::RAW, b"ours"));
    let kept = Kept { recursive: Vec::new(), direct: Vec::new(), files };
    let mut walk = Walk::over(held, &kept);
    [files, theirs, ours].iter().for_each(|cid| walk.has(cid).expect("not too many"));
    assert!(walk.is_ours(&ours) && walk.is_ours(&files) && !walk.is_ours(&named(codec::RAW, b"gone")));
    while walk.next(&mut Vec::new()).expect("nothing is lost") {}
    // What is needed is backed up, whoever has made it.
    assert_eq!((walk.tally.unprotected, walk.tally.blocks), (1, 1));
}
