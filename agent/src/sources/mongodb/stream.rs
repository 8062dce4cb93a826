//! What the stream of `mongodump --archive` holds, and where in it: a magic number, a header, what each collection is,
//! then blocks of documents, those of several collections in turns, and of each collection its end with a checksum.
//!
//! Must stay true: whatever the bytes are, no more memory is taken than is allowed here; a stream that is cut off is
//! never taken for a whole one. What documents and descriptions hold is for others to judge ([`super::dump`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use mongodb::bson::raw::RawDocument;

use super::names::file_name;

const MAGIC: [u8; 4] = 0x8199_e26d_u32.to_le_bytes();
const GZIP: [u8; 2] = [0x1f, 0x8b];
const TERMINATOR: [u8; 4] = [0xff; 4];
const SHORTEST: u64 = 5;
/// The longest document that a server keeps; it allows itself a little more in places.
const LONGEST: u64 = (16 << 20) + (16 << 10);
/// A version is not longer.
const LONGEST_VERSION: usize = 1_024;
/// The names that servers take: a database's, and with a collection's behind it. Every path repeats them.
const LONGEST_DATABASE: usize = 64;
const LONGEST_NAME: usize = 255;
/// So many collections are announced at most, and so many blocks are there: each takes memory.
const MOST_COLLECTIONS: usize = 200_000;
const MOST_BLOCKS: usize = 1_000_000;
/// What is read at once.
const BUFFER: usize = 1 << 18;
/// What the collection with the documents of a time series is called before its name.
const BUCKETS: &str = "system.buckets.";

/// Bytes of the stream: where they begin, and how many there are.
pub(super) type Extent = (u64, u64);

/// A stream that was walked through.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) server_version: String,
    pub(super) tool_version: String,
    /// By database and name of the files.
    pub(super) collections: BTreeMap<(String, String), Collection>,
}

