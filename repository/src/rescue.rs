//! The rescue folder: what restores this repository when nothing else of NeuraShield Backup is left.
//!
//! `repository/rescue/` holds the independent reader (Python), the page of the format and, where the
//! controller has one, an `nsctl` that needs nothing of the machine it runs on. No program of ours reads the
//! folder for its work; it is for people. Must stay true: every file appears whole; `contents.json` comes last
//! and names what is there; an older release never replaces what a newer one wrote.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::error::RepositoryError;
use crate::layout;
use crate::repo::Repository;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::{ObjectPath, Store, StoreError};

/// The name of the program in the folder.
pub const PROGRAM: &str = "nsctl";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const TEXTS: [(&str, &str); 2] = [
    ("rescue.py", include_str!("../../docs/rescue/rescue.py")),
    ("FORMAT.md", include_str!("../../docs/FORMAT.md")),
];

/// A program for the folder: the whole of it, and what it says to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RescueProgram {
    /// The executable.
    pub bytes: Vec<u8>,
    /// What `--version` says.
    pub version: String,
}

/// `repository/rescue/contents.json`: what lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueContents {
    /// The release that wrote the folder.
    pub version: String,
    /// The files.
    pub files: Vec<RescueFile>,
}

/// A file of the rescue folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueFile {
    /// Its name.
    pub name: String,
    /// The release it comes from.
    pub version: String,
    /// Bytes.
    pub size: u64,
    /// Of its bytes.
    pub sha256: Sha256,
}

impl RescueFile {
    fn of(name: &str, version: &str, bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        Self { name: name.to_owned(), version: version.to_owned(), size, sha256: Sha256::of(bytes) }
    }
}

impl RescueContents {
    /// The program, if there is one.
    pub fn program(&self) -> Option<&RescueFile> {
        self.files.iter().find(|file| file.name == PROGRAM)
    }
}

impl Repository {
    /// Makes the folder what this release knows, and says what lies there afterwards. Writes nothing where it
    /// is so already. Without a `program` one that is there stays.
    pub fn provide_rescue(&self, program: Option<&RescueProgram>) -> Result<RescueContents, RepositoryError> {
        Ok(provide(&*self.store, program)?)
    }

    /// True if a file of the folder is not what its list says, or the list itself is gone. A repository
    /// without such a folder is poorer for it and not damaged.
    pub(crate) fn is_rescue_damaged(&self) -> Result<bool, RepositoryError> {
        let Some(there) = contents(&*self.store)? else {
            let folder = layout::rescue("contents.json").parent();
            return Ok(!self.store.list(folder.as_ref())?.is_empty());
        };
        for file in &there.files {
            let bytes = found(self.store.read(&layout::rescue(&file.name), file.size))?;
            if bytes.is_none_or(|bytes| Sha256::of(&bytes) != file.sha256) {
                return Ok(true);
            }
        }
        let list = serde_json::to_vec_pretty(&there).expect("names and numbers");
        Ok(found(self.store.read(&layout::rescue("contents.json"), MAX_JSON))? != Some(list))
    }

    /// Writes the folder anew, whatever it holds. A program in it is not listed any more until the next
    /// controller brings one.
    pub(crate) fn renew_rescue(&self) -> Result<(), RepositoryError> {
        self.store.delete(&layout::rescue("contents.json"))?;
        provide(&*self.store, None)?;
        Ok(())
    }

    /// What lies in the folder; `None` if it was never written whole, or something in it is gone.
    pub fn rescue(&self) -> Result<Option<RescueContents>, RepositoryError> {
        Ok(contents(&*self.store)?)
    }
}

/// As [`Repository::provide_rescue`], while the repository is still being made.
pub(crate) fn provide(
    store: &dyn Store,
    program: Option<&RescueProgram>,
) -> Result<RescueContents, StoreError> {
    let there = contents(store)?;
    if let Some(there) = &there
        && release(&there.version) > release(VERSION)
    {
        return Ok(there.clone());
    }
    let kept = there.as_ref().and_then(RescueContents::program).cloned();
    let program_file = match (program, kept) {
        (Some(program), Some(kept)) if release(&kept.version) > release(&program.version) => Some(kept),
        (Some(program), _) => Some(RescueFile::of(PROGRAM, &program.version, &program.bytes)),
        (None, kept) => kept,
    };
    let mut files = TEXTS.map(|(name, text)| RescueFile::of(name, VERSION, text.as_bytes())).to_vec();
    files.extend(program_file);
    let readme = readme(&files);
    files.insert(0, RescueFile::of("README.md", VERSION, readme.as_bytes()));
    let wanted = RescueContents { version: VERSION.to_owned(), files };
    if there.as_ref() == Some(&wanted) {
        return Ok(wanted);
    }
    // Without the list nobody takes a half-written folder for a whole one.
    store.delete(&layout::rescue("contents.json"))?;
    for file in &wanted.files {
        let had = there.iter().flat_map(|there| &there.files).any(|other| other == file);
        let bytes = match file.name.as_str() {
            _ if had => continue,
            "README.md" => readme.as_bytes(),
            PROGRAM => &program.expect("a program that was not there comes from the caller").bytes,
            name => TEXTS.iter().find(|(text, _)| *text == name).expect("listed above").1.as_bytes(),
        };
        store.replace(&layout::rescue(&file.name), bytes)?;
    }
    let list = serde_json::to_vec_pretty(&wanted).expect("names and numbers");
    store.replace(&layout::rescue("contents.json"), &list)?;
    Ok(wanted)
}

