//! Mail: text and HTML, by TLS from the first byte (`smtps://`) or by STARTTLS (`smtp://`), never without.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use tokio::time::timeout;

use super::{Sinks, Undelivered, address, cut, secret};
use crate::alerts::Message;
use crate::alerts::message::{details, mark};
use crate::config::{Email, Mailserver};

const WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn send(
    sinks: &Sinks,
    email: &Email,
    message: &Message,
    now: Timestamp,
) -> Result<(), Undelivered> {
    let server = email.server().ok_or_else(|| Undelivered::refused("its server is not a URL"))?;
    let mail = mail(email, &server, message, now)?;
    let sent = timeout(WITHIN, hand_over(sinks, email, &server, mail)).await;
    sent.unwrap_or_else(|_| {
        Err(Undelivered::later(format!("the server did not take it within {} s", WITHIN.as_secs())))
    })
}

async fn hand_over(
    sinks: &Sinks,
    email: &Email,
    server: &Mailserver,
    mail: lettre::Message,
) -> Result<(), Undelivered> {
    let tls = |error| Undelivered::refused(format!("TLS cannot be set up: {error}"));
    let mut last = Undelivered::later("the server has no address");
    for place in address::resolve(&server.host, server.port, sinks.way.allow).await?.into_iter().take(4) {
        let mut parameters = TlsParameters::builder(server.host.clone());
        for certificate in &sinks.extra {
            let certificate = Certificate::from_der(certificate.to_vec()).map_err(tls)?;
            parameters = parameters.add_root_certificate(certificate);
        }
        let parameters = parameters.build_rustls().map_err(tls)?;
        let tls = if server.is_wrapped { Tls::Wrapper(parameters) } else { Tls::Required(parameters) };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(place.ip().to_string())
            .port(place.port())
            .tls(tls)
            .timeout(Some(WITHIN / 2))
            .hello_name(ClientId::Domain(runtime::host::hostname()));
        if email.password.is_some() || email.password_file.is_some() {
            let password = secret(email.password.as_ref(), email.password_file.as_ref())?;
            let login = Credentials::new(server.user.clone(), password.expose().to_owned());
            transport = transport.credentials(login);
        }
        match transport.build().send(mail.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => last = told(&error),
        }
        if last.refused {
            break;
        }
    }
    Err(last)
}

/// The server's own words are left out: what it was shown may stand in them.
fn told(error: &lettre::transport::smtp::Error) -> Undelivered {
    match error.status() {
        Some(code) => {
            let why = match code.to_string().as_str() {
                "535" | "534" | "530" => format!("the server refused the login ({code})"),
                "550" | "551" | "553" => format!("the server refused a sender or a receiver ({code})"),
                _ => format!("the server answered {code}"),
            };
            Undelivered { refused: error.is_permanent(), ..Undelivered::later(why) }
        }
        None if error.is_timeout() => Undelivered::later("the server did not answer in time"),
        None if error.is_tls() => Undelivered::later(proto::failure::chain(error)),
        None => Undelivered::later(format!("the server cannot be used: {}", proto::failure::chain(error))),
    }
}

fn mail(
    email: &Email,
    server: &Mailserver,
    message: &Message,
    now: Timestamp,
) -> Result<lettre::Message, Undelivered> {
    let wrong = |what: &str| Undelivered::refused(format!("{what} is not an address that mail can have"));
    let sender = email.from.clone().unwrap_or_else(|| match server.user.contains('@') {
        true => server.user.clone(),
        false => format!("neurashield@{}", server.host),
    });
    let sender: Mailbox = sender.parse().map_err(|_| wrong("its sender"))?;
    let mut mail = lettre::Message::builder()
        .from(sender)
        .subject(cut(&format!("NeuraShield {}", message.title()), 200))
        .message_id(Some(format!("<{}@neurashield>", message.id)))
        .date(SystemTime::from(now));
    for receiver in &email.to {
        mail = mail.to(receiver.parse().map_err(|_| wrong("one of its receivers"))?);
    }
    let parts = MultiPart::alternative_plain_html(message.text(), html(message));
    mail.multipart(parts).map_err(|_| wrong("one of its receivers"))
}

fn html(message: &Message) -> String {
    let mut out = format!("<!doctype html><html><body><h2>{}</h2>", escape(&message.title()));
    if message.test {
        out.push_str("<p>Somebody ran <code>nsctl alert test</code>. Nothing has happened.</p>");
    }
    if !message.counts.is_empty() {
        out.push_str("<ul>");
        for (kind, count) in &message.counts {
            out.push_str(&format!("<li>{count} × {}</li>", escape(kind)));
        }
        out.push_str("</ul>");
    }
    for event in &message.events {
        out.push_str(&format!("<h3>[{}] {}</h3><table>", mark(event), escape(&event.what)));
        for (name, words) in details(event) {
            out.push_str(&format!("<tr><th align=\"left\">{name}</th><td>{}</td></tr>", escape(&words)));
        }
        out.push_str("</table>");
    }
    if message.more > 0 {
        out.push_str(&format!("<p>and {} more</p>", message.more));
    }
    out.push_str(&format!("<p><small>NeuraShield Backup, message {}</small></p></body></html>", message.id));
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
