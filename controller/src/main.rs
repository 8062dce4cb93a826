//! `neurashield-controller`: the controller as a program of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use controller::config::{ControllerConfig, USUAL_FILE};
use runtime::config::{Layers, Loaded, load};
use runtime::shutdown::Shutdown;

/// What still runs after the graceful stop is given up after this time.
const GIVE_UP: Duration = Duration::from_millis(500);

/// The controller of NeuraShield Backup: owns the repository and hands out jobs to agents.
#[derive(Debug, Parser)]
#[command(name = "neurashield-controller", version = runtime::version!())]
struct Arguments {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "NEURASHIELD_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration can be used
    Check,
    /// Print every setting (secrets redacted)
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

fn main() -> ExitCode {
    runtime::privacy::keep_memory_private();
    match act(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> anyhow::Result<()> {
    let layers = Layers::of_process(arguments.config, Path::new(USUAL_FILE));
    let loaded: Loaded<ControllerConfig> = load(&layers)?;
    match arguments.command {
        Some(Command::Config { command: ConfigCommand::Check }) => {
            println!("{}", loaded.report().trim_end());
            Ok(())
        }
        Some(Command::Config { command: ConfigCommand::Show { origin } }) => {
            print!("{}", loaded.show(origin));
            Ok(())
        }
        None => work(loaded),
    }
}

fn work(loaded: Loaded<ControllerConfig>) -> anyhow::Result<()> {
    runtime::telemetry::init()?;
    runtime::steps::offer::<controller::steps::Step>("controller")
        .context("the test of failures cannot begin")?;
    for notice in &loaded.notices {
        tracing::warn!(setting = notice.path, "{}", notice.reason);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.listen_to_signals()?;
        controller::run(loaded.settings, shutdown).await?;
        Ok(())
    });
    runtime.shutdown_timeout(GIVE_UP);
    result
}
