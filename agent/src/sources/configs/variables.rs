//! Variables of an environment as the lines of a file that Compose, systemd and shells read. Pure.
//!
//! `docker run --env-file` knows no quotes: it takes what is behind the `=` as it is, so a value that is quoted here
//! is another one there, and one of several lines cannot be given so.
//!
//! Must stay true: what a line gives is the value, byte for byte; no value stands in a comment that is not one.

/// A list of variables with a note before it, line by line.
pub(super) struct Lines(String);

impl Lines {
    /// One that begins with these lines, as comments.
    pub(super) fn new(note: &[&str]) -> Self {
        let mut lines = Self(String::new());
        note.iter().for_each(|line| lines.note(line));
        lines
    }

    /// A comment; what comes from elsewhere has no end of a line in it.
    pub(super) fn note(&mut self, text: &str) {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.0.push_str("# ");
        self.0.push_str(&line);
        self.0.push('\n');
    }

    /// A variable; false if no file of this kind takes its name.
    pub(super) fn variable(&mut self, name: &str, value: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let is_name = name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(fits);
        if is_name {
            self.0.push_str(name);
            self.0.push('=');
            self.0.push_str(&quoted(value));
            self.0.push('\n');
        }
        is_name
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// A value as it is written.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,-=".contains(c);
    if value.chars().all(is_plain) {
        return value.to_owned();
    }
    if !value.contains(['\'', '\\']) {
        return format!("'{value}'");
    }
    let mut text = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' | '`' => text.extend(['\\', c]),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_one_that_a_file_of_variables_gives_back() {
        let mut lines = Lines::new(&["said\nTWICE=1"]);
        for (name, value) in [
            ("A", "plain-1.2"),
            ("B", ""),
            ("C", "two words # and $more"),
            ("D", "it's \"so\" \\ $HOME"),
            ("E", "one\ntwo"),
            ("F", "it's\ntwo"),
        ] {
            assert!(lines.variable(name, value), "{name}");
        }
        assert!(!lines.variable("1A", "x") && !lines.variable("", "x") && !lines.variable("a b", "x"));
        let text = String::from_utf8(lines.into_bytes()).expect("text");
        let expected = "# said TWICE=1\nA=plain-1.2\nB=\nC='two words # and $more'\nD=\"it's \\\"so\\\" \\\\ \
                        \\$HOME\"\nE='one\ntwo'\nF=\"it's\ntwo\"\n";
        assert_eq!(text, expected);
    }
}
