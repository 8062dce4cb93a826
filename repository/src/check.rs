//! What lies in an archive, looked at while it is read: is a file what it claims to be?
//!
//! A repository knows bytes; what they mean is known to the crate `formats`, whose checks come in here.
//! Must stay true: a check sees bytes and does nothing with them but judge; what it finds names files and
//! places in them, never a content, since findings go into logs and alerts.

use jiff::Timestamp;

/// Judges the files of one archive, given in path order.
pub trait ContentCheck: Send {
    /// A file begins. `false`: its bytes are of no interest; then neither `bytes` nor `file_end` is called.
    fn file(&mut self, file: CheckedFile<'_>) -> bool;
    /// The next bytes of the file, in order; holes come as zeros. `false`: the rest is of no interest.
    fn bytes(&mut self, bytes: &[u8]) -> bool;
    /// The file has ended, or enough of it was seen: what is wrong with it.
    fn file_end(&mut self) -> Vec<Finding>;
    /// True if what it thinks of the file that has ended is told with others only, by `held_back` or `end`: so
    /// the file is not proven yet.
    fn is_undecided(&self) -> bool {
        false
    }
    /// True if it needs so little of the files that this is read beyond any budget.
    fn reads_little(&self) -> bool {
        false
    }
    /// False if what it finds is the source's affair alone: then a verification tells it and does not fail.
    fn fails_verification(&self) -> bool {
        true
    }
    /// True if a backup with a file that is broken is incomplete, and the file is read again each time: what it
    /// judges by is part of the file, so a broken one is none.
    fn makes_incomplete(&self) -> bool {
        false
    }
    /// No more files come, and not all were given: what it has not told yet of those that were.
    fn held_back(&mut self) -> Vec<Finding> {
        Vec::new()
    }
    /// All files were given: the paths of those that it wants once more, now that it is known which. They are given
    /// again, in this order, and it is asked again, until it names none; or, after some times, no more.
    fn again(&mut self) -> Vec<Vec<u8>> {
        Vec::new()
    }
    /// All files were given: what is wrong between them, with what `held_back` would tell. Not called where some
    /// could not be read.
    fn end(&mut self) -> Vec<Finding>;
}

/// A file that a check may look into.
#[derive(Debug, Clone, Copy)]
pub struct CheckedFile<'a> {
    /// Its path in the archive, without a leading slash.
    pub path: &'a [u8],
    /// Its length in bytes, holes included.
    pub length: u64,
    /// The same bytes under the same path were looked at earlier, and nothing was wrong with them. Whoever
    /// only compares files with each other still wants some of these.
    pub is_proven: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which file; empty for the archive as a whole.
    pub path: Vec<u8>,
    /// In one line, without a content: `it is not YAML: line 7, column 3`.
    pub what: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// What uses the file will not take it.
    Broken,
    /// Worth knowing; the file can be used.
    Told,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_slice() {
            [] => to.write_str(&self.what),
            path => write!(to, "{}: {}", path.escape_ascii(), self.what),
        }
    }
}

/// Which checks there are, and the time that they judge by.
#[derive(Debug, Clone, Copy)]
pub struct Checks {
    /// The check that an archive calls for.
    pub of: fn(&Subject<'_>) -> Option<Box<dyn ContentCheck>>,
    /// The present.
    pub now: Timestamp,
}

/// Whose archive it is.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The kind of its source, e.g. `configs`.
    pub kind: &'a str,
    /// Its component, e.g. `models`.
    pub component: &'a str,
    /// The present.
    pub now: Timestamp,
}

impl Checks {
    /// For whoever looks at bytes alone.
    pub const NONE: Self = Self { of: |_| None, now: Timestamp::UNIX_EPOCH };

    /// The check for archives of this kind and component.
    pub fn check(&self, kind: &str, component: &str) -> Option<Box<dyn ContentCheck>> {
        (self.of)(&Subject { kind, component, now: self.now })
    }
}

