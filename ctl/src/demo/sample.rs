//! Sample data of all five components, about 120 MiB: large weights, sorted tables, content blocks, a
//! database's files, small settings; with links, holes, empty files, odd modes and extended attributes.
//!
//! The bytes come from a seed, so that two runs of the demo show the same figures.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::XattrFlags;

const MIB: usize = 1 << 20;

/// The five components, and the kind of source each is served as. What stands for a database and for an IPFS node is no
/// store of an engine: looked into as one, it would be found to lack what makes one.
pub(super) const COMPONENTS: [(&str, &str); 5] = [
    ("database", "files"),
    ("models", "files"),
    ("blockchain", "blockchain"),
    ("ipfs", "files"),
    ("configs", "configs"),
];

/// Writes the sample below `data`, one folder for each component.
pub(super) fn write(data: &Path) -> io::Result<()> {
    for (component, _) in COMPONENTS {
        fs::create_dir_all(data.join(component))?;
    }
    let mut noise = Noise(2_023);
    models(&data.join("models"), &mut noise)?;
    blockchain(&data.join("blockchain"), &mut noise)?;
    ipfs(&data.join("ipfs"), &mut noise)?;
    database(&data.join("database"), &mut noise)?;
    configs(&data.join("configs"), &mut noise)
}

/// Weights are noise in three of four bytes; a second epoch differs from the first in one place.
fn models(folder: &Path, noise: &mut Noise) -> io::Result<()> {
    let mut weights = noise.bytes(20 * MIB);
    weights.iter_mut().skip(3).step_by(4).for_each(|byte| *byte = 0x3c | (*byte & 0x81));
    fs::write(folder.join("detector.safetensors"), &weights)?;
    let fresh = noise.bytes(MIB);
    weights[8 * MIB..9 * MIB].copy_from_slice(&fresh);
    fs::write(folder.join("detector-epoch2.safetensors"), &weights)?;
    fs::write(folder.join("classifier.safetensors"), noise.bytes(12 * MIB))?;
    symlink("detector-epoch2.safetensors", folder.join("latest"))?;
    fs::hard_link(folder.join("classifier.safetensors"), folder.join("classifier-stable.safetensors"))?;
    let file = File::open(folder.join("classifier.safetensors"))?;
    // Not every file system has extended attributes (an old tmpfs has none for users).
    match rustix::fs::fsetxattr(&file, "user.trained-by", b"demo", XattrFlags::empty()) {
        Err(error) if error != rustix::io::Errno::OPNOTSUPP => Err(error.into()),
        _ => Ok(()),
    }
}

fn blockchain(folder: &Path, noise: &mut Noise) -> io::Result<()> {
    let chain = folder.join("chaindata");
    fs::create_dir(&chain)?;
    for number in 0..12 {
        let mut table = noise.bytes(2 * MIB);
        // Half of a table compresses: keys with long common prefixes.
        table.chunks_mut(64).for_each(|line| line[..32].copy_from_slice(b"account-0000000000000000000000:0"));
        // No store of an engine: such a one would be looked into, and found to be none.
        fs::write(chain.join(format!("blocks-{number:04}.dat")), table)?;
    }
    fs::write(chain.join("index.dat"), noise.bytes(60_000))?;
    fs::write(chain.join("LOCK"), "")?;
    fs::write(folder.join("nodekey"), noise.bytes(32))?;
    fs::set_permissions(folder.join("nodekey"), Permissions::from_mode(0o600))
}

fn ipfs(folder: &Path, noise: &mut Noise) -> io::Result<()> {
    for number in 0..120 {
        let shard = folder.join("blocks").join(format!("{:02X}", number % 16));
        fs::create_dir_all(&shard)?;
        let length = if number % 3 == 0 { 256 * 1024 } else { 900 * (number + 1) };
        fs::write(shard.join(format!("CIQ{number:06X}.data")), noise.bytes(length))?;
    }
    fs::write(folder.join("version"), "15\n")
}

/// Documents compress well; the journal is preallocated and mostly a hole.
fn database(folder: &Path, noise: &mut Noise) -> io::Result<()> {
    for collection in 0..2 {
        let mut file = io::BufWriter::new(File::create(folder.join(format!("collection-{collection}.wt")))?);
        for document in 0..60_000 {
            let score = noise.next() % 1_000;
            writeln!(
                file,
                "{{\"_id\":{document},\"source\":\"10.0.{}.{}\",\"score\":{score},\"message\":\"login from a new place, second factor passed\"}}",
                document % 256,
                score % 256
            )?;
        }
        file.into_inner()?.sync_all()?;
    }
    let journal = File::create(folder.join("WiredTigerLog.0000000001"))?;
    journal.set_len(64 * MIB as u64)?;
    journal.write_all_at(&noise.bytes(MIB), 0)
}

fn configs(folder: &Path, noise: &mut Noise) -> io::Result<()> {
    for number in 0..40 {
        let text =
            format!("name: service-{number}\nreplicas: {}\ntoken_hint: {:x}\n", number % 5 + 1, noise.next());
        fs::write(folder.join(format!("service-{number:02}.yaml")), text)?;
    }
    Ok(())
}

/// Changes 4 KiB in the middle of one large file. Returns what was changed, for people.
pub(super) fn change_one(data: &Path) -> io::Result<&'static str> {
    let file = File::options().write(true).open(data.join("models/detector.safetensors"))?;
    file.write_all_at(&Noise(7).bytes(4096), 5 * MIB as u64)?;
    file.sync_all()?;
    Ok("4.00 KiB in the middle of models/detector.safetensors (20.0 MiB)")
}

/// Splitmix64: noise from a seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_each_time_and_differs_from_seed_to_seed() {
        assert_eq!(Noise(1).bytes(100), Noise(1).bytes(100));
        assert_ne!(Noise(1).bytes(100), Noise(2).bytes(100));
    }
}
