//! One file for each verb.

mod agent;
mod alert;
mod archives;
mod audit;
mod backup;
mod browse;
mod car;
mod completions;
mod config;
mod debug;
mod diff;
mod doctor;
mod dump;
pub(crate) mod export;
mod find;
pub(crate) mod follow;
mod jobs;
mod paths;
mod restore;
mod retention;
mod schedule;
mod signer;
mod token;
mod verify;

use std::future::Future;

use proto::v1;

use crate::access::Access;
use crate::cli::{Cli, Debug, Global, Verb};
use crate::client::Client;
use crate::output::Voice;
use crate::output::exit::{Ended, Trouble};
use crate::{demo, offline, up};

/// Runs what was typed.
pub(crate) fn run(cli: Cli, voice: Voice) -> Ended {
    let server = cli.global;
    match cli.verb {
        Verb::Completions { shell } => completions::run(shell),
        Verb::Backup(wanted) => on(server, |client| backup::run(client, wanted, voice)),
        Verb::Verify(wanted) => on(server, |client| verify::run(client, wanted, voice)),
        Verb::Restore(wanted) => on(server, |client| restore::run(client, wanted, voice)),
        Verb::Undo(wanted) => on(server, |client| restore::undo(client, wanted, voice)),
        Verb::List { limit, .. } => on(server, |client| browse::list(client, limit, voice)),
        Verb::Show { timestamp, .. } => on(server, |client| browse::show(client, timestamp, voice)),
        Verb::Ls(wanted) => on(server, |client| browse::ls(client, wanted, voice)),
        Verb::Find(wanted) => on(server, |client| find::run(client, wanted, voice)),
        Verb::Diff(wanted) => on(server, |client| diff::run(client, wanted, voice)),
        Verb::Cat { timestamp, component, path } => {
            on(server, move |client| export::cat(client, timestamp, component, path))
        }
        Verb::Import(wanted) => on(server, move |client| backup::import(client, wanted, voice)),
        Verb::Export(wanted) => on(server, move |client| export::run(client, wanted, voice)),
        Verb::Jobs { job: Some(job), .. } => on(server, move |client| jobs::show(client, job, voice)),
        Verb::Jobs { limit, .. } => on(server, move |client| jobs::list(client, limit, voice)),
        Verb::Logs { job, follow, .. } => on(server, move |client| jobs::logs(client, job, follow, voice)),
        Verb::Cancel { job, .. } => on(server, move |client| jobs::cancel(client, job, voice)),
        Verb::Schedule(wanted) => on(server, move |client| schedule::run(client, wanted, voice)),
        Verb::Retention(wanted) => on(server, move |client| retention::run(client, wanted, voice)),
        Verb::Prune(wanted) => on(server, move |client| retention::prune(client, wanted, voice)),
        Verb::Pin(wanted) => on(server, move |client| retention::pin(client, wanted, voice)),
        Verb::Unpin(wanted) => on(server, move |client| retention::unpin(client, wanted, voice)),
        Verb::Agent(wanted) => on(server, move |client| agent::run(client, wanted, voice)),
        Verb::Alert(wanted) => on(server, move |client| alert::run(client, wanted, voice)),
        Verb::Signer(wanted) => on(server, move |client| signer::run(client, wanted, voice)),
        Verb::Token(wanted) => on(server, move |client| token::run(client, wanted, voice)),
        Verb::Audit(wanted) => on(server, move |client| audit::run(client, wanted, voice)),
        Verb::Config(wanted) => config::run(wanted, voice),
        Verb::Up { config } => up::run(config, voice),
        Verb::Demo { exit } => demo::run(exit, voice),
        Verb::Repository(verb) => offline::run(verb, voice),
        Verb::Doctor(wanted) => doctor::run(&server, wanted.config, voice),
        Verb::Healthcheck => doctor::healthcheck(&server),
        Verb::Debug(Debug::Bundle(wanted)) => debug::bundle(&server, wanted, voice),
    }
}

/// Runs a verb that needs the controller.
fn on<F: Future<Output = Ended>>(server: Global, verb: impl FnOnce(Client) -> F) -> Ended {
    let access = Access::of(&server)?;
    runtime::tls::install_crypto_provider();
    block_on(async { verb(Client::connect(&access).await?).await })
}

/// How long threads may take to end once the work has.
const GIVE_UP: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs asynchronous code to its end.
pub(crate) fn block_on<F: Future<Output = Ended>>(work: F) -> Ended {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Trouble::failed("cannot start").caused_by(&error))?;
    let ended = threads.block_on(work);
    // A thread that hangs in a dead file system must not keep a program whose work has ended.
    threads.shutdown_timeout(GIVE_UP);
    ended
}

/// `models` or, where a component has several sources, `models/yolo`.
fn source(text: &str) -> v1::SourceId {
    let (component, name) = text.split_once('/').unwrap_or((text, ""));
    v1::SourceId { component: component.to_owned(), name: name.to_owned() }
}

/// A fresh id, so that a request that is repeated after a broken connection starts nothing twice.
pub(crate) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
