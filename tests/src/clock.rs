//! A clock that is ahead, for one program alone: a library, loaded before all others, whose
//! `clock_gettime` adds some seconds to the time of day.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that says by how many seconds.
pub(crate) const AHEAD: &str = "SECONDS_AHEAD";

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    const char *ahead = getenv("SECONDS_AHEAD");
    if (result == 0 && clock == CLOCK_REALTIME && ahead) now->tv_sec += atol(ahead);
    return result;
}
"#;

/// Makes the library in `folder`, with the C compiler that Rust links with.
pub(crate) fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    if !library.exists() {
        std::fs::write(&source, SOURCE).expect("written");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
        assert!(
            compiled.is_ok_and(|status| status.success()),
            "the C compiler that Rust links with is there"
        );
    }
    library
}
