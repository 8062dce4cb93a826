//! Webhooks: JSON of our own (docs/json.md), signed as Standard Webhooks says.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use runtime::config::Secret;
use serde_json::json;

use super::{Sinks, Undelivered, json, secret};
use crate::alerts::{Event, Message, Sign};
use crate::config::Webhook;

/// Of the body's shape: fields are only ever added.
const VERSION: u32 = 1;

pub(super) async fn send(
    sinks: &Sinks,
    hook: &Webhook,
    message: &Message,
    now: Timestamp,
) -> Result<(), Undelivered> {
    let url = secret(hook.url.as_ref(), hook.url_file.as_ref())?;
    let body = body(message);
    let mut headers = json();
    for (name, value) in &hook.headers {
        let wrong = || Undelivered::refused("one of its headers cannot be sent");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let (id, seconds) = (message.id.to_string(), now.as_second().to_string());
    set(&mut headers, "webhook-id", &id);
    set(&mut headers, "webhook-timestamp", &seconds);
    if hook.secret.is_some() || hook.secret_file.is_some() {
        let key = secret(hook.secret.as_ref(), hook.secret_file.as_ref())?;
        set(&mut headers, "webhook-signature", &signature(&key, &id, &seconds, &body)?);
    }
    sinks.post(&url, headers, body).await
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    let value = HeaderValue::from_str(value).expect("ids, numbers and Base64 are visible ASCII");
    headers.insert(HeaderName::from_static(name), value);
}

/// `v1,` and the HMAC-SHA256 of id, time and body, with a point between them.
fn signature(key: &Secret, id: &str, seconds: &str, body: &[u8]) -> Result<String, Undelivered> {
    let key = match key.expose().strip_prefix("whsec_") {
        Some(text) => zeroize::Zeroizing::new(
            STANDARD
                .decode(text)
                .map_err(|_| Undelivered::refused("its secret begins with whsec_ and is not Base64"))?,
        ),
        None => zeroize::Zeroizing::new(key.expose().as_bytes().to_vec()),
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    for piece in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
        context.update(piece);
    }
    Ok(format!("v1,{}", STANDARD.encode(context.sign())))
}

fn body(message: &Message) -> Vec<u8> {
    let value = json!({
        "version": VERSION, "id": message.id, "type": if message.test { "test" } else { "alert" },
        "made_at": message.made_at, "severity": message.severity().word(), "title": message.title(),
        "events": message.events.iter().map(event).collect::<Vec<_>>(),
        "more": message.more, "counts": message.counts,
    });
    serde_json::to_vec(&value).expect("texts and numbers are always JSON")
}

fn event(event: &Event) -> serde_json::Value {
    let state = match event.sign {
        Sign::Raised => "raised",
        Sign::Resolved => "resolved",
    };
    json!({
        "id": event.id, "kind": event.kind.word(), "subject": event.subject, "state": state,
        "severity": event.severity().word(), "at": event.at, "what": event.what, "why": event.why,
        "hint": event.hint, "job": event.job, "backup": event.backup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_the_specification() {
        // The example of the Standard Webhooks specification's own libraries.
        let key = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body).expect("signed");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
