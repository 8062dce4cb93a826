//! Invitations that can still be used.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::time;
use crate::output::table::{Rows, or_dash};
use crate::output::words::utc;

/// All of them.
#[derive(Debug, Serialize)]
pub(crate) struct Invites {
    pub(crate) invitations: Vec<Invite>,
}

/// One of them. Its token is not kept anywhere.
#[derive(Debug, Serialize)]
pub(crate) struct Invite {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) reusable: bool,
    pub(crate) uses: u32,
    pub(crate) used: u32,
    pub(crate) sources: Vec<String>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) ends_at: Option<Timestamp>,
}

impl From<v1::Invitation> for Invite {
    fn from(wire: v1::Invitation) -> Self {
        Self {
            id: wire.id,
            name: wire.name,
            reusable: wire.reusable,
            uses: wire.uses,
            used: wire.used,
            sources: wire.sources,
            created_at: time!(wire.created_at),
            ends_at: time!(wire.ends_at),
        }
    }
}

impl Invites {
    pub(crate) fn table(&self) -> String {
        let mut rows = Rows::new(&["INVITATION", "NAME", "KIND", "USED", "SOURCES", "UNTIL"]);
        for invite in &self.invitations {
            rows.row([
                invite.id.clone(),
                if invite.name.is_empty() { "any".to_owned() } else { invite.name.clone() },
                if invite.reusable { "join key" } else { "once" }.to_owned(),
                format!("{} of {}", invite.used, invite.uses),
                or_dash(&invite.sources.join(",")),
                invite.ends_at.map_or_else(|| "-".to_owned(), utc),
            ]);
        }
        rows.finish_or("no open invitations; make one with `nsctl agent invite`")
    }
}
