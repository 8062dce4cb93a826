//! A validator's state and its key. `priv_validator_state.json` of CometBFT says what the key has signed last;
//! a validator that starts on an older one can sign a height twice, and is punished for it.
//!
//! Must stay true: what becomes live never says less than what is live, than what the archive has, than what any backup
//! of the source has seen, and than what the operator has stated; it is looked at when what uses the folder has been
//! stopped, so that nothing is signed any more. A copy in another place has no key, unless somebody asks for it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use formats::chains::Tier;
use repository::archive::path::EntryPath;
use rustix::fs::{FileType, Mode, OFlags};

use super::disk::{Disk, Subject};
use super::error::{RestoreError, failed};
use super::ground::Ground;
use super::handles::{kind_of, open_below, open_in};
use super::request::{PathPatterns, Place, RestoreRequest, Selection};
use super::stage::Stage;
use crate::signed::MAX_STATE;
pub use crate::signed::Signed;

/// What a validator's key has signed last.
pub(super) const STATE: &[u8] = b"priv_validator_state.json";
/// The key.
pub(super) const KEY: &[u8] = b"priv_validator_key.json";
/// The last step of a round: its precommit.
const LAST_STEP: i64 = 3;

/// What lies where a state is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveState {
    /// None.
    Absent,
    /// Something that tells no height, and why.
    Unreadable(String),
    /// A state.
    At(Signed),
}

/// What lies where `path` goes.
pub(super) fn live(ground: &Ground, path: &EntryPath) -> LiveState {
    match read_live(ground, path) {
        Ok(None) => LiveState::Absent,
        Ok(Some(bytes)) => match Signed::of(&bytes) {
            Some(signed) => LiveState::At(signed),
            None => LiveState::Unreadable("it tells no height".to_owned()),
        },
        Err(error) => LiveState::Unreadable(error.to_string()),
    }
}

/// True if `path` is a key that stays out of this copy. That of a validator does wherever it comes from; others do
/// where they are of a chain's node, of which alone their names say that they are keys.
pub(super) fn leaves_out(request: &RestoreRequest, path: &EntryPath) -> bool {
    if !matches!(request.place, Place::NewFolder { .. }) {
        return false;
    }
    let named = |how: fn(&PathPatterns, &EntryPath) -> bool| matches!(&request.selection, Selection::Paths(patterns) if how(patterns, path));
    match formats::chains::tier(path.as_bytes()) {
        None => false,
        Some(Tier::Validator) => request.signer_height.is_none() && !named(PathPatterns::spell),
        Some(Tier::Node | Tier::Account) => request.leaves_keys && !named(PathPatterns::ask_for_key),
    }
}

