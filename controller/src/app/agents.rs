//! Agents: join, admit, list, invite, shut out.

use jiff::SignedDuration;
use proto::Failure;
use proto::convert::text;
use proto::failure::reason;
use proto::token::JoinToken;
use proto::v1::{JoinResponse, RepositoryKey};
use runtime::steps;
use tonic::Code;

use crate::app::{App, catalog_failure};
use crate::catalog::{AgentRecord, InvitationRecord};
use crate::identity::{
    Account, AccountRules, AgentCertificate, AuthorityError, Invitation, Issued, JoinRefused, Joined, Terms,
};
use crate::ids::AgentId;
use crate::kubernetes::{ReviewRefused, TokenReviews};
use crate::state::StateError;
use crate::steps::Step;

const MAX_NAME: usize = 64;

/// Who may join by a service account.
pub struct Accounts {
    /// As what.
    pub rules: AccountRules,
    /// Tells whose token it is.
    pub reviews: TokenReviews,
}

impl App {
    /// Trades the token of a pod's service account for a certificate, if a rule of the configuration lets the
    /// account in. Says which account it was.
    pub async fn join_by_account(
        &self,
        token: &str,
        request: &[u8],
        name: &str,
    ) -> Result<(Joined, Account), Failure> {
        let name = text("name", name, MAX_NAME)?;
        let accounts = self.accounts.as_ref().ok_or_else(no_accounts)?;
        let account = accounts.reviews.account(token).await.map_err(|error| {
            tracing::warn!(name, error = proto::failure::chain(&error), "a join was refused");
            review_failure(&error)
        })?;
        let joined = match accounts.rules.terms(account.clone(), &name) {
            Ok(terms) => self.enrolment.join_by_account(&terms, request, self.now()).await,
            Err(refused) => Err(refused),
        };
        let joined = joined
            .inspect_err(|error| tracing::warn!(name, %account, %error, "a join was refused"))
            .map_err(join_failure)?;
        tracing::info!(agent = %joined.agent, name, %account, "agent joined");
        steps::reached(Step::JoinRecorded).await;
        Ok((joined, account))
    }

    /// Trades a token for a certificate.
    pub async fn join(&self, token: &str, request: &[u8], name: &str) -> Result<Joined, Failure> {
        let name = text("name", name, MAX_NAME)?;
        let token = JoinToken::parse(token).map_err(|error| {
            Failure::new(Code::InvalidArgument, reason::TOKEN_REFUSED, error.to_string()).hint(JOIN_HINT)
        })?;
        let joined = self.enrolment.join(&token, request, &name, self.now()).await;
        let joined = joined
            .inspect_err(|error| tracing::warn!(name, %error, "a join was refused"))
            .map_err(join_failure)?;
        tracing::info!(agent = %joined.agent, name, "agent joined");
        steps::reached(Step::JoinRecorded).await;
        Ok(joined)
    }

    /// A new certificate for an agent that shows one.
    pub async fn renew(&self, agent: &AgentCertificate, request: &[u8]) -> Result<Issued, Failure> {
        let issued = self.enrolment.renew(agent, request, self.now()).await.map_err(join_failure)?;
        tracing::info!(agent = %agent.agent, ends_at = %issued.ends_at, "certificate renewed");
        steps::reached(Step::RenewalRecorded).await;
        Ok(issued)
    }

    /// What an agent is answered with its certificate.
    pub fn join_response(&self, agent: AgentId, issued: Issued) -> JoinResponse {
        let key = self.depot.repository().sealing_key();
        JoinResponse {
            agent_id: agent.to_string(),
            certificate: issued.certificate.into(),
            ca_certificate: self.enrolment.authority().certificate().to_vec().into(),
            repository_id: self.repository_id().as_bytes().to_vec().into(),
            repository_key: Some(RepositoryKey { epoch: key.epoch, public_key: key.key.to_vec().into() }),
        }
    }

    /// Lets an agent through that is known and not shut out. One whose certificate is good and that the
    /// catalog does not know is taken in again: the catalog was lost.
    pub async fn admit(&self, certificate: &AgentCertificate) -> Result<(), Failure> {
        let admitted =
            self.catalog.is_admitted(certificate.agent).await.map_err(|error| catalog_failure(&error))?;
        let admitted = match admitted {
            Some(admitted) => admitted,
            None => self.readmit(certificate).await?,
        };
        match admitted {
            true => Ok(()),
            false => Err(agent_revoked()),
        }
    }

