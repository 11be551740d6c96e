//! The repository's constants, its identity epochs and its zones (FORMAT.md §4.1–4.3).

use std::fmt;

use crate::certificate::Signer;
use crate::error::{Result, corrupt, ensure};
use crate::id::RepositoryId;
use crate::names::{Time, Zone};
use crate::record::{Fields, Trust};
use crate::sign::PublicKey;
use crate::text::{TextReader, TextWriter, number};

/// Sizes of one chunking profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileSizes {
    /// No cut before.
    pub min_bytes: u32,
    /// Where cuts become likely.
    pub target_bytes: u32,
    /// Always a cut.
    pub max_bytes: u32,
}

impl ProfileSizes {
    fn parse(text: &str) -> Result<Self> {
        let bad = || corrupt(Config::KIND, format!("{text:?} is not a profile"));
        let mut parts = text.split(' ');
        let mut next = |key: &str| -> Result<u32> {
            number(Config::KIND, parts.next().and_then(|part| part.strip_prefix(key)).ok_or_else(bad)?)
        };
        let sizes =
            Self { min_bytes: next("min=")?, target_bytes: next("target=")?, max_bytes: next("max=")? };
        ensure(
            (4096..=sizes.target_bytes).contains(&sizes.min_bytes)
                && (sizes.target_bytes..=1 << 20).contains(&sizes.max_bytes)
                && [sizes.min_bytes, sizes.target_bytes, sizes.max_bytes]
                    .iter()
                    .all(|size| size.is_power_of_two()),
            Config::KIND,
            || format!("profile {text:?} is out of bounds"),
        )?;
        Ok(sizes)
    }
}

impl fmt::Display for ProfileSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "min={} target={} max={}", self.min_bytes, self.target_bytes, self.max_bytes)
    }
}

/// Sizes that every host of a repository must share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// No chunk or frame crosses a multiple of this.
    pub region_bytes: u32,
    /// What a leaf of a map covers.
    pub leaf_bytes: u32,
    /// Most raw bytes in a frame.
    pub frame_bytes: u32,
    /// A pack is closed before it exceeds this.
    pub pack_bytes: u32,
    /// Block-aligned chunks of disks.
    pub disk: ProfileSizes,
    /// Chunks of streams and files.
    pub stream: ProfileSizes,
}

impl Default for Layout {
    /// Measured on real guests: `docs/decisions/0002-chunking.md`.
    fn default() -> Self {
        Self {
            region_bytes: 32 << 20,
            leaf_bytes: 4 << 20,
            frame_bytes: 1 << 20,
            pack_bytes: 32 << 20,
            disk: ProfileSizes { min_bytes: 16 << 10, target_bytes: 128 << 10, max_bytes: 512 << 10 },
            stream: ProfileSizes { min_bytes: 32 << 10, target_bytes: 64 << 10, max_bytes: 512 << 10 },
        }
    }
}

/// `config`: made once by `init`, signed by the admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The repository.
    pub repository: RepositoryId,
    /// When it was made.
    pub created: Time,
    /// The admin's key; its fingerprint is the trust anchor.
    pub admin: PublicKey,
    /// How many keepers besides its signer must approve a forget before it counts, until an entry of a zone's log says
    /// another number.
    pub approvals_needed: u32,
    /// Sizes.
    pub layout: Layout,
}

impl Config {
    /// What everything else in the repository is verified against.
    pub fn trust(&self) -> Trust {
        Trust::new(self.repository, self.admin)
    }
}

impl Fields for Config {
    const KIND: &'static str = "sancerre-config-v1";

    fn write(&self, text: &mut TextWriter) {
        let Layout { region_bytes, leaf_bytes, frame_bytes, pack_bytes, disk, stream } = self.layout;
        text.field("repository", self.repository).field("created", self.created).field("admin", self.admin);
        text.field("approvals-needed", self.approvals_needed);
        text.field("region-bytes", region_bytes).field("leaf-bytes", leaf_bytes);
        text.field("frame-bytes", frame_bytes).field("pack-bytes", pack_bytes);
        text.field("disk-profile", disk).field("stream-profile", stream);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let repository = text.parsed("repository", RepositoryId::from_hex)?;
        let created = text.parsed("created", Time::parse)?;
        let admin = text.parsed("admin", PublicKey::parse)?;
        let approvals_needed = crate::limits::approvals(text.number("approvals-needed")?)?;
        let mut size = |key: &str, least: u32, most: u32| -> Result<u32> {
            let value: u32 = text.number(key)?;
            let fits = value.is_power_of_two() && (least..=most).contains(&value);
            ensure(fits, Self::KIND, || format!("{key} {value} is out of bounds"))?;
            Ok(value)
        };
        let region_bytes = size("region-bytes", 1 << 20, 1 << 30)?;
        let leaf_bytes = size("leaf-bytes", 1 << 20, region_bytes.min(32 << 20))?;
        let frame_bytes = size("frame-bytes", 1 << 16, 16 << 20)?;
        let pack_bytes = size("pack-bytes", 1 << 20, 1 << 30)?;
        let disk = text.parsed("disk-profile", ProfileSizes::parse)?;
        let stream = text.parsed("stream-profile", ProfileSizes::parse)?;
        ensure(frame_bytes >= disk.max_bytes.max(stream.max_bytes), Self::KIND, || {
            "a chunk exceeds a frame".into()
        })?;
        let layout = Layout { region_bytes, leaf_bytes, frame_bytes, pack_bytes, disk, stream };
        Ok(Self { repository, created, admin, approvals_needed, layout })
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin)
    }

    fn agrees(&self, trust: &Trust) -> bool {
        self.admin == trust.admin
    }
}

/// `keys/identities/<epoch>`: to whom session keys and zone secrets are sealed. Its sealed part holds the identity of
/// the epoch before, so that the newest opens all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// Counts rotations from 1.
    pub epoch: u16,
    /// When it was made.
    pub created: Time,
    /// The age recipient, `age1…`.
    pub recipient: String,
}

impl Fields for IdentityRecord {
    const KIND: &'static str = "sancerre-identity-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.repository).field("epoch", self.epoch);
        text.field("created", self.created).field("recipient", &self.recipient);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        Ok(Self {
            repository: text.parsed("repository", RepositoryId::from_hex)?,
            epoch: text.number("epoch")?,
            created: text.parsed("created", Time::parse)?,
            recipient: text.parsed("recipient", recipient)?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin)
    }
}

pub(crate) fn recipient(text: &str) -> Result<String> {
    let fits = text.starts_with("age1") && text.len() <= 4096 && !text.contains(' ');
    ensure(fits, IdentityRecord::KIND, || format!("{text:?} is not an age recipient"))?;
    Ok(text.to_owned())
}

/// `keys/zones/<zone>-<generation>`: its sealed part holds the zone's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// Counts changes of the zone's keys from 1.
    pub generation: u16,
    /// When it was made.
    pub created: Time,
    /// Which identity opens the sealed part.
    pub epoch: u16,
}

impl Fields for ZoneRecord {
    const KIND: &'static str = "sancerre-zone-v1";

    fn write(&self, text: &mut TextWriter) {
        crate::record::write_zone(text, &self.repository, &self.zone);
        text.field("generation", self.generation).field("created", self.created).field("epoch", self.epoch);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = crate::record::read_zone(text)?;
        Ok(Self {
            repository,
            zone,
            generation: text.number("generation")?,
            created: text.parsed("created", Time::parse)?,
            epoch: text.number("epoch")?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin)
    }
}
