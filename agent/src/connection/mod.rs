//! The connection to the controller: the agent dials out, joins once, and then holds one control stream.
//!
//! Must stay true: the controller is believed only behind TLS whose certificate the authority of the join
//! token has signed; whatever it says about the repository is compared with what was pinned; when the
//! control stream breaks, every task ends and has cleaned up before the agent says Hello again.

mod backlog;
mod dial;
mod enrol;
mod keep;
mod session;

pub(crate) use backlog::UpQueue;
pub(crate) use dial::PART_BYTES;
pub(crate) use keep::{Agent, keep_connected};
