//! Taking a restore back: in place again, from the backup that was made before it.

use proto::Failure;
use proto::convert::BackupChoice;
use proto::failure::reason;
use repository::names::{Component, SourceId};
use tonic::Code;

use crate::app::plan::RestoreRequest;
use crate::app::{App, catalog_failure};
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::{Databases, MONGODB, Order, Part, PartResult, RestorePlace};

/// What brings back what a restore has replaced at one source.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TakenBack {
    pub(super) source: SourceId,
    pub(super) globs: Vec<String>,
    pub(super) databases: Databases,
}

impl App {
    /// What has to be restored so that what `restore` replaced is there again, source by source.
    pub(super) async fn undo_of(
        &self,
        restore: JobId,
        asked: &RestoreRequest,
    ) -> Result<(RestoreRequest, Vec<TakenBack>), Failure> {
        let job = self.job(restore).await?;
        let cannot = |why: String, hint: String| {
            let what = format!("the restore {restore} cannot be taken back");
            Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what).because(why).hint(hint)
        };
        let Order::Restore { places, safety, .. } = &job.order else {
            let what = format!("the job {restore} is a {}, not a restore", job.kind());
            return Err(Failure::invalid(what).hint("`nsctl jobs` lists the restores"));
        };
        if !job.state.is_end() {
            let hint = format!("wait for its end, or `nsctl cancel {restore}`");
            return Err(cannot("it is still under way".to_owned(), hint));
        }
        if let Some(undo) = self.catalog.undo_of(restore).await.map_err(|error| catalog_failure(&error))? {
            let hint = format!("`nsctl undo {undo}` takes that back in turn");
            return Err(cannot(format!("it was taken back already, by {undo}"), hint));
        }
        let changed = job.parts.iter().zip(places).filter(|(part, place)| {
            let is_live = match &part.result {
                // Also of a part that has failed: what did not come up on it was not taken back.
                Some(PartResult::Restored { undone: None, .. }) => true,
                // Its end was never heard of: it may have been done. Where it was not, the undo finds all as
                // it was.
                None => part.is_unknown,
                _ => false,
            };
            is_live && place.folder.is_none()
        });
        let mut parts: Vec<TakenBack> = changed.filter_map(|(part, place)| taken_back(part, place)).collect();
        if parts.is_empty() {
            let why = match places.iter().all(|place| place.folder.is_some()) {
                true => "it went into a folder of its own and has replaced nothing",
                false => "it has changed nothing, or was taken back already",
            };
            return Err(cannot(why.to_owned(), "there is nothing to do".to_owned()));
        }
        let Some(backup) = self.safety_backup(*safety).await? else {
            let why = "there is no backup of what it has replaced".to_owned();
            return Err(cannot(why, where_the_old_state_is(&job)));
        };
        if self.catalog.backup(&backup).await.map_err(|error| catalog_failure(&error))?.is_none() {
            let why = format!("its safety backup {backup} is not there any more");
            return Err(cannot(why, where_the_old_state_is(&job)));
        }
        // Whoever has taken fields over has them.
        for part in &mut parts {
            part.databases.force_conflicts |= asked.databases.force_conflicts;
        }
        let mut components: Vec<Component> = parts.iter().map(|part| part.source.component.clone()).collect();
        components.sort();
        components.dedup();
        let request = RestoreRequest {
            backup: BackupChoice::Named(backup),
            components,
            globs: Vec::new(),
            databases: Databases::default(),
            folder: None,
            agent: None,
            ..asked.clone()
        };
        Ok((request, parts))
    }

    /// The backup that this job has made, if it has.
    pub(crate) async fn safety_backup(
        &self,
        safety: Option<JobId>,
    ) -> Result<Option<repository::names::BackupName>, Failure> {
        let Some(safety) = safety else { return Ok(None) };
        let job = self.catalog.job(safety).await.map_err(|error| catalog_failure(&error))?;
        Ok(job.filter(|job| job.state.is_end() && job.failure.is_none()).and_then(|job| job.backup))
    }
}

/// What takes this part back: the very names that it has replaced and removed at a server, where it has told them;
/// else all that it was asked for. None: it has replaced nothing.
fn taken_back(part: &Part, place: &RestorePlace) -> Option<TakenBack> {
    let source = place.source.clone();
    match &part.result {
        // Nothing at all in its counts is also what an agent of before says, which does not count.
        Some(PartResult::Restored { names, swapped: swapped @ [replaced, _, removed], .. })
            if place.kind == MONGODB && names.len() as u64 == replaced + removed && *swapped != [0; 3] =>
        {
            let include: Vec<String> = names.iter().map(|name| literal(name)).collect();
            let databases = Databases { include, ..Databases::default() };
            (!names.is_empty()).then_some(TakenBack { source, globs: Vec::new(), databases })
        }
        _ => {
            let force_conflicts = place.databases.force_conflicts;
            let databases = Databases { force_conflicts, ..replaced_by(&place.databases) };
            // A pattern of nothing but slashes named all that there is, in releases that took one.
            let all = |glob: &String| {
                if glob.chars().all(|one| one == '/') { "**".to_owned() } else { glob.clone() }
            };
            Some(TakenBack { source, globs: place.globs.iter().map(all).collect(), databases })
        }
    }
}

