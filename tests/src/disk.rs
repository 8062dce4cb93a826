//! A file system of one's own in a file, mounted: what the machine's own is not.
//!
//! Needs root, loop devices and the file system's `mkfs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// It is unmounted when this is dropped.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Makes a file of `bytes`, and in it what `make` makes (a program and its words); mounts it with `options`.
    pub fn make(bytes: u64, make: &[&str], options: &str) -> Self {
        let disk = Self { folder: tempfile::tempdir().expect("a folder") };
        let image = disk.folder.path().join("image");
        fs::File::create(&image).expect("made").set_len(bytes).expect("a file with a hole");
        fs::create_dir(disk.path()).expect("made");
        let made = Command::new(make[0]).args(&make[1..]).arg(&image).output();
        assert!(made.is_ok_and(|made| made.status.success()), "this test needs {}", make[0]);
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", &format!("loop,{options}")]).arg(&image).arg(disk.path()).status();
        assert!(mounted.is_ok_and(|mounted| mounted.success()), "this test needs root and loop devices");
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// A folder that does not lie on it.
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes that are free, as the file system counts them.
    pub fn free(&self) -> u64 {
        let said =
            Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.path()).output().expect("it runs");
        let said = String::from_utf8(said.stdout).expect("UTF-8");
        said.split_whitespace().map(|number| number.parse::<u64>().expect("a number")).product()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
