//! A process between the agent and a hook, so that nothing of a hook outlives what it is for.
//!
//! The agent starts its own program under a hidden verb and keeps that process's stdin open. The guard starts
//! the hook in a process group of its own; when stdin ends, since the agent wants it so or is dead, the whole
//! group goes: asked first, killed then. What a hook leaves running when it ends by itself is left alone, unless it was
//! started to leave nothing: then the guard inherits whatever leaves the group, too, and kills it.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group,
    set_child_subreaper, wait, waitid,
};

/// The hidden verb.
pub(super) const VERB: &str = "guard-hook";
/// The same for a program that leaves nothing running.
pub(super) const VERB_TO_THE_END: &str = "guard-program";
/// How long a hook has to end after it was asked.
const GRACE: Duration = Duration::from_secs(2);
/// How long it is tried to end what a program has left.
const LEFT: Duration = Duration::from_secs(5);
/// How often.
const AGAIN: Duration = Duration::from_millis(5);
/// As shells say that a program could not be started.
const NOT_STARTED: u8 = 127;
/// As shells say that a program was killed: this and the signal.
const BY_SIGNAL: i32 = 128;

enum Happened {
    Ended,
    StopAsked,
}

/// Is this process a guard? Then it guards, and this is what it ends with.
pub(crate) fn guard(words: &[OsString]) -> Option<ExitCode> {
    let [_, verb, program, arguments @ ..] = words else { return None };
    let ends_all = verb == VERB_TO_THE_END;
    (verb == VERB || ends_all).then(|| {
        if ends_all && let Err(error) = set_child_subreaper(Some(getpid())) {
            eprintln!("what it leaves running cannot be ended: {error}");
            return ExitCode::from(NOT_STARTED);
        }
        let hook = Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).spawn();
        match hook {
            Ok(hook) => ExitCode::from(watch(hook, ends_all)),
            Err(error) => {
                eprintln!("it cannot be started: {error}");
                ExitCode::from(NOT_STARTED)
            }
        }
    })
}

fn watch(mut hook: Child, ends_all: bool) -> u8 {
    let group = Pid::from_child(&hook);
    let (happened, next) = sync_channel(2);
    let ended = happened.clone();
    thread::spawn(move || {
        // Its number stays its own until it is reaped below: no other process can be meant by it.
        let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = ended.send(Happened::Ended);
    });
    thread::spawn(move || wait_for_stop(&happened));
    if matches!(next.recv(), Ok(Happened::StopAsked)) {
        let _ = kill_process_group(group, Signal::TERM);
        let _ = next.recv_timeout(GRACE);
        let _ = kill_process_group(group, Signal::KILL);
    } else if ends_all {
        // The group has its number until its first process is reaped below.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let Ok(status) = hook.wait() else { return NOT_STARTED };
    if ends_all {
        end_left();
    }
    let code = status.code().or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Ends all that has left the group: whose parent has died is this process's child.
#[expect(clippy::disallowed_methods, reason = "a process that does nothing else; it has an end")]
fn end_left() {
    let until = Instant::now() + LEFT;
    loop {
        match wait(WaitOptions::NOHANG) {
            // None is left.
            Err(error) if error != rustix::io::Errno::INTR => return,
            Ok(None) if Instant::now() >= until => {
                eprintln!("something that it has left running cannot be ended");
                return;
            }
            Ok(None) => {
                for child in children() {
                    // Its number is its own until it is reaped here.
                    let _ = kill_process(child, Signal::KILL);
                }
                thread::sleep(AGAIN);
            }
            _ => {}
        }
    }
}

/// This process's own, as `/proc` says.
fn children() -> Vec<Pid> {
    let ours = getpid().as_raw_nonzero().get().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let child = |process: std::fs::DirEntry| {
        let number = process.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(process.path().join("stat")).ok()?;
        // Its name, in brackets, may be anything: state and parent come after the last of them.
        let after = stat.iter().rposition(|byte| *byte == b')')?;
        let parent = stat[after + 1..].split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(1)?;
        (parent == ours.as_bytes()).then(|| Pid::from_raw(number)).flatten()
    };
    processes.flatten().filter_map(child).collect()
}

fn wait_for_stop(happened: &SyncSender<Happened>) {
    // Nobody ever writes there: whatever comes, it is the end.
    let _ = std::io::stdin().read(&mut [0]);
    let _ = happened.send(Happened::StopAsked);
}
