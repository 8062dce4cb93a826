//! Hand-made hostile archives in a real repository, under valid keys and signatures, restored by the built
//! program beside a canary tree: whoever can write archives still writes nothing outside of the target.

#[path = "../../agent/tests/hostile_support/mod.rs"]
mod hostile_support;
#[path = "../../repository/tests/support/mod.rs"]
mod repository_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use hostile_support::*;
use repository::archive::page::{PageLine, PageTable};
use repository::archive::path::EntryPath;
use repository::backup::manifest::Counts;
use repository::content::ContentHasher;
use repository::ids::BlobId;
use repository::keys::{DomainKeys, KeyRing};
use repository::pack::blob::{BlobKind, blob_id};
use repository::repo::Repository;
use repository::store::local::LocalStore;
use repository_support::{Sealer, Unfenced, at, draft, drafted, init, send, source};
use tests::programs;

/// How `nsctl repository restore` leaves.
const DONE: &[i32] = &[0];
const TOLD: &[i32] = &[3];
const WHATEVER: &[i32] = &[0, 1, 2, 3, 4];
const REFUSED: &[i32] = &[2, 4];
const FAILED: &[i32] = &[1, 2, 4];

/// What every hostile file says that it holds.
const DATA: &[u8] = b"planted";

/// One archive.
struct Case {
    name: &'static str,
    ends: &'static [i32],
    entries: Vec<Raw>,
    /// How many entries the page says that it holds; none: the truth.
    claimed: Option<u64>,
    /// The same of the page table.
    table: Option<u64>,
}

struct Cases {
    all: Vec<Case>,
    content: Content,
}

impl Cases {
    fn add(&mut self, name: &'static str, ends: &'static [i32], entries: Vec<Raw>) -> &mut Case {
        let entries = std::iter::once(Raw::folder("")).chain(entries).collect();
        self.bare(name, ends, entries)
    }

    /// Without the root folder before the entries.
    fn bare(&mut self, name: &'static str, ends: &'static [i32], entries: Vec<Raw>) -> &mut Case {
        self.all.push(Case { name, ends, entries, claimed: None, table: None });
        self.all.last_mut().expect("it was added")
    }

    fn file(&self, path: impl AsRef<[u8]>) -> Raw {
        self.with(path, |_| {})
    }

    fn with(&self, path: impl AsRef<[u8]>, change: impl FnOnce(&mut Content)) -> Raw {
        let mut content = self.content.clone();
        change(&mut content);
        Raw::new(path, Body::File(content))
    }
}

fn names(cases: &mut Cases, canary: &str) {
    let content = cases.content.clone();
    let f = |path: &str| vec![Raw::folder("a"), content.clone().at(path)];
    let wrong = [
        ("climbs out", "../canary/x"),
        ("climbs out from below", "a/../../canary/x"),
        ("is absolute", canary),
        ("begins with two slashes", "//x"),
        ("has an empty name", "a//x"),
        ("ends in a slash", "a/"),
        ("begins with a dot", "./x"),
        ("ends in a dot", "a/."),
        ("is two dots", ".."),
        ("holds NUL", "a\0b"),
    ];
    for (name, path) in wrong {
        let entries = f(path);
        cases.add(name, REFUSED, entries);
    }
    let (long, longer) = ("x".repeat(256), vec!["x".repeat(255); 300].join("/"));
    let entries = f(&long);
    cases.add("has a name of 256 bytes", REFUSED, entries);
    let entries = f(&longer);
    cases.add("is longer than any path", REFUSED, entries);
    cases.add("has a second root", REFUSED, vec![Raw::folder("a"), Raw::folder("")]);
    let root = cases.file("");
    cases.bare("has a file for its root", REFUSED, vec![root]);
    cases.bare("has a link for its root", REFUSED, vec![Raw::link("", canary)]);
    let x = cases.file("x");
    cases.bare("has no root", REFUSED, vec![x]);
    cases.bare("is empty", REFUSED, vec![]);
}

