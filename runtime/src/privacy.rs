//! Keeps what is in memory out of files: no core dumps, and no debugger of the same user.
//!
//! A core dump of one of our processes holds keys and the data that it worked on, and lands wherever the
//! system puts such files. A backtrace in the log tells as much of a crash as we need.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// To be called before the first secret is read, and so before there are logs. Two means, of which each
/// alone does it nearly everywhere: the limit does not bind a system that pipes dumps to a program, and a
/// sandbox may refuse the mark. What is refused leaves things as they were.
pub fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Nobody could act on an error here, and a program that does not start is no help against a dump.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
