//! The list of a model of several files: which tensor lies in which of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Judged, beside, hash};

/// The longest list that is parsed.
pub(super) const MAX_BYTES: u64 = 8 << 20;

/// One such list.
#[derive(Debug)]
pub(super) struct Index {
    /// By file, the hashes of the tensors' names.
    files: BTreeMap<Vec<u8>, HashSet<u64>>,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    weight_map: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(default)]
    #[expect(dead_code, reason = "it may be there, and must be JSON")]
    metadata: Option<IgnoredAny>,
}

impl Index {
    pub(super) fn of(text: &[u8]) -> Result<Self, Judged> {
        let written: Written<'_> = serde_json::from_slice(text).map_err(|error| {
            let what = format!("it is no list of tensors: line {}, column {}", error.line(), error.column());
            Judged::broken(what)
        })?;
        let mut files: BTreeMap<Vec<u8>, HashSet<u64>> = BTreeMap::new();
        for (tensor, file) in &written.weight_map {
            files.entry(file.as_bytes().to_vec()).or_default().insert(hash(tensor.as_bytes()));
        }
        Ok(Self { files })
    }

    pub(super) fn tensors(&self) -> usize {
        self.files.values().map(HashSet::len).sum()
    }

    /// Compares it with the files that it names; `path` is its own.
    pub(super) fn judge(
        self,
        path: &[u8],
        lengths: &HashMap<u64, u64>,
        tensors: &HashMap<u64, HashSet<u64>>,
    ) -> Vec<Judged> {
        let (mut absent, mut foreign, mut missing) = (0_u64, 0_u64, 0_u64);
        for (file, named) in &self.files {
            let Some(file) = beside(path, file).map(|file| hash(&file)) else {
                foreign += 1;
                continue;
            };
            if !lengths.contains_key(&file) {
                absent += 1;
            }
            // One that is broken itself has been told.
            if let Some(has) = tensors.get(&file).filter(|has| !has.is_empty()) {
                missing += named.difference(has).count() as u64;
            }
        }
        let all = self.files.len();
        let told = [
            (absent, format!("{absent} of the {all} files that it names are not in the backup")),
            (foreign, format!("{foreign} of the {all} files that it names lie outside of its folder")),
            (missing, format!("{missing} tensors that it names are not in the file that it says")),
        ];
        told.into_iter().filter(|(count, _)| *count > 0).map(|(_, what)| Judged::broken(what)).collect()
    }
}
