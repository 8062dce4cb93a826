//! Work that must not die unnoticed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use runtime::shutdown::Shutdown;

/// Runs `work`; false if it panicked. What it shares with others is behind locks that survive a panic.
pub(crate) async fn ends_by_itself(work: impl Future<Output = ()>) -> bool {
    let mut work = Some(Box::pin(work));
    std::future::poll_fn(move |context| {
        let Some(running) = &mut work else { return Poll::Ready(false) };
        match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context))) {
            Ok(poll) => poll.map(|()| true),
            Err(_) => {
                work = None;
                Poll::Ready(false)
            }
        }
    })
    .await
}

/// Runs a loop of the controller that nothing else watches. One that panics takes the controller with it:
/// without it nobody would be told of anything, or nothing would run by itself, and nobody would notice.
pub(crate) async fn watched(name: String, shutdown: Shutdown, work: impl Future<Output = ()>) {
    if !ends_by_itself(work).await {
        tracing::error!(part = name, "a part of the controller failed; it stops");
        shutdown.request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_noticed() {
        assert!(ends_by_itself(async { tokio::task::yield_now().await }).await);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        assert!(!ends_by_itself(panics).await);
    }

    #[tokio::test]
    async fn a_loop_that_panics_stops_the_controller_and_one_that_ends_does_not() {
        let shutdown = Shutdown::new();
        watched("fine".to_owned(), shutdown.clone(), async {}).await;
        assert!(!shutdown.token().is_cancelled());
        watched("broken".to_owned(), shutdown.clone(), async { panic!("on purpose") }).await;
        assert!(shutdown.token().is_cancelled());
    }
}
