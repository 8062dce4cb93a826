//! The agent: runs beside the data, takes jobs, streams archives and takes them back.

pub mod config;
pub mod sources;
pub mod targets;
