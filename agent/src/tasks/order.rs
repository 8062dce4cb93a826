//! What the controller's orders say, checked.

use std::path::Path;

use proto::convert::{self, Invalid};
use proto::failure::reason;
use proto::{Failure, v1};
use repository::content::IdKey;
use repository::cut::GearKey;
use repository::ids::{BlobId, DomainId};
use repository::keys::DomainKeys;
use repository::names::SourceId;
use tonic::Code;

use crate::connection::Agent;
use crate::served::Served;
use crate::state::RepositoryPin;
use crate::targets::files::{Allowance, Privilege, Signed, resolved};

/// The keys of a domain from the wire.
pub(super) fn domain_keys(wire: Option<&v1::DomainKeys>) -> Result<DomainKeys, Invalid> {
    let wire = convert::required("domain", wire)?;
    Ok(DomainKeys {
        domain: convert::id::<DomainId>("domain_id", &wire.domain_id)?,
        id_key: IdKey::new(convert::array("id_key", &wire.id_key)?),
        gear_key: GearKey::new(convert::array("gear_key", &wire.gear_key)?),
    })
}

/// The served source that is meant.
pub(super) fn served<'a>(agent: &'a Agent, source: &SourceId) -> Result<&'a Served, Failure> {
    agent.served.iter().find(|served| served.id == *source).ok_or_else(|| {
        Failure::new(Code::NotFound, reason::NOT_FOUND, format!("this agent does not serve {source}"))
            .because("its configuration has changed since the job was planned, or another agent was meant")
            .hint("check `sources` in the agent's configuration, then run the job again")
    })
}

/// A restore elsewhere must not end up in what is backed up, around it, or in our own state.
pub(super) fn check_folder(agent: &Agent, folder: &Path) -> Result<(), Failure> {
    let real = resolved(folder).map_err(|error| {
        Failure::invalid(format!("cannot restore to {}", folder.display())).caused_by(&error)
    })?;
    let folders = agent.served.iter().filter_map(Served::folder).chain([agent.config.state.as_path()]);
    // Neither as it was written nor where its links lead.
    let within = |folder: &Path, taken: &Path| folder.starts_with(taken) || taken.starts_with(folder);
    let taken = folders.into_iter().find(|taken| {
        let real_taken = taken.canonicalize();
        within(folder, taken) || real_taken.is_ok_and(|real_taken| within(&real, &real_taken))
    });
    match taken {
        None if folder.parent().is_some() => Ok(()),
        taken => {
            let taken = taken.unwrap_or(Path::new("/")).display();
            Err(Failure::invalid(format!("cannot restore to {}", folder.display()))
                .because(format!("{taken} is in use: it is backed up, or it is the agent's own folder"))
                .hint("choose a folder outside of it"))
        }
    }
}

/// The order must be for the repository that this agent joined.
pub(super) fn check_pin(pin: &RepositoryPin, key: Option<&v1::RepositoryKey>) -> Result<(), Failure> {
    let key = convert::required("repository_key", key)?;
    let same = key.epoch == pin.key.epoch && key.public_key[..] == pin.key.key;
    if same {
        Ok(())
    } else {
        Err(Failure::invalid("the order is for another repository key than the pinned one"))
    }
}

/// What the confirmed plan allows. A privilege that is not known here is not granted.
pub(super) fn allowance(wire: Option<&v1::Allowance>) -> Result<Allowance, Invalid> {
    let v1::Allowance { entries, bytes, grants } = convert::required("allowance", wire)?;
    let grant = |grant: &v1::Grant| Some((privilege(grant.privilege())?, grant.count));
    let privileges = grants.iter().filter_map(grant).collect();
    Ok(Allowance { entries: *entries, bytes: *bytes, privileges, ..Allowance::default() })
}

fn privilege(wire: v1::Privilege) -> Option<Privilege> {
    match wire {
        v1::Privilege::Unspecified => None,
        v1::Privilege::Setuid => Some(Privilege::SetUid),
        v1::Privilege::Setgid => Some(Privilege::SetGid),
        v1::Privilege::Device => Some(Privilege::Device),
        v1::Privilege::Capability => Some(Privilege::Capability),
        v1::Privilege::Attribute => Some(Privilege::Attribute),
    }
}

/// A privilege for the wire.
pub(super) fn to_wire_privilege(privilege: Privilege) -> v1::Privilege {
    match privilege {
        Privilege::SetUid => v1::Privilege::Setuid,
        Privilege::SetGid => v1::Privilege::Setgid,
        Privilege::Device => v1::Privilege::Device,
        Privilege::Capability => v1::Privilege::Capability,
        Privilege::Attribute => v1::Privilege::Attribute,
    }
}

