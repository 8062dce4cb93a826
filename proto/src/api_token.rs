//! The API token: what a person or a program shows on the TLS port.
//!
//! `nstok1-<id, 32 hex digits>-<secret, 64>-<certificate of the controller's authority, hex DER>`. With the
//! certificate in it the token alone is enough to reach the right controller; the last part may be left out
//! where the authority is known from elsewhere. Only id and secret go over the wire ([`ApiToken::bearer`]).
//!
//! Must stay true: the secret leaves this type only by [`ApiToken::secret`], [`ApiToken::bearer`] and
//! [`ApiToken::to_text`]; `Debug` does not show it.

use repository::ids::{hex, unhex};
use zeroize::Zeroizing;

use crate::token::{InvalidToken, MAX_CERTIFICATE, is_whole_der};

const PREFIX: &str = "nstok1-";

/// Who somebody is, the secret that proves it, and whom to trust with it.
pub struct ApiToken {
    id: [u8; 16],
    secret: Zeroizing<[u8; 32]>,
    ca_certificate: Option<Vec<u8>>,
}

impl ApiToken {
    /// The token `id` with this secret, for the authority with this certificate (DER).
    pub fn new(id: [u8; 16], secret: [u8; 32], ca_certificate: Option<Vec<u8>>) -> Self {
        Self { id, secret: Zeroizing::new(secret), ca_certificate }
    }

    /// The token written as `text`; blanks around it do not matter.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(InvalidToken)?;
        let (id, rest) = rest.split_once('-').ok_or(InvalidToken)?;
        let (secret, certificate) = match rest.split_once('-') {
            Some((secret, certificate)) => (secret, Some(certificate)),
            None => (rest, None),
        };
        // Lengths first: what comes from anybody is not decoded at any size.
        if id.len() != 32 || secret.len() != 64 || certificate.is_some_and(|c| c.len() > MAX_CERTIFICATE * 2)
        {
            return Err(InvalidToken);
        }
        let id = unhex(id).and_then(|id| id.try_into().ok()).ok_or(InvalidToken)?;
        let secret = Zeroizing::new(unhex(secret).ok_or(InvalidToken)?);
        let secret = <[u8; 32]>::try_from(secret.as_slice()).map_err(|_| InvalidToken)?;
        let whole = |text| unhex(text).filter(|der| is_whole_der(der)).ok_or(InvalidToken);
        Ok(Self::new(id, secret, certificate.map(whole).transpose()?))
    }

    /// As people keep it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bearer = self.bearer();
        match &self.ca_certificate {
            Some(certificate) => Zeroizing::new(format!("{}-{}", *bearer, hex(certificate))),
            None => bearer,
        }
    }

    /// As it goes over the wire, after `Bearer `: without the certificate.
    pub fn bearer(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex(self.secret.as_slice()));
        Zeroizing::new(format!("{PREFIX}{}-{}", hex(&self.id), *secret))
    }

    /// Which token it is.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// What the controller knows the hash of.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The certificate of the controller's authority (X.509, DER), if the token carries it.
    pub fn ca_certificate(&self) -> Option<&[u8]> {
        self.ca_certificate.as_deref()
    }
}

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> ApiToken {
        ApiToken::new([9; 16], [7; 32], Some(vec![0x30, 3, 1, 2, 3]))
    }

    #[test]
    fn a_token_survives_being_carried() {
        let read = ApiToken::parse(&format!("  {}\n", *token().to_text())).expect("a token");
        assert_eq!((read.id(), read.secret()), (&[9; 16], &[7; 32]));
        assert_eq!(read.ca_certificate(), Some(&[0x30, 3, 1, 2, 3][..]));
        assert!(!format!("{read:?}").contains("0707"));
    }

    #[test]
    fn the_certificate_stays_at_home() {
        let sent = ApiToken::parse(&token().bearer()).expect("a token");
        assert_eq!((sent.id(), sent.secret(), sent.ca_certificate()), (&[9; 16], &[7; 32], None));
    }

    #[test]
    fn a_token_that_was_cut_short_is_refused() {
        let (text, short) = (token().to_text(), token().bearer().len());
        for end in (0..text.len()).filter(|end| *end != short) {
            assert!(ApiToken::parse(&text[..end]).is_err(), "{end}");
        }
    }
}
