//! A server's databases, in the layout of `mongodump`: documents one after the other in `.bson` files, and a
//! description of each collection in JSON.
//!
//! What is looked for is what would keep a restore from working, or make it another one: documents whose
//! lengths and ends do not fit together, the same `_id` twice, descriptions that are none, files of GridFS
//! whose chunks do not sum up. What a fuzzy backup may have torn is told; what cannot be loaded is broken.

mod bson;
mod crc64;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

pub use crc64::Crc64;
use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

/// A description is not longer.
const LONGEST_DESCRIPTION: u64 = 16 << 20;
/// So many documents of one collection are compared, at eight bytes each.
const MOST_COMPARED: usize = 4_000_000;
/// So many files of GridFS are summed up.
const MOST_FILES: usize = 500_000;

/// Judges the archive of a server.
#[derive(Default)]
pub struct MongoCheck {
    path: Vec<u8>,
    reading: Reading,
    /// Of the chunks that came last: whose they are, and how many bytes belong to each file.
    chunks: Option<(Vec<u8>, Chunks)>,
}

#[derive(Default)]
enum Reading {
    #[default]
    Nothing,
    Description(Vec<u8>),
    Documents(Documents),
}

/// Bytes by the file that they belong to.
#[derive(Default)]
struct Chunks {
    bytes: BTreeMap<u64, u64>,
    is_cut: bool,
}

#[derive(Default)]
struct Documents {
    /// The beginning of a document of which the rest is to come.
    held: Vec<u8>,
    count: u64,
    ids: Vec<u64>,
    is_cut: bool,
    /// What is wrong, and with which document.
    broken: Option<(u64, &'static str)>,
    gridfs: Option<GridFs>,
    torn: u64,
}

/// The two collections in which GridFS keeps files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GridFs {
    Chunks,
    Files,
}

impl GridFs {
    /// Which of the two a file holds, and what is called the same in both.
    fn of(path: &[u8]) -> Option<(Self, &[u8])> {
        let of = |ending: &[u8], is: Self| path.strip_suffix(ending).map(|stem| (is, stem));
        of(b".chunks.bson", Self::Chunks).or_else(|| of(b".files.bson", Self::Files))
    }
}

impl ContentCheck for MongoCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        self.path = file.path.to_vec();
        let gridfs = GridFs::of(file.path);
        // Sums are compared between two files, of which one may be new.
        let is_wanted = !file.is_proven || gridfs.is_some();
        self.reading = if file.path.ends_with(b".metadata.json") && file.length <= LONGEST_DESCRIPTION {
            Reading::Description(Vec::new())
        } else if file.path.ends_with(b".bson") {
            if let Some((GridFs::Chunks, stem)) = gridfs {
                self.chunks = Some((stem.to_vec(), Chunks::default()));
            }
            Reading::Documents(Documents { gridfs: gridfs.map(|(is, _)| is), ..Documents::default() })
        } else {
            Reading::Nothing
        };
        is_wanted && !matches!(self.reading, Reading::Nothing)
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.reading {
            Reading::Nothing => false,
            Reading::Description(held) => {
                held.extend_from_slice(bytes);
                true
            }
            Reading::Documents(documents) => {
                let of = GridFs::of(&self.path).map(|(_, stem)| stem);
                let chunks = self.chunks.as_mut().filter(|(stem, _)| Some(stem.as_slice()) == of);
                documents.take(bytes, chunks.map(|(_, chunks)| chunks))
            }
        }
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let found = match std::mem::take(&mut self.reading) {
            Reading::Nothing => Vec::new(),
            Reading::Description(json) => described(&json).into_iter().collect(),
            Reading::Documents(documents) => documents.end(),
        };
        let path = &self.path;
        found.into_iter().map(|(what, severity)| Finding { path: path.clone(), what, severity }).collect()
    }

    fn end(&mut self) -> Vec<Finding> {
        Vec::new()
    }
}

