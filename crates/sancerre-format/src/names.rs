//! Names users choose, times, and the one place that spells object keys (FORMAT.md §1.2).

mod title;

use std::fmt;

use crate::error::{Result, corrupt, ensure};
use crate::id::{Hash, PackName, SessionId, from_hex};

pub use title::{TITLE_BYTES_MAX, Title};

/// A key, a zone or a word: 1–64 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks and wraps `text`.
    pub fn new(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let well_formed = (1..=64).contains(&text.len())
            && text.bytes().all(plain)
            && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        ensure(well_formed, "name", || {
            format!("{text:?} is not 1-64 characters of A-Z a-z 0-9 . _ - that start with a letter or digit")
        })?;
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name in lower case: the trust domain in which hosts deduplicate against each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Name);

impl Zone {
    /// Checks and wraps `text`.
    pub fn new(text: &str) -> Result<Self> {
        ensure(!text.bytes().any(|byte| byte.is_ascii_uppercase()), "zone", || {
            format!("{text:?} has capitals")
        })?;
        Name::new(text).map(Self)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a hypervisor knows a machine by, a UUID: it stays when the machine is renamed or moves to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId([u8; 16]);

impl MachineId {
    /// Parses `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, lower-case hexadecimal.
    pub fn parse(text: &str) -> Result<Self> {
        let digits: String = text.split('-').collect();
        let parsed = from_hex("machine id", &digits).ok().map(Self).filter(|id| id.to_string() == text);
        parsed.ok_or_else(|| corrupt("machine id", format!("{text:?} is not a UUID in lower case")))
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            f.write_str(if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" })?;
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A label a user gives a snapshot: 1–128 characters of `A-Z a-z 0-9 . _ : = @ + / -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// Checks and wraps `text`.
    pub fn new(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:=@+/-".contains(&byte);
        ensure((1..=128).contains(&text.len()) && text.bytes().all(plain) && text != "-", "tag", || {
            format!("{text:?} is not 1-128 characters of A-Z a-z 0-9 . _ : = @ + / -")
        })?;
        Ok(Self(text.to_owned()))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whole seconds since 1970 in UTC; a claim of whoever signed it. In text RFC 3339: `2026-11-23T21:10:28Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(jiff::Timestamp);

impl Time {
    /// Seconds since 1970; clamped to the years 0 to 9999, which RFC 3339 can write.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        const YEAR_0: i64 = -62_167_219_200;
        let latest = jiff::Timestamp::MAX.as_second();
        Self(jiff::Timestamp::from_second(seconds.clamp(YEAR_0, latest)).unwrap_or_default())
    }

    /// Seconds since 1970.
    pub fn unix_seconds(self) -> i64 {
        self.0.as_second()
    }

    /// Parses RFC 3339 in UTC with whole seconds.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text.parse().ok().map(Self).filter(|time| time.to_string() == text && text.len() == 20);
        parsed.ok_or_else(|| corrupt("time", format!("{text:?} is not like 2026-11-23T21:10:28Z")))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", self.0)
    }
}

/// The repository's constants.
pub const CONFIG: &str = "config";

/// Prefix of everything about keys.
pub const KEYS: &str = "keys/";

/// Prefix of the identities' records.
pub const IDENTITIES: &str = "keys/identities/";

/// The signed record of an identity epoch.
pub fn identity(epoch: u16) -> String {
    format!("{IDENTITIES}{epoch:04x}")
}

/// The epoch of a key made by [`identity`].
pub fn identity_epoch(key: &str) -> Option<u16> {
    epoch(key.strip_prefix(IDENTITIES)?)
}

fn epoch(digits: &str) -> Option<u16> {
    from_hex("object key", digits).ok().map(u16::from_be_bytes)
}

/// The identity, sealed to one recipient.
pub fn recipient(epoch: u16, label: &Name) -> String {
    format!("{RECIPIENTS}{epoch:04x}-{label}")
}

/// Epoch and label of a key made by [`recipient`].
pub fn recipient_parts(key: &str) -> Option<(u16, Name)> {
    let (digits, label) = key.strip_prefix(RECIPIENTS)?.split_once('-')?;
    Some((epoch(digits)?, Name::new(label).ok()?))
}

/// Prefix of the recipients' records of every epoch.
pub const RECIPIENTS: &str = "keys/recipients/";

/// Prefix of the admin's sealed signing keys.
pub const ADMINS: &str = "keys/admin/";

/// Prefix of the chain of admin keys.
pub const SUCCESSIONS: &str = "keys/admins/";

/// A record of the chain of admin keys.
pub fn succession(number: u16) -> String {
    format!("{SUCCESSIONS}{number:04x}")
}

/// The number of a key made by [`succession`].
pub fn succession_number(key: &str) -> Option<u16> {
    epoch(key.strip_prefix(SUCCESSIONS)?)
}

/// The admin's signing key, sealed.
pub fn admin(label: &Name) -> String {
    format!("{ADMINS}{label}")
}

/// Prefix of all zones' secrets.
pub const ZONES: &str = "keys/zones/";

/// The secrets of a zone's generation.
pub fn zone(zone: &Zone, generation: u16) -> String {
    format!("{ZONES}{zone}-{generation:04x}")
}

/// The generation of a key made by [`zone`], if it is one of this zone.
pub fn zone_generation(zone: &Zone, key: &str) -> Option<u16> {
    epoch(key.strip_prefix(ZONES)?.strip_prefix(zone.0.as_str())?.strip_prefix('-')?)
}

/// Zone and generation of a key made by [`zone`].
pub fn zone_parts(key: &str) -> Option<(Zone, u16)> {
    let (zone, digits) = key.strip_prefix(ZONES)?.rsplit_once('-')?;
    Some((Zone::new(zone).ok()?, epoch(digits)?))
}

/// The zone of a key made by [`zone`], whichever it is.
pub fn zone_of_key(key: &str) -> Option<Zone> {
    let (zone, _) = key.strip_prefix(ZONES)?.rsplit_once('-')?;
    Zone::new(zone).ok().filter(|zone| zone_generation(zone, key).is_some())
}

/// A certificate.
pub fn certificate(name: &Name) -> String {
    format!("keys/certificates/{name}")
}

/// Prefix of all certificates.
pub const CERTIFICATES: &str = "keys/certificates/";

/// The six folders of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Folder {
    /// Log entries.
    Log,
    /// Outcomes.
    Outcome,
    /// Packs.
    Packs,
    /// Pack lists.
    Lists,
    /// Index segments.
    Index,
    /// Checkpoints.
    Checkpoints,
}

impl Folder {
    /// All six.
    pub const ALL: [Self; 6] =
        [Self::Log, Self::Outcome, Self::Packs, Self::Lists, Self::Index, Self::Checkpoints];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Outcome => "outcome",
            Self::Packs => "packs",
            Self::Lists => "lists",
            Self::Index => "index",
            Self::Checkpoints => "checkpoints",
        }
    }
}

