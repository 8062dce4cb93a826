//! The edges: gRPC in, application services behind.
//!
//! Must stay true: no decision is made here; a request is checked, handed on, and its answer written
//! down. Who calls and whether they may is decided in one place, [`gate`], before any handler.

mod agents;
mod alerts;
pub(crate) mod attempts;
mod audit;
mod backups;
mod book;
mod caller;
mod calls;
mod configuration;
mod control;
mod counted;
mod door;
mod ending;
mod enrolment;
mod gate;
mod gateway;
mod health;
mod history;
mod inside;
mod jobs;
mod life;
mod ordered;
mod peer;
mod retention;
mod schedules;
mod server;
mod signers;
mod tokens;
mod under_way;
pub(crate) mod wire;

pub use inside::{Caller as PageCaller, Inside};
pub use server::{AgentServer, PeopleServer, ServeError};
