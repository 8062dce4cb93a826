//! What a source could not give: counted in full, kept up to a limit, written as a blob.

use repository::codec::Encoder;

use crate::sources::{Problem, ProblemKind};

/// The most problems that are kept with path and cause; all are counted.
const MAX_KEPT: usize = 20_000;
/// The most bytes of them that are kept: a blob of them stays well below what a blob may hold.
const MAX_KEPT_BYTES: usize = 8 << 20;
/// What a problem takes in the blob beside path and cause: its kind and two lengths.
const LINE_BYTES: usize = 11;
/// The longest cause, in bytes.
const MAX_CAUSE: usize = 500;

/// The problems of one archive.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: Vec<Problem>,
    kept_bytes: usize,
    pub(crate) unreadable: u64,
    pub(crate) vanished: u64,
    pub(crate) changed: u64,
    left_out: u64,
    suspect: u64,
}

impl Problems {
    pub(super) fn add(&mut self, mut problem: Problem) {
        let count = match problem.kind {
            ProblemKind::Unreadable | ProblemKind::Damaged => &mut self.unreadable,
            ProblemKind::Vanished => &mut self.vanished,
            ProblemKind::Changed => &mut self.changed,
            ProblemKind::LeftOut => &mut self.left_out,
            ProblemKind::Suspect => &mut self.suspect,
        };
        *count += 1;
        let end = problem.cause.floor_char_boundary(MAX_CAUSE);
        problem.cause.truncate(end);
        let bytes = self.kept_bytes + problem.path.as_bytes().len() + problem.cause.len() + LINE_BYTES;
        if self.kept.len() < MAX_KEPT && bytes <= MAX_KEPT_BYTES {
            self.kept_bytes = bytes;
            self.kept.push(problem);
        }
    }

    /// Those kept, in the order in which they were met.
    pub(crate) fn kept(&self) -> &[Problem] {
        &self.kept
    }

    /// The plaintext of a blob of kind `Problems`; `None` if there are none.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if self.kept.is_empty() {
            return None;
        }
        let mut encoder = Encoder::new();
        encoder.varint(self.kept.len() as u64);
        for problem in &self.kept {
            encoder.u8(code(problem.kind));
            encoder.bytes(problem.path.as_bytes());
            encoder.bytes(problem.cause.as_bytes());
        }
        Some(encoder.finish())
    }
}

/// As stored, and as on the wire.
pub(crate) fn code(kind: ProblemKind) -> u8 {
    match kind {
        ProblemKind::Unreadable | ProblemKind::Damaged => 1,
        ProblemKind::Vanished => 2,
        ProblemKind::Changed => 3,
        ProblemKind::LeftOut => 4,
        ProblemKind::Suspect => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repository::archive::path::EntryPath;

    #[test]
    fn problems_with_long_paths_are_all_counted_and_kept_up_to_a_size() {
        let long = [&b"n".repeat(255)[..]; 15].join(&b'/');
        let mut problems = Problems::default();
        for _ in 0..MAX_KEPT {
            let path = EntryPath::new(&long).expect("a path");
            problems.add(Problem { path, kind: ProblemKind::Unreadable, cause: "c".repeat(2 * MAX_CAUSE) });
        }
        assert_eq!(problems.unreadable, MAX_KEPT as u64);
        assert!(problems.kept().len() > 1_000, "{}", problems.kept().len());
        let blob = problems.encode().expect("a blob");
        assert!(blob.len() <= MAX_KEPT_BYTES + LINE_BYTES, "{}", blob.len());
    }
}
