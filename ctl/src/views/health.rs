//! What the doctor finds.

use controller::app;
use proto::v1;
use serde::Serialize;

use super::some;
use crate::output::exit::Exit;
use crate::output::words::counted;

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Examination {
    pub(crate) findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// A word for programs: what was looked at.
    pub(crate) check: String,
    pub(crate) area: String,
    pub(crate) finding: String,
    /// Why it matters.
    pub(crate) why: Option<String>,
    pub(crate) hint: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Fine,
    Warning,
    Problem,
    Unknown,
}

impl From<v1::ExamineResponse> for Examination {
    fn from(wire: v1::ExamineResponse) -> Self {
        Self { findings: wire.findings.into_iter().map(Finding::from).collect() }
    }
}

impl From<v1::Finding> for Finding {
    fn from(wire: v1::Finding) -> Self {
        let level = match wire.level() {
            v1::finding::Level::Fine => Level::Fine,
            v1::finding::Level::Warning => Level::Warning,
            v1::finding::Level::Problem => Level::Problem,
            v1::finding::Level::Unspecified => Level::Unknown,
        };
        let (why, hint) = (some(wire.why), some(wire.hint));
        Self { level, check: wire.check, area: wire.area, finding: wire.finding, why, hint }
    }
}

impl From<app::Finding> for Finding {
    fn from(finding: app::Finding) -> Self {
        let level = match finding.level {
            app::FindingLevel::Fine => Level::Fine,
            app::FindingLevel::Warning => Level::Warning,
            app::FindingLevel::Problem => Level::Problem,
        };
        Self {
            level,
            check: finding.check.id.to_owned(),
            area: finding.check.area.to_owned(),
            finding: finding.finding,
            why: some(finding.check.why.to_owned()),
            hint: some(finding.hint),
        }
    }
}

impl Examination {
    pub(crate) fn exit(&self) -> Exit {
        let problem = self.findings.iter().any(|finding| finding.level == Level::Problem);
        if problem { Exit::Failed } else { Exit::Done }
    }

    /// For people: the worst last, where the eye is when the program has ended.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for level in [Level::Fine, Level::Unknown, Level::Warning, Level::Problem] {
            let word = match level {
                Level::Fine => "fine",
                Level::Unknown => "?",
                Level::Warning => "WARNING",
                Level::Problem => "PROBLEM",
            };
            for finding in self.findings.iter().filter(|finding| finding.level == level) {
                text.push_str(&format!("{word:<8} {:<12} {}\n", finding.area, finding.finding));
                let is_wrong = matches!(level, Level::Warning | Level::Problem);
                if let Some(why) = finding.why.as_ref().filter(|_| is_wrong) {
                    text.push_str(&format!("{:<21} why: {why}\n", ""));
                }
                if let Some(hint) = &finding.hint {
                    text.push_str(&format!("{:<21} to do: {hint}\n", ""));
                }
            }
        }
        let of = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let (problems, warnings) = (of(Level::Problem) as u64, of(Level::Warning) as u64);
        let problems = counted(problems, "problem", "problems");
        text.push_str(&format!("\n{problems}, {}", counted(warnings, "warning", "warnings")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_decides_the_exit_code_and_is_shown_last_with_what_to_do() {
        let finding = |level: v1::finding::Level, finding: &str, hint: &str| v1::Finding {
            level: level as i32,
            area: "storage".into(),
            finding: finding.into(),
            hint: hint.into(),
            check: "disk-space".into(),
            why: "a backup needs room".into(),
        };
        let findings = vec![
            finding(v1::finding::Level::Problem, "no room", "free some"),
            finding(v1::finding::Level::Fine, "writable", ""),
        ];
        let examination = Examination::from(v1::ExamineResponse { findings });
        assert_eq!(examination.exit(), Exit::Failed);
        let text = examination.text();
        assert!(text.find("writable") < text.find("no room"), "{text}");
        assert_eq!(text.matches("why: a backup needs room").count(), 1, "{text}");
        assert!(text.contains("to do: free some") && text.ends_with("1 problem, 0 warnings"), "{text}");
    }
}
