//! `nsctl signer list` and `set`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use crate::cli;
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, can_ask, confirm};
use crate::views::signer::{Signer, Signers};

pub(super) async fn run(client: Client, wanted: cli::Signer, voice: Voice) -> Ended {
    match wanted {
        cli::Signer::List(_) => {
            let known = known(&client).await?;
            voice.result(&known, |known| known.table(SystemClock.now()))?;
            Ok(Exit::Done)
        }
        cli::Signer::Set { which, height, reason, yes, .. } => {
            if !yes && !can_ask() {
                return Err(Trouble::usage("stating a height has to be confirmed")
                    .because("there is no terminal to ask on")
                    .hint("add --yes"));
            }
            let known = known(&client).await?;
            if let Some(higher) =
                known.highest_of(&which).filter(|known| *known > 0 && *known as u64 > height)
            {
                voice.say(format!(
                    "it is known to have signed up to height {higher}: a restore may let it sign heights above {height} a \
                     second time, for which it is punished, unless its chain begins anew or that height is wrong"
                ));
            }
            if !yes && !confirm(&format!("State that {which} has signed up to height {height}?"))? {
                voice.say("nothing was changed");
                return Ok(Exit::Failed);
            }
            let is_source = which.contains('/');
            let request = v1::SetSignerRequest { signer: which, height, reason };
            let now = Signer::from(client.signers().set_signer(ask(request)).await?.into_inner());
            voice.result(&now, |now| {
                format!("{} has signed up to height {}: no restore goes below", now.name(), now.height)
            })?;
            for keyless in known.keyless_of(&now).into_iter().filter(|_| !is_source) {
                voice.say(format!(
                    "what was seen in {0} without a key, up to height {1}, counts no more for this one, and stands for other \
                     keys that were seen there, and for archives that name none: nsctl signer set {0} HEIGHT states that, too",
                    keyless.id, keyless.height
                ));
            }
            Ok(Exit::Done)
        }
    }
}

async fn known(client: &Client) -> Result<Signers, Trouble> {
    let wire = client.signers().list_signers(ask(v1::ListSignersRequest {})).await?.into_inner();
    Ok(Signers { signers: wire.signers.into_iter().map(Signer::from).collect() })
}
