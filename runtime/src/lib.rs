//! Process plumbing for the three programs: configuration, time, shutdown, telemetry, TLS provider,
//! backoff, small durable files, steps for tests of failures.
//!
//! Must stay true: no word of the domain (backup, archive, agent) has a meaning here and no other crate of
//! the workspace is imported, so that everything in here can be understood, tested and replaced alone.

pub mod append_file;
pub mod atomic_file;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod host;
pub mod memory;
pub mod privacy;
pub mod shutdown;
pub mod steps;
pub mod telemetry;
pub mod tls;
mod version;
pub mod xattr;
