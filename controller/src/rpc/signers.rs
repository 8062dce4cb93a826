//! `Signers`: list, and state a height.

use proto::convert;
use proto::v1::signers_server::Signers;
use proto::v1::{ListSignersRequest, ListSignersResponse, SetSignerRequest, Signer};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::audit::Who;
use crate::catalog::SignerRecord;
use crate::rpc::gate::About;

pub(super) struct SignersService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Signers for SignersService {
    async fn list_signers(
        &self,
        _request: Request<ListSignersRequest>,
    ) -> Result<Response<ListSignersResponse>, Status> {
        let signers = self.app.signers().await?;
        Ok(Response::new(ListSignersResponse { signers: signers.iter().map(shown).collect() }))
    }

    async fn set_signer(&self, request: Request<SetSignerRequest>) -> Result<Response<Signer>, Status> {
        let about = About::of(&request);
        let by = request.extensions().get::<Who>().map(Who::to_string).unwrap_or_default();
        let SetSignerRequest { signer, height, reason } = request.into_inner();
        let signer = convert::text("signer", &signer, 300)?;
        about.say(format!("signer {signer:?} to height {height}"));
        let stated = self.app.set_signer(&signer, height, &reason, &by).await?;
        let each = stated.iter().map(|(before, now)| {
            let name = now.address.as_deref().unwrap_or(&now.id);
            let was = before.as_ref().map(|before| before.signed.height.to_string());
            let was = was.unwrap_or_else(|| "nothing known".to_owned());
            format!("signer {name}: height {height}, before it {was}: {reason:?}")
        });
        about.say(each.collect::<Vec<_>>().join("; "));
        let (_, now) = stated.first().expect("something was stated");
        Ok(Response::new(shown(now)))
    }
}

fn shown(record: &SignerRecord) -> Signer {
    let (stated_at, stated_by, reason) = match &record.stated {
        Some((at, by, reason)) => (Some(convert::to_wire_time(*at)), by.clone(), reason.clone()),
        None => (None, String::new(), String::new()),
    };
    Signer {
        id: record.id.clone(),
        address: record.address.clone().unwrap_or_default(),
        source: record.source.as_ref().map(convert::to_wire_source),
        height: record.signed.height,
        round: record.signed.round,
        step: record.signed.step,
        seen_at: Some(convert::to_wire_time(record.seen_at)),
        stated_at,
        stated_by,
        reason,
        places: record.places.iter().map(convert::to_wire_source).collect(),
    }
}
