//! The gate: every call of every service comes through here before a handler sees it.
//!
//! It finds out who calls ([`Caller`]), asks the table whether they may ([`super::calls`]), and sees to it
//! that the audit log knows of it.
//!
//! Must stay true: what the table does not allow reaches no handler; unknown, wrong, expired and revoked
//! tokens look the same from outside; no token is ever logged.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use proto::Failure;
use proto::failure::{chain, reason};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::app::App;
use crate::audit::Who;
use crate::identity::{Session, TokenRefused};
use crate::metrics::families;
use crate::rpc::attempts::Attempts;
use crate::rpc::book::OpenCall;
use crate::rpc::caller::{Caller, Peer};
use crate::rpc::calls::{self, Kept, Line, May};
use crate::rpc::ending::Ending;
use crate::rpc::peer;
use crate::rpc::under_way::UnderWay;

/// What a call is about, told by its handler for the audit log: a backup, a job, an agent, a token.
#[derive(Debug, Clone, Default)]
pub(super) struct About(Arc<Mutex<String>>);

impl About {
    /// The one of this call.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// Says it; what was said before is replaced.
    pub(super) fn say(&self, what: impl fmt::Display) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.to_string();
    }

    fn said(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts the gate before all services.
#[derive(Clone)]
pub(super) struct GateLayer {
    app: App,
    attempts: Arc<Attempts>,
    under_way: UnderWay,
}

impl GateLayer {
    pub(super) fn new(app: App) -> Self {
        Self { app, attempts: Arc::default(), under_way: UnderWay::default() }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { guard: self.clone(), inner }
    }
}

/// The gate before the services `S`.
#[derive(Clone)]
pub(super) struct Gate<S> {
    guard: GateLayer,
    inner: S,
}

type Answer = Response<Body>;

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Answer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let next = self.inner.clone();
        // The clone was not asked whether it is ready.
        let inner = std::mem::replace(&mut self.inner, next);
        let guard = self.guard.clone();
        Box::pin(async move {
            let method = calls::find(request.uri().path()).map_or("unknown", Line::name);
            let metrics = guard.app.metrics.clone();
            let (answer, result) = match guard.pass(request, inner).await {
                Ok(answer) if failure_of(&answer).is_none() => (answer, "answered"),
                Ok(answer) => (answer, "failed"),
                Err(failure) => (refusal(failure), "refused"),
            };
            metrics.add(&families::CALLS, &[method, result], 1);
            Ok(answer)
        })
    }
}

fn refusal(failure: Failure) -> Answer {
    Status::from(failure).into_http()
}

