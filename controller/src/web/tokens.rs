//! API tokens: who has one, a new one, an end to one.
//!
//! Must stay true: a token's text is shown once, in the answer to the form that made it, and is kept nowhere.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use jiff::Timestamp;
use proto::Failure;
use proto::v1::tokens_client::TokensClient;
use proto::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Role, Token};

use crate::web::form::Form;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{Mood, State, age, time};

struct Line {
    id: String,
    name: String,
    role: &'static str,
    state: State,
    made: String,
    used: String,
    counts: bool,
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct Tokens {
    frame: Frame,
    tokens: Vec<Line>,
    /// The name and the text of one that was just made.
    fresh: Option<(String, String)>,
}

fn line(token: Token, now: Timestamp) -> Line {
    let ends = time(token.ends_at).unwrap_or(now);
    let state = match (token.revoked_at.is_some(), ends <= now) {
        (true, _) => State::new(Mood::Plain, "revoked"),
        (_, true) => State::new(Mood::Plain, "ended"),
        _ => State::new(Mood::Good, format!("ends {}", age(ends, now))),
    };
    let role = match token.role() {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
        Role::Unspecified => "none",
    };
    let made = time(token.created_at).map(|at| age(at, now)).unwrap_or_default();
    Line {
        counts: state.mood == Mood::Good,
        role,
        state,
        made: if token.created_by.is_empty() { made } else { format!("{made}, by {}", token.created_by) },
        used: time(token.last_used_at).map_or("never".to_owned(), |at| age(at, now)),
        id: token.id,
        name: token.name,
    }
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = shown(&asked, None).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, fresh: Option<(String, String)>) -> Result<Response, Failure> {
    let now = asked.site.app.now();
    let listed = TokensClient::new(asked.caller.clone()).list_tokens(ListTokensRequest {}).await?;
    let mut tokens: Vec<Line> =
        listed.into_inner().tokens.into_iter().map(|token| line(token, now)).collect();
    tokens.sort_by_key(|token| !token.counts);
    render(&Tokens { frame: asked.frame("Tokens"), tokens, fresh })
}

pub(super) async fn create(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => created(&asked, &form).await,
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}

async fn created(asked: &Asked, form: &Form) -> Result<Response, Failure> {
    let role = match form.get("role") {
        "operator" => Role::Operator,
        "admin" => Role::Admin,
        _ => Role::Viewer,
    };
    let days: u32 = form.get("days").parse().map_err(|_| {
        Failure::invalid("the number of days is not a number").hint("give whole days, 1 to 366")
    })?;
    let request = CreateTokenRequest {
        name: form.get("name").trim().to_owned(),
        role: role.into(),
        // Zero would be the usual time: nobody who writes it means that.
        valid_seconds: days.max(1).saturating_mul(86_400),
    };
    let name = request.name.clone();
    let made = TokensClient::new(asked.caller.clone()).create_token(request).await?.into_inner();
    shown(asked, Some((name, made.text))).await
}

pub(super) async fn revoke(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => {
            let request = RevokeTokenRequest { id: form.get("id").to_owned() };
            let revoked = TokensClient::new(asked.caller.clone()).revoke_token(request).await;
            revoked.map(|_| redirect(&format!("{}tokens", asked.site.base))).map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}
