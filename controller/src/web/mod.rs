//! What the controller shows by plain HTTP: the web page, and probes.
//!
//! The page is made on the server (askama) and acts through the same services as everybody else: each of
//! its calls passes the gate with the token of whoever is signed in (decision 27).
//!
//! Must stay true: without a session there is the sign-in and nothing else; everything that comes from
//! outside is escaped; nothing is loaded from anywhere; a request of another site changes nothing.

mod agents;
mod alerts;
mod backups;
mod browse;
mod calendar;
mod form;
mod guard;
mod jobs;
mod lists;
mod meter;
mod overview;
mod passwords;
mod restore;
mod retention;
mod schedules;
mod serve;
mod sessions;
mod sign_in;
mod site;
mod text;
mod tokens;
mod verdict;

pub use serve::{WebServer, probes};
pub use site::site;
