//! `nsctl repository rebuild`: the index anew from the packs.
//!
//! Holds the writer's lease, so that it never works beside a controller.

use repository::store::lease::{DEFAULT_TTL, Holder, Lease, LeaseError};
use runtime::clock::{Clock, SystemClock};

use super::open;
use crate::cli::repository::Place;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::counted;

pub(super) fn run(place: &Place, voice: Voice) -> Ended {
    let repository = open(place)?;
    let holder = Holder { id: uuid::Uuid::now_v7(), host: runtime::host::hostname() };
    let lease = Lease::acquire(repository.store().clone(), &holder, SystemClock.now(), DEFAULT_TTL)
        .map_err(|error| lease_trouble(&error))?;
    let packs = repository.rebuild_index()?;
    lease.release().map_err(|error| lease_trouble(&error))?;
    voice.say(format!("the index was made anew; it names {}", counted(packs as u64, "pack", "packs")));
    Ok(Exit::Done)
}

fn lease_trouble(error: &LeaseError) -> Trouble {
    Trouble::failed("the repository cannot be written")
        .caused_by(error)
        .hint("stop the controller that uses it; after a crash its lease ends by itself within two minutes")
}
