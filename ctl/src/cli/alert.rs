//! Alerts: what can be typed.

use clap::Subcommand;

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum Alert {
    /// List what is wrong, and how each sink does
    List(Output),
    /// Send one message to a sink now
    Test {
        /// The sink's name in the configuration
        sink: String,
        #[command(flatten)]
        output: Output,
    },
    /// List what was sent, what waits, and what was given up
    History {
        /// How many messages, the newest first
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
}
