//! `nsctl find` and `nsctl diff`: in which backups a file lies, what differs between two, and that whatever name they
//! show can be given back.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::System;

const INCOMPLETE: i32 = 3;
const DAMAGED: i32 = 4;

/// Names as they are, and as they are shown.
const ODD: [(&[u8], &str); 5] = [
    (b"bad\xffname", "bad\\xffname"),
    (b"new\nline.txt", "new\\nline.txt"),
    (b"star*[x].txt", "star*[x].txt"),
    (b"back\\nslash", "back\\\\nslash"),
    (b"bell\x07", "bell\\u{7}"),
];

struct Story {
    system: System,
    folder: tempfile::TempDir,
}

impl Story {
    /// A system with a folder of models, and configs.
    fn begin() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (models, configs) = (folder.path().join("models"), folder.path().join("configs"));
        for path in ["models/sub", "models/gone", "configs"] {
            fs::create_dir_all(folder.path().join(path)).expect("made");
        }
        for (name, content) in [
            ("keep", "same"),
            ("sub/app.yaml", "a: 1"),
            ("gone/inner", "x"),
            ("becomes", "a file"),
            ("kept-mode", "m"),
        ] {
            fs::write(models.join(name), content).expect("written");
        }
        for (name, shown) in ODD {
            fs::write(models.join("sub").join(OsStr::from_bytes(name)), shown).expect("written");
        }
        fs::set_permissions(models.join("kept-mode"), fs::Permissions::from_mode(0o644)).expect("set");
        symlink("keep", models.join("link")).expect("linked");
        fs::write(configs.join("app.yaml"), "b: 2").expect("written");
        let system = System::start(&[("models", &models), ("configs", &configs)]);
        Self { system, folder }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn backup(&self, words: &[&str], code: i32) -> String {
        let words = [&["backup", "-o", "json"], words].concat();
        let job = self.system.nsctl(&words).expect(code).json();
        job["backup"].as_str().expect("a backup").to_owned()
    }

    /// What is found, as `backup component path`, and all that was said beside it.
    fn find(&self, words: &[&str], code: i32) -> (Vec<String>, String) {
        let words = [&["find", "-o", "json"], words].concat();
        let answer = self.system.nsctl(&words).expect(code);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let line = |line: &str| {
            let found: Value = serde_json::from_str(line).expect("an object on each line");
            [&found["backup"], &found["component"], &found["path"]].map(text).join(" ")
        };
        (answer.out.lines().map(line).collect(), answer.err)
    }

    fn packs(&self) -> BTreeSet<PathBuf> {
        let folders = fs::read_dir(self.system.repository().join("repository/packs")).expect("listed");
        let packs = folders.flat_map(|folder| fs::read_dir(folder.expect("read").path()).expect("listed"));
        packs.map(|pack| pack.expect("read").path()).collect()
    }
}

#[test]
fn a_file_is_found_in_every_backup_and_what_differs_between_two_is_told() {
    let story = Story::begin();
    let first = story.backup(&[], 0);
    fs::remove_dir_all(story.path("models/gone")).expect("removed");
    fs::create_dir(story.path("models/new")).expect("made");
    fs::write(story.path("models/new/inner"), "four").expect("written");
    fs::write(story.path("models/sub/app.yaml"), "a: 12").expect("written");
    fs::set_permissions(story.path("models/kept-mode"), fs::Permissions::from_mode(0o640)).expect("set");
    fs::remove_file(story.path("models/becomes")).expect("removed");
    fs::create_dir(story.path("models/becomes")).expect("made");
    fs::remove_file(story.path("models/link")).expect("removed");
    symlink("new", story.path("models/link")).expect("linked");
    let second = story.backup(&["--components", "models"], 0);
    fs::rename(story.path("configs"), story.path("away")).expect("renamed");
    let third = story.backup(&[], INCOMPLETE);

    let (found, said) = story.find(&["app.yaml"], 0);
    let expected = [
        format!("{third} models sub/app.yaml"),
        format!("{second} models sub/app.yaml"),
        format!("{first} configs app.yaml"),
        format!("{first} models sub/app.yaml"),
    ];
    assert_eq!(found, expected, "{said}");
    assert!(said.contains(&format!("{third} configs was not looked into: its backup failed")), "{said}");
    assert!(said.contains("4 entries in 3 of 3 backups; 1 archive was not looked into"), "{said}");
    let of = |words: &[&str]| story.find(words, 0).0;
    assert_eq!(of(&["app.yaml", "--limit", "2"]).len(), 2);
    assert_eq!(of(&["/app.yaml"]), [format!("{first} configs app.yaml")]);
    assert_eq!(
        of(&["*.yaml", "--timestamp", "latest", "--components", "configs"]),
        [format!("{first} configs app.yaml")]
    );
    assert_eq!(
        of(&["inner", "--components", "models", "--timestamp", &first]),
        [format!("{first} models gone/inner")]
    );
    let (found, said) = story.find(&["nowhere"], 0);
    assert!(found.is_empty() && said.contains("nothing in 3 backups is named \"nowhere\""), "{said}");
    let (_, said) = story.find(&["app.yaml", "--components", "modles"], 2);
    assert!(said.contains("modles is in none of the backups") && said.contains("configs, models"), "{said}");
    assert!(story.find(&["["], 2).1.contains("unclosed"), "the pattern is explained");
    let table = story.system.nsctl(&["find", "app.yaml", "--timestamp", &first]).expect(0).out;
    assert!(table.lines().all(|line| line.starts_with(&first) && line.ends_with("app.yaml")), "{table}");

    let diff = |words: &[&str], code| story.system.nsctl(&[&["diff"], words].concat()).expect(code).out;
    let told = diff(&[&first, &second], 0);
    let expected = format!(
        "!  configs  is in {first} only\n\
         M  models   becomes/  (file → folder)\n\
         -  models   gone/\n\
         -  models   gone/inner\n\
         U  models   kept-mode  (mode 0644 → 0640)\n\
         M  models   link  (target, time)\n\
         +  models   new/\n\
         +  models   new/inner\n\
         M  models   sub/app.yaml  (4 B → 5 B, time)\n\
         {first} → {second}: 2 added (4 B), 2 removed (1 B), 3 changed, 1 in metadata only, 7 the same\n"
    );
    assert_eq!(told, expected);
    let json = diff(&[&first, &second, "models", "-o", "json"], 0);
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), 9, "{json}");
    assert_eq!(events[0]["after"]["kind"], "folder");
    assert_eq!(events[1]["change"], "removed");
    assert_eq!((&events[8]["event"], &events[8]["changed"]), (&"counts".into(), &3.into()));
    let told = diff(&[&third, "latest", "configs"], INCOMPLETE);
    assert!(told.starts_with(&format!("!  configs  is not compared: it failed in {third}: ")), "{told}");
    let same = diff(&[&second, &third, "models/models"], 0);
    assert!(
        same.ends_with(": 0 added (0 B), 0 removed (0 B), 0 changed, 0 in metadata only, 13 the same\n"),
        "{same}"
    );
    let wrong = story.system.nsctl(&["diff", &first, &second, "ipfs"]).expect(2).err;
    assert!(wrong.contains("neither") && wrong.contains("holds ipfs"), "{wrong}");
}

