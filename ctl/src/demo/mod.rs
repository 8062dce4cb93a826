//! `nsctl demo`: the whole way, on sample data, with every claim proven before the eyes of who watches.
//!
//! Must stay true: nothing of this machine's own data is touched; a step that does not hold ends the demo
//! with an exit code that is not 0 and keeps the folder for a look; whatever happens, no process stays.

mod damage;
mod sample;
mod stage;
mod steps;
mod story;
mod trees;

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use crate::commands::block_on;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, warn};
use stage::Stage;
use steps::Steps;

/// Runs the demo; with `exit` it leaves at the end, else it waits for Ctrl-C.
pub(crate) fn run(exit: bool, voice: Voice) -> Ended {
    block_on(async { Box::pin(play(exit, voice)).await })
}

async fn play(exit: bool, voice: Voice) -> Ended {
    let cannot = |error: std::io::Error| Trouble::failed("cannot watch for Ctrl-C").caused_by(&error);
    let mut interrupts = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminations = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut stage = Stage::new()?;
    let mut steps = Steps::new(voice);
    steps
        .title(&format!("NeuraShield Backup, the whole way, on sample data in {}", stage.folder().display()));
    let ended = tokio::select! {
        ended = Box::pin(story::tell(&mut stage, &mut steps)) => ended,
        _ = interrupts.recv() => Ok(Exit::Interrupted),
        _ = terminations.recv() => Ok(Exit::Interrupted),
    };
    steps.end();
    if matches!(ended, Ok(Exit::Done)) && !exit {
        voice.say(stage.invitation());
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
    }
    stage.stop().await;
    match ended {
        Ok(exit) => remove(stage.folder()).map(|()| exit),
        Err(trouble) => {
            warn(format!(
                "\nThe demo's folder is kept for a look, with the logs of both programs: {}",
                stage.folder().display()
            ));
            Err(trouble)
        }
    }
}

fn remove(folder: &Path) -> Result<(), Trouble> {
    std::fs::remove_dir_all(folder)
        .map_err(|error| Trouble::failed(format!("cannot remove {}", folder.display())).caused_by(&error))
}
