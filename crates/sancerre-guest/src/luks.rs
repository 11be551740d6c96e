//! LUKS: a volume whose bytes are encrypted, opened with a passphrase that somebody gave for it.
//!
//! ```text
//! header ─> key slots: passphrase ─KDF─> key of the slot ─XTS, merge─> key of the volume = digest? ─> sectors
//! ```
//!
//! All of it runs in the child: the passphrase opens nothing but what the child sees anyway.

mod header;
mod keys;

use zeroize::Zeroizing;

use crate::fault::{Fault, Result};
use crate::source::Opened;
use crate::volume::Volume;
use header::{Header, Keyslot};
pub(crate) use keys::SectorCipher;

const MAGIC: &[u8] = b"LUKS\xba\xbe";

/// An encrypted volume that was opened.
pub(crate) struct Unlocked {
    under: Volume,
    /// Where the first sector lies in it.
    offset: u64,
    size_bytes: u64,
    cipher: SectorCipher,
}

impl Opened for Unlocked {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whole sectors or not.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let sector_bytes = self.cipher.sector_bytes();
        let start = offset / sector_bytes * sector_bytes;
        let length = crate::bytes::to_u64(buffer.len());
        let end = offset.saturating_add(length).div_ceil(sector_bytes).saturating_mul(sector_bytes);
        let whole = crate::bytes::to_usize(end.min(self.size_bytes).saturating_sub(start));
        let mut bytes = self.under.bytes(self.offset.saturating_add(start), whole)?;
        self.cipher.decrypt(start, &mut bytes);
        let skip = crate::bytes::to_usize(offset.saturating_sub(start));
        let wanted = bytes.get(skip..skip.saturating_add(buffer.len()));
        buffer.copy_from_slice(wanted.ok_or(Fault::Corrupt("a place behind the end of the volume"))?);
        Ok(())
    }
}

/// Whether a volume is one.
pub(crate) fn is_one(volume: &Volume) -> bool {
    volume.bytes(0, MAGIC.len()).is_ok_and(|found| found == MAGIC)
}

/// Opens a volume with one of these passphrases; none if none of them fits.
pub(crate) fn unlock(volume: &Volume, secrets: &[Zeroizing<Vec<u8>>]) -> Result<Option<Unlocked>> {
    let header = Header::read(volume)?;
    let key = secrets.iter().find_map(|secret| {
        header.slots.iter().find_map(|slot| key_of(volume, &header, slot, secret).transpose())
    });
    let Some(key) = key.transpose()? else { return Ok(None) };
    let size = volume
        .size_bytes()
        .checked_sub(header.offset)
        .ok_or(Fault::Corrupt("LUKS: no room for its content"))?;
    let size_bytes = header.size_bytes.map_or(size, |told| told.min(size));
    let size_bytes = size_bytes / header.sector_bytes * header.sector_bytes;
    let cipher = SectorCipher::new(&key, header.sector_bytes, header.first_sector)?;
    Ok(Some(Unlocked { under: volume.clone(), offset: header.offset, size_bytes, cipher }))
}

/// Reads the header alone.
pub(crate) fn look(volume: &Volume) -> Result<()> {
    let header = Header::read(volume)?;
    header.slots.iter().try_for_each(|slot| slot.area_bytes().map(|_| ()))
}

/// The key of the volume by one slot, if the passphrase is that slot's.
fn key_of(
    volume: &Volume,
    header: &Header,
    slot: &Keyslot,
    secret: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let key = slot.kdf.derive(secret, slot.area_key_bytes)?;
    let mut area = Zeroizing::new(volume.bytes(slot.offset, slot.area_bytes()?)?);
    // Key material is encrypted by sectors of 512 bytes, whatever the volume's have.
    SectorCipher::new(&key, 512, 0)?.decrypt(0, &mut area);
    let key = keys::merge(&area, slot.key_bytes, slot.stripes, slot.hash)?;
    Ok(header.digest.fits(&key)?.then_some(key))
}
