//! The agent: runs beside the data, takes jobs, streams archives and takes them back.

pub mod sources;
pub mod targets;