fn links(cases: &mut Cases, canary: &str) {
    let (ax, a_passwd, x) = (cases.file("a/x"), cases.file("a/passwd"), cases.file("x"));
    let link = |target: &str| Raw::link("a", target);
    for (name, target) in [
        ("writes through a link", canary),
        ("writes through a relative link", "../canary"),
        ("writes through a link to the root", "/"),
        ("writes through a magic link", "/proc/self/cwd"),
        ("writes through a link to itself", "a"),
    ] {
        cases.add(name, REFUSED, vec![link(target), ax.clone()]);
    }
    cases.add("overwrites through a link", REFUSED, vec![link(canary), a_passwd]);
    cases.add("makes a folder of a link", REFUSED, vec![link(canary), Raw::folder("a"), ax.clone()]);
    cases.add("makes a link of a folder", REFUSED, vec![Raw::folder("a"), link(canary), ax.clone()]);
    cases.add("makes a link of a file", REFUSED, vec![cases.content.clone().at("a"), link(canary)]);
    cases.add("has a link twice", REFUSED, vec![link("x"), link(canary)]);
    cases.add("makes a folder below a link", REFUSED, vec![link(canary), Raw::folder("a/new")]);
    cases.add("has a link that leads to nothing at all", REFUSED, vec![link("")]);
    cases.add("has NUL in a link", REFUSED, vec![link("a\0b")]);
    cases.add("has an endless link", REFUSED, vec![Raw::link("a", vec![b'x'; 65_536])]);
    cases.add("has a link too long for Linux", FAILED, vec![Raw::link("a", vec![b'x'; 5_000])]);
    cases.add("only points outside", DONE, vec![link(canary), x.clone()]);
    let hard = |to: &str| vec![Raw::folder("a"), x.clone().to("a/x"), Raw::hard("b", to)];
    for (name, to) in [
        ("links to a file outside", canary),
        ("links upwards", "../canary/x"),
        ("links to what comes later", "z"),
        ("links to itself", "b"),
        ("links to what is not there", "a/y"),
        ("links to a folder", "a"),
        ("links to the root", ""),
    ] {
        let entries = hard(to);
        cases.add(name, REFUSED, entries);
    }
    let through = vec![link(canary), Raw::hard("b", "a/x")];
    cases.add("links through a link", REFUSED, through);
    cases.add("links to a link", DONE, vec![link(canary), Raw::hard("b", "a")]);
    let wide = vec![cases.file("a").mode(0o600), Raw::hard("b", "a").mode(0o6777)];
    cases.add("widens by a second name", DONE, wide);
}

fn order(cases: &mut Cases) {
    let (a, b, ax, ay) = (cases.file("a"), cases.file("b"), cases.file("a/x"), cases.file("a/y"));
    cases.add("goes backwards", REFUSED, vec![b.clone(), a.clone()]);
    cases.add("has a file twice", REFUSED, vec![a.clone(), a.clone()]);
    cases.add("lies in no folder", REFUSED, vec![ax.clone()]);
    cases.add("lies in a file", REFUSED, vec![a, ax.clone()]);
    cases.add("lies in a fifo", REFUSED, vec![Raw::new("a", Body::Fifo), ax.clone()]);
    let device = Body::Device { block: false, major: 1, minor: 3 };
    cases.add("lies in a device", REFUSED, vec![Raw::new("a", device), ax.clone()]);
    cases.add("comes back to a folder", REFUSED, vec![Raw::folder("a"), ax, b, ay]);
    let deep: Vec<Raw> = (1..5_000).map(|depth| Raw::folder(&vec!["d"; depth].join("/"))).collect();
    cases.add("is endlessly deep", REFUSED, deep);
    let staging = ".neurashield-20260101-010000";
    let journal = cases.file(format!("{staging}/journal"));
    cases.add("plants a staging folder", REFUSED, vec![Raw::folder(staging), journal]);
    cases.add("plants one deeper", REFUSED, vec![Raw::folder("a"), Raw::folder("a/.neurashield-evil")]);
}

