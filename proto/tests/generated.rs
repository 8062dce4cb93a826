//! The committed code in `src/generated` is what the `.proto` files generate. After a change of a
//! `.proto` file: `NEURASHIELD_REGENERATE=1 cargo test --release -p proto --test generated`.

use std::fs;
use std::path::Path;

use prost::Message;

const FILES: [&str; 3] = [
    "neurashield/backup/v1/common.proto",
    "neurashield/backup/v1/agent.proto",
    "neurashield/backup/v1/user.proto",
];

#[test]
fn the_committed_code_is_what_the_proto_files_generate() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = tempfile::tempdir().expect("a temporary folder");
    let descriptors = protox::compile(FILES, [home]).expect("the .proto files compile");
    fs::write(made.path().join("descriptors.bin"), descriptors.encode_to_vec()).expect("written");
    fs::write(made.path().join("methods.rs"), methods(&descriptors)).expect("written");
    tonic_prost_build::configure()
        .out_dir(made.path())
        .bytes(".")
        .build_transport(false)
        .compile_fds(descriptors)
        .expect("the code is generated");

    let committed = home.join("src/generated");
    for name in ["neurashield.backup.v1.rs", "descriptors.bin", "methods.rs"] {
        let fresh = fs::read(made.path().join(name)).expect("generated");
        if std::env::var_os("NEURASHIELD_REGENERATE").is_some() {
            fs::write(committed.join(name), &fresh).expect("written");
        }
        let old = fs::read(committed.join(name)).unwrap_or_default();
        assert!(
            old == fresh,
            "src/generated/{name} is not what the .proto files generate: see the head of this test"
        );
    }
}

/// The path of every call of every service, for the controller's table of who may make it.
fn methods(descriptors: &prost_types::FileDescriptorSet) -> String {
    let mut text = String::from("&[\n");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                text.push_str(&format!("    \"{path}\",\n"));
            }
        }
    }
    text + "]\n"
}