/// What the stream has of a collection.
#[derive(Debug, Default)]
pub(super) struct Collection {
    /// Its description in JSON; of none there is nothing.
    pub(super) described: Option<Extent>,
    is_timeseries: bool,
    /// Its documents.
    pub(super) blocks: Vec<Extent>,
    /// The checksum over them, once its end was there.
    pub(super) checksum: Option<u64>,
}

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoStream {
    #[error("it is compressed")]
    Compressed,
    #[error("it is no stream of mongodump --archive")]
    Foreign,
    #[error("it is damaged at byte {0}: {1}")]
    Damaged(u64, &'static str),
    #[error("it has more {0} than are taken")]
    TooMuch(&'static str),
    #[error("{0} cannot be the name of a collection in a dump")]
    Name(String),
    #[error("cannot read it")]
    Unread(#[from] io::Error),
}

impl Contents {
    /// Walks through `file` from its beginning.
    pub(super) fn of(file: &File) -> Result<Self, NoStream> {
        let length = file.metadata()?.len();
        let mut walk = Walk { from: BufReader::with_capacity(BUFFER, file), at: 0, length };
        let mut contents = Self::default();
        if walk.from.fill_buf()?.starts_with(&GZIP) {
            return Err(NoStream::Compressed);
        }
        if length < MAGIC.len() as u64 || walk.word()? != MAGIC {
            return Err(NoStream::Foreign);
        }
        contents.head(&mut walk)?;
        contents.announced(&mut walk)?;
        let mut blocks = 0;
        while walk.at < walk.length {
            contents.block(&mut walk, &mut blocks)?;
        }
        Ok(contents)
    }

    fn head(&mut self, walk: &mut Walk<'_>) -> Result<(), NoStream> {
        let (_, head) = walk.document()?.ok_or(NoStream::Foreign)?;
        let head = RawDocument::from_bytes(&head).map_err(|_| NoStream::Foreign)?;
        let text = |key: &str| {
            head.get_str(key).ok().filter(|text| text.len() <= LONGEST_VERSION).map(str::to_owned)
        };
        if text("version").as_deref() != Some("0.1") {
            return Err(NoStream::Foreign);
        }
        self.server_version = text("server_version").unwrap_or_default();
        self.tool_version = text("tool_version").unwrap_or_default();
        Ok(())
    }

    /// What each collection is.
    fn announced(&mut self, walk: &mut Walk<'_>) -> Result<(), NoStream> {
        while let Some((at, bytes)) = walk.document()? {
            let no_document = || NoStream::Damaged(at, "what it says of a collection cannot be understood");
            let said = RawDocument::from_bytes(&bytes).map_err(|_| no_document())?;
            let key = key_of(said).ok_or_else(no_document)??;
            let text = said.get_str("metadata").map_err(|_| no_document())?;
            // Where the text lies in the document.
            let within = text.as_ptr() as usize - bytes.as_ptr() as usize;
            let described = (!text.is_empty()).then_some((at + within as u64, text.len() as u64));
            let is_timeseries = said.get_str("type").is_ok_and(|kind| kind == "timeseries");
            let collection = Collection { described, is_timeseries, ..Collection::default() };
            if self.collections.len() == MOST_COLLECTIONS {
                return Err(NoStream::TooMuch("collections"));
            }
            if self.collections.insert(key, collection).is_some() {
                return Err(NoStream::Damaged(at, "it announces a collection for the second time"));
            }
        }
        Ok(())
    }

    /// The next block.
    fn block(&mut self, walk: &mut Walk<'_>, blocks: &mut usize) -> Result<(), NoStream> {
        let start = walk.at;
        let (_, head) = walk.document()?.ok_or(NoStream::Damaged(start, "a block has no header"))?;
        let no_head = || NoStream::Damaged(start, "the header of a block cannot be understood");
        let head = RawDocument::from_bytes(&head).map_err(|_| no_head())?;
        let key = key_of(head).ok_or_else(no_head)??;
        let is_end = head.get_bool("EOF").map_err(|_| no_head())?;
        let checksum = head.get_i64("CRC").map_err(|_| no_head())?.cast_unsigned();
        let of = self.known(key).ok_or(NoStream::Damaged(start, "a block is of no announced collection"))?;
        if of.checksum.is_some() {
            return Err(NoStream::Damaged(start, "a collection goes on after its end"));
        }
        let begin = walk.at;
        walk.documents()?;
        let length = walk.at - begin - TERMINATOR.len() as u64;
        match (is_end, length) {
            (true, 0) => of.checksum = Some(checksum),
            (true, _) => return Err(NoStream::Damaged(begin, "the end of a collection has documents")),
            (false, 0) => {}
            (false, _) => {
                *blocks += 1;
                of.blocks.push((begin, length));
            }
        }
        if *blocks > MOST_BLOCKS { Err(NoStream::TooMuch("blocks")) } else { Ok(()) }
    }

    /// A collection that was announced, or the buckets of a time series that was.
    fn known(&mut self, key: (String, String)) -> Option<&mut Collection> {
        if !self.collections.contains_key(&key) {
            if self.collections.len() == MOST_COLLECTIONS {
                return None;
            }
            let of = (key.0.clone(), key.1.strip_prefix(BUCKETS)?.to_owned());
            let series = self.collections.get(&of)?;
            series.described?;
            self.collections.insert(key.clone(), Collection::default());
        }
        self.collections.get_mut(&key)
    }

    /// True of a collection that has no end in the stream, and no buckets that have theirs. It may be a view.
    pub(super) fn has_no_end(&self, key: &(String, String), one: &Collection) -> bool {
        let is_series = one.is_timeseries && one.blocks.is_empty() && self.has_buckets(key);
        one.checksum.is_none() && !is_series
    }

    /// True of a time series whose documents are in the stream under the name of their buckets.
    pub(super) fn has_buckets(&self, (database, stem): &(String, String)) -> bool {
        self.collections.contains_key(&(database.clone(), format!("{BUCKETS}{stem}")))
    }
}

/// The database and the name of the files that a document names; none where it names nothing.
fn key_of(said: &RawDocument) -> Option<Result<(String, String), NoStream>> {
    let database = said.get_str("db").ok()?;
    let collection = said.get_str("collection").ok()?;
    let is_name = |name: &str| name.len() <= LONGEST_NAME && !name.contains('\0');
    // Only the log of operations belongs to no database.
    let is_database = database.len() <= LONGEST_DATABASE
        && !database.contains(['/', '\\'])
        && !database.contains(char::is_control)
        && !matches!(database, "." | "..");
    let is_log = database.is_empty() && collection == "oplog";
    if !is_name(database) || !is_name(collection) || !is_database || collection.is_empty() {
        let shown = format!("{database}.{collection}").escape_debug().take(LONGEST_VERSION).collect();
        return Some(Err(NoStream::Name(shown)));
    }
    if database.is_empty() && !is_log {
        return None;
    }
    // Users of one database alone are called so in a dump of it, as they are.
    let stem = match collection.strip_prefix('$') {
        Some(of) if of.starts_with("admin.system.") => format!("${}", file_name(of)),
        _ => file_name(collection),
    };
    Some(Ok((database.to_owned(), stem)))
}

/// The stream as far as it was read.
struct Walk<'a> {
    from: BufReader<&'a File>,
    at: u64,
    length: u64,
}

impl Walk<'_> {
    fn cut_off(&self) -> NoStream {
        NoStream::Damaged(self.at, "it is cut off")
    }

    fn word(&mut self) -> Result<[u8; 4], NoStream> {
        let mut word = [0; 4];
        if self.length - self.at < word.len() as u64 {
            return Err(self.cut_off());
        }
        self.from.read_exact(&mut word)?;
        self.at += word.len() as u64;
        Ok(word)
    }

    /// How long the next document is; none at a terminator.
    fn next_length(&mut self) -> Result<Option<u64>, NoStream> {
        let word = self.word()?;
        if word == TERMINATOR {
            return Ok(None);
        }
        let length = u64::from(u32::from_le_bytes(word));
        let start = self.at - word.len() as u64;
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Err(NoStream::Damaged(start, "it holds what is no document"));
        }
        if self.length - start < length {
            return Err(NoStream::Damaged(start, "it is cut off"));
        }
        Ok(Some(length))
    }

    /// The next document and where it begins; none at a terminator.
    fn document(&mut self) -> Result<Option<(u64, Vec<u8>)>, NoStream> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        let start = self.at - 4;
        let mut bytes = u32::try_from(length).expect("it is short").to_le_bytes().to_vec();
        (&mut self.from).take(length - 4).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(self.cut_off());
        }
        self.at = start + length;
        Ok(Some((start, bytes)))
    }

    /// All documents up to a terminator, which are not looked at.
    fn documents(&mut self) -> Result<(), NoStream> {
        while let Some(length) = self.next_length()? {
            self.from.seek_relative(i64::try_from(length - 4).expect("it is short"))?;
            self.at += length - 4;
        }
        Ok(())
    }
}
