//! What the store has and nobody believes, remembered: a flood of junk costs every host that caches one reading, and
//! after that a few objects a night.
//!
//! Junk, which no certified key signed, leaves a mark that says why. What is signed and refused all the same, such as the
//! outcome of a session that was revoked, stays in the cache as it is and is judged anew each time. Both are bound to key,
//! tag and size as listed, and to the zone's id key: whoever can write to the cache but has no key of the zone cannot
//! make a host overlook a record.

use bytes::Bytes;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{ContentId, Hash};
use sancerre_format::node::chunk_id;
use sancerre_format::{FormatError, limits};

use crate::error::Result;
use crate::repository::Repository;

/// Of the objects of one kind that were refused, so many are fetched again each time, in no certain turn.
const LOOKED_AT_AGAIN: usize = 16;
/// Most bytes of the reason in a mark.
const REASON_BYTES_MAX: usize = 300;
const SEAL_BYTES: usize = 32;
const JUNK: u8 = b'j';
const SIGNED: u8 = b's';

/// What was refused when it was fetched.
pub(super) enum Refused {
    /// Bytes that no certified key signed.
    Junk(FormatError),
    /// The bytes of a record that was not accepted.
    Signed(Bytes),
}

impl Repository {
    /// What is known of objects under these keys with these marks, but for some that are to be looked at again.
    pub(super) async fn refused(&self, asked: Vec<Option<(&str, &str)>>) -> Result<Vec<Option<Refused>>> {
        let name = |(key, mark): (&str, &str)| self.refused_name(key, mark);
        let names: Vec<Option<String>> = asked.iter().map(|asked| asked.map(name)).collect();
        let found = self.cache.get(&self.host, names.clone()).await?;
        let mut refused: Vec<Option<Refused>> = Vec::with_capacity(found.len());
        for ((asked, name), found) in asked.into_iter().zip(names).zip(found) {
            let known = asked.zip(name).zip(found);
            refused.push(known.and_then(|(((key, _), name), found)| self.open_refused(key, &name, &found)));
        }
        self.look_again(&mut refused);
        Ok(refused)
    }

    fn open_refused(&self, key: &str, name: &str, entry: &Bytes) -> Option<Refused> {
        let (seal, body) = entry.split_at_checked(SEAL_BYTES)?;
        if self.seal(name, body)?.0 != seal {
            return None;
        }
        match body.split_first()? {
            (&JUNK, reason) => {
                let detail =
                    format!("{} (found earlier, not fetched again)", String::from_utf8_lossy(reason));
                Some(Refused::Junk(FormatError::Forged { what: limits::of_key(key).0, detail }))
            }
            (&SIGNED, _) => Some(Refused::Signed(entry.slice(SEAL_BYTES.saturating_add(1)..))),
            _ => None,
        }
    }

    /// The entry for an object that was refused for this reason, `signed` if somebody with a key made it.
    pub(super) fn refused_entry(
        &self,
        key: &str,
        mark: &str,
        signed: Option<Bytes>,
        reason: &FormatError,
    ) -> Option<(String, Bytes)> {
        let name = self.refused_name(key, mark);
        let body = match signed {
            Some(bytes) => [&[SIGNED], &bytes[..]].concat(),
            None => {
                let reason: String = reason.to_string().chars().take(REASON_BYTES_MAX).collect();
                [&[JUNK], reason.as_bytes()].concat()
            }
        };
        let seal = self.seal(&name, &body)?;
        Some((name, [&seal.0[..], &body].concat().into()))
    }

    /// Why objects with these keys and marks were refused when they were fetched; nothing of those that were not, or
    /// that are to be looked at again.
    pub(crate) async fn refused_junk(&self, asked: &[(String, String)]) -> Result<Vec<Option<FormatError>>> {
        let named = asked.iter().map(|(key, mark)| Some((key.as_str(), mark.as_str()))).collect();
        let junk = |refused| match refused {
            Some(Refused::Junk(error)) => Some(error),
            _ => None,
        };
        Ok(self.refused(named).await?.into_iter().map(junk).collect())
    }

    /// Remembers that an object was refused.
    pub(crate) async fn refuse_junk(&self, key: &str, mark: &str, reason: &FormatError) -> Result<()> {
        let entry = self.refused_entry(key, mark, None, reason);
        self.cache.put(&self.host, entry.into_iter().collect()).await
    }

    /// Takes out some, so that they are fetched again: a record that a bad line or sector made junk must not stay
    /// unknown to this host. Where few are refused these are all of them, every time.
    fn look_again(&self, refused: &mut [Option<Refused>]) {
        let mut at: Vec<&mut Option<Refused>> =
            refused.iter_mut().filter(|refused| refused.is_some()).collect();
        let first = u64::from_le_bytes(self.host.random()).checked_rem(to_u64(at.len())).unwrap_or(0);
        at.rotate_left(usize::try_from(first).unwrap_or(0));
        at.into_iter().take(LOOKED_AT_AGAIN).for_each(|refused| *refused = None);
    }

    /// A newer program may accept what this one does not.
    fn refused_name(&self, key: &str, mark: &str) -> String {
        self.entry_name(key, &format!("refused by {} {mark}", self.host.tool))
    }

    /// None without keys of the zone.
    fn seal(&self, name: &str, body: &[u8]) -> Option<ContentId> {
        let id_key = &self.keys.zone_secrets().ok()?.keys.id;
        let hash = Hash::of(body);
        Some(chunk_id(id_key, &[b"refused ", name.as_bytes(), &hash.0[..]].concat()))
    }
}
