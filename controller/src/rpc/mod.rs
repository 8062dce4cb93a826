//! The edges: gRPC in, application services behind.
//!
//! Must stay true: no decision is made here; a request is checked, handed on, and its answer written
//! down. What an agent may do hangs on its certificate, what a person may do on the socket's other end.

mod agents;
mod backups;
mod book;
mod configuration;
mod control;
mod counted;
mod door;
mod enrolment;
mod gateway;
mod health;
mod jobs;
mod peer;
mod server;
pub(crate) mod wire;

pub use server::{AgentServer, PeopleServer, ServeError};
