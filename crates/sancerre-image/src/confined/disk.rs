//! The disk in an image that a child reads: places are checked here, and bytes that lie in a file are read from here.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::channel::{Lane, Trouble};
use super::pool::{Pool, Stop};
use super::told;
use super::wire::{Answer, Ask, Kind, PlacedRun};
use crate::positional::{is_inside, length};
use crate::qcow2::{add, add_data, first_data, next_data};
use crate::{Bitmap, ChangedError, Disk, Qcow2Fault, RawDisk, ReadError};

/// Of the disk, in one question for bytes.
const READ_BYTES: usize = 4 << 20;
/// Of the disk, in one question for places: more tables than these cover are not read within the child's time.
const MAP_BYTES: u64 = 64 << 30;
/// Places follow the sectors of the disk, but where one of the images of a chain ends.
const SECTOR_BYTES: u64 = 512;
const ENDS: u64 = 512;
/// As many as an image can list.
const BITMAPS_MAX: usize = 65_535;

/// The disk in a qcow2 image, read through a confined child.
#[derive(Debug)]
pub struct ConfinedDisk {
    size_bytes: u64,
    /// The image first, then what it stands on, in the order in which the child got them.
    files: Vec<RawDisk>,
    pool: Pool,
}

/// What may still come of an answer. Each packet takes from it, so that an answer has an end.
struct Left {
    at: u64,
    end: u64,
    places: u64,
}

impl Left {
    fn new(range: &Range<u64>, least_bytes: u64) -> Self {
        let wanted = range.end.saturating_sub(range.start);
        let places = wanted.checked_div(least_bytes).unwrap_or(wanted).saturating_add(ENDS);
        Self { at: range.start, end: range.end, places }
    }

    /// The next `length_bytes` of the range.
    fn take(&mut self, length_bytes: u64) -> Result<Range<u64>, Trouble> {
        let start = self.at;
        if !is_inside(start, length_bytes, self.end) || length_bytes == 0 {
            return Err(Trouble::Lie("an answer of another length"));
        }
        self.places = self.places.checked_sub(1).ok_or(Trouble::Lie("more places than there can be"))?;
        self.at = start.saturating_add(length_bytes);
        Ok(start..self.at)
    }

    /// Whether the answer goes on; it ends with the range, and the range with it.
    fn goes_on(&self, is_last: bool) -> Result<bool, Trouble> {
        match (is_last, self.at == self.end) {
            (false, false) => Ok(true),
            (true, true) => Ok(false),
            _ => Err(Trouble::Lie("an answer of another length")),
        }
    }
}

impl ConfinedDisk {
    pub(super) fn new(size_bytes: u64, files: Vec<RawDisk>, pool: Pool) -> Self {
        Self { size_bytes, files, pool }
    }

