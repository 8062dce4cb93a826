//! The pipeline from real folders to sealed segments, and back through the restore side.

mod archives;
mod bench;
mod faults;
mod lists;
mod stamps;
mod uploads;
