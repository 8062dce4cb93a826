use proptest::prelude::*;
use repository::check::{CheckedFile, ContentCheck, Severity};

use super::ModelsCheck;

/// What is said of these files, given in pieces of `piece` bytes.
fn said_by(piece: usize, files: &[(&str, &[u8])]) -> Vec<String> {
    let mut check = ModelsCheck::default();
    let mut found = Vec::new();
    for (name, content) in files {
        let file = CheckedFile { path: name.as_bytes(), length: content.len() as u64, is_proven: false };
        if check.file(file) {
            content.chunks(piece).all(|bytes| check.bytes(bytes));
            found.extend(check.file_end());
        }
    }
    found.extend(check.end());
    found.iter().map(|finding| format!("{:?} {finding}", finding.severity)).collect()
}

fn said(name: &str, content: &[u8]) -> Vec<String> {
    let whole = said_by(usize::MAX, &[(name, content)]);
    assert_eq!(said_by(7, &[(name, content)]), whole, "whatever pieces it comes in");
    whole
}

fn is_broken(name: &str, content: &[u8]) -> bool {
    said(name, content).iter().any(|line| line.starts_with("Broken"))
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 7);
    file
}

const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},"c":{"dtype":"I8","shape":[0,5],"data_offsets":[26,26]}}"#;

fn text(of: &str) -> Vec<u8> {
    [&(of.len() as u64).to_le_bytes(), of.as_bytes()].concat()
}

