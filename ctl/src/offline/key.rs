//! `nsctl repository key list`, `confirm` and `add`.

use jiff::Timestamp;
use repository::keys::SlotKind;
use runtime::clock::{Clock, SystemClock};
use serde::Serialize;

use super::open;
use super::secret::{self, IsNew};
use crate::cli::repository::Key;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::table::Rows;
use crate::output::words::{age, utc};

/// What opens the repository.
#[derive(Debug, Serialize)]
struct Slots {
    slots: Vec<Slot>,
    /// Whether the owner has shown to have the recovery key.
    recovery_key_confirmed: bool,
}

#[derive(Debug, Serialize)]
struct Slot {
    slot: String,
    kind: SlotKind,
    created_at: Timestamp,
}

pub(super) fn run(wanted: Key, voice: Voice) -> Ended {
    match wanted {
        Key::List { place, .. } => {
            let repository = open(&place)?;
            let slot = |slot: repository::keys::Slot| Slot {
                slot: slot.slot,
                kind: slot.kind,
                created_at: slot.created_at,
            };
            let slots = Slots {
                slots: repository.slots()?.into_iter().map(slot).collect(),
                recovery_key_confirmed: repository.is_recovery_confirmed()?,
            };
            voice.result(&slots, |slots| slots.table(SystemClock.now()))?;
        }
        Key::Confirm { place, recovery_key_file } => {
            let repository = open(&place)?;
            let key = secret::recovery(recovery_key_file.as_deref())?;
            repository.confirm_recovery(&key, SystemClock.now())?;
            voice.say("the recovery key is right; nobody will remind you of it again");
        }
        Key::Add { place, secret, new_key_file, new_passphrase_file } => {
            let repository = open(&place)?;
            let old = secret::read(&secret)?;
            // A wrong old secret is told before a new key file is made.
            repository.unlock(&old)?;
            let new = match (&new_key_file, &new_passphrase_file) {
                (_, Some(file)) => secret::passphrase(file)?,
                (Some(file), None) => {
                    let (new, is_new) = secret::key_file_or_new(file)?;
                    if is_new == IsNew(true) {
                        voice.say(format!("made the key file {}", file.display()));
                    }
                    new
                }
                (None, None) => return Err(Trouble::usage("give --new-key-file or --new-passphrase-file")),
            };
            let slot = repository.add_slot(&old, &new, SystemClock.now())?;
            voice.say(format!("added the slot {} ({})", slot.slot, slot.kind));
        }
    }
    Ok(Exit::Done)
}

impl Slots {
    fn table(&self, now: Timestamp) -> String {
        let mut rows = Rows::new(&["SLOT", "KIND", "MADE", "AGE"]);
        for slot in &self.slots {
            let made = slot.created_at;
            rows.row([slot.slot.clone(), slot.kind.to_string(), utc(made), age(made, now)]);
        }
        let confirmed = match self.recovery_key_confirmed {
            true => "the recovery key was confirmed",
            false => "the recovery key was NOT confirmed yet: nsctl repository key confirm",
        };
        format!("{}\n\n{confirmed}", rows.finish_or("no slots can be read"))
    }
}
