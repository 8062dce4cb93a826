//! Who may import whom, held over the manifests; and what must not be in the programs at all.
//!
//! The layers are what makes the code readable in a day: `repository` and `runtime` stand alone, `proto`
//! knows the repository's ids, `controller` and `agent` never see each other, only `nsctl` composes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The workspace crates that each one may import.
const LAYERS: [(&str, &[&str]); 9] = [
    ("repository", &[]),
    ("formats", &["repository"]),
    ("runtime", &[]),
    ("proto", &["repository"]),
    ("controller", &["formats", "proto", "repository", "runtime"]),
    ("agent", &["formats", "proto", "repository", "runtime"]),
    ("nsctl", &["agent", "controller", "formats", "proto", "repository", "runtime"]),
    ("tests", &["proto", "repository"]),
    ("decoders", &["agent", "controller", "formats", "proto", "repository", "runtime"]),
];

/// Tools that only these workspace crates may use in what they ship.
const HOMES: [(&str, &[&str]); 22] = [
    ("tonic", &["proto", "controller", "agent", "nsctl"]),
    ("prost", &["proto"]),
    ("sqlx", &["controller"]),
    ("axum", &["controller"]),
    ("askama", &["controller"]),
    ("clap", &["controller", "agent", "nsctl"]),
    ("indicatif", &["nsctl"]),
    ("comfy-table", &["nsctl"]),
    ("fastcdc", &["repository"]),
    ("zstd", &["repository"]),
    ("blake3", &["repository", "formats", "agent"]),
    ("argon2", &["repository"]),
    ("rcgen", &["controller", "agent"]),
    ("serde-saphyr", &["formats", "runtime", "nsctl"]),
    ("toml", &["formats"]),
    ("tracing-subscriber", &["runtime"]),
    ("flate2", &["nsctl"]),
    ("tar", &["nsctl"]),
    ("mongodb", &["agent"]),
    ("kube", &["agent", "controller"]),
    ("cid", &["formats", "agent"]),
    ("multihash-codetable", &["formats"]),
];

/// Each has a better one in its place, or an open advisory.
const BANNED: [(&str, &str); 6] = [
    ("openssl", "TLS is rustls with aws-lc"),
    ("openssl-sys", "TLS is rustls with aws-lc"),
    ("native-tls", "TLS is rustls with aws-lc"),
    ("ring", "one cryptographic provider: aws-lc"),
    ("rsa", "RUSTSEC-2023-0071; our keys are P-256, X25519 and Ed25519"),
    ("serde_yaml", "not maintained; YAML is serde-saphyr"),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(["--locked".to_owned()])
        .exec()
        .expect("cargo metadata works in this workspace")
}

fn members(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata.workspace_packages().into_iter().map(|package| (package.name.as_str(), package)).collect()
}

/// The crates that `package` is shipped with, not those of its tests.
fn shipped(package: &Package) -> impl Iterator<Item = &str> {
    let is_shipped = |kind| matches!(kind, DependencyKind::Normal | DependencyKind::Build);
    package.dependencies.iter().filter(move |dependency| is_shipped(dependency.kind)).map(|d| d.name.as_str())
}

#[test]
fn every_crate_imports_only_the_layers_below_it() {
    let metadata = metadata();
    let members = members(&metadata);
    let layers = BTreeMap::from(LAYERS);
    assert_eq!(
        members.keys().collect::<Vec<_>>(),
        layers.keys().collect::<Vec<_>>(),
        "a new workspace crate needs its place in LAYERS"
    );
    for (name, package) in &members {
        // A crate may test itself with a feature of its own.
        let others = package.dependencies.iter().filter(|import| import.name != *name);
        for import in others.filter(|import| members.contains_key(import.name.as_str())) {
            assert!(
                layers[name].contains(&import.name.as_str()),
                "`{name}` must not import `{}`: see the layers in docs/architecture.md",
                import.name
            );
        }
    }
}

#[test]
fn every_tool_stays_in_its_home() {
    let metadata = metadata();
    for (name, package) in members(&metadata) {
        // The suites look at everything from outside.
        if matches!(name, "tests" | "decoders") {
            continue;
        }
        for (tool, homes) in HOMES {
            assert!(
                homes.contains(&name) || !shipped(package).any(|import| import == tool),
                "`{name}` must not use `{tool}`, whose home is {homes:?}"
            );
        }
    }
}

#[test]
fn every_home_is_lived_in() {
    let metadata = metadata();
    let members = members(&metadata);
    for (tool, homes) in HOMES {
        for home in homes {
            assert!(shipped(members[home]).any(|import| import == tool), "`{home}` no longer uses `{tool}`");
        }
    }
}

#[test]
fn no_program_contains_a_banned_crate() {
    // `cargo metadata` also lists what only other features or platforms would bring; `cargo tree` shows
    // what is really built.
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--edges", "normal,build", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo can be called");
    assert!(tree.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("cargo writes UTF-8");
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(
        names.contains("tonic") && names.contains("aws-lc-rs"),
        "the tree shows what the programs are made of"
    );
    for (banned, why) in BANNED {
        assert!(
            !names.contains(banned),
            "`{banned}` is in the programs: {why}; see `cargo tree -i {banned}`"
        );
    }
}
