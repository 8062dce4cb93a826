//! Volumes of the Docker Engine, and which of them no source covers.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Platform;
use super::docker::Container;

/// Where containers of ours keep what is theirs.
const OURS: [&str; 3] = ["/opt/neurashield/backups", "/var/lib/neurashield", "/var/lib/neurashield-agent"];
/// The length of a name that the engine has made up: the volume lives and dies with its container.
const MADE_UP: usize = 64;

/// A volume with a name that somebody gave it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Volume {
    #[serde(rename = "Name")]
    pub(crate) name: String,
    /// Where it lies on the host.
    #[serde(rename = "Mountpoint")]
    pub(crate) place: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(super) struct Volumes {
    #[serde(rename = "Volumes", default)]
    pub(super) volumes: Option<Vec<Volume>>,
}

impl Platform {
    /// The volumes that none of the folders lies in or around; none where no engine answers, or where it cannot be told
    /// which container's folders they are.
    pub(crate) async fn volumes_beside(&self, folders: &[PathBuf]) -> Vec<Volume> {
        let Some(docker) = self.docker() else { return Vec::new() };
        let (Ok(volumes), Ok(containers)) = (docker.volumes().await, docker.containers().await) else {
            return Vec::new();
        };
        let Ok(ours) = Container::ours(&containers) else { return Vec::new() };
        uncovered(volumes, &containers, ours, folders)
    }
}

fn uncovered(
    mut volumes: Vec<Volume>,
    containers: &[Container],
    ours: Option<&Container>,
    folders: &[PathBuf],
) -> Vec<Volume> {
    let on_host = |folder: &PathBuf| ours.map_or_else(|| folder.clone(), |ours| ours.on_host(folder));
    let covered: Vec<PathBuf> = folders.iter().map(on_host).collect();
    volumes.retain(|volume| {
        let is_covered =
            |folder: &PathBuf| folder.starts_with(&volume.place) || volume.place.starts_with(folder);
        !is_made_up(&volume.name) && !covered.iter().any(is_covered) && !is_for_us(&volume.place, containers)
    });
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    volumes
}

fn is_made_up(name: &str) -> bool {
    name.len() == MADE_UP && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True for what containers have at our own places only.
fn is_for_us(place: &Path, containers: &[Container]) -> bool {
    let mut at = containers.iter().flat_map(|one| one.destinations_of(place)).peekable();
    at.peek().is_some() && at.all(|destination| OURS.iter().any(|ours| destination == Path::new(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_counts_unless_a_source_lies_in_it_or_it_is_ours_or_lives_with_its_container() {
        let volume =
            |name: &str| Volume { name: name.to_owned(), place: format!("/docker/{name}/_data").into() };
        let made_up = "0123456789abcdef".repeat(4);
        let volumes: Vec<Volume> = ["models", "orders", "backups", "shared", &made_up].map(volume).into();
        let mount = |name: &str, at: &str| serde_json::json!({ "Source": format!("/docker/{name}/_data"), "Destination": at, "RW": true });
        let containers = serde_json::json!([
            { "Id": "1", "Mounts": [mount("backups", "/opt/neurashield/backups"), mount("orders", "/srv")] },
            { "Id": "2", "Mounts": [mount("shared", "/var/lib/neurashield"), mount("shared", "/srv/notes")] },
        ]);
        let containers: Vec<Container> = serde_json::from_value(containers).unwrap();
        let found = uncovered(volumes, &containers, None, &["/docker/models/_data/weights".into()]);
        let names: Vec<&str> = found.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["orders", "shared"]);
    }
}
