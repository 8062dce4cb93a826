//! Where a message may go: names are resolved here, and the connection goes to an address that was looked
//! at, so that a name that changes its mind in between reaches nothing.
//!
//! Must stay true: link-local and metadata addresses are never reached, private ones only where the
//! configuration allows them, however an address is spelt or wrapped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Anybody's.
    Public,
    /// Of this host or this network.
    Private,
    /// Never to be reached: link-local, metadata of a cloud, no host at all.
    Refused,
}

/// What an address is.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, d] = address.octets();
    match (a, b) {
        (0, _) | (169, 254) | (224.., _) => Reach::Refused,
        // Alibaba's metadata, in the shared range.
        (100, 100) if c == 100 => Reach::Refused,
        // Azure's, an address of its own among public ones.
        (168, 63) if [c, d] == [129, 16] => Reach::Refused,
        (192, 0) if c == 0 => Reach::Refused,
        (10 | 127, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) | (198, 18..=19) => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let words = address.segments();
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match words {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // Metadata of Amazon (with its names and its time) and of Google.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23 | 0x123 | 0x253 | 0x254] => Reach::Refused,
        [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254] => Reach::Refused,
        // IPv4 in other clothes: mapped, compatible, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => inner(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x64, 0xff9b, 1, ..] => Reach::Private,
        [0x2002, high, low, ..] => inner(high, low),
        [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00 => Reach::Refused,
        // Teredo hides an address in it.
        [0x2001, 0, ..] => Reach::Refused,
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Reach::Private,
        _ => Reach::Public,
    }
}

/// No address of a host may be reached, or none answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// It has no address.
    #[error("the host's name cannot be resolved")]
    Unknown,
    /// It has none that may be reached.
    #[error("the host's address is private (set alerts.allow_private to reach it)")]
    Private,
    /// It has none but link-local or metadata addresses.
    #[error("the host's address is link-local or a metadata service, which is never reached")]
    Refused,
    /// None answers.
    #[error("no connection: {0}")]
    Io(io::Error),
    /// None answers in time.
    #[error("no connection within {} s", CONNECT_WITHIN.as_secs())]
    Timeout,
}

/// The addresses of a host that may be reached.
pub(super) async fn resolve(host: &str, port: u16, allow: Reach) -> Result<Vec<SocketAddr>, Unreachable> {
    let found = timeout(CONNECT_WITHIN, tokio::net::lookup_host((host, port))).await;
    let found: Vec<SocketAddr> =
        found.map_err(|_| Unreachable::Timeout)?.map_err(|_| Unreachable::Unknown)?.collect();
    let worst = found.iter().map(|address| reach(address.ip())).max().ok_or(Unreachable::Unknown)?;
    let may: Vec<SocketAddr> = found.into_iter().filter(|address| reach(address.ip()) <= allow).collect();
    match (may.is_empty(), worst) {
        (false, _) => Ok(may),
        (true, Reach::Refused) => Err(Unreachable::Refused),
        (true, _) => Err(Unreachable::Private),
    }
}

/// A connection to the first of these addresses that answers.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Unreachable> {
    let mut last = Unreachable::Unknown;
    for address in addresses.iter().take(4) {
        match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Unreachable::Io(error),
            Err(_) => last = Unreachable::Timeout,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_known_in_every_wrapping() {
        let refused = [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "2001:0:1::1",
            "192.0.0.192",
        ];
        let private = [
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "64:ff9b::7f00:1",
            "2002:c0a8:101::",
            "198.18.0.1",
        ];
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "168.63.129.17",
            "172.15.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "169.253.0.1",
            "192.169.0.1",
            "11.0.0.1",
        ];
        for (addresses, expected) in
            [(&refused[..], Reach::Refused), (&private[..], Reach::Private), (&public[..], Reach::Public)]
        {
            for address in addresses {
                assert_eq!(reach(address.parse().expect("an address")), expected, "{address}");
            }
        }
    }

    #[tokio::test]
    async fn an_odd_spelling_of_an_address_is_seen_for_what_it_is() {
        for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "127.1"] {
            assert!(resolve(host, 80, Reach::Public).await.is_err(), "{host}");
        }
        for host in ["169.254.169.254", "2852039166", "0xa9.0xfe.0xa9.0xfe", "::ffff:a9fe:a9fe"] {
            assert!(resolve(host, 80, Reach::Private).await.is_err(), "{host}");
        }
        assert!(resolve("localhost", 80, Reach::Private).await.is_ok());
    }
}
