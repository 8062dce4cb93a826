//! Entries of an archive, as `ls` shows them.

use std::fmt::Write;

use jiff::Timestamp;
use proto::v1;
use repository::archive::path::ShowBytes;
use serde::Serialize;

use crate::output::words::utc;

/// One entry.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    /// Control characters, `\` and bytes that are no UTF-8 are escaped; see docs/json.md.
    pub(crate) path: String,
    pub(crate) kind: String,
    /// Octal, e.g. `0644`.
    pub(crate) mode: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified_at: Option<Timestamp>,
    pub(crate) bytes: u64,
    /// Of a link.
    pub(crate) target: Option<String>,
}

/// Names as text that cannot drive a terminal.
pub(crate) fn path_text(bytes: &[u8]) -> String {
    if bytes.is_empty() { ".".to_owned() } else { ShowBytes(bytes).to_string() }
}

impl From<v1::EntryLine> for Entry {
    fn from(wire: v1::EntryLine) -> Self {
        let nanoseconds = i32::try_from(wire.mtime_nanoseconds).unwrap_or_default();
        Self {
            path: path_text(&wire.path),
            kind: wire.kind,
            mode: format!("{:04o}", wire.mode & 0o7777),
            uid: wire.uid,
            gid: wire.gid,
            modified_at: Timestamp::new(wire.mtime_seconds, nanoseconds).ok(),
            bytes: wire.size,
            target: (!wire.target.is_empty()).then(|| ShowBytes(&wire.target).to_string()),
        }
    }
}

/// An entry that was looked for, and where it is.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) backup: String,
    pub(crate) component: String,
    pub(crate) source: String,
    #[serde(flatten)]
    pub(crate) entry: Entry,
}

impl Found {
    /// `label` is what the source is called in its backup.
    pub(crate) fn line(&self, label: &str) -> String {
        let Entry { kind, bytes, modified_at, path, .. } = &self.entry;
        let modified = modified_at.map_or_else(|| "-".to_owned(), utc);
        let folder = if kind == "folder" { "/" } else { "" };
        format!("{}  {label:<14}  {bytes:>13}  {modified}  {path}{folder}", self.backup)
    }
}

impl Entry {
    /// A line in the manner of `ls -l`.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{}{}", letter(&self.kind), permissions(&self.mode));
        let modified = self.modified_at.map_or_else(|| "-".to_owned(), utc);
        write!(line, " {:>6} {:>6} {:>13}  {modified}  {}", self.uid, self.gid, self.bytes, self.path)
            .expect("a String takes everything");
        if let Some(target) = &self.target {
            line.push_str(if self.kind == "hardlink" { " = " } else { " -> " });
            line.push_str(target);
        }
        line
    }
}

fn letter(kind: &str) -> char {
    match kind {
        "folder" => 'd',
        "symlink" => 'l',
        "hardlink" => 'h',
        "fifo" => 'p',
        "socket" => 's',
        "device" => 'b',
        _ => '-',
    }
}

/// `rwxr-x---` of an octal mode.
fn permissions(mode: &str) -> String {
    let mode = u32::from_str_radix(mode, 8).unwrap_or_default();
    let mut text = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 > 0 { 'r' } else { '-' });
        text.push(if bits & 2 > 0 { 'w' } else { '-' });
        text.push(match (mode & special > 0, bits & 1 > 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_as_ls_writes_them() {
        for (mode, text) in
            [("0755", "rwxr-xr-x"), ("4711", "rws--x--x"), ("1777", "rwxrwxrwt"), ("2640", "rw-r-S---")]
        {
            assert_eq!(permissions(mode), text);
        }
    }

    #[test]
    fn a_line_shows_the_target_of_a_link_and_escapes_names() {
        let wire = v1::EntryLine {
            path: b"a\nb".as_slice().into(),
            kind: "symlink".into(),
            mode: 0o777,
            target: b"../c".as_slice().into(),
            ..Default::default()
        };
        let line = Entry::from(wire).line();
        assert_eq!(line, "lrwxrwxrwx      0      0             0  1970-01-01 00:00:00Z  a\\nb -> ../c");
    }
}
