//! How fast the parts of a job go, and how long they will take: measured from one event to another.

use std::collections::HashMap;

use jiff::Timestamp;
use proto::v1::{JobPart, JobState};

use crate::web::text::{size, span};

/// Over less time than this nothing is measured.
const LEAST_SECONDS: f64 = 1.0;

/// Where a step was when it was seen first.
#[derive(Debug)]
struct Begun {
    step: String,
    at: Timestamp,
    done: u64,
}

/// What was seen of each part. A new step is measured anew.
#[derive(Debug, Default)]
pub(super) struct Meter(HashMap<String, Begun>);

impl Meter {
    /// The rate of a part and the time that it has left, in words; empty: it is not known yet.
    pub(super) fn of(&mut self, part: &JobPart, now: Timestamp) -> String {
        let source = part.source.clone().unwrap_or_default();
        let key = format!("{}/{}", source.component, source.name);
        let Some(progress) = part.progress.as_ref().filter(|_| part.state() == JobState::Running) else {
            self.0.remove(&key);
            return String::new();
        };
        let new = || Begun { step: progress.step.clone(), at: now, done: progress.done_bytes };
        let begun = self.0.entry(key).or_insert_with(new);
        if begun.step != progress.step || begun.done > progress.done_bytes {
            *begun = new();
        }
        let seconds = now.duration_since(begun.at).as_secs_f64();
        let done = progress.done_bytes - begun.done;
        if seconds < LEAST_SECONDS || done == 0 {
            return String::new();
        }
        let rate = done as f64 / seconds;
        let words = format!("{}/s", size(rate as u64));
        match progress.total_bytes.checked_sub(progress.done_bytes) {
            // A total of nothing is not known.
            Some(left) if left > 0 => format!("{words}, {} left", span((left as f64 / rate).ceil() as i64)),
            _ => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proto::v1::{SourceId, TaskProgress};

    use super::*;

    fn part(step: &str, done: u64, total: u64) -> JobPart {
        let progress = TaskProgress {
            step: step.to_owned(),
            done_bytes: done,
            total_bytes: total,
            ..TaskProgress::default()
        };
        JobPart {
            source: Some(SourceId { component: "models".to_owned(), name: "models".to_owned() }),
            state: JobState::Running.into(),
            progress: Some(progress),
            ..JobPart::default()
        }
    }

    #[test]
    fn a_rate_is_measured_within_one_step_and_says_how_long_it_will_take() {
        let mut meter = Meter::default();
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        assert_eq!(meter.of(&part("staging", 1 << 20, 11 << 20), at(0)), "", "nothing is known yet");
        assert_eq!(meter.of(&part("staging", 5 << 20, 11 << 20), at(4)), "1.0 MiB/s, 6 s left");
        assert_eq!(meter.of(&part("swapping", 0, 0), at(5)), "", "another step");
        assert_eq!(meter.of(&part("swapping", 2 << 20, 0), at(6)), "2.0 MiB/s");
        let ended = JobPart { state: JobState::Complete.into(), ..part("swapping", 4 << 20, 0) };
        assert_eq!(meter.of(&ended, at(9)), "");
    }
}
