//! A writer's or keeper's key file: signs, and reads its zone's metadata.

use std::collections::BTreeMap;

use sancerre_advice::Verb::{AddKey, Init};
use sancerre_format::certificate::Signer;
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::record::SignedBy;

use super::{Keys, SignerKey, ZoneSecrets};
use crate::error::{Error, Result};

impl Keys {
    /// From a writer's or keeper's key file. Nothing is read from the store.
    ///
    /// Errors: [`Error::WrongKey`] for a file that is damaged, or whose certificate is not for its key.
    pub fn from_key_file(bytes: &[u8]) -> Result<Self> {
        let unusable = |detail: String| Error::WrongKey {
            what: format!("the key file cannot be used: {detail}"),
            advice: format!("give a key file that {Init} or {AddKey} wrote, whole and unchanged"),
        };
        let file = KeyFile::decode(bytes).map_err(|error| unusable(error.to_string()))?;
        let signer = file.signer().map_err(|error| unusable(error.to_string()))?;
        let Signer::Certified(certificate) = signer else {
            return Err(unusable("it holds no certificate".into()));
        };
        let keys = BTreeMap::from([(file.generation, file.keys)]);
        let secrets = ZoneSecrets::of(keys, file.epoch, file.recipient);
        let signer = SignerKey {
            role: certificate.role(),
            by: SignedBy { name: certificate.name, certificate: Some(file.certificate) },
            key: file.key,
            expires: certificate.expires,
        };
        Ok(Self {
            trust: file.trust,
            zone: file.zone,
            secrets,
            generations: None,
            signers: vec![signer],
            identities: Vec::new(),
            vouched: true,
            certifier: Some(file.certifier),
            unknown_admin: None,
            left_out: BTreeMap::new(),
        })
    }

    /// Takes over what a key file holds of the zone's secrets and these keys do not: the repository's own object with them
    /// may be lost.
    pub(super) fn stand_in(&mut self, file: Option<ZoneSecrets>) {
        let Some(file) = file else { return };
        match &mut self.secrets {
            None => self.secrets = Some(file),
            Some(own) if own.keys_of(file.generation).is_some() => {}
            Some(own) if file.generation < own.generation => {
                drop(own.others.insert(file.generation, file.keys));
            }
            Some(own) => {
                *own = own.clone().with(file.generation, file.keys, own.epoch, own.recipient.clone());
            }
        }
    }
}
