//! The names of a folder, sorted as bytes, a page at a time.
//!
//! A system lists names in an order of its own, and an archive wants them sorted: so a page is the smallest
//! names after the last one that was given, found by a scan of the whole folder. A folder of a million
//! entries takes a few scans and the memory of one page, not a list of all of them and no temporary file.
//!
//! Must stay true: names are given in strictly rising order, each once, whatever is made or removed
//! between two scans; a name that is there all the time is given.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;

/// How many bytes of names may be held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In one page; twice as many while it is being read.
    pub(crate) page: usize,
    /// In the pages of all folders that are open at a time.
    pub(crate) total: usize,
}

/// Some 300,000 names of usual length in a page.
pub(crate) const LIMITS: Limits = Limits { page: 8 << 20, total: 16 << 20 };

/// What one call for a folder's names may return, in bytes.
const BUFFER: usize = 32 * 1024;

/// Gives the names of one folder, `.` and `..` left out.
#[derive(Debug)]
pub(crate) struct NamePages {
    page: Page,
    /// The next of the page to be given.
    at: usize,
    /// The last that was given from a page that is gone.
    last: Option<Box<CStr>>,
    /// There may be names beyond the page.
    more: bool,
}

/// Names, each ended by NUL, one after the other in one piece of memory.
#[derive(Debug, Default)]
struct Page {
    text: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    /// With its NUL.
    length: u16,
}

impl NamePages {
    /// At the start of a folder; nothing is read yet.
    pub(crate) fn new() -> Self {
        Self { page: Page::default(), at: 0, last: None, more: true }
    }

    /// The next name in `folder`, which is always the same one; `None` at the end. Reads a page where none
    /// is held: the position of `folder`'s listing is ours.
    pub(crate) fn next(&mut self, folder: impl AsFd, limits: Limits) -> Result<Option<Box<CStr>>, Errno> {
        if self.at == self.page.len() && self.more {
            self.read(folder.as_fd(), limits)?;
        }
        if self.at == self.page.len() {
            return Ok(None);
        }
        self.at += 1;
        Ok(Some(self.page.name(self.at - 1).into()))
    }

    /// Reads the page after the last name given.
    pub(crate) fn read(&mut self, folder: BorrowedFd<'_>, limits: Limits) -> Result<(), Errno> {
        self.forget();
        let (page, more) = Page::read(folder, self.last.as_deref(), limits.page)?;
        (self.page, self.more) = (page, more);
        Ok(())
    }

    /// Gives the page's memory back; what was not given of it is read again.
    fn forget(&mut self) {
        if self.at > 0 {
            self.last = Some(self.page.name(self.at - 1).into());
        }
        self.more |= self.at < self.page.len();
        self.page = Page::default();
        self.at = 0;
    }

    fn held(&self) -> usize {
        self.page.held()
    }
}

/// Holds the pages of open folders, the outermost first, to what they may take together: outer ones
/// forget theirs, the innermost keeps its own.
pub(crate) fn keep_within<'a>(limits: Limits, pages: impl DoubleEndedIterator<Item = &'a mut NamePages>) {
    let mut total = 0;
    for page in pages.rev() {
        let held = page.held();
        if total > 0 && total + held > limits.total {
            page.forget();
        } else {
            total += held;
        }
    }
}

impl Page {
    /// The smallest names after `last`, up to `limit` bytes and at least one; true if there are more.
    fn read(folder: BorrowedFd<'_>, last: Option<&CStr>, limit: usize) -> Result<(Self, bool), Errno> {
        rustix::fs::seek(folder, SeekFrom::Start(0))?;
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut listing = RawDir::new(folder, &mut buffer);
        let mut page = Self::default();
        // The smallest name that is known to be for a later page.
        let mut ceiling: Option<Box<CStr>> = None;
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name();
            let is_wanted = !matches!(name.to_bytes(), b"." | b"..")
                && last.is_none_or(|last| name > last)
                && ceiling.as_deref().is_none_or(|ceiling| name < ceiling);
            if is_wanted {
                page.add(name);
                if page.held() > 2 * limit {
                    ceiling = page.cut(limit).or(ceiling);
                }
            }
        }
        ceiling = page.cut(limit).or(ceiling);
        Ok((page, ceiling.is_some()))
    }

    fn len(&self) -> usize {
        self.spans.len()
    }

    fn held(&self) -> usize {
        self.text.len() + self.spans.len() * size_of::<Span>()
    }

    fn add(&mut self, name: &CStr) {
        let bytes = name.to_bytes_with_nul();
        let start = u32::try_from(self.text.len()).expect("a page is far below 4 GiB");
        let length = u16::try_from(bytes.len()).expect("a name in a listing is shorter than 64 KiB");
        self.text.extend_from_slice(bytes);
        self.spans.push(Span { start, length });
    }

    fn name(&self, index: usize) -> &CStr {
        let bytes = &self.text[self.spans[index].range()];
        CStr::from_bytes_with_nul(bytes).expect("a name was written with its NUL")
    }

    /// Sorts, and leaves the smallest names, up to `limit` bytes. Returns the smallest one that goes.
    fn cut(&mut self, limit: usize) -> Option<Box<CStr>> {
        let text = &self.text;
        self.spans.sort_unstable_by(|a, b| text[a.range()].cmp(&text[b.range()]));
        // Some file systems list a name twice if the folder changes meanwhile.
        self.spans.dedup_by(|a, b| text[a.range()] == text[b.range()]);
        let mut held = 0;
        let fits = |span: &&Span| {
            held += usize::from(span.length) + size_of::<Span>();
            held <= limit
        };
        let kept = self.spans.iter().take_while(fits).count().max(1);
        let first_gone = (kept < self.len()).then(|| self.name(kept).into());
        let mut smaller = Self::default();
        (0..kept.min(self.len())).for_each(|index| smaller.add(self.name(index)));
        *self = smaller;
        first_gone
    }
}