fn described(json: &[u8]) -> Option<(String, Severity)> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(default)]
        indexes: Vec<serde_json::Map<String, serde_json::Value>>,
    }
    let broken = |what: String| Some((what, Severity::Broken));
    match serde_json::from_slice::<Metadata>(json) {
        Err(error) => {
            broken(format!("it describes no collection: line {}, column {}", error.line(), error.column()))
        }
        Ok(metadata) => {
            let is_whole =
                |index: &serde_json::Map<_, _>| index.contains_key("key") && index.contains_key("name");
            let at = metadata.indexes.iter().position(|index| !is_whole(index))?;
            broken(format!("its index {at} has no key or no name"))
        }
    }
}

impl Documents {
    /// False once nothing can be said any more.
    fn take(&mut self, mut bytes: &[u8], mut chunks: Option<&mut Chunks>) -> bool {
        while !bytes.is_empty() && self.broken.is_none() {
            let known = match self.held.is_empty() {
                true => bson::length(bytes),
                false => {
                    let head: Vec<u8> = self.held.iter().chain(bytes).take(4).copied().collect();
                    bson::length(&head)
                }
            };
            let length = match known {
                Ok(Some(length)) => length,
                Ok(None) => {
                    self.held.extend_from_slice(bytes);
                    return true;
                }
                Err(why) => {
                    self.broken = Some((self.count, why));
                    break;
                }
            };
            let lacks = length - self.held.len().min(length);
            let (part, rest) = bytes.split_at(lacks.min(bytes.len()));
            bytes = rest;
            if self.held.is_empty() && part.len() == length {
                self.document(part, chunks.as_deref_mut());
                continue;
            }
            self.held.extend_from_slice(part);
            if self.held.len() == length {
                let document = std::mem::take(&mut self.held);
                self.document(&document, chunks.as_deref_mut());
            }
        }
        self.broken.is_none()
    }

    fn document(&mut self, document: &[u8], chunks: Option<&mut Chunks>) {
        let (mut id, mut file, mut length, mut data) = (None, None, None, None);
        let read = bson::elements(document, |element| match element.name {
            b"_id" if id.is_none() => id = Some(hash(&element)),
            b"files_id" => file = Some(hash(&element)),
            b"length" => length = element.number(),
            b"data" => data = element.data_length(),
            _ => {}
        });
        if let Err(why) = read {
            self.broken = Some((self.count, why));
            return;
        }
        self.count += 1;
        match id {
            Some(id) if self.ids.len() < MOST_COMPARED => self.ids.push(id),
            Some(_) => self.is_cut = true,
            None => {}
        }
        let Some(chunks) = chunks else { return };
        match self.gridfs {
            Some(GridFs::Chunks) => {
                if let (Some(file), Some(data)) = (file, data) {
                    if chunks.bytes.len() < MOST_FILES || chunks.bytes.contains_key(&file) {
                        *chunks.bytes.entry(file).or_default() += data;
                    } else {
                        chunks.is_cut = true;
                    }
                }
            }
            Some(GridFs::Files) => {
                if let (Some(id), Some(length), false) = (id, length, chunks.is_cut) {
                    self.torn += u64::from(chunks.bytes.get(&id).copied().unwrap_or_default() != length);
                }
            }
            None => {}
        }
    }

    fn end(mut self) -> Vec<(String, Severity)> {
        let mut found = Vec::new();
        if let Some((at, why)) = self.broken {
            found.push((format!("{why}: document {at}"), Severity::Broken));
            return found;
        }
        if !self.held.is_empty() {
            found.push((format!("document {} is cut off", self.count), Severity::Broken));
        }
        let compared = self.ids.len();
        self.ids.sort_unstable();
        self.ids.dedup();
        let twice = compared - self.ids.len();
        if twice > 0 {
            found.push((
                format!("{twice} of {} documents have the _id of another", self.count),
                Severity::Broken,
            ));
        }
        if self.is_cut {
            let what = format!(
                "of its {} documents the first {compared} were looked at for a second _id",
                self.count
            );
            found.push((what, Severity::Told));
        }
        if self.torn > 0 {
            let what =
                format!("{} of {} files have other chunks than their length says", self.torn, self.count);
            found.push((what, Severity::Told));
        }
        found
    }
}

/// Of an `_id`: its kind counts, but for numbers, which are the same in each of theirs.
fn hash(element: &bson::Element<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match element.number() {
        Some(number) => hasher.write(&number.to_le_bytes()),
        None => {
            hasher.write_u8(element.kind);
            hasher.write(element.value);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
