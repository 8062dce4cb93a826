//! Failed attempts to say who one is: each further one from an address is answered later.
//!
//! Must stay true: memory is bounded, however many fail and from wherever; who shows a good token never
//! waits, whatever others do from the same address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
const FORGET: Duration = Duration::from_secs(60);
const MOST_ADDRESSES: usize = 1_024;
/// A full table is looked through for what can be forgotten, at most this often.
const SWEEP: Duration = Duration::from_secs(1);
/// Answers that are held back together; beyond them there is no waiting.
const MOST_WAITING: usize = 256;

/// The failed attempts of the last minute.
#[derive(Debug)]
pub(crate) struct Attempts {
    failed: Mutex<Failed>,
    waiting: Semaphore,
}

#[derive(Debug, Default)]
struct Failed {
    addresses: HashMap<IpAddr, (u32, Instant)>,
    swept: Option<Instant>,
}

impl Failed {
    /// Makes room in a full table; false: there is none.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.addresses.retain(|_, (_, last)| now.duration_since(*last) < FORGET);
        }
        self.addresses.len() < MOST_ADDRESSES
    }
}

impl Default for Attempts {
    fn default() -> Self {
        Self { failed: Mutex::default(), waiting: Semaphore::new(MOST_WAITING) }
    }
}

impl Attempts {
    /// An attempt from `address` has failed: waits before it is answered.
    pub(super) async fn failed(&self, address: IpAddr) {
        let wait = self.count(network_of(address), Instant::now());
        if let Ok(_room) = self.waiting.try_acquire() {
            sleep(wait).await;
        }
    }

    /// An attempt from `address` has failed; the next one waits ([`Attempts::due`]).
    pub(crate) fn note(&self, address: IpAddr) {
        self.count(network_of(address), Instant::now());
    }

    /// How long the next attempt from `address` has to wait before anything is looked at.
    pub(crate) fn due(&self, address: IpAddr) -> Duration {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.addresses.get(&network_of(address)) {
            Some((count, last)) if last.elapsed() < FORGET => wait_after(*count),
            Some(_) => Duration::ZERO,
            None if failed.addresses.len() >= MOST_ADDRESSES => LONGEST,
            None => Duration::ZERO,
        }
    }

    fn count(&self, address: IpAddr, now: Instant) -> Duration {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = failed.addresses.len() >= MOST_ADDRESSES && !failed.addresses.contains_key(&address);
        if is_full && !failed.sweep(now) {
            return LONGEST;
        }
        let (count, last) = failed.addresses.entry(address).or_insert((0, now));
        if now.duration_since(*last) >= FORGET {
            *count = 0;
        }
        (*count, *last) = (count.saturating_add(1), now);
        wait_after(*count)
    }
}

fn wait_after(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST)
}

/// What one attacker has to itself: one IPv4 address, or 64 bits of IPv6.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        network_of(text.parse().expect("an address"))
    }

    #[test]
    fn each_further_failure_waits_longer_up_to_a_limit_and_is_forgotten() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let waits: Vec<u128> = (0..7).map(|_| attempts.count(address("10.0.0.1"), now).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(attempts.count(address("10.0.0.2"), now), FIRST, "another one is not concerned");
        assert_eq!(attempts.count(address("10.0.0.1"), now + FORGET), FIRST);
    }

    #[test]
    fn a_whole_network_of_addresses_is_one() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }

    #[test]
    fn a_hundred_thousand_addresses_are_a_bounded_table() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..100_000u32 {
            attempts.count(IpAddr::V4(number.into()), now);
        }
        let held = || attempts.failed.lock().expect("whole").addresses.len();
        assert_eq!(held(), MOST_ADDRESSES);
        assert_eq!(attempts.count(address("192.0.2.1"), now + FORGET), FIRST);
        assert_eq!(held(), 1);
    }
}
