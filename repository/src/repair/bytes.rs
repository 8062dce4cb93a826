//! One wrong byte, found by trying: small files whose SHA-256 is known need no second copy for that.

use crate::signed::Sha256;

/// Longer files are not tried: the work grows with the square of the length.
const LONGEST: usize = 16 << 10;

/// `damaged` with the one byte changed that gives it the SHA-256 `wanted`; `None` if no single byte does.
pub(super) fn with_one_byte_right(damaged: &[u8], wanted: Sha256) -> Option<Vec<u8>> {
    if damaged.len() > LONGEST {
        return None;
    }
    let mut tried = damaged.to_vec();
    // What is written is JSON: its bytes are printable, or line ends.
    let likely = || (0x20..=0x7e).chain([b'\n']);
    for at in 0..tried.len() {
        let was = tried[at];
        for byte in likely() {
            tried[at] = byte;
            if Sha256::of(&tried) == wanted {
                return Some(tried);
            }
        }
        tried[at] = was;
    }
    None
}

/// Two damaged copies of the same bytes, and what a run of differing bytes may be: a choice for each run.
/// `None` if no choice satisfies `is_right`, or there are too many runs to try.
pub(super) fn merged(first: &[u8], second: &[u8], is_right: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    const MOST_RUNS: usize = 12;
    if first.len() != second.len() {
        return None;
    }
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for at in (0..first.len()).filter(|at| first[*at] != second[*at]) {
        match runs.last_mut() {
            Some(run) if run.end + 16 >= at => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    if runs.len() > MOST_RUNS {
        return None;
    }
    (0..1_u32 << runs.len()).find_map(|choice| {
        let mut tried = first.to_vec();
        for (nth, run) in runs.iter().enumerate().filter(|(nth, _)| choice & 1 << nth != 0) {
            let _ = nth;
            tried[run.clone()].copy_from_slice(&second[run.clone()]);
        }
        is_right(&tried).then_some(tried)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_found_and_two_are_not() {
        let text = br#"{"format": 0, "component": "models"}"#.to_vec();
        let sum = Sha256::of(&text);
        let mut damaged = text.clone();
        damaged[7] ^= 0x80;
        assert_eq!(with_one_byte_right(&damaged, sum), Some(text));
        damaged[9] ^= 1;
        assert_eq!(with_one_byte_right(&damaged, sum), None);
    }

    #[test]
    fn copies_that_are_damaged_in_different_places_make_a_whole_one() {
        let text: Vec<u8> = (0..200).collect();
        let (mut first, mut second) = (text.clone(), text.clone());
        first[3] ^= 1;
        first[150] ^= 1;
        second[80] ^= 1;
        assert_eq!(merged(&first, &second, |tried| tried == text), Some(text.clone()));
        second[3] ^= 2;
        assert_eq!(merged(&first, &second, |tried| tried == text), None);
    }
}
