//! What a source could not give: counted in full, kept up to a limit, written as a blob.

use repository::codec::Encoder;

use crate::sources::{Problem, ProblemKind};

/// The most problems that are kept with path and cause; all are counted.
const MAX_KEPT: usize = 20_000;
/// The longest cause, in bytes.
const MAX_CAUSE: usize = 500;

/// The problems of one archive.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: Vec<Problem>,
    pub(crate) unreadable: u64,
    pub(crate) vanished: u64,
    pub(crate) changed: u64,
    left_out: u64,
}

impl Problems {
    pub(super) fn add(&mut self, mut problem: Problem) {
        let count = match problem.kind {
            ProblemKind::Unreadable => &mut self.unreadable,
            ProblemKind::Vanished => &mut self.vanished,
            ProblemKind::Changed => &mut self.changed,
            ProblemKind::LeftOut => &mut self.left_out,
        };
        *count += 1;
        if self.kept.len() < MAX_KEPT {
            let end = problem.cause.floor_char_boundary(MAX_CAUSE);
            problem.cause.truncate(end);
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
        ProblemKind::Unreadable => 1,
        ProblemKind::Vanished => 2,
        ProblemKind::Changed => 3,
        ProblemKind::LeftOut => 4,
    }
}
