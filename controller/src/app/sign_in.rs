//! Sign-in by name and password, for the web page.

use std::net::IpAddr;

use jiff::SignedDuration;
use proto::Failure;
use proto::api_token::ApiToken;
use proto::failure::{chain, reason};
use tonic::Code;

use crate::app::App;
use crate::audit::{Kind, Who};
use crate::catalog::ApiTokenRecord;
use crate::identity::User;

/// What the audit log calls it.
const CALL: &str = "Web/SignIn";

impl App {
    /// Makes a token for somebody who has proved to be `user`; it counts for `life` at most.
    pub async fn sign_in(
        &self,
        user: &User,
        from: IpAddr,
        life: SignedDuration,
    ) -> Result<(ApiToken, ApiTokenRecord), Failure> {
        let (token, record) = self.tokens.pass(&user.name, user.role, life, self.now());
        let who = Who {
            kind: Kind::Token,
            id: record.id.to_string(),
            name: record.name.clone(),
            from: from.to_canonical().to_string(),
        };
        let about = format!("by password, {}", user.role.word());
        if let Err(error) = self.audit.done(&who, CALL, &about).await {
            self.tokens.end_passing(&token.bearer());
            tracing::error!(error = chain(&error), "the audit log cannot be written");
            let what = "nobody can sign in by password while the audit log cannot be written";
            return Err(Failure::new(Code::Unavailable, reason::STORAGE, what)
                .caused_by(&error)
                .hint("check space and permissions of the controller's state folder"));
        }
        Ok((token, record))
    }

    /// Tells the audit log that somebody was refused; `name` only where it is somebody's.
    pub async fn sign_in_denied(&self, name: &str, from: IpAddr) {
        let from = from.to_canonical().to_string();
        tracing::warn!(user = name, from, "a sign-in by password was refused");
        let who = Who { kind: Kind::Nobody, id: String::new(), name: name.to_owned(), from };
        self.audit.denied(&who, CALL, reason::TOKEN_REFUSED).await;
    }
}
