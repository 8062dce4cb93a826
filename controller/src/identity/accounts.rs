//! Which service accounts of a Kubernetes cluster may join, and as what. Pure: who shows an account's token is
//! found out elsewhere.
//!
//! Must stay true: an account that no rule names joins as nothing; a rule's name and sources bind its agents as
//! those of a join key do.

use std::fmt;

use glob::Pattern;

use crate::config::AccountRule;
use crate::identity::bounds::{SourceBounds, name_pattern};
use crate::identity::enrolment::JoinRefused;

/// What the API server calls a pod's account.
const USER_PREFIX: &str = "system:serviceaccount:";

/// A service account, as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    namespace: String,
    name: String,
}

impl Account {
    /// The account of a user's name as the API server gives it; `None` if it is no service account.
    pub fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix(USER_PREFIX)?.split_once(':')?;
        let is_plain = |text: &str| !text.is_empty() && !text.contains([':', '/']);
        (is_plain(namespace) && is_plain(name))
            .then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an account's agent joins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountTerms {
    /// Whose agent it is.
    pub account: Account,
    /// What it is called.
    pub name: String,
    /// The operator chose this name, the agent did not.
    pub is_named: bool,
    /// What it may serve.
    pub bounds: SourceBounds,
    /// How many agents the account may have.
    pub most: u32,
}

/// The rules of the configuration.
#[derive(Debug, Clone, Default)]
pub struct AccountRules(Vec<(AccountRule, Pattern, SourceBounds)>);

impl AccountRules {
    /// From the configuration, which was checked.
    pub fn new(rules: &[AccountRule]) -> Self {
        let read = |rule: &AccountRule| {
            let pattern = name_pattern(&rule.name).expect("the configuration was checked");
            let bounds = SourceBounds::new(&rule.sources).expect("the configuration was checked");
            (rule.clone(), pattern, bounds)
        };
        Self(rules.iter().map(read).collect())
    }

    /// On which terms an agent of this account that calls itself `asked` joins.
    pub fn terms(&self, account: Account, asked: &str) -> Result<AccountTerms, JoinRefused> {
        let is_its =
            |rule: &AccountRule| rule.namespace == account.namespace && rule.service_account == account.name;
        let mut of_account = self.0.iter().filter(|(rule, ..)| is_its(rule)).peekable();
        if of_account.peek().is_none() {
            return Err(JoinRefused::Account);
        }
        let fitting = of_account.find(|(_, pattern, _)| !asked.is_empty() && pattern.matches(asked));
        let (rule, _, bounds) = fitting.ok_or(JoinRefused::AccountName)?;
        Ok(AccountTerms {
            account,
            name: asked.to_owned(),
            is_named: !rule.name.contains(['*', '?']),
            bounds: bounds.clone(),
            most: rule.most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: &str) -> Option<Account> {
        Account::of_user(user)
    }

    fn rules() -> AccountRules {
        let rule = |name: &str, source: &str| AccountRule {
            namespace: "shop".to_owned(),
            service_account: "agent".to_owned(),
            name: name.to_owned(),
            sources: vec![source.to_owned()],
            most: 3,
        };
        AccountRules::new(&[rule("main", "database/*"), rule("node-*", "models/*")])
    }

    #[test]
    fn only_users_of_the_api_server_s_form_are_accounts() {
        assert_eq!(
            account("system:serviceaccount:shop:agent").map(|a| a.to_string()),
            Some("shop/agent".to_owned())
        );
        for wrong in [
            "admin",
            "system:serviceaccount:shop",
            "system:serviceaccount::agent",
            "system:serviceaccount:shop:",
            "system:serviceaccount:shop:agent:x",
            "system:serviceaccount:shop/agent:x",
            "xsystem:serviceaccount:shop:agent",
        ] {
            assert_eq!(account(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_account_joins_by_the_first_rule_that_fits_its_name_and_no_other_account_does() {
        let of = |user: &str, name: &str| rules().terms(account(user).expect("an account"), name);
        let main = of("system:serviceaccount:shop:agent", "main").expect("joins");
        assert!(main.is_named && main.bounds.to_string() == "database/*" && main.most == 3);
        let node = of("system:serviceaccount:shop:agent", "node-7").expect("joins");
        assert!(!node.is_named && node.bounds.to_string() == "models/*");
        for name in ["", "other", "nod"] {
            let refused = of("system:serviceaccount:shop:agent", name);
            assert!(matches!(refused, Err(JoinRefused::AccountName)), "{name}: {refused:?}");
        }
        for user in ["system:serviceaccount:shop:default", "system:serviceaccount:other:agent"] {
            assert!(matches!(of(user, "main"), Err(JoinRefused::Account)), "{user}");
        }
    }
}
