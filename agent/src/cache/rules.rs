//! When a recorded file need not be read again. Pure: facts in, a decision out.
//!
//! A stamp can lie: a file changed twice within the clock's grain keeps its times, a memory-mapped store
//! can change content without a new mtime, a restored clock can repeat times. Hence the margin, and hence
//! one thirtieth of the hits is read again every day.

use repository::archive::entry::Timestamp;
use repository::archive::path::EntryPath;
use repository::ids::BlobId;

use super::{Day, Record};
use crate::sources::{Stamp, StampClock};

/// How much older than the read's start a file's times must be, in seconds: far more than the grain of any
/// file system's clock.
pub(crate) const MARGIN_SECONDS: i64 = 60;
/// The same where the times are of a clock that is not ours: further than that no server is behind us.
/// Asking it for its time would mean to write into the source.
pub(crate) const FOREIGN_MARGIN_SECONDS: i64 = 86_400;
/// Each file is really read once in so many days.
pub(crate) const RECHECK_DAYS: u32 = 30;

/// What to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its content is the recorded one.
    Reuse,
    /// Read it.
    Read(Why),
}

/// Why a recorded file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Inode, size or times differ.
    Changed,
    /// It had changed too shortly before it was read.
    TooFresh,
    /// It is this file's day to be read whatever its stamp says.
    ItsDay,
    /// The repository lacks one of its blobs.
    BlobGone,
    /// Most of its bundle is no longer needed.
    ThinBundle,
}

/// True if no change after the read could have left these times as they are, for a read that began at
/// `read_start`, seconds of our clock; the times are of `clock`.
pub(crate) fn old_enough(stamp: &Stamp, clock: StampClock, read_start: i64) -> bool {
    let margin = match clock {
        StampClock::Ours => MARGIN_SECONDS,
        StampClock::Foreign => FOREIGN_MARGIN_SECONDS,
        StampClock::Nobodys => return false,
    };
    let limit = Timestamp { seconds: read_start.saturating_sub(margin), nanoseconds: 0 };
    stamp.mtime <= limit && stamp.ctime <= limit
}

/// Whether the file that `stat` now gives `stamp` for has to be read.
/// `known`: the domain holds this blob; `thin`: this bundle is to be made anew.
pub(crate) fn judge(
    record: &Record,
    stamp: &Stamp,
    today: Day,
    known: impl Fn(&BlobId) -> bool,
    thin: impl Fn(&BlobId) -> bool,
) -> Verdict {
    if record.stamp != *stamp {
        Verdict::Read(Why::Changed)
    } else if !record.trusted {
        Verdict::Read(Why::TooFresh)
    } else if record.content.pieces.iter().any(|piece| thin(&piece.blob)) {
        Verdict::Read(Why::ThinBundle)
    } else if !record.content.blobs().all(known) {
        Verdict::Read(Why::BlobGone)
    } else if record.read_on != today && slot(&record.path) == today.0 % RECHECK_DAYS {
        Verdict::Read(Why::ItsDay)
    } else {
        Verdict::Reuse
    }
}

