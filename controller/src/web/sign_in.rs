//! Sign-in with an API token, and sign-out.

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use proto::Failure;
use proto::v1::ListJobsRequest;
use proto::v1::jobs_client::JobsClient;
use tonic::Code;
use zeroize::Zeroizing;

use crate::web::form::Form;
use crate::web::guard::is_loopback;
use crate::web::site::{Asked, COOKIE, Host, Site, address, cookie, redirect, render};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    base: std::sync::Arc<str>,
    next: String,
    refused: Option<Failure>,
    /// The browser will not keep the cookie that is about to be set.
    is_unsafe: bool,
}

/// Where to go after the sign-in: a path of ours, or the first page.
fn next_of(site: &Site, wanted: &str) -> String {
    let is_ours = wanted.starts_with(&*site.base)
        && !wanted.starts_with("//")
        && wanted.chars().all(|c| c.is_ascii_graphic() && c != '\\');
    if is_ours { wanted.to_owned() } else { site.base.to_string() }
}

fn page(site: &Site, next: &str, refused: Option<Failure>, is_unsafe: bool) -> Response {
    let next = next_of(site, next);
    let status = if refused.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
    let page = SignIn { base: site.base.clone(), next, refused, is_unsafe };
    match render(&page) {
        Ok(mut response) => {
            *response.status_mut() = status;
            response
        }
        Err(_) => redirect(&site.base),
    }
}

/// A cookie for safe connections is kept over HTTPS, and over plain HTTP by a browser on this machine.
fn is_unsafe(headers: &HeaderMap, host: &str) -> bool {
    let is_https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    !is_https && !is_loopback(host)
}

pub(super) async fn show(
    State(site): State<Site>,
    Extension(Host(host)): Extension<Host>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let query = Form::parse(uri.query().unwrap_or_default().as_bytes());
    page(&site, query.get("next"), None, is_unsafe(&headers, &host))
}

/// The parts of a request that is not signed in yet.
pub(super) struct Newcomer(Parts);

impl FromRequestParts<Site> for Newcomer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Site) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.clone()))
    }
}

pub(super) async fn enter(
    State(site): State<Site>,
    Extension(Host(host)): Extension<Host>,
    Newcomer(parts): Newcomer,
    body: Bytes,
) -> Response {
    let form = Form::parse(&body);
    let token = Zeroizing::new(form.get("token").trim().to_owned());
    let refused = |failure| page(&site, form.get("next"), Some(failure), is_unsafe(&parts.headers, &host));
    // The gate refuses what is not accepted, later with every failure, and tells the audit log.
    let token = match proto::api_token::ApiToken::parse(&token) {
        Ok(token) => token.bearer(),
        Err(_) => token,
    };
    let mut jobs = JobsClient::new(site.inside.with(&token, address(&parts)));
    if let Err(status) = jobs.list_jobs(ListJobsRequest { limit: 1, before: String::new() }).await {
        return refused(Failure::from(status));
    }
    let now = site.app.now();
    let Ok((record, _call)) = site.app.tokens.authenticate(&token, now).await else {
        return refused(Failure::new(
            Code::Unauthenticated,
            proto::failure::reason::TOKEN_REFUSED,
            "the token has ended in this moment",
        ));
    };
    let kept = site.sessions.begin(record.name, record.role, token, now);
    tracing::info!(role = record.role.word(), token = %record.id, "somebody signed in to the web page");
    let mut response = redirect(&next_of(&site, form.get("next")));
    set_cookie(&mut response, &format!("{COOKIE}={kept}; Path=/; Secure; HttpOnly; SameSite=Strict"));
    response
}

pub(super) async fn leave(asked: Asked, headers: HeaderMap, body: Bytes) -> Response {
    let left = asked.form(&body).map(|_| {
        asked.site.sessions.end(cookie(&headers).unwrap_or_default());
        let mut response = redirect(&format!("{}sign-in", asked.site.base));
        set_cookie(
            &mut response,
            &format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"),
        );
        response
    });
    asked.answer(left)
}

fn set_cookie(response: &mut Response, text: &str) {
    let value = HeaderValue::from_str(text).expect("a cookie of ours is hexadecimal");
    response.headers_mut().insert(header::SET_COOKIE, value);
}
