//! Reads the known forms, entry by entry: a hostile map costs no more memory than its ranges.

use std::fmt;
use std::io::{BufReader, Read};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::bounded::Bounded;
use super::builder::Builder;
use super::{ChangeMap, FORM, MapError};

/// No name of a source is longer.
const SOURCE_BYTES_MAX: usize = 64;
/// Digits of a snapshot's id: fewer would soon name several.
const BASE_DIGITS: std::ops::RangeInclusive<usize> = 4..=64;

pub(super) fn read(input: impl Read, disk_bytes: u64, most_bytes: u64) -> Result<ChangeMap, MapError> {
    let mut limited = BufReader::new(Bounded::new(input, most_bytes));
    let (builder, overlay) = (Builder::new(disk_bytes), Builder::new(disk_bytes));
    let mut reading = Reading { builder, overlay, seen: Seen::default(), problem: None };
    let mut json = serde_json::Deserializer::from_reader(&mut limited);
    let parsed = (&mut reading).deserialize(&mut json).and_then(|()| json.end());
    if let Some(problem) = reading.problem.take() {
        return Err(problem);
    }
    if let Err(error) = parsed {
        return Err(match limited.get_ref().exceeded {
            Some(limit) => MapError::TooLong(limit),
            None if error.is_io() => MapError::Io(error.into()),
            None => MapError::Form(error.to_string()),
        });
    }
    reading.finish()
}

/// An entry of a foreign array. What tools add is passed over; what is needed is asked for later.
#[derive(Debug, Deserialize)]
struct Entry {
    /// Of `qemu-img map`; its twin in `rbd diff` is `offset`, which QEMU uses for something else.
    start: Option<u64>,
    offset: Option<u64>,
    length: u64,
    depth: Option<u64>,
    present: Option<bool>,
    zero: Option<bool>,
    data: Option<bool>,
}

/// An entry of our own form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnRange {
    offset: u64,
    length: u64,
}

/// What kind of map it turned out to be.
#[derive(Debug, Default)]
struct Seen {
    /// Entries of `qemu-img map`, and where the last one ended.
    qemu: Option<u64>,
    rbd: bool,
    /// The name that a map of our own gives to its source.
    own: Option<String>,
    /// The snapshot that it names.
    base: Option<String>,
    /// A range that is neither there nor zero: only the map of a bitmap has one.
    changed_by_bitmap: bool,
    /// What the map of a bitmap never has.
    not_of_bitmap: bool,
}

struct Reading {
    builder: Builder,
    /// What changed if it is the map of an overlay: for a bitmap the other entries count.
    overlay: Builder,
    seen: Seen,
    /// A problem that is no problem of JSON.
    problem: Option<MapError>,
}

impl Reading {
    fn entry(&mut self, entry: &Entry) -> Result<(), MapError> {
        match (entry.start, entry.offset) {
            (Some(start), _) if !self.seen.rbd => self.qemu(start, entry),
            (None, Some(offset)) if self.seen.qemu.is_none() => {
                self.seen.rbd = true;
                self.builder.add(offset, entry.length)
            }
            _ => Err(MapError::Form("an entry without a start, or entries of two kinds".to_owned())),
        }
    }

    /// QEMU tells of the whole disk, range after range. A gap would count as unchanged, so there must be none.
    fn qemu(&mut self, start: u64, entry: &Entry) -> Result<(), MapError> {
        let expected = self.seen.qemu.unwrap_or(0);
        if start != expected || entry.length == 0 {
            return Err(MapError::Form(format!("a range at {start} follows one that ends at {expected}")));
        }
        let end = start
            .checked_add(entry.length)
            .ok_or_else(|| MapError::Form("a range without end".to_owned()))?;
        self.seen.qemu = Some(end);
        if end > self.builder.disk_bytes() {
            let problem = format!("it goes on to {end}");
            return Err(MapError::OtherDisk { disk_bytes: self.builder.disk_bytes(), problem });
        }
        let (Some(depth), Some(zero), Some(data)) = (entry.depth, entry.zero, entry.data) else {
            return Err(MapError::Form("an entry without depth, zero or data".to_owned()));
        };
        self.seen.not_of_bitmap |= zero || depth != 0;
        if !data && !zero && entry.present != Some(true) {
            self.seen.changed_by_bitmap = true;
            return self.builder.add(start, entry.length);
        }
        if depth == 0 { self.overlay.add(start, entry.length) } else { Ok(()) }
    }

