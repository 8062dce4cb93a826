//! The hours in which a source may be backed up. Pure but for the waiting.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use runtime::clock::Clock;

use crate::config::WindowConfig;

/// The clock is looked at this often: it may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Hours of a day in a zone.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    from: Time,
    to: Time,
    zone: TimeZone,
    shown: String,
}

impl Window {
    pub(super) fn new(config: &WindowConfig) -> Result<Self, jiff::Error> {
        let WindowConfig { from, to, time_zone } = config;
        let shown = format!("{} to {} ({time_zone})", from.strftime("%H:%M"), to.strftime("%H:%M"));
        Ok(Self { from: *from, to: *to, zone: TimeZone::get(time_zone)?, shown })
    }

    /// When it closes, if it is open now.
    pub(crate) fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned(self.zone.clone());
        let (date, time) = (local.date(), local.time());
        let over_midnight = self.to < self.from;
        let is_open = match over_midnight {
            false => self.from <= time && time < self.to,
            true => self.from <= time || time < self.to,
        };
        let last = if over_midnight && time >= self.from { date.tomorrow().ok()? } else { date };
        let end = self.zone.to_ambiguous_zoned(last.to_datetime(self.to));
        // An hour that comes twice belongs to the window both times.
        let end = end.later().ok()?.timestamp();
        is_open.then_some(end)
    }

    /// Resolves when it is not open any more.
    pub(crate) async fn closed(&self, clock: &dyn Clock) {
        while let Some(end) = self.open_until(clock.now()) {
            let left = Duration::try_from(end.duration_since(clock.now())).unwrap_or_default();
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(from: &str, to: &str, zone: &str, now: &str) -> Option<String> {
        let time = |text: &str| Time::strptime("%H:%M", text).expect("a time");
        let config = WindowConfig { from: time(from), to: time(to), time_zone: zone.to_owned() };
        let window = Window::new(&config).expect("a zone");
        window.open_until(now.parse().expect("a time")).map(|end| end.to_string())
    }

    #[test]
    fn a_window_is_open_from_its_start_to_right_before_its_end() {
        let utc = |now| until("01:00", "05:30", "UTC", now);
        let end = Some("2026-03-01T05:30:00Z".to_owned());
        assert_eq!(utc("2026-03-01T00:59:59.999Z"), None);
        assert_eq!(utc("2026-03-01T01:00:00Z"), end);
        assert_eq!(utc("2026-03-01T05:29:59.999Z"), end);
        assert_eq!(utc("2026-03-01T05:30:00Z"), None);
    }

    #[test]
    fn a_window_over_midnight_ends_the_next_morning() {
        let paris = |now| until("22:00", "06:00", "Europe/Paris", now);
        assert_eq!(paris("2026-01-10T20:59:59Z"), None);
        assert_eq!(paris("2026-01-10T21:00:00Z"), Some("2026-01-11T05:00:00Z".to_owned()));
        assert_eq!(paris("2026-01-11T04:59:59Z"), Some("2026-01-11T05:00:00Z".to_owned()));
        assert_eq!(paris("2026-01-11T05:00:00Z"), None);
    }

    #[test]
    fn days_of_23_and_25_hours_end_their_windows_at_the_same_hour_of_the_clock() {
        let paris = |now| until("22:00", "06:00", "Europe/Paris", now);
        assert_eq!(paris("2026-03-28T22:00:00Z"), Some("2026-03-29T04:00:00Z".to_owned()));
        assert_eq!(paris("2026-10-24T22:00:00Z"), Some("2026-10-25T05:00:00Z".to_owned()));
        // 02:30 comes twice that night: the window is open until the second time.
        let short = |now| until("00:00", "02:30", "Europe/Paris", now);
        assert_eq!(short("2026-10-24T23:00:00Z"), Some("2026-10-25T01:30:00Z".to_owned()));
        assert_eq!(short("2026-10-25T01:15:00Z"), Some("2026-10-25T01:30:00Z".to_owned()));
        // 02:30 does not come that night: what comes instead is 03:30.
        assert_eq!(short("2026-03-29T00:59:59Z"), Some("2026-03-29T01:30:00Z".to_owned()));
        assert_eq!(short("2026-03-29T01:00:00Z"), None);
    }
}
