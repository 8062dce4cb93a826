//! How an agent becomes one of ours: invitation, one-time token, certificate.

use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use proto::token::JoinToken;

use crate::catalog::{Catalog, CatalogError, TokenUse};
use crate::identity::authority::{Authority, AuthorityError, Issued, key_of_request};
use crate::ids::AgentId;

/// An invitation that names no other length counts for an hour.
const USUAL_LIFE: SignedDuration = SignedDuration::from_hours(1);
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// More open invitations than anybody needs.
const MAX_OPEN_TOKENS: i64 = 1_000;

/// A join was refused, or could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefused {
    /// The token is unknown, used by another key, or out of time. Which of them is not told.
    #[error("the join token is unknown, used up or out of time")]
    Token,
    /// The agent that joined with this token was shut out since.
    #[error("the agent that joined with this token was revoked")]
    Revoked,
    /// There are too many invitations that nobody has used.
    #[error("there are already {MAX_OPEN_TOKENS} open invitations")]
    TooMany,
    /// The certificate request is wrong, or no certificate could be made.
    #[error("the agent cannot be given a certificate")]
    Authority(#[from] AuthorityError),
    /// The catalog failed.
    #[error("the join cannot be recorded")]
    Catalog(#[from] CatalogError),
}

/// A new invitation.
#[derive(Debug)]
pub struct Invitation {
    /// What the operator carries to the agent.
    pub token: JoinToken,
    /// Until when it can be used.
    pub ends_at: Timestamp,
}

/// An agent that has joined.
#[derive(Debug)]
pub struct Joined {
    /// Its id.
    pub agent: AgentId,
    /// Its certificate.
    pub issued: Issued,
}

/// Lets agents join.
#[derive(Debug, Clone)]
pub struct Enrolment {
    authority: Arc<Authority>,
    catalog: Catalog,
}

impl Enrolment {
    /// An enrolment with this authority.
    pub fn new(authority: Arc<Authority>, catalog: Catalog) -> Self {
        Self { authority, catalog }
    }

    /// Makes a token that one agent can join with, once.
    pub async fn invite(
        &self,
        name: &str,
        life: Option<SignedDuration>,
        now: Timestamp,
    ) -> Result<Invitation, JoinRefused> {
        if self.catalog.count_open_tokens(now).await? >= MAX_OPEN_TOKENS {
            return Err(JoinRefused::TooMany);
        }
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
        let token = JoinToken::new(secret, self.authority.certificate().to_vec());
        let ends_at = now + life.unwrap_or(USUAL_LIFE).min(LONGEST_LIFE);
        self.catalog.add_token(&hash(&token), name, now, ends_at).await?;
        Ok(Invitation { token, ends_at })
    }

    /// Trades a token and a certificate request for a certificate. The same token with the same key gives
    /// the same agent, for as long as the token counts.
    pub async fn join(
        &self,
        token: &JoinToken,
        request: &[u8],
        name: &str,
        now: Timestamp,
    ) -> Result<Joined, JoinRefused> {
        let key = key_of_request(request)?;
        let ends_at = now + super::authority::AGENT_LIFE;
        let (agent, name) = match self.catalog.use_token(&hash(token), &key, name, ends_at, now).await? {
            TokenUse::Fresh(agent, name) => (agent, name),
            TokenUse::Again(agent, name) => {
                if self.catalog.is_admitted(agent).await? != Some(true) {
                    return Err(JoinRefused::Revoked);
                }
                (agent, name)
            }
            TokenUse::Refused => return Err(JoinRefused::Token),
        };
        Ok(Joined { agent, issued: self.authority.certify(request, agent, &name, now)? })
    }

    /// A new certificate for an agent that has one.
    pub async fn renew(
        &self,
        agent: AgentId,
        name: &str,
        request: &[u8],
        now: Timestamp,
    ) -> Result<Issued, JoinRefused> {
        let issued = self.authority.certify(request, agent, name, now)?;
        self.catalog.certificate_renewed(agent, issued.ends_at).await?;
        Ok(issued)
    }

    /// The authority that signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

fn hash(token: &JoinToken) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token.secret());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
#[path = "enrolment_tests.rs"]
mod tests;
