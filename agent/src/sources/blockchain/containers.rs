//! Pausing the containers that have a chain's folder mounted: for an agent that does not see who writes there, since it
//! runs in a container of its own.
//!
//! Must stay true: whoever was paused goes on, by us or by what [`super::thaw`] has for it; nobody is paused without a
//! guard; one that somebody else has paused is left alone, and nobody is paused then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::HoldError;
use super::pause::LONGEST;
use super::thaw::{self, Safeguard};
use crate::platform::frozen::{self, Asked};

/// So long a pause waits for an earlier one.
const PATIENCE: Duration = Duration::from_secs(5);
/// More containers than these are no node.
const MAX: usize = 9;
const WORD: &str = "container";

/// A container by its id, and the engine that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    id: String,
    socket: PathBuf,
}

impl Container {
    /// As a record or a guard's words have it: `container:ID:SOCKET`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (id, socket) = text.strip_prefix(WORD)?.strip_prefix(':')?.split_once(':')?;
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_id && socket.starts_with('/')).then(|| Self { id: id.to_owned(), socket: socket.into() })
    }

    fn word(&self) -> Option<String> {
        Some(format!("{WORD}:{}:{}", self.id, self.socket.to_str()?))
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// As people are used to see it.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Lets it go on; one that is gone, or goes on already, needs nothing. False: it cannot be told.
    pub(super) fn go_on(&self) -> bool {
        let told = frozen::go_on(&self.socket, &self.id);
        if let Err(error) = &told {
            tracing::error!(container = %self.id, %error, "a paused container cannot be told to go on: docker unpause");
        }
        told.is_ok()
    }
}

/// One pause of containers at a time: a container that one of two has let go on and the other has paused again would
/// look as if it had been held all the time.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other pause of containers is under way, and whoever an earlier one has paused went on.
#[expect(clippy::disallowed_methods, reason = "some seconds at most, before anybody is held")]
fn turn(state: &Path) -> io::Result<MutexGuard<'static, ()>> {
    let began = Instant::now();
    loop {
        let turn = match TURN.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let why = if let Some(turn) = turn {
            thaw::thaw_left(state);
            match thaw::unsettled() {
                None => return Ok(turn),
                Some(why) => why,
            }
        } else {
            "another source's containers are paused just now".to_owned()
        };
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other(why));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Containers that are paused for as long as this lives.
pub(super) struct PausedContainers {
    /// Those that we have paused, or may have.
    containers: Vec<Container>,
    /// None once they went on.
    safeguard: Option<Safeguard>,
    began: Instant,
    /// An answer was lost: the pause may come later.
    is_doubtful: bool,
    _turn: MutexGuard<'static, ()>,
}

impl PausedContainers {
    /// Pauses those that may write into `folder`; none if there is none.
    pub(super) fn begin(folder: &Path, socket: &Path, state: &Path) -> io::Result<Option<Self>> {
        let turn = turn(state)?;
        let ids = frozen::writing_in(socket, folder, state)?;
        if ids.len() > MAX {
            return Err(io::Error::other(format!("more than {MAX} containers may write there")));
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let of = |id: String| Container { id, socket: socket.to_owned() };
        let all: Vec<_> = ids.into_iter().map(of).collect();
        let words: Option<Vec<String>> = all.iter().map(Container::word).collect();
        let words = words.ok_or_else(|| io::Error::other("the path of the engine's socket is not UTF-8"))?;
        let safeguard = Some(Safeguard::begin_empty(state, &words)?);
        let (containers, began) = (Vec::new(), Instant::now());
        let mut paused = Self { containers, safeguard, began, is_doubtful: false, _turn: turn };
        for (one, word) in all.into_iter().zip(&words) {
            paused.may_go_on()?;
            paused.safeguard.as_ref().map_or(Ok(()), |safeguard| safeguard.asks(word))?;
            match frozen::pause(&one.socket, &one.id) {
                Asked::Done => paused.containers.push(one),
                // It was not us who has paused it, so it is not ours to let it go on.
                Asked::Refused(error) => {
                    paused.safeguard.iter().for_each(|safeguard| safeguard.was_refused(word));
                    return Err(error);
                }
                Asked::Unclear(error) => {
                    paused.containers.push(one);
                    paused.is_doubtful = true;
                    return Err(error);
                }
            }
        }
        paused.may_go_on()?;
        paused.safeguard.iter_mut().for_each(Safeguard::answered);
        Ok(Some(paused))
    }

    /// An error where nobody may be paused any more: the guard is gone, or it takes too long.
    fn may_go_on(&mut self) -> io::Result<()> {
        if self.began.elapsed() >= LONGEST {
            return Err(io::Error::other("the engine takes too long to pause them"));
        }
        match self.safeguard.as_mut().is_some_and(Safeguard::is_guarded) {
            true => Ok(()),
            false => Err(io::Error::other("the guard of the pause has ended")),
        }
    }

    /// True if they were held all the time until now, and not for too long.
    pub(super) fn still_holds(&self) -> bool {
        let is_held = |one: &Container| frozen::is_paused(&one.socket, &one.id).unwrap_or(false);
        self.containers.iter().all(is_held) && self.began.elapsed() < LONGEST
    }

    /// Lets them go on; returns how long they were held.
    pub(super) fn end(mut self) -> Result<Duration, HoldError> {
        if self.thaw() { Ok(self.began.elapsed()) } else { Err(HoldError::StillPaused) }
    }

    fn thaw(&mut self) -> bool {
        let Some(safeguard) = self.safeguard.take() else { return true };
        let words = self.containers.iter().filter_map(Container::word).collect();
        safeguard.end(words, self.is_doubtful)
    }
}

impl Drop for PausedContainers {
    fn drop(&mut self) {
        self.thaw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_written_down_and_read_again() {
        let one = Container { id: "ab12".into(), socket: "/var/run/a:b.sock".into() };
        assert_eq!(Container::parse(&one.word().expect("UTF-8")), Some(one));
        for wrong in
            ["container:", "container:ab", "container::/x", "container:../x:/y", "12:34", "container:ab:x"]
        {
            assert_eq!(Container::parse(wrong), None, "{wrong}");
        }
    }
}
