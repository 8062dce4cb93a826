//! Taking a restore back: in place again, from the backup that was made before it.

use proto::Failure;
use proto::convert::BackupChoice;
use proto::failure::reason;
use repository::names::Component;
use tonic::Code;

use crate::app::plan::RestoreRequest;
use crate::app::{App, catalog_failure};
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::{Databases, MONGODB, Order, Part, PartResult, PartState, RestorePlace};

impl App {
    /// What has to be restored so that what `restore` replaced is there again.
    pub(super) async fn undo_of(
        &self,
        restore: JobId,
        asked: &RestoreRequest,
    ) -> Result<RestoreRequest, Failure> {
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
        let changed = job.parts.iter().zip(places).filter(|(part, place)| {
            let is_live = match &part.result {
                Some(PartResult::Restored { undone: None, .. }) => part.state != PartState::Failed,
                // Its end was never heard of: it may have been done. Where it was not, the undo finds all as
                // it was.
                None => part.is_unknown,
                _ => false,
            };
            is_live && place.folder.is_none()
        });
        let changed: Vec<_> = changed.collect();
        let Some((_, first)) = changed.first() else {
            let why = match places.iter().all(|place| place.folder.is_some()) {
                true => "it went into a folder of its own and has replaced nothing",
                false => "it has changed nothing, or was taken back already",
            };
            return Err(cannot(why.to_owned(), "there is nothing to do".to_owned()));
        };
        let Some(backup) = self.safety_backup(*safety).await? else {
            let why = "there is no backup of what it has replaced".to_owned();
            return Err(cannot(why, where_the_old_state_is(&job)));
        };
        if self.catalog.backup(&backup).await.map_err(|error| catalog_failure(&error))?.is_none() {
            let why = format!("its safety backup {backup} is not there any more");
            return Err(cannot(why, where_the_old_state_is(&job)));
        }
        let names = names_at_servers(&changed);
        let mut components: Vec<Component> =
            changed.iter().map(|(_, place)| place.source.component.clone()).collect();
        components.sort();
        components.dedup();
        let globs = if names.is_some() { Vec::new() } else { first.globs.clone() };
        Ok(RestoreRequest {
            backup: BackupChoice::Named(backup),
            components,
            globs,
            databases: Databases {
                // Whoever has taken fields over has them.
                force_conflicts: first.databases.force_conflicts || asked.databases.force_conflicts,
                ..names.unwrap_or_else(|| replaced_by(&first.databases))
            },
            folder: None,
            agent: None,
            ..asked.clone()
        })
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

/// What was replaced and removed, where all of it lay at servers and each has told so.
fn names_at_servers(changed: &[(&Part, &RestorePlace)]) -> Option<Databases> {
    let mut include = Vec::new();
    for (part, place) in changed {
        match &part.result {
            Some(PartResult::Restored { names, swapped: [replaced, _, removed], .. })
                if place.kind == MONGODB && names.len() as u64 == replaced + removed =>
            {
                include.extend(names.iter().cloned());
            }
            _ => return None,
        }
    }
    (!include.is_empty()).then(|| Databases { include, ..Databases::default() })
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
}
