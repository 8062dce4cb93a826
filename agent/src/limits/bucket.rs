//! A token bucket, kept as the moment until which all that was taken is paid. Pure: the time comes in.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// What was not taken for this long may be taken at once.
const SAVED: Duration = Duration::from_millis(100);
/// Bytes are taken in pieces, so that who shares a bucket gets on evenly; of about this time each.
const PIECES_IN_A_SECOND: u64 = 20;
const LEAST_PIECE: u64 = 4 << 10;
const MOST_PIECE: u64 = 256 << 10;

/// So many bytes in a second, whoever takes them, in the order in which they are taken.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: NonZeroU64,
    paid_until: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(per_second: NonZeroU64) -> Self {
        Self { per_second, paid_until: None }
    }

    /// How many bytes are best taken at a time.
    pub(super) fn piece(&self) -> usize {
        let piece = (self.per_second.get() / PIECES_IN_A_SECOND).clamp(LEAST_PIECE, MOST_PIECE);
        usize::try_from(piece).expect("a quarter of a MiB at most")
    }

    /// Takes so many bytes; whoever took them waits this long before going on.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(SAVED).unwrap_or(now);
        let from = self.paid_until.map_or(earliest, |until| until.max(earliest));
        let cost = Duration::from_secs_f64(bytes as f64 / self.per_second.get() as f64);
        let until = from + cost;
        self.paid_until = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: u64) -> Bucket {
        Bucket::new(NonZeroU64::new(per_second).expect("not zero"))
    }

    #[test]
    fn over_any_time_no_more_goes_through_than_the_rate_and_what_was_saved() {
        let start = Instant::now();
        let mut bucket = bucket(1_000_000);
        // Bursts, pauses, small and large pieces; the time is fake.
        let (mut now, mut busy_from, mut taken) = (start, start, 0_u64);
        for turn in 0..10_000_u64 {
            if turn % 1_000 == 999 {
                now += Duration::from_secs(60);
                (busy_from, taken) = (now, 0);
            }
            let bytes = 1 + turn * 7_919 % 200_000;
            now += bucket.take(bytes, now);
            taken += bytes;
            let allowed = (now - busy_from + SAVED).as_secs_f64() * 1_000_000.0;
            assert!(taken as f64 <= allowed + 1.0, "turn {turn}: {taken} of {allowed}");
            assert!(taken as f64 >= allowed - 400_000.0, "turn {turn}: {taken} of {allowed}: too slow");
        }
    }

    #[test]
    fn two_that_share_a_bucket_get_half_each() {
        let start = Instant::now();
        let mut bucket = bucket(1_000_000);
        let (mut free_at, mut taken) = ([start; 2], [0_u64; 2]);
        for _ in 0..2_000 {
            let next = usize::from(free_at[1] < free_at[0]);
            let now = free_at[next];
            free_at[next] = now + bucket.take(50_000, now);
            taken[next] += 50_000;
        }
        assert!(taken[0].abs_diff(taken[1]) <= 100_000, "{taken:?}");
    }

    #[test]
    fn pieces_are_small_beside_the_rate() {
        assert_eq!(bucket(1 << 20).piece(), (1 << 20) / 20);
        assert_eq!((bucket(1).piece(), bucket(u64::MAX).piece()), (4 << 10, 256 << 10));
    }
}
