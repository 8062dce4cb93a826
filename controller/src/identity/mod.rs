//! Who is who: the controller's own authority, the certificates of its agents, the tokens they join with,
//! and the tokens and roles of people and automation.
//!
//! Must stay true: an agent's identity is the SAN URI `spiffe://<repository id>/agent/<agent id>` of a
//! certificate that our authority signed, and nothing that the agent says; a join token works once, a join
//! key as often as it says, a service account as its rule says; a key belongs to one agent; the bounds of a join key or rule stay in the certificate.

mod accounts;
mod api_tokens;
mod authority;
mod bounds;
mod certificate;
mod enrolment;
mod passing;
mod role;
mod server_certificate;
mod sessions;
mod users;

pub use accounts::{Account, AccountRules, AccountTerms};
pub use api_tokens::{ApiTokens, TokenRefused};
pub use authority::{Authority, AuthorityError, Issued, ServerIdentity};
pub use bounds::{InvalidPattern, SourceBounds, name_pattern};
pub use certificate::{AgentCertificate, CertificateRefused, KeyDigest};
pub use enrolment::{Enrolment, Invitation, JoinRefused, Joined, Terms};
pub use role::Role;
pub use server_certificate::ServerCertificate;
pub use sessions::Session;
pub use users::{SHORTEST_PASSWORD, User, Users};
