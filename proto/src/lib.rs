//! The wire: what the `.proto` files generate, and the conversions that check it.
//!
//! Must stay true: nothing outside this crate and the `rpc` edges sees a generated type before a
//! conversion here has checked it; ids leave this crate as their own types.

pub mod api_token;
pub mod convert;
pub mod failure;
pub mod plan;
pub mod token;
pub mod workload;

pub use failure::Failure;

/// Everything under `neurashield/backup/v1`, generated; see `tests/generated.rs`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::large_futures)]
pub mod v1 {
    include!("generated/neurashield.backup.v1.rs");
}

/// The path of every call of every service of ours, e.g. `/neurashield.backup.v1.Jobs/GetJob`; generated.
pub const METHODS: &[&str] = include!("generated/methods.rs");

/// How many bytes a message takes on the wire.
pub fn length_on_the_wire(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

/// The encoded descriptors of all messages and services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
