//! Metrics for Prometheus: what there is ([`families`]), what is counted while the controller runs
//! ([`Metrics`]), and the text in which both are told ([`Page`]).
//!
//! Must stay true: every family stands in one table, so that documents, rules and dashboards can be held
//! against it; labels are names of things that somebody set up (components, agents, schedules, sinks) or
//! words of ours, never jobs, paths or causes; nothing secret is a label.

mod counters;
pub(crate) mod families;
mod text;

pub use counters::Metrics;
pub(crate) use text::Page;
