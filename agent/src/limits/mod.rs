//! Limits of a source: how fast it is read and sent, how much of the processors it gets, and when.
//!
//! A limit that is not set costs nothing: there is no bucket, no thread and no wrapper then.
//!
//! Must stay true: all tasks of a source share its buckets, attempts that follow each other too; whoever waits
//! at one stops waiting when its task is cancelled.

mod bucket;
mod slow_source;
mod window;

pub(crate) use slow_source::SlowSource;
pub(crate) use window::Window;

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::config::{Limits, WindowConfig};
use bucket::Bucket;

/// A rate that several share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<Mutex<Bucket>>);

impl Pace {
    pub(crate) fn new(per_second: NonZeroU64) -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(per_second))))
    }

    /// How many bytes are best passed at a time.
    pub(crate) fn piece(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).piece()
    }

    fn take(&self, bytes: usize) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(bytes as u64, Instant::now())
    }

    /// Takes so many bytes and returns when they may have passed.
    pub(crate) async fn pass(&self, bytes: usize) {
        tokio::time::sleep(self.take(bytes)).await;
    }

    /// The same for a thread; returns at once when `cancel` is cancelled.
    pub(crate) fn pass_blocking(&self, bytes: usize, runtime: &Handle, cancel: &CancellationToken) {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = self.pass(bytes) => {}
            }
        });
    }
}

/// What one source may take.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceLimits {
    pub(crate) upload: Option<Pace>,
    pub(crate) download: Option<Pace>,
    pub(crate) read: Option<Pace>,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) window: Option<Window>,
    nice: Option<u8>,
}

impl SourceLimits {
    pub(crate) fn new(limits: &Limits, window: Option<&WindowConfig>) -> Result<Self, jiff::Error> {
        let pace = |rate: Option<runtime::config::Size>| {
            rate.and_then(|rate| NonZeroU64::new(rate.bytes())).map(Pace::new)
        };
        Ok(Self {
            upload: pace(limits.upload),
            download: pace(limits.download),
            read: pace(limits.read),
            threads: limits.threads.and_then(NonZeroUsize::new),
            window: window.map(Window::new).transpose()?,
            nice: limits.nice,
        })
    }

    /// Runs `work` with the priority that the source gets. On a thread of its own where it is not the usual
    /// one: what a thread gives away it may not take back. The threads that `work` starts inherit it.
    pub(crate) fn at_its_priority<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(nice) = self.nice.filter(|nice| *nice > 0) else { return work() };
        let stepped_back = || {
            // On Linux this is the calling thread's alone.
            if let Err(error) = rustix::process::setpriority_process(None, i32::from(nice)) {
                tracing::warn!(%error, nice, "the limit `nice` cannot be held");
            }
            work()
        };
        let ended = thread::scope(|scope| scope.spawn(stepped_back).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_waits_at_a_rate_goes_on_when_its_task_is_cancelled() {
        let pace = Pace::new(NonZeroU64::new(1_000).expect("not zero"));
        let (runtime, cancel) = (Handle::current(), CancellationToken::new());
        let began = Instant::now();
        let waiting = tokio::task::spawn_blocking({
            let cancel = cancel.clone();
            move || pace.pass_blocking(3_600_000, &runtime, &cancel)
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        cancel.cancel();
        waiting.await.expect("it goes on");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_priority_is_that_of_its_own_threads_and_not_of_the_caller() {
        let of_this_thread = || rustix::process::getpriority_process(None).expect("a priority");
        let before = of_this_thread();
        let limits = SourceLimits { nice: Some(15), ..SourceLimits::default() };
        let (there, below) = limits.at_its_priority(|| {
            (of_this_thread(), thread::scope(|scope| scope.spawn(of_this_thread).join()).expect("no panic"))
        });
        assert_eq!((there, below, of_this_thread()), (15, 15, before));
        let unlimited = SourceLimits::default();
        let caller = thread::current().id();
        assert_eq!(unlimited.at_its_priority(|| thread::current().id()), caller, "it costs no thread");
    }
}
