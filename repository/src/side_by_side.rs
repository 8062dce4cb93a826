//! Many reads, several of them under way at once: storage is waited for once for all of them, and hashes and
//! signatures are proven on all cores.
//!
//! Must stay true: never more is under way than so many; after an error nothing more is begun.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
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

/// Threads for work that keeps a core busy, and waits for storage now and then.
pub(crate) fn workers() -> usize {
    const FEWEST: usize = 4;
    const MOST: usize = 8;
    thread::available_parallelism().map_or(1, NonZeroUsize::get).clamp(FEWEST, MOST)
}

/// Nobody goes on for hours with what has come to nothing.
struct OverIfItPanics<'a>(&'a AtomicBool);

impl Drop for OverIfItPanics<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// `work` of each item on that many threads; `hear` is told of each on the caller's thread, in their order. The
/// error is that of the earliest item that has one.
pub(crate) fn in_turn<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
    mut hear: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let count = workers().min(items.len());
    thread::scope(|scope| {
        let (tell, told) = sync_channel(count);
        for _ in 0..count {
            let (tell, next, is_over, work) = (tell.clone(), &next, &is_over, &work);
            scope.spawn(move || {
                let _over = OverIfItPanics(is_over);
                while !is_over.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(nth) else { break };
                    if tell.send((nth, work(item))).is_err() {
                        break; // Whoever listened has panicked.
                    }
                }
            });
        }
        drop(tell);
        let (mut end, mut waiting, mut turn) = (Ok(()), BTreeMap::new(), 0);
        for (nth, result) in told {
            if result.is_err() {
                is_over.store(true, Ordering::Relaxed);
            }
            waiting.insert(nth, result);
            while let Some(result) = waiting.remove(&turn) {
                if end.is_ok() {
                    end = result.and_then(|done| hear(&items[turn], done));
                }
                if end.is_err() {
                    is_over.store(true, Ordering::Relaxed);
                }
                turn += 1;
            }
        }
        end
    })
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

    #[test]
    fn each_is_told_once_on_the_callers_thread_while_others_are_under_way() {
        let items: Vec<usize> = (0..1000).collect();
        let (caller, all) = (thread::current().id(), Barrier::new(workers()));
        let mut told = BTreeSet::new();
        let work = |item: &usize| {
            if *item < workers() {
                all.wait();
            }
            Ok::<_, ()>(item * 2)
        };
        let heard = in_turn(&items, work, |item, doubled| {
            assert_eq!((thread::current().id(), doubled), (caller, item * 2));
            assert!(told.insert(*item));
            Ok(())
        });
        assert_eq!((heard, told.len()), (Ok(()), 1000));
        assert_eq!(in_turn(&[0; 0], |_| Ok::<_, ()>(()), |_, ()| Ok(())), Ok(()));
    }

    #[test]
    fn an_error_of_the_work_or_of_who_hears_of_it_ends_both() {
        let items: Vec<usize> = (0..100_000).collect();
        let (begun, mut heard) = (AtomicUsize::new(0), 0);
        let work = |item: &usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item < 40 { Ok(()) } else { Err("the work") }
        };
        let hear = |_: &usize, ()| {
            heard += 1;
            Ok(())
        };
        assert_eq!(in_turn(&items, work, hear), Err("the work"));
        assert!(heard <= 40 && begun.into_inner() <= 40 + 3 * workers());
        assert_eq!(in_turn(&items, |_| Ok(()), |_, ()| Err("who hears")), Err("who hears"));
    }
}
