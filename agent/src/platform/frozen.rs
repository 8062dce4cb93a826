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

/// What an engine has made of a pause.
#[derive(Debug)]
pub(crate) enum Asked {
    Done,
    /// It was not done, and will not be.
    Refused(io::Error),
    /// It may have been done, or may still be.
    Unclear(io::Error),
}

/// Where this process runs.
struct Here {
    /// The container that it is, by what the engine has mounted into it.
    own: Option<String>,
    /// It is some container.
    is_container: bool,
}

/// The ids of the running containers that have the folder, or a part of it, mounted for writing; not our own. `state` is
/// the agent's own folder, in which it writes down whom it pauses.
pub(crate) fn writing_in(socket: &Path, folder: &Path, state: &Path) -> io::Result<Vec<String>> {
    let own = own_container(&fs::read_to_string("/proc/self/mountinfo")?);
    let is_container = MARKS.iter().any(|mark| Path::new(mark).exists());
    let (status, body) = ask(socket, "GET", "/containers/json").map_err(|failed| failed.error)?;
    if status != 200 {
        return Err(refused("/containers/json", status, &body));
    }
    let all: Vec<Container> = serde_json::from_slice(&body)
        .map_err(|error| io::Error::other(format!("the engine answers in an unknown way: {error}")))?;
    let (folder, state) = (fs::canonicalize(folder)?, fs::canonicalize(state)?);
    chosen(&Here { own, is_container }, &all, &folder, &state, |id| is_elsewhere(socket, id))
}

/// Which of `all` they are.
fn chosen(
    here: &Here,
    all: &[Container],
    folder: &Path,
    state: &Path,
    is_elsewhere: impl Fn(&str) -> io::Result<bool>,
) -> io::Result<Vec<String>> {
    let ours = all.iter().find(|one| here.own.as_ref() == Some(&one.id));
    if here.own.is_some() && ours.is_none() {
        return Err(io::Error::other("the agent's own container is not one of this engine"));
    }
    if let Some(ours) = ours {
        // What is mounted into whoever shares a network is that of whose it is.
        if ours.may_share_network(all) {
            return Err(io::Error::other(
                "the agent cannot tell which container is its own: several share a network (`network_mode`)",
            ));
        }
        // Agent and guard may end with their container; then the record is what lets the others go on.
        if !ours.keeps(state) {
            return Err(io::Error::other(format!(
                "the agent's own folder, {}, would go with its container, and what it has paused would be forgotten: \
                 mount a volume there",
                state.display()
            )));
        }
    }
    let on_host = ours.map_or_else(|| folder.to_owned(), |ours| ours.on_host(folder));
    let is_it =
        |one: &&Container| here.own.as_ref() != Some(&one.id) && !one.is_ours() && one.writes_in(&on_host);
    let may_be_ours = here.own.is_none() && here.is_container;
    let mut ids = Vec::new();
    for one in all.iter().filter(is_it) {
        if one.is_paused() {
            return Err(io::Error::other(format!("somebody else has paused the container {}", one.name())));
        }
        if may_be_ours && !is_elsewhere(&one.id)? {
            return Err(io::Error::other("the agent cannot tell which container is its own"));
        }
        ids.push(one.id.clone());
    }
    Ok(ids)
}

pub(crate) fn pause(socket: &Path, id: &str) -> Asked {
    let path = format!("/containers/{id}/pause");
    match ask(socket, "POST", &path) {
        Ok((200..=299, _)) => Asked::Done,
        // One that is paused already, is gone, or does not run.
        Ok((status @ 400..=499, body)) => Asked::Refused(refused(&path, status, &body)),
        Ok((status, body)) => Asked::Unclear(refused(&path, status, &body)),
        Err(Failed { was_asked: false, error }) => Asked::Refused(error),
        Err(Failed { error, .. }) => Asked::Unclear(error),
    }
}

/// One that is not paused, or is gone, is fine.
pub(crate) fn go_on(socket: &Path, id: &str) -> io::Result<()> {
    let path = format!("/containers/{id}/unpause");
    let told = match ask(socket, "POST", &path) {
        Ok((200..=299, _)) => return Ok(()),
        Ok((status, body)) => refused(&path, status, &body),
        Err(failed) => failed.error,
    };
    if is_paused(socket, id)? { Err(told) } else { Ok(()) }
}

/// False for one that is gone.
pub(crate) fn is_paused(socket: &Path, id: &str) -> io::Result<bool> {
    let Some(state) = state(socket, id)? else { return Ok(false) };
    let is_paused = state.pointer("/State/Paused").and_then(serde_json::Value::as_bool);
    is_paused.ok_or_else(|| io::Error::other("the engine does not say whether the container is paused"))
}

