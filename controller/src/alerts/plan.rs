//! Which event goes to which sink, and how many messages that makes. Pure: facts and time in, messages out.
//!
//! Must stay true: whatever happens, a sink gets at most [`AT_MOST`] messages in any [`WINDOW`], and no event
//! that its routes give it is left out: what finds no room is told together, as the last message of its
//! window or the first of the next.

use std::time::Duration as StdDuration;

use jiff::{SignedDuration, Timestamp};
use runtime::backoff::Backoff;

use crate::alerts::{Event, Kind, Severity, Sign};
use crate::config::{Alerts, Sink};

/// Messages that a sink gets in a window.
pub const AT_MOST: usize = 5;
/// So many of them are kept for what is critical: good news must not keep bad news waiting.
const KEPT: usize = 2;
/// How long a message counts.
pub const WINDOW: SignedDuration = SignedDuration::from_mins(15);
/// How long the last message of a window waits for what happens together with it.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(60);
/// A message that was not taken for this long is given up, and shown as dead.
pub const GIVE_UP: SignedDuration = SignedDuration::from_hours(72);
const FIRST_RETRY: StdDuration = StdDuration::from_secs(4);
const LAST_RETRY: StdDuration = StdDuration::from_secs(3_600);
/// A refusal that somebody has to mend is tried again in this time at the earliest.
const REFUSED_RETRY: StdDuration = StdDuration::from_secs(600);

/// The sinks that an event goes to, by name.
pub fn sinks_of(alerts: &Alerts, event: &Event) -> Vec<String> {
    let takes = |(name, sink): &(&String, &Sink)| match sink {
        _ if is_about(event, name) => false,
        Sink::Ping(_) => {
            is_ping(event)
                && (alerts.routes.is_empty() || !names(alerts, name) || routed(alerts, event, name))
        }
        _ if alerts.routes.is_empty() => is_told_anyway(event),
        _ => routed(alerts, event, name),
    };
    alerts.sinks.iter().filter(takes).map(|(name, _)| name.clone()).collect()
}

/// That a sink takes nothing is of no use at that sink.
fn is_about(event: &Event, sink: &str) -> bool {
    matches!(event.kind, Kind::SinkFailing | Kind::PingUnsent) && event.subject == sink
}

/// What moves a dead-man switch.
fn is_ping(event: &Event) -> bool {
    event.sign == Sign::Raised
        && matches!(
            event.kind,
            Kind::BackupStarted | Kind::BackupSucceeded | Kind::BackupIncomplete | Kind::BackupFailed
        )
}

/// Where nobody has written routes.
fn is_told_anyway(event: &Event) -> bool {
    event.severity() >= Severity::Notice
}

fn names(alerts: &Alerts, sink: &str) -> bool {
    alerts.routes.iter().any(|route| route.to.iter().any(|name| name == sink))
}

fn routed(alerts: &Alerts, event: &Event, sink: &str) -> bool {
    alerts
        .routes
        .iter()
        .any(|route| route.events.contains(&event.kind) && route.to.iter().any(|name| name == sink))
}

/// What of the events that wait for a sink goes out now, a list for each message, the oldest first; the
/// rest goes on waiting. `recent` is when the sink's last messages were made.
pub fn fold(waiting: Vec<Event>, recent: &[Timestamp], now: Timestamp) -> Vec<Vec<Event>> {
    // A clock that was set back makes messages of the future: those count too, for as long.
    let counts = |made: &&Timestamp| now.duration_since(**made).abs() < WINDOW;
    let made = recent.iter().filter(counts).count();
    let is_critical = |event: &Event| event.severity() == Severity::Critical;
    let left = |of_critical: bool, made: usize| {
        let most = if of_critical { AT_MOST } else { AT_MOST - KEPT };
        most.saturating_sub(made)
    };
    let (mut messages, mut waiting) = (Vec::new(), waiting.into_iter().peekable());
    while let Some(event) = waiting.next_if(|event| left(is_critical(event), made + messages.len()) > 1) {
        messages.push(vec![event]);
    }
    let rest: Vec<Event> = waiting.collect();
    let settled = rest.first().is_some_and(|oldest| now.duration_since(oldest.at).abs() >= SETTLE);
    if settled && left(rest.iter().any(is_critical), made + messages.len()) > 0 {
        messages.push(rest);
    }
    messages
}

/// What of the events that wait for a dead-man switch is still worth a ping: the newest start and the newest
/// end; an older one would be taken for a new one.
pub fn fold_pings(waiting: Vec<Event>) -> Vec<Vec<Event>> {
    let last =
        |is_start: bool| waiting.iter().rposition(|event| (event.kind == Kind::BackupStarted) == is_start);
    let mut places: Vec<usize> = [last(true), last(false)].into_iter().flatten().collect();
    places.sort_unstable();
    places.into_iter().map(|place| vec![waiting[place].clone()]).collect()
}

