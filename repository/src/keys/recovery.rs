//! The recovery key: 32 random bytes that a person can write down and read back.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::random;
use crate::signed::Sha256;

/// Crockford's base32: no I, L, O, U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const PREFIX: &str = "NSRK";
const SECRET: usize = 32;
const CHECK: usize = 3;

/// A text is not a recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecoveryKey {
    /// Wrong prefix, length or letters.
    #[error("a recovery key is NSRK- and 14 groups of four letters and digits")]
    Shape,
    /// The check digits do not fit: a letter was misread.
    #[error("the recovery key's check digits do not fit: at least one character is wrong")]
    Check,
}

/// The secret of a recovery slot.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryKey([u8; SECRET]);

impl RecoveryKey {
    pub(crate) fn generate() -> Self {
        Self(random::bytes())
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.0
    }

    /// As its owner writes it down: `NSRK-XXXX-…`. The only way out; there is no `Display`.
    pub fn reveal(&self) -> String {
        let check = Sha256::of(&self.0).0;
        let bytes = self.0.iter().chain(&check[..CHECK]).copied().collect::<Vec<u8>>();
        let mut text = PREFIX.to_owned();
        for (index, group) in bytes.chunks_exact(5).enumerate() {
            let value = group.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            for digit in 0..8 {
                if (index * 8 + digit) % 4 == 0 {
                    text.push('-');
                }
                text.push(DIGITS[(value >> (35 - 5 * digit) & 31) as usize] as char);
            }
        }
        text
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

impl FromStr for RecoveryKey {
    type Err = InvalidRecoveryKey;

    fn from_str(text: &str) -> Result<Self, InvalidRecoveryKey> {
        let plain: String = text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        let digits = plain.to_ascii_uppercase();
        let digits = digits.strip_prefix(PREFIX).ok_or(InvalidRecoveryKey::Shape)?;
        if digits.len() != (SECRET + CHECK) * 8 / 5 {
            return Err(InvalidRecoveryKey::Shape);
        }
        let mut bytes = Vec::with_capacity(SECRET + CHECK);
        for group in digits.as_bytes().chunks_exact(8) {
            let value = group.iter().try_fold(0u64, |value, digit| Some(value << 5 | digit_value(*digit)?));
            let value = value.ok_or(InvalidRecoveryKey::Shape)?;
            bytes.extend_from_slice(&value.to_be_bytes()[3..]);
        }
        let (secret, check) = bytes.split_at(SECRET);
        if Sha256::of(secret).0[..CHECK] != *check {
            return Err(InvalidRecoveryKey::Check);
        }
        Ok(Self(secret.try_into().expect("split at 32")))
    }
}

fn digit_value(digit: u8) -> Option<u64> {
    let digit = match digit {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    DIGITS.iter().position(|known| *known == digit).map(|value| value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_written_down_and_read_back() {
        let key = RecoveryKey::generate();
        let text = key.reveal();
        assert_eq!(text.split('-').count(), 15);
        let sloppy = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert_eq!(sloppy.parse::<RecoveryKey>().expect("read back").secret(), key.secret());
    }

    #[test]
    fn one_wrong_character_is_noticed() {
        let text = RecoveryKey::generate().reveal();
        for at in 5..text.len() {
            let mut wrong = text.clone().into_bytes();
            if wrong[at] != b'-' {
                wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
                let wrong = String::from_utf8(wrong).expect("ASCII");
                assert_eq!(wrong.parse::<RecoveryKey>().expect_err("wrong"), InvalidRecoveryKey::Check);
            }
        }
        assert_eq!("NSRK-1234".parse::<RecoveryKey>().expect_err("short"), InvalidRecoveryKey::Shape);
    }
}
