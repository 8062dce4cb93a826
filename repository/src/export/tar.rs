//! The tar format (POSIX.1-2001, PAX): entries to headers. Pure.
//!
//! Must stay true: every name, time, owner and attribute comes back with GNU tar and bsdtar; what the old
//! header has no room for goes into a PAX record before it. Sparse files are written in full.

use crate::archive::entry::{Entry, EntryKind, Timestamp};

const BLOCK: usize = 512;
/// What ends a tar file: two blocks of zeros.
pub(super) const END: usize = 2 * BLOCK;
const MAX_NAME: usize = 100;
const MAX_ID: u32 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// How many zeros follow a content of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// The header of an entry, whole blocks; `None` for what tar cannot hold: sockets.
pub(super) fn header(entry: &Entry) -> Option<Vec<u8>> {
    let mut name = match entry.path.is_root() {
        true => b".".to_vec(),
        false => entry.path.as_bytes().to_vec(),
    };
    let (mut link, mut size, mut device) = (Vec::new(), 0, (0, 0));
    let flag = match &entry.kind {
        EntryKind::Folder => {
            name.push(b'/');
            b'5'
        }
        EntryKind::File(content) => {
            size = content.size;
            b'0'
        }
        EntryKind::Symlink { target } => {
            link = target.clone();
            b'2'
        }
        EntryKind::HardLink { to } => {
            link = to.as_bytes().to_vec();
            b'1'
        }
        EntryKind::Fifo => b'6',
        EntryKind::Socket => return None,
        EntryKind::Device { block, major, minor } => {
            device = (*major, *minor);
            if *block { b'4' } else { b'3' }
        }
    };
    let mut out = Vec::new();
    let records = records(entry, &name, &link, size);
    if !records.is_empty() {
        let fields = Fields {
            name: b"PaxHeader",
            link: b"",
            flag: b'x',
            mode: 0o644,
            size: records.len() as u64,
            ..Fields::default()
        };
        out.extend_from_slice(&fields.block());
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
    }
    let fields = Fields {
        name: &name,
        link: &link,
        flag,
        mode: entry.metadata.mode,
        uid: entry.metadata.uid.min(MAX_ID),
        gid: entry.metadata.gid.min(MAX_ID),
        size: size.min(MAX_SIZE),
        mtime: u64::try_from(entry.metadata.mtime.seconds).unwrap_or(0).min(MAX_SIZE),
        device,
    };
    out.extend_from_slice(&fields.block());
    Some(out)
}

/// The PAX records for what the old header has no room for.
fn records(entry: &Entry, name: &[u8], link: &[u8], size: u64) -> Vec<u8> {
    let metadata = &entry.metadata;
    let mut out = Vec::new();
    if name.len() > MAX_NAME {
        record(&mut out, b"path", name);
    }
    if link.len() > MAX_NAME {
        record(&mut out, b"linkpath", link);
    }
    if size > MAX_SIZE {
        record(&mut out, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], metadata.uid), (b"gid", metadata.gid)] {
        if id > MAX_ID {
            record(&mut out, key, id.to_string().as_bytes());
        }
    }
    let mtime = metadata.mtime;
    if mtime.nanoseconds != 0 || u64::try_from(mtime.seconds).is_ok_and(|s| s > MAX_SIZE) || mtime.seconds < 0
    {
        record(&mut out, b"mtime", decimal(mtime).as_bytes());
    }
    for (key, value) in &metadata.xattrs {
        record(&mut out, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    out
}

/// `length key=value newline`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds since 1970 with a fraction. Our nanoseconds always count forward; the text's have its sign.
fn decimal(time: Timestamp) -> String {
    let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000)
}

/// One block of the old header.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    device: (u32, u32),
}

impl Fields<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..100], self.name);
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], self.uid.into());
        octal(&mut block[116..124], self.gid.into());
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.mtime);
        block[148..156].fill(b' ');
        block[156] = self.flag;
        text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], self.device.0.into());
        octal(&mut block[337..345], self.device.1.into());
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum);
        block
    }
}

/// As much of `bytes` as fits; the whole is in a PAX record where it does not.
fn text(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Octal digits and a NUL; too large a number is cut off at the top, and never written that way.
fn octal(field: &mut [u8], value: u64) {
    let (last, digits) = field.split_last_mut().expect("a field has bytes");
    *last = 0;
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
