//! One byte of one pack, flipped and put back.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A pack with one wrong byte.
pub(super) struct Damage {
    path: PathBuf,
    offset: u64,
    byte: u8,
}

impl Damage {
    /// Flips one bit in the middle of the largest pack of the repository in `root`.
    pub(super) fn strike(root: &Path) -> io::Result<Self> {
        let packs = files(&root.join("repository/packs"))?;
        let largest = packs.into_iter().max_by_key(|(_, length)| *length);
        let (path, length) = largest.ok_or_else(|| io::Error::other("the repository has no packs"))?;
        let offset = length / 2;
        let mut byte = [0];
        File::open(&path)?.read_exact_at(&mut byte, offset)?;
        let damage = Self { path, offset, byte: byte[0] };
        damage.write(byte[0] ^ 0x01)?;
        Ok(damage)
    }

    /// Puts the byte back.
    pub(super) fn heal(&self) -> io::Result<()> {
        self.write(self.byte)
    }

    /// The pack's name: the SHA-256 that its bytes should have.
    pub(super) fn pack(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Packs are immutable and so is their mode: both are only set aside for this.
    fn write(&self, byte: u8) -> io::Result<()> {
        let mode = self.path.metadata()?.mode();
        fs::set_permissions(&self.path, Permissions::from_mode(0o600))?;
        let file = File::options().write(true).open(&self.path)?;
        file.write_all_at(&[byte], self.offset)?;
        file.sync_all()?;
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_one_byte_of_the_largest_pack_and_heals_without_a_trace() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let packs = root.path().join("repository/packs/ab");
        fs::create_dir_all(&packs).expect("made");
        fs::write(packs.join("small"), [1; 10]).expect("written");
        fs::write(packs.join("large"), [2; 100]).expect("written");
        let damage = Damage::strike(root.path()).expect("struck");
        assert_eq!((damage.pack().as_str(), damage.offset()), ("large", 50));
        let hurt = fs::read(packs.join("large")).expect("read");
        assert_eq!(hurt.iter().filter(|byte| **byte != 2).count(), 1);
        damage.heal().expect("healed");
        assert_eq!(fs::read(packs.join("large")).expect("read"), [2; 100]);
    }
}
