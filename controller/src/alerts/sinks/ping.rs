//! Dead-man switches in the way of healthchecks.io: `URL/start`, `URL`, `URL/fail`; `rid` pairs a start with
//! its end. A test goes to `URL/log`, which moves no switch.

use super::{Sinks, Undelivered, http, secret};
use crate::alerts::{Kind, Message};
use crate::config::Ping;

pub(super) async fn send(sinks: &Sinks, ping: &Ping, message: &Message) -> Result<(), Undelivered> {
    let url = secret(ping.url.as_ref(), ping.url_file.as_ref())?;
    let event = message.events.last();
    let path = match event.map(|event| event.kind) {
        None => "/log",
        Some(Kind::BackupStarted) => "/start",
        Some(Kind::BackupSucceeded) => "",
        Some(_) => "/fail",
    };
    // The run's id: the receiver sees which end belongs to which start.
    let run = event.and_then(|event| event.job).map_or(message.id, |job| job.as_uuid());
    let place = http::Place::parse(url.expose()).map_err(Undelivered::refused)?;
    let place = place.with(path, &format!("rid={run}")).map_err(Undelivered::refused)?;
    let mut headers = ::http::HeaderMap::new();
    let id = ::http::HeaderValue::from_str(&message.id.to_string()).expect("an id is ASCII");
    headers.insert("webhook-id", id);
    sinks.way.post(http::Post { place, headers, body: message.text().into_bytes() }).await
}
