//! `nsctl diff`: what is not the same in two backups.
//!
//! Must stay true: both are read side by side in the order of their paths, so that memory does not grow with what is
//! in them; what was not compared is told.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use proto::v1;
use repository::archive::path::EntryPath;

use super::archives;
use super::find::path_of;
use crate::cli::Diff;
use crate::client::Client;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, is_unheard, warn, write_stdout};
use crate::views::difference::{Change, Counts, Difference, Differing, differs};
use crate::views::entry::{Entry, path_text};

/// An archive of the first backup and that of the second.
type Pair = (Option<v1::Archive>, Option<v1::Archive>);

pub(super) async fn run(client: Client, wanted: Diff, voice: Voice) -> Ended {
    let asked: Vec<_> = wanted.component.iter().cloned().collect();
    let first = archives::backup(&client, &wanted.first, &asked).await?;
    let second = archives::backup(&client, &wanted.second, &asked).await?;
    let pairs = pairs(&first, &second, asked.first().map(String::as_str));
    if pairs.is_empty() {
        let asked = asked.join("");
        return Err(Trouble::usage(format!("neither {} nor {} holds {asked}", first.name, second.name))
            .hint(format!("`nsctl show {}` says what is in it", second.name)));
    }
    let counts = Counts { first: first.name.clone(), second: second.name.clone(), ..Counts::default() };
    let mut diff = Comparison { client, first, second, voice, counts, exit: Exit::Done };
    let named: Vec<_> = pairs.keys().map(|source| (source.clone(), diff.label(source))).collect();
    let width = named.iter().map(|(_, label)| label.chars().count()).max().unwrap_or_default();
    for (((component, name), label), (first, second)) in named.into_iter().zip(pairs.into_values()) {
        let source = v1::SourceId { component, name };
        diff.source(&source, &format!("{label:<width$}"), (first.as_ref(), second.as_ref())).await?;
        if is_unheard() {
            return Ok(Exit::Done);
        }
    }
    diff.end()
}

/// What is meant of both backups, by component and source.
fn pairs(first: &v1::Backup, second: &v1::Backup, asked: Option<&str>) -> BTreeMap<(String, String), Pair> {
    let mut pairs: BTreeMap<(String, String), Pair> = BTreeMap::new();
    let meant = |archive: &&v1::Archive| asked.is_none_or(|asked| archives::is_meant(archive, asked));
    for (backup, is_second) in [(first, false), (second, true)] {
        for archive in backup.archives.iter().filter(meant) {
            let Some(source) = &archive.source else { continue };
            let pair = pairs.entry((source.component.clone(), source.name.clone())).or_default();
            let side = if is_second { &mut pair.1 } else { &mut pair.0 };
            *side = Some(archive.clone());
        }
    }
    pairs
}

struct Comparison {
    client: Client,
    first: v1::Backup,
    second: v1::Backup,
    voice: Voice,
    counts: Counts,
    exit: Exit,
}

/// One of two archives, and where its reading stands.
struct Side {
    entries: tonic::Streaming<v1::EntryLine>,
    next: Option<(EntryPath, v1::EntryLine)>,
}

impl Side {
    async fn open(client: &Client, backup: &v1::Backup, source: &v1::SourceId) -> Result<Self, Trouble> {
        let entries =
            archives::entries(client, backup, source).await.map_err(|trouble| of(backup, trouble))?;
        let mut side = Self { entries, next: None };
        side.advance(backup).await?;
        Ok(side)
    }

    async fn advance(&mut self, backup: &v1::Backup) -> Result<(), Trouble> {
        let line = self.entries.message().await.map_err(|status| of(backup, status.into()))?;
        self.next = line.map(|line| path_of(&line).map(|path| (path, line))).transpose()?;
        Ok(())
    }
}

fn of(backup: &v1::Backup, trouble: Trouble) -> Trouble {
    let why = if trouble.why.is_empty() { trouble.what.clone() } else { trouble.why.clone() };
    trouble.because(format!("{}: {why}", backup.name))
}

