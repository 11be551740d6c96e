//! The caller's side: it has the disks, asks the child, and checks every word.

mod checks;
mod reader;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sancerre_image::confined::{Lane, Trouble};
use sancerre_image::process::{Process, harmless};
use sancerre_image::{Disk, ReadError};

use checks::{is_name, sanitized};
pub use reader::{GuestReader, Passphrases};

use crate::bytes::{to_u64, to_usize};
use crate::error::GuestError;
use crate::node::{Extra, FileNode, FileRun, FolderEntry, PlacedEntry, RunPlace};
use crate::wire::{Answer, Ask, BYTES_MAX, VolumeInfo, What};

/// Of one answer altogether, without the time that its bytes took to come.
const PATIENCES: u32 = 6;
/// Children that may fail before the guest is given up.
const STARTS_MAX: u32 = 20;
/// What the helper ends with when it could not seclude itself; it then said why, and what to do.
const NOT_CONFINED: i32 = 71;
/// Of one answer: names, and bytes of names.
const ENTRIES_MAX: u64 = 20_000_000;
const TEXT_BYTES_MAX: u64 = 1 << 30;
const VOLUMES_MAX: usize = 5000;

type Result<T> = std::result::Result<T, GuestError>;

impl GuestReader {
    /// Looks at the disks of a guest.
    ///
    /// # Errors
    /// [`GuestError::Reader`] when no child can be started, or none survives.
    pub fn open(&self, disks: Vec<Arc<dyn Disk>>) -> Result<Guest> {
        let state = ChildState { talk: None, starts: 0, skip: Vec::new(), trying: None };
        let mut guest = Guest { reader: self.clone(), disks, state: Mutex::new(state), volumes: Vec::new() };
        let mut state = guest.state.lock().unwrap_or_else(PoisonError::into_inner);
        let volumes = guest.start(&mut state)?;
        drop(state);
        guest.volumes = volumes;
        Ok(guest)
    }
}

/// The disks of a guest, and what is on them.
pub struct Guest {
    reader: GuestReader,
    disks: Vec<Arc<dyn Disk>>,
    state: Mutex<ChildState>,
    volumes: Vec<VolumeInfo>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guest").field("volumes", &self.volumes).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct ChildState {
    talk: Option<Talk>,
    starts: u32,
    /// Volumes at which a child ended.
    skip: Vec<String>,
    trying: Option<String>,
}

/// The conversation with a child.
#[derive(Debug)]
struct Talk {
    lane: Lane,
    /// None in tests, where a thread plays the child.
    process: Option<Process>,
}

/// How an answer ends that is none.
enum Stop {
    Told(GuestError),
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Whether an answer goes on.
enum Step {
    More,
    Last,
}

impl Guest {
    /// What is on the disks.
    pub fn volumes(&self) -> &[VolumeInfo] {
        &self.volumes
    }

    /// Its disks.
    pub fn disks(&self) -> &[Arc<dyn Disk>] {
        &self.disks
    }

    /// A file or folder by its number.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn node(&self, volume: u16, id: u64) -> Result<FileNode> {
        self.one_node(volume, id, What::FileNode)
    }

