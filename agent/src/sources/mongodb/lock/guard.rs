//! The guard: a process of its own that locks a server and unlocks it, by one connection, and looks at it by others.
//!
//! Must stay true: it unlocks when it is asked to, when the agent dies, when it is itself asked to end, and when the time
//! is up, whichever comes first; and it goes on trying until the server is unlocked, or until nobody could mean it any
//! more. Its record says that it has asked before it asks, and every end before that ends the record. Its connections
//! are there before it locks, and are kept: nothing that is sent by them meanwhile is broken off. Only a lock that was
//! there whenever it looked, and was undone by the only unlock that the server has carried out since, was held: it says
//! so in one word, and in others all else.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use runtime::config::{Secret, SecretSource};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::member::{self, Asked, FIND_LOCKED, Is, LOOK, Seen};
use super::record::{Owned, Stage};
use super::release::{self, Came, Ways};
use crate::sources::mongodb::events;
use crate::sources::mongodb::server::{ANSWER, Kept, Server, Trouble};

/// The guard's hidden verb.
const VERB: &str = "guard-lock";
/// How often it looks whether the server is still locked.
const EVERY: Duration = Duration::from_secs(1);
/// Not longer ago than this it has to have been seen locked, where nothing is counted in the end.
const SEEN: Duration = Duration::from_secs(11);
/// How often the connection that unlocks is used meanwhile.
const PING: Duration = Duration::from_secs(10);
/// For how long it tries to unlock.
pub(super) const TRIES: Duration = Duration::from_secs(30 * 60);
/// By so many connections it looks at most: a look, and what an unlock asks beside it.
const MOST: u32 = 3;
/// More than there are reasons to end, and looks that nobody has heard of yet.
const TOLD: usize = 64;
/// What it says.
pub(super) const LOCKED: &str = "locked";
pub(super) const REFUSED: &str = "refused ";
pub(super) const UNLOCKED: &str = "unlocked ";
pub(super) const LOST: &str = "lost ";
pub(super) const STUCK: &str = "stuck ";
pub(super) const SENT: &str = "sent ";
/// No look has seen it locked of late.
pub(super) const NOT_SEEN: &str = "has not seen it locked for a while: looks take long, or fail";
/// Whoever reads may read on.
pub(super) const UNASKED: &str = "lets it go before it was asked to";
/// Why it has unlocked.
pub(super) const ASKED: &str = "asked";
pub(super) const LATE: &str = "late";
const SIGNAL: &str = "signal";

/// What the guard hears while it holds a lock.
enum Told {
    /// It is to be let go.
    End(&'static str),
    /// What a look has seen that began then.
    Looked(Instant, Result<Seen, Trouble>),
}

/// What the guard is told by its input, which no list of processes shows.
#[derive(Clone, Serialize, Deserialize)]
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
    let mut record = taken.ok_or("its record has gone")?;
    let (tell, told) = mpsc::sync_channel(TOLD);
    listen(&tell);
    let (server, looks) = match ready(order, &mut record) {
        Ok(ready) => ready,
        Err(why) => {
            // Nothing was asked for.
            record.end();
            return Err(why);
        }
    };
    let ways = Ways { unlocks: &server, looks: &looks };
    let unlocks = record.record().unlocks;
    let began = Instant::now();
    let stage = match member::lock(&server) {
        Asked::Locked => Stage::Held,
        Asked::Shared => {
            say(&format!("{REFUSED}somebody else has locked it, too"));
            Stage::Shared
        }
        Asked::Refused(why) => {
            record.end();
            return Err(why);
        }
        Asked::Unknown(why) => {
            say(&format!("{REFUSED}{why}"));
            return give_back(ways, record, (None, &told));
        }
    };
    // If it cannot be written, it says that it was asked for: that is unlocked as well.
    if let Err(error) = record.set(stage) {
        say(&format!("cannot write its record: {error}"));
    }
    if stage == Stage::Shared {
        return give_back(ways, record, (None, &told));
    }
    say(LOCKED);
    let (by, process) = (Arc::clone(&looks), order.process.clone());
    // Nobody waits for it.
    let look = move || {
        let began = Instant::now();
        drop(tell.try_send(Told::Looked(began, member::look(&by, &process, ANSWER))));
    };
    let by = Arc::clone(&server);
    let ping = move || {
        if let Err(trouble) = member::ping(&by) {
            say(&format!("cannot be reached: {trouble}"));
        }
    };
    let beside = [Beside::begin(EVERY, look), Beside::begin(PING, ping)];
    let held = hold(order, (began, &told));
    drop(beside);
    match held {
        Ok(why) => give_back(ways, record, (Some(Held { began, unlocks, why }), &told)),
        Err(why) => {
            record.end();
            say(&format!("{LOST}{why}"));
            Ok(())
        }
    }
}

