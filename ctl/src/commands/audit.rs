//! `nsctl audit`.

use proto::convert::to_wire_time;
use proto::v1;
use runtime::clock::{Clock, SystemClock};

use crate::cli::{Audit, Since};
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::views::audit::{Check, Entries};

pub(super) async fn run(client: Client, wanted: Audit, voice: Voice) -> Ended {
    if wanted.check {
        let wire = client.audit().check_audit(ask(v1::CheckAuditRequest {})).await?.into_inner();
        let check = Check::from(wire);
        voice.result(&check, Check::text)?;
        return Ok(if check.intact { Exit::Done } else { Exit::Damaged });
    }
    let since = wanted.since.map(|since| match since {
        Since::Time(time) => time,
        Since::Ago(age) => SystemClock.now() - age,
    });
    let request = v1::ListAuditRequest { since: since.map(to_wire_time), limit: wanted.limit };
    let entries = Entries::from(client.audit().list_audit(ask(request)).await?.into_inner());
    voice.result(&entries, Entries::table)?;
    Ok(Exit::Done)
}