    /// The files that it is read from: the image, then what it stands on.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(RawDisk::path)
    }

    /// As [`Qcow2Disk::bitmaps`](crate::Qcow2Disk::bitmaps).
    ///
    /// # Errors
    /// As there; [`ReadError::Reader`].
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>, ReadError> {
        self.ask(|lane| {
            lane.send(&Ask::Bitmaps.encode(), None)?;
            let mut found = Vec::new();
            loop {
                match decode(lane.receive()?)? {
                    Answer::Bitmap(bitmap) if found.len() < BITMAPS_MAX => found.push(bitmap),
                    Answer::Done => return Ok(found),
                    other => return Err(self.failure(&other)),
                }
            }
        })
    }

    /// As [`Qcow2Disk::bitmap_ranges`](crate::Qcow2Disk::bitmap_ranges).
    ///
    /// # Errors
    /// As there; [`ReadError::Reader`].
    pub fn bitmap_ranges(&self, bitmap: &Bitmap, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        let mut found = Vec::new();
        for asked in pieces(range) {
            self.ask(|lane| {
                lane.send(&Ask::Marked(asked.clone(), bitmap.clone()).encode(), None)?;
                self.places(lane, Left::new(&asked, bitmap.granularity_bytes.min(SECTOR_BYTES)), &mut found)
            })?;
        }
        Ok(found)
    }

    fn ask<T>(&self, work: impl FnOnce(&mut Lane) -> Result<T, Stop>) -> Result<T, ReadError> {
        self.pool.with(work, |problem| ReadError::Reader { path: self.path().to_owned(), problem })
    }

    fn refuse_outside(&self, offset: u64, length_bytes: u64) -> Result<(), ReadError> {
        if is_inside(offset, length_bytes, self.size_bytes) {
            return Ok(());
        }
        let (path, size_bytes) = (self.path().to_owned(), self.size_bytes);
        Err(ReadError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    fn file(&self, number: usize, host: u64, length_bytes: u64) -> Result<&RawDisk, Trouble> {
        let file = self.files.get(number).ok_or(Trouble::Lie("a place in a file that it does not have"))?;
        match is_inside(host, length_bytes, file.size_bytes()) {
            true => Ok(file),
            false => Err(Trouble::Lie("a place outside of its file")),
        }
    }

    /// Fills `buffer`, which is at most [`READ_BYTES`].
    fn read(&self, lane: &mut Lane, offset: u64, buffer: &mut [u8]) -> Result<(), Stop> {
        let range = offset..offset.saturating_add(length(buffer));
        lane.send(&Ask::Read(range.clone()).encode(), None)?;
        let mut left = Left::new(&range, SECTOR_BYTES);
        let mut rest = buffer;
        let mut next = |left: &mut Left, length_bytes: u64| {
            left.take(length_bytes)?;
            let count = usize::try_from(length_bytes).unwrap_or(usize::MAX).min(rest.len());
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(count);
            rest = behind;
            Ok::<_, Trouble>(piece)
        };
        loop {
            let is_last = match decode(lane.receive()?)? {
                Answer::Runs { is_last, runs } => {
                    for place in runs {
                        let piece = next(&mut left, place.length_bytes)?;
                        self.read_place(place, piece)?;
                    }
                    is_last
                }
                Answer::Bytes { is_last, bytes } => {
                    next(&mut left, length(bytes))?.copy_from_slice(bytes);
                    is_last
                }
                other => return Err(self.failure(&other)),
            };
            if !left.goes_on(is_last)? {
                return Ok(());
            }
        }
    }

    fn read_place(&self, place: PlacedRun, piece: &mut [u8]) -> Result<(), Stop> {
        match place.kind {
            Kind::Zero => piece.fill(0),
            Kind::File { file, host } => {
                let file = self.file(file, host, place.length_bytes)?;
                file.read_at(host, piece).map_err(Stop::Own)?;
            }
            Kind::Data => return Err(Trouble::Lie("bytes without bytes").into()),
        }
        Ok(())
    }

    /// Adds the ranges of an answer that are no zeros.
    fn places(&self, lane: &mut Lane, mut left: Left, found: &mut Vec<Range<u64>>) -> Result<(), Stop> {
        loop {
            let is_last = match decode(lane.receive()?)? {
                Answer::Runs { is_last, runs } => {
                    for place in runs {
                        let guest = left.take(place.length_bytes)?;
                        match place.kind {
                            Kind::Zero => {}
                            Kind::Data => add(found, guest),
                            Kind::File { file, host } => {
                                let file = self.file(file, host, place.length_bytes)?;
                                add_data(found, &guest, file, host).map_err(Stop::Own)?;
                            }
                        }
                    }
                    is_last
                }
                other => return Err(self.failure(&other)),
            };
            if !left.goes_on(is_last)? {
                return Ok(());
            }
        }
    }

    /// Where the first run of a range ends, and where in it there may be data.
    fn first_run(&self, lane: &mut Lane, range: &Range<u64>) -> Result<(u64, Option<u64>), Stop> {
        lane.send(&Ask::First(range.clone()).encode(), None)?;
        let place = match decode(lane.receive()?)? {
            Answer::Runs { is_last: true, runs } => match runs.as_slice() {
                [place] => *place,
                _ => return Err(Trouble::Lie("more places than there can be").into()),
            },
            other => return Err(self.failure(&other)),
        };
        if !is_inside(range.start, place.length_bytes, range.end) {
            return Err(Trouble::Lie("an answer of another length").into());
        }
        let guest = range.start..range.start.saturating_add(place.length_bytes);
        let data = match place.kind {
            Kind::Zero => None,
            Kind::Data => Some(guest.start),
            Kind::File { file, host } => {
                let file = self.file(file, host, place.length_bytes)?;
                first_data(&guest, file, host).map_err(Stop::Own)?
            }
        };
        Ok((guest.end, data))
    }

    /// What the child says is wrong, as an error of the file that it is about.
    fn failure(&self, answer: &Answer<'_>) -> Stop {
        let of = |number: usize| self.files.get(number);
        let error = match answer {
            Answer::Fault { file, text } => of(*file).map(|file| {
                let fault = Box::new(Qcow2Fault::Told { said: told(text) });
                ReadError::Qcow2 { path: file.path().to_owned(), fault }
            }),
            Answer::Unreadable { file, offset, length_bytes, errno } => {
                let source = io::Error::from_raw_os_error(*errno);
                let (offset, length_bytes) = (*offset, *length_bytes);
                of(*file).map(|file| ReadError::Unreadable {
                    path: file.path().to_owned(),
                    offset,
                    length_bytes,
                    source,
                })
            }
            Answer::Shrank { file, now_bytes } => of(*file).map(|file| ReadError::Shrank {
                path: file.path().to_owned(),
                opened_bytes: file.size_bytes(),
                now_bytes: *now_bytes,
            }),
            _ => None,
        };
        error.map_or(Stop::Trouble(Trouble::Lie("an answer that does not fit")), Stop::Told)
    }

    #[cfg(test)]
    pub(super) fn process_id(&self) -> Option<u32> {
        self.pool.process_id()
    }
}

fn decode(packet: &[u8]) -> Result<Answer<'_>, Trouble> {
    Answer::decode(packet).ok_or(Trouble::Lie("a word that is none"))
}

/// A range as questions for places.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let piece = at..range.end.min(at.saturating_add(MAP_BYTES));
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

impl Disk for ConfinedDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.refuse_outside(offset, length(buffer))?;
        let mut at = offset;
        for piece in buffer.chunks_mut(READ_BYTES) {
            self.ask(|lane| self.read(lane, at, piece))?;
            at = at.saturating_add(length(piece));
        }
        Ok(())
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        let mut found = Vec::new();
        for asked in pieces(range) {
            self.ask(|lane| {
                lane.send(&Ask::Map(asked.clone()).encode(), None)?;
                self.places(lane, Left::new(&asked, SECTOR_BYTES), &mut found)
            })?;
        }
        Ok(found)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        next_data(offset, self.size_bytes, |range| self.ask(|lane| self.first_run(lane, &range)).map(Some))
    }

    /// Asks every file of the chain.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.files.iter().try_for_each(Disk::check_unchanged)
    }

    fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), RawDisk::path)
    }
}
