//! The guard: a process of its own that locks a server and unlocks it, by one connection.
//!
//! Must stay true: it unlocks when it is asked to, when the agent dies, when it is itself asked to end, and when the time
//! is up, whichever comes first; and it goes on trying until the server is unlocked, or until nobody could mean it any
//! more.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use runtime::config::{Secret, SecretSource};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::member;
use super::record::Owned;
use crate::sources::mongodb::events;
use crate::sources::mongodb::server::Server;

/// The guard's hidden verb.
const VERB: &str = "guard-lock";
/// How long after a try in vain the next one comes, and for how long there are tries.
const AGAIN: Duration = Duration::from_secs(1);
pub(super) const TRIES: Duration = Duration::from_secs(30 * 60);
/// More reasons to end than there are.
const ENDS: usize = 8;
/// What it says.
pub(super) const LOCKED: &str = "locked";
pub(super) const REFUSED: &str = "refused ";
pub(super) const UNLOCKED: &str = "unlocked ";
pub(super) const SENT: &str = "sent ";
/// Why it has unlocked.
pub(super) const ASKED: &str = "asked";
const LATE: &str = "late";

/// What the guard is told by its input, which no list of processes shows.
#[derive(Serialize, Deserialize)]
struct Order {
    uri: String,
    member: String,
    process: String,
    record: PathBuf,
    longest_ms: u64,
    /// The commands that are sent are told.
    tells: bool,
}

/// What is to be locked, and for how long at most.
pub(super) struct Orders<'a> {
    pub(super) uri: &'a Secret,
    pub(super) member: &'a str,
    pub(super) process: &'a str,
    pub(super) record: PathBuf,
    pub(super) longest: Duration,
}

/// Starts a guard, which locks at once. It ends when its input does.
pub(super) fn start(orders: Orders<'_>) -> io::Result<Child> {
    let mut guard = Command::new("/proc/self/exe")
        .arg(VERB)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // What ends the agent by its terminal does not end the guard at the same moment.
        .process_group(0)
        .spawn()?;
    let order = Order {
        uri: orders.uri.expose().to_owned(),
        member: orders.member.to_owned(),
        process: orders.process.to_owned(),
        record: orders.record,
        longest_ms: u64::try_from(orders.longest.as_millis()).unwrap_or(u64::MAX),
        tells: events::are_told(),
    };
    let mut line = serde_json::to_vec(&order)?;
    line.push(b'\n');
    if let Err(error) = guard.stdin.as_mut().expect("piped").write_all(&line) {
        let _ = guard.kill();
        let _ = guard.wait();
        return Err(error);
    }
    Ok(guard)
}

/// Is this process a guard? Then it locks, waits, and unlocks.
pub(crate) fn guard(words: &[OsString]) -> Option<ExitCode> {
    let [_, verb] = words else { return None };
    (verb == VERB).then(|| {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let Some(order) = read.ok().and_then(|_| serde_json::from_str(&line).ok()) else {
            return ExitCode::FAILURE;
        };
        runtime::tls::install_crypto_provider();
        let Ok(threads) = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
        else {
            return ExitCode::FAILURE;
        };
        let ended = {
            let _within = threads.enter();
            act(&order)
        };
        threads.shutdown_background();
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                say(&format!("{REFUSED}{why}"));
                ExitCode::FAILURE
            }
        }
    })
}

fn act(order: &Order) -> Result<(), String> {
    if order.tells {
        events::tell_to(|command| say(&format!("{SENT}{command}")));
    }
    let taken = Owned::take(&order.record).map_err(|error| format!("its record is not free: {error}"))?;
    let record = taken.ok_or("its record has gone")?;
    let (ends, end) = mpsc::sync_channel(ENDS);
    listen(&ends);
    let server = member::connect(&SecretSource::Value(Secret::new(order.uri.clone())), &order.member)?;
    if member::is_locked(&server).map_err(|trouble| trouble.to_string())? {
        record.end();
        return Err("somebody else has locked it".to_owned());
    }
    let began = Instant::now();
    if let Err((why, may_be_locked)) = member::lock(&server) {
        say(&format!("{REFUSED}{why}"));
        if !may_be_locked || unlock(&server, order) {
            record.end();
        }
        return Ok(());
    }
    say(LOCKED);
    let left = Duration::from_millis(order.longest_ms).saturating_sub(began.elapsed());
    let why = match end.recv_timeout(left) {
        Err(RecvTimeoutError::Timeout) => LATE,
        Ok(()) | Err(RecvTimeoutError::Disconnected) => ASKED,
    };
    if unlock(&server, order) {
        record.end();
        say(&format!("{UNLOCKED}{} {why}", began.elapsed().as_millis()));
    }
    Ok(())
}

/// Until it is unlocked, or it has been tried for too long: then the agent's next start goes on.
#[expect(clippy::disallowed_methods, reason = "a process that does nothing else")]
fn unlock(server: &Server, order: &Order) -> bool {
    let began = Instant::now();
    loop {
        match member::unlock(server, &order.process) {
            Ok(()) => return true,
            Err(_) if began.elapsed() > TRIES => return false,
            Err(trouble) => say(&format!("tries to unlock: {trouble}")),
        }
        thread::sleep(AGAIN);
    }
}

/// Sends when the agent's end of the pipe is closed, or a signal asks for an end.
fn listen(ends: &SyncSender<()>) {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let ends = ends.clone();
        // The handler is there before anything is locked.
        if let Ok(mut asked) = signal(kind) {
            tokio::spawn(async move {
                asked.recv().await;
                let _ = ends.try_send(());
            });
        }
    }
    let ends = ends.clone();
    thread::spawn(move || {
        // Nobody ever writes there any more: whatever comes, it is the end.
        let _ = io::stdin().read(&mut [0]);
        let _ = ends.try_send(());
    });
}

/// The agent may have gone.
fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{}", line.replace('\n', " ")).and_then(|()| output.flush());
}
