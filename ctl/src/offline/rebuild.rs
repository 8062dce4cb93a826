//! `nsctl repository rebuild`: the index anew from the packs, or a controller's state folder from what lies in
//! the repository.
//!
//! The index needs the writer's lease, so that this never works beside a controller; a state folder is made by
//! reading alone.

use std::path::Path;
use std::sync::Arc;

use controller::catalog::CatalogError;
use controller::safekeeping::rebuild::{RebuildError, Rebuilt, Wanted, rebuild};
use controller::state::StateError;
use repository::keys::SlotSecret;
use runtime::clock::{Clock, SystemClock};

use super::held::Held;
use super::{open, secret};
use crate::cli::repository::{Place, Rebuild};
use crate::commands::block_on;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::counted;
use crate::views::rebuilt::{Copy, State, Unreadable};

pub(super) fn run(wanted: &Rebuild, voice: Voice) -> Ended {
    match &wanted.state {
        Some(folder) => state(wanted, folder, voice),
        None => index(&wanted.place, voice),
    }
}

fn index(place: &Place, voice: Voice) -> Ended {
    let repository = open(place)?;
    let held = Held::take(&repository)?;
    let packs = repository.rebuild_index()?;
    held.release()?;
    voice.say(format!("the index was made anew; it names {}", counted(packs as u64, "pack", "packs")));
    Ok(Exit::Done)
}

fn state(asked: &Rebuild, folder: &Path, voice: Voice) -> Ended {
    let repository = open(&asked.place)?;
    let secret = asked.secret.is_given().then(|| secret::read(&asked.secret)).transpose()?;
    let keys = secret.as_ref().map(|secret| repository.unlock(secret)).transpose()?;
    let wanted = Wanted {
        repository: Arc::clone(&repository),
        keys,
        key_file: match &secret {
            Some(SlotSecret::KeyFile(bytes)) => Some(bytes.clone()),
            _ => None,
        },
        has_recovery_key: matches!(secret, Some(SlotSecret::Recovery(_))),
        state: folder.to_owned(),
        replace: asked.replace,
        plan: asked.plan,
        now: SystemClock.now(),
    };
    let (place, plan) = (repository.store().location(), asked.plan);
    block_on(async move {
        let rebuilt = rebuild(wanted).await?;
        let view = view(&rebuilt, folder, place, plan, secret.is_some());
        for copy in &view.unreadable {
            voice.say(format!("the copy {} cannot be read: {}", copy.of, copy.reason));
        }
        voice.result(&view, State::text)?;
        Ok(if view.unreadable.is_empty() { Exit::Done } else { Exit::Incomplete })
    })
}

fn view(rebuilt: &Rebuilt, folder: &Path, repository: String, plan: bool, has_key: bool) -> State {
    let figures = |nth: usize| rebuilt.figures.map(|figures| figures[nth]);
    State {
        state: folder.display().to_string(),
        repository,
        plan,
        has_key,
        copy: rebuilt.copy.as_ref().map(|(backup, at)| Copy { backup: backup.to_string(), at: *at }),
        unreadable: rebuilt
            .unreadable
            .iter()
            .map(|(of, reason)| Unreadable { of: of.clone(), reason: reason.clone() })
            .collect(),
        backups: rebuilt.backups,
        newer_backups: rebuilt.newer,
        agents: figures(0),
        schedules: figures(1),
        jobs: figures(2),
        missing: rebuilt.missing.clone(),
        aside: rebuilt.aside.as_ref().map(|folder| folder.display().to_string()),
    }
}

impl From<RebuildError> for Trouble {
    fn from(error: RebuildError) -> Self {
        const WHAT: &str = "the state folder cannot be rebuilt";
        let hint = match &error {
            RebuildError::Repository(_) => {
                let RebuildError::Repository(error) = error else { unreachable!("matched just now") };
                return error.into();
            }
            RebuildError::State(StateError::NotEmpty { .. }) => {
                "give a folder that is empty, or --replace, which puts aside what is in it"
            }
            RebuildError::State(StateError::InUse { .. }) => "stop the controller that uses it",
            RebuildError::State(_) => "check that the folder can be written by this user",
            RebuildError::Catalog(CatalogError::Migration(_)) => {
                "use the nsctl of the release that made the newest backup, or of a newer one"
            }
            RebuildError::Catalog(_) | RebuildError::Thread(_) => {
                "check that the folder can be written and has space, then run it again"
            }
        };
        Trouble::failed(WHAT).caused_by(&error).hint(hint)
    }
}