fn contents(cases: &mut Cases) {
    let length = DATA.len() as u64;
    type Change = fn(&mut Content);
    let changes: [(&'static str, &'static [i32], Change); 15] = [
        ("has another content", REFUSED, |of| of.id = [0; 32]),
        ("is 2^63 bytes long", REFUSED, |of| of.size = 1 << 63),
        ("is as long as can be", REFUSED, |of| of.size = i64::MAX as u64),
        ("is longer than the disk", FAILED, |of| {
            (of.size, of.pieces) = (1 << 62, Pieces::Listed(vec![0; 3]));
        }),
        ("is a hole larger than any disk", WHATEVER, |of| {
            (of.size, of.extents, of.pieces) = (1 << 62, Some(vec![]), Pieces::Inline(vec![]));
        }),
        ("has data at the end of a hole", WHATEVER, |of| {
            (of.size, of.extents) = (1 << 62, Some(vec![(1 << 61, DATA.len() as u64)]));
        }),
        ("has extents that touch", REFUSED, |of| of.extents = Some(vec![(0, 3), (0, 4)])),
        ("has an extent past all numbers", REFUSED, |of| of.extents = Some(vec![(u64::MAX, 7)])),
        ("has an extent past its end", REFUSED, |of| of.extents = Some(vec![(1, 7)])),
        ("has an empty extent", REFUSED, |of| of.extents = Some(vec![(0, 0)])),
        ("takes a piece from outside a blob", REFUSED, |of| {
            of.pieces = Pieces::Inline(vec![(0, 1 << 31, 7)])
        }),
        ("takes a piece that is too long", REFUSED, |of| {
            of.pieces = Pieces::Inline(vec![(0, 0, u32::MAX.into())]);
        }),
        ("names a blob that is not there", REFUSED, |of| of.pieces = Pieces::Inline(vec![(99, 0, 7)])),
        ("takes data for a list", REFUSED, |of| of.pieces = Pieces::Listed(vec![0])),
        ("takes a page for data", REFUSED, |of| of.pieces = Pieces::Inline(vec![(1, 0, 7)])),
    ];
    for (name, ends, change) in changes {
        let entries = vec![cases.with("a", change)];
        cases.add(name, ends, entries);
    }
    let extents = vec![(0, 1); 70_000];
    let many = cases.with("a", |of| (of.size, of.extents) = (1 << 40, Some(extents)));
    cases.add("has too many extents", REFUSED, vec![many]);
    let pieces = vec![(0, 0, length); 5_000];
    let many = cases.with("a", |of| (of.size, of.pieces) = (5_000 * length, Pieces::Inline(pieces)));
    cases.add("has too many pieces", REFUSED, vec![many]);
    for claim in [0, 1 << 32, u64::MAX] {
        let a = cases.file("a");
        cases.add("has a page that counts wrong", REFUSED, vec![a.clone()]).claimed = Some(claim);
        cases.add("has a table that counts wrong", REFUSED, vec![a]).table = Some(claim);
    }
}

