//! Containers, by the Docker Engine's API over its Unix socket: list, stop, start, look.
//!
//! Paths without a version, which every engine serves by its newest: an engine of 2026 refuses the versions
//! that one of 2022 had. Seven calls with few fields each do not need a client library of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::PlatformError;
use super::volumes::{Volume, Volumes};

/// How long the engine may take to answer, beside what it was told to wait for.
const ANSWER: Duration = Duration::from_secs(30);
/// An answer with more bytes is not read.
const MAX_ANSWER: usize = 16 << 20;

/// Which components a container is stopped for, comma-separated, or `all`.
pub(super) const STOP_FOR: &str = "neurashield.backup.stop-for";
/// Names of containers that it is started after.
const START_AFTER: &str = "neurashield.backup.start-after";
/// The same of offen/docker-volume-backup: `true`, or one name.
const OFFEN: &str = "docker-volume-backup.stop-during-backup";
/// What Compose writes on what it makes.
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// The engine behind a socket.
#[derive(Debug, Clone)]
pub(super) struct Docker {
    socket: PathBuf,
}

/// A container as the engine lists it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// `running`, `exited`, `paused`, `restarting`, ….
    #[serde(default)]
    state: String,
    /// For people: `Up 2 minutes (healthy)`.
    #[serde(default)]
    status: String,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    host_config: HostConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Mount {
    #[serde(rename = "Source", default)]
    source: PathBuf,
    #[serde(rename = "Destination", default)]
    destination: PathBuf,
    #[serde(rename = "RW", default)]
    is_writable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: InspectedState,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    running: bool,
    #[serde(default)]
    restarting: bool,
    #[serde(default)]
    exit_code: i64,
    health: Option<InspectedHealth>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealth {
    status: String,
}

/// How something that was started does.
#[derive(Debug)]
pub(super) enum Health {
    Good,
    /// Not as it should be; it may still come up.
    Bad(String),
    /// It cannot be said yet.
    Unknown(String),
}

/// What the engine says where it refuses.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

impl Docker {
    pub(super) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// All containers, those too that do not run.
    pub(super) async fn containers(&self) -> Result<Vec<Container>, PlatformError> {
        self.get("/containers/json?all=true").await
    }

    /// All volumes.
    pub(super) async fn volumes(&self) -> Result<Vec<Volume>, PlatformError> {
        let Volumes { volumes } = self.get("/volumes").await?;
        Ok(volumes.unwrap_or_default())
    }

    /// Stops one; kills it if it takes longer than `patience`. One that does not run is fine.
    pub(super) async fn stop(&self, id: &str, patience: Duration) -> Result<(), PlatformError> {
        let path = format!("/containers/{id}/stop?t={}", patience.as_secs());
        self.post(&path, patience + ANSWER).await
    }

    /// Starts one. One that runs is fine.
    pub(super) async fn start(&self, id: &str) -> Result<(), PlatformError> {
        self.post(&format!("/containers/{id}/start"), ANSWER).await
    }

    /// How one does that was started.
    pub(super) async fn health(&self, id: &str) -> Result<Health, PlatformError> {
        let Inspected { state } = self.get(&format!("/containers/{id}/json")).await?;
        Ok(match (state.running && !state.restarting, state.health) {
            (false, _) => Health::Bad(format!("it does not run; it ended with {}", state.exit_code)),
            (true, None) => Health::Good,
            (true, Some(health)) => match health.status.as_str() {
                "healthy" | "none" | "" => Health::Good,
                "starting" => Health::Unknown("its check has not answered yet".to_owned()),
                other => Health::Bad(format!("its check says {other}")),
            },
        })
    }

    /// All that is known of one. What it was made with is in it, so nothing of the answer is part of an error.
    pub(super) async fn inspect(&self, id: &str) -> Result<serde_json::Value, PlatformError> {
        let path = format!("/containers/{id}/json");
        let (status, body) = self.ask(Method::GET, &path, ANSWER).await?;
        if !status.is_success() {
            return Err(refused(&path, status, &body));
        }
        let unclear = |_| PlatformError::Docker(format!("answers {path} in an unknown way"));
        serde_json::from_slice(&body).map_err(unclear)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, PlatformError> {
        let (status, body) = self.ask(Method::GET, path, ANSWER).await?;
        if !status.is_success() {
            return Err(refused(path, status, &body));
        }
        let unclear = |error| PlatformError::Docker(format!("answers {path} in an unknown way: {error}"));
        serde_json::from_slice(&body).map_err(unclear)
    }

    async fn post(&self, path: &str, limit: Duration) -> Result<(), PlatformError> {
        let (status, body) = self.ask(Method::POST, path, limit).await?;
        match status.is_success() || status == StatusCode::NOT_MODIFIED {
            true => Ok(()),
            false => Err(refused(path, status, &body)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), PlatformError> {
        let asked = tokio::time::timeout(limit, self.exchange(method, path)).await;
        let failed = |cause: String| {
            PlatformError::Docker(format!("at {} does not serve {path}: {cause}", self.socket.display()))
        };
        match asked {
            Ok(answer) => answer.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        let carried = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request =
            Request::builder().method(method).uri(path).header(header::HOST, "docker").body(Empty::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        drop(carried);
        Ok((status, body))
    }
}

fn refused(path: &str, status: StatusCode, body: &[u8]) -> PlatformError {
    let Refusal { message } = serde_json::from_slice(body).unwrap_or_default();
    PlatformError::Docker(format!("answers {path} with {}: {message}", status.as_u16()))
}

impl Container {
    /// Its first name, or its id.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or(self.id.as_str(), |name| name.trim_start_matches('/'))
    }

    /// True if it has this name, or this id or the beginning of it.
    pub(super) fn is_called(&self, wanted: &str) -> bool {
        let names = self.names.iter().any(|name| name.trim_start_matches('/') == wanted);
        names || (wanted.len() >= 12 && self.id.starts_with(wanted))
    }

    /// True if it has the label `KEY`, or `KEY=VALUE`.
    pub(super) fn has_label(&self, wanted: &str) -> bool {
        match wanted.split_once('=') {
            Some((key, value)) => self.labels.get(key).is_some_and(|is| is == value),
            None => self.labels.contains_key(wanted),
        }
    }

    pub(super) fn runs(&self) -> bool {
        matches!(self.state.as_str(), "running" | "restarting" | "paused")
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state == "paused"
    }

    pub(super) fn is_checked(&self) -> bool {
        self.status.contains("health")
    }

    /// True for the container that the agent runs in: its host is called by its id.
    pub(super) fn is_ours(&self) -> bool {
        self.is_on(&runtime::host::hostname())
    }

    fn is_on(&self, host: &str) -> bool {
        host.len() >= 12 && self.id.starts_with(host)
    }

    /// The one of `all` that the agent runs in, if it runs in one of them. An error where that cannot be told.
    pub(super) fn ours(all: &[Self]) -> Result<Option<&Self>, PlatformError> {
        Self::of_host(all, &runtime::host::hostname())
    }

    fn of_host<'a>(all: &'a [Self], host: &str) -> Result<Option<&'a Self>, PlatformError> {
        match all.iter().find(|one| one.is_on(host)) {
            Some(ours) if ours.may_share_network(all) => Err(PlatformError::Docker(format!(
                "does not tell which container is the agent's own, since several share a network (`network_mode`): give \
                 the agent a network of its own; or stop by yourself what writes there, and write \
                 `docker: {{ enabled: false }}`; {} has the agent's host name",
                ours.name()
            ))),
            ours => Ok(ours),
        }
    }

    /// True if another one that runs may have this one's network, and with it its host's name, hosts and resolv.conf:
    /// then whatever looks like this one may be that one. A network that is of nobody who is known may be this one's
    /// by a name that it had before.
    pub(super) fn may_share_network(&self, all: &[Self]) -> bool {
        let may_be_ours = |one: &Self| {
            let Some(called) = one.host_config.network_mode.strip_prefix("container:") else { return false };
            let is_of = |other: &Self| other.id != one.id && other.is_called(called);
            self.is_called(called) || !all.iter().any(is_of)
        };
        all.iter().any(|one| one.runs() && may_be_ours(one))
    }

    /// True if what lies in this folder of it lies on its host, and stays there when the container is made anew.
    pub(super) fn keeps(&self, folder: &Path) -> bool {
        let holds = self.mounts.iter().filter(|mount| folder.starts_with(&mount.destination));
        let nearest = holds.max_by_key(|mount| mount.destination.components().count());
        nearest.is_some_and(|mount| !mount.source.as_os_str().is_empty())
    }

    /// True if a label says that it is stopped for this component.
    pub(super) fn stops_for(&self, component: &str) -> bool {
        let names =
            |text: &str| text.split(',').any(|one| matches!(one.trim(), "all") || one.trim() == component);
        let offen = |text: &str| text == "true" || text == component;
        self.labels.get(STOP_FOR).is_some_and(|text| names(text))
            || self.labels.get(OFFEN).is_some_and(|text| offen(text))
    }

    /// Where a folder of this container lies on the host, as other containers' mounts name it.
    pub(super) fn on_host(&self, folder: &Path) -> PathBuf {
        // Memory (tmpfs) lies nowhere.
        let lies = self.mounts.iter().filter(|mount| !mount.source.as_os_str().is_empty());
        let holds = lies.filter(|mount| folder.starts_with(&mount.destination));
        let nearest = holds.max_by_key(|mount| mount.destination.components().count());
        nearest.map_or_else(
            || folder.to_owned(),
            |mount| {
                let rest = folder.strip_prefix(&mount.destination).expect("it was chosen for that");
                mount.source.components().chain(rest.components()).collect()
            },
        )
    }

    /// True if it has the folder of the host, or one around or within it, mounted for writing.
    pub(super) fn writes_in(&self, folder: &Path) -> bool {
        let meets = |mount: &&Mount| {
            mount.is_writable
                && mount.source.components().count() > 1
                && (mount.source.starts_with(folder) || folder.starts_with(&mount.source))
        };
        self.mounts.iter().find(meets).is_some()
    }

    /// Where it has this folder of the host mounted.
    pub(super) fn destinations_of(&self, place: &Path) -> impl Iterator<Item = &Path> {
        let is_it = move |mount: &&Mount| mount.source == place;
        self.mounts.iter().filter(is_it).map(|mount| mount.destination.as_path())
    }

    /// The names of the containers that it is started after.
    pub(super) fn after(&self, all: &[Container]) -> Vec<String> {
        let label = |name: &str| self.labels.get(name).map_or("", String::as_str);
        let listed = label(START_AFTER).split(',').map(|name| name.trim().to_owned());
        let mut after: Vec<String> = listed.filter(|name| !name.is_empty()).collect();
        // `db:service_healthy:true,cache:service_started:false`
        for service in label(DEPENDS_ON).split(',').filter_map(|one| one.split(':').next()) {
            let is_it = |other: &&Container| {
                other.labels.get(SERVICE).is_some_and(|name| name == service)
                    && other.labels.get(PROJECT) == self.labels.get(PROJECT)
            };
            after.extend(all.iter().filter(is_it).map(|other| other.name().to_owned()));
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let json = serde_json::json!({
            "Id": format!("{name:0<64}"), "Names": [format!("/{name}")], "Labels": labels,
            "State": "running", "Status": "Up 2 minutes (healthy)",
            "Mounts": [{ "Type": "bind", "Source": "/srv/data", "Destination": "/data", "RW": true }],
        });
        serde_json::from_value(json).expect("as the engine writes it")
    }

    #[test]
    fn labels_say_for_which_components_a_container_is_stopped() {
        let ours = container("a", &[(STOP_FOR, "models, blockchain")]);
        assert!(ours.stops_for("models") && ours.stops_for("blockchain") && !ours.stops_for("ipfs"));
        assert!(container("a", &[(STOP_FOR, "all")]).stops_for("ipfs"));
        assert!(container("a", &[(OFFEN, "true")]).stops_for("ipfs"));
        let offen = container("a", &[(OFFEN, "models")]);
        assert!(offen.stops_for("models") && !offen.stops_for("ipfs"));
        assert!(!container("a", &[(OFFEN, "false")]).stops_for("ipfs"));
        assert!(!container("a", &[]).stops_for("ipfs"));
    }

    #[test]
    fn dependencies_come_from_labels_of_ours_and_of_compose() {
        let of = |name, service: &'static str, more: &[(&'static str, &'static str)]| {
            container(name, &[&[(PROJECT, "p"), (SERVICE, service)], more].concat())
        };
        let db = of("p_db_1", "db", &[]);
        let other = container("q_db_1", &[(PROJECT, "q"), (SERVICE, "db")]);
        let api = of(
            "p_api_1",
            "api",
            &[(DEPENDS_ON, "db:service_healthy:true,gone:service_started:false"), (START_AFTER, "vault")],
        );
        assert_eq!(api.after(&[db, other, api.clone()]), ["vault", "p_db_1"]);
    }

    #[test]
    fn a_container_is_known_by_its_name_its_id_and_what_it_mounts() {
        let one = container("geth", &[]);
        assert!(one.is_called("geth") && one.is_called("geth00000000") && !one.is_called("get"));
        assert!(one.runs() && one.is_checked());
        assert!(one.writes_in(Path::new("/srv/data")) && one.writes_in(Path::new("/srv/data/chain")));
        assert!(!one.writes_in(Path::new("/srv/other")));
    }

    #[test]
    fn the_agents_own_container_is_known_by_its_host_only_where_no_other_has_its_network() {
        let host = "c0ffee012345";
        let all = |network: &str, state: &str| -> Vec<Container> {
            let of = |id: &str, name: &str, state: &str, network: &str| {
                serde_json::json!({ "Id": format!("{id:0<64}"), "Names": [format!("/{name}")], "State": state,
                    "HostConfig": { "NetworkMode": network } })
            };
            let all = [of(host, "node", "running", "bridge"), of("beef", "agent", state, network)];
            serde_json::from_value(all.into()).expect("as the engine writes it")
        };
        let named = |all: &[Container], host: &str| {
            let ours = Container::of_host(all, host).map_err(|error| error.to_string())?;
            Ok::<_, String>(ours.map(|one| one.name().to_owned()))
        };
        assert_eq!(named(&all("bridge", "running"), host), Ok(Some("node".into())));
        // An agent on the host itself is none of them, whatever they share.
        assert_eq!(named(&all("container:node", "running"), "server"), Ok(None));
        // The node has the host's name; it may be the agent that was given the node's network. Or the node was renamed.
        for network in ["container:node", "container:before", &format!("container:{host:0<64}")] {
            let why = named(&all(network, "running"), host).expect_err("unclear");
            assert!(why.contains("network of its own") && why.contains("node has"), "{why}");
            assert_eq!(named(&all(network, "exited"), host), Ok(Some("node".into())), "{network}");
        }
        assert!(named(&all("container:agent", "running"), host).is_err(), "its own is no other's");
    }

    #[test]
    fn a_folder_of_the_agents_own_container_is_looked_for_where_it_lies_on_the_host() {
        let mut ours = container("agent", &[]);
        let inner = Mount {
            source: "/var/lib/volume/_data".into(),
            destination: "/data/chain".into(),
            is_writable: true,
        };
        ours.mounts.push(inner);
        let on_host = |folder: &str| ours.on_host(Path::new(folder)).display().to_string();
        assert_eq!(on_host("/data"), "/srv/data");
        assert_eq!(on_host("/data/models/a"), "/srv/data/models/a");
        assert_eq!(on_host("/data/chain/geth"), "/var/lib/volume/_data/geth");
        assert_eq!(on_host("/elsewhere"), "/elsewhere");
    }
}
