//! Containers paused and let go on, for moments, by a client that needs no runtime: whoever lets them go on may be a
//! guard, or something that is being dropped.
//!
//! Must stay true: the agent's own container is never paused, since nobody in it could let it go on; where it is not
//! known which that is, none is, unless the others are seen from here.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::docker::Container;

/// How long the engine may take for an answer.
const ANSWER: Duration = Duration::from_secs(2);
const MAX_ANSWER: u64 = 16 << 20;
/// What an engine's container finds mounted there comes from the engine's folder of that container.
const OF_THE_ENGINE: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// What says that this is a container.
const MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
const ID: usize = 64;

/// The ids of the running containers that have the folder, or a part of it, mounted for writing; not our own.
pub(crate) fn writing_in(socket: &Path, folder: &Path) -> io::Result<Vec<String>> {
    let own = own_container(&fs::read_to_string("/proc/self/mountinfo")?);
    let may_be_ours = own.is_none() && MARKS.iter().any(|mark| Path::new(mark).exists());
    let (status, body) = ask(socket, "GET", "/containers/json")?;
    if status != 200 {
        return Err(refused("/containers/json", status, &body));
    }
    let all: Vec<Container> = serde_json::from_slice(&body)
        .map_err(|error| io::Error::other(format!("the engine answers in an unknown way: {error}")))?;
    let folder = fs::canonicalize(folder)?;
    let ours = all.iter().find(|one| own.as_ref() == Some(&one.id));
    if own.is_some() && ours.is_none() {
        return Err(io::Error::other("the agent's own container is not one of this engine"));
    }
    // What is mounted into whoever shares a network is that of whose it is.
    if let Some(ours) = ours
        && all.iter().any(|one| one.has_network_of(&ours.id))
    {
        return Err(io::Error::other(
            "the agent cannot tell which container is its own: several share a network (`network_mode`)",
        ));
    }
    let on_host = ours.map_or_else(|| folder.clone(), |ours| ours.on_host(&folder));
    let is_it = |one: &&Container| own.as_ref() != Some(&one.id) && !one.is_ours() && one.writes_in(&on_host);
    let mut ids = Vec::new();
    for one in all.iter().filter(is_it) {
        if one.is_paused() {
            return Err(io::Error::other(format!("somebody else has paused the container {}", one.name())));
        }
        if may_be_ours && !is_elsewhere(socket, &one.id)? {
            return Err(io::Error::other("the agent cannot tell which container is its own"));
        }
        ids.push(one.id.clone());
    }
    Ok(ids)
}

pub(crate) fn pause(socket: &Path, id: &str) -> io::Result<()> {
    told(socket, id, "pause")
}

/// One that is not paused, or is gone, is fine.
pub(crate) fn go_on(socket: &Path, id: &str) -> io::Result<()> {
    match told(socket, id, "unpause") {
        Err(_) if !is_paused(socket, id)? => Ok(()),
        other => other,
    }
}

/// False for one that is gone.
pub(crate) fn is_paused(socket: &Path, id: &str) -> io::Result<bool> {
    let state = state(socket, id)?;
    Ok(state.pointer("/State/Paused").and_then(serde_json::Value::as_bool).unwrap_or(false))
}

/// True if its process is seen here and has other mounts: so it is not the container that this is.
fn is_elsewhere(socket: &Path, id: &str) -> io::Result<bool> {
    let state = state(socket, id)?;
    let process = state.pointer("/State/Pid").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let mounts = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt"));
    Ok(process > 0
        && mounts(&process.to_string()).is_ok_and(|its| mounts("self").is_ok_and(|ours| ours != its)))
}

/// What is said of one; nothing of one that is gone.
fn state(socket: &Path, id: &str) -> io::Result<serde_json::Value> {
    let path = format!("/containers/{id}/json");
    match ask(socket, "GET", &path)? {
        (200, body) => serde_json::from_slice(&body).map_err(io::Error::other),
        (404, _) => Ok(serde_json::Value::Null),
        (status, body) => Err(refused(&path, status, &body)),
    }
}

fn told(socket: &Path, id: &str, verb: &str) -> io::Result<()> {
    let path = format!("/containers/{id}/{verb}");
    match ask(socket, "POST", &path)? {
        (200..=299, _) => Ok(()),
        (status, body) => Err(refused(&path, status, &body)),
    }
}

fn refused(path: &str, status: u16, body: &[u8]) -> io::Error {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let why = said["message"].as_str().unwrap_or_default().to_owned();
    io::Error::other(format!("the engine answers {path} with {status}: {why}"))
}

/// Status and body. By HTTP 1.0 an answer ends with its connection.
fn ask(socket: &Path, method: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other(format!("the engine answers {path} in an unknown way")))
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}

/// The id of the container that this process runs in, by what the engine has mounted into it.
fn own_container(mounts: &str) -> Option<String> {
    let of_line = |line: &str| {
        let mut words = line.split(' ').skip(3);
        let (root, at) = (words.next()?, words.next()?);
        let id = root.rsplit_once("/containers/")?.1.split('/').next()?;
        let is_id = id.len() == ID && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        (OF_THE_ENGINE.contains(&at) && is_id).then(|| id.to_owned())
    };
    mounts.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_container_is_known_by_what_the_engine_mounts_into_it() {
        let id = "ab".repeat(32);
        let within = format!(
            "611 600 0:52 / / rw - overlay overlay rw\n\
             638 611 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(own_container(&within), Some(id.clone()));
        // What a host sees of its containers.
        let host = format!("638 611 0:60 / /var/lib/docker/containers/{id}/mounts/shm rw - tmpfs shm rw\n");
        assert_eq!(own_container(&host), None);
        let file = "638 611 8:1 /run/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n";
        assert_eq!(own_container(file), None);
    }

    #[test]
    fn an_answer_is_a_status_and_what_follows_its_head() {
        assert_eq!(parse(b"HTTP/1.0 204 No Content\r\nX: y\r\n\r\n"), Some((204, Vec::new())));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n\r\n{}"), Some((200, b"{}".to_vec())));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parse(b"\r\n\r\n"), None);
    }
}
