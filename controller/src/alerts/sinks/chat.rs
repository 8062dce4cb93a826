//! Slack and Discord: the bodies of their incoming webhooks.
//!
//! Must stay true: within the limits of both (Slack: 50 blocks, 150 letters of a header, 3,000 of a section;
//! Discord: 10 embeds, 6,000 letters in all); nobody is mentioned and nothing is a link.

use serde_json::{Value, json};

use super::cut;
use crate::alerts::message::{details, mark};
use crate::alerts::{Event, Message, Severity, Sign};

/// Events shown one by one; Discord's limits allow no more.
const SHOWN: usize = 5;
const RED: u32 = 0xd9_30_25;
const AMBER: u32 = 0xf2_99_00;
const BLUE: u32 = 0x1a_73_e8;
const GREEN: u32 = 0x18_80_38;

/// Slack's Block Kit.
pub(super) fn slack(message: &Message) -> Vec<u8> {
    let title = message.title();
    let mut blocks = vec![json!({
        "type": "header", "text": { "type": "plain_text", "text": cut(&title, 150), "emoji": false },
    })];
    if let Some(summary) = summary(message) {
        blocks.push(section(&escape(&summary)));
    }
    for event in message.events.iter().take(SHOWN) {
        let mut text = format!("*{}* {}", mark(event), escape(&event.what));
        for (name, words) in details(event) {
            text.push_str(&format!("\n*{name}:* {}", escape(&words)));
        }
        blocks.push(section(&text));
    }
    let foot = format!("NeuraShield Backup · {}", message.id);
    blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": foot }] }));
    bytes(&json!({ "text": escape(&cut(&title, 1_000)), "blocks": blocks }))
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": cut(text, 2_900) } })
}

/// What Slack asks for; with it, no mention and no link can be written.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Discord's embeds.
pub(super) fn discord(message: &Message) -> Vec<u8> {
    let mut embeds: Vec<Value> = message.events.iter().take(SHOWN).map(embed).collect();
    if let Some(last) = embeds.last_mut() {
        last["footer"] = json!({ "text": format!("NeuraShield Backup · {}", message.id) });
    }
    let mut content = format!("**{}**", cut(&message.title(), 200));
    if let Some(summary) = summary(message) {
        content.push('\n');
        content.push_str(&cut(&summary, 1_000));
    }
    bytes(&json!({ "content": content, "embeds": embeds, "allowed_mentions": { "parse": [] } }))
}

fn embed(event: &Event) -> Value {
    let color = match (event.sign, event.severity()) {
        (Sign::Resolved, _) => GREEN,
        (_, Severity::Critical) => RED,
        (_, Severity::Warning) => AMBER,
        _ => BLUE,
    };
    let fields: Vec<Value> = details(event)
        .into_iter()
        .map(|(name, words)| json!({ "name": name, "value": cut(&words, 250), "inline": false }))
        .collect();
    json!({
        "title": cut(&format!("{}: {}", mark(event), event.what), 200), "color": color,
        "fields": fields, "timestamp": event.at.to_string(),
    })
}

/// Of many: the counts.
fn summary(message: &Message) -> Option<String> {
    if message.test {
        return Some("Somebody ran nsctl alert test. Nothing has happened.".to_owned());
    }
    let lines: Vec<String> = message.counts.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::alerts::Kind;

    fn long(count: usize) -> Message {
        let text = "<!channel> & ä".repeat(400);
        let one = || Event::raised(Kind::BackupFailed, text.clone()).saying(&*text, &*text, &*text);
        Message::of((0..count).map(|_| one()).collect(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn whatever_is_said_fits_into_the_limits_and_mentions_nobody() {
        for count in [1, 2, 1_000] {
            let said: Value = serde_json::from_slice(&slack(&long(count))).expect("JSON");
            let blocks = said["blocks"].as_array().expect("blocks");
            assert!(blocks.len() <= 50);
            for block in blocks {
                let text = block["text"]["text"].as_str().unwrap_or_default();
                let limit = if block["type"] == "header" { 150 } else { 3_000 };
                assert!(text.chars().count() <= limit && (block["type"] == "header" || !text.contains("<!")));
            }
            let said: Value = serde_json::from_slice(&discord(&long(count))).expect("JSON");
            assert_eq!(said["allowed_mentions"]["parse"], json!([]));
            assert!(said["content"].as_str().expect("text").chars().count() <= 2_000);
            let embeds = said["embeds"].as_array().expect("embeds");
            let letters = |text: &Value| text.as_str().unwrap_or_default().chars().count();
            let size: usize = embeds
                .iter()
                .map(|embed| {
                    let fields = embed["fields"].as_array().expect("fields");
                    let fields: usize =
                        fields.iter().map(|field| letters(&field["name"]) + letters(&field["value"])).sum();
                    fields + letters(&embed["title"]) + letters(&embed["footer"]["text"])
                })
                .sum();
            assert!(embeds.len() <= 10 && size <= 6_000, "{size}");
        }
    }
}
