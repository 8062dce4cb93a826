//! Alerts: events → routes → sinks ([decision 20](../../../docs/decisions/0020-an-alert-is-written-with-its-fact.md)).
//!
//! Must stay true: an event is written in the transaction of the fact that it tells; whatever was written
//! is told at least once, by messages whose ids never change; what plans here is pure; silence is found by
//! looking at facts, without any event.

mod dispatch;
mod event;
mod message;
mod of_jobs;
pub mod plan;
pub mod silence;
mod sinks;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod year_tests;

pub use dispatch::Dispatcher;
pub use event::{Event, Kind, Severity, Sign};
pub use message::Message;
pub use of_jobs::{COVERED, covered, job_events};
pub use plan::Again;
pub use sinks::{SinkError, Undelivered};
