//! The repository: its format and its store. Knows nothing of the wire, of engines, of people.
//!
//! `docs/FORMAT.md` gives every byte that this crate writes. From the bottom up:
//!
//! | module | what |
//! |---|---|
//! | [`ids`], [`names`], [`codec`], [`signed`] | typed ids and names, the binary notation, signed JSON |
//! | [`store`], [`layout`] | where bytes lie: local disk, memory; faults for tests; the writer's lease |
//! | [`cut`], [`content`], [`pack`] | chunks, compression, ids of contents, sealing, segments, packs |
//! | [`keys`] | the keyring, the slots that open it, the recovery key |
//! | [`archive`], [`refs`], [`index`] | entries and pages; which blobs an archive needs; where they lie |
//! | [`repo`] | init, open, unlock |
//! | [`ingest`], [`backup`] | taking in segments; committing and listing backups |
//! | [`work`], [`prune`] | leases of running work; retiring backups, collecting what none needs |
//! | [`read`], `ahead`, [`export`], [`verify`] | reading an archive back, on all cores; as plain bytes; proving that it can be |
//! | [`retention`] | which backups are kept |
//! | [`catalog_copy`] | the controller's catalog, sealed, beside each backup |
//! | [`parity`], [`repair`] | mending rot; making good what is damaged from what is left |

mod ahead;
pub mod archive;
pub mod backup;
pub mod catalog_copy;
pub mod check;
pub mod codec;
pub mod content;
pub mod cut;
pub mod error;
pub mod export;
mod hex_array;
pub mod ids;
pub mod index;
mod index_files;
pub mod ingest;
pub mod keys;
pub mod layout;
pub mod listed;
pub mod names;
pub mod pack;
pub mod parity;
pub mod progress;
pub mod prune;
mod random;
pub mod read;
pub mod refs;
pub mod repair;
pub mod repo;
pub mod rescue;
pub mod retention;
mod side_by_side;
pub mod signed;
pub mod store;
pub mod verify;
pub mod work;
