//! How far a validator's key has signed, as `priv_validator_state.json` of CometBFT says it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde_json::Value;

/// Longer is no state.
pub(crate) const MAX_STATE: u64 = 64 << 10;

/// How far a key has signed: height, round, step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signed(pub(crate) i64, pub(crate) i64, pub(crate) i64);

impl Signed {
    pub(crate) fn new(height: i64, round: i64, step: i32) -> Self {
        Self(height, round, step.into())
    }

    /// Height, round and step.
    pub(crate) fn parts(self) -> (i64, i64, i32) {
        (self.0, self.1, i32::try_from(self.2).unwrap_or(i32::MAX))
    }

    /// What a state's file says; none if it says nothing.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        Self::of(&read(path)?)
    }

    pub(crate) fn of(state: &[u8]) -> Option<Self> {
        let state: Value = serde_json::from_slice(state).ok()?;
        // CometBFT writes 64 bits as text.
        let number = |name: &str| match state.get(name) {
            None => Some(0),
            Some(Value::String(text)) => text.parse::<i64>().ok(),
            Some(value) => value.as_i64(),
        };
        state.get("height")?;
        let signed = Self(number("height")?, number("round")?, number("step")?);
        (signed.0 >= 0 && signed.1 >= 0 && signed.2 >= 0).then_some(signed)
    }
}

/// The address of a validator's key, `priv_validator_key.json`: 40 hex digits. Nothing else of it is kept.
pub(crate) fn address_at(path: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Key {
        address: String,
    }
    let key = zeroize::Zeroizing::new(read(path)?);
    let Key { address } = serde_json::from_slice(&key).ok()?;
    let is_one = address.len() == 40 && address.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_one.then(|| address.to_ascii_uppercase())
}

/// A plain file, as far as it is of a length that makes sense.
fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_STATE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
