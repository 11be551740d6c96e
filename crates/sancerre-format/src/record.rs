//! Records: a signed text with a public and a sealed part (FORMAT.md §2). One shape for all that is signed.

mod cut;

use crate::bytes::to_u64;
use crate::certificate::{Certificate, Role, Signer};
use crate::error::{FormatError, Result, corrupt, ensure, forged};
use crate::id::{Hash, RepositoryId};
use crate::names::{Name, Zone};
use crate::seal::decompress;
use crate::sign::{ARMOR_BEGIN, ARMOR_END, PublicKey, SigningKey};
use crate::text::{TextReader, TextWriter, number};

pub use crate::trust::Trust;

pub use cut::{Cut, cut, decode_cut};

/// The fields of one kind of record, between `tool:` and `public:`.
pub trait Fields: Sized {
    /// First line of the text and namespace of the signature.
    const KIND: &'static str;

    /// Writes the fields in their order.
    fn write(&self, text: &mut TextWriter);

    /// Reads the fields in their order.
    fn read(text: &mut TextReader<'_>) -> Result<Self>;

    /// Whether `signer` may sign this.
    fn allows(&self, signer: &Signer) -> bool;

    /// Whether the fields say the same as the trust anchor, beyond the repository, which every record names.
    fn agrees(&self, _trust: &Trust) -> bool {
        true
    }
}

/// A record whose signature, signer and role were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<F> {
    /// The fields.
    pub fields: F,
    /// Program and version that wrote it.
    pub tool: String,
    /// Who signed.
    pub signer: Signer,
    /// BLAKE3 of the whole object.
    pub hash: Hash,
    public: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
}

impl<F: Fields> Record<F> {
    /// What another record of the same signer says in place of one that is lost. Of its parts only `public` is known, if
    /// that is.
    pub fn implied<G: Fields>(fields: F, from: &Record<G>, hash: Hash, public: Option<Vec<u8>>) -> Self {
        let (tool, signer) = (from.tool.clone(), from.signer.clone());
        Self { fields, tool, signer, hash, public, sealed: None }
    }

    /// The public part.
    ///
    /// Errors: it was cut off; see [`Cut`].
    pub fn public(&self) -> Result<&[u8]> {
        self.public.as_deref().ok_or_else(|| corrupt(F::KIND, "its public part was not read"))
    }

    /// The sealed part, still sealed.
    ///
    /// Errors: it was cut off.
    pub fn sealed(&self) -> Result<&[u8]> {
        self.sealed.as_deref().ok_or_else(|| corrupt(F::KIND, "its sealed part was not read"))
    }

    /// The fields and the sealed part.
    ///
    /// Errors: as [`Record::sealed`].
    pub fn into_sealed(self) -> Result<(F, Vec<u8>)> {
        let sealed = self.sealed.ok_or_else(|| corrupt(F::KIND, "its sealed part was not read"))?;
        Ok((self.fields, sealed))
    }

    /// Whether both parts are at hand.
    pub fn is_whole(&self) -> bool {
        self.public.is_some() && self.sealed.is_some()
    }
}

/// A record cut into its pieces, nothing verified yet.
#[derive(Debug, Clone, Copy)]
pub struct Unverified<'a> {
    kind: &'static str,
    text: &'a [u8],
    armor: &'a str,
    parts: &'a [u8],
    hash: Option<Hash>,
}

/// Text of a record, without its signature and parts.
fn text<F: Fields>(fields: &F, tool: &str, extensions: &[String], parts: [(u64, Hash); 2]) -> String {
    let mut text = TextWriter::new(F::KIND);
    text.no_features().field("tool", tool);
    fields.write(&mut text);
    text.extensions(extensions);
    for (key, (size, hash)) in ["public", "sealed"].into_iter().zip(parts) {
        text.field(key, format_args!("{size} {hash}"));
    }
    text.finish()
}

