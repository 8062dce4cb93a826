//! Power cuts, worked out: the record of what a local repository did to its file system, and from it the
//! states that a cut at any moment may leave on the disk.
#![allow(unreachable_pub, dead_code)] // each test program compiles this module and uses its part

pub mod record;
pub mod states;