/// A name as the pattern that means just it.
fn literal(name: &str) -> String {
    name.replace('*', r"\*")
}

/// What has to come back so that a restore of these is undone: what it wrote, under the names that it gave.
fn replaced_by(databases: &Databases) -> Databases {
    let renamed = |name: &String| {
        let database = name.split_once('.').map_or(name.as_str(), |(database, _)| database);
        let of = |from: &str| databases.renames.iter().find(|(old, _)| old == from);
        match (of(name), of(database)) {
            (Some((_, to)), _) => to.clone(),
            (None, Some((_, to))) => format!("{to}{}", &name[database.len()..]),
            (None, None) => name.clone(),
        }
    };
    let mut include: Vec<String> = match databases.include.as_slice() {
        [] => databases.renames.iter().map(|(_, to)| to.clone()).collect(),
        some => some.iter().map(renamed).chain(databases.renames.iter().map(|(_, to)| to.clone())).collect(),
    };
    include.sort();
    include.dedup();
    Databases { include, ..Databases::default() }
}

fn where_the_old_state_is(job: &Job) -> String {
    let kept = job.parts.iter().filter_map(|part| match &part.result {
        Some(PartResult::Restored { previous_state, .. }) => previous_state.clone(),
        _ => None,
    });
    match kept.collect::<Vec<_>>().as_slice() {
        [] => "restore from an earlier backup: `nsctl list` shows them".to_owned(),
        kept => format!("the replaced state lies in {} until the next restore there", kept.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AgentId;
    use crate::jobs::job::Allowance;

    #[test]
    fn an_undo_brings_back_what_has_the_names_that_a_restore_wrote() {
        let of = |include: &[&str], renames: &[(&str, &str)]| {
            let databases = Databases {
                include: include.iter().map(|one| (*one).to_owned()).collect(),
                renames: renames.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
                drop_others: true,
                ..Databases::default()
            };
            let undo = replaced_by(&databases);
            assert!(undo.renames.is_empty() && !undo.drop_others);
            undo.include
        };
        assert_eq!(of(&[], &[]), [""; 0]);
        assert_eq!(of(&["shop.orders", "users"], &[]), ["shop.orders", "users"]);
        assert_eq!(of(&[], &[("shop", "copy")]), ["copy"]);
        assert_eq!(of(&["shop.orders"], &[("shop", "copy")]), ["copy", "copy.orders"]);
        assert_eq!(of(&["shop.a"], &[("shop.a", "shop.b")]), ["shop.b"]);
    }

    #[test]
    fn a_part_is_taken_back_by_its_own_names_and_not_at_all_where_it_has_replaced_nothing() {
        let undo = |kind: &str, swapped: [u64; 3], names: &[&str]| {
            let source = SourceId {
                component: "database".parse().expect("a component"),
                name: "one".parse().expect("a name"),
            };
            let mut part = Part::waiting(source.clone(), kind);
            part.result = Some(PartResult::Restored {
                entries: 1,
                bytes: 1,
                previous_state: None,
                warnings: Vec::new(),
                swapped,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                steps: Vec::new(),
                undone: None,
            });
            let databases = Databases { include: vec!["shop".to_owned()], ..Databases::default() };
            let place = RestorePlace {
                source,
                kind: kind.to_owned(),
                agent: AgentId::fresh(),
                folder: None,
                globs: vec!["a/*".to_owned()],
                databases,
                allowance: Allowance::default(),
                confirmed: None,
                takes_back: false,
            };
            taken_back(&part, &place).map(|back| (back.globs, back.databases.include))
        };
        let globs = vec!["a/*".to_owned()];
        let told = undo(MONGODB, [1, 0, 1], &["shop.a*b", "shop.c"]);
        assert_eq!(told, Some((Vec::new(), vec![r"shop.a\*b".to_owned(), "shop.c".to_owned()])));
        assert_eq!(undo(MONGODB, [0, 3, 0], &[]), None);
        let asked = Some((globs, vec!["shop".to_owned()]));
        assert_eq!(undo(MONGODB, [2, 0, 0], &[]), asked, "too many names to be told");
        assert_eq!(undo(MONGODB, [0, 0, 0], &[]), asked, "not counted");
        assert_eq!(undo("files", [0, 3, 0], &[]), asked);
    }
}
