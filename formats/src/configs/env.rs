//! Lists of variables as Compose reads them: `[export] NAME=value`, `NAME: value`, or a bare `NAME` (taken
//! over from the environment); a value in quotes may go over several lines.

use super::Place;

/// Where it stops being one.
pub(super) fn parse(text: &str) -> Result<(), Place> {
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let entry = trimmed.strip_prefix("export ").map_or(trimmed, str::trim_start);
        let at = |rest: &str| Place { line: number, column: 1 + columns(line, rest) };
        let name_ends = entry.find(|c: char| !is_in_name(c)).unwrap_or(entry.len());
        let (name, rest) = entry.split_at(name_ends);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(at(entry));
        }
        let after = rest.trim_start();
        let Some(value) = after.strip_prefix(['=', ':']) else {
            if after.is_empty() || after.starts_with('#') {
                continue;
            }
            return Err(at(entry));
        };
        let value = value.trim_start();
        let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else { continue };
        let opened = at(value);
        let mut rest = &value[1..];
        while !closes(rest, quote) {
            rest = lines.next().ok_or(opened)?.1;
        }
    }
    Ok(())
}

fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// True if the quote ends in this line; a backslash takes away its meaning.
fn closes(line: &str, quote: char) -> bool {
    let mut is_escaped = false;
    for c in line.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return true,
            _ => {}
        }
    }
    false
}

/// How many characters of `line` stand before its part `rest`.
fn columns(line: &str, rest: &str) -> u64 {
    let offset = rest.as_ptr() as usize - line.as_ptr() as usize;
    line[..offset].chars().count() as u64
}
