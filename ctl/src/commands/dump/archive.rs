//! The stream of `mongodump --archive`: a magic number, a header, what each collection is, then the documents
//! of one collection after the other, each with a checksum.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use formats::mongodb::Crc64;

const MAGIC: u32 = 0x8199_e26d;
const TERMINATOR: [u8; 4] = [0xff; 4];
const DOCUMENTS: &str = ".bson";
const METADATA: &str = ".metadata.json";
/// Of documents that follow each other in a bucket of a time series.
const BUCKETS: &str = "system.buckets.";
const SHORTEST: usize = 5;
const LONGEST: usize = (16 << 20) + (16 << 10);

/// What a collection is, by its database and the name of its files.
type Described = BTreeMap<(String, String), Description>;

struct Description {
    collection: String,
    kind: String,
    json: String,
}

/// Writes the stream to `to`, from the tar file of one archive that is given twice.
pub(super) fn write(first: impl Read, second: impl Read, to: &mut dyn Write) -> io::Result<u64> {
    let (described, version) = described(first)?;
    let mut to = Counted { to, bytes: 0 };
    to.write_all(&MAGIC.to_le_bytes())?;
    to.write_all(
        &Bson::default()
            .int("concurrent_collections", 1)
            .text("version", "0.1")
            .text("server_version", &version)
            .text("tool_version", concat!("neurashield ", env!("CARGO_PKG_VERSION")))
            .end(),
    )?;
    for ((database, _), one) in &described {
        let bson = Bson::default().text("db", database).text("collection", &one.collection);
        to.write_all(&bson.text("metadata", &one.json).int("size", 0).text("type", &one.kind).end())?;
    }
    to.write_all(&TERMINATOR)?;

    let mut open = described;
    let mut tar = tar::Archive::new(second);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let Some((database, stem)) = names(&entry.path_bytes(), DOCUMENTS) else { continue };
        let of = stem.strip_prefix(BUCKETS).unwrap_or(&stem).to_owned();
        let is_bucket = of != stem && !open.contains_key(&(database.clone(), stem.clone()));
        let key = (database.clone(), if is_bucket { of } else { stem });
        let Some(one) = open.remove(&key) else { continue };
        let collection = if is_bucket { format!("{BUCKETS}{}", one.collection) } else { one.collection };
        collection_of(&mut entry, (&database, &collection), &mut to)?;
    }
    // Of what has no documents the end stands there all the same.
    for ((database, _), one) in &open {
        end((database, &one.collection), 0, &mut to)?;
    }
    Ok(to.bytes)
}

/// What there is, and the version of the server.
fn described(tar: impl Read) -> io::Result<(Described, String)> {
    let (mut described, mut version) = (Described::new(), String::new());
    let mut tar = tar::Archive::new(tar);
    for entry in tar.entries()? {
        let mut entry = entry?;
        if *entry.path_bytes() == *b"prelude.json" {
            let prelude: serde_json::Value = serde_json::from_reader(&mut entry)?;
            version = prelude["ServerVersion"].as_str().unwrap_or_default().to_owned();
        }
        let Some((database, stem)) = names(&entry.path_bytes(), METADATA) else { continue };
        let mut json = String::new();
        entry.read_to_string(&mut json)?;
        let metadata: serde_json::Value = serde_json::from_str(&json)?;
        let text = |key: &str| metadata[key].as_str().map(str::to_owned);
        let collection = text("collectionName").unwrap_or_else(|| stem.clone());
        let kind = text("type").unwrap_or_default();
        described.insert((database, stem), Description { collection, kind, json });
    }
    match described.is_empty() && version.is_empty() {
        false => Ok((described, version)),
        true => Err(io::Error::other("the archive is none of a MongoDB server")),
    }
}

/// The database and the name of a file that ends so.
fn names(path: &[u8], ending: &str) -> Option<(String, String)> {
    let (database, file) = std::str::from_utf8(path).ok()?.split_once('/')?;
    let stem = file.strip_suffix(ending).filter(|stem| !stem.contains('/'))?;
    Some((database.to_owned(), stem.to_owned()))
}

