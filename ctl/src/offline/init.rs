//! `nsctl repository init`.

use std::path::PathBuf;
use std::sync::Arc;

use repository::repo::Repository;
use repository::store::Store;
use repository::store::local::LocalStore;
use repository::store::location::Location;
use runtime::clock::{Clock, SystemClock};

use super::secret::{self, IsNew};
use crate::cli::repository::Place;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, warn, write_stdout};

pub(super) fn run(
    place: &Place,
    key_file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    voice: Voice,
) -> Ended {
    let store: Arc<dyn Store> = match &place.repository {
        Location::Folder(folder) => Arc::new(LocalStore::open_or_make(folder).map_err(|error| {
            Trouble::failed(format!("cannot use {} for a repository", folder.display()))
                .caused_by(&error)
                .hint("give a folder that you may write to with --repository")
        })?),
        Location::Bucket(_) => super::open_store(place)?,
    };
    let first = match (&key_file, &passphrase_file) {
        (_, Some(file)) => secret::passphrase(file)?,
        (Some(file), None) => {
            let (first, is_new) = secret::key_file_or_new(file)?;
            if is_new == IsNew(true) {
                voice.say(format!("made the key file {}; keep a copy of it elsewhere", file.display()));
            }
            first
        }
        (None, None) => return Err(Trouble::usage("give --key-file or --passphrase-file")),
    };
    let made = Repository::init(store, &first, SystemClock.now())?;
    let shown = &place.repository;
    voice.say(format!("made the repository {} in {shown}\n", made.repository.config().id));
    warn(
        "This is the recovery key. It opens every backup when the key is lost, and it is shown only now.\n\
         Write it down and keep it away from this machine:\n",
    );
    write_stdout(&made.recovery_key.reveal(), "\n")?;
    warn(format!("\nThen confirm that you have it:  nsctl repository key confirm --repository {shown}"));
    Ok(Exit::Done)
}
