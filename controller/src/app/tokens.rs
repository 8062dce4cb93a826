//! API tokens: make, list, revoke.

use jiff::SignedDuration;
use proto::Failure;
use proto::api_token::ApiToken;
use proto::convert::text;
use proto::failure::reason;
use tonic::Code;

use crate::app::{App, catalog_failure};
use crate::catalog::ApiTokenRecord;
use crate::identity::{Role, TokenRefused};

const MAX_NAME: usize = 64;

impl App {
    /// Makes a token. What is returned first is its only copy.
    pub async fn create_token(
        &self,
        name: &str,
        role: Role,
        life: Option<SignedDuration>,
        by: &str,
    ) -> Result<(ApiToken, ApiTokenRecord), Failure> {
        let name = text("name", name, MAX_NAME)?;
        if name.trim().is_empty() {
            return Err(Failure::invalid("a token needs a name")
                .hint("name it after who or what uses it: nobody else can say later"));
        }
        let made = self.tokens.create(&name, role, life, by, self.now()).await;
        let (token, record) = made.map_err(|error| match &error {
            TokenRefused::Catalog(cause) => catalog_failure(cause),
            TokenRefused::TooMany | TokenRefused::Token => {
                Failure::new(Code::ResourceExhausted, reason::BUSY, error.to_string())
                    .hint("revoke those that nobody uses; a month later they are forgotten")
            }
        })?;
        tracing::info!(token = %record.id, name, role = role.word(), by, ends_at = %record.ends_at, "token made");
        Ok((token, record))
    }

    /// All tokens: those of sign-ins by password, and those that were made; the newest first.
    pub async fn api_tokens(&self) -> Result<Vec<ApiTokenRecord>, Failure> {
        let made = self.tokens.list().await.map_err(|error| catalog_failure(&error))?;
        Ok(self.tokens.passing().into_iter().chain(made).collect())
    }

    /// Lets a token count no more, by its id or its name, and ends what its holders have open.
    pub async fn revoke_token(&self, which: &str) -> Result<ApiTokenRecord, Failure> {
        let id = self.find_token(which).await?.id;
        self.tokens.revoke(id, self.now()).await.map_err(|error| catalog_failure(&error))?;
        tracing::warn!(token = %id, "token revoked");
        self.find_token(&id.to_string()).await
    }

    /// A token by its id, or by its name if only one that is not revoked has it.
    async fn find_token(&self, which: &str) -> Result<ApiTokenRecord, Failure> {
        let tokens = self.api_tokens().await?;
        if let Some(token) = tokens.iter().find(|token| token.id.to_string() == which) {
            return Ok(token.clone());
        }
        let named = tokens.into_iter().filter(|token| token.name == which && token.revoked_at.is_none());
        match named.collect::<Vec<_>>().as_slice() {
            [token] => Ok(token.clone()),
            // What was typed is not repeated: it may be a token itself.
            [] => Err(Failure::not_found("there is no token with this id or name")
                .hint("`nsctl token list` shows them")),
            several => Err(Failure::invalid(format!("{} tokens have this name", several.len()))
                .hint("use the id that `nsctl token list` shows")),
        }
    }
}