fn metadata(cases: &mut Cases) {
    let a = cases.file("a");
    cases.add("is of no kind", REFUSED, vec![Raw::new("a", Body::Unknown(0))]);
    cases.add("is of a kind to come", REFUSED, vec![Raw::new("a", Body::Unknown(9))]);
    for mode in [0o10_000, 0o100_644, u32::MAX.into(), u64::MAX] {
        cases.add("has a mode that is none", REFUSED, vec![a.clone().mode(mode)]);
    }
    let at = |mtime| vec![Raw { mtime, ..a.clone() }];
    cases.add("has too many nanoseconds", REFUSED, at((0, 1_000_000_000)));
    cases.add("is older than time", WHATEVER, at((i64::MIN, 0)));
    cases.add("is younger than time", WHATEVER, at((i64::MAX, 999_999_999)));
    cases.add("is of an owner past all numbers", REFUSED, vec![Raw { owner: (u64::MAX, 0), ..a.clone() }]);
    let x = |names: &[&str], value: &[u8]| {
        vec![names.iter().fold(a.clone(), |entry, name| entry.xattr(name, value))]
    };
    cases.add("has attributes out of order", REFUSED, x(&["user.b", "user.a"], b""));
    cases.add("has an attribute twice", REFUSED, x(&["user.a", "user.a"], b""));
    cases.add("has an attribute without a name", REFUSED, x(&[""], b""));
    cases.add("has NUL in an attribute", REFUSED, x(&["user.a\0b"], b""));
    cases.add("has an endless attribute", REFUSED, x(&["user.a"], &[0; 65_537]));
    cases.add("has an attribute of no name space", TOLD, x(&["nonsense"], b"1"));
    cases.add("has an ACL that is none", TOLD, x(&["system.posix_acl_access"], b"nonsense"));
    let many: Vec<String> = (0..5_000).map(|n| format!("user.{n:05}")).collect();
    cases.add(
        "has too many attributes",
        REFUSED,
        x(&many.iter().map(String::as_str).collect::<Vec<_>>(), b""),
    );
}

trait At {
    fn at(self, path: &str) -> Raw;
}

impl At for Content {
    fn at(self, path: &str) -> Raw {
        Raw::new(path, Body::File(self))
    }
}

trait To {
    fn to(self, path: &str) -> Raw;
}

impl To for Raw {
    fn to(self, path: &str) -> Raw {
        Raw { path: path.into(), ..self }
    }
}

