//! The state folder may be lost: what is needed to make it anew lies in the repository.
//!
//! Beside each backup lies a copy of the catalog and of the state folder's small files, sealed and signed
//! (`repository::catalog_copy`); what jobs have done goes to files of history, once a day or when there is much of
//! it, and is not copied again. [`rebuild`] makes a state folder of the newest copy that can be read, of the history
//! and of the manifests.
//!
//! Must stay true: a backup never fails because its copy cannot be made; a copy does not grow with history; and
//! nothing of a copy is believed that this repository's key did not sign.

mod make;
pub mod rebuild;

pub(crate) use make::beside_backup;

/// The catalog's file in the state folder.
pub(crate) const CATALOG_FILE: &str = "catalog.sqlite";
/// The folder of the agents that were shut out, in the state folder.
const REVOKED: &str = "revoked";

/// The files of the state folder that a copy carries, as they are.
const FILES: [&str; 4] = ["controller-id", "ca.key", "ca.crt", crate::depot::DEFAULT_KEY_FILE];