/// Encodes and signs a record.
pub fn encode<F: Fields>(
    fields: &F,
    tool: &str,
    key: &SigningKey,
    public: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>> {
    let part = |bytes: &[u8]| (to_u64(bytes.len()), Hash::of(bytes));
    let text = text(fields, tool, &[], [part(public), part(sealed)]);
    // What cannot be read back must not be published, and no field may bring lines of its own.
    let parsed = read_text::<F>(text.as_bytes())?;
    ensure(parsed.extensions.is_empty(), F::KIND, || "a value holds a line feed".into())?;
    let armor = key.sign(F::KIND, text.as_bytes())?;
    Ok([text.as_bytes(), armor.as_bytes(), public, sealed].concat())
}

struct Parsed<F> {
    fields: F,
    tool: String,
    extensions: Vec<String>,
    parts: [(u64, Hash); 2],
}

fn read_text<F: Fields>(bytes: &[u8]) -> Result<Parsed<F>> {
    let mut reader = TextReader::new(F::KIND, bytes)?;
    reader.no_features()?;
    let tool = reader.value("tool")?.to_owned();
    let fields = F::read(&mut reader)?;
    let extensions = reader.extensions()?;
    let parts = [reader.parsed("public", part::<F>)?, reader.parsed("sealed", part::<F>)?];
    reader.finish()?;
    ensure(text(&fields, &tool, &extensions, parts).as_bytes() == bytes, F::KIND, || {
        "its text is not in the one canonical spelling".into()
    })?;
    Ok(Parsed { fields, tool, extensions, parts })
}

fn part<F: Fields>(value: &str) -> Result<(u64, Hash)> {
    let (size, hash) = value.split_once(' ').ok_or_else(|| corrupt(F::KIND, "a part has no hash"))?;
    Ok((number(F::KIND, size)?, Hash::from_hex(hash)?))
}

impl<'a> Unverified<'a> {
    /// Cuts `bytes` at the signature.
    pub fn split(kind: &'static str, bytes: &'a [u8]) -> Result<Self> {
        let mut piece = Self::split_head(kind, bytes)?;
        piece.hash = Some(Hash::of(bytes));
        Ok(piece)
    }

    /// Cuts `bytes`, of which the parts may be missing: for reading the text alone.
    pub fn split_head(kind: &'static str, bytes: &'a [u8]) -> Result<Self> {
        let begin = find(bytes, ARMOR_BEGIN).ok_or_else(|| corrupt(kind, "it carries no signature"))?;
        let (text, rest) = bytes.split_at_checked(begin).unwrap_or_default();
        let length = find(rest, ARMOR_END).map(|end| end.saturating_add(ARMOR_END.len()));
        let cut = length.and_then(|length| rest.split_at_checked(length));
        let (armor, parts) = cut.ok_or_else(|| corrupt(kind, "its signature has no end"))?;
        let armor = std::str::from_utf8(armor).map_err(|_| corrupt(kind, "its signature is not text"))?;
        Ok(Self { kind, text, armor, parts, hash: None })
    }

    /// Size of text and signature: where the parts start.
    pub fn head_bytes(&self) -> usize {
        self.text.len().saturating_add(self.armor.len())
    }

    /// Text and signature without the parts: how a certificate travels inside other records.
    pub fn head(&self) -> Vec<u8> {
        [self.text, self.armor.as_bytes()].concat()
    }

    fn verified_text<F: Fields>(&self, trust: &Trust, in_force: usize) -> Result<(Parsed<F>, Signer)> {
        let parsed = match read_text::<F>(self.text) {
            // Only what its signer really wrote may stop a reader: else anyone who can create an object could.
            Err(newer @ FormatError::Unsupported { .. }) => {
                self.verified_signer(trust, in_force)?;
                return Err(newer);
            }
            parsed => parsed?,
        };
        let signer = self.verified_signer(trust, in_force)?;
        if !parsed.fields.agrees(trust) || !parsed.fields.allows(&signer) {
            return Err(forged(F::KIND, format!("{signer} may not sign this")));
        }
        Ok((parsed, signer))
    }

    /// Who signed the text, whatever its version and fields are: what every version of a record has in common.
    fn verified_signer(&self, trust: &Trust, in_force: usize) -> Result<Signer> {
        let repository = field(self.text, b"repository: ");
        if repository != Some(trust.repository.to_string().as_bytes()) {
            return Err(forged(self.kind, "it belongs to another repository"));
        }
        let signer = Signer::of_text(self.text, trust, in_force)?;
        let namespace = std::str::from_utf8(first_line(self.text)).unwrap_or_default();
        match &signer {
            Signer::Certified(certificate) => {
                certificate.key.verify(self.kind, namespace, self.text, self.armor)?;
            }
            Signer::Admin => {
                let signed_by = trust.verify(self.kind, namespace, self.text, self.armor)?;
                refuse_replaced(self.kind, trust, signed_by, in_force, &self.head())?;
            }
        }
        Ok(signer)
    }

    /// Which admin key an armour says that it was made with; its signature was verified.
    pub(crate) fn signed_by(&self, trust: &Trust) -> usize {
        trust.index_of(self.armor)
    }

    /// The key that signed a text which may need a newer version, and the value of the first line `key`, as far as its
    /// signature vouches for them: what all versions of a record have in common.
    pub fn claim(&self, trust: &Trust, key: &str) -> Result<(Signer, Option<String>)> {
        let signer = self.verified_signer(trust, trust.in_force(self.text))?;
        let value = field(self.text, format!("{key}: ").as_bytes());
        Ok((signer, value.map(|value| String::from_utf8_lossy(value).into_owned())))
    }

    /// Verifies the text alone; the parts may be missing and are not looked at.
    pub fn verify_head<F: Fields>(&self, trust: &Trust) -> Result<(F, Signer)> {
        self.verify_head_where(trust, trust.in_force(self.text))
    }

    /// The same where this admin key is in force.
    pub(crate) fn verify_head_where<F: Fields>(&self, trust: &Trust, in_force: usize) -> Result<(F, Signer)> {
        self.verified_text::<F>(trust, in_force).map(|(parsed, signer)| (parsed.fields, signer))
    }

    /// Verifies everything.
    pub fn verify<F: Fields>(&self, trust: &Trust) -> Result<Record<F>> {
        self.verify_cut(trust, Cut::Whole, self.hash.unwrap_or_else(|| Hash::of(&[])))
    }

    /// Verifies a record of which these parts are at hand, and whose whole bytes have this hash.
    fn verify_cut<F: Fields>(&self, trust: &Trust, cut: Cut, hash: Hash) -> Result<Record<F>> {
        let (parsed, signer) = self.verified_text::<F>(trust, trust.in_force(self.text))?;
        let nothing = (0, Hash::of(&[]));
        let [public, sealed] = match (cut, parsed.parts) {
            (Cut::Whole, parts) => parts,
            (Cut::Sealed, [_, sealed]) => [nothing, sealed],
            (Cut::Head, _) => [nothing; 2],
        };
        let total = public.0.checked_add(sealed.0);
        ensure(total == Some(to_u64(self.parts.len())), F::KIND, || {
            format!(
                "{} bytes follow the signature, announced are {} and {}",
                self.parts.len(),
                public.0,
                sealed.0
            )
        })?;
        let split = usize::try_from(public.0).ok().and_then(|size| self.parts.split_at_checked(size));
        let (public_part, sealed_part) = split.unwrap_or_default();
        for (name, part, announced) in [("public", public_part, public), ("sealed", sealed_part, sealed)] {
            if Hash::of(part) != announced.1 {
                return Err(forged(F::KIND, format!("its {name} part does not fit the signed hash")));
            }
        }
        Ok(Record {
            fields: parsed.fields,
            tool: parsed.tool,
            signer,
            public: (cut == Cut::Whole).then(|| public_part.to_vec()),
            sealed: (cut != Cut::Head).then(|| sealed_part.to_vec()),
            hash,
        })
    }
}

/// Fails for what an admin key signed that was replaced where this one is in force.
pub(crate) fn refuse_replaced(
    what: &'static str,
    trust: &Trust,
    signed_by: usize,
    in_force: usize,
    head: &[u8],
) -> Result<()> {
    match trust.counts(signed_by, in_force, || Hash::of(head)) {
        true => Ok(()),
        false => Err(forged(what, "it was signed by an admin key that was replaced")),
    }
}

/// Whether the last admin key of the chain signed the text, or keeps it: what is said of numbers that are long past.
pub fn is_of_last_admin(trust: &Trust, bytes: &[u8]) -> bool {
    Unverified::split_head("record", bytes)
        .and_then(|record| record.verified_signer(trust, trust.last()))
        .is_ok_and(|signer| signer == Signer::Admin)
}

/// Whether an admin key, or who was certified by one, signed the text, and that key was replaced since.
pub fn is_replaced(trust: &Trust, bytes: &[u8]) -> bool {
    Unverified::split_head("record", bytes).is_ok_and(|record| {
        let counts_at = |in_force| record.verified_signer(trust, in_force).is_ok();
        counts_at(0) && !counts_at(trust.in_force(record.text))
    })
}

/// BLAKE3 of text and signature of a record: what stands for it in the chain of admin keys.
pub fn head_hash(bytes: &[u8]) -> Result<Hash> {
    Ok(Hash::of(&Unverified::split_head("record", bytes)?.head()))
}

/// Whether somebody with a key of this repository signed the text, whatever it says and whatever follows it.
pub fn is_signed(trust: &Trust, bytes: &[u8]) -> bool {
    Unverified::split_head("record", bytes).is_ok_and(|record| record.verified_signer(trust, 0).is_ok())
}

/// Verifies and decodes a whole record.
pub fn decode<F: Fields>(trust: &Trust, bytes: &[u8]) -> Result<Record<F>> {
    Unverified::split(F::KIND, bytes)?.verify(trust)
}

/// What `config` says of itself, verified against nothing: for a first look without a trust anchor.
pub fn claimed_trust(config: &[u8]) -> Result<Trust> {
    let unverified = Unverified::split_head(crate::config::Config::KIND, config)?;
    match read_text::<crate::config::Config>(unverified.text) {
        Err(newer @ FormatError::Unsupported { .. }) => {
            // Only the key that it names may say so.
            unverified.verified_signer(&newer_trust(unverified.text)?, 0)?;
            Err(newer)
        }
        config => Ok(config?.fields.trust()),
    }
}

/// What a `config` of a later version says of itself.
fn newer_trust(text: &[u8]) -> Result<Trust> {
    let claim = |key| {
        let value = field(text, key).and_then(|value| std::str::from_utf8(value).ok());
        value.ok_or_else(|| corrupt(crate::config::Config::KIND, "it names no admin"))
    };
    let repository = RepositoryId::from_hex(claim(b"repository: ")?)?;
    Ok(Trust::new(repository, PublicKey::parse(claim(b"admin: ")?)?))
}

/// The value of the first line that starts with `key`, before anything is verified.
pub(crate) fn field<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(key))
}

