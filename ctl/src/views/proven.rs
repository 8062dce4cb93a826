//! How much of an archive is proven: by a job, or by the newest verification.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::time;
use crate::output::words::{size, utc};

/// In bytes of the packs that the archive needs; nothing is claimed beyond it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Proven {
    /// Read at that time.
    pub(crate) now_bytes: u64,
    /// Read earlier, and not again.
    pub(crate) earlier_bytes: u64,
    /// When the oldest of those was read.
    pub(crate) oldest: Option<Timestamp>,
    /// Never read.
    pub(crate) unread_bytes: u64,
    /// What was mended; what a budget did not suffice for.
    pub(crate) notes: Vec<String>,
}

impl From<v1::Proven> for Proven {
    fn from(wire: v1::Proven) -> Self {
        Self {
            now_bytes: wire.now_bytes,
            earlier_bytes: wire.earlier_bytes,
            oldest: time!(wire.oldest),
            unread_bytes: wire.unread_bytes,
            notes: wire.notes,
        }
    }
}

impl Proven {
    /// For people; nothing if all of it was read at that time.
    pub(crate) fn in_words(&self) -> Option<String> {
        if self.earlier_bytes + self.unread_bytes == 0 {
            return None;
        }
        let mut words = format!("{} read now", size(self.now_bytes));
        if self.earlier_bytes > 0 {
            let oldest = self.oldest.map_or_else(String::new, |at| format!(" (the oldest {})", utc(at)));
            words.push_str(&format!(", {} proven earlier{oldest}", size(self.earlier_bytes)));
        }
        if self.unread_bytes > 0 {
            words.push_str(&format!(", {} not read yet", size(self.unread_bytes)));
        }
        Some(words)
    }

    /// How much of all is proven, in whole percents; 100 only if it is all.
    pub(crate) fn percent(&self) -> u64 {
        let proven = self.now_bytes + self.earlier_bytes;
        let all = proven + self.unread_bytes;
        if all == 0 { 100 } else { (u128::from(proven) * 100 / u128::from(all)) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_is_never_rounded_away() {
        let proven = |now, earlier, unread| Proven {
            now_bytes: now,
            earlier_bytes: earlier,
            unread_bytes: unread,
            ..Proven::default()
        };
        assert_eq!(proven(5, 0, 0).in_words(), None);
        assert_eq!(proven(999, 0, 1).percent(), 99);
        assert_eq!(proven(u64::MAX / 2, 0, 0).percent(), 100);
        let words = proven(1 << 20, 2 << 20, 3 << 20).in_words().expect("something");
        assert_eq!(words, "1.00 MiB read now, 2.00 MiB proven earlier, 3.00 MiB not read yet");
    }
}
