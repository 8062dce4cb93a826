//! Where a guard would not outlive its agent.

use std::fs;

/// What runs as the first process of a container and ends with the program that it has started.
const PASSING: [&str; 4] = ["tini", "docker-init", "dumb-init", "catatonit"];

/// An error if the guard of a lock would be killed with the agent, which is the only program of its container: a lock
/// would stay until a new container is there.
pub(super) fn outlives() -> Result<(), String> {
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    match is_last(std::process::id(), std::os::unix::process::parent_id(), first.trim()) {
        false => Ok(()),
        true => Err("the agent is the only program of its container, and what has locked a server would be killed with \
                     it: run the agent outside, or with the host's processes (`pid: host`)"
            .to_owned()),
    }
}

fn is_last(own: u32, parent: u32, first: &str) -> bool {
    own == 1 || (parent == 1 && PASSING.contains(&first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_container_and_the_child_of_one_that_ends_with_it_do_not_lock() {
        assert!(is_last(1, 0, "neurashield-age") && is_last(7, 1, "tini") && is_last(7, 1, "docker-init"));
        assert!(!is_last(7, 1, "systemd") && !is_last(7, 3, "tini"));
    }
}