/// The first line of a record: tells the kind before anything is verified.
pub fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// Where `line` stands as a line of its own: a value that ends like it is not it.
fn find(bytes: &[u8], line: &str) -> Option<usize> {
    let needle = line.as_bytes();
    let starts_line = |at: &usize| {
        at.checked_sub(1).is_none_or(|before| bytes.get(before) == Some(&b'\n'))
            && bytes.get(*at..).is_some_and(|rest| rest.starts_with(needle))
    };
    let after_feeds =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at.saturating_add(1));
    std::iter::once(0).chain(after_feeds).find(starts_line)
}

/// Text of a public part, compressed.
///
/// Errors: more text than a reader accepts.
pub fn compress_public(text: &str) -> Result<Vec<u8>> {
    ensure(to_u64(text.len()) <= crate::limits::PUBLIC_TEXT_BYTES_MAX, "public part", || {
        format!("{} bytes of text are too many", text.len())
    })?;
    zstd::bulk::compress(text.as_bytes(), 3).map_err(|error| corrupt("public part", format!("zstd: {error}")))
}

/// The text of a public part.
pub fn decompress_public(what: &'static str, part: &[u8]) -> Result<Vec<u8>> {
    decompress_part(what, part, crate::limits::PUBLIC_TEXT_BYTES_MAX)
}

