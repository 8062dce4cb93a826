//! `Backups`: what there is, and what is in it.

use std::pin::Pin;

use bytes::Bytes;
use jiff::Timestamp;
use prost_types::Timestamp as WireTime;
use proto::convert::{backup_choice, from_wire_time, source_id};
use proto::v1::backups_server::Backups;
use proto::v1::{
    self, Backup, Data, EntryLine, ExportArchiveRequest, GetBackupRequest, GetHistoryRequest,
    ListBackupsRequest, ListBackupsResponse, ListEntriesRequest, ReadFileRequest, SourceId as WireSource,
};
use proto::{Failure, convert};
use repository::archive::path::EntryPath;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::app::{App, ArchiveChoice, Reading};
use crate::rpc::gate::About;
use crate::rpc::history;
use crate::rpc::wire;

pub(super) struct BackupsService {
    pub(super) app: App,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T, W: 'static>(reading: Reading<T>, to_wire: fn(T) -> W) -> Answers<W>
where
    T: Send + 'static,
{
    Box::pin(ReceiverStream::new(reading).map(move |next| next.map(to_wire).map_err(Status::from)))
}

fn stretch(from: Option<WireTime>, until: Option<WireTime>) -> Result<[Option<Timestamp>; 2], Failure> {
    let time = |name, wire: Option<WireTime>| wire.map(|wire| from_wire_time(name, wire)).transpose();
    Ok([time("from", from)?, time("until", until)?])
}

fn data(data: Bytes) -> Data {
    Data { data }
}

/// Which archive a request means; an empty name means the component's only source.
fn archive(backup: &str, source: Option<&WireSource>) -> Result<ArchiveChoice, Failure> {
    let wire = convert::required("source", source)?;
    let name = match wire.name.as_str() {
        "" => None,
        _ => Some(source_id("source", source)?.name),
    };
    let component = wire.component.parse();
    let component =
        component.map_err(|error| Failure::invalid("the component is wrong").caused_by(&error))?;
    Ok(ArchiveChoice { backup: backup_choice("backup", backup)?, component, name })
}

/// The same for the audit log.
fn what(backup: &str, archive: &ArchiveChoice) -> String {
    let name = archive.name.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
    format!("backup {backup} {}{name}", archive.component)
}

fn path(bytes: &[u8]) -> Result<EntryPath, Failure> {
    EntryPath::new(bytes).map_err(|error| Failure::invalid("the path is wrong").caused_by(&error))
}

#[tonic::async_trait]
impl Backups for BackupsService {
    type ListEntriesStream = Answers<EntryLine>;
    type ReadFileStream = Answers<Data>;
    type ExportArchiveStream = Answers<Data>;

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let request = request.into_inner();
        let [from, until] = stretch(request.from, request.until)?;
        let page = match (from, until) {
            (None, None) => {
                let before = Some(request.before).filter(|before| *before > 0);
                self.app.backups(request.limit, before).await?
            }
            _ => self.app.backups_within(request.limit, from, until).await?,
        };
        Ok(Response::new(ListBackupsResponse {
            backups: page.backups.iter().map(|(record, verified)| wire::backup(record, verified)).collect(),
            legacy: page.legacy.iter().map(wire::legacy).collect(),
            more: page.more,
        }))
    }

    async fn get_backup(&self, request: Request<GetBackupRequest>) -> Result<Response<Backup>, Status> {
        let choice = backup_choice("name", &request.into_inner().name)?;
        let (record, verified) = self.app.backup(&choice).await?;
        let mut remarks = self.app.remarks(&record).await?;
        let mut answer = wire::backup(&record, &verified);
        for (archive, of) in answer.archives.iter_mut().zip(&record.archives) {
            archive.remarks = remarks.remove(&of.source).unwrap_or_default();
        }
        Ok(Response::new(answer))
    }

    async fn get_history(
        &self,
        request: Request<GetHistoryRequest>,
    ) -> Result<Response<v1::History>, Status> {
        let request = request.into_inner();
        let [from, until] = stretch(request.from, request.until)?;
        Ok(Response::new(history::to_wire(self.app.history(from, until).await?)))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<Self::ListEntriesStream>, Status> {
        let request = request.into_inner();
        let archive = archive(&request.backup, request.source.as_ref())?;
        let entries = self.app.list_entries(&archive, path(&request.path)?, request.recursive).await?;
        Ok(Response::new(answers(entries, |entry| wire::entry(&entry))))
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let archive = archive(&request.backup, request.source.as_ref())?;
        // Not the path: names of files are in no log.
        about.say(what(&request.backup, &archive));
        let content = self.app.read_file(&archive, path(&request.path)?).await?;
        Ok(Response::new(answers(content, data)))
    }

    async fn export_archive(
        &self,
        request: Request<ExportArchiveRequest>,
    ) -> Result<Response<Self::ExportArchiveStream>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let archive = archive(&request.backup, request.source.as_ref())?;
        let keys = if request.with_keys { ", with its keys" } else { "" };
        about.say(format!("{}{keys}", what(&request.backup, &archive)));
        Ok(Response::new(answers(self.app.export(&archive, request.with_keys).await?, data)))
    }
}
