//! Validators: what can be typed.

use clap::Subcommand;

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum Signer {
    /// List the validators that backups have seen, and how far each has signed
    List(Output),
    /// State how far a validator has signed, higher or lower than what is known
    Set {
        /// Its address (40 hex digits), its id, or COMPONENT/SOURCE where it alone was seen
        #[arg(value_name = "VALIDATOR")]
        which: String,
        /// It has signed up to this height, and nothing above it
        height: u64,
        /// Why: it stands in the audit log
        #[arg(long)]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}
