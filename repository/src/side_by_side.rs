//! Many small reads, several of them under way at once: storage is waited for once for all of them, and
//! signatures are proven on all cores.
//!
//! Must stay true: answers come in the order of what was asked, and never more is under way than so many.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// So many at once: what a bucket answers well and a disk can sort.
const AT_ONCE: usize = 16;

/// As few as these are done one after the other: no thread is worth it.
const FEW: usize = 16;

/// `work` of each item, in their order; or the error of the earliest that failed, after which no other one is
/// begun.
pub(crate) fn side_by_side<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if items.len() <= FEW {
        return items.iter().map(work).collect();
    }
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut done = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(nth) else { break };
            let result = work(item);
            if result.is_err() {
                is_over.store(true, Ordering::Relaxed);
            }
            done.push((nth, result));
        }
        done
    };
    let mut done: Vec<(usize, Result<R, E>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|why| resume_unwind(why)));
        ended.flatten().collect()
    });
    done.sort_unstable_by_key(|(nth, _)| *nth);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Barrier, Mutex};

    use super::*;

    #[test]
    fn all_answers_come_in_the_order_of_the_items() {
        for count in [0, 1, FEW, FEW + 1, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Result<Vec<usize>, ()> = side_by_side(&items, |item| Ok(item * 2));
            assert_eq!(doubled, Ok(items.iter().map(|item| item * 2).collect()));
        }
    }

    #[test]
    fn so_many_are_under_way_at_once() {
        // It would wait for ever if one of them were not begun before another one ends.
        let (all, threads) = (Barrier::new(AT_ONCE), Mutex::new(BTreeSet::new()));
        let waited: Result<Vec<()>, ()> = side_by_side(&[(); AT_ONCE * 2], |()| {
            threads.lock().expect("nobody panics").insert(format!("{:?}", thread::current().id()));
            all.wait();
            Ok(())
        });
        assert_eq!(waited.map(|done| done.len()), Ok(AT_ONCE * 2));
        assert_eq!(threads.into_inner().expect("nobody panics").len(), AT_ONCE);
    }

    #[test]
    fn the_first_error_is_told_and_what_follows_is_not_begun() {
        let items: Vec<usize> = (0..100_000).collect();
        let begun = AtomicUsize::new(0);
        let failed: Result<Vec<()>, usize> = side_by_side(&items, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item < 40 { Ok(()) } else { Err(*item) }
        });
        assert_eq!(failed, Err(40));
        assert!(begun.into_inner() <= 40 + 2 * AT_ONCE);
    }
}
