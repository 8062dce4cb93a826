//! Who writes in a folder: processes of this host that have a file in it open for writing.
//!
//! Only what the agent may see: other users' processes not without privilege, and none of another
//! namespace of processes.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More are not told.
const MAX: usize = 10;
/// `O_ACCMODE` of the flags in `/proc/<pid>/fdinfo`.
const ACCESS: u32 = 0o3;

/// A process that has a file open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) process: u32,
    pub(crate) program: String,
    pub(crate) file: PathBuf,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}) writes to {}", self.process, self.program, self.file.display())
    }
}

/// The processes that have a file below `folder` open for writing, one file each; this one aside.
pub(crate) fn writers(folder: &Path) -> Vec<Writer> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let others = ids.filter(|id| *id != std::process::id());
    others.filter_map(|id| writer(id, &folder)).take(MAX).collect()
}

fn writer(process: u32, folder: &Path) -> Option<Writer> {
    let home = PathBuf::from(format!("/proc/{process}"));
    // A process may end while it is looked at, and many are not ours to look at.
    let open = fs::read_dir(home.join("fd")).ok()?;
    let file = open.filter_map(Result::ok).find_map(|entry| {
        let file = fs::read_link(entry.path()).ok()?;
        (file.starts_with(folder) && is_for_writing(&home.join("fdinfo").join(entry.file_name())))
            .then_some(file)
    })?;
    let program = fs::read_to_string(home.join("comm")).unwrap_or_default().trim().to_owned();
    Some(Writer { process, program, file })
}

/// The processes that have one of these files (device, inode) open for writing, under whatever path they see it;
/// this one aside. Who asks keeps the files from being removed: their numbers would become other files'.
pub(crate) fn writers_of(files: &HashSet<(u64, u64)>) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let others = ids.filter(|id| *id != std::process::id());
    let writes = |id: &u32| {
        let home = PathBuf::from(format!("/proc/{id}"));
        let Ok(open) = fs::read_dir(home.join("fd")) else { return false };
        open.filter_map(Result::ok).any(|entry| {
            let file = fs::metadata(entry.path()).ok().filter(|file| file.is_file());
            file.is_some_and(|file| files.contains(&(file.dev(), file.ino())))
                && is_for_writing(&home.join("fdinfo").join(entry.file_name()))
        })
    };
    others.filter(writes).take(MAX).collect()
}

fn is_for_writing(info: &Path) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    flags.is_some_and(|flags| flags & ACCESS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_for_writing_is_named_and_who_reads_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("written");
        let shell = |redirect: &str| {
            let text = format!("exec 9{redirect}\"$0\"; echo ready; read line");
            let mut child = std::process::Command::new("sh")
                .args(["-c", &text])
                .arg(&file)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a shell");
            let mut ready = [0; 6];
            let mut out = child.stdout.take().expect("piped");
            std::io::Read::read_exact(&mut out, &mut ready).expect("ready");
            child
        };
        let mut reader = shell("<");
        assert_eq!(writers(folder.path()), []);
        let mut writer = shell(">>");
        let of_this = |path: &Path| {
            let file = fs::metadata(path).expect("there");
            writers_of(&HashSet::from([(file.dev(), file.ino())]))
        };
        assert_eq!(of_this(&file), [writer.id()]);
        let other = folder.path().join("other");
        fs::write(&other, "x").expect("written");
        assert_eq!(of_this(&other), Vec::<u32>::new(), "another file of the folder is not looked for");
        let found = writers(folder.path());
        assert_eq!(found.iter().map(|one| one.process).collect::<Vec<_>>(), [writer.id()]);
        assert!(found[0].to_string().contains("file"), "{}", found[0]);
        for child in [&mut reader, &mut writer] {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
    }
}
