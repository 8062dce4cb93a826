//! What containers were made with, by the Docker Engine's API.
//!
//! Must stay true: no value is part of an error.

use std::path::Path;

use serde_json::Value;

use super::PlatformError;
use super::docker::Docker;

/// More containers are not looked into, which is told.
const MOST: usize = 10_000;

/// Which containers.
pub(crate) struct Environments<'a> {
    /// By name, or id.
    pub(crate) names: &'a [String],
    /// Those with all of these, each `KEY` or `KEY=VALUE`.
    pub(crate) labels: &'a [String],
}

/// The environment of one container; an error says why it cannot be had.
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) variables: Result<Vec<String>, String>,
}

impl Environments<'_> {
    /// Asks the engine; the answer is in the order of the names of files that are called so.
    pub(crate) async fn ask(&self, socket: &Path) -> Result<Vec<Given>, PlatformError> {
        let docker = Docker::at(socket);
        let containers = docker.containers().await?;
        let mut given = Vec::new();
        let is_chosen = |container: &&super::docker::Container| {
            self.names.iter().any(|name| container.is_called(name))
                || (!self.labels.is_empty() && self.labels.iter().all(|label| container.has_label(label)))
        };
        let chosen: Vec<_> = containers.iter().filter(is_chosen).collect();
        for container in chosen.iter().take(MOST) {
            let variables = match docker.inspect(&container.id).await {
                Ok(inspected) => variables(&inspected).ok_or_else(|| {
                    format!("the Docker Engine does not say what {} was made with", container.name())
                }),
                Err(error) => Err(format!("of the container {}: {error}", container.name())),
            };
            given.push(Given { name: container.name().to_owned(), variables });
        }
        for name in self.names.iter().filter(|name| !containers.iter().any(|one| one.is_called(name))) {
            let cause = format!("there is no container {name}, which the configuration names");
            given.push(Given { name: name.clone(), variables: Err(cause) });
        }
        given.sort_by_key(|given| format!("{}.env", given.name));
        given.dedup_by(|one, other| one.name == other.name);
        given.extend(beyond(&chosen, MOST).map(|cause| Given { name: String::new(), variables: Err(cause) }));
        if given.is_empty() {
            let cause = format!("no container has the labels {}", self.labels.join(", "));
            given.push(Given { name: String::new(), variables: Err(cause) });
        }
        Ok(given)
    }
}

/// What is to be told of those that are too many.
fn beyond<T>(chosen: &[T], most: usize) -> Option<String> {
    let more = chosen.len().checked_sub(most).filter(|more| *more > 0)?;
    Some(format!(
        "{more} more containers are chosen and not in it: no more than {most} are looked into; choose fewer by \
         `container_labels`, in several sources"
    ))
}

/// An engine gives null where there are none.
fn variables(inspected: &Value) -> Option<Vec<String>> {
    match inspected.pointer("/Config/Env")? {
        Value::Null => Some(Vec::new()),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// An engine with two containers, for so many questions.
    fn engine(socket: &Path, questions: usize) {
        let listener = UnixListener::bind(socket).expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().take(questions).flatten() {
                let (mut stream, mut head) = (stream, Vec::new());
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("read");
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).expect("text");
                let body = match head.split(' ').nth(1).expect("a path") {
                    "/containers/json?all=true" => {
                        r#"[{"Id":"aaaaaaaaaaaaaaaa","Names":["/web"],"Labels":{"app":"shop"}},
                            {"Id":"bbbbbbbbbbbbbbbb","Names":["/db"],"Labels":{"app":"shop","tier":"db"}}]"#
                    }
                    "/containers/aaaaaaaaaaaaaaaa/json" => r#"{"Config":{"Env":["A=1","B=x=y","C"]}}"#,
                    "/containers/bbbbbbbbbbbbbbbb/json" => r#"{"Config":{"Env":["PASSWORD=hunter2",7]}}"#,
                    other => panic!("{other}"),
                };
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    .expect("said");
            }
        });
    }

    #[test]
    fn containers_that_are_too_many_are_told() {
        let chosen: Vec<_> = (0..12).collect();
        assert_eq!(beyond(&chosen, 12), None);
        assert!(beyond(&chosen, 10).is_some_and(|why| why.starts_with("2 more containers")));
    }

    fn asked(names: &[&str], labels: &[&str], questions: usize) -> Vec<Given> {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        engine(&socket, questions);
        let own = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let (names, labels) = (own(names), own(labels));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Environments { names: &names, labels: &labels }.ask(&socket)).expect("it answers")
    }

    #[test]
    fn containers_are_chosen_by_name_or_labels_and_what_is_not_there_is_told_without_a_value() {
        let given = asked(&["web", "gone"], &[], 2);
        assert_eq!(given.len(), 2);
        assert!(given[0].variables.as_ref().is_err_and(|why| why.contains("no container gone")));
        assert_eq!(given[1].variables, Ok(vec!["A=1".to_owned(), "B=x=y".to_owned(), "C".to_owned()]));
        let given = asked(&[], &["app=shop", "tier"], 2);
        assert_eq!((given.len(), given[0].name.as_str()), (1, "db"));
        assert!(given[0].variables.as_ref().is_err_and(|why| !why.contains("hunter2")));
        assert!(asked(&[], &["app=other"], 1)[0].variables.is_err());
    }
}
