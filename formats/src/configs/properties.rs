//! Java properties: any line is one, but a `\u` must be followed by four hexadecimal digits.

use super::{Place, place_of};

/// Where it stops being one.
pub(super) fn parse(text: &[u8]) -> Result<(), Place> {
    let (mut at, mut line_begins) = (0, true);
    while at < text.len() {
        if line_begins && is_comment(&text[at..]) {
            at += text[at..].iter().position(|byte| *byte == b'\n').map_or(text.len() - at, |end| end + 1);
            continue;
        }
        line_begins = text[at] == b'\n';
        if text[at] != b'\\' {
            at += 1;
            continue;
        }
        if text.get(at + 1) == Some(&b'u') {
            let digits = text.get(at + 2..at + 6).unwrap_or_default();
            if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                return Err(place_of(text, at));
            }
        }
        at += 2;
    }
    Ok(())
}

fn is_comment(line: &[u8]) -> bool {
    let mut bytes = line.iter().skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\x0c'));
    matches!(bytes.next(), Some(b'#' | b'!'))
}
