//! The conversation with the child: it is started, asked, given the bytes that it needs, and ended.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use sancerre_image::ReadError;
use sancerre_image::confined::{Lane, Trouble};
use sancerre_image::process::{Process, harmless};

use super::checks::sanitized;
use super::{Guest, Result};
use crate::bytes::to_usize;
use crate::error::GuestError;
use crate::wire::{Answer, Ask, BYTES_MAX, VolumeInfo, What};

/// Of one answer altogether, without the time that its bytes took to come.
const PATIENCES: u32 = 6;
/// Children that may fail before the guest is given up.
const STARTS_MAX: u32 = 20;
/// What the helper ends with when it could not seclude itself; it then said why, and what to do.
const NOT_CONFINED: i32 = 71;
const VOLUMES_MAX: usize = 5000;

/// The child, if there is one, and what is known of those before it.
#[derive(Debug, Default)]
pub(super) struct ChildState {
    pub(super) talk: Option<Talk>,
    pub(super) starts: u32,
    /// Volumes at which a child ended.
    pub(super) skip: Vec<String>,
    pub(super) trying: Option<String>,
}

/// The conversation with a child.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) lane: Lane,
    /// None in tests, where a thread plays the child.
    pub(super) process: Option<Process>,
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
pub(super) enum Step {
    More,
    Last,
}

/// What takes the parts of an answer.
type EachAnswer<'a> = dyn FnMut(Answer<'_>) -> std::result::Result<Step, Trouble> + 'a;

impl Guest {
    /// Asks the child, or a new one when that is gone.
    pub(super) fn ask(&self, volume: u16, id: u64, what: What<'_>, each: &mut EachAnswer<'_>) -> Result<()> {
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
    pub(super) fn start(&self, state: &mut ChildState) -> Result<Vec<VolumeInfo>> {
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