/// A repository, what opens it, and the canary beside the place that is restored to.
struct Scene {
    home: tempfile::TempDir,
    repository: Arc<Repository>,
    keys: KeyRing,
    domain: DomainKeys,
    canary: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let home = home();
        let canary = make_canary(home.path());
        fs::create_dir(home.path().join("space")).expect("made");
        fs::write(home.path().join("key"), [42; 32]).expect("written");
        let store = LocalStore::open_or_make(&home.path().join("backups")).expect("made");
        let (repository, keys) = init(store);
        let domain = keys.domain_keys(&source());
        Self { home, repository, keys, domain, canary }
    }

    fn cases(&self) -> Cases {
        let size = DATA.len() as u64;
        let mut hasher = ContentHasher::new(&self.domain.id_key);
        hasher.data(DATA);
        hasher.extent_ends(repository::archive::entry::Extent { offset: 0, length: size });
        let id = *hasher.finish(size).as_bytes();
        let pieces = Pieces::Inline(vec![(0, 0, size)]);
        Cases { all: Vec::new(), content: Content { size, id, extents: None, pieces } }
    }

    /// Commits the archive as a backup, as an agent and a controller would, and returns its name.
    fn commit(&self, case: &Case, second: i64) -> String {
        let mut sealer = Sealer::new(&self.repository, &self.domain, 64);
        let data = sealer.add(BlobKind::Data, DATA);
        let other = sealer.add(BlobKind::Page, b"another page");
        let count = case.claimed.unwrap_or(case.entries.len() as u64);
        let page = page(&[data, other], &case.entries, count);
        let id: BlobId = blob_id(&self.domain.id_key, BlobKind::Page, &page);
        assert_eq!(id, sealer.add(BlobKind::Page, &page));
        let entries = case.table.unwrap_or(case.entries.len() as u64);
        let table = PageTable { pages: vec![PageLine { first: EntryPath::root(), id, entries }] };
        let root = sealer.add(BlobKind::PageTable, &table.encode());
        let archive = drafted(sealer, root, Counts::default());
        send(&self.repository, &self.domain, &archive.segments).expect("sent");
        let name = self.repository.reserve_name(at(second), &Default::default()).expect("a name");
        let draft = draft(name.clone(), &format!("job-{second}"), archive.draft);
        self.repository.commit(&draft, &self.keys, name.time(), &Unfenced).expect("committed");
        name.to_string()
    }

    fn restore(&self, name: &str, to: &Path, more: &[&str]) -> (i32, String, String) {
        let output = Command::new(programs().join("nsctl"))
            .args(["repository", "restore", "-o", "json", "--timestamp", name, "--repository"])
            .arg(self.home.path().join("backups"))
            .arg("--key-file")
            .arg(self.home.path().join("key"))
            .arg("--to")
            .arg(to)
            .args(more)
            .stdin(Stdio::null())
            .output()
            .expect("nsctl runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn no_hand_made_hostile_archive_changes_anything_outside_of_the_target() {
    let scene = Scene::new();
    let mut cases = scene.cases();
    let outside = scene.canary.join("x").to_str().expect("text").to_owned();
    names(&mut cases, &outside);
    links(&mut cases, scene.canary.to_str().expect("text"));
    order(&mut cases);
    contents(&mut cases);
    metadata(&mut cases);
    assert!(cases.all.len() >= 60, "{} archives", cases.all.len());
    let before = fingerprint(&scene.canary);
    let mut refused = 0;
    for (n, case) in cases.all.iter().enumerate() {
        let name = scene.commit(case, n as i64);
        let space = scene.home.path().join("space");
        let target = space.join("to");
        let (code, out, err) = scene.restore(&name, &target, &[]);
        let what = format!("an archive that {}: exit {code}, {out}{err}", case.name);
        assert!(case.ends.contains(&code), "{what}");
        assert_untouched(&scene.canary, &before, &what);
        let left: Vec<_> = space
            .join("to")
            .read_dir()
            .map(|names| names.flatten().map(|name| name.file_name()).collect())
            .unwrap_or_default();
        if matches!(code, 0 | 3) {
            assert_eq!(left, ["models"], "{what}");
        } else {
            refused += 1;
            assert!(left.is_empty(), "{what}: it left {left:?}");
            assert!(err.lines().count() >= 2, "a refusal says what and why: {what}");
        }
        fs::remove_dir_all(&space).expect("removed");
        fs::create_dir(&space).expect("made");
    }
    println!("{} archives, {refused} refused", cases.all.len());
}

#[test]
fn what_gives_rights_is_shown_and_left_out_when_asked() {
    let scene = Scene::new();
    let mut cases = scene.cases();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entries = vec![
        cases.file("ping").mode(0o755).xattr("security.capability", &capability),
        Raw::new("sda", Body::Device { block: true, major: 8, minor: 0 }).mode(0o660),
        cases.file("su").mode(0o4755),
        cases.file("wall").mode(0o2755),
    ];
    cases.add("gives rights", DONE, entries);
    let name = scene.commit(&cases.all[0], 0);
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&path.symlink_metadata().expect("there"));
    for (flags, code, granted) in [(&[][..], 0, true), (&["--no-privileges"], 3, false)] {
        let to = scene.home.path().join(format!("space/{granted}"));
        let (ended, out, err) = scene.restore(&name, &to, flags);
        assert_eq!(ended, code, "{out}{err}");
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let shown = json["archives"][0]["privileges"].as_array().expect("a list");
        let told: Vec<_> = (shown.iter())
            .map(|one| (one["kind"].as_str(), one["count"].as_u64(), one["granted"].as_bool()))
            .collect();
        let expected = ["setuid", "setgid", "device", "capability"];
        assert_eq!(told, expected.map(|kind| (Some(kind), Some(1), Some(granted))));
        assert_eq!(shown[0]["names"], serde_json::json!(["su"]));
        let models = to.join("models");
        assert_eq!(mode(&models.join("su")) & 0o7777, if granted { 0o4755 } else { 0o755 });
        assert_eq!(mode(&models.join("wall")) & 0o7777, if granted { 0o2755 } else { 0o755 });
        assert_eq!(models.join("sda").symlink_metadata().is_ok(), granted, "{out}");
        let mut value = [0; 64];
        let ping = rustix::fs::lgetxattr(models.join("ping"), "security.capability", &mut value[..]);
        assert_eq!(ping.is_ok(), granted, "{ping:?}");
    }
}
