//! The controller: owns the repository, hands out jobs, keeps the catalog.

pub mod config;
