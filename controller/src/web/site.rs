//! The pages: which there are, who may see them, and what every answer has.
//!
//! Must stay true: a request passes the checks of [`guard`] first; everything but the sign-in and the
//! stylesheet needs a session; whatever a page does, it does through [`Inside`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use proto::Failure;
use proto::failure::reason;
use proto::v1::backups_client::BackupsClient;
use proto::v1::retention_client::RetentionClient;
use tonic::Code;

use crate::app::App;
use crate::identity::Role;
use crate::rpc::{Inside, PageCaller};
use crate::web::form::{Form, encode};
use crate::web::guard::{self, Hosts};
use crate::web::passwords::Passwords;
use crate::web::sessions::{Sessions, User};
use crate::web::{
    agents, alerts, backups, browse, jobs, lists, overview, restore, retention, schedules, sign_in, tokens,
};

/// Nothing runs or is loaded but what this program itself serves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Kept only where the connection is safe, for this host alone, and away from scripts.
pub(super) const COOKIE: &str = "__Host-neurashield";
const MOST_BYTES: usize = 64 << 10;

/// What all pages share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) app: App,
    pub(super) inside: Inside,
    pub(super) sessions: Arc<Sessions>,
    /// Who signs in by name and password.
    pub(super) passwords: Arc<Passwords>,
    pub(super) uncovered: Arc<lists::Uncovered>,
    hosts: Arc<Hosts>,
    /// The path of the first page; it ends with a slash.
    pub(super) base: Arc<str>,
}

impl Site {
    /// What a path is below the first page's, whether or not a proxy has taken that away.
    fn below_base<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(&*self.base).unwrap_or_else(|| path.trim_start_matches('/'))
    }
}

/// The host that a request is for, once it is known to be one of ours.
#[derive(Debug, Clone)]
pub(super) struct Host(pub(super) String);

/// All pages.
pub fn site(app: App) -> Router {
    let hosts = app.config.certificate_names().into_iter().chain(app.config.web.hosts.clone());
    let site = Site {
        inside: Inside::new(&app),
        sessions: Arc::new(Sessions::new(app.tokens.clone())),
        passwords: Passwords::new(app.config.web.users()),
        uncovered: Arc::default(),
        hosts: Arc::new(Hosts::new(hosts)),
        base: app.config.web.path.as_str().into(),
        app,
    };
    let mut router = pages(&site.base);
    if &*site.base != "/" {
        // For a proxy that takes the path away before it hands a request on.
        router = router.merge(pages("/"));
    }
    router
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(middleware::from_fn_with_state(site.clone(), check))
        .with_state(site)
}

/// The pages below a path that ends with a slash.
fn pages(base: &str) -> Router<Site> {
    let at = |path: &str| format!("{base}{path}");
    Router::new()
        .route(base, get(overview::show))
        .route(&at("sign-in"), get(sign_in::show).post(sign_in::enter))
        .route(&at("sign-out"), post(sign_in::leave))
        .route(&at("backups"), get(backups::list))
        .route(&at("backups/start"), post(backups::start))
        .route(&at("backups/{name}"), get(backups::one))
        .route(&at("backups/{name}/browse"), get(browse::show))
        .route(&at("backups/{name}/file"), get(browse::file))
        .route(&at("backups/{name}/tar"), get(browse::tar))
        .route(&at("restore"), get(restore::choose))
        .route(&at("restore/plan"), post(restore::plan))
        .route(&at("restore/start"), post(restore::start))
        .route(&at("jobs"), get(jobs::list))
        .route(&at("jobs/{id}"), get(jobs::one))
        .route(&at("jobs/{id}/events"), get(jobs::events))
        .route(&at("jobs/{id}/cancel"), post(jobs::cancel))
        .route(&at("agents"), get(agents::show))
        .route(&at("agents/invite"), post(agents::invite))
        .route(&at("agents/uninvite"), post(agents::uninvite))
        .route(&at("schedules"), get(schedules::show).post(schedules::set))
        .route(&at("schedules/act"), post(schedules::act))
        .route(&at("uncovered"), get(lists::uncovered))
        .route(&at("alerts"), get(alerts::show))
        .route(&at("alerts/test"), post(alerts::test))
        .route(&at("retention"), get(retention::show).post(retention::set))
        .route(&at("retention/apply"), post(retention::apply))
        .route(&at("tokens"), get(tokens::show).post(tokens::create))
        .route(&at("tokens/revoke"), post(tokens::revoke))
        .route(&at("audit"), get(lists::audit))
        .route(&at("doctor"), get(lists::doctor))
        .route(&at("assets/style.css"), get(style))
        .route(&at("assets/page.js"), get(script))
        .route(&at("assets/icon.svg"), get(icon))
}

async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("../../assets/style.css"))
}

async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../assets/page.js"))
}

