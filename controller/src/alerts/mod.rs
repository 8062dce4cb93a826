//! Alerts: events → routes → sinks.
//!
//! Must stay true: an event is written in the transaction of the fact that it tells; whatever was written
//! is told at least once, by messages whose ids never change; what plans here is pure; silence is found by
//! looking at facts, without any event.

mod event;
mod of_jobs;

pub use event::{Event, Kind, Severity, Sign};
pub use of_jobs::job_events;
