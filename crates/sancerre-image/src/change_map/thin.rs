//! What `thin_delta` says of two snapshots of a thin volume.

use std::io::Read;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::builder::Builder;
use super::{ChangeMap, INPUT_BYTES_MAX, MapError};

/// The pool's blocks are told in these.
const SECTOR_BYTES: u64 = 512;

impl ChangeMap {
    /// Reads the XML of `thin_delta`, of a volume of `disk_bytes`. All that it does not call the same changed.
    ///
    /// # Errors
    /// [`MapError::Form`] for anything but one whole comparison; [`MapError::OtherDisk`].
    pub fn of_thin_delta(input: impl Read, disk_bytes: u64) -> Result<Self, MapError> {
        let mut text = String::new();
        input.take(INPUT_BYTES_MAX.saturating_add(1)).read_to_string(&mut text).map_err(MapError::Io)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > INPUT_BYTES_MAX {
            return Err(MapError::TooLong("256 MiB of XML"));
        }
        let (mut reader, mut delta) = (Reader::from_str(&text), Delta::default());
        let mut builder = Builder::new(disk_bytes);
        loop {
            match reader.read_event().map_err(|error| form(error.to_string()))? {
                Event::Eof => break,
                Event::Start(element) => delta.begins(&element)?,
                Event::Empty(element) => delta.range(&element, &mut builder)?,
                Event::End(element) => delta.ends(element.local_name().as_ref()),
                Event::DocType(_) => return Err(form("it has a document type")),
                _ => {}
            }
        }
        if !delta.is_whole {
            return Err(form("it is cut short, or holds no comparison"));
        }
        Ok(builder.finish("thin".to_owned()))
    }
}

fn form(what: impl Into<String>) -> MapError {
    MapError::Form(format!("as XML of `thin_delta`, {}", what.into()))
}

/// How far it is.
#[derive(Default)]
struct Delta {
    block_bytes: Option<u64>,
    is_inside: bool,
    is_whole: bool,
}

impl Delta {
    fn begins(&mut self, element: &BytesStart<'_>) -> Result<(), MapError> {
        match element.local_name().as_ref() {
            b"superblock" => {
                let sectors = number(element, "data_block_size")?;
                self.block_bytes = sectors.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes > 0);
                self.block_bytes.map(|_| ()).ok_or_else(|| form("its blocks have no size"))
            }
            b"diff" if self.is_inside || self.is_whole => Err(form("it holds several comparisons")),
            b"diff" => {
                self.is_inside = true;
                Ok(())
            }
            _ => Err(form("it has an element that is not known")),
        }
    }

    fn ends(&mut self, name: &[u8]) {
        if name == b"diff" && self.is_inside {
            (self.is_inside, self.is_whole) = (false, true);
        }
    }

    fn range(&self, element: &BytesStart<'_>, builder: &mut Builder) -> Result<(), MapError> {
        let block_bytes = self.block_bytes.filter(|_| self.is_inside);
        let block_bytes = block_bytes.ok_or_else(|| form("a range stands outside of a comparison"))?;
        let bytes = |name| {
            let blocks = number(element, name)?;
            blocks.checked_mul(block_bytes).ok_or_else(|| form("a range is beyond all disks"))
        };
        let (offset, length) = (bytes("begin")?, bytes("length")?);
        match element.local_name().as_ref() {
            b"same" => Ok(()),
            b"different" | b"left_only" | b"right_only" => builder.add(offset, length),
            _ => Err(form("it has a range of a kind that is not known")),
        }
    }
}

fn number(element: &BytesStart<'_>, name: &str) -> Result<u64, MapError> {
    let found = element.try_get_attribute(name).ok().flatten();
    let text = found.as_ref().and_then(|found| std::str::from_utf8(&found.value).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| form(format!("a {name} is missing, or no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ChangeMap, MapError> {
        ChangeMap::of_thin_delta(text.as_bytes(), 1 << 20)
    }

    const BEGIN: &str =
        "<superblock uuid=\"\" time=\"1\" transaction=\"2\" data_block_size=\"128\" nr_data_blocks=\"0\">\n";

    #[test]
    fn all_that_is_not_the_same_changed() {
        let text = format!(
            "{BEGIN}<diff left=\"1\" right=\"2\"><same begin=\"0\" length=\"2\"/><different begin=\"2\" length=\"1\"/>\
             <left_only begin=\"5\" length=\"2\"/><right_only begin=\"15\" length=\"4\"/></diff></superblock>"
        );
        let map = read(&text).unwrap();
        assert_eq!(map.ranges(), [131_072..196_608, 327_680..458_752, 983_040..1_048_576]);
        for length in 0..text.len() - "</superblock>".len() {
            assert!(read(&text[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for body in [
            "<diff><other begin=\"0\" length=\"1\"/></diff></superblock>",
            "<diff><same begin=\"x\" length=\"1\"/></diff></superblock>",
            "<diff><same begin=\"0\"/></diff></superblock>",
            "<diff><different begin=\"16\" length=\"1\"/></diff></superblock>",
            "<diff><different begin=\"99999999999999999\" length=\"1\"/></diff></superblock>",
            "<diff></diff><diff></diff></superblock>",
            "<different begin=\"0\" length=\"1\"/></superblock>",
            "</superblock>",
        ] {
            assert!(read(&format!("{BEGIN}{body}")).is_err(), "{body}");
        }
        assert!(read("<diff></diff>").is_ok(), "no block size is needed where there is no range");
        assert!(read("").is_err());
    }
}
