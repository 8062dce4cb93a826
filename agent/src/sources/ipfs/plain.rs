//! Where a secret may go without TLS.
//!
//! Must stay true: over plain HTTP no secret goes to an address that everybody can reach; to one of a private network it
//! goes, and that is said in the log.

use std::net::{IpAddr, Ipv4Addr};

/// How far an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This machine.
    Own,
    /// A network of one's own.
    Private,
    /// Anywhere.
    Public,
}

pub(super) fn reach(address: IpAddr) -> Reach {
    let v4 = |address: Ipv4Addr| match address.octets() {
        [127, ..] => Reach::Own,
        // As operators and overlay networks use it.
        [100, 64..=127, ..] => Reach::Private,
        _ if address.is_private() || address.is_link_local() => Reach::Private,
        _ => Reach::Public,
    };
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => match (address.to_ipv4_mapped(), address.segments()[0]) {
            (Some(address), _) => v4(address),
            _ if address.is_loopback() => Reach::Own,
            (None, first) if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 => Reach::Private,
            _ => Reach::Public,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_is_told_from_ones_own() {
        for (address, expected) in [
            ("127.0.0.1", Reach::Own),
            ("::1", Reach::Own),
            ("::ffff:127.0.0.9", Reach::Own),
            ("10.1.2.3", Reach::Private),
            ("172.17.0.2", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("169.254.1.1", Reach::Private),
            ("fd00::1", Reach::Private),
            ("fe80::1", Reach::Private),
            ("::ffff:8.8.8.8", Reach::Public),
            ("8.8.8.8", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("100.128.0.1", Reach::Public),
            ("2606:4700::1", Reach::Public),
        ] {
            assert_eq!(reach(address.parse().expect("an address")), expected, "{address}");
        }
    }
}
