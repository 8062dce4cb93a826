//! Paths in a backup, as people type them: with a leading `/` or not, and escaped as `nsctl ls` shows them.
//!
//! Must stay true: what `ls`, `find` and `diff` show can be given back, whatever bytes a name has.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use tonic::{Code, Status};

/// What a path may mean, the likeliest first: with its escapes read, and byte by byte as it was typed.
pub(super) fn meanings(typed: &OsStr) -> Vec<Vec<u8>> {
    let typed = trim(typed.as_bytes());
    let mut meanings = vec![unescape(typed)];
    if meanings[0] != typed {
        meanings.push(typed.to_vec());
    }
    meanings
}

/// True if another meaning of the same path may be there.
pub(super) fn is_missing(status: &Status) -> bool {
    status.code() == Code::NotFound
}

/// Slashes at both ends change nothing, and `.` is the component's root, as `ls` writes it.
fn trim(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"/").or(path.strip_prefix(b"./")) {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    if path == b"." { b"" } else { path }
}

/// The bytes of a name as `nsctl ls` shows it. A `\` that begins none of its escapes is itself.
fn unescape(shown: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown;
    while let Some((first, after)) = rest.split_first() {
        let read = if *first == b'\\' { escape(after) } else { None };
        match read {
            Some((value, length)) => {
                bytes.extend_from_slice(&value);
                rest = &after[length..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// What the text behind a `\` stands for, and how much of it that takes.
fn escape(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    match text.first()? {
        b'\\' => Some((vec![b'\\'], 1)),
        b'n' => Some((vec![b'\n'], 1)),
        b'r' => Some((vec![b'\r'], 1)),
        b't' => Some((vec![b'\t'], 1)),
        b'x' => Some((vec![u8::try_from(hex(text.get(1..3)?)?).ok()?], 3)),
        b'u' => {
            let digits = text.get(1..)?.strip_prefix(b"{")?;
            let digits = &digits[..digits.iter().position(|byte| *byte == b'}')?];
            let letter = char::from_u32(hex(digits)?)?;
            Some((letter.to_string().into_bytes(), digits.len() + 3))
        }
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_hex)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use repository::archive::path::ShowBytes;

    use super::*;

    #[test]
    fn whatever_is_shown_can_be_given_back() {
        let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let names: [&[u8]; 7] = [
            b"a",
            b"a\nb\tc\r",
            b"bad\xff\xc3",
            b"C:\\new\\x41",
            "\u{85}\u{7f}ü\u{1b}[0m".as_bytes(),
            b"\\u{41}",
            &every,
        ];
        for name in names {
            let shown = ShowBytes(name).to_string();
            assert_eq!(meanings(OsStr::new(&shown))[0], name, "{shown}");
        }
    }

    #[test]
    fn what_is_no_escape_is_itself() {
        for plain in ["a\\", "\\x4", "\\xzz", "\\u41", "\\u{}", "\\u{110000}", "\\u{41", "\\d", "\\x+1"] {
            assert_eq!(meanings(OsStr::new(plain)), [plain.as_bytes()], "{plain}");
        }
        assert_eq!(meanings(OsStr::new("a\\nb")), [b"a\nb".to_vec(), b"a\\nb".to_vec()]);
        assert_eq!(meanings(OsStr::from_bytes(b"bad\xff")), [b"bad\xff"]);
    }

    #[test]
    fn slashes_at_the_ends_and_a_dot_for_the_root_are_taken() {
        for (typed, path) in
            [("/etc/app/", "etc/app"), (".", ""), ("./a", "a"), ("//", ""), ("a/./b", "a/./b")]
        {
            assert_eq!(meanings(OsStr::new(typed)), [path.as_bytes()], "{typed}");
        }
    }
}
