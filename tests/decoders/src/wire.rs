//! Messages of the wire: what their bytes say, and the conversions that check it.

use prost::Message;
use proto::{convert, v1};
use repository::ids::{BlobId, DomainId, RepositoryId, SegmentId};

fn source(source: Option<&v1::SourceId>) {
    if let Ok(checked) = convert::source_id("source", source) {
        assert_eq!(convert::source_id("source", Some(&convert::to_wire_source(&checked))), Ok(checked));
    }
}

/// What an agent says on its control stream.
pub(crate) fn agent(bytes: &[u8]) {
    use v1::agent_message::Message::{Hello, ProbeFinished, RestoreFinished, RestorePlanned};
    let Ok(message) = v1::AgentMessage::decode(bytes) else { return };
    match message.message {
        Some(Hello(hello)) => {
            let _ = convert::text("host", &hello.host, 255);
            hello.sources.iter().for_each(|served| source(served.source.as_ref()));
        }
        Some(RestorePlanned(planned)) => {
            for held in planned.plan.iter().flat_map(|plan| &plan.privileges) {
                let _ = convert::privilege_of_word(convert::privilege_word(held.privilege()));
            }
        }
        Some(RestoreFinished(finished)) => {
            let _ = convert::text("previous_state", &finished.previous_state, 4_096);
        }
        Some(ProbeFinished(probe)) => {
            probe.sources.iter().for_each(|health| source(health.source.as_ref()));
        }
        _ => {}
    }
}

/// What somebody without a certificate may send.
pub(crate) fn enrolment(bytes: &[u8]) {
    if let Ok(join) = v1::JoinRequest::decode(bytes) {
        let _ = proto::token::JoinToken::parse(&join.token);
        let _ = convert::text("name", &join.name, 64);
    }
    if let Ok(joined) = v1::JoinResponse::decode(bytes) {
        let _ = convert::id::<RepositoryId>("repository_id", &joined.repository_id);
        let _ = joined.repository_key.map(|key| convert::array::<32>("public_key", &key.public_key));
    }
}

/// Bulk data on its way to the controller, and back.
pub(crate) fn ingest(bytes: &[u8]) {
    if let Ok(put) = v1::PutSegmentRequest::decode(bytes) {
        let _ = convert::id::<SegmentId>("segment_id", &put.segment_id);
    }
    if let Ok(finish) = v1::FinishArchiveRequest::decode(bytes)
        && let Some(v1::finish_archive_request::Part::Summary(summary)) = finish.part
    {
        let _ = convert::id::<BlobId>("root", &summary.root);
        let _ = convert::consistency(summary.consistency());
        let counts = summary.counts.as_ref().map(convert::counts);
        assert_eq!(counts.as_ref().map(convert::to_wire_counts), summary.counts);
    }
    if let Ok(fetch) = v1::FetchBlobsRequest::decode(bytes) {
        for address in &fetch.blobs {
            if let Ok(checked) = convert::blob_address("blobs", address) {
                assert_eq!(convert::to_wire_address(&checked), *address);
            }
        }
    }
    if let Ok(listed) = v1::BlobTables::decode(bytes) {
        for table in &listed.tables {
            let _ = convert::ids32::<BlobId>("blob_ids", &table.blob_ids);
        }
    }
    if let Ok(opened) = v1::OpenedSegment::decode(bytes) {
        agent::decoders::opened_segment(&opened);
    }
}

/// What the controller orders an agent to do.
pub(crate) fn orders(bytes: &[u8]) {
    let Ok(message) = v1::ControllerMessage::decode(bytes) else { return };
    use v1::controller_message::Message::{PlanRestore, StartArchive, StartDrill, StartRestore, Welcome};
    match message.message {
        Some(StartArchive(order)) => {
            source(order.source.as_ref());
            let _ = order.domain.map(|domain| convert::id::<DomainId>("domain_id", &domain.domain_id));
        }
        Some(StartDrill(order)) => agent::decoders::restore_order(order.order.as_ref(), None),
        Some(PlanRestore(order)) => agent::decoders::restore_order(order.order.as_ref(), None),
        Some(StartRestore(order)) => {
            agent::decoders::restore_order(order.order.as_ref(), order.allowance.as_ref());
        }
        Some(Welcome(welcome)) => {
            let _ = convert::id::<RepositoryId>("repository_id", &welcome.repository_id);
        }
        _ => {}
    }
}

/// What people and programs ask for.
pub(crate) fn user(bytes: &[u8]) {
    if let Ok(plan) = v1::PlanRestoreRequest::decode(bytes) {
        let _ = convert::backup_choice("backup", &plan.backup);
        let _ = convert::components("components", &plan.components);
        let _ = convert::text("folder", &plan.folder, 4_096);
    }
    if let Ok(list) = v1::ListEntriesRequest::decode(bytes) {
        source(list.source.as_ref());
        let _ = repository::archive::path::EntryPath::new(&list.path);
    }
    if let Ok(backup) = v1::Backup::decode(bytes) {
        let _ = backup.started_at.map(|time| convert::from_wire_time("started_at", time));
    }
    let _ = v1::StartBackupRequest::decode(bytes);
    let _ = v1::StartVerifyRequest::decode(bytes);
    let _ = v1::StartRestoreRequest::decode(bytes);
}