#[test]
fn whatever_name_is_shown_can_be_given_back() {
    let story = Story::begin();
    let system = &story.system;
    let backup = story.backup(&[], 0);
    let listed = system.nsctl(&["ls", "latest", "models", "/sub/"]).expect(0).out;
    for (name, shown) in ODD {
        assert!(listed.lines().any(|line| line.ends_with(&format!("  sub/{shown}"))), "{shown}: {listed}");
        assert_eq!(story.find(&[shown], 0).0, [format!("{backup} models sub/{shown}")]);
        let path = format!("/sub/{shown}");
        assert_eq!(system.nsctl(&["cat", "latest", "models", &path]).expect(0).out, shown);
        system.nsctl(&["ls", "latest", "models", &path]).expect(0);
        // As it is, too.
        let mut cat = system.nsctl_command(&["cat", "latest", "models"]);
        let raw = [b"sub/", name].concat();
        let output = cat.arg(OsStr::from_bytes(&raw)).output().expect("nsctl runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), shown, "{output:?}");
    }
    let to = story.path("restored");
    let (to_text, mut words) =
        (to.to_str().expect("UTF-8"), vec!["restore", "--timestamp", "latest", "--yes"]);
    let paths: Vec<String> = ODD.iter().map(|(_, shown)| format!("sub/{shown}")).collect();
    words.extend(["--components", "models", "--to", to_text, "--path"]);
    words.extend(paths.iter().map(String::as_str));
    system.nsctl(&words).expect(0);
    let restored = fs::read_dir(to.join("models/sub")).expect("restored");
    let restored: BTreeSet<_> = restored.map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(restored, ODD.iter().map(|(name, _)| OsStr::from_bytes(name).to_owned()).collect());
}

#[test]
fn an_archive_that_cannot_be_read_is_told_and_the_others_are_looked_into() {
    let story = Story::begin();
    let first = story.backup(&[], 0);
    let before = story.packs();
    fs::write(story.path("models/app.yaml"), "c: 3").expect("written");
    let second = story.backup(&["--components", "models"], 0);
    let new: Vec<_> = story.packs().difference(&before).cloned().collect();
    assert!(!new.is_empty(), "it has packs of its own");
    for pack in &new {
        zero(pack);
    }
    let (found, said) = story.find(&["app.yaml"], DAMAGED);
    assert_eq!(
        found,
        [format!("{first} configs app.yaml"), format!("{first} models sub/app.yaml")],
        "{said}"
    );
    assert!(said.contains(&format!("{second} models was not looked into to its end: ")), "{said}");
    let told = story.system.nsctl(&["diff", &first, &second, "models"]).expect(DAMAGED).out;
    assert!(told.contains(&format!("!  models  is not compared to its end: {second}: ")), "{told}");
}

/// Nothing of it can be read any more.
fn zero(pack: &Path) {
    let length = fs::metadata(pack).expect("there").len();
    fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).expect("set");
    fs::write(pack, vec![0; usize::try_from(length).expect("small")]).expect("damaged");
}
