//! How the allocator keeps the memory of large buffers.
//!
//! Left alone, glibc learns from the first large block that is freed to keep such blocks for later, in as many
//! heaps as there are threads: buffers of many megabytes pile up in the gaps between each other (measured on 2 GB
//! of data: 200 MB in the second run). Told to map each of them anew, it has the kernel clear and map every page
//! of every buffer: half of the processor time of a restore and of a verification. So buffers of usual size come
//! from few heaps, which keep some of what is free at their ends for the next one; larger ones are mapped one by one.
//! Figures: docs/benchmarks.md.

/// Blocks of this many bytes and more are mapped one by one: as many as only large blobs have.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_ONE_BY_ONE: libc::c_int = 2 << 20;
/// So many free bytes at the end of a heap are kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;
/// Heaps that threads share.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;

/// To be called before the first large piece of memory is taken. Does nothing where the allocator is
/// another one than glibc's.
pub fn keep_few_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (setting, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_ONE_BY_ONE),
        (libc::M_TRIM_THRESHOLD, KEPT),
        (libc::M_ARENA_MAX, HEAPS),
    ] {
        #[expect(unsafe_code, reason = "there is no other way to reach the allocator's settings")]
        // SAFETY: mallopt takes two numbers, may be called at any time and locks what it changes.
        let accepted = unsafe { libc::mallopt(setting, value) };
        if accepted != 1 {
            tracing::debug!(setting, "the allocator keeps its own setting");
        }
    }
}

/// Hands what is free in the heaps back to the system: to be called when a piece of large work has ended. Without it
/// the gaps that the work's threads left stay with the process, and the next work's buffers lie on top of them (seen:
/// 96 MiB kept after a restore on a slow disk). Walks all heaps, each locked meanwhile: not for a thread that others wait for. Does nothing where the allocator is another one than glibc's.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "there is no other way to reach the allocator's heaps")]
        // SAFETY: malloc_trim takes a number, may be called at any time and by any thread, and locks each heap.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
