//! Pausing the containers that have a chain's folder mounted: for an agent that does not see who writes there, since it
//! runs in a container of its own.
//!
//! Must stay true: as with processes ([`super::pause`]): whoever was paused goes on, by us, by the guard, or by the
//! agent's next start; one that somebody else has paused is left alone, and nobody is paused then.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use runtime::steps;

use super::pause::{self, LONGEST};
use crate::platform::frozen;
use crate::steps::Step;

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

    /// Lets it go on; one that is gone, or goes on already, needs nothing. False: it cannot be told.
    pub(super) fn go_on(&self) -> bool {
        let told = frozen::go_on(&self.socket, &self.id);
        if let Err(error) = &told {
            tracing::error!(container = %self.id, %error, "a paused container cannot be told to go on: docker unpause");
        }
        told.is_ok()
    }
}

/// Containers that are paused for as long as this lives.
pub(super) struct PausedContainers {
    containers: Vec<Container>,
    guard: Option<Child>,
    record: PathBuf,
    began: Instant,
    is_doubtful: bool,
    is_over: bool,
}

impl PausedContainers {
    /// Pauses those that may write into `folder`; none if there is none.
    pub(super) fn begin(folder: &Path, socket: &Path, state: &Path) -> io::Result<Option<Self>> {
        let ids = frozen::writing_in(socket, folder)?;
        if ids.len() > MAX {
            return Err(io::Error::other(format!("more than {MAX} containers may write there")));
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let of = |id: String| Container { id, socket: socket.to_owned() };
        let containers: Vec<_> = ids.into_iter().map(of).collect();
        let words: Option<Vec<String>> = containers.iter().map(Container::word).collect();
        let words = words.ok_or_else(|| io::Error::other("the path of the engine's socket is not UTF-8"))?;
        let record = pause::noted(state, &words)?;
        steps::reach(Step::PauseNoted);
        let mut paused = Self {
            containers,
            guard: None,
            record,
            began: Instant::now(),
            is_doubtful: false,
            is_over: false,
        };
        paused.guard = Some(pause::guarded(&words)?);
        steps::reach(Step::PauseGuarded);
        paused.began = Instant::now();
        for container in paused.containers.clone() {
            if paused.began.elapsed() >= LONGEST {
                return Err(io::Error::other("the engine takes too long to pause them"));
            }
            // One whose answer is lost may come true later.
            frozen::pause(&container.socket, &container.id).inspect_err(|_| paused.is_doubtful = true)?;
        }
        Ok(Some(paused))
    }

    /// True if they were held all the time until now, and not for too long.
    pub(super) fn still_holds(&self) -> bool {
        let is_held = |one: &Container| frozen::is_paused(&one.socket, &one.id).unwrap_or(false);
        self.containers.iter().all(is_held) && self.began.elapsed() < LONGEST
    }

    /// Lets them go on; returns how long they were held.
    pub(super) fn end(mut self) -> Duration {
        self.thaw();
        self.began.elapsed()
    }

    fn thaw(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let words: Vec<String> = self.containers.iter().filter_map(Container::word).collect();
        pause::release(self.record.clone(), words.join("\n"), self.is_doubtful);
        steps::reach(Step::PauseTold);
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
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
