//! Hooks: the owner's own programs, run before and after what is done with a source.
//!
//! Must stay true: they come from here and from nowhere else; no request and no archive names a program.

use std::collections::BTreeMap;

use runtime::config::{Duration, Problem, Secret};
use serde::{Deserialize, Serialize};

/// A hook counts as no progress, and a task without progress is ended by the controller after a while.
const LONGEST: Duration = Duration::from_secs(600);
const USUAL: Duration = Duration::from_secs(60);

/// The hooks of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Before anything of the source is read.
    pub before_backup: Option<Hook>,
    /// When nothing is read any more, however that ended.
    pub after_backup: Option<Hook>,
    /// Right before `after_backup`, where the source could not be read to its end.
    pub failed_backup: Option<Hook>,
    /// Before anything is restored in place.
    pub before_restore: Option<Hook>,
    /// When that has ended, however it did.
    pub after_restore: Option<Hook>,
}

/// A program, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments, as they are.
    #[serde(default)]
    pub command: Vec<String>,
    /// A line for `/bin/sh`, instead.
    #[serde(default)]
    pub shell: Option<String>,
    /// It is killed after this time, with all that it has started.
    #[serde(default = "usual")]
    pub timeout: Duration,
    /// What its failure means; left out: that of a `before_…` fails the component, others are told.
    #[serde(default)]
    pub on_failure: Option<OnFailure>,
    /// Variables for it, which are shown nowhere.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
}

/// What the failure of a hook means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The component has failed.
    Fail,
    /// A warning in the job's log.
    Warn,
}

fn usual() -> Duration {
    USUAL
}

impl Hooks {
    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        let all = [
            ("before_backup", &self.before_backup, true),
            ("after_backup", &self.after_backup, true),
            ("failed_backup", &self.failed_backup, false),
            ("before_restore", &self.before_restore, true),
            ("after_restore", &self.after_restore, false),
        ];
        for (name, hook, may_fail) in all {
            if let Some(hook) = hook {
                hook.check(&format!("{path}.{name}"), may_fail)?;
            }
        }
        Ok(())
    }
}

impl Hook {
    pub(super) fn check(&self, path: &str, may_fail: bool) -> Result<(), Problem> {
        let at = |key: &str, why: &str| Err(Problem::new(format!("{path}.{key}"), why));
        let has_nul = |text: &str| text.contains('\0');
        match (self.command.first(), &self.shell) {
            (Some(program), None) if !program.starts_with('/') => {
                return at("command", "write the program as an absolute path, starting with /");
            }
            (Some(_), None) if self.command.iter().any(|word| has_nul(word)) => {
                return at("command", "a word must not hold a NUL");
            }
            (Some(_), None) => {}
            (None, Some(line)) if line.trim().is_empty() || has_nul(line) => {
                return at("shell", "write a line for /bin/sh");
            }
            (None, Some(_)) => {}
            _ => {
                return Err(Problem::new(
                    path,
                    "a hook has either `command` (a list: program, arguments) or `shell`",
                ));
            }
        }
        if self.timeout.is_zero() || self.timeout > LONGEST {
            return at("timeout", "more than 0s, at most 10m");
        }
        if self.on_failure == Some(OnFailure::Fail) && !may_fail {
            return at(
                "on_failure",
                "when this hook runs, nothing can be made to fail any more; allowed: warn",
            );
        }
        let is_name =
            |name: &str| !name.is_empty() && !name.contains(['=', '\0']) && !name.starts_with("NEURASHIELD_");
        if self.env.keys().any(|name| !is_name(name))
            || self.env.values().any(|value| has_nul(value.expose()))
        {
            return at(
                "env",
                "a name must not be empty, hold = or NUL, or begin with NEURASHIELD_; no value may hold NUL",
            );
        }
        Ok(())
    }
}