fn contents(store: &dyn Store) -> Result<Option<RescueContents>, StoreError> {
    let Some(list) = found(store.read(&layout::rescue("contents.json"), MAX_JSON))? else { return Ok(None) };
    let Ok(list) = serde_json::from_slice::<RescueContents>(&list) else { return Ok(None) };
    for file in &list.files {
        let Ok(path) = rescue_path(&file.name) else { return Ok(None) };
        if found(store.size(&path))? != Some(file.size) {
            return Ok(None);
        }
    }
    Ok(Some(list))
}

/// Anybody may have written the list: a name in it leads nowhere else.
fn rescue_path(name: &str) -> Result<ObjectPath, ()> {
    let known = TEXTS.iter().map(|(text, _)| *text).chain(["README.md", PROGRAM]);
    known.into_iter().find(|known| *known == name).map(layout::rescue).ok_or(())
}

fn found<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Err(error) if error.is_not_found() || error.is_unreadable() => Ok(None),
        other => other.map(Some),
    }
}

/// A version as numbers, so that 0.10 comes after 0.9; what is no version comes before all.
fn release(version: &str) -> [u64; 3] {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

fn readme(files: &[RescueFile]) -> String {
    let program = match files.iter().any(|file| file.name == PROGRAM) {
        true => {
            "`nsctl` in this folder runs on any Linux of its processor, with no installation (copy it first: \
             this storage may not let programs run):\n\n\
             \x20   cp nsctl /tmp/ && chmod +x /tmp/nsctl\n\
             \x20   /tmp/nsctl repository list    --repository ../..\n\
             \x20   /tmp/nsctl repository restore --repository ../.. --recovery-key-file KEY --timestamp latest --to FOLDER\n\n\
             If it does not run, there is a second way that shares no code with it."
        }
        false => {
            "A static `nsctl` would lie here if the controller had had one (`deploy/static-programs` makes it). \
             Any other `nsctl` of the same release or a newer one does as well: `nsctl repository restore`."
        }
    };
    let mut page = format!(
        "# When everything else is lost\n\n\
         This folder restores the backups of this repository with nothing but the repository itself (or a copy \
         of its bucket) and the recovery key. Written by NeuraShield Backup {VERSION}.\n\n\
         ## With nsctl\n\n{program}\n\n\
         ## With Python\n\n\
         Python 3.11 and three packages; the first lines of `rescue.py` name them:\n\n\
         \x20   python3 -m venv /tmp/rescue && /tmp/rescue/bin/pip install cryptography zstandard blake3\n\
         \x20   /tmp/rescue/bin/python rescue.py list    ../..\n\
         \x20   /tmp/rescue/bin/python rescue.py check   ../.. KEY\n\
         \x20   /tmp/rescue/bin/python rescue.py restore ../.. KEY latest FOLDER\n\n\
         `KEY` is a file that holds the recovery key (NSRK-…). Run it as root to get owners and devices back.\n\n\
         ## With neither\n\n\
         `FORMAT.md` says what every byte of the repository means.\n\n\
         ## What lies here\n\n\
         | file | release | bytes | SHA-256 |\n|---|---|---|---|\n"
    );
    for RescueFile { name, version, size, sha256 } in files {
        writeln!(page, "| {name} | {version} | {size} | {sha256} |").expect("a string takes all");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn program(version: &str, bytes: &[u8]) -> RescueProgram {
        RescueProgram { bytes: bytes.to_vec(), version: version.to_owned() }
    }

    fn read(store: &dyn Store, name: &str) -> Vec<u8> {
        store.read(&layout::rescue(name), MAX_JSON).expect("there")
    }

    #[test]
    fn the_folder_holds_the_reader_the_format_and_the_program_as_its_list_says() {
        let store = MemoryStore::default();
        let made = provide(&store, Some(&program(VERSION, b"program"))).expect("provided");
        assert_eq!(contents(&store).expect("read"), Some(made.clone()));
        for file in &made.files {
            let bytes = read(&store, &file.name);
            assert_eq!(*file, RescueFile::of(&file.name, &file.version, &bytes));
            let told = String::from_utf8(read(&store, "README.md")).expect("text");
            assert!(file.name == "README.md" || told.contains(&file.sha256.to_string()), "{}", file.name);
        }
        assert_eq!(read(&store, PROGRAM), b"program");
    }

    #[test]
    fn what_is_older_missing_or_half_written_is_written_anew_and_what_is_newer_stays() {
        let store = MemoryStore::default();
        let first = provide(&store, Some(&program("0.0.1", b"old"))).expect("provided");
        assert_eq!(provide(&store, None).expect("provided"), first, "without a program the one there stays");
        let second = provide(&store, Some(&program(VERSION, b"new"))).expect("provided");
        assert_eq!(read(&store, PROGRAM), b"new");
        provide(&store, Some(&program("0.0.2", b"old"))).expect("provided");
        assert_eq!(read(&store, PROGRAM), b"new");

        store.delete(&layout::rescue("rescue.py")).expect("deleted");
        assert_eq!(contents(&store).expect("read"), None);
        provide(&store, Some(&program(VERSION, b"new"))).expect("provided");
        assert_eq!(contents(&store).expect("read"), Some(second.clone()));

        let newer = RescueContents { version: "999.10.0".to_owned(), ..second };
        let list = serde_json::to_vec(&newer).expect("JSON");
        store.replace(&layout::rescue("contents.json"), &list).expect("written");
        assert_eq!(provide(&store, Some(&program(VERSION, b"mine"))).expect("left alone"), newer);
        assert_eq!(read(&store, PROGRAM), b"new");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(release("0.10.0") > release("0.9.9") && release("1.0.0") > release("0.99.99"));
        assert_eq!(release("1.2.3-rc.1"), release("1.2.3"));
        assert!(release("no version") < release("0.0.1"));
    }
}