/// A compressed part of at most so many bytes.
pub(crate) fn decompress_part(what: &'static str, part: &[u8], most_bytes: u64) -> Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(part).ok().flatten();
    let size = size.filter(|size| *size <= most_bytes).and_then(|size| usize::try_from(size).ok());
    let size = size.ok_or_else(|| corrupt(what, "its public part does not announce an acceptable size"))?;
    // A few bytes can announce a gigabyte: zstd never expands more than about 2^15 times per block of 128 KiB.
    ensure(size <= part.len().saturating_mul(1 << 17), what, || "its public part announces too much".into())?;
    decompress(what, part, size)
}

/// The fields nearly every record of a zone starts with.
pub(crate) fn write_zone(text: &mut TextWriter, repository: &RepositoryId, zone: &Zone) {
    text.field("repository", repository).field("zone", zone);
}

/// Reads what [`write_zone`] wrote.
pub(crate) fn read_zone(text: &mut TextReader<'_>) -> Result<(RepositoryId, Zone)> {
    Ok((text.parsed("repository", RepositoryId::from_hex)?, text.parsed("zone", Zone::new)?))
}

/// Who signs, inside the fields: a name and, unless it is the admin, the certificate's text and signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// Name of the key, `admin` for the admin.
    pub name: Name,
    /// Base64 of the certificate's text and signature; none for the admin.
    pub certificate: Option<String>,
}

impl SignedBy {
    pub(crate) fn write(&self, text: &mut TextWriter) {
        text.field("signer", &self.name).field("certificate", crate::text::or_dash(&self.certificate));
    }

    pub(crate) fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let name = text.parsed("signer", Name::new)?;
        let certificate = text.parsed("certificate", |value| {
            crate::text::optional(value, |certificate| Ok(certificate.to_owned()))
        })?;
        Ok(Self { name, certificate })
    }
}

/// What every role check of a zone's record needs: the signer is the one named, in this zone, with one of these roles.
pub(crate) fn signer_fits(signer: &Signer, by: &SignedBy, zone: &Zone, roles: &[Role]) -> bool {
    match signer {
        Signer::Admin => {
            by.certificate.is_none() && by.name.as_str() == "admin" && roles.contains(&Role::Admin)
        }
        Signer::Certified(certificate) => {
            let Certificate { name, zone: of, .. } = certificate.as_ref();
            *name == by.name && of == zone && roles.contains(&certificate.role())
        }
    }
}
