//! What was really read of a file: its content id and its layout.
//!
//! A file may be shorter by the time it is read than when it was opened. What is archived is what was
//! read: extents that were not reached are left out, and the id is over the rest.

use repository::archive::entry::{Extent, Layout};
use repository::check::{Feed, Finding};
use repository::content::{ContentHasher, IdKey};
use repository::ids::ContentId;

use crate::sources::Opened;

/// Hashes a file's data as it is read, extent by extent, and gives it to a check.
pub(super) struct ContentMeter<'a> {
    hasher: ContentHasher,
    feed: Option<Feed<'a>>,
    extents: std::vec::IntoIter<Extent>,
    now: Option<Extent>,
    /// Bytes of `now` that have been read.
    done: u64,
    size: u64,
    dense: bool,
    read: Vec<Extent>,
}

/// A file's content as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) id: ContentId,
    pub(super) layout: Layout,
    pub(super) size: u64,
    /// All that was there at the open has been read.
    pub(super) whole: bool,
    /// What the check says of it.
    pub(super) findings: Vec<Finding>,
}

impl<'a> ContentMeter<'a> {
    pub(super) fn new(key: &IdKey, opened: &Opened, feed: Option<Feed<'a>>) -> Self {
        let size = opened.stamp.size;
        let mut extents = opened.layout.extents(size).into_iter();
        Self {
            hasher: ContentHasher::new(key),
            feed,
            now: extents.next(),
            extents,
            done: 0,
            size,
            dense: opened.layout == Layout::Dense,
            read: Vec::new(),
        }
    }

    /// The next bytes of the data.
    pub(super) fn data(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let extent = self.now.expect("a source reads no more than its extents");
            let left = extent.length - self.done;
            let take = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.hasher.data(&bytes[..take]);
            if let Some(feed) = &mut self.feed {
                feed.data(extent.offset + self.done, &bytes[..take]);
            }
            self.done += take as u64;
            bytes = &bytes[take..];
            if self.done == extent.length {
                self.extent_ends(extent);
            }
        }
    }

    fn extent_ends(&mut self, extent: Extent) {
        self.hasher.extent_ends(extent);
        if !self.dense {
            self.read.push(extent);
        }
        self.now = self.extents.next();
        self.done = 0;
    }

    /// The end of the data, wherever it was.
    pub(super) fn finish(mut self) -> Measured {
        let whole = self.now.is_none();
        if let Some(Extent { offset, .. }) = self.now {
            let reached = Extent { offset, length: self.done };
            if reached.length > 0 {
                self.hasher.extent_ends(reached);
                self.read.extend((!self.dense).then_some(reached));
            }
            if self.dense {
                self.size = self.done;
            }
        }
        let layout = if self.dense { Layout::Dense } else { Layout::Sparse(self.read) };
        let findings = self.feed.map(|feed| feed.end(self.size)).unwrap_or_default();
        Measured { id: self.hasher.finish(self.size), layout, size: self.size, whole, findings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Stamp;
    use repository::archive::entry::Timestamp;

    const KEY: IdKey = IdKey::new([4; 32]);

    fn opened(size: u64, layout: Layout) -> Opened {
        let never = Timestamp::default();
        Opened { stamp: Stamp { inode: 1, size, mtime: never, ctime: never }, layout, is_stream: false }
    }

    fn measure(opened: &Opened, parts: &[&[u8]]) -> Measured {
        let mut meter = ContentMeter::new(&KEY, opened, None);
        parts.iter().for_each(|part| meter.data(part));
        meter.finish()
    }

    #[test]
    fn how_the_data_is_read_does_not_matter() {
        let file = opened(9, Layout::Dense);
        let once = measure(&file, &[b"some text"]);
        assert_eq!(once, measure(&file, &[b"so", b"me t", b"ext"]));
        assert!(once.whole);
    }

    #[test]
    fn where_the_holes_are_does_matter() {
        let extents = |offset| vec![Extent { offset, length: 2 }, Extent { offset: 100, length: 3 }];
        let one = measure(&opened(200, Layout::Sparse(extents(10))), &[b"abc", b"de"]);
        let two = measure(&opened(200, Layout::Sparse(extents(11))), &[b"abc", b"de"]);
        assert_ne!(one.id, two.id);
        assert_eq!(one.layout, Layout::Sparse(extents(10)));
    }

    #[test]
    fn a_file_that_shrank_is_what_was_read_of_it() {
        let short = measure(&opened(9, Layout::Dense), &[b"some"]);
        assert!(!short.whole);
        assert_eq!((short.size, short.id), (4, measure(&opened(4, Layout::Dense), &[b"some"]).id));
        let extents = vec![Extent { offset: 0, length: 4 }, Extent { offset: 8, length: 4 }];
        let sparse = measure(&opened(20, Layout::Sparse(extents)), &[b"some", b"t"]);
        let reached = vec![Extent { offset: 0, length: 4 }, Extent { offset: 8, length: 1 }];
        assert_eq!((sparse.size, sparse.layout), (20, Layout::Sparse(reached)));
    }

    #[test]
    fn an_empty_file_is_whole() {
        let empty = measure(&opened(0, Layout::Dense), &[]);
        assert!(empty.whole && empty.size == 0);
    }
}