async fn icon() -> Response {
    asset("image/svg+xml", include_str!("../../assets/icon.svg"))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn nothing() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

/// What every request is checked for, and what every answer carries.
async fn check(State(site): State<Site>, mut request: Request, next: Next) -> Response {
    let is_asset = site.below_base(request.uri().path()).starts_with("assets/");
    let mut answer = match site.hosts.of(request.headers(), request.uri()) {
        None => refused("this name is not one of the controller's: add it to `web.hosts`\n"),
        Some(host) => match guard::foreign(request.method(), request.headers(), &host) {
            Some(why) => {
                tracing::warn!(why, "a request of another site was refused");
                refused("this request did not come from the page itself\n")
            }
            None => {
                request.extensions_mut().insert(Host(host));
                next.run(request).await
            }
        },
    };
    let kept = if is_asset { "no-cache" } else { "no-store" };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not `no-referrer`: with it browsers do not say from which page a form comes.
        (header::REFERRER_POLICY, "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, kept),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn refused(why: &'static str) -> Response {
    (StatusCode::FORBIDDEN, why).into_response()
}

/// To another page, by a GET.
pub(super) fn redirect(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

/// The session's cookie of a request.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// A request of somebody who is signed in.
pub(super) struct Asked {
    pub(super) site: Site,
    pub(super) user: User,
    pub(super) caller: PageCaller,
    pub(super) query: Form,
    cookie: String,
}

/// The address of a browser, or of the proxy before it.
pub(super) fn address(parts: &Parts) -> IpAddr {
    let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(address)| address.ip())
}

impl FromRequestParts<Site> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        let text = cookie(&parts.headers).unwrap_or_default().to_owned();
        let Some(user) = site.sessions.find(&text, site.app.now()) else {
            let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
            let next = match parts.method {
                Method::GET => format!("{}{}", site.base, site.below_base(path)),
                _ => String::new(),
            };
            return Err(redirect(&format!("{}sign-in?next={}", site.base, encode(&next))));
        };
        let caller = site.inside.with(&user.token, address(parts));
        let query = Form::parse(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self { site: site.clone(), user, caller, query, cookie: text })
    }
}

/// What stands around every page.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) base: Arc<str>,
    pub(super) title: &'static str,
    pub(super) user: String,
    pub(super) role: &'static str,
    pub(super) form_key: String,
    pub(super) may_act: bool,
    pub(super) is_admin: bool,
    /// Reloads itself where no script runs.
    pub(super) is_live: bool,
}

/// The longest message of our own services: a plan over thousands of backups is one.
const MAX_MESSAGE: usize = 64 << 20;

impl Asked {
    /// The backups, as this user may see and read them.
    pub(super) fn backups(&self) -> BackupsClient<PageCaller> {
        BackupsClient::new(self.caller.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Retention, as this user may see and order it.
    pub(super) fn retention(&self) -> RetentionClient<PageCaller> {
        RetentionClient::new(self.caller.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What stands around a page of this title.
    pub(super) fn frame(&self, title: &'static str) -> Frame {
        Frame {
            base: self.site.base.clone(),
            title,
            user: self.user.name.clone(),
            role: self.user.role.word(),
            form_key: self.user.form_key.clone(),
            may_act: self.user.role >= Role::Operator,
            is_admin: self.user.role >= Role::Admin,
            is_live: false,
        }
    }

    /// A form of this session; one without its key is another page's.
    pub(super) fn form(&self, body: &Bytes) -> Result<Form, Failure> {
        let form = Form::parse(body);
        if self.user.has_form_key(form.get("key")) {
            return Ok(form);
        }
        Err(Failure::new(Code::PermissionDenied, reason::DENIED, "this form is of another session")
            .because("somebody has signed in anew since it was shown")
            .hint("go back, load the page again and repeat what you did"))
    }

    /// The page, or what kept it from being made. Where the token is not accepted any more, the session ends.
    pub(super) fn answer(&self, made: Result<Response, Failure>) -> Response {
        let failure = match made {
            Ok(response) => return response,
            Err(failure) => failure,
        };
        if failure.code == Code::Unauthenticated {
            self.site.sessions.end(&self.cookie);
            return redirect(&format!("{}sign-in", self.site.base));
        }
        let status = match failure.code {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let page = FailurePage { frame: self.frame("That did not work"), failure };
        (status, render(&page).unwrap_or_else(|_| nothing_rendered())).into_response()
    }
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    frame: Frame,
    failure: Failure,
}

/// A page as HTML.
pub(super) fn render(page: &impl Template) -> Result<Response, Failure> {
    let made = page.render().map(|html| Html(html).into_response());
    made.map_err(|error| Failure::internal("the page cannot be made").caused_by(&error))
}

fn nothing_rendered() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made\n").into_response()
}
