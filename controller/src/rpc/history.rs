//! The history of backups for the wire.

use proto::convert::to_wire_outcome;
use proto::v1;

use crate::app::{ComponentHistory, History};
use crate::catalog::DayRecord;
use crate::rpc::wire;

pub(super) fn to_wire(history: History) -> v1::History {
    v1::History {
        components: history.components.into_iter().map(component).collect(),
        days: history.days.into_iter().map(day).collect(),
        backups: history.backups,
        bytes: history.bytes,
    }
}

fn component(history: ComponentHistory) -> v1::ComponentHistory {
    let name = history.newest.component;
    let complete = history.complete.map(|(mut record, verified)| {
        record.archives.retain(|archive| archive.source.component.as_str() == name);
        wire::backup(&record, &verified)
    });
    v1::ComponentHistory {
        complete,
        last_outcome: history.newest.last.map_or(v1::Outcome::Unspecified, to_wire_outcome).into(),
        days: history.days.into_iter().map(day).collect(),
        component: name,
    }
}

fn day(record: DayRecord) -> v1::HistoryDay {
    v1::HistoryDay {
        day: record.day,
        best: to_wire_outcome(record.best).into(),
        backups: record.backups,
        bytes: record.bytes,
    }
}
