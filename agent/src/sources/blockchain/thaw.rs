//! Whoever was paused goes on: a record in the agent's folder, a guard, and insistence where it does not work at once.
//!
//! Must stay true: record and guard are there before anybody is paused. The record goes only when all went on, and the
//! guard ends only when it is told so, or when the agent is gone and all went on: so nobody is paused after its end. An
//! engine whose answer to a pause was lost may still carry it out: until it cannot any more, all are told again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use runtime::steps;
use tokio::signal::unix::{SignalKind, signal};

use super::containers::Container;
use super::pause::Process;
use crate::steps::Step;

/// The guard lets them go on after so long, whatever the agent does.
const GUARD: Duration = Duration::from_secs(3);
/// Who cannot be told to go on is told again after so long, later less often, and for so long by one process; then at
/// the agent's next pause or start.
const INSIST: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);
const INSISTED: Duration = Duration::from_secs(24 * 3_600);
/// For so long a pause whose answer was lost may still come.
const DOUBT: Duration = Duration::from_secs(60);
/// The guard's hidden verb; what it says once it watches; what it is told.
const VERB: &str = "guard-pause";
const READY: &[u8] = b"ready\n";
const ALL_ANSWERED: u8 = b'a';
const SETTLED: u8 = b's';
/// Records lie in the agent's state folder under this and a number: a line for each who is paused, one more for each
/// whose pause was refused, and one once every pause was answered.
const RECORD: &str = "paused-";
const REFUSED: &str = "not:";
const ANSWERED: &str = "answered";

/// The records that this process sees to; true: they are of a pause that is over, and somebody is still told to go on.
static SEEN_TO: Mutex<BTreeMap<PathBuf, bool>> = Mutex::new(BTreeMap::new());

fn seen_to() -> MutexGuard<'static, BTreeMap<PathBuf, bool>> {
    SEEN_TO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While somebody of an earlier pause is still told to go on: who that is, and what to do if it never works.
pub(super) fn unsettled() -> Option<String> {
    let record = seen_to().iter().find_map(|(record, is_over)| is_over.then(|| record.clone()))?;
    let text = fs::read_to_string(&record).unwrap_or_default();
    let containers: Vec<_> = words_of(&text).iter().filter_map(|word| Container::parse(word)).collect();
    let who = match &containers[..] {
        [] => String::new(),
        [first, ..] => {
            let ids: Vec<_> = containers.iter().map(Container::short_id).collect();
            format!(" (containers {} of the engine at {})", ids.join(", "), first.socket().display())
        }
    };
    Some(format!(
        "an earlier pause is not settled: who was paused then{who} may still have to be told to go on; if that engine is \
         gone for good, see that they run, and remove {}",
        record.display()
    ))
}

/// Those whom a record names, but for those whose pause was refused: they are somebody else's.
fn words_of(record: &str) -> Vec<String> {
    let is_word = |line: &&str| !line.is_empty() && *line != ANSWERED && !line.starts_with(REFUSED);
    let refused: Vec<&str> = record.lines().filter_map(|line| line.strip_prefix(REFUSED)).collect();
    let named = record.lines().filter(is_word).filter(|word| !refused.contains(word));
    named.map(str::to_owned).collect()
}

/// What sees to it that those who are paused go on.
pub(super) struct Safeguard {
    record: PathBuf,
    /// None for a record of an earlier run.
    guard: Option<Guard>,
}

impl Safeguard {
    /// Writes down in the agent's folder who is about to be paused, and starts a guard over them.
    pub(super) fn begin(state: &Path, words: &[String]) -> io::Result<Self> {
        Self::begin_with(state, words, words)
    }

    /// The same, with a record in which nobody stands yet: each is noted before it is asked for. The guard tells those
    /// of the record, and all where it cannot read that.
    pub(super) fn begin_empty(state: &Path, words: &[String]) -> io::Result<Self> {
        Self::begin_with(state, words, &[])
    }

    fn begin_with(state: &Path, words: &[String], noted: &[String]) -> io::Result<Self> {
        let record = state.join(format!("{RECORD}{:016x}", crate::chance()));
        seen_to().insert(record.clone(), false);
        let begun = write_durable(&record, &noted.join("\n")).and_then(|()| {
            steps::reach(Step::PauseNoted);
            Guard::start(&record, words)
        });
        match begun {
            Ok(guard) => {
                steps::reach(Step::PauseGuarded);
                Ok(Self { record, guard: Some(guard) })
            }
            Err(error) => {
                remove(&record);
                seen_to().remove(&record);
                Err(error)
            }
        }
    }

    /// True while the guard lives: then somebody may be paused.
    pub(super) fn is_guarded(&mut self) -> bool {
        self.guard.as_mut().is_some_and(|guard| matches!(guard.child.try_wait(), Ok(None)))
    }

