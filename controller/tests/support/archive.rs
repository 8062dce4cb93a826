//! Real archives of a few files, sealed as an agent would.

use std::collections::BTreeMap;

use proto::convert::{array, id, to_wire_counts};
use proto::v1::{ArchiveSummary, Consistency, StartArchive};
use repository::archive::entry::{Entry, EntryKind, Extent, FileContent, Layout, Metadata, Piece, Pieces};
use repository::archive::page::{PageBuilder, PageLine, PageTable};
use repository::archive::path::EntryPath;
use repository::backup::manifest::Counts;
use repository::content::{ContentHasher, IdKey};
use repository::ids::{BlobId, DomainId};
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::seal::SealingPublicKey;
use repository::pack::segment::{SealedSegment, SegmentBuilder};
use repository::refs::{BlobAddress, Refs};

pub type Files = BTreeMap<&'static str, Vec<u8>>;

pub struct Sealed {
    pub segments: Vec<SealedSegment>,
    pub summary: ArchiveSummary,
    pub refs: Vec<u8>,
}

pub fn files(content: &str) -> Files {
    Files::from([("a.txt", content.as_bytes().to_vec()), ("b.bin", content.repeat(3_000).into_bytes())])
}

struct Sealer {
    id_key: IdKey,
    data: SegmentBuilder,
    metadata: SegmentBuilder,
    addresses: Vec<BlobAddress>,
}

impl Sealer {
    fn add(&mut self, kind: BlobKind, plain: &[u8]) -> BlobId {
        let blob = blob_id(&self.id_key, kind, plain);
        let builder = match kind.class() {
            Class::Data => &mut self.data,
            Class::Metadata => &mut self.metadata,
        };
        let ordinal = builder.add(blob, kind, Codec::Raw, plain.len() as u32, plain);
        self.addresses.push(BlobAddress { segment: builder.id(), ordinal });
        blob
    }
}

/// Every file in a blob of its own; one data segment, one of metadata.
pub fn seal(repository: &[u8], order: &StartArchive, files: &Files) -> Sealed {
    let keys = order.domain.as_ref().expect("keys");
    let domain: DomainId = id("domain", &keys.domain_id).expect("a domain");
    let public = order.repository_key.as_ref().expect("a key");
    let public =
        SealingPublicKey { epoch: public.epoch, key: array("key", &public.public_key).expect("32 bytes") };
    let repository = id("repository", repository).expect("an id");
    let builder = |class| SegmentBuilder::new(class, repository, domain, &public);
    let mut sealer = Sealer {
        id_key: IdKey::new(array("id_key", &keys.id_key).expect("32 bytes")),
        data: builder(Class::Data),
        metadata: builder(Class::Metadata),
        addresses: Vec::new(),
    };
    let mut pages = PageBuilder::new(&sealer.id_key);
    let root = Entry { path: EntryPath::root(), metadata: Metadata::default(), kind: EntryKind::Folder };
    let mut done: Vec<_> = pages.add(&root).into_iter().collect();
    for (path, bytes) in files {
        let blob = sealer.add(BlobKind::Data, bytes);
        let size = bytes.len() as u64;
        let mut hasher = ContentHasher::new(&sealer.id_key);
        hasher.data(bytes);
        hasher.extent_ends(Extent { offset: 0, length: size });
        let pieces = Pieces::Inline(vec![Piece { blob, offset: 0, length: size as u32 }]);
        let content = FileContent { size, id: hasher.finish(size), layout: Layout::Dense, pieces };
        let path = EntryPath::new(path.as_bytes()).expect("a path");
        done.extend(pages.add(&Entry {
            path,
            metadata: Metadata::default(),
            kind: EntryKind::File(content),
        }));
    }
    done.extend(pages.finish());
    let mut table = PageTable::default();
    for page in done {
        let id = sealer.add(BlobKind::Page, &page.bytes);
        table.pages.push(PageLine { first: page.first, id, entries: page.entries });
    }
    let root = sealer.add(BlobKind::PageTable, &table.encode());
    let mut segments = vec![sealer.data.finish(), sealer.metadata.finish()];
    segments.retain(|segment| segment.table.header.blobs > 0);
    let mut refs = Refs::new(domain);
    for address in sealer.addresses {
        let of = segments.iter().find(|segment| segment.id() == address.segment).expect("sealed");
        refs.add(address, of.table.header.blobs);
    }
    let bytes = files.values().map(|bytes| bytes.len() as u64).sum();
    let counts = Counts { files: files.len() as u64, folders: 1, bytes, ..Counts::default() };
    let summary = ArchiveSummary {
        root: root.as_bytes().to_vec().into(),
        counts: Some(to_wire_counts(&counts)),
        consistency: Consistency::Fuzzy.into(),
        ..ArchiveSummary::default()
    };
    Sealed { segments, summary, refs: refs.encode() }
}
