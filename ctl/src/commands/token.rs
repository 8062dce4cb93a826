//! `nsctl token create`, `list` and `revoke`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use crate::cli;
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::output::words::utc;
use crate::views::token::{NewToken, Token, Tokens};

pub(super) async fn run(client: Client, wanted: cli::Token, voice: Voice) -> Ended {
    match wanted {
        cli::Token::Create { name, role, expires, .. } => create(client, name, role, expires, voice).await,
        cli::Token::List(_) => {
            let wire = client.tokens().list_tokens(ask(v1::ListTokensRequest {})).await?.into_inner();
            show(wire.tokens, voice)
        }
        cli::Token::Revoke { which, .. } => {
            let request = v1::RevokeTokenRequest { id: which };
            show(vec![client.tokens().revoke_token(ask(request)).await?.into_inner()], voice)
        }
    }
}

async fn create(client: Client, name: String, role: cli::Role, valid_seconds: u32, voice: Voice) -> Ended {
    let role = match role {
        cli::Role::Viewer => v1::Role::Viewer,
        cli::Role::Operator => v1::Role::Operator,
        cli::Role::Admin => v1::Role::Admin,
    };
    let request = v1::CreateTokenRequest { name, role: role.into(), valid_seconds };
    let made = NewToken::from(client.tokens().create_token(ask(request)).await?.into_inner());
    voice.result(&made, |made| made.token.clone())?;
    let until = made.ends_at.map_or_else(String::new, |at| format!(" until {}", utc(at)));
    voice.say(format!(
        "this token is shown only now; whoever has it may do what the role {} may{until}. Keep it in a file \
         that nobody else can read, and give it by NSCTL_TOKEN or --token-file",
        made.role
    ));
    Ok(Exit::Done)
}

fn show(wire: Vec<v1::Token>, voice: Voice) -> Ended {
    let now = SystemClock.now();
    let tokens = Tokens { tokens: wire.into_iter().map(|wire| Token::new(wire, now)).collect() };
    voice.result(&tokens, |tokens| tokens.table(now))?;
    Ok(Exit::Done)
}
