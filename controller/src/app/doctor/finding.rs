//! What the doctor says.

use crate::app::doctor::Check;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingLevel {
    /// As it should be.
    Fine,
    /// It works, and needs attention.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: FindingLevel,
    /// What was looked at.
    pub check: &'static Check,
    /// What was found.
    pub finding: String,
    /// What to do; empty where all is well.
    pub hint: String,
}

impl Finding {
    /// As it should be.
    pub fn fine(check: &'static Check, finding: impl Into<String>) -> Self {
        Self { level: FindingLevel::Fine, check, finding: finding.into(), hint: String::new() }
    }

    /// It works, and needs attention.
    pub fn warning(check: &'static Check, finding: impl Into<String>) -> Self {
        Self { level: FindingLevel::Warning, hint: check.todo.to_owned(), ..Self::fine(check, finding) }
    }

    /// Something does not work.
    pub fn problem(check: &'static Check, finding: impl Into<String>) -> Self {
        Self { level: FindingLevel::Problem, ..Self::warning(check, finding) }
    }

    /// With something better to do than what the list says.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if hint.is_empty() { self } else { Self { hint, ..self } }
    }
}
