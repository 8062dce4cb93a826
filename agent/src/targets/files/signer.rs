//! A validator's state and its key. `priv_validator_state.json` of CometBFT says what the key has signed last;
//! a validator that starts on an older one can sign a height twice, and is punished for it.
//!
//! Must stay true: what becomes live never says less than what is live, than what the archive has, than what any backup
//! of the source has seen, and than what the operator has stated; it is looked at when what uses the folder has been
//! stopped, so that nothing is signed any more. What is live counts as known only if the key stays the one that it is:
//! where another comes, nobody knows here what that one has signed since. A copy in another place has no key, unless
//! somebody asks for it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use formats::chains::Tier;
use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;
use rustix::fs::{FileType, Mode, OFlags};

use super::disk::{Disk, Subject};
use super::error::{RestoreError, failed};
use super::ground::Ground;
use super::handles::{kind_of, open_below, open_in};
use super::key::Keys;
use super::plan::Facts;
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
    /// A state, or none, and what the backup has of that name is no plain file: that tells nothing.
    Linked,
    /// A state.
    At(Signed),
}

impl LiveState {
    /// Where an entry of this kind comes.
    pub(super) fn under(self, kind: &EntryKind) -> Self {
        match (self, kind) {
            (live @ Self::Unreadable(_), _) | (live, EntryKind::File(_) | EntryKind::HardLink { .. }) => live,
            _ => Self::Linked,
        }
    }
}

/// True for a validator's state that somebody may go by. What cosmovisor has set aside is nobody's.
pub(super) fn is_state(path: &EntryPath) -> bool {
    path.name() == Some(STATE) && !formats::chains::is_set_aside(path.as_bytes())
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

/// The key that `entry` is, or is another name of, where that stays out of this copy.
pub(super) fn left_out<'a>(request: &RestoreRequest, entry: &'a Entry) -> Option<&'a EntryPath> {
    let linked = if let EntryKind::HardLink { to } = &entry.kind { Some(to) } else { None };
    [Some(&entry.path), linked].into_iter().flatten().find(|path| leaves_out(request, path))
}

