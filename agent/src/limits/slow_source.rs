//! A source whose contents are read no faster than a rate.

use repository::backup::manifest::{Consistency, Quiesce};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Pace;
use crate::signed::Signed;
use crate::sources::{Body, Content, Item, Opened, ReadError, Source, SourceEntry, SourceError, Stamp};

/// Gives what `inner` gives, its contents at a pace.
pub(crate) struct SlowSource {
    inner: Box<dyn Source>,
    gate: Gate,
}

/// Where a thread waits until it may go on.
#[derive(Clone)]
struct Gate {
    pace: Pace,
    runtime: Handle,
    cancel: CancellationToken,
}

impl SlowSource {
    /// Reads no faster than `pace`, until `cancel`; `runtime` waits for it.
    pub(crate) fn new(
        inner: Box<dyn Source>,
        pace: Pace,
        runtime: Handle,
        cancel: CancellationToken,
    ) -> Self {
        Self { inner, gate: Gate { pace, runtime, cancel } }
    }
}

impl Source for SlowSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let item = self.inner.next()?;
        Ok(item.map(|item| match item {
            Item::Entry(SourceEntry { path, metadata, body: Body::File { stamp, clock, content } }) => {
                let content = SlowContent { inner: content, gate: self.gate.clone() };
                let body = Body::File { stamp, clock, content: Box::new(content) };
                Item::Entry(SourceEntry { path, metadata, body })
            }
            other => other,
        }))
    }

    fn consistency(&self) -> Consistency {
        self.inner.consistency()
    }

    fn quiesce(&self) -> Option<Quiesce> {
        self.inner.quiesce()
    }

    fn remarks(&self) -> Vec<String> {
        self.inner.remarks()
    }

    fn signed(&self) -> Option<Signed> {
        self.inner.signed()
    }

    fn signer(&self) -> Option<String> {
        self.inner.signer()
    }
}

struct SlowContent {
    inner: Box<dyn Content>,
    gate: Gate,
}

impl Content for SlowContent {
    fn open(&mut self) -> Result<Opened, ReadError> {
        self.inner.open()
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let Gate { pace, runtime, cancel } = &self.gate;
        let (piece, mut filled) = (pace.piece(), 0);
        while filled < buffer.len() {
            let end = buffer.len().min(filled + piece);
            let count = self.inner.read(&mut buffer[filled..end])?;
            if count == 0 {
                break;
            }
            filled += count;
            pace.pass_blocking(count, runtime, cancel);
        }
        Ok(filled)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        self.inner.close()
    }
}
