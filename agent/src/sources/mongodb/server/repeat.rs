//! A command that is sent again and again, by connections of its own: it waits for nobody, and nobody for it.

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::Document;
use mongodb::error::Error;
use tokio_util::task::AbortOnDropHandle;

use super::Server;

impl Server {
    /// Runs a command again and again, as often as the first time says and each for no longer than the second, until what
    /// this returns is dropped. `heard` is told what `now` said before, and the answer, if there was one. It has
    /// connections of its own: it waits for nobody.
    pub(crate) fn repeat<T: Send + 'static>(
        &self,
        (every, longest): (Duration, Duration),
        database: &str,
        command: Document,
        now: fn() -> T,
        heard: impl Fn(T, Option<&Document>) + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        let mut options = self.options.clone();
        options.server_selection_timeout = Some(longest);
        let _within = self.runtime.enter();
        let client = Client::with_options(options).unwrap_or_else(|_| self.client.clone());
        let database = client.database(database);
        let ask = move || {
            let (database, command) = (database.clone(), command.clone());
            async move { database.run_command(command).await }
        };
        AbortOnDropHandle::new(self.runtime.spawn(again(every, longest, ask, now, heard)))
    }
}

/// Asks again and again. An answer that does not come keeps no other.
async fn again<T: Send + 'static, Answer: Future<Output = Result<Document, Error>>>(
    every: Duration,
    longest: Duration,
    ask: impl Fn() -> Answer,
    now: fn() -> T,
    heard: impl Fn(T, Option<&Document>),
) {
    loop {
        let sent = now();
        let answer = tokio::time::timeout(longest, ask()).await;
        match &answer {
            Ok(Err(error)) => {
                tracing::debug!(%error, "a MongoDB server does not take what it is told again and again");
            }
            Err(_) => tracing::debug!("a MongoDB server does not answer what it is told again and again"),
            Ok(Ok(_)) => {}
        }
        heard(sent, answer.ok().and_then(Result::ok).as_ref());
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mongodb::bson::doc;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_never_comes_keeps_no_later_one() {
        let (asked, told) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let ask = || {
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if is_first {
                    std::future::pending::<()>().await;
                }
                Ok(doc! { "n": 1 })
            }
        };
        let heard = |(), answer: Option<&Document>| told.lock().expect("free").push(answer.is_some());
        let (soon, later) = (Duration::from_millis(20), Duration::from_secs(2));
        let asking = again(soon, soon, ask, || (), heard);
        assert!(tokio::time::timeout(later, asking).await.is_err());
        let told = told.into_inner().expect("free");
        assert!(!told[0] && told.iter().any(|is_answer| *is_answer), "{told:?}");
    }
}