    fn finish(self) -> Result<ChangeMap, MapError> {
        let Self { builder, overlay, seen, .. } = self;
        if let Some(source) = seen.own {
            let map = builder.finish(source);
            return Ok(match seen.base {
                Some(base) => map.since(base),
                None => map,
            });
        }
        let Some(end) = seen.qemu else {
            // An empty array is what `rbd diff` prints when nothing changed.
            return Ok(builder.finish("rbd".to_owned()));
        };
        if seen.changed_by_bitmap && seen.not_of_bitmap {
            return Err(MapError::Form(
                "neither the map of an overlay nor that of a dirty bitmap".to_owned(),
            ));
        }
        let (mut builder, source) =
            if seen.changed_by_bitmap { (builder, "qemu-bitmap") } else { (overlay, "qemu-map") };
        // What the map does not come to has changed: the disk grew.
        if let Some(grown) = builder.disk_bytes().checked_sub(end) {
            builder.add(end, grown)?;
        }
        Ok(builder.finish(source.to_owned()))
    }

    /// Keeps a problem for the caller and stops the parser.
    fn kept<E: serde::de::Error>(&mut self, result: Result<(), MapError>) -> Result<(), E> {
        result.map_err(|problem| {
            let text = problem.to_string();
            self.problem = Some(problem);
            E::custom(text)
        })
    }

    fn own<E: serde::de::Error>(&mut self, form: &str, disk_bytes: u64, source: String) -> Result<(), E> {
        if form != FORM {
            return Err(E::custom(format!("its form is \"{}\"", form.escape_debug())));
        }
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-_:./".contains(&b);
        if source.is_empty() || source.len() > SOURCE_BYTES_MAX || !source.bytes().all(is_name) {
            return Err(E::custom("its source has no name"));
        }
        let expected = self.builder.disk_bytes();
        self.seen.own = Some(source);
        let fits = if disk_bytes == expected {
            Ok(())
        } else {
            Err(MapError::OtherDisk {
                disk_bytes: expected,
                problem: format!("it is of one of {disk_bytes} bytes"),
            })
        };
        self.kept(fits)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of ranges, or an object with a form")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element::<Entry>()? {
            let result = self.entry(&entry);
            self.kept(result)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let (mut form, mut disk_bytes, mut source, mut changed) = (None, None, None, None);
        let mut base = None;
        while let Some(key) = fields.next_key::<Key>()? {
            let is_new = match key {
                Key::Form => form.replace(fields.next_value::<String>()?).is_none(),
                Key::DiskBytes => disk_bytes.replace(fields.next_value::<u64>()?).is_none(),
                Key::Source => source.replace(fields.next_value::<String>()?).is_none(),
                Key::Base => base.replace(fields.next_value::<String>()?).is_none(),
                Key::Changed => changed.replace(fields.next_value_seed(Changed(self))?).is_none(),
            };
            if !is_new {
                return Err(A::Error::custom("a field is there twice"));
            }
        }
        let is_id =
            |base: &str| BASE_DIGITS.contains(&base.len()) && base.bytes().all(|b| b.is_ascii_hexdigit());
        if base.as_deref().is_some_and(|base| !is_id(base)) {
            return Err(A::Error::custom("its base is no id of a snapshot"));
        }
        self.seen.base = base;
        match (form, disk_bytes, source, changed) {
            (Some(form), Some(disk_bytes), Some(source), Some(())) => self.own(&form, disk_bytes, source),
            _ => Err(A::Error::custom("form, disk-bytes, source or changed is missing")),
        }
    }
}

/// The fields of our own form; others are an error.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "kebab-case")]
enum Key {
    Form,
    DiskBytes,
    Source,
    Base,
    Changed,
}

/// The ranges of our own form.
struct Changed<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for Changed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Changed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of ranges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut ranges: A) -> Result<(), A::Error> {
        while let Some(range) = ranges.next_element::<OwnRange>()? {
            let result = self.0.builder.add(range.offset, range.length);
            self.0.kept(result)?;
        }
        Ok(())
    }
}
