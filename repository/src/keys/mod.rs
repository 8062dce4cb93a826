//! The repository's secrets: the keyring, and the slots that open it.
//!
//! Must stay true: the keyring is never written but sealed, each file twice; a repository has two slots
//! from its first moment, one of them a recovery key that lies nowhere but with its owner.

mod keyring;
mod recovery;
mod slots;

pub use keyring::{DomainKeys, KeyRing};
pub use recovery::{InvalidRecoveryKey, RecoveryKey};
pub use slots::{Slot, SlotKind, SlotSecret};

pub(crate) use keyring::SealedKeyRing;
pub(crate) use slots::RootKey;