fn collection_of(documents: &mut impl Read, of: (&str, &str), to: &mut Counted<'_>) -> io::Result<()> {
    let (mut sum, mut document, mut is_first) = (Crc64::default(), Vec::new(), true);
    while next(documents, &mut document)? {
        if is_first {
            to.write_all(&head(of, false, 0))?;
        }
        is_first = false;
        sum.add(&document);
        to.write_all(&document)?;
    }
    if !is_first {
        to.write_all(&TERMINATOR)?;
    }
    end(of, sum.finish(), to)
}

/// The next document; false at the end.
fn next(from: &mut impl Read, document: &mut Vec<u8>) -> io::Result<bool> {
    document.clear();
    from.take(4).read_to_end(document)?;
    let Ok(length) = <[u8; 4]>::try_from(document.as_slice()) else {
        return if document.is_empty() { Ok(false) } else { Err(cut_off()) };
    };
    let length = u32::from_le_bytes(length) as usize;
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err(io::Error::other("a collection holds what is no document: `nsctl verify` tells more"));
    }
    from.take(length as u64 - 4).read_to_end(document)?;
    if document.len() == length { Ok(true) } else { Err(cut_off()) }
}

fn cut_off() -> io::Error {
    io::Error::other("the last document of a collection is cut off")
}

fn end(of: (&str, &str), sum: u64, to: &mut Counted<'_>) -> io::Result<()> {
    to.write_all(&head(of, true, sum))?;
    to.write_all(&TERMINATOR)
}

fn head((database, collection): (&str, &str), is_end: bool, sum: u64) -> Vec<u8> {
    let bson = Bson::default().text("db", database).text("collection", collection);
    bson.boolean("EOF", is_end).long("CRC", sum.cast_signed()).end()
}

struct Counted<'a> {
    to: &'a mut dyn Write,
    bytes: u64,
}

impl Counted<'_> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.to.write_all(bytes)
    }
}

/// A document of texts and numbers.
#[derive(Default)]
struct Bson(Vec<u8>);

impl Bson {
    fn element(mut self, kind: u8, name: &str, value: &[&[u8]]) -> Self {
        self.0.push(kind);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        value.iter().for_each(|part| self.0.extend_from_slice(part));
        self
    }

    fn text(self, name: &str, text: &str) -> Self {
        let length = u32::try_from(text.len() + 1).expect("no description is that long").to_le_bytes();
        self.element(0x02, name, &[&length, text.as_bytes(), &[0]])
    }

    fn boolean(self, name: &str, boolean: bool) -> Self {
        self.element(0x08, name, &[&[u8::from(boolean)]])
    }

    fn int(self, name: &str, number: i32) -> Self {
        self.element(0x10, name, &[&number.to_le_bytes()])
    }

    fn long(self, name: &str, number: i64) -> Self {
        self.element(0x12, name, &[&number.to_le_bytes()])
    }

    fn end(self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() + SHORTEST).expect("no description is that long");
        [&length.to_le_bytes()[..], &self.0, &[0]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_that_is_cut_off_or_none_is_an_error_and_no_shorter_archive() {
        let document = Bson::default().int("_id", 1).end();
        let write = |bytes: &[u8]| {
            let mut out = Vec::new();
            let mut to = Counted { to: &mut out, bytes: 0 };
            collection_of(&mut &*bytes, ("shop", "a"), &mut to).map_err(|error| error.to_string())
        };
        assert_eq!(write(&[document.clone(), document.clone()].concat()), Ok(()));
        assert!(write(&document[..9]).is_err_and(|why| why.contains("cut off")));
        assert!(write(&[0xff; 8]).is_err_and(|why| why.contains("no document")));
        assert!(write(&[&document[..], &[1, 2]].concat()).is_err_and(|why| why.contains("cut off")));
    }
}