impl GateLayer {
    async fn pass<S>(&self, mut request: Request<Body>, inner: S) -> Result<Answer, Failure>
    where
        S: Service<Request<Body>, Response = Answer, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let line = calls::find(request.uri().path());
        let peer = Peer::of(request.extensions());
        let (caller, session) = match line {
            Some(Line { may: May::Anyone, .. }) => (Caller::Nobody, None),
            _ => self.caller(peer, request.extensions(), request.headers(), line).await?,
        };
        if let Some(call) = request.extensions_mut().remove::<Arc<OpenCall>>()
            && !matches!(caller, Caller::Nobody)
        {
            call.vouch();
        }
        let who = caller.who(peer);
        let Some(line) = line else {
            return Err(self.denied(&who, None, unknown_call(&caller)).await);
        };
        if !caller.may(line.may) {
            return Err(self.denied(&who, Some(line), not_allowed(&caller, line)).await);
        }
        let ends_at = if let Caller::Token(token) = &caller { Some(token.ends_at) } else { None };
        let about = About::default();
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(who.clone());
        request.extensions_mut().insert(about.clone());
        let answer = match line.kept {
            Kept::No => answered(inner, request).await,
            Kept::Both => self.keep_both(who, line, about, inner, request).await?,
            Kept::Success => self.keep_success(who, line, about, peer, inner, request).await?,
        };
        let (Some(session), Some(ends_at)) = (session, ends_at) else { return Ok(answer) };
        let left = Duration::try_from(ends_at.duration_since(self.app.now())).unwrap_or_default();
        Ok(answer.map(|body| Body::new(Ending::new(body, session, left, token_refused().into()))))
    }

    /// Who calls, and the session of a token.
    async fn caller(
        &self,
        peer: Peer,
        extensions: &http::Extensions,
        headers: &HeaderMap,
        line: Option<&Line>,
    ) -> Result<(Caller, Option<Session>), Failure> {
        let nobody = Caller::Nobody.who(peer);
        let address = match peer {
            Peer::Socket(uid) => {
                return match peer::may_command(uid, rustix::process::geteuid().as_raw()) {
                    true => Ok((Caller::User(uid.unwrap_or_default()), None)),
                    false => Err(self.denied(&nobody, line, peer::not_served(uid)).await),
                };
            }
            Peer::Network(address) => address,
        };
        let wants_agent = line.is_some_and(|line| line.may == May::Agents);
        if wants_agent || peer::shows_certificate(extensions) {
            return match peer::agent(&self.app, extensions).await {
                Ok(agent) => Ok((Caller::Agent(Box::new(agent)), None)),
                Err(failure) => Err(self.denied(&nobody, line, failure).await),
            };
        }
        let Some(bearer) = bearer(headers) else { return Ok((Caller::Nobody, None)) };
        match self.app.tokens.authenticate(bearer, self.app.now()).await {
            Ok((token, session)) => Ok((Caller::Token(Box::new(token)), Some(session))),
            Err(TokenRefused::Catalog(error)) => Err(crate::app::catalog_failure(&error)),
            Err(TokenRefused::Token | TokenRefused::TooMany) => {
                let failure = self.denied(&nobody, line, token_refused()).await;
                if let Some(address) = address {
                    self.attempts.failed(address).await;
                }
                Err(failure)
            }
        }
    }

    /// The same failure, told to the audit log.
    async fn denied(&self, who: &Who, line: Option<&Line>, failure: Failure) -> Failure {
        if matches!(failure.code, Code::Unauthenticated | Code::PermissionDenied) {
            // The path of an unknown call is whatever the caller wrote: not for our log.
            let call = line.map_or("unknown", Line::name);
            tracing::warn!(%who, from = who.from, call, reason = failure.reason, "a call was denied");
            self.app.audit.denied(who, call, &failure.reason).await;
        }
        failure
    }

    /// A call that goes to its end, and into the log, whatever becomes of its caller.
    async fn keep_both<S>(
        &self,
        who: Who,
        line: &'static Line,
        about: About,
        inner: S,
        request: Request<Body>,
    ) -> Result<Answer, Failure>
    where
        S: Service<Request<Body>, Response = Answer, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let (app, room) = (self.app.clone(), self.under_way.begin(&who)?);
        let kept = async move {
            let _room = room;
            let begun = app.audit.begin(&who, line.name()).await.map_err(|error| not_kept(&error, false))?;
            let answer = answered(inner, request).await;
            let failed = failure_of(&answer).map(|failure| failure.reason);
            let ended = app.audit.end(begun, &about.said(), failed).await;
            ended.map_err(|error| not_kept(&error, true))?;
            Ok(answer)
        };
        let task = self.app.shutdown.spawn(format!("call {}", line.name()), kept);
        task.await.unwrap_or_else(|error| Err(Failure::internal("the call has ended").caused_by(&error)))
    }

    /// A call that anybody may try. It may be repeated, so its success is kept once it is there.
    async fn keep_success<S>(
        &self,
        who: Who,
        line: &'static Line,
        about: About,
        peer: Peer,
        inner: S,
        request: Request<Body>,
    ) -> Result<Answer, Failure>
    where
        S: Service<Request<Body>, Response = Answer, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let (app, room) = (self.app.clone(), self.under_way.begin(&who)?);
        let kept = async move {
            let _room = room;
            let answer = answered(inner, request).await;
            if failure_of(&answer).is_none() {
                let told = app.audit.done(&who, line.name(), &about.said()).await;
                told.map_err(|error| not_kept(&error, true))?;
            }
            let denied = failure_of(&answer).map(|failure| failure.reason).filter(|word| is_denial(word));
            if let Some(word) = &denied {
                app.audit.denied(&who, line.name(), word).await;
            }
            Ok((answer, denied.is_some()))
        };
        let task = self.app.shutdown.spawn(format!("call {}", line.name()), kept);
        let (answer, was_denied) = task
            .await
            .unwrap_or_else(|error| Err(Failure::internal("the call has ended").caused_by(&error)))?;
        if let Peer::Network(Some(address)) = peer
            && was_denied
        {
            self.attempts.failed(address).await;
        }
        Ok(answer)
    }
}

