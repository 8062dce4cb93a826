//! Runs the configured commands of an application: program and arguments, no shell, within a time limit.

use std::io::{Read, Seek, SeekFrom};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::PlatformError;
use crate::config::ApplicationConfig;

/// So much of what a command says at its end is told.
const TOLD: u64 = 400;
/// A killed command has ended within this, or is left alone.
const END: Duration = Duration::from_secs(5);

/// Runs the command to its end.
pub(super) async fn run(
    of: &ApplicationConfig,
    what: &'static str,
    command: &[String],
) -> Result<(), PlatformError> {
    let failed = |cause: String| PlatformError::Command { name: of.name.clone(), what, cause };
    match exit(of, what, command).await? {
        Exit::Good => Ok(()),
        Exit::Bad(cause) => Err(failed(cause)),
    }
}

/// True if the command ends with 0. That it cannot be run, or takes too long, is an error.
pub(super) async fn succeeds(
    of: &ApplicationConfig,
    what: &'static str,
    command: &[String],
) -> Result<bool, PlatformError> {
    Ok(matches!(exit(of, what, command).await?, Exit::Good))
}

enum Exit {
    Good,
    Bad(String),
}

async fn exit(of: &ApplicationConfig, what: &'static str, command: &[String]) -> Result<Exit, PlatformError> {
    let failed = |cause: String| PlatformError::Command { name: of.name.clone(), what, cause };
    let [program, arguments @ ..] = command else {
        return Err(failed("is empty".to_owned()));
    };
    // What is started may go on and keep what it was given; so it is given nothing that somebody waits for.
    let said = match what {
        "start" => None,
        _ => rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC).map(std::fs::File::from).ok(),
    };
    let stderr = said.as_ref().and_then(|file| file.try_clone().ok()).map_or(Stdio::null(), Stdio::from);
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .current_dir("/")
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| failed(format!("cannot be run: {program}: {error}")))?;
    let limit = of.time_limit.get();
    match tokio::time::timeout(limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(Exit::Good),
        Ok(Ok(status)) => Ok(Exit::Bad(format!("ended with {status}{}", words(said)))),
        Ok(Err(error)) => Err(failed(format!("cannot be waited for: {error}"))),
        Err(_) => {
            let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if let Some(group) = group {
                // It may just have ended.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = tokio::time::timeout(END, child.wait()).await;
            Err(failed(format!("took longer than {limit:?} and was killed")))
        }
    }
}

/// The end of what a command has said, in one line.
fn words(said: Option<std::fs::File>) -> String {
    let Some(mut file) = said else { return String::new() };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let from = SeekFrom::Start(length.saturating_sub(TOLD));
    if file.seek(from).and_then(|_| file.take(TOLD).read_to_end(&mut bytes)).is_err() || bytes.is_empty() {
        return String::new();
    }
    let text: Vec<_> = String::from_utf8_lossy(&bytes).split_whitespace().map(str::to_owned).collect();
    format!(", saying: {}", text.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(limit: &str) -> ApplicationConfig {
        ApplicationConfig {
            name: "api".into(),
            uses: vec!["models".into()],
            container: None,
            stop: Vec::new(),
            start: Vec::new(),
            is_running: Vec::new(),
            healthy: Vec::new(),
            after: Vec::new(),
            time_limit: limit.parse().expect("a time"),
            health_limit: "1s".parse().expect("a time"),
        }
    }

    fn shell(text: &str) -> Vec<String> {
        ["sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_command_that_fails_tells_its_last_words() {
        let failed =
            run(&application("9s"), "stop", &shell("echo first; echo no such unit >&2; exit 3")).await;
        let text = failed.expect_err("it fails").to_string();
        assert!(text.contains("exit status: 3") && text.contains("no such unit"), "{text}");
        run(&application("9s"), "stop", &shell("exit 0")).await.expect("it succeeds");
        assert!(!succeeds(&application("9s"), "is_running", &shell("exit 1")).await.expect("it runs"));
        let missing = ["/no/such/program".to_owned()];
        let text = run(&application("9s"), "stop", &missing).await.expect_err("it is not there").to_string();
        assert!(text.contains("/no/such/program"), "{text}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("late");
        let text = format!("(sleep 0.6; touch {}) & wait", file.display());
        let began = std::time::Instant::now();
        let failed = run(&application("200ms"), "stop", &shell(&text)).await.expect_err("too long");
        assert!(failed.to_string().contains("longer than 200ms"), "{failed}");
        assert!(began.elapsed().as_millis() < 550, "{:?}", began.elapsed());
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        assert!(!file.exists(), "what it started was killed, too");
    }

    #[tokio::test]
    async fn what_is_started_is_not_waited_for() {
        let began = std::time::Instant::now();
        run(&application("9s"), "start", &shell("sleep 3 &")).await.expect("it succeeds");
        assert!(began.elapsed().as_millis() < 2_000, "{:?}", began.elapsed());
    }
}
