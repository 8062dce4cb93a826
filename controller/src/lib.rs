//! The controller: owns the repository, hands out jobs, keeps the catalog.

pub mod catalog;
pub mod config;
pub mod depot;
pub mod fleet;
pub mod identity;
pub mod ids;
pub mod ingest;
pub mod jobs;
pub mod state;
