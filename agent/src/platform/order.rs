//! The order in which applications are started; they are stopped the other way round. Pure.

use super::Application;

/// Each after those that it names. Where two name each other, the order in which they came decides.
pub(super) fn for_start(mut left: Vec<Application>) -> Vec<Application> {
    left.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ordered: Vec<Application> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waits = |one: &Application| {
            let names = |other: &&Application| one.after.contains(&other.name) && other.name != one.name;
            left.iter().any(|other| names(&other))
        };
        let next = left.iter().position(|one| !waits(one)).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::super::Handle;
    use super::*;

    fn application(name: &str, after: &[&str]) -> Application {
        Application {
            name: name.into(),
            handle: Handle::Commands,
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            runs: true,
            is_checked: false,
        }
    }

    fn names(all: Vec<Application>) -> Vec<String> {
        for_start(all).into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn what_others_need_is_started_first() {
        let all = vec![
            application("api", &["cache", "db"]),
            application("cache", &["db"]),
            application("db", &["not here"]),
            application("web", &["api"]),
        ];
        assert_eq!(names(all), ["db", "cache", "api", "web"]);
    }

    #[test]
    fn two_that_need_each_other_are_started_all_the_same() {
        let all = vec![application("b", &["a"]), application("a", &["b"]), application("c", &["c"])];
        let names = names(all);
        assert_eq!(names.len(), 3, "{names:?}");
    }
}
