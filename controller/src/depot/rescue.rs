//! Fills the repository's rescue folder, with a static `nsctl` where there is one.
//!
//! Must stay true: what is put there as a program needs no interpreter and no library of the machine it will
//! run on, has just run here, and comes from where only its owner writes; and nothing of this delays the start
//! or stops it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use repository::rescue::{PROGRAM, RescueProgram};

use super::Depot;

/// The name beside the controller's own executable.
const BESIDE: &str = "nsctl-static";
const TOO_LARGE: u64 = 512 << 20;
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Why a program is not put into the rescue folder.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it cannot be read")]
    Unreadable(#[from] std::io::Error),
    #[error("it is no file of at most 512 MiB, or others than its owner may write it")]
    NotOurs,
    #[error("it is no Linux program of 64 bits")]
    NoProgram,
    #[error(
        "it needs the libraries of the machine it runs on; `deploy/static-programs` makes one that does not"
    )]
    Dynamic,
    #[error("`--version` is not answered as nsctl answers it")]
    Silent,
}

/// Makes the rescue folder what this release knows. What hinders it is told in the log; the doctor tells it, too.
pub async fn fill(depot: Arc<Depot>, program: Option<PathBuf>) {
    let chosen = program.or_else(|| beside().filter(|path| path.exists()));
    let program = match &chosen {
        None => None,
        Some(path) => fit(path)
            .await
            .inspect_err(|error| {
                let (program, error) = (path.display(), proto::failure::chain(error));
                tracing::warn!(%program, error, "this program is not put into the repository's rescue folder");
            })
            .ok(),
    };
    let filled = tokio::task::spawn_blocking(move || {
        depot.lease.check().map_err(repository::error::RepositoryError::Fenced)?;
        depot.repository.provide_rescue(program.as_ref())
    });
    match filled.await {
        Ok(Ok(contents)) => {
            tracing::debug!(
                program = contents.program().is_some(),
                "the repository's rescue folder is filled"
            );
        }
        Ok(Err(error)) => {
            tracing::warn!(
                error = proto::failure::chain(&error),
                "the repository's rescue folder cannot be filled"
            );
        }
        Err(error) => tracing::warn!(%error, "the repository's rescue folder was not filled"),
    }
}

fn beside() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(|folder| folder.join(BESIDE))
}

async fn fit(path: &Path) -> Result<RescueProgram, Unfit> {
    let bytes = {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || read(&path)).await.map_err(std::io::Error::other)??
    };
    match needs_interpreter(&bytes) {
        None => return Err(Unfit::NoProgram),
        Some(true) => return Err(Unfit::Dynamic),
        Some(false) => {}
    }
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").env_clear().stdin(std::process::Stdio::null()).kill_on_drop(true);
    let answer =
        tokio::time::timeout(ANSWERS_WITHIN, command.output()).await.map_err(|_| Unfit::Silent)??;
    let said = String::from_utf8_lossy(&answer.stdout);
    let version = said.split_whitespace().collect::<Vec<_>>();
    match version[..] {
        [PROGRAM, version, ..] if answer.status.success() => {
            Ok(RescueProgram { bytes, version: version.to_owned() })
        }
        _ => Err(Unfit::Silent),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Unfit> {
    let about = std::fs::metadata(path)?;
    let foreign = about.permissions().mode() & 0o022 != 0;
    if !about.is_file() || about.size() > TOO_LARGE || foreign {
        return Err(Unfit::NotOurs);
    }
    Ok(std::fs::read(path)?)
}

/// Whether a program of 64 bits asks for an interpreter (the dynamic loader); `None` if it is no such program.
fn needs_interpreter(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let two =
        |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?)));
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (two(54)?, two(56)?);
    let mut found = false;
    for number in 0..count {
        let at = table.checked_add(number.checked_mul(size)?)?;
        let kind = u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?);
        found |= kind == INTERPRETER;
    }
    (count > 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_the_loader_is_told_from_one_that_does_not_and_from_none() {
        let own = std::fs::read(std::env::current_exe().expect("known")).expect("read");
        assert_eq!(needs_interpreter(&own), Some(true), "tests are linked dynamically");
        let mut alone = own.clone();
        let table = u64::from_le_bytes(alone[32..40].try_into().expect("eight")) as usize;
        let (size, count) = (usize::from(alone[54]), usize::from(alone[56]));
        for at in (0..count).map(|number| table + number * size) {
            if alone[at] == 3 {
                alone[at] = 0; // PT_NULL: an entry that is not there
            }
        }
        assert_eq!(needs_interpreter(&alone), Some(false));
        for cut in [0, 5, 6, 39, 57, table + size] {
            assert_eq!(needs_interpreter(&own[..cut]), None, "cut at {cut}");
        }
        assert_eq!(needs_interpreter(b"#!/bin/sh\necho nsctl 1.0.0\n"), None);
    }

    #[tokio::test]
    async fn a_script_a_dynamic_program_and_one_that_others_write_are_unfit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("nsctl");
        assert!(matches!(fit(&path).await, Err(Unfit::Unreadable(_))));
        std::fs::copy(std::env::current_exe().expect("known"), &path).expect("copied");
        assert!(matches!(fit(&path).await, Err(Unfit::Dynamic)));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o775)).expect("set");
        assert!(matches!(fit(&path).await, Err(Unfit::NotOurs)));
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\necho nsctl 1.0.0\n").expect("written");
        assert!(matches!(fit(&script).await, Err(Unfit::NoProgram)));
    }
}
