//! The book of open connections: how many there may be, from whom, and which of them do nothing.
//!
//! Must stay true: a connection that has shown no certificate can keep little of the controller busy, and
//! not for long; no address and no agent can take all places; whoever leaves the book gives its place back.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How many connections there may be, and for how long one may be without a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) total: usize,
    /// From one address.
    pub(super) per_address: usize,
    /// That have shown no certificate, be it that they have not got so far.
    pub(super) unproven: usize,
    pub(super) unproven_per_address: usize,
    /// With one certificate.
    pub(super) per_certificate: usize,
    pub(super) idle_unproven: Duration,
    pub(super) idle_proven: Duration,
}

impl Limits {
    /// A thousand agents with two connections each fit in, and people beside them.
    pub(super) const USUAL: Self = Self {
        total: 4_000,
        per_address: 1_000,
        unproven: 512,
        unproven_per_address: 64,
        per_certificate: 8,
        idle_unproven: Duration::from_secs(15),
        idle_proven: Duration::from_secs(600),
    };
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("there are too many connections")]
    Total,
    #[error("there are too many connections from this address")]
    Address,
    #[error("there are too many connections without a certificate")]
    Unproven,
    #[error("there are too many connections with this certificate")]
    Certificate,
}

/// SHA-256 of a certificate.
pub(super) type CertificateDigest = [u8; 32];

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
    unproven: HashMap<IpAddr, usize>,
    unproven_in_all: usize,
    certificates: HashMap<CertificateDigest, usize>,
}

#[derive(Debug)]
struct Line {
    certificate: Option<CertificateDigest>,
    calls: usize,
    idle_since: Instant,
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
        let of = |counts: &HashMap<IpAddr, usize>| counts.get(&address).copied().unwrap_or_default();
        if pages.open.len() >= limits.total || pages.open.contains_key(&peer) {
            return Err(Full::Total);
        }
        if of(&pages.addresses) >= limits.per_address || of(&pages.unproven) >= limits.unproven_per_address {
            return Err(Full::Address);
        }
        if pages.unproven_in_all >= limits.unproven {
            return Err(Full::Unproven);
        }
        let cut = CancellationToken::new();
        pages.open.insert(peer, Line { certificate: None, calls: 0, idle_since: now, cut: cut.clone() });
        *pages.addresses.entry(address).or_default() += 1;
        *pages.unproven.entry(address).or_default() += 1;
        pages.unproven_in_all += 1;
        Ok(Place { book: self.clone(), peer, cut })
    }

    /// A call has come over the connection; it lasts until the answer is dropped.
    pub(super) fn call(&self, peer: SocketAddr) -> Option<OpenCall> {
        let mut pages = self.lock();
        let line = pages.open.get_mut(&peer)?;
        line.calls += 1;
        Some(OpenCall { book: self.clone(), peer })
    }

    /// True if the connection has shown a certificate.
    pub(super) fn is_proven(&self, peer: SocketAddr) -> bool {
        self.lock().open.get(&peer).is_some_and(|line| line.certificate.is_some())
    }

    /// Cuts the connections that have been without a call for too long; how many there were.
    pub(super) fn cut_idle(&self, now: Instant) -> usize {
        let pages = self.lock();
        let idle = pages.open.values().filter(|line| {
            let limit = match line.certificate {
                Some(_) => self.limits.idle_proven,
                None => self.limits.idle_unproven,
            };
            line.calls == 0 && now.saturating_duration_since(line.idle_since) >= limit
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

    /// The connection has shown this certificate.
    pub(super) fn prove(&self, certificate: CertificateDigest) -> Result<(), Full> {
        let mut pages = self.book.lock();
        let count = pages.certificates.get(&certificate).copied().unwrap_or_default();
        if count >= self.book.limits.per_certificate {
            return Err(Full::Certificate);
        }
        let Some(line) = pages.open.get_mut(&self.peer) else { return Ok(()) };
        if line.certificate.replace(certificate).is_none() {
            pages.no_longer_unproven(self.peer);
        }
        pages.certificates.insert(certificate, count + 1);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pages = self.book.lock();
        let Some(line) = pages.open.remove(&self.peer) else { return };
        less(&mut pages.addresses, &network_of(self.peer.ip()));
        match line.certificate {
            Some(certificate) => less(&mut pages.certificates, &certificate),
            None => pages.no_longer_unproven(self.peer),
        }
    }
}

impl Pages {
    fn no_longer_unproven(&mut self, peer: SocketAddr) {
        less(&mut self.unproven, &network_of(peer.ip()));
        self.unproven_in_all -= 1;
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
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(line) = self.book.lock().open.get_mut(&self.peer) {
            line.calls = line.calls.saturating_sub(1);
            line.idle_since = Instant::now();
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
        unproven: 3,
        unproven_per_address: 2,
        per_certificate: 2,
        ..Limits::USUAL
    };

    fn peer(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn no_address_and_no_certificate_takes_more_than_its_share() {
        let (book, now) = (Book::new(SMALL), Instant::now());
        let enter = |text| book.enter(peer(text), now);
        let first = enter("10.0.0.1:1").expect("a place");
        let second = enter("10.0.0.1:2").expect("a place");
        assert_eq!(enter("10.0.0.1:3").err(), Some(Full::Address));
        let _other = enter("10.0.0.2:1").expect("a place for another");
        assert_eq!(enter("10.0.0.3:1").err(), Some(Full::Unproven));
        first.prove([1; 32]).expect("few");
        second.prove([1; 32]).expect("few");
        let third = enter("10.0.0.1:3").expect("the proven no longer count");
        assert_eq!(third.prove([1; 32]).err(), Some(Full::Certificate));
        drop(third);
        drop(second);
        let third = enter("10.0.0.1:3").expect("a place");
        third.prove([1; 32]).expect("a place was given back");
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
        place.prove([1; 32]).expect("few");
        drop(place);
        drop(book.enter(peer("10.0.0.1:2"), now).expect("a place"));
        let pages = book.lock();
        assert_eq!((pages.open.len(), pages.addresses.len(), pages.unproven.len()), (0, 0, 0));
        assert_eq!((pages.certificates.len(), pages.unproven_in_all), (0, 0));
    }
}
