//! Sign-in with an API token, or with a name and a password, and sign-out.
//!
//! Must stay true: whatever is not accepted goes through the gate, which refuses it, later with every failure,
//! and tells the audit log.

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
use crate::web::sessions::LONGEST;
use crate::web::site::{Asked, COOKIE, Host, Site, address, cookie, redirect, render};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    base: std::sync::Arc<str>,
    next: String,
    refused: Option<Failure>,
    /// There are people with passwords.
    has_users: bool,
    /// What was refused was a token.
    by_token: bool,
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

fn page(site: &Site, next: &str, refused: Option<Failure>, is_unsafe: bool, by_token: bool) -> Response {
    let next = next_of(site, next);
    let status = if refused.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
    let has_users = !site.users.is_empty();
    let page = SignIn { base: site.base.clone(), next, refused, has_users, by_token, is_unsafe };
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
    page(&site, query.get("next"), None, is_unsafe(&headers, &host), false)
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
    let by_token = form.get("name").is_empty() && form.get("password").is_empty();
    let refused =
        |failure| page(&site, form.get("next"), Some(failure), is_unsafe(&parts.headers, &host), by_token);
    let token = match by_token {
        true => shown_token(&form),
        false => match token_of_password(&site, &form, &parts).await {
            Ok(token) => token,
            Err(failure) => return refused(failure),
        },
    };
    let mut jobs = JobsClient::new(site.inside.with(&token, address(&parts)));
    if let Err(status) = jobs.list_jobs(ListJobsRequest { limit: 1, before: String::new() }).await {
        return refused(if by_token { Failure::from(status) } else { password_refused(status) });
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

/// A token as it was typed, for the gate to judge.
fn shown_token(form: &Form) -> Zeroizing<String> {
    let token = Zeroizing::new(form.get("token").trim().to_owned());
    proto::api_token::ApiToken::parse(&token).map_or(token, |token| token.bearer())
}

/// The token that a name and a password bring; one that nobody has where they are not accepted.
async fn token_of_password(site: &Site, form: &Form, parts: &Parts) -> Result<Zeroizing<String>, Failure> {
    match site.users.find(form.get("name").trim(), form.get("password")) {
        None => Ok(Zeroizing::default()),
        Some(user) => Ok(site.app.sign_in(user, address(parts), LONGEST).await?.0.bearer()),
    }
}

/// What the gate said of the token that nobody has, said of the name and the password.
fn password_refused(status: tonic::Status) -> Failure {
    let failure = Failure::from(status);
    match failure.code {
        Code::Unauthenticated => {
            let what = "the name or the password is not accepted";
            Failure::new(failure.code, proto::failure::reason::TOKEN_REFUSED, what)
                .hint("they are set under `web.users` in the controller's configuration")
        }
        _ => failure,
    }
}

pub(super) async fn leave(asked: Asked, headers: HeaderMap, body: Bytes) -> Response {
    let left = asked.form(&body).map(|_| {
        let user = asked.site.sessions.end(cookie(&headers).unwrap_or_default());
        user.iter().for_each(|user| asked.site.app.tokens.end_passing(&user.token));
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
