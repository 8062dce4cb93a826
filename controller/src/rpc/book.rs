//! The book of open connections: how many there may be, from whom, and which of them do nothing.
//!
//! Must stay true: a connection that has shown no certificate can keep little of the controller busy, and
//! not for long, unless somebody known calls over it; no address and no agent can take all places; whoever
//! shows no certificate takes no place from those who are about to show one; whoever leaves the book gives
//! its place back.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::identity::KeyDigest;

/// How many connections there may be, and for how long one may be without a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) total: usize,
    /// From one address.
    pub(super) per_address: usize,
    /// In the handshake: who they are shows when it ends.
    pub(super) greeted: usize,
    pub(super) greeted_per_address: usize,
    /// That have ended it without a certificate.
    pub(super) unproven: usize,
    pub(super) unproven_per_address: usize,
    /// With one key. Its certificates are renewed; it stays.
    pub(super) per_key: usize,
    pub(super) idle_unproven: Duration,
    pub(super) idle_proven: Duration,
    /// How long one without a certificate may be without a call of somebody known, whatever else comes.
    pub(super) unknown: Duration,
}

impl Limits {
    /// A thousand agents with two connections each fit in, and people beside them.
    pub(super) const USUAL: Self = Self {
        total: 4_000,
        per_address: 1_000,
        greeted: 512,
        greeted_per_address: 64,
        unproven: 512,
        unproven_per_address: 64,
        per_key: 8,
        idle_unproven: Duration::from_secs(15),
        idle_proven: Duration::from_secs(600),
        unknown: Duration::from_secs(60),
    };
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("there are too many connections")]
    Total,
    #[error("there are too many connections from this address")]
    Address,
    #[error("there are too many connections in the handshake")]
    Greeted,
    #[error("there are too many connections without a certificate")]
    Unproven,
    #[error("there are too many connections with this key")]
    Key,
}

/// All open connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Book {
    limits: Limits,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Debug, Default)]
struct Pages {
    open: HashMap<SocketAddr, Line>,
    addresses: HashMap<IpAddr, usize>,
    greeted: Counts,
    unproven: Counts,
    keys: HashMap<KeyDigest, usize>,
}

/// So many of each address, and in all.
#[derive(Debug, Default)]
struct Counts {
    of: HashMap<IpAddr, usize>,
    all: usize,
}

/// What is known of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The handshake goes on.
    Greeted,
    /// It has ended without a certificate.
    Unproven,
    /// It has ended with a certificate for this key.
    Key(KeyDigest),
}

#[derive(Debug)]
struct Line {
    shown: Shown,
    calls: usize,
    idle_since: Instant,
    /// Calls of somebody known, by a token.
    known_calls: usize,
    unknown_since: Instant,
    cut: CancellationToken,
}

