//! Sign-in with an API token, or with a name and a password, and sign-out.
//!
//! Must stay true: whatever is not accepted is in the audit log, and the next try from there is looked at or
//! answered later ([`crate::web::passwords`], the gate).

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use proto::Failure;
use proto::failure::reason;
use proto::v1::ListJobsRequest;
use proto::v1::jobs_client::JobsClient;
use tonic::Code;
use zeroize::Zeroizing;

use crate::catalog::ApiTokenRecord;
use crate::web::form::Form;
use crate::web::guard::is_loopback;
use crate::web::sessions::LONGEST;
use crate::web::site::{Asked, COOKIE, Host, Site, address, cookie, redirect, render};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    base: std::sync::Arc<str>,
    next: String,
    refused: Option<Refused>,
    /// There are people with passwords.
    has_users: bool,
    /// The browser will not keep the cookie that is about to be set.
    is_unsafe: bool,
}

/// What was tried and not accepted.
struct Refused {
    failure: Failure,
    by_token: bool,
    /// The name that was typed.
    name: String,
}

impl SignIn {
    fn token_was_refused(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.by_token)
    }

    fn name(&self) -> &str {
        self.refused.as_ref().map_or("", |refused| &refused.name)
    }
}

/// Where to go after the sign-in: a path of ours, or the first page.
fn next_of(site: &Site, wanted: &str) -> String {
    let is_ours = wanted.starts_with(&*site.base)
        && !wanted.starts_with("//")
        && wanted.chars().all(|c| c.is_ascii_graphic() && c != '\\');
    if is_ours { wanted.to_owned() } else { site.base.to_string() }
}

fn page(site: &Site, next: &str, refused: Option<Refused>, is_unsafe: bool) -> Response {
    let next = next_of(site, next);
    let status = match refused.as_ref().map(|refused| refused.failure.code) {
        None => StatusCode::OK,
        Some(Code::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) => StatusCode::UNAUTHORIZED,
    };
    let has_users = !site.passwords.is_empty();
    let page = SignIn { base: site.base.clone(), next, refused, has_users, is_unsafe };
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
    let by_token = form.get("name").is_empty() && form.get("password").is_empty();
    let entered = match by_token {
        true => by_api_token(&site, &form, &parts).await,
        false => by_password(&site, &form, &parts).await,
    };
    let (record, token) = match entered {
        Ok(entered) => entered,
        Err(failure) => {
            let refused = Refused { failure, by_token, name: form.get("name").trim().to_owned() };
            return page(&site, form.get("next"), Some(refused), is_unsafe(&parts.headers, &host));
        }
    };
    tracing::info!(role = record.role.word(), token = %record.id, "somebody signed in to the web page");
    let kept = site.sessions.begin(record.name, record.role, token, site.app.now());
    let mut response = redirect(&next_of(&site, form.get("next")));
    set_cookie(&mut response, &format!("{COOKIE}={kept}; Path=/; Secure; HttpOnly; SameSite=Strict"));
    response
}

type Entered = (ApiTokenRecord, Zeroizing<String>);

/// The gate refuses what is not accepted, later with every failure, and tells the audit log.
async fn by_api_token(site: &Site, form: &Form, parts: &Parts) -> Result<Entered, Failure> {
    let token = Zeroizing::new(form.get("token").trim().to_owned());
    let token = proto::api_token::ApiToken::parse(&token).map_or(token, |token| token.bearer());
    let mut jobs = JobsClient::new(site.inside.with(&token, address(parts)));
    jobs.list_jobs(ListJobsRequest { limit: 1, before: String::new() }).await?;
    let authenticated = site.app.tokens.authenticate(&token, site.app.now()).await;
    let (record, _call) = authenticated.map_err(|_| {
        let what = "the token has ended in this moment";
        Failure::new(Code::Unauthenticated, reason::TOKEN_REFUSED, what)
    })?;
    Ok((record, token))
}

/// Goes to its end though the browser does not wait for it: who hangs up after a guess is in the audit log, too.
async fn by_password(site: &Site, form: &Form, parts: &Parts) -> Result<Entered, Failure> {
    let (site, from, name) = (site.clone(), address(parts), form.get("name").trim().to_owned());
    let password = Zeroizing::new(form.get("password").to_owned());
    let task = tokio::spawn(async move {
        if let Some(user) = site.passwords.check(name.clone(), password, from).await? {
            let (token, record) = site.app.sign_in(&user, from, LONGEST).await?;
            return Ok((record, token.bearer()));
        }
        // A name that nobody has may be somebody's password at the wrong place.
        let tried = if site.passwords.has(&name) { name.as_str() } else { "" };
        site.app.sign_in_denied(tried, from).await;
        let what = "the name or the password is not accepted";
        Err(Failure::new(Code::Unauthenticated, reason::TOKEN_REFUSED, what)
            .hint("they are set under `web.users` in the controller's configuration"))
    });
    task.await.unwrap_or_else(|error| Err(Failure::internal("the sign-in has ended").caused_by(&error)))
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
