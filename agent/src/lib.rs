//! The agent: runs beside the data, takes jobs, streams archives and takes them back.

mod cache;
pub mod config;
mod pipeline;
pub mod sources;
pub mod targets;
