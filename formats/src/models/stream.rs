//! Reads a structure item by item from bytes that come in pieces, without keeping more than one item.

/// The longest item that is held: a name, a tag, a list of dimensions.
pub(super) const MAX_ITEM: usize = 1 << 20;
/// So much of a piece is taken over at a time.
const PORTION: usize = 64 << 10;

/// What a reader says of the bytes that it was shown.
pub(super) enum Next {
    /// The item has not come whole yet.
    More,
    /// It has taken the first `take` bytes, and the `skip` after them are of no interest.
    Took { take: usize, skip: u64 },
    /// It has seen all that it wants.
    Enough,
    /// The structure is broken, and how.
    Wrong(String),
}

/// Takes items off the front of a stream.
pub(super) trait Items {
    /// Looks at the bytes from the offset `at` of the file on.
    fn item(&mut self, bytes: &[u8], at: u64) -> Next;
}

/// The stream of one file.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pending: Vec<u8>,
    /// The offset of the first pending byte.
    at: u64,
    skip: u64,
    wrong: Option<String>,
    is_over: bool,
}

impl Stream {
    /// Gives `items` the next bytes; false if no more are wanted.
    pub(super) fn feed(&mut self, items: &mut dyn Items, bytes: &[u8]) -> bool {
        for portion in bytes.chunks(PORTION) {
            if self.is_over {
                return false;
            }
            let skipped = self.skip.min(portion.len() as u64);
            self.skip -= skipped;
            self.at += skipped;
            self.pending.extend_from_slice(&portion[skipped as usize..]);
            self.work(items);
        }
        !self.is_over
    }

    fn work(&mut self, items: &mut dyn Items) {
        let mut start = 0;
        while self.skip == 0 && !self.is_over {
            match items.item(&self.pending[start..], self.at) {
                Next::More if self.pending.len() - start > MAX_ITEM => {
                    self.end(Some(format!("what stands at byte {} is too long", self.at)));
                }
                Next::More => break,
                Next::Took { take, skip } => {
                    let take = take.min(self.pending.len() - start);
                    start += take;
                    self.at += take as u64;
                    let here = skip.min((self.pending.len() - start) as u64);
                    start += here as usize;
                    self.at += here;
                    self.skip = skip - here;
                    // Without progress no later look could differ.
                    if take == 0 && skip == 0 {
                        break;
                    }
                }
                Next::Enough => self.end(None),
                Next::Wrong(what) => self.end(Some(what)),
            }
        }
        self.pending.drain(..start);
    }

    fn end(&mut self, wrong: Option<String>) {
        self.wrong = wrong;
        self.is_over = true;
    }

    /// The offset up to which items were taken, and what was found to be wrong.
    pub(super) fn finish(self) -> (u64, Option<String>) {
        (self.at, self.wrong)
    }
}

/// The fields of one item, off a slice.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.used.checked_add(length)?;
        let taken = self.bytes.get(self.used..end)?;
        self.used = end;
        Some(taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes were taken")))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }
}
