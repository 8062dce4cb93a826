//! `nsctl agent`: who may join, who has joined, and who is shut out.

use clap::Subcommand;

use super::Output;
use super::values::valid_seconds;

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List the agents and what they serve
    List(Output),
    /// Make a token with which one agent can join, once, or a join key for several
    Invite {
        /// What people will call the agent; of a join key a pattern, e.g. 'node-*'
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// How long it can be used: 30m, 1h, 2d
        #[arg(long = "expires", alias = "valid", value_name = "TIME", default_value = "1h")]
        #[arg(value_parser = valid_seconds)]
        valid: u32,
        /// A join key: as many agents can join with it as --uses says
        #[arg(long, requires = "uses")]
        reusable: bool,
        /// How many agents can join with it
        #[arg(long, value_name = "N", requires = "reusable")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: Option<u32>,
        /// Who joins with it may serve these sources and no others: component/source, e.g. 'models/*'
        #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
        sources: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// List the invitations that can still be used, or take one back
    Invites {
        /// Take back the invitation with this id; agents that have joined with it stay
        #[arg(long, value_name = "ID")]
        revoke: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Shut an agent out for good
    Revoke {
        /// The agent's id or name
        agent: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}