/// On which of [`RECHECK_DAYS`] days a file is read whatever its stamp says.
fn slot(path: &EntryPath) -> u32 {
    let hash = blake3::hash(path.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d]) % RECHECK_DAYS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::StoredContent;
    use repository::archive::entry::{Layout, Piece};
    use repository::ids::ContentId;

    const READ_START: i64 = 1_000_000;

    fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp { seconds, nanoseconds }
    }

    fn stamp() -> Stamp {
        Stamp { inode: 7, size: 3, mtime: at(900_000, 5), ctime: at(900_000, 6) }
    }

    fn blob() -> BlobId {
        BlobId::new([9; 32])
    }

    fn record() -> Record {
        let path = EntryPath::new(b"a/b").expect("valid");
        let pieces = vec![Piece { blob: blob(), offset: 0, length: 3 }];
        let content =
            StoredContent { id: ContentId::new([1; 32]), layout: Layout::Dense, pieces, lists: Vec::new() };
        Record { path, stamp: stamp(), trusted: true, read_on: Day(0), content }
    }

    /// A day on which `record()` is not due.
    fn quiet_day() -> Day {
        Day(slot(&record().path) + RECHECK_DAYS * 600 + 1)
    }

    fn judged(record: &Record, stamp: Stamp, today: Day) -> Verdict {
        judge(record, &stamp, today, |_| true, |_| false)
    }

    #[test]
    fn an_equal_stamp_reuses_the_content() {
        assert_eq!(judged(&record(), stamp(), quiet_day()), Verdict::Reuse);
    }

    #[test]
    fn any_difference_of_the_stamp_reads_the_file() {
        let different = [
            Stamp { inode: 8, ..stamp() },
            Stamp { size: 4, ..stamp() },
            Stamp { mtime: at(900_000, 6), ..stamp() },
            Stamp { ctime: at(900_001, 6), ..stamp() },
        ];
        for stamp in different {
            assert_eq!(judged(&record(), stamp, quiet_day()), Verdict::Read(Why::Changed), "{stamp:?}");
        }
    }

    #[test]
    fn a_file_changed_within_a_minute_of_the_read_is_not_old_enough() {
        let limit = READ_START - MARGIN_SECONDS;
        let with = |mtime, ctime| Stamp { mtime, ctime, ..stamp() };
        let old = |mtime, ctime| old_enough(&with(mtime, ctime), StampClock::Ours, READ_START);
        assert!(old(at(limit, 0), at(limit, 0)));
        assert!(!old(at(limit, 1), at(limit, 0)));
        assert!(!old(at(limit, 0), at(limit, 1)));
        assert!(!old(at(READ_START + 9, 0), at(0, 0)), "a time in the future");
        let fresh = Record { trusted: false, ..record() };
        assert_eq!(judged(&fresh, stamp(), quiet_day()), Verdict::Read(Why::TooFresh));
    }

    #[test]
    fn times_of_a_clock_that_is_not_ours_must_be_a_day_old() {
        let with = |seconds| Stamp { mtime: at(seconds, 0), ctime: at(seconds, 0), ..stamp() };
        let limit = READ_START - FOREIGN_MARGIN_SECONDS;
        assert!(old_enough(&with(limit), StampClock::Foreign, READ_START));
        assert!(!old_enough(&with(limit + 1), StampClock::Foreign, READ_START));
        assert!(old_enough(&with(limit + 1), StampClock::Ours, READ_START));
    }

    #[test]
    fn a_stamp_of_no_clock_is_never_old_enough() {
        assert!(!old_enough(&stamp(), StampClock::Nobodys, i64::MAX));
    }

    #[test]
    fn a_blob_that_the_domain_lost_reads_the_file() {
        let verdict = judge(&record(), &stamp(), quiet_day(), |id| *id != blob(), |_| false);
        assert_eq!(verdict, Verdict::Read(Why::BlobGone));
    }

    #[test]
    fn a_list_of_pieces_that_the_domain_lost_reads_the_file() {
        let list = BlobId::new([3; 32]);
        let mut record = record();
        record.content.lists.push(list);
        let verdict = judge(&record, &stamp(), quiet_day(), |id| *id != list, |_| false);
        assert_eq!(verdict, Verdict::Read(Why::BlobGone));
    }

    #[test]
    fn a_bundle_under_half_live_is_made_anew() {
        let verdict = judge(&record(), &stamp(), quiet_day(), |_| true, |id| *id == blob());
        assert_eq!(verdict, Verdict::Read(Why::ThinBundle));
    }

    #[test]
    fn every_file_is_really_read_once_in_thirty_days_and_once_that_day() {
        let days: Vec<Day> = (3_000..3_030).map(Day).collect();
        let due: Vec<&Day> = days
            .iter()
            .filter(|day| judged(&record(), stamp(), **day) == Verdict::Read(Why::ItsDay))
            .collect();
        assert_eq!(due.len(), 1);
        let again = Record { read_on: *due[0], ..record() };
        assert_eq!(judged(&again, stamp(), *due[0]), Verdict::Reuse);
    }
}