/// True if `path` is a key that stays out of this copy. That of a validator does wherever it comes from; others do
/// where they are of a chain's node, of which alone their names say that they are keys.
fn leaves_out(request: &RestoreRequest, path: &EntryPath) -> bool {
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

/// The highest that any backup has seen of the validator whose key will be live.
pub(super) fn seen(request: &RestoreRequest, keys: &Keys) -> Option<Signed> {
    request.signer_seen.max(request.signer_seen_here.filter(|_| !keys.come()))
}

/// What of validators speaks against the restore.
pub(super) fn conflicts(facts: &Facts) -> Vec<String> {
    const STATE_IT: &str = "see that it runs nowhere else, look up the newest height of its network, and state it with \
                            --signer-height (not part of an undo: restore the safety backup itself by its timestamp)";
    let is_stated = facts.signer_height.is_some();
    let of_state = |(path, live): &(EntryPath, LiveState)| match live {
        LiveState::Absent if !is_stated => Some(format!(
            "{path} is not there: nobody knows here what its validator has signed since the backup, and it could sign \
             a height twice, and be punished for it; {STATE_IT}"
        )),
        LiveState::Unreadable(cause) => Some(format!(
            "{path} does not say what its validator has signed: {cause}; mend it, or move it away and state the height \
             with --signer-height"
        )),
        LiveState::Linked if !is_stated => Some(format!(
            "{path} is a link or no plain file in the backup: what it leads to may say less than was signed; state the newest \
             height of its network with --signer-height, or restore other paths"
        )),
        LiveState::At(live) if !is_stated && facts.signer_seen.is_some_and(|seen| seen > *live) => {
            Some(format!(
                "{path} says less than the backup's, or than another backup has seen of its validator (of any, where it does not say whose it is): nobody knows \
             here what was signed since; look up the newest height of its network, and state it with \
             --signer-height"
            ))
        }
        LiveState::Absent | LiveState::Linked | LiveState::At(_) => None,
    };
    let mut told: Vec<String> = facts.signers.iter().filter_map(of_state).collect();
    if let Some(key) = &facts.other_key {
        let states_tell = facts.signers.iter().any(|(_, live)| matches!(live, LiveState::At(_)));
        told.extend(match (facts.signers.is_empty(), facts.has_state) {
            (false, _) => (!is_stated && states_tell).then(|| {
                format!(
                    "{key} will be another key than the one that is live, or cannot be compared: the live state says \
                     nothing of what the validator has signed since the backup, and it could sign a height twice, and be \
                     punished for it; {STATE_IT}"
                )
            }),
            (true, true) => Some(format!(
                "{key} will be another key than the one that is live, or cannot be compared, and the validator's state does \
                 not come with it: it could sign a height twice, and be punished for it; restore its {}, too (with \
                 --path), and state the newest height of its network with --signer-height",
                String::from_utf8_lossy(STATE)
            )),
            (true, false) => (!is_stated).then(|| {
                format!(
                    "{key} will be another key than the one that is live, or cannot be compared, and the backup has no state \
                     of a validator: give its node a {} that says no less than the newest height of its network, and state \
                     that here, too, with --signer-height",
                    String::from_utf8_lossy(STATE)
                )
            }),
        });
    }
    let is_meant = !facts.signers.is_empty() || facts.other_key.is_some();
    if is_meant && facts.signer_height.is_some_and(|height| i64::try_from(height).is_err()) {
        told.push("no chain has a height like the one of --signer-height".to_owned());
    }
    told
}

/// What a person should know of validators before.
pub(super) fn remarks(facts: &Facts) -> Vec<String> {
    let of_state = |(path, live): &(EntryPath, LiveState)| match (live, &facts.other_key, facts.signer_height)
    {
        (LiveState::At(_), None, _) => {
            Some(format!("{path} stays as it is where it is ahead of the backup's"))
        }
        (LiveState::At(_), Some(_), Some(height)) => Some(format!(
            "{path} will say {height}, or what the backup or the live one says if that is more, and nothing at that height \
             will be signed"
        )),
        (LiveState::Linked, _, Some(height)) => Some(format!(
            "{path} will be a plain file that says {height}, or what the live one says if that is more: the backup's is none"
        )),
        (_, _, height) => {
            height.map(|height| format!("{path} will say {height}, or what the backup says if that is more"))
        }
    };
    let mut told: Vec<String> = facts.signers.iter().filter_map(of_state).collect();
    if let (Some(key), true, Some(height)) = (&facts.other_key, facts.signers.is_empty(), facts.signer_height)
    {
        told.push(format!(
            "{key} is a validator's key and comes without a state: before it is used, see that its node's {} says {height} or \
             more",
            String::from_utf8_lossy(STATE)
        ));
    }
    told
}

/// Puts the highest of what is staged, live and stated in the place of each staged state.
pub(super) fn keep_highest(
    disk: &Disk<'_>,
    request: &RestoreRequest,
    ground: &Ground,
    stage: &mut Stage<'_>,
) -> Result<(), RestoreError> {
    let states = std::mem::take(&mut stage.signers);
    let other_key = stage.keys.other(ground, request, stage.id_key(), states.iter());
    if let Some(key) = other_key.as_ref().filter(|_| states.is_empty())
        && (stage.keys.has_state || request.signer_height.is_none())
    {
        let cause =
            "it is another key than the one that is live, and the validator's state does not come with it";
        return Err(RestoreError::refused(key, cause));
    }
    let is_copy = matches!(request.place, Place::NewFolder { .. });
    // A copy without the key signs nothing.
    let takes_key = matches!(&request.selection, Selection::Paths(patterns) if patterns.spell_a(KEY));
    let may_sign = !is_copy || request.signer_height.is_some() || takes_key;
    let seen = seen(request, &stage.keys).filter(|_| may_sign);
    for path in states {
        let Some((folder, kind)) = stage.staged(&path)? else { continue };
        let name = stage.name(&path).to_owned();
        let of_backup = match kind {
            FileType::RegularFile => {
                let staged = read(&folder, &name).map_err(failed("read", &path))?;
                let of_backup = Signed::of(&staged).ok_or_else(|| {
                    RestoreError::refused(&path, "the backup's tells no height; restore other paths")
                })?;
                Some(of_backup)
            }
            _ if !may_sign => continue,
            FileType::Directory => {
                return Err(RestoreError::refused(&path, "the backup's is a folder; restore other paths"));
            }
            _ if request.signer_height.is_none() => {
                let cause = "the backup's is a link or no plain file, and what it leads to may say less than was signed; \
                             state the network's newest height with --signer-height, or restore other paths";
                return Err(RestoreError::refused(&path, cause));
            }
            // What it leads to counts for nothing, and a plain file takes its place.
            _ => None,
        };
        let live = read_live(ground, &path).map_err(failed("read", &path))?;
        let signed = live.as_deref().map(|live| {
            Signed::of(live).ok_or_else(|| {
                RestoreError::refused(&path, "the live one tells no height; mend it, or move it away")
            })
        });
        let signed = signed.transpose()?;
        // One that says less than a backup's is not its successor: a node was set up anew.
        if !is_copy
            && request.signer_height.is_none()
            && let Some(known) = seen.max(of_backup)
            && let Some(cause) = unknown(signed, known, other_key.as_ref())
        {
            return Err(RestoreError::refused(&path, cause));
        }
        let mut highest = (of_backup, None);
        if let Some((live, signed)) = live.zip(signed)
            && Some(signed) > highest.0
        {
            // What another key has signed there is nothing that this one may answer with.
            highest = match &other_key {
                None => (Some(signed), Some(live)),
                Some(_) => closed(signed.0),
            };
        }
        // Only a greater height: the same one is told by the state itself, with what was signed there.
        let stated = request.signer_height.map(i64::try_from).transpose();
        let stated = stated.map_err(|_| {
            RestoreError::refused(&path, "no chain has a height like the one that was stated")
        })?;
        if let Some(height) = stated
            && highest.0.is_none_or(|highest| height > highest.0)
        {
            highest = closed(height);
        }
        if let Some(seen) = seen
            && Some(seen) > highest.0
        {
            highest = closed(seen.0);
        }
        if let (Some(Signed(height, ..)), Some(bytes)) = highest {
            replace(disk, &folder, &name, &bytes).map_err(failed("write", &path))?;
            stage.notes.signer(&path, of_backup.map(|signed| signed.0), height);
        }
    }
    Ok(())
}

/// Why nobody knows here what was signed since, if that is so.
fn unknown(live: Option<Signed>, known: Signed, other_key: Option<&EntryPath>) -> Option<String> {
    match (live, other_key) {
        (None, _) => Some("no live state is there any more, and no height was stated".to_owned()),
        (Some(_), Some(key)) => Some(format!(
            "{key} is another key than the one that is live, so the live state tells nothing of what was signed since; state \
             the network's newest height with --signer-height"
        )),
        (Some(live), None) => (live < known).then(|| {
            "the live state says less than the backup's, or than another backup has seen, so it tells nothing of what was \
             signed since; state the network's newest height with --signer-height"
                .to_owned()
        }),
    }
}

/// At this height it signs nothing any more, in no round.
fn closed(height: i64) -> (Option<Signed>, Option<Vec<u8>>) {
    let (round, step) = (i32::MAX, LAST_STEP);
    let state = serde_json::json!({ "height": height.to_string(), "round": round, "step": step });
    (Some(Signed(height, round.into(), step)), Some(format!("{state:#}").into_bytes()))
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
    // A link has all rights, and they mean nothing.
    let is_file = FileType::from_raw_mode(old.st_mode) == FileType::RegularFile;
    disk.set_mode(subject, if is_file { old.st_mode & 0o7777 } else { 0o600 })
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

pub(super) fn read(folder: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
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