    async fn readmit(&self, certificate: &AgentCertificate) -> Result<bool, Failure> {
        let app = self.clone();
        let revoked = tokio::task::spawn_blocking(move || app.state.revoked())
            .await
            .map_err(|error| {
                Failure::internal("the list of revoked agents cannot be read").caused_by(&error)
            })?
            .map_err(|error| state_failure(&error))?;
        let is_revoked = revoked.contains(&certificate.agent);
        self.catalog
            .readmit(certificate.agent, &certificate.name, certificate.ends_at, is_revoked, self.now())
            .await
            .map_err(|error| catalog_failure(&error))?;
        self.catalog.remember_certificate(certificate).await.map_err(|error| catalog_failure(&error))?;
        tracing::warn!(agent = %certificate.agent, name = certificate.name, is_revoked, "an agent that the catalog had forgotten came back");
        Ok(!is_revoked)
    }

    /// All agents, the oldest first. Those that are connected are seen at this moment.
    pub async fn agents(&self) -> Result<Vec<AgentRecord>, Failure> {
        let mut agents = self.catalog.agents().await.map_err(|error| catalog_failure(&error))?;
        for agent in agents.iter_mut().filter(|agent| self.fleet.is_connected(agent.id)) {
            agent.last_seen_at = Some(self.now());
        }
        Ok(agents)
    }

    /// A token with which one agent can join, once.
    pub async fn invite(&self, name: &str, life: Option<SignedDuration>) -> Result<Invitation, Failure> {
        self.invite_on(&Terms::once(name), life).await
    }

    /// A token with which agents can join on these terms.
    pub async fn invite_on(
        &self,
        terms: &Terms,
        life: Option<SignedDuration>,
    ) -> Result<Invitation, Failure> {
        let invitation = self.enrolment.invite(terms, life, self.now()).await.map_err(join_failure)?;
        let Terms { name, uses, bounds, .. } = terms;
        tracing::info!(name, uses, sources = %bounds, ends_at = %invitation.ends_at, "agents were invited");
        Ok(invitation)
    }

    /// The invitations that can still be used.
    pub async fn invitations(&self) -> Result<Vec<InvitationRecord>, Failure> {
        self.catalog.open_invitations(self.now()).await.map_err(|error| catalog_failure(&error))
    }

    /// Takes an invitation back: nobody joins with it any more. Who has joined stays.
    pub async fn revoke_invitation(&self, id: &str) -> Result<InvitationRecord, Failure> {
        let revoked = self.catalog.revoke_invitation(id, self.now()).await;
        let record = revoked.map_err(|error| catalog_failure(&error))?.ok_or_else(|| {
            Failure::not_found(format!("there is no open invitation {id:?}"))
                .hint("`nsctl agent invites` shows them")
        })?;
        tracing::info!(invitation = id, "an invitation was taken back");
        Ok(record)
    }

    /// Another process has shown the agent's identity.
    pub async fn tell_clone(&self, certificate: &AgentCertificate, host: &str) {
        let AgentCertificate { agent, name, .. } = certificate;
        tracing::error!(
            %agent, name, host,
            hint = CLONE_HINT, "two live processes show the identity of this agent; the first one is kept"
        );
        if let Err(error) = self.catalog.clone_seen(*agent, host, self.now()).await {
            catalog_failure(&error);
        }
    }

    /// Shuts an agent out, by its id or its name, and cuts its connection.
    pub async fn revoke(&self, which: &str) -> Result<AgentRecord, Failure> {
        let id = self.find_agent(which).await?.id;
        let app = self.clone();
        // Outside the catalog first: a catalog that is lost later must not let it in again.
        tokio::task::spawn_blocking(move || app.state.revoke(id))
            .await
            .map_err(|error| Failure::internal("the revocation cannot be kept").caused_by(&error))?
            .map_err(|error| state_failure(&error))?;
        self.catalog.revoke(id, self.now()).await.map_err(|error| catalog_failure(&error))?;
        self.fleet.shut_out(id);
        tracing::warn!(agent = %id, "agent revoked");
        self.find_agent(&id.to_string()).await
    }

