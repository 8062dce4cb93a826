//! What is in a backup: its folders and files, one file of it, all of a component.
//!
//! Must stay true: names are bytes, so they are percent-encoded text in addresses, and what could turn or
//! hide text is shown as what it is; what is downloaded is never shown as a page of ours.

use askama::Template;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use proto::Failure;
use proto::v1::{
    Data, EntryLine, ExportArchiveRequest, GetBackupRequest, ListEntriesRequest, ReadFileRequest, SourceId,
};

use crate::web::form::encode;
use crate::web::site::{Asked, Frame, render};
use crate::web::text::{printable, size, source_words, utc};

/// As many entries of a folder as are on one page.
const PAGE: usize = 500;
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// One entry of a folder.
struct Row {
    name: String,
    kind: String,
    size: String,
    changed: String,
    target: String,
    /// Of a folder: the query of its page.
    opens: String,
    /// Of a file: the query of its download.
    file: String,
    /// The query of the page that restores it; empty: it cannot be restored by itself.
    restores: String,
}

/// A folder above the one that is shown.
struct Crumb {
    name: String,
    query: String,
}

#[derive(Template)]
#[template(path = "browse.html")]
struct Browse {
    frame: Frame,
    backup: String,
    component: String,
    whole: String,
    may_read: bool,
    crumbs: Vec<Crumb>,
    here: String,
    rows: Vec<Row>,
    next: Option<String>,
}

/// Which archive, and where in it, as the query of an address.
struct Place {
    source: SourceId,
    path: Vec<u8>,
    /// The archive's kind.
    kind: String,
    /// The backup has no other archive of the component.
    is_only: bool,
}

impl Place {
    fn of(asked: &Asked) -> Self {
        let text = |name| asked.query.get(name).to_owned();
        Self {
            source: SourceId { component: text("component"), name: text("source") },
            path: bytes(asked.query.get("path")),
            kind: String::new(),
            is_only: false,
        }
    }

    fn query(&self, path: &[u8]) -> String {
        let SourceId { component, name } = &self.source;
        let path = encode(&percent_encode(path, KEPT).to_string());
        format!("component={}&source={}&path={path}", encode(component), encode(name))
    }

    fn crumbs(&self) -> Vec<Crumb> {
        let mut crumbs = Vec::new();
        if !self.path.is_empty() {
            crumbs.push(Crumb { name: source_words(&self.source), query: self.query(b"") });
        }
        for (at, _) in self.path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            crumbs.push(Crumb { name: last_name(&self.path[..at]), query: self.query(&self.path[..at]) });
        }
        crumbs
    }

    fn row(&self, entry: &EntryLine) -> Row {
        let changed = Timestamp::new(entry.mtime_seconds, 0).map(utc).unwrap_or_default();
        let is_file = matches!(entry.kind.as_str(), "file" | "hardlink");
        let at = |is: bool| if is { self.query(&entry.path) } else { String::new() };
        Row {
            name: last_name(&entry.path),
            kind: entry.kind.clone(),
            size: if entry.kind == "file" { size(entry.size) } else { String::new() },
            changed,
            target: printable(&entry.target),
            opens: at(entry.kind == "folder"),
            file: at(is_file),
            restores: self.restores(&entry.path),
        }
    }

    /// An entry as the choice of a restore: of files and folders a pattern that means just it, of databases
    /// the database or the collection. A restore names no source: where a component has several, the choice
    /// would mean what has the same name in all of them.
    fn restores(&self, path: &[u8]) -> String {
        if !self.is_only {
            return String::new();
        }
        let Ok(path) = std::str::from_utf8(path) else { return String::new() };
        let component = encode(&self.source.component);
        match self.kind.as_str() {
            "mongodb" => {
                let is_plain =
                    |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
                let included = match path.split_once('/') {
                    None => Some(path.to_owned()).filter(|database| is_plain(database)),
                    Some((database, file)) => file
                        .strip_suffix(".bson")
                        .filter(|collection| is_plain(database) && is_plain(collection))
                        .map(|collection| format!("{database}.{collection}")),
                };
                included
                    .map(|what| format!("component={component}&include={}", encode(&what)))
                    .unwrap_or_default()
            }
            "files" | "blockchain" if !path.chars().any(|c| c.is_control()) => {
                let mut pattern = String::with_capacity(path.len());
                for c in path.chars() {
                    if "*?[]{}\\!".contains(c) {
                        pattern.push('\\');
                    }
                    pattern.push(c);
                }
                format!("component={component}&path={}", encode(&pattern))
            }
            _ => String::new(),
        }
    }
}

