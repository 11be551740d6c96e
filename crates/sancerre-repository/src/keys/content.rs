//! The keys of sessions, which open the content of backups: sealed in log entries, and again in packs.

use sancerre_advice::Setting::Identity;
use sancerre_format::FormatError;
use sancerre_format::key::IdentitySecret;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::record::Record;
use sancerre_format::seal::{RootKey, SessionKey};

use super::{Keys, sealed};
use crate::error::{Error, Result};

impl Keys {
    /// The root that opens a session's content; `entry` is its log entry.
    ///
    /// Errors: [`Error::WrongKey`] without an identity; [`Error::Object`] when the sealed key is not the committed one.
    pub fn content_root(&self, entry: &Record<Entry>, key_of_entry: &str) -> Result<RootKey> {
        let Kind::Backup(intent) = &entry.fields.kind else {
            return Err(Error::Lost { what: format!("the session key of {key_of_entry}") });
        };
        if self.identities.is_empty() {
            return Err(self.opens_no_content());
        }
        let sealed_key = entry.sealed().map_err(Error::object(key_of_entry))?;
        let secret = sealed::open_by_epoch(sealed_key, intent.epoch, &self.identities, key_of_entry)?;
        let key = session_key(&secret).map_err(Error::object(key_of_entry))?;
        if key.commitment() != intent.commitment {
            let forged = session_key_forged("it is not the key that the session committed to");
            return Err(Error::object(key_of_entry)(forged));
        }
        Ok(key.root())
    }

    /// The same of a sealed session key that a pack holds, for a session whose log entry is lost: no commitment is known,
    /// so whoever uses it must see that it opens what it should.
    ///
    /// Errors: as [`Keys::content_root`].
    pub fn content_root_of(&self, sealed_key: &[u8], key_of_pack: &str) -> Result<RootKey> {
        if self.identities.is_empty() {
            return Err(self.opens_no_content());
        }
        let open = |identity: &IdentitySecret| {
            sealed::open_by_epoch(sealed_key, identity.epoch, &self.identities, key_of_pack).ok()
        };
        let secret = self.identities.iter().find_map(open);
        let forged = || Error::object(key_of_pack)(session_key_forged("no identity at hand opens it"));
        let secret = secret.ok_or_else(forged)?;
        Ok(session_key(&secret).map_err(Error::object(key_of_pack))?.root())
    }

    fn opens_no_content(&self) -> Error {
        let who = match self.signers.first() {
            Some(signer) => format!("the key of {} {}", signer.role, signer.by.name),
            None => "this key".to_owned(),
        };
        Error::WrongKey {
            what: format!("{who} cannot open the content of backups"),
            advice: format!("use the repository's passphrase or a restore identity ({Identity})"),
        }
    }
}

fn session_key(secret: &[u8]) -> std::result::Result<SessionKey, FormatError> {
    secret.try_into().map(SessionKey).map_err(|_| session_key_forged("it has another size"))
}

fn session_key_forged(detail: &str) -> FormatError {
    FormatError::Forged { what: "session key", detail: detail.to_owned() }
}
