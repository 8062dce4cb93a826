//! Who shows a service account's token: the API server's `TokenReview`.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;

use crate::identity::Account;

/// Whoever reaches the port can have tokens looked at: so many at a time, and no more wait.
const AT_ONCE: usize = 4;
/// Longer than any token of an API server.
const MAX_TOKEN: usize = 8 << 10;

/// A token was not accepted, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReviewRefused {
    /// It is none, or the API server does not know it, or it is meant for somebody else.
    #[error("the API server does not accept the service account's token for this controller")]
    Token,
    /// Other tokens are being looked at.
    #[error("other agents are joining at this moment")]
    Busy,
    /// The API server does not answer, or does not let the controller ask.
    #[error("the Kubernetes API server cannot be asked about the token")]
    Api(#[from] kube::Error),
}

/// Has tokens looked at.
pub struct TokenReviews {
    api: Api<TokenReview>,
    audience: String,
    places: Semaphore,
}

impl TokenReviews {
    /// By this client, for tokens that are meant for `audience`.
    pub fn new(client: Client, audience: String) -> Self {
        Self { api: Api::all(client), audience, places: Semaphore::new(AT_ONCE) }
    }

    /// Whose token it is.
    pub async fn account(&self, token: &str) -> Result<Account, ReviewRefused> {
        if !is_token(token) {
            return Err(ReviewRefused::Token);
        }
        let _place = self.places.try_acquire().map_err(|_| ReviewRefused::Busy)?;
        let spec =
            TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.api.create(&PostParams::default(), &review).await?;
        accepted(answer.status.unwrap_or_default(), &self.audience).ok_or(ReviewRefused::Token)
    }
}

/// The account, if the answer says that its token is good and meant for us. A server that knows nothing of
/// audiences says nothing of them: then the token might be one for the API server itself.
fn accepted(status: TokenReviewStatus, audience: &str) -> Option<Account> {
    let is_ours = status.audiences.is_some_and(|audiences| audiences.iter().any(|one| one == audience));
    let user = status.user.and_then(|user| user.username)?;
    (status.authenticated == Some(true) && is_ours).then(|| Account::of_user(&user)).flatten()
}

/// Three parts of Base64 for URLs. Nothing else is worth a question.
fn is_token(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= MAX_TOKEN && text.split('.').count() == 3 && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn answer(user: &str, authenticated: Option<bool>, audiences: Option<&[&str]>) -> TokenReviewStatus {
        TokenReviewStatus {
            audiences: audiences.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
            authenticated,
            user: Some(UserInfo { username: Some(user.to_owned()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        }
    }

    #[test]
    fn a_token_counts_only_if_the_server_knows_it_and_says_that_it_is_for_us() {
        const USER: &str = "system:serviceaccount:shop:agent";
        let ours: &[&str] = &["other", "backup"];
        let account = |status| accepted(status, "backup").map(|account| account.to_string());
        assert_eq!(account(answer(USER, Some(true), Some(ours))), Some("shop/agent".to_owned()));
        for refused in [
            answer(USER, Some(false), Some(ours)),
            answer(USER, None, Some(ours)),
            answer(USER, Some(true), None),
            answer(USER, Some(true), Some(&[])),
            answer(USER, Some(true), Some(&["https://kubernetes.default.svc"])),
            answer("system:node:n1", Some(true), Some(ours)),
            TokenReviewStatus { authenticated: Some(true), ..TokenReviewStatus::default() },
        ] {
            assert_eq!(account(refused.clone()), None, "{refused:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_never_asked_about() {
        assert!(is_token("eyJ.abc-_0.x9"));
        for wrong in ["", "a.b", "a.b.", "a.b.c.d", "a b.c.d", "ä.b.c", &format!("a.b.{}", "x".repeat(9_000))]
        {
            assert!(!is_token(wrong), "{wrong}");
        }
    }
}
