//! `nsctl find`: in which backups a file lies.
//!
//! Must stay true: entries are looked at as they arrive, one archive after the other, so that memory does not grow
//! with what there is; an archive that was not looked into, or lacks something, is told.

use std::collections::BTreeSet;

use agent::targets::files::PathPatterns;
use proto::v1;
use repository::archive::path::EntryPath;

use super::archives::{self, Pages};
use crate::cli::Find;
use crate::client::Client;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::counted;
use crate::output::{Voice, is_unheard, warn, write_stdout};
use crate::views::entry::{Entry, Found};

pub(super) async fn run(client: Client, wanted: Find, voice: Voice) -> Ended {
    let pattern = Pattern::new(&wanted.pattern)?;
    let mut search = Search::new(client, pattern, &wanted, voice);
    if let Some(name) = &wanted.timestamp {
        let backup = archives::backup(&search.client, name, &wanted.components).await?;
        search.backup(&backup).await?;
    } else {
        let mut pages = Pages::new(wanted.limit);
        while let Some(page) = pages.next(&search.client).await? {
            if !page.legacy.is_empty() {
                let many = counted(page.legacy.len() as u64, "backup", "backups");
                voice.say(format!("{many} of an older system cannot be looked into"));
            }
            for backup in &page.backups {
                search.backup(backup).await?;
                if is_unheard() {
                    return Ok(Exit::Done);
                }
            }
        }
    }
    search.end(&wanted.pattern)
}

/// What is looked for: as `--path` of a restore, but that a bare name is looked for in every folder.
struct Pattern {
    paths: PathPatterns,
    /// A bare name as `ls` shows it, which may look like a pattern.
    name: Option<String>,
}

impl Pattern {
    fn new(typed: &str) -> Result<Self, Trouble> {
        let wrong = || Trouble::usage(format!("cannot look for {typed:?}"));
        let ended = typed.trim_end_matches('/');
        if ended.is_empty() {
            return Err(
                wrong().hint("give a name, e.g. 'app.yaml' or '*.onnx', or a path, e.g. 'etc/**/app.yaml'")
            );
        }
        let is_bare = !ended.contains('/');
        let glob = if is_bare { format!("**/{ended}") } else { ended.to_owned() };
        let paths = PathPatterns::new(&[glob]).map_err(|error| {
            wrong().caused_by(&error).hint("`*` and `?` stay within a name, `**` is any number of folders; [ { and \\ are written \\[ \\{ \\\\")
        })?;
        Ok(Self { paths, name: is_bare.then(|| ended.to_owned()) })
    }

    fn matches(&self, path: &EntryPath) -> bool {
        let is_spelled = |name: &String| {
            path.name().is_some_and(|is| repository::archive::path::ShowBytes(is).to_string() == *name)
        };
        self.paths.names(path) || self.name.as_ref().is_some_and(is_spelled)
    }
}

struct Search {
    client: Client,
    pattern: Pattern,
    asked: Vec<String>,
    voice: Voice,
    /// Those of the asked components that some backup has.
    met: BTreeSet<String>,
    /// All that was met, to be named where one is asked for that nobody knows.
    known: BTreeSet<String>,
    backups: u64,
    backups_with: u64,
    found: u64,
    not_read: u64,
    exit: Exit,
}

impl Search {
    fn new(client: Client, pattern: Pattern, wanted: &Find, voice: Voice) -> Self {
        Self {
            client,
            pattern,
            asked: wanted.components.clone(),
            voice,
            met: BTreeSet::new(),
            known: BTreeSet::new(),
            backups: 0,
            backups_with: 0,
            found: 0,
            not_read: 0,
            exit: Exit::Done,
        }
    }

    async fn backup(&mut self, backup: &v1::Backup) -> Result<(), Trouble> {
        self.backups += 1;
        let before = self.found;
        for archive in &backup.archives {
            let Some(source) = &archive.source else { continue };
            self.known.insert(source.component.clone());
            let named = |asked: &&String| archives::is_meant(archive, asked);
            match self.asked.iter().find(named) {
                Some(asked) => self.met.insert(asked.clone()),
                None if self.asked.is_empty() => true,
                None => continue,
            };
            self.archive(backup, archive, source).await?;
            if is_unheard() {
                break;
            }
        }
        self.backups_with += u64::from(self.found > before);
        Ok(())
    }

