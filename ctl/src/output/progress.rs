//! The progress of long work: a bar on a terminal, a line now and then off it, nothing with `-q`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::words::{count, duration, size};
use super::{Voice, warn};

/// Between two lines off a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far a piece of work is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// What is being done, e.g. `reading`.
    pub(crate) step: String,
    /// Bytes worked through.
    pub(crate) done: u64,
    /// Bytes in all; 0: not known.
    pub(crate) total: u64,
    /// Entries worked through.
    pub(crate) entries: u64,
}

impl Reached {
    /// A total is what was there last time. Work that has gone past it has outgrown it: then nobody knows.
    fn known_total(&self) -> u64 {
        if self.done > self.total { 0 } else { self.total }
    }
}

/// Shows how far a piece of work is. Dropping it leaves the line free.
pub(crate) struct Progress {
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { started: Instant, last: Instant },
}

impl Progress {
    pub(crate) fn new(voice: &Voice) -> Self {
        let now = Instant::now();
        let shown = match (voice.is_quiet(), std::io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, true) => Shown::Bar(bar()),
            (false, false) => Shown::Lines { started: now, last: now },
        };
        Self { shown }
    }

    /// Shows nothing.
    pub(crate) fn none() -> Self {
        Self { shown: Shown::Nothing }
    }

    pub(crate) fn reached(&mut self, reached: &Reached) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                set_total(bar, reached.known_total());
                bar.set_position(reached.done);
                bar.set_message(reached.step.clone());
            }
            Shown::Lines { started, last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                warn(line(reached, started.elapsed()));
            }
            Shown::Lines { .. } => {}
        }
    }

    /// Says a line without disturbing the bar; nothing with `-q`.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.suspend(|| warn(text)),
            Shown::Lines { .. } => warn(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

const WITH_TOTAL: &str =
    "{spinner} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {left}{msg}";
const WITHOUT_TOTAL: &str = "{spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}  {msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are fixed and valid")
        .progress_chars("█▉▊▋▌▍▎▏ ")
        .with_key("left", write_left)
}

/// How long work takes from now on at the speed it had so far; `None` as long as that would be a guess: right after the
/// start, before a hundredth is done, or where it is more than a month.
fn left(done: u64, total: u64, elapsed: Duration) -> Option<f64> {
    const MONTH: f64 = 30.0 * 86_400.0;
    let is_known = elapsed >= Duration::from_secs(2) && done < total && done >= total.div_ceil(100);
    let seconds = elapsed.as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
    (is_known && seconds < MONTH).then_some(seconds)
}

fn write_left(state: &ProgressState, to: &mut dyn std::fmt::Write) {
    if let Some(seconds) = left(state.pos(), state.len().unwrap_or(0), state.elapsed()) {
        write!(to, "{} left  ", duration(seconds)).ok();
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length().with_style(style(WITHOUT_TOTAL));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn set_total(bar: &ProgressBar, total: u64) {
    match (bar.length().unwrap_or(0), total) {
        (0, 0) => {}
        (_, 0) => {
            bar.unset_length();
            bar.set_style(style(WITHOUT_TOTAL));
        }
        (0, total) => {
            bar.set_length(total);
            bar.set_style(style(WITH_TOTAL));
        }
        (old, total) if old != total => bar.set_length(total),
        _ => {}
    }
}

/// E.g. `reading: 1.20 GiB of 2.00 GiB (60 %), 12,000 entries, 210 MiB/s, 4.1 s left`.
fn line(reached: &Reached, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = reached.done as f64 / seconds;
    let mut text = format!("{}: {}", reached.step, size(reached.done));
    let total = reached.known_total();
    if total > 0 {
        text.push_str(&format!(" of {} ({:.0} %)", size(total), reached.done as f64 / total as f64 * 100.0));
    }
    text.push_str(&format!(", {} entries, {}/s", count(reached.entries), size(rate as u64)));
    if let Some(seconds) = left(reached.done, total, elapsed) {
        text.push_str(&format!(", {} left", duration(seconds)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_how_fast_and_how_long() {
        let reached = Reached { step: "reading".into(), done: 50 << 20, total: 100 << 20, entries: 1_200 };
        assert_eq!(
            line(&reached, Duration::from_secs(5)),
            "reading: 50.0 MiB of 100 MiB (50 %), 1,200 entries, 10.0 MiB/s, 5.0 s left"
        );
    }

    #[test]
    fn nobody_guesses_how_long_it_takes_from_the_first_bytes() {
        let all = 64 << 20;
        assert_eq!(left(11, all, Duration::from_secs(2)), None, "13 weeks");
        assert_eq!(left(all / 2, all, Duration::from_millis(1_900)), None, "it has just begun");
        assert_eq!(left(all / 2, all, Duration::from_secs(10)), Some(10.0));
        assert_eq!(left(all / 100 + 1, all, Duration::from_secs(30 * 86_400)), None);
        assert_eq!(left(all, all, Duration::from_secs(10)), None);
        assert_eq!(left(0, 0, Duration::from_secs(10)), None);
    }

    #[test]
    fn work_that_outgrew_its_total_claims_no_end() {
        let reached = Reached { step: "reading".into(), done: 2 << 20, total: 1 << 20, entries: 3 };
        assert_eq!(line(&reached, Duration::from_secs(1)), "reading: 2.00 MiB, 3 entries, 2.00 MiB/s");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let reached = Reached { step: "reading".into(), done: 1 << 20, total: 0, entries: 3 };
        assert_eq!(line(&reached, Duration::from_secs(1)), "reading: 1.00 MiB, 3 entries, 1.00 MiB/s");
    }
}
