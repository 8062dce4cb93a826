//! Runs one hook: under its guard, within its time, its output read to a bound.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::guard::{VERB, VERB_TO_THE_END};
use super::output::Tail;
use crate::config::Hook;

/// A guard ends by itself this long after it was told to, the hook's own time to end included.
const GUARD_ENDS: Duration = Duration::from_secs(10);
/// What a hook leaves running may keep its output open: it is not waited for any longer.
const DRAIN: Duration = Duration::from_millis(200);

/// What shells, and the guard, end with where a program cannot be started: it may not be executed, or is not there.
const NOT_STARTED: [i32; 2] = [126, 127];
/// Of a program that was ended by HUP, INT, KILL or TERM: by somebody else, who may be short of memory.
const BY_OTHERS: [i32; 4] = [128 + 1, 128 + 2, 128 + 9, 128 + 15];

/// What a failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HowFailed {
    /// It has said no, or did not end in time.
    Itself,
    /// It was never there.
    NotStarted,
    /// Somebody else has ended it.
    Killed,
}

impl HowFailed {
    /// By what the guard has ended with; none: that was ended itself.
    fn of(code: Option<i32>) -> Self {
        match code {
            None => Self::Killed,
            Some(code) if BY_OTHERS.contains(&code) => Self::Killed,
            Some(code) if NOT_STARTED.contains(&code) => Self::NotStarted,
            Some(_) => Self::Itself,
        }
    }
}

/// What became of a hook.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Why it is a failure; none: it is none.
    pub(crate) failure: Option<String>,
    /// And what that says.
    pub(crate) how: HowFailed,
    /// The end of what it said.
    pub(crate) lines: Vec<String>,
}

/// Runs `hook` with `variables` beside its own. When `cancel` is cancelled it is killed, with all that it
/// started; so it is if this is dropped, or this process dies.
pub(super) async fn run(hook: &Hook, variables: Vec<(String, String)>, cancel: &CancellationToken) -> Ran {
    run_by(VERB, hook, variables, cancel).await
}

/// The same of a program that leaves nothing running: what it has started is killed when it ends.
pub(crate) async fn run_to_the_end(
    program: &Hook,
    variables: Vec<(String, String)>,
    cancel: &CancellationToken,
) -> Ran {
    run_by(VERB_TO_THE_END, program, variables, cancel).await
}

async fn run_by(
    verb: &str,
    hook: &Hook,
    variables: Vec<(String, String)>,
    cancel: &CancellationToken,
) -> Ran {
    let mut tail = Tail::default();
    let (failure, how) = match guarded(verb, hook, variables, cancel, &mut tail).await {
        Ok(ended) => ended,
        Err(error) => (Some(format!("cannot be run: {error}")), HowFailed::NotStarted),
    };
    Ran { failure, how, lines: tail.lines(hook) }
}

async fn guarded(
    verb: &str,
    hook: &Hook,
    variables: Vec<(String, String)>,
    cancel: &CancellationToken,
    tail: &mut Tail,
) -> std::io::Result<(Option<String>, HowFailed)> {
    let (reader, writer) = std::io::pipe()?;
    let mut output = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut guard = {
        // Its ends of the pipe go with it.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(verb)
            .args(words(hook))
            .env_clear()
            .envs(inherited())
            .envs(hook.env.iter().map(|(name, value)| (name.as_str(), value.expose())))
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        command.spawn()?
    };
    // Apart from the guard, whose own would be closed by waiting for it.
    let stdin = guard.stdin.take();
    let over = {
        let mut buffer = vec![0; 4 << 10];
        let mut late = std::pin::pin!(tokio::time::sleep(hook.timeout.get()));
        let mut is_open = true;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break Err("was cancelled".to_owned()),
                () = &mut late => break Err(format!("did not end within {}", hook.timeout)),
                read = output.read(&mut buffer), if is_open => match read {
                    Ok(count @ 1..) => tail.add(&buffer[..count]),
                    _ => is_open = false,
                },
                status = guard.wait() => break Ok(status?),
            }
        }
    };
    drop(stdin);
    let ended = match over {
        Ok(status) if status.success() => (None, HowFailed::Itself),
        Ok(status) => {
            let why = match status.code() {
                Some(code) => format!("ended with {code}"),
                None => "was killed together with its guard".to_owned(),
            };
            (Some(why), HowFailed::of(status.code()))
        }
        Err(why) => {
            // It has its own time to end, and then no choice.
            if tokio::time::timeout(GUARD_ENDS, guard.wait()).await.is_err() {
                guard.kill().await?;
            }
            (Some(why), HowFailed::Itself)
        }
    };
    let drain = async {
        let mut buffer = vec![0; 4 << 10];
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            tail.add(&buffer[..count]);
        }
    };
    let _ = tokio::time::timeout(DRAIN, drain).await;
    Ok(ended)
}

fn words(hook: &Hook) -> Vec<&str> {
    match &hook.shell {
        Some(line) => vec!["/bin/sh", "-c", line],
        None => hook.command.iter().map(String::as_str).collect(),
    }
}

/// The agent's environment without its own settings, of which some are secret.
fn inherited() -> Vec<(OsString, OsString)> {
    let is_ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"NEURASHIELD_");
    std::env::vars_os().filter(|(name, _)| !is_ours(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_there_or_was_ended_has_not_said_no() {
        for (code, how) in [
            (Some(1), HowFailed::Itself),
            (Some(134), HowFailed::Itself),
            (Some(139), HowFailed::Itself),
            (Some(126), HowFailed::NotStarted),
            (Some(127), HowFailed::NotStarted),
            (Some(137), HowFailed::Killed),
            (Some(143), HowFailed::Killed),
            (None, HowFailed::Killed),
        ] {
            assert_eq!(HowFailed::of(code), how, "{code:?}");
        }
    }
}