    async fn archive(
        &mut self,
        backup: &v1::Backup,
        archive: &v1::Archive,
        source: &v1::SourceId,
    ) -> Result<(), Trouble> {
        let label = archives::label(source, backup);
        let because = if archive.reason.is_empty() { "nobody has said why" } else { archive.reason.as_str() };
        match archive.outcome() {
            v1::Outcome::Complete => {}
            v1::Outcome::Incomplete => {
                warn(format!("{} {label} is incomplete: {because}", backup.name));
            }
            _ => {
                self.not_read += 1;
                warn(format!("{} {label} was not looked into: its backup failed: {because}", backup.name));
                return Ok(());
            }
        }
        match self.entries(backup, source, &label).await {
            Ok(()) => Ok(()),
            Err(trouble) if matches!(trouble.exit, Exit::Unreachable | Exit::Denied) => Err(trouble),
            Err(trouble) => {
                self.not_read += 1;
                self.exit = self.exit.worse(match trouble.exit {
                    Exit::Damaged => Exit::Damaged,
                    _ => Exit::Incomplete,
                });
                let why = if trouble.why.is_empty() { trouble.what } else { trouble.why };
                warn(format!("{} {label} was not looked into to its end: {why}", backup.name));
                Ok(())
            }
        }
    }

    async fn entries(
        &mut self,
        backup: &v1::Backup,
        source: &v1::SourceId,
        label: &str,
    ) -> Result<(), Trouble> {
        let mut entries = archives::entries(&self.client, backup, source).await?;
        while let Some(line) = entries.message().await? {
            let path = path_of(&line)?;
            if !self.pattern.matches(&path) {
                continue;
            }
            self.found += 1;
            let found = Found {
                backup: backup.name.clone(),
                component: source.component.clone(),
                source: source.name.clone(),
                entry: Entry::from(line),
            };
            self.voice.event(&found, |found| found.line(label))?;
            if is_unheard() {
                break;
            }
        }
        Ok(())
    }

    fn end(self, pattern: &str) -> Ended {
        write_stdout("", "")?;
        let missing: Vec<_> = self.asked.iter().filter(|asked| !self.met.contains(*asked)).cloned().collect();
        if !missing.is_empty() && self.backups > 0 {
            let known: Vec<_> = self.known.into_iter().collect();
            return Err(Trouble::usage(format!("{} is in none of the backups", missing.join(", ")))
                .hint(format!("they hold {}", known.join(", "))));
        }
        let backups = counted(self.backups, "backup", "backups");
        let not_read = match self.not_read {
            0 => String::new(),
            many => format!("; {} not looked into", counted(many, "archive was", "archives were")),
        };
        self.voice.say(match self.found {
            0 => format!("nothing in {backups} is named {pattern:?}{not_read}"),
            many => format!(
                "{} in {} of {backups}{not_read}",
                counted(many, "entry", "entries"),
                self.backups_with
            ),
        });
        Ok(self.exit)
    }
}

/// The path of an entry; whoever sends one that climbs is not believed.
pub(super) fn path_of(line: &v1::EntryLine) -> Result<EntryPath, Trouble> {
    EntryPath::new(&line.path)
        .map_err(|error| Trouble::failed("the controller's answer cannot be read").caused_by(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(pattern: &str, path: &[u8]) -> bool {
        Pattern::new(pattern).expect("a pattern").matches(&EntryPath::new(path).expect("a path"))
    }

    #[test]
    fn a_bare_name_lies_anywhere_and_a_path_where_it_says() {
        assert!(finds("app.yaml", b"app.yaml") && finds("app.yaml", b"etc/deep/app.yaml"));
        assert!(finds("*.yaml", b"etc/app.yaml") && !finds("*.yaml", b"etc/app.yaml/x"));
        assert!(finds("etc/*.yaml", b"etc/app.yaml") && !finds("etc/*.yaml", b"old/etc/app.yaml"));
        assert!(finds("/app.yaml", b"app.yaml") && !finds("/app.yaml", b"etc/app.yaml"));
        assert!(finds("etc/", b"a/etc") && finds("**", b"a/b/c"));
    }

    #[test]
    fn a_name_is_found_as_it_is_shown() {
        assert!(finds("bad\\xffname", b"a/bad\xffname") && finds("new\\nline", b"new\nline"));
        assert!(finds("star*[x].txt", b"a/star*[x].txt") && finds("a/star*[x].txt", b"a/star*[x].txt"));
        assert!(finds("a/bad\\xff", b"a/bad\xff") && finds("a\\\\b", b"a\\b"));
    }

    #[test]
    fn nothing_and_half_a_pattern_are_wrong_usage() {
        for wrong in ["", "/", "[", "{a"] {
            assert_eq!(Pattern::new(wrong).err().map(|trouble| trouble.exit), Some(Exit::Usage), "{wrong:?}");
        }
    }
}