impl Comparison {
    fn label(&self, (component, name): &(String, String)) -> String {
        let source = v1::SourceId { component: component.clone(), name: name.clone() };
        let labels = [&self.first, &self.second].map(|backup| archives::label(&source, backup));
        // Short only where it is in both.
        let [first, second] = labels;
        if first.len() > second.len() { first } else { second }
    }

    async fn source(
        &mut self,
        source: &v1::SourceId,
        label: &str,
        pair: (Option<&v1::Archive>, Option<&v1::Archive>),
    ) -> Result<(), Trouble> {
        let (Some(first), Some(second)) = pair else {
            let only = if pair.0.is_some() { &self.first.name } else { &self.second.name }.clone();
            let reason = format!("is in {only} only");
            return self.not_compared(source, label, Some(only), reason);
        };
        for (archive, name) in [(first, &self.first.name), (second, &self.second.name)] {
            let because =
                if archive.reason.is_empty() { "nobody has said why" } else { archive.reason.as_str() };
            match archive.outcome() {
                v1::Outcome::Complete => {}
                v1::Outcome::Incomplete => {
                    warn(format!("{} is incomplete in {name}: {because}", label.trim_end()));
                }
                _ => {
                    self.exit = self.exit.worse(Exit::Incomplete);
                    let reason = format!("is not compared: it failed in {name}: {because}");
                    return self.not_compared(source, label, None, reason);
                }
            }
        }
        match self.entries(source, label).await {
            Err(trouble) if !matches!(trouble.exit, Exit::Unreachable | Exit::Denied) => {
                self.exit = self.exit.worse(match trouble.exit {
                    Exit::Damaged => Exit::Damaged,
                    _ => Exit::Incomplete,
                });
                let reason = format!("is not compared to its end: {}", trouble.why);
                self.not_compared(source, label, None, reason)
            }
            ended => ended,
        }
    }

    fn not_compared(
        &self,
        source: &v1::SourceId,
        label: &str,
        only_in: Option<String>,
        reason: String,
    ) -> Result<(), Trouble> {
        let (component, source) = (source.component.clone(), source.name.clone());
        let told = Difference::Source { component, source, only_in, reason };
        self.voice.event(&told, |told| told.line(label))
    }

    async fn entries(&mut self, source: &v1::SourceId, label: &str) -> Result<(), Trouble> {
        let mut first = Side::open(&self.client, &self.first, source).await?;
        let mut second = Side::open(&self.client, &self.second, source).await?;
        while !is_unheard() {
            let order = match (&first.next, &second.next) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order.is_le() { first.next.take() } else { None };
            let after = if order.is_ge() { second.next.take() } else { None };
            if before.is_some() {
                first.advance(&self.first).await?;
            }
            if after.is_some() {
                second.advance(&self.second).await?;
            }
            self.entry(source, label, before.map(|(_, line)| line), after.map(|(_, line)| line))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        source: &v1::SourceId,
        label: &str,
        before: Option<v1::EntryLine>,
        after: Option<v1::EntryLine>,
    ) -> Result<(), Trouble> {
        let (change, differs) = match (&before, &after) {
            (Some(_), None) => (Change::Removed, Vec::new()),
            (None, Some(_)) => (Change::Added, Vec::new()),
            (Some(before), Some(after)) => match differs(before, after) {
                Some(found) => found,
                None => {
                    self.counts.same += 1;
                    return Ok(());
                }
            },
            (None, None) => return Ok(()),
        };
        let path = after.as_ref().or(before.as_ref()).map(|line| path_text(&line.path)).unwrap_or_default();
        let differing = Differing {
            change,
            component: source.component.clone(),
            source: source.name.clone(),
            path,
            differs,
            before: before.map(Entry::from),
            after: after.map(Entry::from),
        };
        self.counts.add(&differing);
        self.voice.event(&Difference::Entry(Box::new(differing)), |told| told.line(label))
    }

    fn end(self) -> Ended {
        self.voice.event(&Difference::Counts(self.counts), |counts| counts.line(""))?;
        write_stdout("", "")?;
        Ok(self.exit)
    }
}