/// Connects, twice, and sees that nothing is in the way. From the return on it may be locked.
fn ready(order: &Order, record: &mut Owned) -> Result<(Arc<Server>, Arc<Server>), String> {
    // An unlock waits for what is under way by the one connection rather than for another one.
    let (server, looks) = (connect(order, 1)?, connect(order, MOST)?);
    let seen = member::look(&looks, &order.process, LOOK).map_err(|trouble| trouble.to_string())?;
    match seen.is {
        Is::Free if seen.is_busy => return Err("another agent is about to lock it".to_owned()),
        Is::Free => {}
        Is::Locked => return Err("somebody else has locked it".to_owned()),
        Is::Another => return Err("it was started anew".to_owned()),
    }
    if let Some(why) = member::held_up(&looks) {
        return Err(why);
    }
    let unlocks = member::unlocks(&looks, LOOK).map_err(|trouble| trouble.to_string())?;
    record.ask(unlocks).map_err(|error| format!("its record cannot be written: {error}"))?;
    Ok((Arc::new(server), Arc::new(looks)))
}

fn connect(order: &Order, most: u32) -> Result<Server, String> {
    let uri = SecretSource::Value(Secret::new(order.uri.clone()));
    let longest = Duration::from_millis(order.longest_ms).saturating_add(TRIES);
    member::connect(&uri, &order.member, FIND_LOCKED, Some(Kept { most, longest }))
}

/// Does something again and again, in a thread of its own: what hangs keeps nothing else. Ends once this is dropped.
struct Beside(Arc<AtomicBool>);

impl Beside {
    #[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
    fn begin(every: Duration, act: impl Fn() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, runtime) = (Arc::clone(&is_over), Handle::current());
        thread::spawn(move || {
            let _within = runtime.enter();
            loop {
                thread::sleep(every);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                act();
            }
        });
        Self(is_over)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Until it is to be let go: why. An error: it was let go by somebody else, and it is nothing to unlock.
fn hold(order: &Order, (began, told): (Instant, &Receiver<Told>)) -> Result<&'static str, String> {
    let longest = Duration::from_millis(order.longest_ms);
    // It has said that it is.
    let mut seen_locked = Instant::now();
    let ends = |why, seen_locked: Instant| {
        if why != ASKED {
            say(UNASKED);
        } else if seen_locked.elapsed() > SEEN {
            say(NOT_SEEN);
        }
        Ok(why)
    };
    loop {
        let (looked, seen) = match told.recv_timeout(longest.saturating_sub(began.elapsed())) {
            Ok(Told::End(why)) => return ends(why, seen_locked),
            Ok(Told::Looked(looked, seen)) => (looked, seen),
            Err(RecvTimeoutError::Disconnected) => return ends(ASKED, seen_locked),
            Err(RecvTimeoutError::Timeout) => return ends(LATE, seen_locked),
        };
        match seen.map(|seen| seen.is) {
            Ok(Is::Locked) => seen_locked = looked,
            Ok(Is::Free) => return Err(release::FOREIGN.to_owned()),
            Ok(Is::Another) => return Err("it was started anew".to_owned()),
            // What happens meanwhile is seen by what is counted at the end.
            Err(trouble) => say(&format!("cannot be looked at: {trouble}")),
        }
    }
}

/// A lock that was held until now.
struct Held {
    began: Instant,
    /// How many unlocks the server had carried out before it.
    unlocks: Option<i64>,
    /// Why it is let go.
    why: &'static str,
}

/// Unlocks, until that is done or was tried for too long: then the agent goes on. Says what came of it.
fn give_back(
    ways: Ways<'_>,
    record: Owned,
    (held, told): (Option<Held>, &Receiver<Told>),
) -> Result<(), String> {
    // Who is told to end does not wait for what may never come: the agent's next start does.
    let is_told = held.as_ref().is_some_and(|held| held.why == SIGNAL);
    let is_over = || is_told || told.try_iter().any(|one| matches!(one, Told::End(SIGNAL)));
    match release::until(ways, record, TRIES, &say, &is_over) {
        Some(Came::Released(stays)) => {
            if stays {
                say("stays locked: somebody else has locked it, too");
            }
            if let Some(Held { began, unlocks, why }) = held {
                let ms = began.elapsed().as_millis();
                // Who unlocks and locks between two looks is seen by nothing else.
                match member::unlocks(ways.looks, ANSWER) {
                    Ok(now) if unlocks == Some(now - 1) => say(&format!("{UNLOCKED}{ms} {why}")),
                    Ok(_) => say(&format!("{LOST}somebody else has unlocked it meanwhile, too")),
                    Err(trouble) => say(&format!(
                        "{LOST}whether somebody else has unlocked it meanwhile is not known: {trouble}"
                    )),
                }
            }
        }
        Some(Came::Lost(why)) => say(&format!("{LOST}{why}")),
        Some(Came::Person(what)) => say(&format!("{STUCK}{what}")),
        Some(Came::Waits | Came::Works) => {}
        None => say(&format!("{STUCK}that was tried for too long")),
    }
    Ok(())
}

/// Sends when the agent's end of the pipe is closed, or a signal asks for an end.
fn listen(ends: &SyncSender<Told>) {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let ends = ends.clone();
        // The handler is there before anything is locked.
        if let Ok(mut asked) = signal(kind) {
            tokio::spawn(async move {
                asked.recv().await;
                let _ = ends.try_send(Told::End(SIGNAL));
            });
        }
    }
    let ends = ends.clone();
    thread::spawn(move || {
        // Nobody ever writes there any more: whatever comes, it is the end.
        let _ = io::stdin().read(&mut [0]);
        let _ = ends.try_send(Told::End(ASKED));
    });
}

/// The agent may have gone.
fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{}", line.replace('\n', " ")).and_then(|()| output.flush());
}
