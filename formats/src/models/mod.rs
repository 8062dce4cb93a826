//! Models: a file is whole, by the rules of the format that its name claims.
//!
//! | name | what is checked |
//! |---|---|
//! | `*.safetensors` | the header parses; tensors have the bytes of their shape and fill the file |
//! | `*.gguf` | the header parses; each tensor lies in the file, and none on another |
//! | `*.onnx` | the message is whole; initial tensors have the bytes of their shape; parts in other files are there |
//! | `*.pt`, `*.pth`, `*.ckpt`, `*.bin` | if it is a zip: its list of parts, and that each part begins and ends within |
//! | `*.pkl`, `*.pickle`, `*.joblib`, and what begins as one | told: loading it can run code |
//! | `*.safetensors.index.json`, `*.bin.index.json` | its files are there; each tensor is in the file that is named |
//!
//! Any other name may hold anything. Nothing is ever loaded.

mod gguf;
mod index;
mod onnx;
mod safetensors;
mod stream;
#[cfg(test)]
mod tests;
mod zip;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

use gguf::Gguf;
use index::Index;
use onnx::Onnx;
use safetensors::Safetensors;
use zip::Zip;

/// Files whose lengths are remembered for those that refer to them.
const MAX_FILES: usize = 500_000;
/// Names of tensors that are remembered for the lists that name them.
const MAX_NAMES: usize = 1_000_000;
/// References from one file to others.
const MAX_REFERENCES: usize = 50_000;

/// Looks into models.
#[derive(Debug, Default)]
pub struct ModelsCheck {
    path: Vec<u8>,
    reading: Option<Reading>,
    /// The length of each file, by the hash of its path.
    lengths: HashMap<u64, u64>,
    /// The tensors of a file, by the hash of its path.
    tensors: HashMap<u64, HashSet<u64>>,
    names: usize,
    external: Vec<(Vec<u8>, External)>,
    indexes: Vec<(Vec<u8>, Index)>,
    references: usize,
}

#[derive(Debug)]
enum Reading {
    Safetensors(Safetensors),
    Gguf(Gguf),
    Onnx(Onnx),
    /// What it is tells its beginning.
    Torch {
        length: u64,
        begin: Vec<u8>,
        may_be_other: bool,
    },
    Zip(Zip),
    Index {
        length: u64,
        text: Vec<u8>,
    },
    Pickle,
}

/// What is said of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Judged {
    severity: Severity,
    what: String,
}

/// A part of another file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct External {
    /// Its path, from the folder of the file that refers to it.
    file: Vec<u8>,
    /// It has to be so long at least.
    ends: u64,
}

impl Judged {
    fn broken(what: impl Into<String>) -> Self {
        Self { severity: Severity::Broken, what: what.into() }
    }

    fn told(what: impl Into<String>) -> Self {
        Self { severity: Severity::Told, what: what.into() }
    }

    fn of(self, path: &[u8]) -> Finding {
        Finding { path: path.to_vec(), what: self.what, severity: self.severity }
    }
}

const PICKLE: &str = "it is pickle, which can run code when it is loaded: keep models as safetensors";

