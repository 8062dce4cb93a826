//! Random trees go in and come out equal in every attribute, before and after they were changed.
//!
//! Many trees are the sources of one agent, so that one backup takes them all. In the gate 50 seeds, always
//! the same; `NEURASHIELD_SEEDS=1000 NEURASHIELD_FIRST_SEED=…` takes others, as the suite `nightly` does,
//! and lets the files grow old between the two backups, so that the no-change cache is used. What fails
//! names its seed: `tests/random-tree make FOLDER SEED` makes the tree again.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use tests::{System, differences_between_folders, let_it_settle, project};

/// Sources of one agent.
const AT_A_TIME: u64 = 50;

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn random_tree(verb: &str, folder: &Path, seeds: &[String]) {
    let program = project().join("tests/random-tree");
    let status = Command::new("python3").arg(program).arg(verb).arg(folder).args(seeds).status();
    assert!(status.expect("python3 runs").success(), "random-tree {verb} {seeds:?}");
}

/// Restores the backup into `to` and returns what differs from the trees in `expected`.
fn restored_differences(system: &System, backup: &str, to: &Path, expected: &Path) -> Option<String> {
    system.run(&["restore", "--timestamp", backup, "--to", to.to_str().expect("UTF-8"), "--yes"]);
    let said = differences_between_folders(expected, to, &["--sockets-left-out", "--below"])?;
    Some(format!("backup {backup}:\n{said}"))
}

fn round(seeds: &[String], settle: bool) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let (trees, reference) = (folder.path().join("trees"), folder.path().join("reference"));
    for place in [&trees, &reference] {
        fs::create_dir(place).expect("made");
        random_tree("make", place, seeds);
    }
    let named = seeds.iter().map(|seed| (format!("seed{seed}"), trees.join(format!("seed{seed}"))));
    let named: Vec<_> = named.collect();
    let sources: Vec<_> = named.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    let mut system = System::start(&sources);
    if settle {
        let_it_settle(&trees);
    }

    let backup = |system: &System| system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    let first = backup(&system);
    random_tree("change", &trees, seeds);
    let second = backup(&system);

    let restored = [(first, "first", &reference), (second, "second", &trees)];
    let wrong = restored.iter().filter_map(|(backup, to, expected)| {
        restored_differences(&system, backup, &folder.path().join(to), expected)
    });
    let wrong = wrong.collect();
    system.kill_agent();
    system.kill_controller();
    wrong
}

#[test]
fn random_trees_come_back_equal_in_every_attribute_before_and_after_a_change() {
    let (count, first) = (number("NEURASHIELD_SEEDS", AT_A_TIME), number("NEURASHIELD_FIRST_SEED", 1));
    let seeds: Vec<String> = (first..first + count).map(|seed| seed.to_string()).collect();
    println!("seeds {first} to {}", first + count - 1);
    let mut wrong = Vec::new();
    for seeds in seeds.chunks(AT_A_TIME as usize) {
        wrong.extend(round(seeds, count > AT_A_TIME));
    }
    assert!(wrong.is_empty(), "the path of each difference starts with its seed:\n{}", wrong.join("\n"));
}
