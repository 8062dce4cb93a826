//! The controller: owns the repository, hands out jobs, keeps the catalog.
//!
//! From the bottom up:
//!
//! | module | what |
//! |---|---|
//! | [`config`], [`ids`], [`state`] | settings, typed ids, the state folder |
//! | [`catalog`] | SQLite: agents, jobs, and what the repository holds |
//! | [`identity`] | the authority, certificates, join tokens, API tokens and roles |
//! | [`audit`] | who asked for what: append-only, chained |
//! | [`depot`] | the repository: opened, leased, pinned |
//! | [`fleet`] | connected agents and their tasks |
//! | [`ingest`] | segments in, blobs out, off the async runtime |
//! | [`jobs`] | the state machine, the queue, the runner |
//! | [`safekeeping`] | copies of the catalog in the repository, and a state folder from them |
//! | [`metrics`] | what is counted, and its text |
//! | [`alerts`] | events, routes, sinks: whom to tell what |
//! | [`app`] | every operation, once |
//! | [`rpc`], [`web`] | the edges: gRPC, the web page, probes |
//! | [`start`] | puts it all together |
//! | `guarded` | a loop that panics takes the controller with it |
//! | [`steps`] | where tests of failures can hold it |

pub mod alerts;
pub mod app;
pub mod audit;
pub mod catalog;
pub mod config;
pub mod depot;
pub mod fleet;
mod guarded;
pub mod identity;
pub mod ids;
pub mod ingest;
pub mod jobs;
pub mod kubernetes;
pub mod metrics;
pub mod rpc;
pub mod safekeeping;
pub mod schedule;
pub mod start;
pub mod state;
pub mod steps;
pub mod web;

pub use start::{Controller, StartError, run};