    /// A file or folder by its name in a folder.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn find(&self, volume: u16, folder: u64, name: &[u8]) -> Result<FileNode> {
        self.one_node(volume, folder, What::Find(name))
    }

    /// The names in a folder, without a further one for the folder itself and the one above. What was read before a fault is
    /// given to `each` all the same.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn list(&self, volume: u16, folder: u64, each: &mut dyn FnMut(FolderEntry)) -> Result<()> {
        let (mut entries, mut text_bytes) = (0_u64, 0_u64);
        self.ask(volume, folder, What::List, &mut |answer| match answer {
            Answer::FolderEntry(entry) => {
                entries = entries.saturating_add(1);
                text_bytes = text_bytes.saturating_add(to_u64(entry.name.len()));
                if entries > ENTRIES_MAX || text_bytes > TEXT_BYTES_MAX {
                    return Err(Trouble::Lie("more names than there can be"));
                }
                if !is_name(&entry.name) {
                    return Ok(Step::More);
                }
                each(entry);
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })
    }

    /// The same with the places of files that lie at no more than `most`, in any order.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn list_placed(
        &self,
        volume: u16,
        folder: u64,
        most: u16,
        each: &mut dyn FnMut(PlacedEntry),
    ) -> Result<()> {
        let (mut entries, mut text_bytes) = (0_u64, 0_u64);
        self.ask(volume, folder, What::ListPlaced(most), &mut |answer| match answer {
            Answer::Placed(placed) => {
                entries = entries.saturating_add(to_u64(placed.len()));
                let names = placed.iter().map(|placed| to_u64(placed.entry.name.len()));
                text_bytes = text_bytes.saturating_add(names.sum());
                if placed.is_empty() || entries > ENTRIES_MAX || text_bytes > TEXT_BYTES_MAX {
                    return Err(Trouble::Lie("more names than there can be"));
                }
                for placed in placed {
                    let range = 0..placed.entry.node.size_bytes;
                    placed.runs.iter().try_for_each(|runs| self.check_runs(runs, &range))?;
                    if is_name(&placed.entry.name) {
                        each(placed);
                    }
                }
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })
    }

    /// Where the bytes of a range that lies inside a stream are, from its start on; the end of the list may come before the end
    /// of the range. The stream without a name is the file itself.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn runs(&self, volume: u16, id: u64, stream: &[u8], range: Range<u64>) -> Result<Vec<FileRun>> {
        let mut found = Vec::new();
        self.ask(volume, id, What::Runs(stream, range.clone()), &mut |answer| match answer {
            Answer::Runs(runs) => {
                self.check_runs(&runs, &range)?;
                found = runs;
                Ok(Step::Last)
            }
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        Ok(found)
    }

    /// Bytes that [`Guest::runs`] calls held.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn held(&self, volume: u16, id: u64, stream: &[u8], offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(to_u64(buffer.len()));
        let mut done = 0_usize;
        self.ask(volume, id, What::Bytes(stream, range), &mut |answer| match answer {
            Answer::Bytes(bytes) => {
                let to = buffer.get_mut(done..done.saturating_add(bytes.len()));
                to.ok_or(Trouble::Lie("an answer of another length"))?.copy_from_slice(bytes);
                done = done.saturating_add(bytes.len());
                if bytes.is_empty() { Err(Trouble::Lie("bytes without bytes")) } else { Ok(Step::More) }
            }
            Answer::Done if done == buffer.len() => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer of another length")),
        })
    }

    /// Where a link leads, as it is written there.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn link(&self, volume: u16, id: u64) -> Result<Vec<u8>> {
        let mut found = Vec::new();
        self.ask(volume, id, What::Link, &mut |answer| match answer {
            Answer::Link(target) => {
                found = target.to_vec();
                Ok(Step::Last)
            }
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        Ok(found)
    }

    /// Attributes and streams beside the bytes of a file.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn extras(&self, volume: u16, id: u64) -> Result<Vec<Extra>> {
        const MOST: usize = 10_000;
        let mut found = Vec::new();
        self.ask(volume, id, What::Extras, &mut |answer| match answer {
            Answer::Extra(extra) if found.len() < MOST => {
                found.push(extra);
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        Ok(found)
    }

    fn one_node(&self, volume: u16, id: u64, what: What<'_>) -> Result<FileNode> {
        let mut found = None;
        self.ask(volume, id, what, &mut |answer| match answer {
            Answer::FileNode(node) => {
                found = Some(node);
                Ok(Step::Last)
            }
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        found.ok_or(GuestError::Missing)
    }

    /// Inside of the range, each on a disk that there is.
    fn check_runs(&self, runs: &[FileRun], range: &Range<u64>) -> std::result::Result<(), Trouble> {
        let mut left = range.end.saturating_sub(range.start);
        for run in runs {
            left = left.checked_sub(run.length_bytes).ok_or(Trouble::Lie("an answer of another length"))?;
            if let RunPlace::Disk { disk, offset } = run.place {
                self.check_place(disk, offset, run.length_bytes)?;
            }
        }
        Ok(())
    }

    fn check_place(&self, disk: u16, offset: u64, length_bytes: u64) -> std::result::Result<(), Trouble> {
        let disk = self.disks.get(usize::from(disk)).ok_or(Trouble::Lie("a disk that there is not"))?;
        match offset.checked_add(length_bytes) {
            Some(end) if end <= disk.size_bytes() => Ok(()),
            _ => Err(Trouble::Lie("a place outside of its disk")),
        }
    }

    /// Asks the child, or a new one when that is gone.
    fn ask(&self, volume: u16, id: u64, what: What<'_>, each: &mut EachAnswer<'_>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.talk.is_none() {
            let volumes = self.start(&mut state)?;
            if volumes != self.volumes {
                state.talk = None;
                return Err(GuestError::Reader(
                    "the child that reads file systems tells another story now".into(),
                ));
            }
        }
        let Some(talk) = state.talk.as_mut() else { return Err(GuestError::Missing) };
        match self.converse(talk, &Ask::Of { volume, id, what }, each) {
            Ok(()) => Ok(()),
            Err(Stop::Told(error)) => Err(error),
            Err(Stop::Trouble(trouble)) => Err(GuestError::Reader(self.end(&mut state, &trouble))),
        }
    }

    /// Starts a child, and another one when that ends, without the volume at which it did.
    fn start(&self, state: &mut ChildState) -> Result<Vec<VolumeInfo>> {
        loop {
            if state.starts >= STARTS_MAX {
                return Err(GuestError::Reader(
                    "the child that reads file systems ended too often".to_owned(),
                ));
            }
            state.starts = state.starts.saturating_add(1);
            let failed = |error: std::io::Error| {
                GuestError::Reader(format!("the child that reads file systems cannot be started: {error}"))
            };
            let (socket, process) = self.reader.process().map_err(failed)?;
            let lane = Lane::new(socket, Some(self.reader.patience)).map_err(failed)?;
            match self.greet(state, lane, Some(process)) {
                Ok(volumes) => return Ok(volumes),
                Err(Stop::Told(error)) => return Err(error),
                Err(Stop::Trouble(trouble)) => {
                    let trying = state.trying.take();
                    let problem = self.end(state, &trouble);
                    match trying {
                        Some(trying) if !state.skip.contains(&trying) => state.skip.push(trying),
                        _ => return Err(GuestError::Reader(problem)),
                    }
                }
            }
        }
    }

    fn greet(
        &self,
        state: &mut ChildState,
        lane: Lane,
        process: Option<Process>,
    ) -> std::result::Result<Vec<VolumeInfo>, Stop> {
        let sizes = self.disks.iter().map(|disk| disk.size_bytes()).collect();
        let (mut volumes, mut trying) = (Vec::new(), None);
        let mut talk = Talk { lane, process };
        let (skip, secrets) = (state.skip.clone(), self.reader.passphrases.all());
        let start = Ask::Start { sizes, skip, secrets };
        let told = self.converse(&mut talk, &start, &mut |answer| match answer {
            Answer::Trying(name) => {
                trying = Some(name);
                Ok(Step::More)
            }
            Answer::Volume(volume) if volumes.len() < VOLUMES_MAX => {
                volumes.push(sanitized(volume));
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        });
        state.talk = Some(talk);
        state.trying = trying;
        told.map(|()| volumes)
    }

    /// One question, until its answer ends. Bytes that are needed for it are read here.
    fn converse(
        &self,
        talk: &mut Talk,
        ask: &Ask<'_>,
        each: &mut EachAnswer<'_>,
    ) -> std::result::Result<(), Stop> {
        talk.lane.send(&ask.encode(), None)?;
        let mut spent = Duration::ZERO;
        let mut damage: Option<ReadError> = None;
        loop {
            let begun = Instant::now();
            let packet = talk.lane.receive()?;
            spent = spent.saturating_add(begun.elapsed());
            if spent > self.reader.patience.saturating_mul(PATIENCES) {
                return Err(Trouble::Silent.into());
            }
            match Answer::decode(packet).ok_or(Trouble::Lie("a word that is none"))? {
                Answer::Need { disk, offset, length_bytes } => {
                    let reply = self.needed(disk, offset, length_bytes, &mut damage)?;
                    talk.lane.send(&reply, None)?;
                }
                Answer::Missing => return Err(Stop::Told(GuestError::Missing)),
                Answer::Fault(text) => {
                    let fault = GuestError::Fault(harmless(&text));
                    return Err(Stop::Told(damage.map_or(fault, GuestError::Damage)));
                }
                answer => match each(answer)? {
                    Step::More => {}
                    Step::Last => return Ok(()),
                },
            }
        }
    }

    /// The packet with bytes that the child needs.
    fn needed(
        &self,
        disk: u16,
        offset: u64,
        length_bytes: u32,
        damage: &mut Option<ReadError>,
    ) -> std::result::Result<Vec<u8>, Trouble> {
        let length = to_usize(u64::from(length_bytes));
        if length == 0 || length > BYTES_MAX {
            return Err(Trouble::Lie("a wish that is too long"));
        }
        self.check_place(disk, offset, u64::from(length_bytes))?;
        let disk = self.disks.get(usize::from(disk)).ok_or(Trouble::Lie("a disk that there is not"))?;
        let mut bytes = vec![0; length];
        match disk.read_at(offset, &mut bytes) {
            Ok(()) => Ok(Ask::Bytes(&bytes).encode()),
            Err(error) => {
                *damage = Some(error);
                Ok(Ask::Unreadable.encode())
            }
        }
    }

    /// Ends the child and says what became of it.
    fn end(&self, state: &mut ChildState, trouble: &Trouble) -> String {
        let process = state.talk.take().and_then(|talk| talk.process);
        let status = process.as_ref().and_then(Process::end);
        let words = process.as_ref().map(Process::last_words).unwrap_or_default();
        if *trouble == Trouble::Ended && status.and_then(|status| status.code()) == Some(NOT_CONFINED) {
            return words;
        }
        let mut how = match trouble {
            Trouble::Ended => status.map_or("ended".to_owned(), |status| format!("ended ({status})")),
            Trouble::Silent => "gave no answer in its time, and was ended".to_owned(),
            Trouble::Lie(what) => format!("broke its protocol ({what}), and was ended"),
            Trouble::System(error) => format!("cannot be reached ({error}), and was ended"),
        };
        if !words.is_empty() {
            how.push_str(&format!(", and said: {words}"));
        }
        format!("the confined child that reads file systems {how}; this answer is lost, others may be fine")
    }
}

type EachAnswer<'a> = dyn FnMut(Answer<'_>) -> std::result::Result<Step, Trouble> + 'a;

#[cfg(test)]
mod tests;
