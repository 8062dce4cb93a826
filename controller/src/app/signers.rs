//! Validators: how far each has signed, as far as is known here, and stating it.

use proto::Failure;
use proto::convert::text;
use repository::backup::manifest::SignedHeight;
use repository::names::SourceId;

use crate::app::{App, catalog_failure};
use crate::catalog::{SignerRecord, normal_address};

const MAX_REASON: usize = 200;
/// At a height that is stated nothing is signed any more, in no round.
const LAST: (i64, i32) = (i32::MAX as i64, 3);

impl App {
    /// All that are known.
    pub async fn signers(&self) -> Result<Vec<SignerRecord>, Failure> {
        self.catalog.signers().await.map_err(|error| catalog_failure(&error))
    }

    /// States how far one has signed; returns what was known before, too. Where one is named by its source, what was
    /// seen there without a key is stated with it.
    pub async fn set_signer(
        &self,
        which: &str,
        height: u64,
        reason: &str,
        by: &str,
    ) -> Result<Vec<(Option<SignerRecord>, SignerRecord)>, Failure> {
        let reason = text("reason", reason, MAX_REASON)?;
        if reason.trim().is_empty() {
            return Err(Failure::invalid("a stated height needs a reason")
                .hint("say where it was looked up: nobody else can tell later"));
        }
        let height =
            i64::try_from(height).map_err(|_| Failure::invalid("no chain has a height like that"))?;
        let known = self.signers().await?;
        let (round, step) = if height == 0 { (0, 0) } else { LAST };
        let now = self.now();
        let mut all: Vec<(Option<SignerRecord>, SignerRecord)> =
            find(&known, which)?.into_iter().map(|known| (Some(known.clone()), known)).collect();
        if all.is_empty() {
            all.push((None, self.new_signer(which)?));
        }
        for (_, stated) in &mut all {
            stated.signed = SignedHeight { height, round, step };
            (stated.seen_at, stated.stated) = (now, Some((now, by.to_owned(), reason.clone())));
        }
        let stated: Vec<SignerRecord> = all.iter().map(|(_, stated)| stated.clone()).collect();
        self.catalog.state_signed(&stated).await.map_err(|error| catalog_failure(&error))?;
        for (before, stated) in &all {
            let was = before.as_ref().map(|before| before.signed.height);
            tracing::warn!(signer = %stated.id, was, height, by, "somebody has stated how far a validator has signed");
        }
        Ok(all)
    }

    /// One that was seen in no backup.
    fn new_signer(&self, which: &str) -> Result<SignerRecord, Failure> {
        let address = normal_address(which);
        let source = which.parse::<SourceId>().ok();
        let id = match (&address, &source) {
            (Some(address), _) => self.depot.keys().signer_id(address),
            (None, Some(source)) => source.to_string(),
            (None, None) => {
                return Err(Failure::not_found(format!("no validator {which:?} is known")).hint(
                    "name it by its address (40 hex digits), or as COMPONENT/SOURCE; nsctl signer list",
                ));
            }
        };
        let signed = SignedHeight { height: 0, round: 0, step: 0 };
        Ok(SignerRecord {
            id,
            address,
            source,
            places: Vec::new(),
            signed,
            seen_at: self.now(),
            stated: None,
        })
    }
}

/// Who is meant: one by its id or address; by a source the one that alone was seen in it last, and what was seen there
/// without a key.
fn find(known: &[SignerRecord], which: &str) -> Result<Vec<SignerRecord>, Failure> {
    let address = normal_address(which);
    let is_it = |one: &&SignerRecord| one.id == which || (address.is_some() && one.address == address);
    let is_there = |one: &&SignerRecord| {
        one.id != which && one.source.as_ref().is_some_and(|source| source.to_string() == which)
    };
    let named = known.iter().find(is_it);
    let there: Vec<_> = known.iter().filter(is_there).collect();
    match (there.as_slice(), named) {
        ([] | [_], _) => Ok(there.into_iter().chain(named).cloned().collect()),
        (_, Some(named)) => Ok(vec![named.clone()]),
        _ => Err(Failure::invalid(format!("{} validators were seen in {which}", there.len()))
            .hint("name the one that is meant by its address or id: nsctl signer list")),
    }
}