impl Book {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, pages: Arc::default() }
    }

    /// Gives a connection a place.
    pub(super) fn enter(&self, peer: SocketAddr, now: Instant) -> Result<Place, Full> {
        let (limits, address) = (self.limits, network_of(peer.ip()));
        let mut pages = self.lock();
        if pages.open.len() >= limits.total || pages.open.contains_key(&peer) {
            return Err(Full::Total);
        }
        let of_address = pages.addresses.get(&address).copied().unwrap_or_default();
        if of_address >= limits.per_address || pages.greeted.of(address) >= limits.greeted_per_address {
            return Err(Full::Address);
        }
        if pages.greeted.all >= limits.greeted {
            return Err(Full::Greeted);
        }
        let cut = CancellationToken::new();
        let line = Line {
            shown: Shown::Greeted,
            calls: 0,
            idle_since: now,
            known_calls: 0,
            unknown_since: now,
            cut: cut.clone(),
        };
        pages.open.insert(peer, line);
        *pages.addresses.entry(address).or_default() += 1;
        pages.greeted.more(address);
        Ok(Place { book: self.clone(), peer, cut })
    }

    /// A call has come over the connection; it lasts until the answer is dropped.
    pub(super) fn call(&self, peer: SocketAddr) -> Option<OpenCall> {
        let mut pages = self.lock();
        let line = pages.open.get_mut(&peer)?;
        line.calls += 1;
        Some(OpenCall { book: self.clone(), peer, is_known: AtomicBool::new(false) })
    }

    /// True if the connection has shown a certificate.
    pub(super) fn is_proven(&self, peer: SocketAddr) -> bool {
        self.lock().open.get(&peer).is_some_and(|line| matches!(line.shown, Shown::Key(_)))
    }

    /// Cuts the connections that have been without a call, or without one of somebody known, for too long;
    /// how many there were.
    pub(super) fn cut_idle(&self, now: Instant) -> usize {
        let pages = self.lock();
        let idle = pages.open.values().filter(|line| {
            let is_proven = matches!(line.shown, Shown::Key(_));
            let limit = if is_proven { self.limits.idle_proven } else { self.limits.idle_unproven };
            let is_idle = line.calls == 0 && now.saturating_duration_since(line.idle_since) >= limit;
            let unknown = now.saturating_duration_since(line.unknown_since);
            is_idle || (!is_proven && line.known_calls == 0 && unknown >= self.limits.unknown)
        });
        idle.filter(|line| !line.cut.is_cancelled()).map(|line| line.cut.cancel()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the book, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Place {
    book: Book,
    peer: SocketAddr,
    cut: CancellationToken,
}

impl Place {
    /// Cancelled when the connection has to end.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// The handshake has ended, with a certificate for this key.
    pub(super) fn prove(&self, key: KeyDigest) -> Result<(), Full> {
        let mut pages = self.book.lock();
        let count = pages.keys.get(&key).copied().unwrap_or_default();
        if count >= self.book.limits.per_key {
            return Err(Full::Key);
        }
        pages.show(self.peer, Shown::Key(key));
        Ok(())
    }

    /// The handshake has ended, without a certificate.
    pub(super) fn stay_unproven(&self, now: Instant) -> Result<(), Full> {
        let (limits, address) = (self.book.limits, network_of(self.peer.ip()));
        let mut pages = self.book.lock();
        if pages.unproven.of(address) >= limits.unproven_per_address {
            return Err(Full::Address);
        }
        if pages.unproven.all >= limits.unproven {
            return Err(Full::Unproven);
        }
        pages.show(self.peer, Shown::Unproven);
        if let Some(line) = pages.open.get_mut(&self.peer) {
            line.unknown_since = now;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pages = self.book.lock();
        let Some(line) = pages.open.remove(&self.peer) else { return };
        less(&mut pages.addresses, &network_of(self.peer.ip()));
        pages.forget(self.peer, line.shown);
    }
}

impl Pages {
    /// Counts a connection where it belongs from now on, and no longer where it was.
    fn show(&mut self, peer: SocketAddr, shown: Shown) {
        let Some(line) = self.open.get_mut(&peer) else { return };
        let before = std::mem::replace(&mut line.shown, shown);
        self.forget(peer, before);
        match shown {
            Shown::Greeted => self.greeted.more(network_of(peer.ip())),
            Shown::Unproven => self.unproven.more(network_of(peer.ip())),
            Shown::Key(key) => *self.keys.entry(key).or_default() += 1,
        }
    }

    fn forget(&mut self, peer: SocketAddr, shown: Shown) {
        match shown {
            Shown::Greeted => self.greeted.less(network_of(peer.ip())),
            Shown::Unproven => self.unproven.less(network_of(peer.ip())),
            Shown::Key(key) => less(&mut self.keys, &key),
        }
    }
}

impl Counts {
    fn of(&self, address: IpAddr) -> usize {
        self.of.get(&address).copied().unwrap_or_default()
    }

    fn more(&mut self, address: IpAddr) {
        *self.of.entry(address).or_default() += 1;
        self.all += 1;
    }

    fn less(&mut self, address: IpAddr) {
        less(&mut self.of, &address);
        self.all -= 1;
    }
}

fn less<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct OpenCall {
    book: Book,
    peer: SocketAddr,
    is_known: AtomicBool,
}

impl OpenCall {
    /// It is of somebody known: while it lasts, the connection may.
    pub(super) fn vouch(&self) {
        if !self.is_known.swap(true, Ordering::Relaxed)
            && let Some(line) = self.book.lock().open.get_mut(&self.peer)
        {
            line.known_calls += 1;
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(line) = self.book.lock().open.get_mut(&self.peer) {
            let now = Instant::now();
            line.calls = line.calls.saturating_sub(1);
            line.idle_since = now;
            if *self.is_known.get_mut() {
                line.known_calls = line.known_calls.saturating_sub(1);
                line.unknown_since = now;
            }
        }
    }
}

/// What counts as one address: an IPv4 address, or the /64 that an IPv6 host has for itself.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        total: 6,
        per_address: 4,
        greeted: 3,
        greeted_per_address: 2,
        unproven: 3,
        unproven_per_address: 2,
        per_key: 2,
        ..Limits::USUAL
    };

    fn peer(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn key() -> KeyDigest {
        KeyDigest::of([1; 32])
    }

    #[test]
    fn no_address_and_no_key_takes_more_than_its_share() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let enter = |text| book.enter(peer(text), now);
        let first = enter("10.0.0.1:1").expect("a place");
        let second = enter("10.0.0.1:2").expect("a place");
        assert_eq!(enter("10.0.0.1:3").err(), Some(Full::Address));
        let _other = enter("10.0.0.2:1").expect("a place for another");
        assert_eq!(enter("10.0.0.3:1").err(), Some(Full::Greeted));
        first.prove(key()).expect("few");
        second.prove(key()).expect("few");
        let third = enter("10.0.0.1:3").expect("the proven no longer count");
        assert_eq!(third.prove(key()).err(), Some(Full::Key));
        drop(third);
        drop(second);
        let third = enter("10.0.0.1:3").expect("a place");
        third.prove(key()).expect("a place was given back");
    }

    #[test]
    fn those_without_a_certificate_take_no_place_from_those_in_the_handshake() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let unproven = |text| {
            let place = book.enter(peer(text), now).expect("a place");
            place.stay_unproven(now).map(|()| place)
        };
        let _first = unproven("10.0.0.1:1").expect("few");
        let _second = unproven("10.0.0.1:2").expect("few");
        assert_eq!(unproven("10.0.0.1:3").err(), Some(Full::Address));
        let _third = unproven("10.0.0.2:1").expect("few");
        assert_eq!(unproven("10.0.0.3:1").err(), Some(Full::Unproven));
        let agent = book.enter(peer("10.0.0.1:4"), now).expect("a place");
        agent.prove(key()).expect("few");
    }

    #[test]
    fn without_a_certificate_only_somebody_known_keeps_a_connection_for_long() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let enter = |text| {
            let place = book.enter(peer(text), now).expect("a place");
            place.stay_unproven(now).expect("few");
            (place, book.call(peer(text)).expect("it is open"))
        };
        let ((unknown, _checks), (known, call)) = (enter("10.0.0.1:1"), enter("10.0.0.2:1"));
        call.vouch();
        assert_eq!(book.cut_idle(now + SMALL.unknown - Duration::from_secs(1)), 0);
        assert_eq!(book.cut_idle(now + SMALL.unknown * 100), 1);
        assert!(unknown.cut().is_cancelled() && !known.cut().is_cancelled());
        let _checks = book.call(peer("10.0.0.2:1")).expect("it is open");
        drop(call);
        assert_eq!(book.cut_idle(Instant::now()), 0, "the time begins anew");
        assert_eq!(book.cut_idle(Instant::now() + SMALL.unknown), 1);
    }

    #[test]
    fn the_addresses_of_one_ipv6_host_are_one() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let _one = book.enter(peer("[2001:db8::1]:1"), now).expect("a place");
        let _two = book.enter(peer("[2001:db8::2]:1"), now).expect("a place");
        assert_eq!(book.enter(peer("[2001:db8::3]:1"), now).err(), Some(Full::Address));
    }

    #[test]
    fn only_what_does_nothing_is_cut() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let idle = book.enter(peer("10.0.0.1:1"), now).expect("a place");
        let busy = book.enter(peer("10.0.0.1:2"), now).expect("a place");
        let call = book.call(peer("10.0.0.1:2")).expect("it is open");
        assert_eq!(book.cut_idle(now), 0);
        let later = now + SMALL.idle_unproven;
        assert_eq!(book.cut_idle(later), 1);
        assert!(idle.cut().is_cancelled() && !busy.cut().is_cancelled());
        drop(call);
        assert_eq!(book.cut_idle(later + SMALL.idle_unproven), 1);
    }

    #[test]
    fn who_has_left_leaves_nothing_behind() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let place = book.enter(peer("10.0.0.1:1"), now).expect("a place");
        place.prove(key()).expect("few");
        drop(place);
        drop(book.enter(peer("10.0.0.1:2"), now).expect("a place"));
        let place = book.enter(peer("10.0.0.1:3"), now).expect("a place");
        place.stay_unproven(now).expect("few");
        drop(place);
        let pages = book.lock();
        assert_eq!((pages.open.len(), pages.addresses.len(), pages.keys.len()), (0, 0, 0));
        assert_eq!((pages.greeted.of.len(), pages.greeted.all), (0, 0));
        assert_eq!((pages.unproven.of.len(), pages.unproven.all), (0, 0));
    }
}