/// A head, four settings (a number, a list of texts, a list of numbers, a text), two tensors.
fn gguf() -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend(2_u64.to_le_bytes());
    file.extend(4_u64.to_le_bytes());
    file.extend(text("general.alignment"));
    file.extend([4_u32, 64].map(u32::to_le_bytes).concat());
    file.extend(text("tokenizer.ggml.tokens"));
    file.extend([9_u32, 8].map(u32::to_le_bytes).concat());
    file.extend(3_u64.to_le_bytes());
    file.extend([text("<s>"), text(""), text("hello")].concat());
    file.extend(text("scores"));
    file.extend([9_u32, 6].map(u32::to_le_bytes).concat());
    file.extend(2_u64.to_le_bytes());
    file.extend([0; 8]);
    file.extend(text("general.name"));
    file.extend(8_u32.to_le_bytes());
    file.extend(text("a model"));
    for (name, sides, kind, offset) in [("w", [64_u64, 2], 8_u32, 0_u64), ("v", [5, 1], 0, 192)] {
        file.extend(text(name));
        file.extend(2_u32.to_le_bytes());
        file.extend(sides.map(u64::to_le_bytes).concat());
        file.extend(kind.to_le_bytes());
        file.extend(offset.to_le_bytes());
    }
    let data = file.len().next_multiple_of(64);
    file.resize(data + 192 + 20, 0);
    file
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn part(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn onnx(tensors: &[Vec<u8>]) -> Vec<u8> {
    let node = part(1, &[part(1, b"x"), part(2, b"y"), part(4, b"Relu")].concat());
    let initial: Vec<u8> = tensors.iter().flat_map(|tensor| part(5, tensor)).collect();
    let graph = [node, part(2, b"graph"), initial].concat();
    [number(1, 8), part(2, b"producer"), part(7, &graph), part(8, &number(2, 17))].concat()
}

fn tensor(bytes: usize) -> Vec<u8> {
    [part(1, &[2, 3]), number(2, 1), part(8, b"w"), part(9, &vec![1; bytes])].concat()
}

fn external(location: &str, offset: u64, bytes: u64) -> Vec<u8> {
    let pair =
        |name: &str, value: &str| part(13, &[part(1, name.as_bytes()), part(2, value.as_bytes())].concat());
    let place =
        [pair("location", location), pair("offset", &offset.to_string()), pair("length", &bytes.to_string())];
    [part(1, &[2, 3]), number(2, 1), place.concat(), number(14, 1)].concat()
}

/// As PyTorch writes it: stored parts, each with a name in the folder `archive`.
fn torch(names: &[&str]) -> Vec<u8> {
    let (mut file, mut list) = (Vec::new(), Vec::new());
    for name in names {
        let name = format!("archive/{name}");
        let content = [3_u8; 40];
        let at = file.len() as u32;
        let lengths = [(name.len() as u16).to_le_bytes(), [0, 0]].concat();
        let sizes = [0, content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        file.extend(
            [b"PK\x03\x04".as_slice(), &[0; 10], &sizes, &lengths, name.as_bytes(), &content].concat(),
        );
        list.extend(
            [b"PK\x01\x02".as_slice(), &[0; 12], &sizes, &lengths, &[0; 10], &at.to_le_bytes()].concat(),
        );
        list.extend(name.as_bytes());
    }
    let (at, count) = (file.len() as u32, names.len() as u16);
    let end = [count, count].map(u16::to_le_bytes).concat();
    let place = [list.len() as u32, at].map(u32::to_le_bytes).concat();
    file.extend(list);
    file.extend([b"PK\x05\x06".as_slice(), &[0; 4], &end, &place, &[0; 2]].concat());
    file
}

fn checkpoint() -> Vec<u8> {
    torch(&["data.pkl", "byteorder", "data/0", "data/1", "version"])
}

#[test]
fn whole_models_are_passed_over() {
    for (name, content) in [
        ("a/model.safetensors", safetensors(HEADER, 26)),
        ("empty.safetensors", safetensors("{}   ", 0)),
        ("a.gguf", gguf()),
        ("a.onnx", onnx(&[tensor(24), tensor(24)])),
        ("pytorch_model.bin", b"raw".to_vec()),
        ("README.md", b"{".to_vec()),
    ] {
        assert_eq!(said(name, &content), [""; 0], "{name}");
    }
}

#[test]
fn pickle_is_told_and_not_taken_for_broken() {
    for (name, content) in [
        ("a.pt", checkpoint()),
        ("old.pth", b"\x80\x02\x8a\x0a".to_vec()),
        ("pytorch_model.bin", b"\x80\x04\x95.".to_vec()),
        ("other.pth", b"./lib".to_vec()),
        ("a.pkl", b"cos\nsystem\n".to_vec()),
    ] {
        let said = said(name, &content);
        let [line] = said.as_slice() else { panic!("{name}: {said:?}") };
        assert!(line.starts_with(&format!("Told {name}: it")) && line.contains("pickle"), "{line}");
    }
}

#[test]
fn every_cut_is_found() {
    for (name, whole) in [
        ("a.safetensors", safetensors(HEADER, 26)),
        ("a.gguf", gguf()),
        ("a.onnx", onnx(&[tensor(24), tensor(24)])),
        ("a.pt", checkpoint()),
    ] {
        let found = (0..whole.len()).filter(|end| is_broken(name, &whole[..*end])).count();
        assert_eq!(found, whole.len(), "{name}");
    }
}

#[test]
fn headers_of_safetensors_that_do_not_fit_are_found() {
    let with = |from: &str, to: &str| safetensors(&HEADER.replacen(from, to, 1), 26);
    for (content, told) in [
        (safetensors(HEADER, 25), "its tensors have 26 bytes, and the file has 25 for them"),
        (safetensors(HEADER, 27), "its tensors have 26 bytes, and the file has 27 for them"),
        (with("[2,3]", "[2,4]"), "its tensor 1 has not as many bytes as its type and shape say"),
        (with("BF16", "BOOL"), "its tensor 2 has not"),
        (with("[24,26]", "[22,24]"), "its tensors overlap or leave a hole at byte 24"),
        (with("\"b\"", "\"a\""), "its tensor 2 has the name of an earlier one"),
        (with("[26,26]", "[27,26]"), "its tensor 3 has not"),
        (with("[2,3]", "[4294967296,4294967296]"), "its tensor 1 has not"),
        (with("\"pt\"", "5"), "its header is not one of safetensors: column 27"),
        (with("{", "["), "its header is not JSON"),
        (u64::MAX.to_le_bytes().to_vec(), "its header of 18446744073709551615 bytes goes beyond its end"),
        (Vec::new(), "it is too short"),
    ] {
        let said = said("a.safetensors", &content);
        let [line] = said.as_slice() else { panic!("{told}: {said:?}") };
        assert!(line.starts_with(&format!("Broken a.safetensors: {told}")), "{line} for {told}");
    }
    assert_eq!(said("a.safetensors", &with("BF16", "F99")).len(), 1, "an unknown type is told");
}

#[test]
fn each_number_of_a_gguf_header_that_is_changed_beyond_sense_is_found() {
    let whole = gguf();
    let header = whole.len() - 212 - 20;
    // Each of them, as a length, a count, a type or a place, leads out of the file or to an unknown type.
    let starts = (0..header - 8).filter(|at| {
        let eight: [u8; 8] = whole[*at..*at + 8].try_into().expect("eight bytes");
        (1..64).contains(&u64::from_le_bytes(eight)) && eight[0] != 0
    });
    let starts: Vec<usize> = starts.collect();
    assert!(starts.len() > 15, "{starts:?}");
    for at in starts {
        let mut damaged = whole.clone();
        damaged[at..at + 8].fill(0xff);
        assert!(is_broken("a.gguf", &damaged), "at {at}");
    }
    let at = |of: &[u8]| whole.windows(of.len()).position(|window| window == of).expect("it is there");
    for (place, value, told) in [
        (4, 900_u64, "it is GGUF of version 900"),
        (8, 1 << 40, "it claims to have"),
        (at(&192_u64.to_le_bytes()), 64, "its tensors overlap at byte 64"),
        (at(&192_u64.to_le_bytes()), 256, "a tensor ends at byte 276 of its data, which has 212"),
        (at(&192_u64.to_le_bytes()), 65, "it has a tensor that is not aligned"),
        (at(&64_u64.to_le_bytes()), 63, "it has a tensor whose rows do not fit"),
    ] {
        let mut damaged = whole.clone();
        let bytes = if place == 4 { 4 } else { 8 };
        damaged[place..place + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        let said = said("a.gguf", &damaged);
        assert!(
            said.len() == 1 && said[0].starts_with(&format!("Broken a.gguf: {told}")),
            "{said:?} for {told}"
        );
    }
}

#[test]
fn tensors_of_onnx_that_do_not_fit_are_found() {
    for (content, told) in [
        (onnx(&[tensor(24), tensor(23)]), "its tensor 2 has 23 bytes, and its shape says 24"),
        (onnx(&[external("w.data", 0, 23)]), "its tensor 1 has 23 bytes"),
        (onnx(&[external("", 0, 24)]), "its tensor 1 lies in another file"),
        (number(1, 8), "it is no ONNX model"),
        (Vec::new(), "it is no ONNX model"),
        ([number(1, 8), vec![0x3a, 99]].concat(), "a part at byte 2 goes beyond"),
        (b"hello, world".to_vec(), "it is not protobuf at byte 2"),
    ] {
        let said = said("a.onnx", &content);
        assert!(!said.is_empty() && said[0].contains(told), "{said:?} for {told}");
    }
}

#[test]
fn parts_of_onnx_in_other_files_have_to_be_there() {
    let model = onnx(&[external("w.data", 0, 24), external("w.data", 4096, 24)]);
    let with = |name: &str, length: usize| said_by(64, &[("m/a.onnx", &model), (name, &vec![0; length])]);
    assert_eq!(with("m/w.data", 4120), [""; 0]);
    assert_eq!(
        with("m/w.data", 4119),
        ["Broken m/a.onnx: a file beside it has 4119 bytes, and its tensors reach to byte 4120"]
    );
    let absent = ["Broken m/a.onnx: a file beside it, with bytes of its tensors, is not in the backup"];
    assert_eq!(with("w.data", 4120), absent);
    let outside = onnx(&[external("../w.data", 0, 24)]);
    assert_eq!(
        said_by(64, &[("m/a.onnx", &outside), ("w.data", &[0; 24])]),
        ["Broken m/a.onnx: it needs a file outside of its folder, which readers refuse"]
    );
}

#[test]
fn each_byte_of_a_checkpoints_list_that_decides_is_found() {
    let whole = checkpoint();
    let list = whole.windows(4).position(|window| window == b"PK\x01\x02").expect("it has a list");
    let entry = 46 + "archive/data.pkl".len();
    // Signature, lengths, and where the part begins; the same of its end.
    let fields = [0..4, 20..24, 24..28, 28..30, 30..32, 32..34, 42..46];
    let end = whole.len() - 22;
    let of_end = [0..4, 4..8, 8..10, 10..12, 12..16, 16..20, 20..22];
    let places = fields
        .into_iter()
        .flatten()
        .map(|at| list + at)
        .chain(of_end.into_iter().flatten().map(|at| end + at));
    for at in places {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            assert!(
                is_broken("a.pt", &damaged),
                "bit {bit} of byte {at}; the list is at {list}, entries of {entry}"
            );
        }
    }
    assert!(is_broken("a.pt", &torch(&["data.pkl", "data/0"])), "no version");
}

#[test]
fn a_list_of_tensors_is_compared_with_the_files_that_it_names() {
    let one = safetensors(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1);
    let list = |map: &str| format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{map}}}}}"#);
    let with = |map: &str| {
        let files = [
            ("m/x-00001-of-00002.safetensors", one.as_slice()),
            ("m/x.safetensors.index.json", &list(map).into_bytes()),
        ];
        said_by(5, &files)
    };
    assert_eq!(with(r#""a":"x-00001-of-00002.safetensors""#), [""; 0]);
    assert_eq!(
        with(r#""a":"x-00001-of-00002.safetensors","b":"x-00001-of-00002.safetensors""#),
        ["Broken m/x.safetensors.index.json: 1 tensors that it names are not in the file that it says"]
    );
    assert_eq!(
        with(r#""a":"x-00001-of-00002.safetensors","b":"x-00002-of-00002.safetensors""#),
        ["Broken m/x.safetensors.index.json: 1 of the 2 files that it names are not in the backup"]
    );
    assert!(with("5")[0].starts_with("Broken m/x.safetensors.index.json: it is no list of tensors: line 1"));
}

#[test]
fn a_proven_file_is_looked_at_again_only_to_compare_it() {
    let mut check = ModelsCheck::default();
    let mut wanted =
        |path: &str| check.file(CheckedFile { path: path.as_bytes(), length: 1, is_proven: true });
    assert!(!wanted("a.gguf") && !wanted("a.pt"));
    assert!(wanted("a-1-of-2.safetensors") && wanted("a.safetensors.index.json") && wanted("a.onnx"));
}

#[test]
fn what_is_not_needed_is_not_asked_for() {
    for (name, whole) in [("a.safetensors", safetensors(HEADER, 26)), ("a.gguf", gguf())] {
        let mut check = ModelsCheck::default();
        let length = 1 << 40;
        assert!(check.file(CheckedFile { path: name.as_bytes(), length, is_proven: false }));
        let asked = whole.chunks(1).take_while(|bytes| check.bytes(bytes)).count();
        assert!(asked < whole.len(), "{name} asks for all of a terabyte");
    }
}

/// However long the names and lists of a file claim to be, little of it is taken before it is refused.
#[test]
fn claims_beyond_measure_are_not_believed() {
    let mut check = ModelsCheck::default();
    let length = 1 << 50;
    for (name, begin) in [
        ("a.safetensors", (99_000_000_u64).to_le_bytes().to_vec()),
        ("a.gguf", [b"GGUF\x03\0\0\0".as_slice(), &[0; 8], &1_u64.to_le_bytes(), &[0xff; 8]].concat()),
        ("a.onnx", part(7, &[])[..1].to_vec()),
    ] {
        assert!(check.file(CheckedFile { path: name.as_bytes(), length, is_proven: false }));
        let zeros = vec![0xff; 1 << 20];
        let taken = std::iter::once(begin.as_slice()).chain(std::iter::repeat_n(zeros.as_slice(), 100));
        let pieces = taken.take_while(|bytes| check.bytes(bytes)).count();
        assert!(pieces < 3, "{name} takes {pieces} MiB");
        assert_eq!(check.file_end().len(), 1, "{name}");
    }
}

fn formats() -> [(&'static str, Vec<u8>); 5] {
    [
        ("a.safetensors", safetensors(HEADER, 26)),
        ("a.gguf", gguf()),
        ("a.onnx", onnx(&[tensor(24), external("w.data", 0, 24)])),
        ("a.pt", checkpoint()),
        ("a.safetensors.index.json", br#"{"weight_map":{"a":"b"}}"#.to_vec()),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_a_check_fail(content: Vec<u8>, which in 0..5_usize, piece in 1..99_usize) {
        said_by(piece, &[(formats()[which].0, &content)]);
    }

    #[test]
    fn no_damage_makes_a_check_fail(
        which in 0..5_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let (name, mut content) = formats()[which].clone();
        for (at, byte) in changes {
            let at = at.index(content.len());
            content[at] = byte;
        }
        content.truncate(end.index(content.len()) + 1);
        said(name, &content);
    }
}

#[test]
fn severities_are_told_apart() {
    let mut check = ModelsCheck::default();
    assert!(check.file(CheckedFile { path: b"a.pkl", length: 1, is_proven: false }));
    assert_eq!(check.file_end()[0].severity, Severity::Told);
}
