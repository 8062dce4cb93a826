//! Secrets: read from files or a prompt, written to files that only their owner can read.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use repository::keys::{RecoveryKey, SlotSecret};
use zeroize::Zeroizing;

use super::read_small;
use crate::cli::repository::Secret;
use crate::output::exit::{Exit, Trouble};
use crate::output::{ask, can_ask};

/// Longer than any key file.
const LIMIT: u64 = 64 << 10;
/// A fresh key file has this many random bytes.
const KEY_BYTES: usize = 32;

/// What opens the repository: the one file that was given, else the recovery key asked for.
pub(super) fn read(secret: &Secret) -> Result<SlotSecret, Trouble> {
    match (&secret.key_file, &secret.passphrase_file, &secret.recovery_key_file) {
        (Some(file), ..) => key_file(file),
        (_, Some(file), _) => passphrase(file),
        (.., file) => Ok(SlotSecret::Recovery(recovery(file.as_deref())?)),
    }
}

pub(super) fn key_file(file: &Path) -> Result<SlotSecret, Trouble> {
    let bytes = Zeroizing::new(read_small(file, LIMIT)?);
    if bytes.len() < KEY_BYTES {
        return Err(Trouble::usage(format!("{} is no key file", file.display()))
            .because(format!("it has fewer than {KEY_BYTES} bytes")));
    }
    Ok(SlotSecret::KeyFile(bytes))
}

/// The text of a file without the line end that editors add.
pub(super) fn passphrase(file: &Path) -> Result<SlotSecret, Trouble> {
    let text = text(file)?;
    let passphrase = Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned());
    if passphrase.is_empty() {
        return Err(Trouble::usage(format!("{} holds no passphrase", file.display())).because("it is empty"));
    }
    Ok(SlotSecret::Passphrase(passphrase))
}

/// The recovery key in `file`, or asked for on a terminal.
pub(super) fn recovery(file: Option<&Path>) -> Result<RecoveryKey, Trouble> {
    let typed = match file {
        Some(file) => text(file)?,
        None if can_ask() => Zeroizing::new(ask("Recovery key (NSRK-…): ")?),
        None => {
            return Err(Trouble::usage("a key is needed to open the data")
                .because("none was given, and there is no terminal to ask on")
                .hint("give --key-file, --passphrase-file or --recovery-key-file FILE"));
        }
    };
    find_key(&typed).parse().map_err(|error| {
        Trouble::new(Exit::Denied, "that is no recovery key")
            .caused_by(&error)
            .hint("type it as it was shown at `init`: NSRK- and 14 groups of four")
    })
}

/// The line with the key: a file may say beside it what it is.
fn find_key(text: &str) -> &str {
    let line = text.lines().map(str::trim).find(|line| line.starts_with("NSRK"));
    line.unwrap_or_else(|| text.trim())
}

fn text(file: &Path) -> Result<Zeroizing<String>, Trouble> {
    String::from_utf8(read_small(file, LIMIT)?)
        .map(Zeroizing::new)
        .map_err(|_| Trouble::usage(format!("{} is not text", file.display())).because("it is not UTF-8"))
}

/// A key file's secret. A file that does not exist is made, with random bytes, readable by its owner alone.
pub(super) fn key_file_or_new(file: &Path) -> Result<(SlotSecret, IsNew), Trouble> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let cannot = |error: std::io::Error| {
        Trouble::failed(format!("cannot make the key file {}", file.display()))
            .caused_by(&error)
            .hint("choose a folder that exists and that you may write to")
    };
    match options.open(file) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((key_file(file)?, IsNew(false))),
        Err(error) => Err(cannot(error)),
        Ok(mut made) => {
            let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
            std::fs::File::open("/dev/urandom")
                .and_then(|mut random| random.read_exact(&mut bytes))
                .map_err(cannot)?;
            made.write_all(&bytes).and_then(|()| made.sync_all()).map_err(cannot)?;
            Ok((SlotSecret::KeyFile(bytes), IsNew(true)))
        }
    }
}

/// Whether a key file was made just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IsNew(pub(super) bool);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_file_is_its_owners_alone_and_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("key");
        let (made, is_new) = key_file_or_new(&file).expect("made");
        assert_eq!(is_new, IsNew(true));
        assert_eq!(file.metadata().expect("is there").permissions().mode() & 0o777, 0o600);
        let (read, is_new) = key_file_or_new(&file).expect("read");
        assert_eq!(is_new, IsNew(false));
        let (SlotSecret::KeyFile(made), SlotSecret::KeyFile(read)) = (made, read) else {
            panic!("both are key files")
        };
        assert_eq!(made, read);
    }

    #[test]
    fn the_line_end_of_an_editor_is_no_part_of_a_passphrase() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("passphrase");
        std::fs::write(&file, " correct horse \r\n").expect("written");
        let SlotSecret::Passphrase(text) = passphrase(&file).expect("valid") else { panic!("a passphrase") };
        assert_eq!(*text, " correct horse ");
        std::fs::write(&file, "\n").expect("written");
        assert!(passphrase(&file).is_err());
    }

    #[test]
    fn the_key_is_found_beside_what_a_file_says_about_it() {
        assert_eq!(find_key("# keep this safe\n\n  NSRK-ABCD-EFGH \n"), "NSRK-ABCD-EFGH");
        assert_eq!(find_key(" nsrk-abcd\n"), "nsrk-abcd");
    }

    #[test]
    fn a_misread_recovery_key_is_denied() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("recovery");
        std::fs::write(&file, "NSRK-0000").expect("written");
        assert_eq!(recovery(Some(&file)).expect_err("too short").exit, Exit::Denied);
    }
}
