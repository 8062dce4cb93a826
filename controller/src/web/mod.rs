//! What the controller shows by plain HTTP: one status page, and probes.
//!
//! Must stay true: no secret and no file name on the page; everything that comes from outside is escaped;
//! nothing is loaded from anywhere; requests are short, answers too.

mod page;
mod serve;

pub use serve::{WebServer, probes, status};
