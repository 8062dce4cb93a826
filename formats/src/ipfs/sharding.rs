//! In which folder of flatfs which block lies.

use cid::multibase::Base;

use super::block::Cid;

/// By which characters of its name a block lies in which folder; flatfs fills up with `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// The first ones.
    Prefix(usize),
    /// The last ones.
    Suffix(usize),
    /// Those before the last one.
    NextToLast(usize),
}

impl Sharding {
    /// Kubo's own, unless it is told otherwise.
    pub const USUAL: Self = Self::NextToLast(2);

    /// As `datastore_spec` and `SHARDING` have it: `/repo/flatfs/shard/v1/next-to-last/2`.
    pub fn read(text: &str) -> Option<Self> {
        let (kind, count) = text.trim().strip_prefix("/repo/flatfs/shard/v1/")?.split_once('/')?;
        let count = count.parse().ok().filter(|count| (1..=64).contains(count))?;
        match kind {
            "prefix" => Some(Self::Prefix(count)),
            "suffix" => Some(Self::Suffix(count)),
            "next-to-last" => Some(Self::NextToLast(count)),
            _ => None,
        }
    }

    fn folder(self, name: &str) -> String {
        let (Self::Prefix(count) | Self::Suffix(count) | Self::NextToLast(count)) = self;
        let fill = "_".repeat(count + 1);
        let (text, at) = match self {
            Self::Prefix(_) => (format!("{name}{fill}"), 0),
            Self::Suffix(_) => (format!("{fill}{name}"), name.len() + 1),
            Self::NextToLast(_) => (format!("{fill}{name}"), name.len()),
        };
        text.chars().skip(at).take(count).collect()
    }
}

/// The folder and the file of a block.
pub fn block_file(cid: &Cid, sharding: Sharding) -> (String, String) {
    let name = Base::Base32Upper.encode(cid.hash().to_bytes());
    (sharding.folder(&name), format!("{name}.data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_lies_where_kubo_puts_it() {
        let empty: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("a CID");
        let at = ("X3".to_owned(), "CIQFTFEEHEDF6KLBT32BFAGLXEZL4UWFNWM4LFTLMXQBCERZ6CMLX3Y.data".to_owned());
        assert_eq!(block_file(&empty, Sharding::USUAL), at);
        for (text, folder) in [("next-to-last/3", "LX3"), ("suffix/2", "3Y"), ("prefix/5", "CIQFT")] {
            let sharding = Sharding::read(&format!("/repo/flatfs/shard/v1/{text}\n")).expect("it is known");
            assert_eq!(block_file(&empty, sharding).0, folder);
        }
        assert_eq!(Sharding::NextToLast(2).folder("A"), "__");
        assert_eq!(Sharding::Suffix(2).folder("A"), "_A");
        for unknown in ["/repo/flatfs/shard/v1/last/2", "/repo/flatfs/shard/v1/prefix/0", "next-to-last/2"] {
            assert_eq!(Sharding::read(unknown), None, "{unknown}");
        }
    }
}
