//! The join token: what an operator carries by hand from the controller to a new agent.
//!
//! It holds a one-time secret and the certificate of the controller's own authority, so that the agent
//! knows its controller before it says anything: `nsjoin1-<secret, 64 hex digits>-<certificate, hex DER>`.
//!
//! Must stay true: the secret leaves this type only by [`JoinToken::secret`] and [`JoinToken::to_text`];
//! `Debug` does not show it.

use repository::ids::{hex, unhex};
use zeroize::Zeroizing;

const PREFIX: &str = "nsjoin1-";
/// Longer than any certificate of ours, in bytes.
pub(crate) const MAX_CERTIFICATE: usize = 4_096;

/// A text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token, or not the whole of one")]
pub struct InvalidToken;

/// A one-time secret and whom to trust.
pub struct JoinToken {
    secret: Zeroizing<[u8; 32]>,
    ca_certificate: Vec<u8>,
}

impl JoinToken {
    /// A token with this secret for the authority with this certificate (DER).
    pub fn new(secret: [u8; 32], ca_certificate: Vec<u8>) -> Self {
        Self { secret: Zeroizing::new(secret), ca_certificate }
    }

    /// The token written as `text`; blanks around it do not matter.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let (secret, certificate) =
            text.trim().strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).ok_or(InvalidToken)?;
        let secret = Zeroizing::new(unhex(secret).ok_or(InvalidToken)?);
        let secret = <[u8; 32]>::try_from(secret.as_slice()).map_err(|_| InvalidToken)?;
        if certificate.len() > MAX_CERTIFICATE * 2 {
            return Err(InvalidToken);
        }
        let ca_certificate = unhex(certificate).filter(|der| is_whole_der(der)).ok_or(InvalidToken)?;
        Ok(Self::new(secret, ca_certificate))
    }

    /// As people carry it; also what `JoinRequest.token` holds.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex(self.secret.as_slice()));
        Zeroizing::new(format!("{PREFIX}{}-{}", *secret, hex(&self.ca_certificate)))
    }

    /// What the controller knows the hash of.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The certificate of the controller's authority: X.509, DER.
    pub fn ca_certificate(&self) -> &[u8] {
        &self.ca_certificate
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

/// True if `der` is one SEQUENCE of exactly its stated length: a token that was cut short is noticed.
pub(crate) fn is_whole_der(der: &[u8]) -> bool {
    match der {
        [0x30, length @ 0..=0x7f, rest @ ..] => rest.len() == usize::from(*length),
        [0x30, 0x81, length, rest @ ..] => rest.len() == usize::from(*length),
        [0x30, 0x82, high, low, rest @ ..] => rest.len() == usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_carried() {
        let token = JoinToken::new([7; 32], vec![0x30, 3, 1, 2, 3]);
        let text = token.to_text();
        let read = JoinToken::parse(&format!("  {}\n", *text)).expect("a token");
        assert_eq!((read.secret(), read.ca_certificate()), (&[7; 32], &[0x30, 3, 1, 2, 3][..]));
        assert!(!format!("{token:?}").contains("0707"));
    }

    #[test]
    fn a_token_that_was_cut_short_is_refused() {
        let text = JoinToken::new([7; 32], vec![0x30, 3, 1, 2, 3]).to_text();
        for end in 0..text.len() {
            assert!(JoinToken::parse(&text[..end]).is_err(), "{end}");
        }
    }
}
