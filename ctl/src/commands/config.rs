//! `nsctl config check` and `show`: the settings that `nsctl up` would run with.

use agent::config::AgentConfig;
use controller::config::ControllerConfig;
use serde::Serialize;

use crate::cli::Config;
use crate::output::exit::{Ended, Exit};
use crate::output::{Voice, write_stdout};
use crate::up::settings;

/// Both sections, as in the file; secrets are left out by their own types.
#[derive(Serialize)]
struct Effective<'a> {
    controller: &'a ControllerConfig,
    agent: &'a AgentConfig,
}

pub(super) fn run(wanted: Config, voice: Voice) -> Ended {
    match wanted {
        Config::Check { config } => {
            let both = settings::read(config)?;
            let report = both.controller.report() + &both.agent.report();
            write_stdout(report.trim_end(), "\n")?;
        }
        Config::Show { config, origin, .. } => {
            let both = settings::read(config)?;
            let effective = Effective { controller: &both.controller.settings, agent: &both.agent.settings };
            voice.result(&effective, |_| {
                format!(
                    "# controller\n{}\n# agent\n{}",
                    both.controller.show(origin),
                    both.agent.show(origin)
                )
            })?;
        }
    }
    Ok(Exit::Done)
}
