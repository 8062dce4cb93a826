//! API tokens: made, checked, revoked.
//!
//! Must stay true: the secret has 256 random bits and is kept as its SHA-256 alone; unknown, wrong, expired
//! and revoked look the same from outside; a token that the catalog does not know is nobody's.

use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use jiff::{SignedDuration, Timestamp};
use proto::api_token::ApiToken;
use uuid::Uuid;

use crate::catalog::{ApiTokenRecord, Catalog, CatalogError};
use crate::identity::passing::Passing;
use crate::identity::sessions::{Session, Sessions};
use crate::identity::{Authority, Role};
use crate::ids::TokenId;

const USUAL_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 366);
/// More than anybody needs, those that no longer count included.
const MOST: i64 = 1_000;
/// A token that no longer counts is still listed this long.
const SHOWN_AFTER: SignedDuration = SignedDuration::from_hours(24 * 30);
const NOTE_USE_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// A token cannot be made or does not count.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefused {
    /// It is unknown, wrong, expired or revoked. Which of them is not told.
    #[error("the token is unknown, revoked or out of time")]
    Token,
    /// There are too many.
    #[error("there are already {MOST} tokens")]
    TooMany,
    /// The catalog failed.
    #[error("the catalog of tokens cannot be used")]
    Catalog(#[from] CatalogError),
}

/// Makes and checks API tokens.
#[derive(Debug, Clone)]
pub struct ApiTokens {
    authority: Arc<Authority>,
    catalog: Catalog,
    sessions: Sessions,
    passing: Passing,
}

impl ApiTokens {
    /// Tokens that carry the certificate of this authority.
    pub fn new(authority: Arc<Authority>, catalog: Catalog) -> Self {
        Self { authority, catalog, sessions: Sessions::default(), passing: Passing::default() }
    }

    /// Makes a token. Its secret is nowhere but in the answer.
    pub async fn create(
        &self,
        name: &str,
        role: Role,
        life: Option<SignedDuration>,
        by: &str,
        now: Timestamp,
    ) -> Result<(ApiToken, ApiTokenRecord), TokenRefused> {
        let id = TokenId::fresh();
        let token = fresh(id, Some(self.authority.certificate().to_vec()));
        let record = ApiTokenRecord {
            id,
            name: name.to_owned(),
            role,
            created_at: now,
            ends_at: now + life.unwrap_or(USUAL_LIFE).min(LONGEST_LIFE),
            revoked_at: None,
            last_used_at: None,
            created_by: by.to_owned(),
        };
        match self.catalog.add_api_token(&record, &hash(&token), MOST, now - SHOWN_AFTER).await? {
            true => Ok((token, record)),
            false => Err(TokenRefused::TooMany),
        }
    }

    /// Makes a token for somebody who has signed in by name and password. It is in memory alone; whoever has it
    /// ends it with [`ApiTokens::end_passing`].
    pub fn pass(
        &self,
        name: &str,
        role: Role,
        life: SignedDuration,
        now: Timestamp,
    ) -> (ApiToken, ApiTokenRecord) {
        let id = TokenId::fresh();
        let token = fresh(id, None);
        let record = ApiTokenRecord {
            id,
            name: name.to_owned(),
            role,
            created_at: now,
            ends_at: now + life,
            revoked_at: None,
            last_used_at: None,
            created_by: "a password".to_owned(),
        };
        if let Some(put_out) = self.passing.add(record.clone(), hash(&token), now) {
            self.sessions.cut(put_out);
        }
        (token, record)
    }

    /// Ends a token of [`ApiTokens::pass`], and what its holder has open; any other is left alone.
    pub fn end_passing(&self, bearer: &str) {
        let Ok(token) = ApiToken::parse(bearer) else { return };
        let id = TokenId::from(Uuid::from_bytes(*token.id()));
        if self.passing.remove(id) {
            self.sessions.cut(id);
        }
    }

    /// Whose token `bearer` is, and the call that is open from now on in its name.
    pub async fn authenticate(
        &self,
        bearer: &str,
        now: Timestamp,
    ) -> Result<(ApiTokenRecord, Session), TokenRefused> {
        let token = ApiToken::parse(bearer).map_err(|_| TokenRefused::Token)?;
        let id = TokenId::from(Uuid::from_bytes(*token.id()));
        // Before the catalog is asked, so that no revocation falls in between.
        let session = self.sessions.enter(id);
        let passing = self.passing.find(id);
        let is_passing = passing.is_some();
        let found = match passing {
            Some((record, known)) => Some((record, known.to_vec())),
            None => self.catalog.api_token(id).await?,
        };
        let (record, known) = found.ok_or(TokenRefused::Token)?;
        constant_time::verify_slices_are_equal(&hash(&token), &known).map_err(|_| TokenRefused::Token)?;
        if !record.counts(now) {
            return Err(TokenRefused::Token);
        }
        if is_passing {
            return Ok((record, session));
        }
        if record.last_used_at.is_none_or(|last| now.duration_since(last) >= NOTE_USE_EVERY)
            && let Err(error) = self.catalog.api_token_used(id, now).await
        {
            tracing::warn!(token = %id, error = proto::failure::chain(&error), "the use of a token is not recorded");
        }
        Ok((record, session))
    }

    /// All tokens that somebody has, the newest first.
    pub async fn list(&self) -> Result<Vec<ApiTokenRecord>, CatalogError> {
        self.catalog.api_tokens().await
    }

    /// Those of sign-ins by password, the newest first.
    pub fn passing(&self) -> Vec<ApiTokenRecord> {
        let mut all = self.passing.all();
        all.sort_by_key(|record| std::cmp::Reverse(record.id.to_string()));
        all
    }

    /// Lets a token count no more, and ends what its holders have open.
    pub async fn revoke(&self, id: TokenId, now: Timestamp) -> Result<(), CatalogError> {
        if !self.passing.revoke(id, now) {
            self.catalog.revoke_api_token(id, now).await?;
        }
        self.sessions.cut(id);
        Ok(())
    }
}

fn fresh(id: TokenId, certificate: Option<Vec<u8>>) -> ApiToken {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
    ApiToken::new(*id.as_uuid().as_bytes(), secret, certificate)
}

fn hash(token: &ApiToken) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token.secret());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
