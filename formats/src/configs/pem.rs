//! Keys and certificates as PEM. A file in another notation (DER) is not judged.

use jiff::{Timestamp, ToSpan};
use repository::check::Severity;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// So many days before a certificate expires it is told.
const SOON_DAYS: i64 = 30;

/// What is wrong with it.
pub(super) fn look(text: &[u8], now: Timestamp) -> Vec<(Severity, String)> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let begun = text.windows(BEGIN.len()).filter(|window| *window == BEGIN).count();
    if begun == 0 {
        // DER begins with a sequence; anything else under such a name is no key and no certificate.
        let is_other = text.first() == Some(&0x30);
        return if is_other { Vec::new() } else { broken("it is neither PEM nor DER") };
    }
    let Ok(blocks) = pem::parse_many(text) else { return broken("it is not PEM: a block is damaged") };
    if blocks.len() != begun || !ends_whole(text) {
        return broken("it is not PEM: a block has no end");
    }
    let certificates = (1..).zip(blocks.iter().filter(|block| block.tag() == "CERTIFICATE"));
    certificates.filter_map(|(number, block)| certificate(number, block.contents(), now)).collect()
}

/// False if the last line is a part of a block's first or last one: the parser overlooks that.
fn ends_whole(text: &[u8]) -> bool {
    let last = text.trim_ascii_end().rsplit(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    !last.starts_with(b"-") || (last.starts_with(b"-----END ") && last.ends_with(b"-----"))
}

fn broken(what: &str) -> Vec<(Severity, String)> {
    vec![(Severity::Broken, what.to_owned())]
}

fn certificate(number: usize, der: &[u8], now: Timestamp) -> Option<(Severity, String)> {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return Some((Severity::Broken, format!("certificate {number} of it is damaged")));
    };
    let until = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
    let day = until.strftime("%Y-%m-%d");
    let soon = now.checked_add((24 * SOON_DAYS).hours()).ok()?;
    if until < now {
        return Some((Severity::Told, format!("certificate {number} of it has expired on {day}")));
    }
    (until < soon).then(|| (Severity::Told, format!("certificate {number} of it expires on {day}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate_until(year: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["x".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").pem() + &key.serialize_pem()
    }

    fn said(text: &str) -> Vec<(Severity, String)> {
        look(text.as_bytes(), "2026-11-26T00:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn certificates_tell_when_they_expire() {
        assert_eq!(said(&certificate_until(2030)), []);
        let soon = (Severity::Told, "certificate 1 of it expires on 2026-12-01".to_owned());
        assert_eq!(said(&certificate_until(2026)), [soon]);
        let two = certificate_until(2030) + &certificate_until(2025);
        let late = (Severity::Told, "certificate 2 of it has expired on 2025-12-01".to_owned());
        assert_eq!(said(&two), [late]);
    }

    #[test]
    fn a_block_that_is_cut_off_or_changed_is_broken() {
        let whole = certificate_until(2030);
        for at in 1..whole.trim_end().len() {
            let cut = said(&whole[..at]);
            let ends_whole = whole[..at].trim_end().ends_with("CERTIFICATE-----")
                && !whole[..at].contains("KEY")
                && whole[..at].contains("-----END");
            assert!(ends_whole || matches!(cut.as_slice(), [(Severity::Broken, _)]), "at {at}: {cut:?}");
        }
        let changed = whole.replacen("MII", "!II", 1);
        assert_ne!(changed, whole);
        assert!(matches!(said(&changed).as_slice(), [(Severity::Broken, _)]));
    }

    #[test]
    fn der_is_left_alone_and_text_is_no_key() {
        assert_eq!(look(b"0\x82\x01\x02", Timestamp::UNIX_EPOCH), []);
        assert_eq!(look(b"hello", Timestamp::UNIX_EPOCH).len(), 1);
    }
}