impl ContentCheck for ModelsCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        let CheckedFile { path, length, is_proven } = file;
        if self.lengths.len() < MAX_FILES {
            self.lengths.insert(hash(path), length);
        }
        self.reading = Reading::of(path, length).filter(|reading| !is_proven || reading.is_compared());
        self.path = path.to_vec();
        self.reading.is_some()
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.reading {
            None | Some(Reading::Pickle) => false,
            Some(Reading::Safetensors(file)) => file.bytes(bytes),
            Some(Reading::Gguf(file)) => file.bytes(bytes),
            Some(Reading::Onnx(file)) => file.bytes(bytes),
            Some(Reading::Zip(file)) => {
                file.bytes(bytes);
                true
            }
            Some(Reading::Index { length, text }) => {
                if *length <= index::MAX_BYTES {
                    text.extend_from_slice(bytes);
                }
                *length <= index::MAX_BYTES
            }
            Some(Reading::Torch { length, begin, .. }) => {
                begin.extend_from_slice(bytes);
                if begin.len() < 4 {
                    return true;
                }
                if !begin.starts_with(b"PK\x03\x04") {
                    begin.truncate(4);
                    return false;
                }
                let mut zip = Zip::new(*length);
                zip.bytes(begin);
                self.reading = Some(Reading::Zip(zip));
                true
            }
        }
    }

    fn fails_verification(&self) -> bool {
        // What was backed up is what was there: whether a model is any good is told, and is no damage.
        false
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let judged = match self.reading.take() {
            None => Vec::new(),
            Some(Reading::Pickle) => vec![Judged::told(PICKLE)],
            Some(Reading::Gguf(file)) => file.end(),
            Some(Reading::Zip(file)) => file.end(),
            Some(Reading::Safetensors(file)) => {
                let (judged, names) = file.end();
                if is_shard(&self.path) && self.names + names.len() <= MAX_NAMES {
                    self.names += names.len();
                    self.tensors.insert(hash(&self.path), names);
                }
                judged
            }
            Some(Reading::Onnx(file)) => {
                let (judged, external) = file.end();
                let room = MAX_REFERENCES.saturating_sub(self.external.len());
                let from_here = external.into_iter().map(|part| (self.path.clone(), part));
                self.external.extend(from_here.take(room));
                judged
            }
            Some(Reading::Torch { length, begin, may_be_other }) => torch(length, &begin, may_be_other),
            Some(Reading::Index { length, .. }) if length > index::MAX_BYTES => {
                vec![Judged::told("it is too long to be checked")]
            }
            Some(Reading::Index { text, .. }) => match Index::of(&text) {
                Err(judged) => vec![judged],
                Ok(index) if self.references + index.tensors() <= MAX_NAMES => {
                    self.references += index.tensors();
                    self.indexes.push((self.path.clone(), index));
                    Vec::new()
                }
                Ok(_) => vec![Judged::told("with the other lists it names too many tensors to be checked")],
            },
        };
        judged.into_iter().map(|judged| judged.of(&self.path)).collect()
    }

    fn end(&mut self) -> Vec<Finding> {
        // Beyond this it is not known of every file whether it is there.
        if self.lengths.len() >= MAX_FILES {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (path, part) in std::mem::take(&mut self.external) {
            let what = match beside(&path, &part.file).map(|file| self.lengths.get(&hash(&file))) {
                None => "it needs a file outside of its folder, which readers refuse".to_owned(),
                Some(None) => "a file beside it, with bytes of its tensors, is not in the backup".to_owned(),
                Some(Some(length)) if *length < part.ends => {
                    format!(
                        "a file beside it has {length} bytes, and its tensors reach to byte {}",
                        part.ends
                    )
                }
                Some(Some(_)) => continue,
            };
            found.push(Judged::broken(what).of(&path));
        }
        for (path, index) in std::mem::take(&mut self.indexes) {
            let judged = index.judge(&path, &self.lengths, &self.tensors);
            found.extend(judged.into_iter().map(|judged| judged.of(&path)));
        }
        found
    }
}

impl Reading {
    fn of(path: &[u8], length: u64) -> Option<Self> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path).to_ascii_lowercase();
        if name.ends_with(b".safetensors.index.json") || name.ends_with(b".bin.index.json") {
            return Some(Reading::Index { length, text: Vec::new() });
        }
        let dot = name.iter().rposition(|byte| *byte == b'.')?;
        Some(match &name[dot + 1..] {
            b"safetensors" => Reading::Safetensors(Safetensors::new(length)),
            b"gguf" => Reading::Gguf(Gguf::new(length)),
            b"onnx" => Reading::Onnx(Onnx::new(length)),
            b"pt" | b"pth" | b"ckpt" => Reading::Torch { length, begin: Vec::new(), may_be_other: false },
            b"bin" => Reading::Torch { length, begin: Vec::new(), may_be_other: true },
            b"pkl" | b"pickle" | b"joblib" => Reading::Pickle,
            _ => return None,
        })
    }

    /// True if others are compared with it, however good it is by itself.
    fn is_compared(&self) -> bool {
        matches!(self, Reading::Safetensors(_) | Reading::Index { .. } | Reading::Onnx(_))
    }
}

/// A file of PyTorch that is no zip: `begin` are its first bytes.
fn torch(length: u64, begin: &[u8], may_be_other: bool) -> Vec<Judged> {
    match begin {
        [0x80, 2..=5, ..] => vec![Judged::told(PICKLE)],
        _ if may_be_other => Vec::new(),
        _ if length < 4 => vec![Judged::broken("it is too short for a checkpoint")],
        [0, 0, 0, 0] => vec![Judged::broken("it begins with zeros: it was never written whole")],
        _ => vec![Judged::told("it is neither a zip nor pickle, and was not checked")],
    }
}

/// True for a part of a model of several files, which a list may name.
fn is_shard(path: &[u8]) -> bool {
    path.windows(4).any(|window| window == b"-of-")
}

/// The path `file`, as it is meant from the folder of `path`; none if it leads out of it.
fn beside(path: &[u8], file: &[u8]) -> Option<Vec<u8>> {
    let folder = path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |at| &path[..=at]);
    let mut whole = folder.to_vec();
    let names = file.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    if file.starts_with(b"/") {
        return None;
    }
    for (place, name) in names.enumerate() {
        if name == b".." {
            return None;
        }
        if place > 0 {
            whole.push(b'/');
        }
        whole.extend_from_slice(name);
    }
    Some(whole)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
