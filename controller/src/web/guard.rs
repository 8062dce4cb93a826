//! What a request has to be like before anything looks at it.
//!
//! Must stay true: a name that is not ours is answered by nobody (a foreign page may have bound its name to
//! our address); what changes something comes from our own page, by the browser's word.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, header};

/// The names under which the page may be asked for.
#[derive(Debug, Clone)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// The host that a request is for, with its port, if it is one of ours. An address cannot be bound to
    /// anything else, so each is fine.
    pub(super) fn of(&self, headers: &HeaderMap, uri: &Uri) -> Option<String> {
        let mut all = headers.get_all(header::HOST).iter();
        let host = match (all.next(), all.next()) {
            (Some(host), None) => host.to_str().ok()?.to_ascii_lowercase(),
            (None, None) => uri.authority()?.as_str().to_ascii_lowercase(),
            _ => return None,
        };
        let name = name_of(&host)?;
        (self.0.iter().any(|ours| ours == name) || name.parse::<IpAddr>().is_ok()).then_some(host)
    }
}

/// A host without its port, and an IPv6 address without its brackets.
pub(super) fn name_of(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (is_port && !name.is_empty()).then_some(name)
}

/// True where the browser is at this machine: then it keeps a secure cookie over plain HTTP, too.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = name_of(host).unwrap_or_default();
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Why a request is not taken as one of our own page; none: it is, or it changes nothing.
pub(super) fn foreign(method: &Method, headers: &HeaderMap, host: &str) -> Option<&'static str> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
        && site != "same-origin"
    {
        return Some("the browser says that another site sent it");
    }
    match text(header::ORIGIN) {
        Some(origin) => {
            let ours = ["http://", "https://"]
                .iter()
                .any(|scheme| origin.to_ascii_lowercase().strip_prefix(scheme) == Some(host));
            (!ours).then_some("its origin is another site")
        }
        None => Some("it does not say which page sent it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (header::HeaderName::from_static(name), value.parse().expect("a header"))
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn only_our_names_and_addresses_are_answered() {
        let hosts = Hosts::new(["localhost".to_owned(), "Backup.Example".to_owned()]);
        let host = |value: &str| hosts.of(&headers(&[("host", value)]), &Uri::from_static("/"));
        for fine in ["localhost:8080", "backup.example", "BACKUP.example:443", "10.1.2.3:8080", "[::1]:8080"]
        {
            assert!(host(fine).is_some(), "{fine}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "localhost:80:90", "", ":80", "[::1", "::1"]
        {
            assert!(host(foreign).is_none(), "{foreign}");
        }
        let mut twice = headers(&[("host", "localhost")]);
        twice.append(header::HOST, "localhost".parse().expect("a header"));
        assert!(hosts.of(&twice, &Uri::from_static("/")).is_none());
    }

    #[test]
    fn what_changes_something_comes_from_our_own_page() {
        let post = |lines: &[(&'static str, &str)]| foreign(&Method::POST, &headers(lines), "localhost:8080");
        let same = ("sec-fetch-site", "same-origin");
        assert_eq!(post(&[("origin", "http://localhost:8080"), same]), None);
        assert_eq!(post(&[("origin", "https://localhost:8080")]), None);
        for lines in [
            &[][..],
            &[same],
            &[("origin", "null"), same],
            &[("origin", "http://localhost:8081"), same],
            &[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-site")],
            &[("origin", "http://localhost:8080"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://localhost:8080.evil.example")],
        ] {
            assert!(post(lines).is_some(), "{lines:?}");
        }
        assert_eq!(foreign(&Method::GET, &headers(&[]), "localhost:8080"), None);
        assert!(foreign(&Method::DELETE, &headers(&[]), "localhost:8080").is_some());
    }
}
