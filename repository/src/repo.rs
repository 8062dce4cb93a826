//! A repository: made by [`Repository::init`], opened by [`Repository::open`], unlocked with a secret.
//!
//! Opening needs no secret: listing, taking in segments and `hashed` verification work without one. Must
//! stay true: `config.json` is written last at `init`, so a repository exists whole or not at all; its copy
//! comes after it, and is read only where it is damaged or gone; and an `init` never touches what it finds.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backup::chain::ChainEnd;
use crate::backup::manifest::{FORMAT, RepositoryConfig};
use crate::error::RepositoryError;
use crate::ids::{DomainId, RepositoryId};
use crate::ingest::DomainState;
use crate::keys::{KeyRing, RecoveryKey, RootKey, SealedKeyRing, Slot, SlotKind, SlotSecret};
use crate::layout;
use crate::pack::seal::SealingPublicKey;
use crate::parity::Strength;
use crate::prune::KnownNotes;
use crate::rescue;
use crate::signed::{MAX_JSON, verify_introduction};
use crate::store::{ObjectPath, Store, StoreError};
use crate::work::Register;

/// What a repository asks of its reader, in every version of the format.
#[derive(serde::Deserialize)]
struct Asked {
    format: u32,
    #[serde(default)]
    required_features: Vec<String>,
}

/// Each file that says its format is believed only if that is the one known here.
pub(crate) fn refuse_unknown_format(format: u32) -> Result<(), RepositoryError> {
    match format {
        FORMAT => Ok(()),
        _ => Err(RepositoryError::TooNew { feature: format!("format version {format}") }),
    }
}

/// An open repository. Cheap to share; all of its methods block.
pub struct Repository {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: RepositoryConfig,
    /// The file that said so.
    pub(crate) config_file: Vec<u8>,
    pub(crate) domains: Mutex<HashMap<DomainId, Arc<Mutex<DomainState>>>>,
    /// What new packs get for the day on which they rot.
    pub(crate) parity: Option<Strength>,
    /// Held by a commit from resolving its blobs to the rename, and by prune while it takes blobs away.
    pub(crate) commits: Mutex<()>,
    /// Where the chain ends, once the one writer has read it. Held by a commit, and by whoever wants a name.
    pub(crate) chain_end: Mutex<Option<ChainEnd>>,
    /// Held by the one run that retires or prunes.
    pub(crate) maintenance: Mutex<()>,
    /// Notes about retired backups that were read before.
    pub(crate) retired_notes: Mutex<KnownNotes>,
    /// Who is at work in this process.
    pub(crate) register: Arc<Register>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({} in {})", self.config.id, self.store.location())
    }
}

/// A fresh repository.
pub struct Initialised {
    /// It.
    pub repository: Repository,
    /// Its keys, already unlocked.
    pub keys: KeyRing,
    /// To be shown to its owner once.
    pub recovery_key: RecoveryKey,
}

impl Repository {
    /// Makes a repository with two slots: one for `first`, one for a fresh recovery key. Other things in
    /// the root are left alone.
    pub fn init(
        store: Arc<dyn Store>,
        first: &SlotSecret,
        now: Timestamp,
    ) -> Result<Initialised, RepositoryError> {
        refuse_if_there(&*store)?;
        let (keys, root, id) = (KeyRing::generate(), RootKey::random(), RepositoryId::random());
        let recovery_key = RecoveryKey::generate();
        // Keys of an `init` that did not get to its end open nothing: there is no config.json.
        store.delete_folder(&layout::slots().parent().expect("the slots lie in the key folder"))?;
        for secret in [first, &SlotSecret::Recovery(recovery_key.clone())] {
            write_slot(&*store, &Slot::wrap(&root, secret, id, now))?;
        }
        let sealed = json(&SealedKeyRing::seal(&keys, &root, id));
        store.create(&layout::keyring(1), &sealed)?;
        store.create(&layout::keyring(2), &sealed)?;
        rescue::provide(&*store, None)?;
        let config = RepositoryConfig {
            format: FORMAT,
            required_features: Vec::new(),
            id,
            created_at: now,
            signing_key: keys.signing().public(),
            sealing_keys: keys.sealing_public(),
        };
        let file = keys.signing().sign(&config).bytes().to_vec();
        store.create(&layout::config(), &file)?;
        let repository = Self::with(store, config, file);
        if let Err(error) = repository.keep_config_twice() {
            // There is a repository now, and whoever made it must be shown its recovery key.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "config.json has no copy yet; the next start writes it");
        }
        Ok(Initialised { repository, keys, recovery_key })
    }