/// Prefix of the folders of all zones.
pub const ZONE_FOLDERS: &str = "zones/";

/// Prefix of all folders of a zone, with the slash.
pub fn zone_folder(zone: &Zone) -> String {
    format!("{ZONE_FOLDERS}{zone}/")
}

/// Prefix of a folder, with the slash.
pub fn folder(zone: &Zone, folder: Folder) -> String {
    format!("{}{}/", zone_folder(zone), folder.as_str())
}

/// Prefix of one session's pack lists or index segments, with the slash.
pub fn session_folder(zone: &Zone, in_folder: Folder, session: &SessionId) -> String {
    format!("{}{session}/", folder(zone, in_folder))
}

/// Prefix of one session's packs, with the slash.
pub fn pack_folder(zone: &Zone, session: u64) -> String {
    format!("{}{session:016x}/", folder(zone, Folder::Packs))
}

/// A log entry.
pub fn log(zone: &Zone, number: u64) -> String {
    format!("{}{number:016x}", folder(zone, Folder::Log))
}

/// A session's outcome.
pub fn outcome(zone: &Zone, session: &SessionId) -> String {
    format!("{}{session}", folder(zone, Folder::Outcome))
}

/// What all outcomes of sessions from `number` on follow in the order of keys, and those of lower ones do not.
pub fn outcomes_from(zone: &Zone, number: u64) -> String {
    format!("{}{number:016x}", folder(zone, Folder::Outcome))
}