/// What a restore is asked for.
pub(super) struct RestoreOrder {
    pub(super) source: SourceId,
    pub(super) into: Into,
    pub(super) globs: Vec<String>,
    /// Of the databases of a server.
    pub(super) include: Vec<String>,
    pub(super) renames: Vec<(String, String)>,
    pub(super) drops_others: bool,
    /// Of the objects of a cluster.
    pub(super) to_namespace: Option<String>,
    pub(super) force_conflicts: bool,
    /// Of the folder of a validator.
    pub(super) signer_height: Option<u64>,
    /// The highest that any backup has seen.
    pub(super) signer_seen: Option<Signed>,
    /// The same of all that were ever seen in the source.
    pub(super) signer_seen_here: Option<Signed>,
    /// The keys of a chain's node stay out of a copy.
    pub(super) leaves_keys: bool,
    pub(super) restore_id: String,
    pub(super) keeps_older: bool,
    /// The controller stops and starts what uses the place.
    pub(super) users_elsewhere: bool,
    pub(super) root: BlobId,
    pub(super) keys: DomainKeys,
}

fn signed(wire: Option<&v1::SignedHeight>) -> Option<Signed> {
    convert::signed(wire).map(|(height, round, step)| Signed::new(height, round, step))
}

/// Where a restore goes.
pub(super) enum Into {
    Served(SourceId),
    Folder(std::path::PathBuf),
}

/// Names files and folders of the agent: letters, digits and `-` alone.
fn restore_id(wire: &str) -> Result<String, Invalid> {
    let id = convert::text("restore_id", wire, 64)?;
    match !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        true => Ok(id),
        false => Err(Invalid::new("restore_id", "must be letters, digits and `-`")),
    }
}

/// Stands in a path of the API.
fn namespace(wire: &str) -> Result<Option<String>, Invalid> {
    let name = convert::text("to_namespace", wire, 63)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match name.bytes().all(|byte| plain(byte) || byte == b'-') && !name.starts_with('-') {
        true => Ok((!name.is_empty()).then_some(name)),
        false => Err(Invalid::new("to_namespace", "must be a-z, 0-9 and `-`")),
    }
}

impl RestoreOrder {
    pub(super) fn check(wire: Option<&v1::RestoreOrder>) -> Result<Self, Invalid> {
        let wire = convert::required("order", wire)?;
        let into = match (&wire.into, wire.folder.as_str()) {
            (Some(_), "") => Into::Served(convert::source_id("into", wire.into.as_ref())?),
            (None, folder) if folder.starts_with('/') => {
                Into::Folder(convert::text("folder", folder, 4_096)?.into())
            }
            _ => return Err(Invalid::new("folder", "must be an absolute path, or `into` be set instead")),
        };
        let v1::Selection {
            globs,
            include,
            renames,
            drop_others,
            to_namespace,
            force_conflicts,
            signer_height,
            with_keys: _,
        } = wire.selection.clone().unwrap_or_default();
        let texts = |field, texts: &[String]| {
            texts.iter().map(|one| convert::text(field, one, 4_096)).collect::<Result<Vec<_>, _>>()
        };
        let rename = |one: &v1::Rename| {
            Ok::<_, Invalid>((convert::text("from", &one.from, 4_096)?, convert::text("to", &one.to, 4_096)?))
        };
        Ok(Self {
            source: convert::source_id("source", wire.source.as_ref())?,
            into,
            globs: texts("globs", &globs)?,
            include: texts("include", &include)?,
            renames: renames.iter().map(rename).collect::<Result<_, _>>()?,
            drops_others: drop_others,
            to_namespace: namespace(&to_namespace)?,
            force_conflicts,
            signer_height,
            signer_seen: signed(wire.signed.as_ref()),
            signer_seen_here: signed(wire.signed_here.as_ref()),
            leaves_keys: wire.leaves_keys,
            restore_id: restore_id(&wire.restore_id)?,
            keeps_older: wire.keeps_older,
            users_elsewhere: wire.users_elsewhere,
            root: convert::id("root", &wire.root)?,
            keys: domain_keys(wire.domain.as_ref())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_leads_to_no_other_path_of_the_api() {
        assert_eq!(namespace("shop-2"), Ok(Some("shop-2".to_owned())));
        assert_eq!(namespace(""), Ok(None));
        for wrong in ["a/b", "..", "a?b", "-a", "A"] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_id_of_a_restore_leads_to_no_other_folder() {
        assert_eq!(restore_id("ab12-0").expect("an id"), "ab12-0");
        for wrong in ["", "../identity", "a/b", "a.b", "a\0b"] {
            assert!(restore_id(wrong).is_err(), "{wrong:?}");
        }
    }
}
