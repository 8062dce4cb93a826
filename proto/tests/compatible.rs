//! No later change breaks who speaks the protocol already: what the files of `released/` name (the descriptors of the
//! protocol as it was given out, once and again) is still there, and means the same. What is new may be there too.
//!
//! With a release that has new calls or fields goes a new file, and a line for it; no file and no line changes ever:
//! `cd proto/released && cp ../src/generated/descriptors.bin v3.bin && sha256sum v3.bin >> SHA256SUMS`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// Everything that somebody may rely on, by its full name, with what it means on the wire.
type Surface = BTreeMap<String, String>;

fn surface(set: &FileDescriptorSet) -> Surface {
    let mut all = Surface::new();
    for file in &set.file {
        let package = file.package().to_owned();
        file.message_type.iter().for_each(|message| message_surface(&package, message, &mut all));
        file.enum_type.iter().for_each(|one| enum_surface(&package, one, &mut all));
        for service in &file.service {
            for method in &service.method {
                let streams = (method.client_streaming(), method.server_streaming());
                all.insert(
                    format!("call {package}.{}/{}", service.name(), method.name()),
                    format!("{} → {} {streams:?}", method.input_type(), method.output_type()),
                );
            }
        }
    }
    all
}

fn message_surface(package: &str, message: &DescriptorProto, all: &mut Surface) {
    let name = format!("{package}.{}", message.name());
    all.insert(format!("message {name}"), String::new());
    for field in &message.field {
        // In a oneof, optional or repeated: each changes what is sent or how it is read.
        let one_of = field.oneof_index.map(|at| message.oneof_decl[at as usize].name());
        let kind = format!("{:?} {:?} {} in {one_of:?}", field.label(), field.r#type(), field.type_name());
        all.insert(format!("field {name} {}", field.number()), format!("{} {kind}", field.name()));
    }
    message.nested_type.iter().for_each(|nested| message_surface(&name, nested, all));
    message.enum_type.iter().for_each(|nested| enum_surface(&name, nested, all));
}

fn enum_surface(package: &str, one: &EnumDescriptorProto, all: &mut Surface) {
    for value in &one.value {
        let name = format!("value {package}.{} {}", one.name(), value.number());
        all.insert(name, value.name().to_owned());
    }
}

/// What of `old` is gone in `new`, or means something else there.
fn broken(old: &Surface, new: &Surface) -> Vec<String> {
    let is_broken = |(name, meaning): (&String, &String)| match new.get(name) {
        Some(now) if now == meaning => None,
        Some(now) => Some(format!("{name}: was {meaning:?}, is {now:?}")),
        None => Some(format!("{name}: is gone")),
    };
    old.iter().filter_map(is_broken).collect()
}

fn read(path: &str) -> FileDescriptorSet {
    let bytes = fs::read(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("it is there");
    FileDescriptorSet::decode(bytes.as_slice()).expect("descriptors")
}

/// The names of the files that hold what was given out.
fn released() -> Vec<String> {
    let folder = format!("{}/released", env!("CARGO_MANIFEST_DIR"));
    let listed = fs::read_dir(folder).expect("listed");
    let names = listed.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".bin")).collect();
    names.sort();
    names
}

#[test]
fn what_was_given_out_is_there_and_means_the_same() {
    let new = surface(&read("src/generated/descriptors.bin"));
    for name in released() {
        let old = surface(&read(&format!("released/{name}")));
        assert!(old.len() > 300, "{name} is read: {}", old.len());
        let broken = broken(&old, &new);
        assert!(broken.is_empty(), "a change breaks who speaks {name} already:\n{}", broken.join("\n"));
    }
}

#[test]
fn what_was_given_out_is_never_written_anew() {
    let folder = format!("{}/released", env!("CARGO_MANIFEST_DIR"));
    let sums = fs::read_to_string(format!("{folder}/SHA256SUMS")).expect("read");
    let named: Vec<&str> =
        sums.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| name).collect();
    assert_eq!(named, released(), "each file has a line in SHA256SUMS, and each line a file");
    let checked =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(folder).output();
    let checked = checked.expect("sha256sum runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn every_kind_of_break_is_seen() {
    let old = read("src/generated/descriptors.bin");
    let known = surface(&old);
    let changed = |change: &dyn Fn(&mut FileDescriptorSet)| {
        let mut new = old.clone();
        change(&mut new);
        broken(&known, &surface(&new)).len()
    };
    assert_eq!(changed(&|_| {}), 0);
    // An empty enum or a service without calls is no break: the first of each that has something.
    fn first(set: &mut FileDescriptorSet) -> &mut DescriptorProto {
        set.file.iter_mut().flat_map(|file| &mut file.message_type).find(|one| !one.field.is_empty()).unwrap()
    }
    assert!(changed(&|set| first(set).field[0].number = Some(99)) > 0, "a number");
    assert!(changed(&|set| first(set).field[0].name = Some("other".to_owned())) > 0, "a name");
    assert!(changed(&|set| first(set).field[0].r#type = Some(1)) > 0, "a type");
    assert!(changed(&|set| first(set).field[0].label = Some(3)) > 0, "a label");
    assert!(changed(&|set| drop(first(set).field.remove(0))) > 0, "a field");
    assert!(changed(&|set| set.file.iter_mut().for_each(|file| file.service.clear())) > 0, "a service");
    assert!(changed(&|set| set.file.iter_mut().for_each(|file| file.enum_type.clear())) > 0, "an enum");
    assert_eq!(changed(&|set| set.file.push(Default::default())), 0, "what is new breaks nothing");
}