/// True if its process is seen here and has other mounts: so it is not the container that this is.
fn is_elsewhere(socket: &Path, id: &str) -> io::Result<bool> {
    let state = state(socket, id)?.unwrap_or_default();
    let process = state.pointer("/State/Pid").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let mounts = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt"));
    Ok(process > 0
        && mounts(&process.to_string()).is_ok_and(|its| mounts("self").is_ok_and(|ours| ours != its)))
}

/// What is said of one; nothing of one that is gone.
fn state(socket: &Path, id: &str) -> io::Result<Option<serde_json::Value>> {
    let path = format!("/containers/{id}/json");
    match ask(socket, "GET", &path).map_err(|failed| failed.error)? {
        (200, body) => serde_json::from_slice(&body).map(Some).map_err(io::Error::other),
        (404, _) => Ok(None),
        (status, body) => Err(refused(&path, status, &body)),
    }
}

fn refused(path: &str, status: u16, body: &[u8]) -> io::Error {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let why = said["message"].as_str().unwrap_or_default().to_owned();
    io::Error::other(format!("the engine answers {path} with {status}: {why}"))
}

/// A question without an answer.
struct Failed {
    /// The engine may have got it.
    was_asked: bool,
    error: io::Error,
}

/// Status and body. By HTTP 1.0 an answer ends with its connection.
fn ask(socket: &Path, method: &str, path: &str) -> Result<(u16, Vec<u8>), Failed> {
    let failed = |was_asked| move |error| Failed { was_asked, error };
    let mut stream = UnixStream::connect(socket).map_err(failed(false))?;
    stream.set_read_timeout(Some(ANSWER)).map_err(failed(false))?;
    stream.set_write_timeout(Some(ANSWER)).map_err(failed(false))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n")
        .map_err(failed(true))?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(failed(true))?;
    let unknown = || io::Error::other(format!("the engine answers {path} in an unknown way"));
    parse(&answer).ok_or_else(|| Failed { was_asked: true, error: unknown() })
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

    /// The agent beside a node, both writing into the same folder of the host, and one that has nothing to do with it.
    fn listed(network_of_agent: &str) -> Vec<Container> {
        let mount = |place: &str| serde_json::json!({ "Source": place, "Destination": "/data", "RW": true });
        let of = |id: &str, network: &str, mounts: &[serde_json::Value]| {
            serde_json::json!({ "Id": id.repeat(32), "Names": [format!("/{id}")], "State": "running",
                "HostConfig": { "NetworkMode": network }, "Mounts": mounts })
        };
        let own = serde_json::json!({ "Source": "/srv/state", "Destination": "/state", "RW": true });
        let all = serde_json::json!([
            of("aa", network_of_agent, &[mount("/srv/chain"), own]),
            of("bb", "default", &[mount("/srv/chain")]),
            of("cc", "default", &[mount("/srv/other")]),
        ]);
        serde_json::from_value(all).expect("as the engine writes it")
    }

    fn chosen_by(own: Option<&str>, all: &[Container], state: &str) -> Result<Vec<String>, String> {
        let here = Here { own: own.map(|own| own.repeat(32)), is_container: true };
        // As the agent sees it: within its container, or where it lies on the host.
        let folder = if own.is_some() { "/data/node" } else { "/srv/chain/node" };
        chosen(&here, all, Path::new(folder), Path::new(state), |_| Ok(false)).map_err(|e| e.to_string())
    }

    #[test]
    fn our_own_container_is_never_chosen_also_where_it_has_the_network_of_another() {
        let bridged = listed("bridge");
        assert_eq!(chosen_by(Some("aa"), &bridged, "/state/agent"), Ok(vec!["bb".repeat(32)]));
        // The engine mounts the node's files into the agent, so the agent takes the node for itself; also where the node
        // was renamed since.
        for network in
            [format!("container:{}", "bb".repeat(32)), "container:bb".into(), "container:before".into()]
        {
            let why = chosen_by(Some("bb"), &listed(&network), "/state/agent").expect_err("nobody");
            assert!(why.contains("several share a network"), "{why}");
        }
        // One that cannot tell which it is, or is another engine's, pauses nobody.
        let why = chosen_by(None, &bridged, "/state/agent").expect_err("nobody");
        assert!(why.contains("cannot tell"), "{why}");
        assert!(chosen_by(Some("dd"), &bridged, "/state/agent").is_err());
    }

    #[test]
    fn nobody_is_paused_by_an_agent_whose_record_would_go_with_its_container() {
        let why = chosen_by(Some("aa"), &listed("bridge"), "/var/lib/agent").expect_err("nobody");
        assert!(why.contains("/var/lib/agent") && why.contains("mount a volume there"), "{why}");
    }

    #[test]
    fn an_answer_is_a_status_and_what_follows_its_head() {
        assert_eq!(parse(b"HTTP/1.0 204 No Content\r\nX: y\r\n\r\n"), Some((204, Vec::new())));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n\r\n{}"), Some((200, b"{}".to_vec())));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parse(b"\r\n\r\n"), None);
    }
}
