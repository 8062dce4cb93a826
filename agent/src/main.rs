//! `neurashield-agent`: the agent as a program of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::config::{AgentConfig, USUAL_FILE};
use anyhow::Context;
use clap::{Parser, Subcommand};
use runtime::config::{Layers, Loaded, load};
use runtime::shutdown::Shutdown;

/// What still runs after the graceful stop is given up after this time.
const GIVE_UP: Duration = Duration::from_millis(500);

/// The agent of NeuraShield Backup: runs beside the data and works for a controller.
#[derive(Debug, Parser)]
#[command(name = "neurashield-agent", version = runtime::version!())]
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
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(ended) = agent::guard(&words) {
        return ended;
    }
    let arguments = Arguments::parse();
    match act(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> anyhow::Result<()> {
    let layers = Layers::of_process(arguments.config, Path::new(USUAL_FILE));
    let loaded: Loaded<AgentConfig> = load(&layers)?;
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

fn work(loaded: Loaded<AgentConfig>) -> anyhow::Result<()> {
    runtime::tls::install_crypto_provider();
    runtime::telemetry::init()?;
    runtime::steps::offer::<agent::steps::Step>("agent").context("the test of failures cannot begin")?;
    for notice in &loaded.notices {
        tracing::warn!(setting = notice.path, "{}", notice.reason);
    }
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the agent's threads cannot be started")?;
    let ended = threads.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.listen_to_signals().context("the agent cannot listen to signals")?;
        Ok(agent::run(loaded.settings, shutdown).await?)
    });
    threads.shutdown_timeout(GIVE_UP);
    ended
}
