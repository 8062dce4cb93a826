//! Environments of processes: the agent's own, and what chosen containers were started with, each a file of
//! `NAME=value` under `environment/`.
//!
//! Nothing puts an environment back by itself: whoever starts the process gives it. So each file begins with what to
//! do with it.
//!
//! Must stay true: a value is in the file and nowhere else, in no error and no log; a container that is named and is
//! not there makes the archive incomplete.

use std::collections::VecDeque;
use std::path::Path;

use repository::archive::entry::{EntryKind, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::variables::Lines;
use crate::config::Environment;
use crate::platform::{Environments, Given};
use crate::sources::ipfs::Text;
use crate::sources::{Body, Item, Problem, ProblemKind, Source, SourceEntry, SourceError, Stamp, StampClock};

const TOP: &str = "environment";
const CONTAINERS: &str = "environment/containers";
/// Ours: they say how the agent reaches its controller, and are of no use to anybody else.
const OUR_OWN: &str = "NEURASHIELD_";

/// The chosen environments.
pub(crate) struct EnvironmentSource {
    coming: VecDeque<Item>,
    metadata: Metadata,
}

impl EnvironmentSource {
    /// Reads them; the Docker Engine is asked at `socket`, until `cancel` is cancelled. Blocks, within the runtime.
    pub(crate) fn open(
        chosen: &Environment,
        socket: &Path,
        now: jiff::Timestamp,
        cancel: &CancellationToken,
    ) -> Self {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mtime = Timestamp { seconds: now.as_second(), nanoseconds: 0 };
        let metadata = Metadata { mode: 0o600, uid, gid, mtime, xattrs: Vec::new() };
        let mut source = Self { coming: VecDeque::new(), metadata };
        source.folder("");
        source.folder(TOP);
        if chosen.agent {
            source.agent();
        }
        if !chosen.containers.is_empty() || !chosen.container_labels.is_empty() {
            source.folder(CONTAINERS);
            let asked = Environments { names: &chosen.containers, labels: &chosen.container_labels };
            let given = cancel.run_until_cancelled(asked.ask(socket));
            match Handle::current().block_on(given) {
                None => {
                    source.problem(CONTAINERS, ProblemKind::Unreadable, "it was cancelled".to_owned());
                }
                Some(Ok(given)) => source.containers(given),
                Some(Err(error)) => source.problem(CONTAINERS, ProblemKind::Unreadable, error.to_string()),
            }
        }
        source
    }

    fn agent(&mut self) {
        let mut lines = Lines::new(&[
            "The environment of the agent's process, as it was when this backup was taken.",
            "Nothing puts it back by itself: give it to whatever starts the process (env_file of Compose,",
            "EnvironmentFile of systemd, env of a pod's container), and start that anew.",
        ]);
        let (mut odd, mut own) = (0, 0);
        let mut all: Vec<_> = std::env::vars_os().collect();
        all.sort();
        for (name, value) in all {
            match (name.to_str(), value.to_str()) {
                (Some(name), _) if name.starts_with(OUR_OWN) => own += 1,
                (Some(name), Some(value)) => odd += usize::from(!lines.variable(name, value)),
                _ => odd += 1,
            }
        }
        self.file(&format!("{TOP}/agent.env"), lines);
        let path = format!("{TOP}/agent.env");
        if own > 0 {
            let cause =
                format!("{own} variables called {OUR_OWN}… are left out: they are the agent's own settings");
            self.problem(&path, ProblemKind::LeftOut, cause);
        }
        self.odd(&path, odd);
    }

    fn containers(&mut self, given: Vec<Given>) {
        for Given { name, variables } in given {
            let path = format!("{CONTAINERS}/{name}.env");
            let variables = match variables {
                Ok(variables) => variables,
                Err(cause) => {
                    self.problem(CONTAINERS, ProblemKind::Unreadable, cause);
                    continue;
                }
            };
            let mut lines = Lines::new(&[
                &format!("What the container {name} was made with, variables of its image among it."),
                "Nothing puts it back by itself: a container has the environment that it was made with. Name this",
                "file as env_file of the service in Compose, and make the container anew. `docker run --env-file` takes",
                "lines as they are, quotes too: there, lines with quotes have to be given by -e.",
            ]);
            let mut odd = 0;
            for variable in variables {
                match variable.split_once('=') {
                    Some((name, value)) => odd += usize::from(!lines.variable(name, value)),
                    None => lines.note(&format!("{variable} is taken over from whoever starts it")),
                }
            }
            self.file(&path, lines);
            self.odd(&path, odd);
        }
    }

    fn odd(&mut self, path: &str, odd: usize) {
        if odd > 0 {
            let cause = format!("{odd} variables have names or values that no file of variables takes");
            self.problem(path, ProblemKind::Unreadable, cause);
        }
    }

    fn file(&mut self, path: &str, lines: Lines) {
        let never = self.metadata.mtime;
        let stamp = Stamp { inode: 0, size: 0, mtime: never, ctime: never };
        let content = Box::new(Text::new(lines.into_bytes(), stamp));
        let body = Body::File { stamp, clock: StampClock::Nobodys, content };
        self.entry(path, 0o600, body);
    }

    fn folder(&mut self, path: &str) {
        self.entry(path, 0o700, Body::Plain(EntryKind::Folder));
    }

    fn entry(&mut self, path: &str, mode: u32, body: Body) {
        let metadata = Metadata { mode, ..self.metadata.clone() };
        match path_of(path) {
            Some(path) => self.coming.push_back(Item::Entry(SourceEntry { path, metadata, body })),
            None => self.problem(TOP, ProblemKind::Unreadable, "a name in it is none of a file".to_owned()),
        }
    }

    fn problem(&mut self, path: &str, kind: ProblemKind, cause: String) {
        let path = path_of(path).unwrap_or_default();
        self.coming.push_back(Item::Problem(Problem { path, kind, cause }));
    }
}

impl Source for EnvironmentSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        Ok(self.coming.pop_front())
    }
}

fn path_of(path: &str) -> Option<EntryPath> {
    if path.is_empty() { Some(EntryPath::root()) } else { EntryPath::new(path.as_bytes()).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_cancelled_does_not_wait_for_an_engine_that_says_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let chosen = Environment { containers: vec!["web".to_owned()], ..Environment::default() };
        let cancel = CancellationToken::new();
        cancel.cancel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let opened = runtime.spawn_blocking(move || {
            EnvironmentSource::open(&chosen, &socket, jiff::Timestamp::UNIX_EPOCH, &cancel)
        });
        let source = runtime.block_on(opened).expect("it ends");
        let is_told =
            |item: &Item| matches!(item, Item::Problem(problem) if problem.cause.contains("cancelled"));
        assert!(source.coming.iter().any(is_told));
    }
}