    /// An agent by its id, or by its name if only one agent that is not shut out has it.
    pub async fn find_agent(&self, which: &str) -> Result<AgentRecord, Failure> {
        let agents = self.agents().await?;
        if let Some(agent) = agents.iter().find(|agent| agent.id.to_string() == which) {
            return Ok(agent.clone());
        }
        let named = agents.into_iter().filter(|agent| agent.name == which && agent.revoked_at.is_none());
        match named.collect::<Vec<_>>().as_slice() {
            [agent] => Ok(agent.clone()),
            [] => Err(Failure::not_found(format!("there is no agent {which:?}"))
                .hint("`nsctl agent list` shows them")),
            several => Err(Failure::invalid(format!("{} agents are called {which:?}", several.len()))
                .hint("use the id that `nsctl agent list` shows")),
        }
    }
}

/// The agent may do nothing any more.
pub(crate) fn agent_revoked() -> Failure {
    Failure::new(Code::PermissionDenied, reason::AGENT_REVOKED, "this agent was revoked").hint(
        "to let it in again, make a token with `nsctl agent invite`, remove agent.key and identity.json from its \
         state folder, and start it with the token",
    )
}

const JOIN_HINT: &str = "make a new token with `nsctl agent invite`";
const KEY_HINT: &str =
    "remove agent.key and identity.json from this agent's state folder, and start it with a new token";
/// What to do about two processes with one identity.
pub(crate) const CLONE_HINT: &str = "if a machine or a state folder was copied: `nsctl agent revoke` this agent, \
     remove agent.key and identity.json on both sides, and let each join with a token of its own";

fn no_accounts() -> Failure {
    Failure::new(
        Code::FailedPrecondition,
        reason::TOKEN_REFUSED,
        "this controller lets nobody join by a service account",
    )
    .hint(RULE_HINT)
}

const RULE_HINT: &str = "the controller's configuration has the rules: `kubernetes: { agents: [ … ] }`; or invite the \
                         agent with `nsctl agent invite`";

fn review_failure(error: &ReviewRefused) -> Failure {
    let what = error.to_string();
    match error {
        ReviewRefused::Token => Failure::new(Code::PermissionDenied, reason::TOKEN_REFUSED, what)
            .hint("the token's audience has to be the controller's `kubernetes.audience`"),
        ReviewRefused::Busy => Failure::new(Code::ResourceExhausted, reason::BUSY, what)
            .hint("the agent tries again by itself"),
        // What the API server said is in the controller's log; whoever asks has shown nothing yet.
        ReviewRefused::Api(_) => Failure::new(Code::Unavailable, reason::BUSY, what).hint(
            "see the controller's log; its service account needs `create` on tokenreviews.authentication.k8s.io",
        ),
    }
}

fn join_failure(error: JoinRefused) -> Failure {
    match &error {
        JoinRefused::Token => {
            Failure::new(Code::PermissionDenied, reason::TOKEN_REFUSED, error.to_string()).hint(JOIN_HINT)
        }
        JoinRefused::Name => Failure::new(Code::PermissionDenied, reason::TOKEN_REFUSED, error.to_string())
            .hint("set `name` in the agent's configuration to one that fits, or make another key"),
        JoinRefused::KeyInUse | JoinRefused::OtherKey => {
            Failure::new(Code::PermissionDenied, reason::KEY_IN_USE, error.to_string()).hint(KEY_HINT)
        }
        JoinRefused::Revoked => {
            Failure::new(Code::PermissionDenied, reason::AGENT_REVOKED, error.to_string()).hint(JOIN_HINT)
        }
        JoinRefused::Account | JoinRefused::AccountName | JoinRefused::AccountFull => {
            Failure::new(Code::PermissionDenied, reason::TOKEN_REFUSED, error.to_string()).hint(RULE_HINT)
        }
        JoinRefused::AccountRevoked => {
            Failure::new(Code::PermissionDenied, reason::AGENT_REVOKED, error.to_string())
                .hint("give the agent another name that its rule allows, and start it anew")
        }
        JoinRefused::TooMany => Failure::new(Code::ResourceExhausted, reason::BUSY, error.to_string())
            .hint("wait until some of them end"),
        JoinRefused::TooOften => Failure::new(Code::ResourceExhausted, reason::BUSY, error.to_string())
            .hint("check the clock of the agent's machine; the agent tries again by itself"),
        JoinRefused::Authority(AuthorityError::Request(why)) => {
            Failure::invalid("the certificate request is refused").because(*why)
        }
        JoinRefused::Authority(cause) => Failure::internal(error.to_string()).caused_by(cause),
        JoinRefused::Catalog(cause) => catalog_failure(cause),
    }
}

fn state_failure(error: &StateError) -> Failure {
    Failure::new(Code::Internal, reason::STORAGE, "the controller's state folder cannot be used")
        .caused_by(error)
        .hint("check its space and permissions")
}
