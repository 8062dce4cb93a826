//! A proxy before object storage that breaks what passes it, at the request a test chooses or at random.

use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::http::Message;
use crate::pause;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// The connection breaks before the server sees anything.
    CutBefore,
    /// The connection breaks when half of the request has gone through.
    CutInTheMiddle,
    /// All is done, and the answer is lost.
    AnswerLost,
    /// 503 SlowDown, and nothing is done.
    SlowDown,
    /// 500 InternalError, though all is done.
    ErrorAfter,
    /// The answer ends in the middle of its body.
    Truncated,
    /// The answer comes late.
    Late(Duration),
}

impl Harm {
    /// All that a store has to live with.
    pub const ALL: [Harm; 6] = [
        Harm::CutBefore,
        Harm::CutInTheMiddle,
        Harm::AnswerLost,
        Harm::SlowDown,
        Harm::ErrorAfter,
        Harm::Truncated,
    ];
}

#[derive(Debug, Default)]
struct Script {
    /// The request (counted from 1) that comes to harm.
    at: Option<(u64, Harm)>,
    /// The next request of this method whose target ends so comes to harm.
    when: Option<(String, String, Harm)>,
    /// Every so many requests one does, which and how by this seed.
    random: Option<(u64, u64)>,
    seen: Vec<String>,
    harmed: u64,
}

/// The proxy. Dropped, nothing passes it any more.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    script: Mutex<Script>,
    is_over: AtomicBool,
}

impl Proxy {
    /// Before the server at `port` of this machine.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("bound").port();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let shared = Arc::new(Shared { to, script: Mutex::default(), is_over: AtomicBool::new(false) });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                if serving.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        Self { port: own, shared }
    }

    /// Where to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `nth` request from now (counted from 1) comes to harm.
    pub fn harm(&self, nth: u64, harm: Harm) {
        let mut script = self.shared.script();
        let so_far = script.seen.len() as u64;
        script.at = Some((so_far + nth, harm));
    }

    /// The next request of this method whose target ends with `end` comes to harm.
    pub fn harm_when(&self, method: &str, end: &str, harm: Harm) {
        self.shared.script().when = Some((method.to_owned(), end.to_owned(), harm));
    }

    /// One request in `every` comes to harm, by this seed.
    pub fn harm_at_random(&self, every: u64, seed: u64) {
        self.shared.script().random = Some((every, seed));
    }

    /// Nothing comes to harm any more.
    pub fn heal(&self) {
        let mut script = self.shared.script();
        (script.at, script.when, script.random) = (None, None, None);
    }

    /// How many requests came to harm so far.
    pub fn harmed(&self) -> u64 {
        self.shared.script().harmed
    }

    /// The requests since this was asked last: method and target of each.
    pub fn take_seen(&self) -> Vec<String> {
        let mut script = self.shared.script();
        script.at = None;
        std::mem::take(&mut script.seen)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, request: &Message) -> Option<Harm> {
        let (method, target) = request.asked();
        let mut script = self.script();
        script.seen.push(format!("{method} {target}"));
        let nth = script.seen.len() as u64;
        let by_chance = script.random.and_then(|(every, seed)| {
            let drawn = mixed(seed ^ mixed(nth));
            drawn.is_multiple_of(every).then(|| Harm::ALL[(mixed(drawn) % Harm::ALL.len() as u64) as usize])
        });
        let ordered = script.at.filter(|(at, _)| *at == nth).map(|(_, harm)| harm);
        let is_awaited =
            |(known, end, _): &mut (String, String, Harm)| method == known && target.ends_with(end.as_str());
        let awaited = script.when.take_if(is_awaited).map(|(.., harm)| harm);
        let due = ordered.or(awaited).or(by_chance);
        script.harmed += u64::from(due.is_some());
        due
    }

    fn serve(&self, client: TcpStream) {
        // Either end may be gone at any moment.
        let _ = self.pass(&client);
        let _ = client.shutdown(Shutdown::Both);
    }

    fn pass(&self, client: &TcpStream) -> std::io::Result<()> {
        let mut to_client = client.try_clone()?;
        let mut from_client = BufReader::new(client.try_clone()?);
        let mut server: Option<(TcpStream, BufReader<TcpStream>)> = None;
        while let Some(request) = Message::read(&mut from_client, true)? {
            if self.is_over.load(Ordering::SeqCst) {
                return Ok(());
            }
            let harm = self.due(&request);
            match harm {
                Some(Harm::CutBefore) => return Ok(()),
                Some(Harm::SlowDown) => {
                    refusal(&request, 503, "SlowDown").write(&mut to_client)?;
                    continue;
                }
                _ => {}
            }
            if server.is_none() {
                let stream = TcpStream::connect(self.to)?;
                server = Some((stream.try_clone()?, BufReader::new(stream)));
            }
            let (to_server, from_server) = server.as_mut().expect("connected just now");
            if harm == Some(Harm::CutInTheMiddle) {
                let whole = [request.head(), request.body.clone()].concat();
                to_server.write_all(&whole[..whole.len() / 2])?;
                return to_server.shutdown(Shutdown::Both);
            }
            request.write(to_server)?;
            let Some(answer) = Message::read(from_server, request.asked().0 != "HEAD")? else {
                return Ok(());
            };
            match harm {
                Some(Harm::AnswerLost) => return Ok(()),
                Some(Harm::ErrorAfter) => refusal(&request, 500, "InternalError").write(&mut to_client)?,
                Some(Harm::Truncated) => {
                    let whole = [answer.head(), answer.body.clone()].concat();
                    let kept = answer.head().len() + answer.body.len() / 2;
                    // Where there is no body, the head is what ends too early.
                    let kept = if answer.body.is_empty() { kept - 2 } else { kept };
                    return to_client.write_all(&whole[..kept]);
                }
                Some(Harm::Late(by)) => {
                    pause(by.as_millis() as u64);
                    answer.write(&mut to_client)?;
                }
                _ => answer.write(&mut to_client)?,
            }
        }
        Ok(())
    }
}

/// An answer to HEAD has no body.
fn refusal(request: &Message, status: u16, code: &str) -> Message {
    let mut refusal = Message::error(status, code);
    if request.asked().0 == "HEAD" {
        refusal.body.clear();
    }
    refusal
}

/// Splitmix: a seed and a number give a number.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