/// What the key of a revocation's copy begins with.
pub const REVOKED: &str = "keys/revoked/";

/// The copy of a revocation.
pub fn revoked(writer: &Name) -> String {
    format!("{REVOKED}{writer}")
}

/// What the key of a copy of an entry that says how many must approve begins with.
pub const QUORUMS: &str = "keys/quorums/";

/// The copy of such an entry.
pub fn quorum(zone: &Zone, number: u64) -> String {
    format!("{QUORUMS}{zone}-{number:016x}")
}

/// Whether this is the outcome of an entry of whose bytes nothing is known: with an abort there it was given up.
pub(crate) fn is_given_up_unseen(key: &str) -> bool {
    let unseen = format!("-{}", Hash([0; 32]));
    key.starts_with(ZONE_FOLDERS) && key.contains("/outcome/") && key.ends_with(&unseen)
}

/// A pack.
pub fn pack(zone: &Zone, name: PackName, hash: &Hash) -> String {
    format!("{}{:08x}-{hash}", pack_folder(zone, name.session), name.ordinal)
}

/// A pack list.
pub fn list(zone: &Zone, session: &SessionId, sequence: u32) -> String {
    format!("{}{sequence:08x}", session_folder(zone, Folder::Lists, session))
}

/// An index segment.
pub fn index(zone: &Zone, session: &SessionId, sequence: u32) -> String {
    format!("{}{sequence:08x}", session_folder(zone, Folder::Index, session))
}

/// A checkpoint of the log below a number.
pub fn checkpoint(zone: &Zone, upto: u64) -> String {
    format!("{}{upto:016x}", folder(zone, Folder::Checkpoints))
}

/// What a key below a zone's folder names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneKey {
    /// `log/<n>`
    Log(u64),
    /// `outcome/<n>-<h>`
    Outcome(SessionId),
    /// `packs/<n>/<k>-<hash>`
    Pack(PackName, Hash),
    /// `lists/<n>-<h>/<i>`
    List(SessionId, u32),
    /// `index/<n>-<h>/<i>`
    Index(SessionId, u32),
    /// `checkpoints/<n>`
    Checkpoint(u64),
}

impl ZoneKey {
    /// Parses a key; keys of any other form belong to nobody and are errors.
    pub fn parse(zone: &Zone, key: &str) -> Result<Self> {
        let stranger = || corrupt("object key", format!("{key:?} is not a key of this format"));
        let in_zone = key.strip_prefix(ZONE_FOLDERS).and_then(|rest| rest.strip_prefix(zone.0.as_str()));
        let rest = in_zone.and_then(|rest| rest.strip_prefix('/')).ok_or_else(stranger)?;
        let (folder, name) = rest.split_once('/').ok_or_else(stranger)?;
        match folder {
            "log" => Ok(Self::Log(number(name)?)),
            "checkpoints" => Ok(Self::Checkpoint(number(name)?)),
            "outcome" => Ok(Self::Outcome(SessionId::parse(name)?)),
            "packs" => {
                let (session, pack) = name.split_once('/').ok_or_else(stranger)?;
                let (ordinal, hash) = pack.split_once('-').ok_or_else(stranger)?;
                let name = PackName { session: number(session)?, ordinal: sequence(ordinal)? };
                Ok(Self::Pack(name, Hash::from_hex(hash)?))
            }
            "lists" | "index" => {
                let (session, part) = name.split_once('/').ok_or_else(stranger)?;
                let (session, part) = (SessionId::parse(session)?, sequence(part)?);
                Ok(if folder == "lists" { Self::List(session, part) } else { Self::Index(session, part) })
            }
            _ => Err(stranger()),
        }
    }
}

fn number(text: &str) -> Result<u64> {
    from_hex("object key", text).map(u64::from_be_bytes)
}

fn sequence(text: &str) -> Result<u32> {
    from_hex("object key", text).map(u32::from_be_bytes)
}