/// What becomes of a message that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is sent again then.
    At(Timestamp),
    /// It is given up.
    Never,
}

/// When a message is sent again that was made at `made_at` and has failed `attempts` times. `asked` is how
/// long the receiver wants to be left alone.
pub fn again(
    made_at: Timestamp,
    attempts: u32,
    refused: bool,
    asked: Option<StdDuration>,
    random: u64,
    now: Timestamp,
) -> Again {
    if now.duration_since(made_at) >= GIVE_UP {
        return Again::Never;
    }
    let first = if refused { REFUSED_RETRY } else { FIRST_RETRY };
    let mut backoff = Backoff::new(first, LAST_RETRY);
    let mut delay = StdDuration::ZERO;
    for _ in 0..attempts.clamp(1, 16) {
        delay = backoff.next_delay(random);
    }
    let delay = delay.max(asked.unwrap_or_default().min(LAST_RETRY));
    now.checked_add(delay).map_or(Again::Never, Again::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(count: usize, at: Timestamp) -> Vec<Event> {
        let one = |nth| Event { at, ..Event::raised(Kind::BackupFailed, format!("{nth}")) };
        (0..count).map(one).collect()
    }

    fn minute(nth: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(nth)
    }

    #[test]
    fn a_thousand_failures_at_once_give_five_messages_of_which_the_last_counts_the_others() {
        let mut waiting = events(1_000, minute(0));
        let (mut made, mut sizes) = (Vec::new(), Vec::new());
        for second in 0..600 {
            let now = minute(0) + SignedDuration::from_secs(second);
            for message in fold(waiting.clone(), &made, now) {
                waiting.drain(..message.len());
                made.push(now);
                sizes.push(message.len());
            }
        }
        assert_eq!((sizes, waiting.len()), (vec![1, 1, 1, 1, 996], 0));
    }

    #[test]
    fn failures_that_go_on_are_told_five_times_a_window_and_none_is_left_out() {
        let (mut waiting, mut made, mut told) = (Vec::new(), Vec::<Timestamp>::new(), 0);
        for at in 0..600 {
            waiting.extend(events(3, minute(at)));
            for message in fold(waiting.clone(), &made, minute(at)) {
                waiting.drain(..message.len());
                told += message.len();
                made.push(minute(at));
            }
            let recent = made.iter().filter(|made| minute(at).duration_since(**made) < WINDOW).count();
            assert!(recent <= AT_MOST, "{recent} messages at minute {at}");
        }
        assert!(told + waiting.len() == 1_800 && waiting.len() < 60, "{told} told, {} wait", waiting.len());
    }

    #[test]
    fn good_news_keeps_no_bad_news_waiting() {
        let good =
            |nth: usize| Event { at: minute(0), ..Event::raised(Kind::RestoreSucceeded, format!("{nth}")) };
        let told = fold((0..9).map(good).collect(), &[], minute(0));
        assert_eq!(told.len(), AT_MOST - KEPT - 1, "the last waits for more");
        let made = vec![minute(0); AT_MOST - KEPT];
        assert!(fold((0..9).map(good).collect(), &made, minute(5)).is_empty());
        let waiting = (0..9).map(good).chain(events(1, minute(4))).collect();
        let sizes: Vec<usize> = fold(waiting, &made, minute(5)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [10], "all that waits goes with it");
        let waiting: Vec<Event> = (0..5).map(good).chain(events(1, minute(0))).collect();
        let sizes: Vec<usize> = fold(waiting, &[], minute(1)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 4], "two more are left for what is critical");
    }

    #[test]
    fn an_old_ping_is_not_sent_after_a_newer_one() {
        let one = |kind| Event::raised(kind, "");
        let waiting = vec![
            one(Kind::BackupStarted),
            one(Kind::BackupFailed),
            one(Kind::BackupStarted),
            one(Kind::BackupSucceeded),
        ];
        let kinds: Vec<Kind> = fold_pings(waiting).iter().map(|message| message[0].kind).collect();
        assert_eq!(kinds, [Kind::BackupStarted, Kind::BackupSucceeded]);
    }

    #[test]
    fn a_message_is_tried_ever_less_often_and_given_up_after_three_days() {
        let (mut now, mut attempts) = (minute(0), 0);
        while let Again::At(next) = again(minute(0), attempts + 1, false, None, u64::MAX, now) {
            assert!(next > now && next.duration_since(now) <= SignedDuration::from_hours(1));
            (now, attempts) = (next, attempts + 1);
        }
        assert!((80..100).contains(&attempts), "{attempts}");
        let asked = again(minute(0), 1, false, Some(StdDuration::from_secs(90)), 0, minute(0));
        assert_eq!(asked, Again::At(minute(0) + SignedDuration::from_secs(90)));
        let bounded = again(minute(0), 1, false, Some(StdDuration::from_secs(1 << 40)), 0, minute(0));
        assert_eq!(bounded, Again::At(minute(60)));
    }
}
