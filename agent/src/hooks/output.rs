//! What a hook has said: its end, in lines, without its secrets. Pure.

use crate::config::Hook;

/// The newest bytes are kept.
const MOST_BYTES: usize = 8 << 10;
/// As lines, the newest.
const MOST_LINES: usize = 20;
/// A shorter value would hide half of what is said and is no secret.
const LEAST_SECRET: usize = 4;
const HIDDEN: &str = "(redacted)";

/// The newest of what was said.
#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: Vec<u8>,
    said: u64,
}

impl Tail {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.said += bytes.len() as u64;
        self.kept.extend_from_slice(bytes);
        // Twice as much, so that not every piece moves all of it.
        if self.kept.len() > 2 * MOST_BYTES {
            self.kept.drain(..self.kept.len() - MOST_BYTES);
        }
    }

    /// The last lines, with what `hook` keeps secret hidden; and how many bytes before them were left out.
    pub(super) fn lines(&self, hook: &Hook) -> Vec<String> {
        // Hidden before anything is cut: a cut must not leave half of a secret.
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        for secret in secrets(hook) {
            text = text.replace(secret, HIDDEN);
        }
        if self.said > self.kept.len() as u64 {
            // What was cut off before may have begun within one.
            text = text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        }
        let from = text.ceil_char_boundary(text.len().saturating_sub(MOST_BYTES));
        let lines: Vec<&str> = text[from..].lines().filter(|line| !line.trim().is_empty()).collect();
        let shown = &lines[lines.len().saturating_sub(MOST_LINES)..];
        let told: usize = shown.iter().map(|line| line.len() + 1).sum();
        let left_out = self.said.saturating_sub(told as u64);
        let head = (shown.len() < lines.len() || from > 0 || self.said > self.kept.len() as u64)
            .then(|| format!("(about {left_out} bytes before this are left out)"));
        head.into_iter().chain(shown.iter().map(|line| (*line).to_owned())).collect()
    }
}

/// What is not to be shown, the longest first: one may begin with another. A value of several lines is kept
/// secret line by line, for a part of it may have been cut off, or be shown by itself.
fn secrets(hook: &Hook) -> Vec<&str> {
    let values = hook.env.values().map(|value| value.expose());
    let mut all: Vec<&str> = values.flat_map(|value| value.lines().map(str::trim).chain([value])).collect();
    all.retain(|secret| secret.len() >= LEAST_SECRET);
    all.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use runtime::config::Secret;

    use super::*;

    fn hook(secret: &str) -> Hook {
        Hook {
            command: vec!["/bin/true".to_owned()],
            shell: None,
            timeout: runtime::config::Duration::from_secs(1),
            on_failure: None,
            env: [("PASSWORD".to_owned(), Secret::new(secret))].into(),
        }
    }

    #[test]
    fn a_secret_that_begins_with_another_value_and_one_of_several_lines_are_hidden_whole() {
        let key = "-----BEGIN KEY-----\nc2VjcmV0LW9uZQ==\nc2VjcmV0LXR3bw==\n-----END KEY-----\n";
        let env = [("A_DATABASE", "shop"), ("B_PASSWORD", "shop-8fh2kq"), ("C_KEY", key)];
        let env = env.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
        let hook = Hook { env, ..hook("") };
        let mut tail = Tail::default();
        tail.add(&vec![b'.'; 3 * MOST_BYTES]);
        tail.add(format!("\nlogin shop with shop-8fh2kq\n{}\nthe end\n", &key[25..]).as_bytes());
        let text = tail.lines(&hook).join("\n");
        assert!(!text.contains("8fh2kq") && !text.contains("XR3bw"), "{text}");
        assert!(text.contains("login (redacted) with (redacted)\n") && text.ends_with("the end"), "{text}");
    }

    #[test]
    fn much_output_is_told_by_its_end_and_its_memory_is_bounded() {
        let mut tail = Tail::default();
        for nth in 0..1_000_000 {
            tail.add(format!("line {nth}\n").as_bytes());
            assert!(tail.kept.capacity() <= 8 * MOST_BYTES, "{}", tail.kept.capacity());
        }
        let lines = tail.lines(&hook("none-of-it"));
        assert_eq!(lines.len(), 1 + MOST_LINES);
        assert!(lines[0].contains("left out") && lines[20] == "line 999999", "{lines:?}");
        let mut endless = Tail::default();
        endless.add(&vec![b'x'; 10 * MOST_BYTES]);
        assert!(endless.lines(&hook("none-of-it")).iter().all(|line| line.len() <= MOST_BYTES));
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands_and_never_shown_in_part() {
        let secret = "correct-horse-battery";
        for before in (0..3 * MOST_BYTES).step_by(7) {
            let mut tail = Tail::default();
            tail.add(&vec![b'.'; before]);
            tail.add(format!("{secret}\nnext {secret} line\n").as_bytes());
            tail.add(&vec![b'.'; 2 * MOST_BYTES - before % MOST_BYTES]);
            let text = tail.lines(&hook(secret)).join("\n");
            assert!(
                !text.contains("correct") && !text.contains("horse") && !text.contains("battery"),
                "{before}"
            );
        }
        let mut short = Tail::default();
        short.add(b"said correct-horse-battery twice\n");
        assert_eq!(short.lines(&hook(secret)), ["said (redacted) twice"]);
    }
}
