//! How an agent becomes one of ours: invitation, one-time token or join key, certificate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use proto::token::JoinToken;

use crate::catalog::{AccountUse, Admission, Catalog, CatalogError, TokenUse};
use crate::identity::accounts::AccountTerms;
use crate::identity::authority::{Authority, AuthorityError, Issued, key_of_request};
use crate::identity::bounds::SourceBounds;
use crate::identity::certificate::AgentCertificate;
use crate::ids::AgentId;

/// An invitation that names no other length counts for an hour.
const USUAL_LIFE: SignedDuration = SignedDuration::from_hours(1);
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// More open invitations than anybody needs.
const MAX_OPEN_TOKENS: usize = 1_000;
/// An agent renews once in weeks, and again at once if the answer was lost. More often than this it would
/// push older lines out of the audit log, whichever of its certificates it shows.
const MOST_RENEWALS: u32 = 4;
const RENEWALS_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// What an invitation allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The agent's name, empty for any; of a join key a pattern for names.
    pub name: String,
    /// A join key: the agents choose their names, and do not become heirs of an agent of the same name.
    pub is_reusable: bool,
    /// How many agents may join.
    pub uses: u32,
    /// What they may serve.
    pub bounds: SourceBounds,
}

impl Terms {
    /// Of a one-time token for an agent of this name.
    pub fn once(name: &str) -> Self {
        Self { name: name.to_owned(), is_reusable: false, uses: 1, bounds: SourceBounds::default() }
    }
}

/// A join was refused, or could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefused {
    /// The token is unknown, used by another key, or out of time. Which of them is not told.
    #[error("the join token is unknown, used up or out of time")]
    Token,
    /// The join key does not let an agent of this name in.
    #[error("the join key is not for an agent of this name")]
    Name,
    /// The key of the request belongs to another agent.
    #[error("the key belongs to another agent, or to one that joined before")]
    KeyInUse,
    /// A renewal asks for another key than its agent has.
    #[error("a renewal is for the key that the agent has")]
    OtherKey,
    /// The agent has renewed too often.
    #[error("the agent has renewed its certificate {MOST_RENEWALS} times within ten minutes")]
    TooOften,
    /// The agent that joined with this token was shut out since.
    #[error("the agent that joined with this token was revoked")]
    Revoked,
    /// No rule of the configuration names the service account.
    #[error("no rule of the controller lets agents of this service account join")]
    Account,
    /// The rules for the service account do not let an agent of this name in.
    #[error("the controller's rules for this service account are not for an agent of this name")]
    AccountName,
    /// The account's agent of this name was shut out.
    #[error("the agent of this service account and name was revoked")]
    AccountRevoked,
    /// The service account has as many agents as it may.
    #[error("this service account has as many agents as the controller's rule allows")]
    AccountFull,
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
    renewals: Arc<Mutex<Renewals>>,
}

/// The renewals of the last minutes: since when, and how many, of each agent. As many as there are agents.
#[derive(Debug, Default)]
struct Renewals(HashMap<AgentId, (Timestamp, u32)>);

impl Renewals {
    /// Counts one; false: there were too many.
    fn count(&mut self, agent: AgentId, now: Timestamp) -> bool {
        // A clock that was set back forgets them, too.
        self.0.retain(|_, (since, _)| now.duration_since(*since).abs() < RENEWALS_WITHIN);
        let (_, times) = self.0.entry(agent).or_insert((now, 0));
        *times = times.saturating_add(1);
        *times <= MOST_RENEWALS
    }
}

impl Enrolment {
    /// An enrolment with this authority.
    pub fn new(authority: Arc<Authority>, catalog: Catalog) -> Self {
        Self { authority, catalog, renewals: Arc::default() }
    }

    /// Makes a token that agents can join with, on these terms.
    pub async fn invite(
        &self,
        terms: &Terms,
        life: Option<SignedDuration>,
        now: Timestamp,
    ) -> Result<Invitation, JoinRefused> {
        if self.catalog.open_invitations(now).await?.len() >= MAX_OPEN_TOKENS {
            return Err(JoinRefused::TooMany);
        }
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
        let token = JoinToken::new(secret, self.authority.certificate().to_vec());
        let ends_at = now + life.unwrap_or(USUAL_LIFE).min(LONGEST_LIFE);
        self.catalog.add_invitation(&hash(&token), terms, now, ends_at).await?;
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
        let Admission { agent, name, bounds } =
            match self.catalog.use_token(&hash(token), &key, name, ends_at, now).await? {
                TokenUse::Fresh(admission) => admission,
                TokenUse::Again(admission) => {
                    if self.catalog.is_admitted(admission.agent).await? != Some(true) {
                        return Err(JoinRefused::Revoked);
                    }
                    admission
                }
                TokenUse::Refused => return Err(JoinRefused::Token),
                TokenUse::WrongName => return Err(JoinRefused::Name),
                TokenUse::KeyInUse => return Err(JoinRefused::KeyInUse),
            };
        Ok(Joined { agent, issued: self.authority.certify(request, agent, &name, &bounds, now)? })
    }

    /// Gives the agent of a service account a certificate: a new agent, or the one that the account already has
    /// under this name, whose pod was made anew.
    pub async fn join_by_account(
        &self,
        terms: &AccountTerms,
        request: &[u8],
        now: Timestamp,
    ) -> Result<Joined, JoinRefused> {
        let key = key_of_request(request)?;
        let ends_at = now + super::authority::AGENT_LIFE;
        let Admission { agent, name, bounds } =
            match self.catalog.join_by_account(terms, &key, ends_at, now).await? {
                AccountUse::Joined(admission) => admission,
                AccountUse::Revoked => return Err(JoinRefused::AccountRevoked),
                AccountUse::TooMany => return Err(JoinRefused::AccountFull),
                AccountUse::KeyInUse => return Err(JoinRefused::KeyInUse),
            };
        Ok(Joined { agent, issued: self.authority.certify(request, agent, &name, &bounds, now)? })
    }

    /// A new certificate, for the same key and with the same bounds, for an agent that has one.
    pub async fn renew(
        &self,
        old: &AgentCertificate,
        request: &[u8],
        now: Timestamp,
    ) -> Result<Issued, JoinRefused> {
        if key_of_request(request)? != old.key {
            return Err(JoinRefused::OtherKey);
        }
        if !self.renewals.lock().unwrap_or_else(PoisonError::into_inner).count(old.agent, now) {
            return Err(JoinRefused::TooOften);
        }
        let issued = self.authority.certify(request, old.agent, &old.name, &old.bounds, now)?;
        self.catalog.certificate_renewed(old.agent, issued.ends_at).await?;
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
