//! Indexes: built on what is staged, so that a key that is not unique is found before anything is replaced.

use std::time::Instant;

use mongodb::bson::raw::{RawBsonRef, RawDocument};
use mongodb::bson::{Bson, Document, doc};

use super::error::{RestoreError, failed};
use super::plan::EXPIRY;
use super::select::Name;
use crate::sources::mongodb::server::Server;
use crate::targets::CancelFlag;

/// The server's number for two documents that have the same key.
const SAME_KEY: i32 = 11_000;
/// So many pairs of documents are named.
const TOLD: i32 = 3;

/// How long indexes are waited for.
#[derive(Clone, Copy)]
pub(super) enum Until<'a> {
    Cancelled(&'a CancelFlag),
    Then(Instant),
}

impl Until<'_> {
    fn goes_on(self) -> bool {
        match self {
            Self::Cancelled(cancel) => !cancel.is_cancelled(),
            Self::Then(end) => Instant::now() < end,
        }
    }

    fn ended(self) -> RestoreError {
        match self {
            Self::Cancelled(_) => RestoreError::Cancelled,
            Self::Then(_) => RestoreError::Refused("it takes too long".to_owned()),
        }
    }
}

fn is_unique(index: &Document) -> bool {
    index.get_bool("unique").unwrap_or_default() || index.get_bool("prepareUnique").unwrap_or_default()
}

/// Tries the unique ones among the indexes that are built once all is live, without what lets documents expire:
/// a key that is there twice is found before anything is replaced.
pub(super) fn try_unique(
    server: &Server,
    (name, staged): (&Name, &str),
    expiring: &[Document],
    until: Until<'_>,
) -> Result<(), RestoreError> {
    for index in expiring.iter().filter(|index| is_unique(index)) {
        let mut plain = index.clone();
        plain.remove(EXPIRY);
        build(server, (name, staged), &[plain], until)?;
        let index = index.get_str("name").unwrap_or_default();
        let command = doc! { "dropIndexes": staged, "index": index };
        server
            .change(&name.database, command, None)
            .map_err(failed(format!("drop the index {index} of {name} that was tried")))?;
    }
    Ok(())
}

/// Builds `indexes` on the collection `staged`, which will be `name`. It may take long, and stops soon after its
/// end.
pub(super) fn build(
    server: &Server,
    (name, staged): (&Name, &str),
    indexes: &[Document],
    until: Until<'_>,
) -> Result<(), RestoreError> {
    let (unique, plain): (Vec<&Document>, Vec<&Document>) =
        indexes.iter().partition(|index| is_unique(index));
    let create = |indexes: Vec<Document>| {
        if !until.goes_on() {
            return Err(until.ended());
        }
        let names: Vec<&str> = indexes.iter().filter_map(|index| index.get_str("name").ok()).collect();
        let action = format!("build the indexes {} of {name}", names.join(", "));
        let command = doc! { "createIndexes": staged, "indexes": indexes };
        let goes_on = || until.goes_on();
        server.change(&name.database, command, Some(&goes_on)).map(|_| ()).map_err(failed(action))
    };
    if !plain.is_empty() {
        create(plain.into_iter().cloned().collect())?;
    }
    // One by one, so that the one that is broken is known.
    for index in unique {
        create(vec![index.clone()]).map_err(|error| match error {
            RestoreError::Server { source, .. } if source.code == Some(SAME_KEY) => {
                RestoreError::Duplicates(duplicates(server, (name, staged), index))
            }
            other => other,
        })?;
    }
    Ok(())
}

/// Which documents have the same key, for people.
fn duplicates(server: &Server, (name, staged): (&Name, &str), index: &Document) -> String {
    let index_name = index.get_str("name").unwrap_or_default();
    let mut text =
        format!("{name}: its unique index {index_name} cannot be built, since keys are there twice");
    let command = doc! {
        "aggregate": staged,
        "pipeline": pipeline(index),
        "cursor": {},
        "allowDiskUse": true,
    };
    // Without them it is still known what is wrong.
    let pairs = server.list(&name.database, command).unwrap_or_default();
    let id = |pair: &RawDocument, of| pair.get(of).ok().flatten().map(shown);
    let pairs =
        pairs.iter().filter_map(|pair| Some(format!("{} and {}", id(pair, "first")?, id(pair, "last")?)));
    let pairs: Vec<String> = pairs.collect();
    if !pairs.is_empty() {
        text.push_str(&format!(": the documents with the _id {}", pairs.join("; ")));
    }
    text
}

/// A key for people, not too long.
pub(super) fn shown(id: RawBsonRef<'_>) -> String {
    const LONGEST: usize = 60;
    let text = Bson::try_from(id).map_or_else(|_| "?".to_owned(), |id| id.to_string());
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn pipeline(index: &Document) -> Vec<Document> {
    let keys = index.get_document("key").ok().into_iter().flat_map(Document::keys);
    let keys: Vec<&String> = keys.collect();
    let mut stages = Vec::new();
    if let Ok(filter) = index.get_document("partialFilterExpression") {
        stages.push(doc! { "$match": filter.clone() });
    }
    if index.get_bool("sparse").unwrap_or_default() {
        let some: Vec<Document> = keys.iter().map(|key| doc! { *key: { "$exists": true } }).collect();
        stages.push(doc! { "$match": { "$or": some } });
    }
    let by: Document =
        keys.iter().enumerate().map(|(n, key)| (format!("k{n}"), format!("${key}").into())).collect();
    stages.push(doc! { "$group": {
        "_id": by, "count": { "$sum": 1 }, "first": { "$first": "$_id" }, "last": { "$last": "$_id" },
    } });
    stages.push(doc! { "$match": { "count": { "$gt": 1 } } });
    stages.push(doc! { "$limit": TOLD });
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_with_the_same_key_are_looked_for_among_those_that_the_index_holds() {
        let index = doc! {
            "key": { "a.b": 1, "c": -1 }, "name": "x", "unique": true, "sparse": true,
            "partialFilterExpression": { "c": { "$gt": 1 } },
        };
        let stages = pipeline(&index);
        assert_eq!(stages[0], doc! { "$match": { "c": { "$gt": 1 } } });
        let some = doc! { "$or": [{ "a.b": { "$exists": true } }, { "c": { "$exists": true } }] };
        assert_eq!(stages[1], doc! { "$match": some });
        let by = stages[2].get_document("$group").and_then(|group| group.get_document("_id"));
        assert_eq!(by.expect("a key"), &doc! { "k0": "$a.b", "k1": "$c" });
    }
}