async fn answered<S>(mut inner: S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Answer, Error = Infallible>,
{
    inner.call(request).await.unwrap_or_else(|never| match never {})
}

/// True for the word of a failure that says: the caller proved not to be one who may.
fn is_denial(word: &str) -> bool {
    matches!(word, reason::TOKEN_REFUSED | reason::AGENT_REVOKED | reason::KEY_IN_USE)
}

/// Why a call failed. A stream that breaks later has been answered.
fn failure_of(answer: &Answer) -> Option<Failure> {
    let status = Status::from_header_map(answer.headers())?;
    (status.code() != Code::Ok).then(|| Failure::from(status))
}

/// The token that a call shows. What is no text, or of another scheme, is a token that nobody has.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    Some(value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default())
}

/// One answer for all: whoever guesses learns nothing.
fn token_refused() -> Failure {
    Failure::new(Code::Unauthenticated, reason::TOKEN_REFUSED, "the token is not accepted")
        .because("it is unknown, revoked or out of time, or of another controller")
        .hint("an admin makes a new one with `nsctl token create`")
}

fn unknown_call(caller: &Caller) -> Failure {
    match caller {
        Caller::Nobody => not_known(),
        _ => Failure::new(
            Code::Unimplemented,
            reason::INVALID_REQUEST,
            "the controller does not know this call",
        )
        .hint("bring controller, agents and nsctl to the same release"),
    }
}

fn not_known() -> Failure {
    Failure::new(Code::Unauthenticated, reason::DENIED, "the controller does not know who calls")
        .because("the call shows neither a token nor an agent's certificate")
        .hint("give a token by NSCTL_TOKEN or --token-file; an admin makes one with `nsctl token create`")
}

fn not_allowed(caller: &Caller, line: &Line) -> Failure {
    let needed = match line.may {
        May::From(role) => format!("it needs the role {}", role.word()),
        May::Agents => "it is for agents".to_owned(),
        May::Anyone => String::new(),
    };
    let denied = |who: String| Failure::new(Code::PermissionDenied, reason::DENIED, who).because(needed);
    match caller {
        Caller::Nobody => not_known(),
        Caller::Agent(_) => denied("an agent may not make this call".to_owned()),
        Caller::User(_) => denied("a user of the socket may not make this call".to_owned()),
        Caller::Token(token) => {
            denied(format!("the role {} of this token is not enough for this call", token.role.word()))
                .hint("use a token with a higher role; `nsctl token create --role` makes one")
        }
    }
}

fn not_kept(error: &crate::audit::AuditError, was_done: bool) -> Failure {
    tracing::error!(error = chain(error), "the audit log cannot be written");
    let what = match was_done {
        true => "it was carried out, but its end cannot be written to the audit log",
        false => "nothing is changed while the audit log cannot be written",
    };
    Failure::new(Code::Unavailable, reason::STORAGE, what)
        .caused_by(error)
        .hint("check space and permissions of the controller's state folder")
}