    /// Opens a repository.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, RepositoryError> {
        let of_first = match Self::read_config(&*store, &layout::config()) {
            Ok((config, file)) => return Ok(Self::with(store, config, file)),
            Err(error @ RepositoryError::TooNew { .. }) => return Err(error),
            Err(error) => error,
        };
        match Self::read_config(&*store, &layout::config_copy()) {
            Ok((config, file)) => {
                tracing::warn!(error = %of_first, "config.json is damaged or gone; its copy is used");
                Ok(Self::with(store, config, file))
            }
            Err(error @ RepositoryError::TooNew { .. }) => Err(error),
            Err(of_copy) if is_not_found(&of_first) && is_not_found(&of_copy) => {
                refuse_if_there(&*store)?;
                Err(RepositoryError::NotARepository { location: store.location() })
            }
            Err(of_copy) if is_not_found(&of_first) => Err(of_copy),
            Err(_) => Err(of_first),
        }
    }

    fn read_config(
        store: &dyn Store,
        path: &ObjectPath,
    ) -> Result<(RepositoryConfig, Vec<u8>), RepositoryError> {
        let file = store.read(path, MAX_JSON)?;
        let wrong = |source| RepositoryError::Signature { path: path.clone(), source };
        // First what every version says: the rest of a newer file may be unlike all that is known here.
        let (asked, _): (Asked, _) = verify_introduction(&file).map_err(wrong)?;
        refuse_unknown_format(asked.format)?;
        if let Some(feature) = asked.required_features.first() {
            return Err(RepositoryError::TooNew { feature: format!("the feature {feature:?}") });
        }
        let (config, signer): (RepositoryConfig, _) = verify_introduction(&file).map_err(wrong)?;
        if signer != config.signing_key {
            return Err(wrong(crate::signed::SignedError::Stranger));
        }
        Ok((config, file))
    }

    /// Writes `config.json` and its copy where they are damaged or gone. Only for the one writer.
    pub fn keep_config_twice(&self) -> Result<(), RepositoryError> {
        for path in [layout::config(), layout::config_copy()] {
            match self.store.read(&path, MAX_JSON) {
                Ok(file) if file == self.config_file => {}
                Err(error) if error.is_not_found() => match self.store.create(&path, &self.config_file) {
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                    Err(error) => return Err(error.into()),
                },
                _ => {
                    tracing::warn!(%path, "it is damaged; it is written anew from its other copy");
                    self.store.replace(&path, &self.config_file)?;
                }
            }
        }
        Ok(())
    }

    fn with(store: Arc<dyn Store>, config: RepositoryConfig, config_file: Vec<u8>) -> Self {
        Self {
            store,
            config,
            config_file,
            domains: Mutex::default(),
            parity: None,
            commits: Mutex::new(()),
            chain_end: Mutex::new(None),
            maintenance: Mutex::new(()),
            retired_notes: Mutex::default(),
            register: Arc::default(),
        }
    }

    /// What `config.json` says.
    pub fn config(&self) -> &RepositoryConfig {
        &self.config
    }

    /// Where it lies.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The key that new segments are sealed to.
    pub fn sealing_key(&self) -> SealingPublicKey {
        *self.config.sealing_keys.last().expect("a repository has a sealing key from its first moment")
    }

    /// Its slots, oldest first. A slot whose two copies are damaged is left out.
    pub fn slots(&self) -> Result<Vec<Slot>, RepositoryError> {
        let mut slots: Vec<Slot> = Vec::new();
        for id in self.slot_ids()? {
            slots.extend(self.slot_copies(&id).into_iter().next());
        }
        slots.sort_by(|a, b| (a.created_at, &a.slot).cmp(&(b.created_at, &b.slot)));
        Ok(slots)
    }

    /// The ids of the slots, in whichever copy they are there.
    pub(crate) fn slot_ids(&self) -> Result<BTreeSet<String>, RepositoryError> {
        let listed = self.store.list(Some(&layout::slots()))?;
        let id = |name: &str| {
            let id = name.strip_suffix(".1.json").or_else(|| name.strip_suffix(".2.json"))?;
            crate::ids::unhex(id).map(|_| id.to_owned())
        };
        Ok(listed.iter().filter_map(|listed| id(&listed.name)).collect())
    }

    /// The copies of a slot that can be understood; one where they are equal.
    fn slot_copies(&self, id: &str) -> Vec<Slot> {
        let copy = |number| self.read_json(&layout::slot(id, number)).ok();
        let mut copies: Vec<Slot> = [1, 2].into_iter().filter_map(copy).collect();
        copies.dedup();
        copies
    }

    /// Opens the keyring.
    pub fn unlock(&self, secret: &SlotSecret) -> Result<KeyRing, RepositoryError> {
        let (root, _) = self.open_slot(secret)?;
        self.open_keyring(&root)
    }

    /// Adds a slot for `new`, given a secret that opens one already.
    pub fn add_slot(
        &self,
        old: &SlotSecret,
        new: &SlotSecret,
        now: Timestamp,
    ) -> Result<Slot, RepositoryError> {
        let (root, _) = self.open_slot(old)?;
        let slot = Slot::wrap(&root, new, self.config.id, now);
        write_slot(&*self.store, &slot)?;
        Ok(slot)
    }

    /// Adds a slot for a fresh recovery key, to be shown to its owner once.
    pub fn add_recovery(
        &self,
        old: &SlotSecret,
        now: Timestamp,
    ) -> Result<(Slot, RecoveryKey), RepositoryError> {
        let key = RecoveryKey::generate();
        let slot = self.add_slot(old, &SlotSecret::Recovery(key.clone()), now)?;
        Ok((slot, key))
    }

    /// Records that the owner of a recovery key has shown to have it.
    pub fn confirm_recovery(&self, key: &RecoveryKey, now: Timestamp) -> Result<Slot, RepositoryError> {
        let (_, slot) = self.open_slot(&SlotSecret::Recovery(key.clone()))?;
        match self.store.create(&layout::confirmed(&slot.slot), &json(&Confirmed { at: now })) {
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(slot),
            Err(error) => Err(error.into()),
        }
    }

    /// True once the owner of any recovery key has shown to have it.
    pub fn is_recovery_confirmed(&self) -> Result<bool, RepositoryError> {
        for slot in self.slots()?.iter().filter(|slot| slot.kind == SlotKind::Recovery) {
            match self.store.size(&layout::confirmed(&slot.slot)) {
                Ok(_) => return Ok(true),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// The root key and the slot that the secret opens; of each slot both copies are tried.
    pub(crate) fn open_slot(&self, secret: &SlotSecret) -> Result<(RootKey, Slot), RepositoryError> {
        let opened = |slot: Slot| slot.unwrap(secret, self.config.id).map(|root| (root, slot));
        let ids = self.slot_ids()?;
        let mut copies = ids.iter().flat_map(|id| self.slot_copies(id));
        copies.find_map(opened).ok_or(RepositoryError::WrongKey { kind: secret.kind() })
    }

    fn open_keyring(&self, root: &RootKey) -> Result<KeyRing, RepositoryError> {
        for path in [layout::keyring(1), layout::keyring(2)] {
            let sealed: Option<SealedKeyRing> = self.read_json(&path).ok();
            if let Some(keys) = sealed.and_then(|sealed| sealed.open(root, self.config.id))
                && keys.signing().public() == self.config.signing_key
            {
                return Ok(keys);
            }
        }
        Err(RepositoryError::KeysDamaged { path: layout::keyring(1) })
    }

    fn read_json<T: DeserializeOwned>(&self, path: &ObjectPath) -> Result<T, RepositoryError> {
        let bytes = self.store.read(path, MAX_JSON)?;
        serde_json::from_slice(&bytes).map_err(|_| RepositoryError::Damaged {
            path: path.clone(),
            source: crate::codec::Malformed::new("JSON file", "it cannot be understood"),
        })
    }
}

#[derive(Serialize)]
struct Confirmed {
    at: Timestamp,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("our own types have a JSON form")
}

fn write_slot(store: &dyn Store, slot: &Slot) -> Result<(), RepositoryError> {
    let bytes = json(slot);
    store.create(&layout::slot(&slot.slot, 1), &bytes)?;
    Ok(store.create(&layout::slot(&slot.slot, 2), &bytes)?)
}

fn is_not_found(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Store(error) if error.is_not_found())
}

fn refuse_if_there(store: &dyn Store) -> Result<(), RepositoryError> {
    for path in [layout::config(), layout::config_copy()] {
        match store.size(&path) {
            Ok(_) => return Err(RepositoryError::AlreadyThere { location: store.location() }),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    for folder in [layout::packs(), layout::indexes(), layout::chain()] {
        if !store.list(Some(&folder))?.is_empty() {
            return Err(RepositoryError::Headless { location: store.location() });
        }
    }
    Ok(())
}
