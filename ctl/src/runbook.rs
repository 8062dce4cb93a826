//! The flags of the users' older runbooks, for this program under the name `backup-recovery.sh`.
//!
//! `--backup`, `--verify [--timestamp T]`, `--restore --timestamp T [--components a,b]` become the verbs of
//! the same names. Nobody is asked anything: the runbooks run from cron.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::output::exit::Trouble;

const NAME: &str = "backup-recovery.sh";

/// The words as `nsctl` understands them; unchanged unless the program was called by the runbooks' name.
pub(crate) fn translate(words: Vec<OsString>) -> Result<Vec<OsString>, Trouble> {
    let name = words.first().map(|word| Path::new(word).file_name().unwrap_or_default());
    if name != Some(OsStr::new(NAME)) {
        return Ok(words);
    }
    let mut verb = None;
    let mut rest = Vec::new();
    for word in words.into_iter().skip(1) {
        let found = match word.to_str() {
            Some("--backup") => "backup",
            Some("--verify") => "verify",
            Some("--restore") => "restore",
            _ => {
                rest.push(word);
                continue;
            }
        };
        if verb.replace(found).is_some() {
            return Err(usage());
        }
    }
    let verb = verb.ok_or_else(usage)?;
    let mut words = vec![OsString::from("nsctl"), OsString::from(verb)];
    if verb == "restore" {
        words.push("--yes".into());
    }
    words.append(&mut rest);
    Ok(words)
}

/// What it takes, if that is what is asked for under the runbooks' name.
pub(crate) fn help(words: &[OsString]) -> Option<String> {
    let is_ours = words.first().is_some_and(|word| Path::new(word).file_name() == Some(OsStr::new(NAME)));
    let is_asked = words.iter().skip(1).any(|word| word == "--help" || word == "-h");
    (is_ours && is_asked).then(|| {
        format!("Usage: {FORMS}\n\nNobody is asked anything. `nsctl --help` says what else there is.")
    })
}

const FORMS: &str =
    "backup-recovery.sh --backup | --verify [--timestamp T] | --restore --timestamp T [--components a,b]";

fn usage() -> Trouble {
    Trouble::usage(format!("{NAME} takes exactly one of --backup, --verify and --restore")).hint(FORMS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn translated(line: &str) -> Result<Vec<String>, Trouble> {
        let words = translate(line.split(' ').map(OsString::from).collect())?;
        Ok(words.into_iter().map(|word| word.into_string().expect("was a str")).collect())
    }

    #[test]
    fn the_runbooks_flags_become_verbs() {
        let words = translated(
            "/opt/backup-recovery.sh --restore --timestamp 20260101_010000 --components models,ipfs",
        )
        .expect("valid");
        let cli = Cli::try_parse_from(words).expect("nsctl understands it");
        let Verb::Restore(restore) = cli.verb else { panic!("restore stays restore") };
        assert!(restore.how.yes);
        assert_eq!(restore.components, ["models", "ipfs"]);
        assert_eq!(translated("backup-recovery.sh --backup").expect("valid"), ["nsctl", "backup"]);
        assert_eq!(
            translated("backup-recovery.sh --verify --timestamp latest").expect("valid"),
            ["nsctl", "verify", "--timestamp", "latest"]
        );
    }

    #[test]
    fn none_or_two_of_them_is_wrong_usage() {
        assert!(translated("backup-recovery.sh --timestamp x").is_err());
        assert!(translated("backup-recovery.sh --backup --restore").is_err());
    }

    #[test]
    fn under_its_own_name_nothing_is_translated() {
        assert_eq!(translated("/usr/bin/nsctl --backup").expect("unchanged"), ["/usr/bin/nsctl", "--backup"]);
    }
}
