//! One line of the audit log, and what proves it.
//!
//! A line is a JSON object: what happened, `prev` (the SHA-256 of the line before, without its line end;
//! zeros before the first) and, last, `mac`: HMAC-SHA256 over all that stands before it. `sha256sum` alone
//! follows the chain; the key is needed to write one.
//!
//! Must stay true: a line is proven by its very bytes, never by a form that is made from them again.

use aws_lc_rs::{digest, hmac};
use jiff::Timestamp;
use repository::ids::{hex, unhex};
use serde::{Deserialize, Serialize};

/// Longer than any line of ours.
pub(super) const MAX_LINE: usize = 16 << 10;
/// Longest of the texts in it.
const MAX_TEXT: usize = 300;
const MAC_KEY: &str = ",\"mac\":\"";
const MAC_LENGTH: usize = MAC_KEY.len() + 64 + 2;

/// SHA-256 of a line.
pub(super) type Hash = [u8; 32];

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A user of this machine, over the socket.
    User,
    /// The holder of an API token.
    Token,
    /// An agent.
    Agent,
    /// The controller itself.
    Controller,
    /// Somebody who did not say, or could not prove, who they are.
    Nobody,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is about to be tried.
    Begun,
    /// It was done.
    Done,
    /// It was not done, or not to its end.
    Failed,
    /// It was not allowed.
    Denied,
    /// The controller noticed something.
    Noted,
}

/// One line: who asked for what, and what came of it. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up from 1, without a gap.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What kind of caller.
    pub kind: Kind,
    /// A uid, a token's id, an agent's id; empty: nobody's.
    pub id: String,
    /// What people call the token or the agent.
    pub name: String,
    /// The address of the caller; empty: the socket, or the controller itself.
    pub from: String,
    /// Service and method.
    pub call: String,
    /// Which backup, job, agent or token.
    pub about: String,
    /// What came of it.
    pub result: Outcome,
    /// Of a failure or denial: a word of `proto::failure::reason`.
    pub reason: String,
    /// Of an end: the line of its beginning. Of a rotation: the last line that was removed.
    pub of: u64,
    /// Of a denial that came again: how often since it was last told.
    pub times: u64,
}

#[derive(Serialize)]
struct Chained<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    prev: String,
}

#[derive(Deserialize)]
struct Read {
    #[serde(flatten)]
    entry: Entry,
    prev: String,
}

/// A line that carries the right proof.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) entry: Entry,
    pub(super) prev: Hash,
    pub(super) hash: Hash,
}

/// Where the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the newest line.
    pub sequence: u64,
    /// Its SHA-256.
    pub hash: Hash,
    /// Proves both.
    pub mac: [u8; 32],
}

/// What lines and heads are proven with.
#[derive(Clone)]
pub struct AuditKey(hmac::Key);

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditKey(..)")
    }
}

impl AuditKey {
    /// The key with these bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn mac(&self, what: &str, bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(what.as_bytes());
        context.update(&[0]);
        context.update(bytes);
        context.sign()
    }

    fn proves(&self, what: &str, bytes: &[u8], mac: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.mac(what, bytes).as_ref(), mac).is_ok()
    }

    /// The head of a log whose newest line is this one.
    pub(super) fn head(&self, sequence: u64, hash: Hash) -> Head {
        let mac = self.mac("head", &head_bytes(sequence, &hash));
        Head { sequence, hash, mac: mac.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes") }
    }

    /// True if this controller made the head.
    pub(super) fn proves_head(&self, head: &Head) -> bool {
        self.proves("head", &head_bytes(head.sequence, &head.hash), &head.mac)
    }
}

fn head_bytes(sequence: u64, hash: &Hash) -> Vec<u8> {
    [&sequence.to_be_bytes()[..], hash].concat()
}

/// SHA-256 of a line's bytes.
pub(super) fn hash_of(line: &[u8]) -> Hash {
    digest::digest(&digest::SHA256, line).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The bytes of the line that says `entry` and follows the line with the hash `prev`; no line end.
pub(super) fn write(entry: &Entry, prev: &Hash, key: &AuditKey) -> Vec<u8> {
    let chained = Chained { entry, prev: hex(prev) };
    let mut line = serde_json::to_vec(&chained).expect("an entry has a JSON form");
    line.pop();
    let mac = hex(key.mac("line", &line).as_ref());
    line.extend(format!("{MAC_KEY}{mac}\"}}").as_bytes());
    line
}

/// What a line says, if its proof is right.
pub(super) fn read(line: &[u8], key: &AuditKey) -> Option<Proven> {
    if line.len() > MAX_LINE {
        return None;
    }
    let (said, proof) = line.split_at_checked(line.len().checked_sub(MAC_LENGTH)?)?;
    let mac = proof.strip_prefix(MAC_KEY.as_bytes())?.strip_suffix(b"\"}")?;
    if !key.proves("line", said, &unhex(std::str::from_utf8(mac).ok()?)?) {
        return None;
    }
    let read: Read = serde_json::from_slice(line).ok()?;
    let prev = unhex(&read.prev)?.try_into().ok()?;
    Some(Proven { entry: read.entry, prev, hash: hash_of(line) })
}

/// What a line says, proven or not.
pub(super) fn look_at(line: &[u8]) -> Option<Entry> {
    serde_json::from_slice::<Read>(line).ok().map(|read| read.entry)
}

/// A text for a line: bounded, without control characters.
pub(super) fn text(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short = String::new();
    for letter in printable {
        if short.len() + letter.len_utf8() > MAX_TEXT {
            short.push('…');
            break;
        }
        short.push(letter);
    }
    short
}
