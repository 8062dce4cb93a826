//! IPFS: names of blocks, what blocks link to, and files of blocks.
//!
//! Blocks come from whoever has put them into a node: what is read here is hostile until its hash is right, and
//! may be hostile then, since anybody can name any bytes by their hash.
//!
//! Must stay true: nothing here recurses with the depth of what it reads, and what is kept does not depend on a
//! length that the bytes claim.

mod block;
mod car;
mod cbor;
mod check;
mod dag_pb;
mod folder;
mod index;
mod links;
mod sharding;
mod trail;

pub use block::{Cid, Key, Verdict, held_by_name, is_followed, is_leaf, key, named, reading, verify};
pub use car::{CarReader, Section, WrongCar, header, section_head};
pub use check::IpfsCheck;
pub use cid::Version;
pub use dag_pb::{Directory, Node, node};
pub use folder::block_at;
pub use index::{IndexReader, MAX_INDEX_FILE, NoPins, Pinned};
pub use links::{Unreadable, linked, links};
pub use sharding::{Sharding, block_file};
pub use trail::{Next, Trail};

/// The codecs whose links are known.
pub mod codec {
    /// CBOR without links.
    pub const CBOR: u64 = 0x51;
    /// Bytes without links.
    pub const RAW: u64 = 0x55;
    /// What files and folders are made of.
    pub const DAG_PB: u64 = 0x70;
    /// CBOR with links.
    pub const DAG_CBOR: u64 = 0x71;
    /// The public key that a name stands for.
    pub const LIBP2P_KEY: u64 = 0x72;
    /// JSON without links.
    pub const JSON: u64 = 0x0200;
    /// JSON with links.
    pub const DAG_JSON: u64 = 0x0129;
}

/// In an archive, the blocks, one after the other.
pub const BLOCKS: &str = "blocks.car";
/// In an archive, the folder of the pins of whole graphs; each is a file that is called as its CID.
pub const RECURSIVE: &str = "pins/recursive";
/// In an archive, the folder of the pins of single blocks.
pub const DIRECT: &str = "pins/direct";
/// The longest block that is taken. Kubo takes 2 MiB, and more where it is told to.
pub const MAX_BLOCK: usize = 8 << 20;