/// True of a file that every data folder of a MongoDB server has, and no dump of its databases: such a folder is
/// restored as a whole or not at all.
fn is_of_data_folder(entry: &EntryLine) -> bool {
    entry.kind == "file" && entry.path[..] == *b"WiredTiger"
}

fn bytes(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

fn last_name(path: &[u8]) -> String {
    printable(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
}

pub(super) async fn show(asked: Asked, Path(backup): Path<String>) -> Response {
    let made = shown(&asked, backup).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, backup: String) -> Result<Response, Failure> {
    let (mut place, after) = (Place::of(asked), bytes(asked.query.get("after")));
    let mut client = asked.backups();
    let found = client.get_backup(GetBackupRequest { name: backup }).await?.into_inner();
    let is_of_it = |source: &SourceId| {
        source.component == place.source.component
            && (place.source.name.is_empty() || source.name == place.source.name)
    };
    let archive = found.archives.iter().find(|archive| archive.source.as_ref().is_some_and(is_of_it));
    place.kind = archive.map(|archive| archive.kind.clone()).unwrap_or_default();
    let sources = found.archives.iter().filter_map(|archive| archive.source.as_ref());
    place.is_only = sources.filter(|source| source.component == place.source.component).count() == 1;
    // "latest" is another one by the time somebody clicks: the name is what counts.
    let backup = found.name;
    let request = ListEntriesRequest {
        backup: backup.clone(),
        source: Some(place.source.clone()),
        path: place.path.clone().into(),
        recursive: false,
    };
    let mut entries = client.list_entries(request).await?.into_inner();
    let mut found: Vec<EntryLine> = Vec::new();
    let mut is_more = false;
    while let Some(entry) = entries.message().await? {
        // It comes before all that has a name in lower case.
        if place.kind == "mongodb" && is_of_data_folder(&entry) {
            place.kind.clear();
        }
        if !after.is_empty() && entry.path[..] <= after[..] {
            continue;
        }
        if found.len() == PAGE {
            is_more = true;
            break;
        }
        found.push(entry);
    }
    let next = found.last().filter(|_| is_more).map(|last| {
        let after = encode(&percent_encode(&last.path, KEPT).to_string());
        format!("{}&after={after}", place.query(&place.path))
    });
    let here = match place.path.is_empty() {
        true => source_words(&place.source),
        false => last_name(&place.path),
    };
    let frame = asked.frame("Backup");
    render(&Browse {
        may_read: frame.may_act,
        frame,
        backup,
        component: source_words(&place.source),
        whole: place.query(b""),
        crumbs: place.crumbs(),
        here,
        rows: found.iter().map(|entry| place.row(entry)).collect(),
        next,
    })
}

pub(super) async fn file(asked: Asked, Path(backup): Path<String>) -> Response {
    let made = async {
        let place = Place::of(&asked);
        let name = place.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        let request = ReadFileRequest { backup, source: Some(place.source), path: place.path.into() };
        let data = asked.backups().read_file(request).await?.into_inner();
        download(data, &name, "application/octet-stream").await
    };
    let made = made.await;
    asked.answer(made)
}

pub(super) async fn tar(asked: Asked, Path(backup): Path<String>) -> Response {
    let made = async {
        let source = Place::of(&asked).source;
        let name = format!("{backup}-{}.tar", source_words(&source).replace('/', "-"));
        let request = ExportArchiveRequest { backup, source: Some(source), with_keys: false };
        let data = asked.backups().export_archive(request).await?.into_inner();
        download(data, name.as_bytes(), "application/x-tar").await
    };
    let made = made.await;
    asked.answer(made)
}

/// What is read, as a file of this name. What fails at once is told; what fails later breaks the download
/// off, so that nobody takes a part for the whole.
async fn download(
    mut data: tonic::Streaming<Data>,
    name: &[u8],
    kind: &'static str,
) -> Result<Response, Failure> {
    let first = data.message().await?;
    let content = stream::iter(first.map(Ok)).chain(data).map(|part| part.map(|part| part.data));
    let name = String::from_utf8_lossy(name);
    let disposition = format!("attachment; filename*=UTF-8''{}", percent_encode(name.as_bytes(), KEPT));
    let disposition = HeaderValue::from_str(&disposition).expect("it is percent-encoded");
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(content)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::form::Form;

    #[test]
    fn a_name_of_any_bytes_goes_through_an_address_and_comes_back() {
        let source = SourceId { component: "models".to_owned(), name: "a b".to_owned() };
        let path = b"etc/\xff&=%<b>/\xe2\x80\xaex".to_vec();
        let place = Place { source, kind: "files".to_owned(), path, is_only: true };
        let form = Form::parse(place.query(&place.path).as_bytes());
        assert_eq!(bytes(form.get("path")), place.path);
        assert_eq!((form.get("component"), form.get("source")), ("models", "a b"));
        let names: Vec<String> = place.crumbs().into_iter().map(|crumb| crumb.name).collect();
        assert_eq!(names, ["models/a b", "etc", "\u{fffd}&=%<b>"]);
        assert_eq!(last_name(&place.path), "\\u{202e}x", "nothing turns the text around it");
        assert_eq!(place.restores(&place.path), "", "a pattern is text");
    }

    #[test]
    fn an_entry_is_chosen_for_a_restore_by_a_pattern_that_means_it_alone_or_by_its_collection() {
        let place = |kind: &str| Place {
            source: SourceId { component: "data".to_owned(), name: "data".to_owned() },
            path: Vec::new(),
            kind: kind.to_owned(),
            is_only: true,
        };
        let of = |kind: &str, path: &str| {
            let query = place(kind).restores(path.as_bytes());
            let form = Form::parse(query.as_bytes());
            (form.get("path").to_owned(), form.get("include").to_owned())
        };
        let none = String::new;
        assert_eq!(of("files", "etc/a b"), ("etc/a b".to_owned(), none()));
        assert_eq!(of("files", "etc/[x]*"), ("etc/\\[x\\]\\*".to_owned(), none()));
        assert_eq!(of("mongodb", "shop"), (none(), "shop".to_owned()));
        assert_eq!(of("mongodb", "shop/orders.bson"), (none(), "shop.orders".to_owned()));
        for path in ["shop/orders.metadata.json", "sh%op/orders.bson"] {
            assert_eq!(of("mongodb", path), (none(), none()), "{path}");
        }
        assert_eq!(of("ipfs", "blocks"), (none(), none()));
        let entry = |path: &str, kind: &str| EntryLine {
            path: path.to_owned().into_bytes().into(),
            kind: kind.to_owned(),
            ..EntryLine::default()
        };
        assert!(is_of_data_folder(&entry("WiredTiger", "file")));
        for (path, kind) in [("WiredTiger", "folder"), ("shop/WiredTiger", "file"), ("shop", "folder")] {
            assert!(!is_of_data_folder(&entry(path, kind)), "{path} {kind}");
        }
        let of_data_folder = Place { kind: String::new(), ..place("mongodb") };
        assert_eq!(of_data_folder.restores(b"journal"), "");
        let of_several = Place { is_only: false, ..place("files") };
        assert_eq!(of_several.restores(b"etc/a b"), "", "it would be restored of every source");
    }
}
