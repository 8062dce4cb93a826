//! When backups were made, where some of their times cannot be right.

use jiff::Timestamp;

use super::Facts;

/// The time that counts for each backup; `backups` is newest first by sequence.
///
/// A clock may have been wrong, so times are believed as far as they fit the order: of those that are not in
/// the future, the most that rise with the sequence. Any other backup is taken to be as young as the next
/// newer one that is believed: as young as it can be. It lies in that one's day, and takes no place of its own
/// in a calendar.
pub(super) fn times(backups: &[&Facts], now: Timestamp) -> Vec<Timestamp> {
    let believed = longest_fall(backups, now);
    let mut younger = now;
    let time_of = |(backup, is_believed): (&&Facts, bool)| {
        if is_believed {
            younger = backup.started_at;
        }
        younger
    };
    backups.iter().zip(believed).map(time_of).collect()
}

/// Which backups belong to the longest run, gaps allowed, whose times never rise from one to the
/// next; those of the future do not.
fn longest_fall(backups: &[&Facts], now: Timestamp) -> Vec<bool> {
    // `ends[n]` is the last member of the best run of n + 1: the one with the latest time.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; backups.len()];
    for (at, backup) in backups.iter().enumerate().filter(|(_, backup)| backup.started_at <= now) {
        let length = ends.partition_point(|end| backups[*end].started_at >= backup.started_at);
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut is_member = vec![false; backups.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        is_member[at] = true;
        next = before[at];
    }
    is_member
}
