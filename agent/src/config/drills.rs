//! Drills: what is restored into a scratch folder and opened there by the owner's own programs.
//!
//! Must stay true: folder and programs come from here and from nowhere else; no request and no archive names one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use repository::names::SourceId;
use runtime::config::{Duration, Problem, Secret};
use serde::{Deserialize, Serialize};

use super::hooks::Hook;
use super::{absolute, check_name};

/// Stands in a command for the restored folder.
const FOLDER: &str = "{}";
const USUAL: Duration = Duration::from_secs(300);

/// Where drills are made, and what opens what they restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drills {
    /// A folder of the agent's own, made where there is none; what drills have left there goes at each start.
    pub scratch: Option<PathBuf>,
    /// What opens a restored folder.
    pub open: Vec<Opener>,
}

/// A program that opens what was backed up of a component, or of one source of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opener {
    /// The component.
    pub component: String,
    /// The source; left out: all of the component.
    #[serde(default)]
    pub name: Option<String>,
    /// The program and its arguments, as they are; `{}` in them becomes the restored folder. It has opened it if it
    /// ends with 0.
    pub command: Vec<String>,
    /// It is killed after this time, with all that it has started.
    #[serde(default = "usual")]
    pub timeout: Duration,
    /// Variables for it, which are shown nowhere.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
}

fn usual() -> Duration {
    USUAL
}

impl Drills {
    pub(super) fn check(&self) -> Result<(), Problem> {
        match (&self.scratch, self.open.is_empty()) {
            (None, true) => return Ok(()),
            (None, false) => {
                let why = "say where drills restore to: a folder of the agent's own";
                return Err(Problem::new("drills.scratch", why));
            }
            (Some(_), true) => {
                let why = "say what opens a restored folder, e.g. { component: blockchain, command: [/usr/bin/geth, …] }; without \
                           it there are no drills";
                return Err(Problem::new("drills.open", why));
            }
            (Some(scratch), false) => absolute("drills.scratch", scratch)?,
        }
        for (place, opener) in self.open.iter().enumerate() {
            let path = format!("drills.open[{place}]");
            opener.check(&path)?;
            let is_same = |other: &Opener| other.component == opener.component && other.name == opener.name;
            if self.open[..place].iter().any(is_same) {
                return Err(Problem::new(path, "an earlier entry is about the same already"));
            }
        }
        Ok(())
    }

    /// What opens this source: what names it goes before what names its component alone.
    pub(crate) fn opener(&self, source: &SourceId) -> Option<&Opener> {
        let of_component = || self.open.iter().filter(|one| one.component == source.component.as_str());
        let named = of_component().find(|one| one.name.as_deref() == Some(source.name.as_str()));
        named.or_else(|| of_component().find(|one| one.name.is_none()))
    }
}

impl Opener {
    fn check(&self, path: &str) -> Result<(), Problem> {
        check_name(&format!("{path}.component"), &self.component)?;
        if let Some(name) = &self.name {
            check_name(&format!("{path}.name"), name)?;
        }
        if self.command.is_empty() {
            return Err(Problem::new(format!("{path}.command"), "a list: program, arguments"));
        }
        self.hook("").check(path, true)?;
        if !self.command.iter().skip(1).any(|word| word.contains(FOLDER)) {
            let why = "one of the arguments must hold {}, which becomes the restored folder";
            return Err(Problem::new(format!("{path}.command"), why));
        }
        Ok(())
    }

    /// As it is run on `folder`.
    pub(crate) fn hook(&self, folder: &str) -> Hook {
        let mut command = self.command.clone();
        // The program is what stands there.
        command.iter_mut().skip(1).for_each(|word| *word = word.replace(FOLDER, folder));
        Hook { command, shell: None, timeout: self.timeout, on_failure: None, env: self.env.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opener(component: &str, name: Option<&str>, words: &[&str]) -> Opener {
        Opener {
            component: component.to_owned(),
            name: name.map(str::to_owned),
            command: words.iter().map(ToString::to_string).collect(),
            timeout: usual(),
            env: BTreeMap::new(),
        }
    }

    fn drills(open: Vec<Opener>) -> Drills {
        Drills { scratch: Some("/var/lib/drills".into()), open }
    }

    #[test]
    fn what_names_a_source_opens_it_and_what_names_its_component_opens_the_others() {
        let of_all = opener("blockchain", None, &["/usr/bin/geth", "--datadir={}", "{}/x"]);
        let of_one = opener("blockchain", Some("side"), &["/usr/bin/other", "{}"]);
        let drills = drills(vec![of_all, of_one]);
        drills.check().expect("can be used");
        let program = |source: &str| {
            drills.opener(&source.parse().expect("a source")).map(|opener| opener.command[0].clone())
        };
        assert_eq!(program("blockchain/side").as_deref(), Some("/usr/bin/other"));
        assert_eq!(program("blockchain/chain").as_deref(), Some("/usr/bin/geth"));
        assert_eq!(program("models/models"), None);
        let run = drills.open[0].hook("/s/restored");
        assert_eq!(run.command, ["/usr/bin/geth", "--datadir=/s/restored", "/s/restored/x"]);
    }

    #[test]
    fn what_would_have_no_effect_or_a_wrong_one_is_refused() {
        let good = || opener("blockchain", None, &["/bin/true", "{}"]);
        let wrong = [
            (Drills { scratch: None, open: vec![good()] }, "drills.scratch"),
            (drills(vec![]), "drills.open"),
            (Drills { scratch: Some("drills".into()), open: vec![good()] }, "drills.scratch"),
            (drills(vec![good(), good()]), "drills.open[1]"),
            (drills(vec![opener("blockchain", None, &["/bin/true"])]), "drills.open[0].command"),
            (drills(vec![opener("blockchain", None, &["true", "{}"])]), "drills.open[0].command"),
            (drills(vec![opener("blockchain", None, &[])]), "drills.open[0].command"),
            (drills(vec![opener("Block chain", None, &["/bin/true", "{}"])]), "drills.open[0].component"),
            (drills(vec![Opener { timeout: Duration::from_secs(601), ..good() }]), "drills.open[0].timeout"),
        ];
        for (drills, place) in wrong {
            let problem = drills.check().expect_err(place);
            assert_eq!(problem.path, place);
        }
        Drills::default().check().expect("there are none");
    }
}