    /// This one is about to be paused.
    pub(super) fn asks(&self, word: &str) -> io::Result<()> {
        self.note(word)
    }

    /// Its pause was refused: whoever has paused it lets it go on.
    pub(super) fn was_refused(&self, word: &str) {
        self.try_note(&format!("{REFUSED}{word}"));
    }

    /// Every pause was answered, so that none comes later.
    pub(super) fn answered(&mut self) {
        self.try_note(ANSWERED);
        self.tell(ALL_ANSWERED);
    }

    fn try_note(&self, line: &str) {
        if let Err(error) = self.note(line) {
            tracing::warn!(file = %self.record.display(), %error, "the record of a pause cannot be written");
        }
    }

    fn note(&self, line: &str) -> io::Result<()> {
        // Not durable: after a crash of the host nobody is paused. In one piece, and on a line of its own whatever was
        // written before.
        let mut record = OpenOptions::new().append(true).open(&self.record)?;
        record.write_all(format!("\n{line}\n").as_bytes())
    }

    /// Lets all go on that `words` name; false: somebody could not be told yet. Then, or where the answer to a pause is
    /// still out, it is tried on in a thread of its own.
    pub(super) fn end(self, words: Vec<String>, is_doubtful: bool) -> bool {
        let all = go_on(&words);
        steps::reach(Step::PauseTold);
        match all && !is_doubtful {
            true => self.settled(),
            false => insist(self, words, is_doubtful, INSIST),
        }
        all
    }

    fn settled(mut self) {
        remove(&self.record);
        self.tell(SETTLED);
        if let Some(mut guard) = self.guard.take() {
            drop(guard.pipe);
            let _ = guard.child.wait();
        }
        // Nobody tells them any more, so they may be paused again.
        seen_to().remove(&self.record);
    }

    fn tell(&mut self, what: u8) {
        if let Some(guard) = &mut self.guard {
            // One that is gone need not know.
            let _ = guard.pipe.write_all(&[what]);
        }
    }
}

fn remove(record: &Path) {
    if let Err(error) = fs::remove_file(record)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %record.display(), %error, "the record of a pause stays");
    }
}

/// Tells all of them; true if each could be told.
fn go_on(words: &[String]) -> bool {
    let is_left = |word: &&String| match Container::parse(word) {
        Some(container) => !container.go_on(),
        None => Process::parse(word).is_some_and(|process| !process.go_on()),
    };
    words.iter().filter(is_left).count() == 0
}

/// Tells them again and again, in a thread of its own; the record stays meanwhile.
fn insist(safeguard: Safeguard, words: Vec<String>, is_doubtful: bool, first: Duration) {
    let record = safeguard.record.clone();
    seen_to().insert(record.clone(), true);
    let insisting = move || {
        let (began, mut pause) = (Instant::now(), first);
        let (_never, waits) = sync_channel::<()>(1);
        while began.elapsed() < INSISTED {
            let _ = waits.recv_timeout(pause);
            // Somebody has seen that they run, and removed it.
            let is_removed = matches!(safeguard.record.try_exists(), Ok(false));
            if is_removed || (go_on(&words) && (!is_doubtful || began.elapsed() > DOUBT)) {
                return safeguard.settled();
            }
            pause = if began.elapsed() < DOUBT { INSIST } else { SELDOM };
        }
        seen_to().remove(&safeguard.record);
    };
    // Where there is no thread, the guard and the record are left.
    if let Err(error) = thread::Builder::new().name("thaw".to_owned()).spawn(insisting) {
        tracing::error!(%error, "no thread to let go on what is paused");
        seen_to().remove(&record);
    }
}

/// Lets go on what an earlier run of the agent, or an earlier pause of this one, has left paused.
pub(crate) fn thaw_left(state: &Path) {
    let Ok(listed) = fs::read_dir(state) else { return };
    let records = listed.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(RECORD));
    for record in records.map(|file| file.path()) {
        if seen_to().contains_key(&record) {
            continue;
        }
        let text = match fs::read_to_string(&record) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(file = %record.display(), %error, "what an earlier run has paused cannot be read");
                continue;
            }
        };
        let is_answered = text.lines().any(|line| line == ANSWERED);
        let words = words_of(&text);
        for word in &words {
            if Process::parse(word).is_some_and(Process::is_stopped) {
                tracing::warn!(process = word, "an earlier run has left it paused; it goes on");
            }
        }
        let left = Safeguard { record, guard: None };
        if words.iter().any(|word| Container::parse(word).is_some()) {
            // An engine may take its time, and the agent's start does not.
            insist(left, words, !is_answered, Duration::ZERO);
        } else if go_on(&words) {
            // Also one that was told to stop and had not come to it yet.
            left.settled();
        } else {
            insist(left, words, false, INSIST);
        }
    }
}