/// Puts the highest of what is staged, live and stated in the place of each staged state.
pub(super) fn keep_highest(
    disk: &Disk<'_>,
    request: &RestoreRequest,
    ground: &Ground,
    stage: &mut Stage<'_>,
) -> Result<(), RestoreError> {
    for path in std::mem::take(&mut stage.signers) {
        let Some((folder, FileType::RegularFile)) = stage.staged(&path)? else { continue };
        let name = stage.name(&path).to_owned();
        let staged = read(&folder, &name).map_err(failed("read", &path))?;
        let of_backup = Signed::of(&staged).ok_or_else(|| {
            RestoreError::refused(&path, "the backup's tells no height; restore other paths")
        })?;
        let live = read_live(ground, &path).map_err(failed("read", &path))?;
        let is_copy = matches!(request.place, Place::NewFolder { .. });
        let signed = live.as_deref().map(|live| {
            Signed::of(live).ok_or_else(|| {
                RestoreError::refused(&path, "the live one tells no height; mend it, or move it away")
            })
        });
        let signed = signed.transpose()?;
        // A copy without the key signs nothing.
        let takes_key = matches!(&request.selection, Selection::Paths(patterns) if patterns.spell_a(KEY));
        let seen = request.signer_seen.filter(|_| !is_copy || request.signer_height.is_some() || takes_key);
        // One that says less than a backup's is not its successor: a node was set up anew.
        let known = seen.map_or(of_backup, |seen| seen.max(of_backup));
        if !is_copy && request.signer_height.is_none() && signed.is_none_or(|signed| signed < known) {
            let what = match signed {
                None => "no live state is there any more, and no height was stated",
                Some(_) => {
                    "the live state says less than the backup's, or than another backup has seen, so it tells nothing of \
                     what was signed since; state the network's newest height with --signer-height"
                }
            };
            return Err(RestoreError::refused(&path, what));
        }
        let mut highest = (of_backup, None);
        if let Some((live, signed)) = live.zip(signed)
            && signed > highest.0
        {
            highest = (signed, Some(live));
        }
        // Only a greater height: the same one is told by the state itself, with what was signed there.
        let stated = request.signer_height.map(i64::try_from).transpose();
        let stated = stated.map_err(|_| {
            RestoreError::refused(&path, "no chain has a height like the one that was stated")
        })?;
        if let Some(height) = stated
            && height > highest.0.0
        {
            highest = closed(height);
        }
        if let Some(seen) = seen
            && seen > highest.0
        {
            highest = closed(seen.0);
        }
        if let (Signed(height, ..), Some(bytes)) = highest {
            replace(disk, &folder, &name, &bytes).map_err(failed("write", &path))?;
            stage.notes.signer(&path, of_backup.0, height);
        }
    }
    Ok(())
}

/// At this height it signs nothing any more, in no round.
fn closed(height: i64) -> (Signed, Option<Vec<u8>>) {
    let (round, step) = (i32::MAX, LAST_STEP);
    let state = serde_json::json!({ "height": height.to_string(), "round": round, "step": step });
    (Signed(height, round.into(), step), Some(format!("{state:#}").into_bytes()))
}

/// Nothing that exists is opened for writing: it is made anew, with the same owner and rights.
fn replace(disk: &Disk<'_>, folder: &OwnedFd, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let old = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    disk.unlink(folder, name)?;
    let file = disk.make_file(folder, name)?;
    disk.write_at(&file, bytes, 0)?;
    let new = rustix::fs::fstat(&file)?;
    let subject = Subject::Handle(file.as_fd());
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) {
        disk.set_owner(subject, Some(old.st_uid), Some(old.st_gid))?;
    }
    disk.set_mode(subject, old.st_mode & 0o7777)
}

fn read_live(ground: &Ground, path: &EntryPath) -> io::Result<Option<Vec<u8>>> {
    let (Some(name), false) = (path.name(), matches!(ground, Ground::New { .. })) else { return Ok(None) };
    let folder = match open_below(ground.handle(), &path.parent().unwrap_or_default(), ground.mounts()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match kind_of(&folder, name)? {
        None => Ok(None),
        Some(FileType::RegularFile) => read(&folder, name).map(Some),
        Some(_) => Err(io::Error::other("it is no plain file")),
    }
}

fn read(folder: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut bytes = Vec::new();
    File::from(open_in(folder, name, flags, Mode::empty())?).take(MAX_STATE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_key_has_signed_is_compared_by_numbers() {
        let signed = |text: &str| Signed::of(text.as_bytes());
        let of = |height: &str, round, step| {
            signed(&format!(r#"{{"height":"{height}","round":{round},"step":{step},"signature":"x"}}"#))
        };
        assert!(of("9", 0, 3) < of("10", 0, 1));
        assert!(of("10", 0, 3) < of("10", 1, 1) && of("10", 1, 1) < of("10", 1, 2));
        assert_eq!(signed(r#"{"height":"7"}"#), Some(Signed(7, 0, 0)));
        assert_eq!(signed(r#"{"height":7,"round":1}"#), Some(Signed(7, 1, 0)));
        for wrong in
            ["", "{}", "[7]", r#"{"height":"-1"}"#, r#"{"height":"x"}"#, r#"{"height":"7","step":"x"}"#]
        {
            assert_eq!(signed(wrong), None, "{wrong}");
        }
    }
}
