//! `nsctl repository rebuild`: the index anew from the packs.
//!
//! Holds the writer's lease, so that it never works beside a controller.

use super::held::Held;
use super::open;
use crate::cli::repository::Place;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::output::words::counted;

pub(super) fn run(place: &Place, voice: Voice) -> Ended {
    let repository = open(place)?;
    let held = Held::take(&repository)?;
    let packs = repository.rebuild_index()?;
    held.release()?;
    voice.say(format!("the index was made anew; it names {}", counted(packs as u64, "pack", "packs")));
    Ok(Exit::Done)
}
