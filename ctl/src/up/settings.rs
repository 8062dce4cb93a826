//! The settings of `nsctl up`: one file with a section for each program, the environment, the usual places.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use agent::config::AgentConfig;
use controller::config::ControllerConfig;
use runtime::config::{ConfigError, Flag, Layers, Loaded, load};

use crate::output::exit::Trouble;

/// Where the file lies unless told otherwise.
pub(crate) const USUAL_FILE: &str = "/etc/neurashield/neurashield.yaml";

/// What both programs of one machine run with.
pub(crate) struct Both {
    pub(crate) controller: Loaded<ControllerConfig>,
    pub(crate) agent: Loaded<AgentConfig>,
}

/// Reads and checks both sections.
pub(crate) fn read(config: Option<PathBuf>) -> Result<Both, Trouble> {
    let mut layers = Layers::of_process(config, Path::new(USUAL_FILE));
    let controller: Loaded<ControllerConfig> = load(&layers).map_err(|error| wrong(&error))?;
    // The agent of this machine always serves the controller of this machine.
    let value = format!("https://{}", reachable(controller.settings.listen.grpc));
    layers.flags.push(Flag { name: "nsctl up", path: "controller", value });
    let mut agent: Loaded<AgentConfig> = load(&layers).map_err(|error| wrong(&error))?;
    if agent.settings.state == controller.settings.state {
        // NEURASHIELD_STATE speaks to both; each needs a folder to itself.
        agent.settings.state.push("agent");
    }
    Ok(Both { controller, agent })
}

/// An address at which this machine reaches what listens at `listen`.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) | IpAddr::V6(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    SocketAddr::new(ip, listen.port())
}

fn wrong(error: &ConfigError) -> Trouble {
    Trouble::usage("the configuration cannot be used")
        .caused_by(error)
        .hint("correct it; docs/operations.md says what there is, and `nsctl config show --origin` where each setting came from")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_by_the_loopback_address() {
        let reach = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(reach("0.0.0.0:8443"), "127.0.0.1:8443");
        assert_eq!(reach("[::]:8443"), "127.0.0.1:8443");
        assert_eq!(reach("10.1.2.3:8443"), "10.1.2.3:8443");
        assert_eq!(reach("[::1]:8443"), "[::1]:8443");
    }

    #[test]
    fn one_file_configures_both_and_the_agent_serves_the_controller_beside_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("neurashield.yaml");
        let text = "controller:\n  repository: /srv/backups\n  listen: { grpc: \"0.0.0.0:9443\" }\n\
                    agent:\n  sources:\n    - { component: models, kind: files, name: models, path: /srv/models }\n";
        std::fs::write(&file, text).expect("written");
        let both = read(Some(file)).expect("valid");
        assert_eq!(both.controller.settings.repository.folder(), Some(Path::new("/srv/backups")));
        assert_eq!(both.agent.settings.controller, "https://127.0.0.1:9443");
        assert_eq!(both.agent.settings.sources.len(), 1);
    }

    #[test]
    fn a_wrong_key_is_told_with_its_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("neurashield.yaml");
        std::fs::write(&file, "controller:\n  repositori: /srv/backups\n").expect("written");
        let trouble = read(Some(file)).err().expect("an unknown key is refused");
        assert!(trouble.why.contains("neurashield.yaml:2:3"), "{}", trouble.why);
    }
}