/// A check is given so many bytes of holes of one file. A hole costs nothing to make, and may be as long as
/// the file system can count: whoever makes one must not hold a backup up with it.
const MAX_HOLES: u64 = 64 << 20;

/// Gives a check the bytes of a file with holes, whose data comes extent by extent.
pub struct Feed<'a> {
    check: &'a mut dyn ContentCheck,
    path: &'a [u8],
    /// How far the check has been given the file.
    at: u64,
    /// Bytes of holes that it may still be given.
    holes: u64,
    wants_more: bool,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl<'a> Feed<'a> {
    /// The file at `path` has begun, and `check` wants it.
    pub fn new(check: &'a mut dyn ContentCheck, path: &'a [u8]) -> Self {
        Self { check, path, at: 0, holes: MAX_HOLES, wants_more: true }
    }

    /// The data that lies at `offset`.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) {
        self.hole_up_to(offset);
        // Behind a hole that was too long nothing is in its place any more.
        if self.wants_more && self.at == offset && !bytes.is_empty() {
            self.wants_more = self.check.bytes(bytes);
            self.at += bytes.len() as u64;
        }
    }

    /// False if the check has seen enough of the file.
    pub fn wants_more(&self) -> bool {
        self.wants_more
    }

    /// The file ends after `length` bytes.
    pub fn end(mut self, length: u64) -> Vec<Finding> {
        self.hole_up_to(length);
        let found = self.check.file_end();
        if self.wants_more && self.at < length {
            // It was given a part, and what it says of that is not true of the file.
            let what = format!("it was not checked: it has holes of more than {MAX_HOLES} bytes");
            return vec![Finding { path: self.path.to_vec(), what, severity: Severity::Told }];
        }
        found
    }

    fn hole_up_to(&mut self, offset: u64) {
        while self.wants_more && self.at < offset && self.holes > 0 {
            let now = (offset - self.at).min(ZEROS.len() as u64).min(self.holes);
            self.wants_more = self.check.bytes(&ZEROS[..now as usize]);
            self.at += now;
            self.holes -= now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Takes {
        seen: Vec<u8>,
        most: usize,
    }

    impl ContentCheck for Takes {
        fn file(&mut self, _: CheckedFile<'_>) -> bool {
            true
        }
        fn bytes(&mut self, bytes: &[u8]) -> bool {
            self.seen.extend_from_slice(bytes);
            self.seen.len() < self.most
        }
        fn file_end(&mut self) -> Vec<Finding> {
            Vec::new()
        }
        fn end(&mut self) -> Vec<Finding> {
            Vec::new()
        }
    }

    #[test]
    fn holes_are_given_as_zeros_before_between_and_after_the_data() {
        let mut takes = Takes { most: usize::MAX, ..Takes::default() };
        let mut feed = Feed::new(&mut takes, b"x");
        feed.data(2, b"ab");
        feed.data(5, b"c");
        feed.end(7);
        assert_eq!(takes.seen, b"\0\0ab\0c\0");
    }

    #[test]
    fn whoever_has_enough_is_given_no_more() {
        let mut takes = Takes { most: 3, ..Takes::default() };
        let mut feed = Feed::new(&mut takes, b"x");
        feed.data(0, b"ab");
        feed.data(2, b"cd");
        feed.data(4, b"ef");
        assert_eq!(feed.end(1 << 60), []);
        assert_eq!(takes.seen, b"abcd");
    }

    #[test]
    fn a_hole_without_end_is_not_read_and_the_file_is_told_as_not_checked() {
        for (data_at, length) in [(1 << 62, (1 << 62) + 2), (0, 1 << 62)] {
            let mut takes = Takes { most: usize::MAX, ..Takes::default() };
            let mut feed = Feed::new(&mut takes, b"big.pt");
            feed.data(data_at, b"ab");
            let found = feed.end(length);
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].path.as_slice(), found[0].severity), (&b"big.pt"[..], Severity::Told));
            assert!(takes.seen.len() as u64 <= MAX_HOLES + 2);
        }
    }
}
