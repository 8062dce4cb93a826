//! One request by HTTP, to an address that was looked at.
//!
//! Must stay true: no redirect is followed, no answer's text is read, and what is told of a failure holds no
//! address: an address is a secret here.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Undelivered;
use super::address::{self, Reach};

const WITHIN: Duration = Duration::from_secs(20);

/// Where to send to.
pub(super) struct Place {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Place {
    /// The place that a text names; what is wrong with it is told without repeating it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.trim().parse().map_err(|_| "the address is not a URL")?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("the address begins with neither https:// nor http://"),
        };
        let authority = uri.authority().ok_or("the address names no host")?;
        if authority.as_str().contains('@') {
            return Err("the address must not hold a user or a password");
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("the address names no host");
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { host, port, is_tls, uri })
    }

    /// The same with something between path and query, and something after the query.
    pub(super) fn with(&self, path: &str, query: &str) -> Result<Self, &'static str> {
        let before = self.uri.path().trim_end_matches('/');
        let joint = self.uri.query().map_or(String::new(), |query| format!("{query}&"));
        let scheme = if self.is_tls { "https" } else { "http" };
        let authority = self.uri.authority().ok_or("the address names no host")?;
        Self::parse(&format!("{scheme}://{authority}{before}{path}?{joint}{query}"))
    }
}

/// What is posted, and where to.
pub(super) struct Post {
    pub(super) place: Place,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What may be reached, and whose certificates are trusted.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) allow: Reach,
    pub(super) tls: Arc<rustls::ClientConfig>,
}

impl Way {
    /// Sends it; good is any answer of success.
    pub(super) async fn post(&self, post: Post) -> Result<(), Undelivered> {
        match timeout(WITHIN, self.exchange(post)).await {
            Ok(result) => result,
            Err(_) => Err(Undelivered::later(format!("no answer within {} s", WITHIN.as_secs()))),
        }
    }

    async fn exchange(&self, post: Post) -> Result<(), Undelivered> {
        let place = &post.place;
        let addresses = address::resolve(&place.host, place.port, self.allow).await?;
        if !place.is_tls && addresses.iter().any(|address| address::reach(address.ip()) == Reach::Public) {
            let why = "http:// without TLS is for private addresses only; use https://";
            return Err(Undelivered::refused(why));
        }
        let stream = address::connect(&addresses).await?;
        if !place.is_tls {
            return answer(TokioIo::new(stream), post.request()?).await;
        }
        let name = ServerName::try_from(place.host.clone())
            .map_err(|_| Undelivered::refused("the host's name is not one that a certificate can have"))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|error| Undelivered::later(format!("TLS failed: {error}")))?;
        answer(TokioIo::new(stream), post.request()?).await
    }
}

impl Post {
    fn request(self) -> Result<Request<Full<Bytes>>, Undelivered> {
        let Self { place, headers, body } = self;
        let path = place.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = place.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Undelivered::refused("the address cannot be asked for"))?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(host)
            .map_err(|_| Undelivered::refused("the host's name cannot be asked for"))?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("neurashield/", env!("CARGO_PKG_VERSION"))),
        );
        Ok(request)
    }
}

async fn answer<S>(stream: TokioIo<S>, request: Request<Full<Bytes>>) -> Result<(), Undelivered>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Undelivered::later(format!("the exchange broke: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().max_headers(64).handshake(stream).await.map_err(broken)?;
    // It ends with this exchange: the text of an answer is nobody's business.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    connection.abort();
    let response = response.map_err(broken)?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let said = format!("the answer was {}", status.as_u16());
    Err(match status.as_u16() {
        429 | 503 => Undelivered::later(said).after(retry_after(response.headers())),
        300..=399 => Undelivered::refused(format!("{said}, a redirect, which is not followed")),
        408 | 425 | 500.. => Undelivered::later(said),
        _ => Undelivered::refused(said),
    })
}

/// Seconds, as a number or with the parts of a second that Discord gives.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds.ceil()).ok())
}