fn write_durable(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A process of its own that lets them go on.
struct Guard {
    child: Child,
    pipe: ChildStdin,
}

impl Guard {
    fn start(record: &Path, words: &[String]) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(VERB)
            .arg(record)
            .args(words)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut said = [0; READY.len()];
        let told = child.stdout.take().expect("piped").read_exact(&mut said);
        if told.is_err() || said != READY {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other("the guard of the pause does not start"));
        }
        let pipe = child.stdin.take().expect("piped");
        Ok(Self { child, pipe })
    }
}

/// What a guard has heard of its agent.
#[derive(Default)]
struct Heard {
    is_answered: AtomicBool,
    is_settled: AtomicBool,
    is_gone: AtomicBool,
}

impl Heard {
    /// Until the agent's end of the pipe is closed; `ended` is told once there is nothing to wait for.
    fn listen(&self, ended: tokio::sync::oneshot::Sender<()>, heard: &SyncSender<()>) {
        let mut ended = Some(ended);
        let mut said = [0];
        loop {
            match io::stdin().read(&mut said) {
                Ok(1) if said[0] == ALL_ANSWERED => {
                    self.is_answered.store(true, Ordering::Release);
                    continue;
                }
                Ok(1) => self.is_settled.store(true, Ordering::Release),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => self.is_gone.store(true, Ordering::Release),
            }
            if let Some(ended) = ended.take() {
                let _ = ended.send(());
            }
            let _ = heard.try_send(());
            if self.is_gone.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

/// Is this process a guard? Then it waits for the agent's end, or for too long a time, and lets them go on.
pub(crate) fn guard(words: &[OsString]) -> Option<ExitCode> {
    let [_, verb, record, paused @ ..] = words else { return None };
    (verb == VERB).then(|| {
        let heard = Arc::new(Heard::default());
        let (sender, receiver) = sync_channel(1);
        // Whatever ends it early, they go on all the same.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(until_the_end(heard.clone(), sender.clone()));
            runtime.shutdown_background();
        }
        let paused: Vec<String> =
            paused.iter().filter_map(|word| word.to_str()).map(ToOwned::to_owned).collect();
        let_go(Path::new(record), &paused, &heard, &receiver);
        drop(sender);
        ExitCode::SUCCESS
    })
}

/// Lets them go on until that has worked and nobody pauses them any more: the agent has said so, or is gone.
fn let_go(record: &Path, paused: &[String], heard: &Heard, receiver: &Receiver<()>) {
    let is = |what: &AtomicBool| what.load(Ordering::Acquire);
    let (began, mut gone_since) = (Instant::now(), None);
    while began.elapsed() < INSISTED && !is(&heard.is_settled) {
        // Who was not asked to pause may be somebody else's meanwhile.
        let paused = match fs::read_to_string(record) {
            Ok(text) => words_of(&text),
            // It is over, or the agent's next start has seen to it; or it was taken away. A process that runs takes no harm
            // from being told.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                paused.iter().filter(|word| Container::parse(word).is_none()).cloned().collect()
            }
            Err(_) => paused.to_owned(),
        };
        let all = go_on(&paused);
        if is(&heard.is_gone) {
            let since = *gone_since.get_or_insert_with(Instant::now);
            let may_come =
                !is(&heard.is_answered) && paused.iter().any(|word| Container::parse(word).is_some());
            if all && (!may_come || since.elapsed() > DOUBT) {
                return;
            }
        }
        let _ = receiver.recv_timeout(if began.elapsed() < DOUBT { INSIST } else { SELDOM });
        // The agent's next start has seen to it, and may have paused them again.
        if is(&heard.is_gone) && !record.exists() {
            return;
        }
    }
}

/// Until the agent says that it is over or its end of the pipe is closed, a signal asks for an end, or it has been too
/// long.
async fn until_the_end(heard: Arc<Heard>, sender: SyncSender<()>) {
    let asked = |kind| async move {
        match signal(kind) {
            Ok(mut asked) => drop(asked.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    thread::spawn(move || heard.listen(ended, &sender));
    // The handlers of the signals are there before anybody relies on this process.
    let told = async {
        let told = io::stdout().write_all(READY).and_then(|()| io::stdout().flush());
        if told.is_ok() {
            let _ = end.await;
        }
    };
    tokio::select! {
        biased;
        () = asked(SignalKind::terminate()) => {}
        () = asked(SignalKind::interrupt()) => {}
        () = asked(SignalKind::hangup()) => {}
        () = tokio::time::sleep(GUARD) => {}
        () = told => {}
    }
}
