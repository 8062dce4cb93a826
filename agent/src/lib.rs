//! The agent: runs beside the data, takes jobs, streams archives and takes them back.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the settings |
//! | `state` | key, certificate and what was pinned at the join |
//! | `connection` | joining, the control stream, connecting again |
//! | `tasks` | what the controller asks for, a few at a time |
//! | [`sources`], `served` | what is read from |
//! | `drills` | the folder in which what was restored is opened by the owner's programs |
//! | `mounts` | what is mounted, and where |
//! | `limits`, `hooks` | what a source may take; the owner's programs around its work |
//! | `pipeline`, `cache` | from a source to sealed segments; what need not be read again |
//! | `kubernetes` | the API of a cluster: what its sources, targets and workloads ask it |
//! | `platform` | what uses the data: stopped before a swap, started after |
//! | `resume`, `nodes` | what a crash left of restores, and at IPFS nodes |
//! | `restore`, [`targets`] | blobs from the wire; what is written to |
//! | [`steps`] | where tests of failures can hold it |

mod cache;
pub mod config;
mod connection;
pub mod decoders;
mod drills;
mod hooks;
mod kubernetes;
mod limits;
mod locks;
mod mounts;
mod nodes;
mod pipeline;
mod platform;
mod restore;
mod resume;
mod run;
mod served;
mod signed;
pub mod sources;
mod state;
pub mod steps;
pub mod targets;
mod tasks;

pub use run::{RunError, run};
pub use state::has_joined;

/// Is this process a guard of something that the agent has begun? Then it guards, and this is what it ends with.
pub fn guard(words: &[std::ffi::OsString]) -> Option<std::process::ExitCode> {
    hooks::guard(words)
        .or_else(|| sources::blockchain::guard(words))
        .or_else(|| sources::mongodb::lock::guard(words))
}

/// A number that others cannot foresee well enough to come at the same moment; no secret.
fn chance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
