//! How long to wait before trying again: twice as long each time, up to a cap, and never all at once.
//!
//! Pure: chance comes in as a number, waiting is the caller's. Half of each delay is chance, so that many
//! programs that lost the same peer at the same moment come back spread out.

use std::time::Duration;

/// A growing delay.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Delays that start at about `first` and grow to about `cap`.
    ///
    /// # Panics
    /// Where `first` is zero (no delay would ever grow) or longer than `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        assert!(!first.is_zero() && first <= cap, "a backoff starts above zero and not above its cap");
        Self { first, cap, ceiling: first }
    }

    /// The next delay, between half and all of its ceiling; `random` is any uniform number.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.cap);
        let share = (random >> 32) as u32;
        let half = ceiling / 2;
        half + half.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }

    /// Starts again at the first delay: it worked.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let longest: Vec<u64> = (0..5).map(|_| backoff.next_delay(u64::MAX).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next_delay(u64::MAX), Duration::from_secs(1));
    }

    #[test]
    fn chance_moves_a_delay_between_half_and_all_of_its_ceiling() {
        let delay = |random| Backoff::new(Duration::from_secs(8), Duration::from_secs(8)).next_delay(random);
        assert_eq!(delay(0), Duration::from_secs(4));
        assert_eq!(delay(u64::MAX), Duration::from_secs(8));
        let middle = delay(u64::MAX / 2);
        assert!(middle > Duration::from_millis(5_900) && middle < Duration::from_millis(6_100), "{middle:?}");
    }
}
