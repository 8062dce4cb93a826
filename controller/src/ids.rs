//! Ids that the controller gives: of agents, jobs and tasks. UUIDs of version 7, so that they sort by age.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A text is not an id of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not the id of {kind}")]
pub struct InvalidId {
    kind: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// An id that nothing else has.
            pub fn fresh() -> Self {
                Self(Uuid::now_v7())
            }

            /// The same as a UUID.
            pub fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let id = Uuid::try_parse(text).ok().map(Self);
                id.filter(|id| id.to_string() == text).ok_or(InvalidId { kind: $kind })
            }
        }
    };
}

id!(
    /// One controller's state folder: holder of the repository's lease.
    ControllerId, "a controller"
);
id!(
    /// An agent that has joined.
    AgentId, "an agent"
);
id!(
    /// A job: a backup, a verification or a restore.
    JobId, "a job"
);
id!(
    /// One attempt at a part of a job, handed to one agent. Never used again.
    TaskId, "a task"
);
id!(
    /// An API token. Not secret.
    TokenId, "a token"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = JobId::fresh();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<JobId>().is_err());
        assert!(id.to_string().replace('-', "").parse::<JobId>().is_err());
    }
}
