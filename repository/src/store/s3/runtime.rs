//! A few threads of their own for the requests to object storage, so that the store can be called from
//! anywhere and blocks only its caller.

use std::sync::LazyLock;
use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Runtime};

/// Requests wait far more than they work.
const THREADS: usize = 2;

/// Never dropped: a runtime must not end inside another one, and stores are dropped anywhere.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("object storage")
        .enable_all()
        .build()
        .expect("the operating system gives threads")
});

/// Runs `work` there and waits for its answer. Its own timeouts bound the wait.
pub(super) fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    // Not `block_on`, which panics where the caller's thread belongs to another runtime.
    let (answer, answered) = sync_channel(1);
    RUNTIME.spawn(async move {
        // A caller that is gone needs no answer.
        let _ = answer.send(work.await);
    });
    answered.recv().expect("a request answers and does not panic")
}

/// Runs `work` there; nobody waits for it.
pub(super) fn leave(work: impl Future<Output = ()> + Send + 'static) {
    RUNTIME.spawn(work);
}
