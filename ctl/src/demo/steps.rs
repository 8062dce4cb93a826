//! The steps as they are seen: a number, what is done, a tick, and the figure that proves it.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Voice;
use crate::output::exit::Trouble;
use crate::output::words::duration;

/// Width of the column that says what is done.
const WIDTH: usize = 34;

/// Says what happens, one line for each step.
pub(super) struct Steps {
    voice: Voice,
    number: u32,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Steps {
    pub(super) fn new(voice: Voice) -> Self {
        Self { voice, number: 0, started: Instant::now(), spinner: None }
    }

    pub(super) fn title(&self, text: &str) {
        self.voice.say(format!("{text}\n"));
    }

    /// Does `work`, whose text is the proof.
    pub(super) async fn step<T>(
        &mut self,
        what: &str,
        work: impl Future<Output = Result<(T, String), Trouble>>,
    ) -> Result<T, Trouble> {
        self.number += 1;
        let (number, started) = (self.number, Instant::now());
        if std::io::stderr().is_terminal() && !self.voice.is_quiet() {
            let style =
                ProgressStyle::with_template("{msg} {spinner}").expect("the template is fixed and valid");
            let spinner = ProgressBar::new_spinner()
                .with_style(style)
                .with_message(format!("{number:>2}  {what:<WIDTH$}"));
            spinner.enable_steady_tick(Duration::from_millis(100));
            self.spinner = Some(spinner);
        }
        let done = work.await;
        self.end_spinner();
        match done {
            Ok((value, proof)) => {
                let took = duration(started.elapsed().as_secs_f64());
                self.voice.say(format!("{number:>2}  {what:<WIDTH$} ✓ {took:>6}  {proof}"));
                Ok(value)
            }
            Err(trouble) => {
                self.voice.say(format!("{number:>2}  {what:<WIDTH$} ✗"));
                Err(trouble)
            }
        }
    }

    /// Leaves the line free, however the steps were left.
    pub(super) fn end(&mut self) {
        self.end_spinner();
    }

    /// How long all steps took.
    pub(super) fn took(&self) -> String {
        duration(self.started.elapsed().as_secs_f64())
    }

    fn end_spinner(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}