impl Span {
    fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + usize::from(self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;

    const TINY: Limits = Limits { page: 64, total: 100 };

    fn folder_of(names: impl IntoIterator<Item = String>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        names.into_iter().for_each(|name| touch(folder.path(), &name));
        folder
    }

    fn touch(folder: &Path, name: &str) {
        File::create(folder.join(name)).expect("made");
    }

    fn all(pages: &mut NamePages, folder: &File, limits: Limits) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(name) = pages.next(folder, limits).expect("listed") {
            names.push(name.into_c_string().into_string().expect("UTF-8"));
            assert!(pages.held() <= limits.page.max(300), "a page of {} bytes", pages.held());
        }
        names
    }

    #[test]
    fn names_come_sorted_and_once_whatever_a_page_holds() {
        let long = |n: u32| format!("{:0width$}", n * 7919 % 1000, width = 3 + (n % 200) as usize);
        let names: BTreeSet<String> = (0..400).map(long).collect();
        let folder = folder_of(names.iter().cloned());
        let handle = File::open(folder.path()).expect("opened");
        for page in [1, 64, 1_000, 1 << 20] {
            let limits = Limits { page, total: 2 * page };
            let found = all(&mut NamePages::new(), &handle, limits);
            assert!(found.iter().eq(&names), "pages of {page} bytes: {found:?}");
        }
    }

    #[test]
    fn an_empty_folder_has_no_names() {
        let folder = folder_of([]);
        let handle = File::open(folder.path()).expect("opened");
        assert_eq!(all(&mut NamePages::new(), &handle, TINY), Vec::<String>::new());
    }

    #[test]
    fn what_comes_and_goes_between_pages_breaks_neither_the_order_nor_the_rest() {
        let folder = folder_of((10..60).map(|n| format!("{n}")));
        let handle = File::open(folder.path()).expect("opened");
        let mut pages = NamePages::new();
        let mut found = Vec::new();
        while let Some(name) = pages.next(&handle, TINY).expect("listed") {
            let name = name.into_c_string().into_string().expect("UTF-8");
            if name == "30" {
                touch(folder.path(), "05");
                touch(folder.path(), "45 new");
                fs::remove_file(folder.path().join("50")).expect("removed");
            }
            found.push(name);
        }
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        let there_all_the_time = (10..60).filter(|n| *n != 50).map(|n| format!("{n}"));
        there_all_the_time.for_each(|name| assert!(found.contains(&name), "{name} in {found:?}"));
        assert!(found.contains(&"45 new".to_owned()), "{found:?}");
        assert!(!found.contains(&"05".to_owned()) && !found.contains(&"50".to_owned()), "{found:?}");
    }

    #[test]
    fn outer_folders_give_their_pages_up_for_inner_ones_and_go_on_where_they_were() {
        let folder = folder_of((10..40).map(|n| format!("{n}")));
        let handle = File::open(folder.path()).expect("opened");
        let mut open: Vec<NamePages> = (0..5).map(|_| NamePages::new()).collect();
        let mut found: Vec<Vec<String>> = vec![Vec::new(); open.len()];
        for _ in 0..30 {
            for (pages, found) in open.iter_mut().zip(&mut found) {
                let name = pages.next(&handle, TINY).expect("listed").expect("thirty names");
                found.push(name.into_c_string().into_string().expect("UTF-8"));
            }
            keep_within(TINY, open.iter_mut());
            assert!(open.iter().map(NamePages::held).sum::<usize>() <= TINY.total);
            assert!(open.last().expect("five").held() > 0, "the innermost keeps its page");
        }
        let names: Vec<String> = (10..40).map(|n| format!("{n}")).collect();
        assert!(found.iter().all(|found| *found == names), "{found:?}");
    }

    #[test]
    fn tens_of_thousands_of_names_take_the_memory_of_a_page() {
        let folder = folder_of((0..20_000).map(|n| format!("{:06}", n * 7919 % 20_000)));
        let handle = File::open(folder.path()).expect("opened");
        let limits = Limits { page: 16 << 10, total: 32 << 10 };
        let mut pages = NamePages::new();
        let (mut count, mut most) = (0, 0);
        while let Some(name) = pages.next(&handle, limits).expect("listed") {
            assert_eq!(name.to_str(), Ok(&*format!("{count:06}")));
            let capacity = pages.page.text.capacity() + pages.page.spans.capacity() * size_of::<Span>();
            (count, most) = (count + 1, most.max(capacity));
        }
        assert_eq!(count, 20_000);
        assert!(most <= 4 * limits.page, "{most} bytes for a page of {}", limits.page);
    }
}
