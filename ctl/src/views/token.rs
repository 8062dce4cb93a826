//! API tokens.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::time;
use crate::output::table::{Rows, or_dash};
use crate::output::words::{age, utc};

/// All tokens.
#[derive(Debug, Serialize)]
pub(crate) struct Tokens {
    pub(crate) tokens: Vec<Token>,
}

/// One token, without its secret.
#[derive(Debug, Serialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) state: &'static str,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) ends_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) created_by: String,
}

/// A token that was just made. Not `Debug`: it holds the secret.
#[derive(Serialize)]
pub(crate) struct NewToken {
    pub(crate) token: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) ends_at: Option<Timestamp>,
}

fn role(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Viewer => "viewer",
        v1::Role::Operator => "operator",
        v1::Role::Admin => "admin",
        v1::Role::Unspecified => "unknown",
    }
}

impl Token {
    pub(crate) fn new(wire: v1::Token, now: Timestamp) -> Self {
        let (ends_at, revoked_at) = (time!(wire.ends_at), time!(wire.revoked_at));
        let state = match (revoked_at, ends_at) {
            (Some(_), _) => "revoked",
            (None, Some(end)) if end <= now => "expired",
            _ => "counts",
        };
        Self {
            role: role(wire.role()),
            id: wire.id,
            name: wire.name,
            state,
            created_at: time!(wire.created_at),
            ends_at,
            revoked_at,
            last_used_at: time!(wire.last_used_at),
            created_by: wire.created_by,
        }
    }
}

impl From<v1::CreateTokenResponse> for NewToken {
    fn from(wire: v1::CreateTokenResponse) -> Self {
        let token = wire.token.unwrap_or_default();
        let role = role(token.role());
        Self { token: wire.text, id: token.id, name: token.name, role, ends_at: time!(token.ends_at) }
    }
}

impl Tokens {
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows = Rows::new(&["TOKEN", "NAME", "ROLE", "STATE", "UNTIL", "USED", "MADE BY"]);
        for token in &self.tokens {
            rows.row([
                token.id.clone(),
                token.name.clone(),
                token.role.to_owned(),
                token.state.to_owned(),
                token.ends_at.map_or_else(|| "-".to_owned(), utc),
                token.last_used_at.map_or_else(|| "never".to_owned(), |at| age(at, now)),
                or_dash(&token.created_by),
            ]);
        }
        rows.finish_or("no tokens yet; make one with `nsctl token create`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_does_not_count_is_never_shown_as_one_that_does() {
        let now = Timestamp::UNIX_EPOCH;
        let at =
            |seconds| Some(proto::convert::to_wire_time(Timestamp::from_second(seconds).expect("in range")));
        let state = |ends_at, revoked_at| {
            Token::new(v1::Token { ends_at, revoked_at, ..v1::Token::default() }, now).state
        };
        assert_eq!(state(at(10), None), "counts");
        assert_eq!(state(at(0), None), "expired");
        assert_eq!(state(at(10), at(5)), "revoked");
    }
}
