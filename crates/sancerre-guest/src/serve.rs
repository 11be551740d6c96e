//! The child: it has secluded itself, and now reads file systems, one question after the other.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use sancerre_image::confined::{Lane, Trouble};

use crate::bytes::{to_u64, to_usize};
use crate::disks::{self, Content, Room};
use crate::fault::{Fault, Result};
use crate::fs::{FileSystem, PiecePlace, RUNS_MAX};
use crate::node::{FileNode, FileRun, FolderEntry, NodeKind, PlacedEntry, RunPlace};
use crate::source::{BLOCK_BYTES, Blocks, Source, UNLOCKED};
use crate::volume::Volume;
use crate::wire::{Answer, Ask, BYTES_MAX, FileSystemInfo, VolumeContent, VolumeInfo, What};

/// The hidden subcommand by which this program starts itself as the child.
pub const SUBCOMMAND: &str = "__guest";
/// Ended as it should: the caller is gone, or has what it wanted.
const DONE: i32 = 0;
const FAILED: i32 = 1;
/// What an entry takes in a packet besides its name and runs, and what a run takes.
const ENTRY_BYTES: usize = 64;
const RUN_BYTES: usize = 19;

/// What the child does once it is secluded: it answers on its standard input until the caller closes that. Returns the
/// exit code.
pub fn inside() -> i32 {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    match socket.and_then(|socket| Lane::new(socket, None)).map(run) {
        Ok(Ok(()) | Err(Trouble::Ended)) => DONE,
        _ => FAILED,
    }
}

/// The socket, shared by who answers and who needs bytes for that.
#[derive(Clone)]
struct Line(Rc<RefCell<Lane>>);

impl Line {
    fn say(&self, answer: &Answer<'_>) -> Result<()> {
        self.0.borrow_mut().send(&answer.encode(), None).map_err(|_| Fault::Gone)
    }
}

/// Disks whose bytes the caller has.
struct Caller {
    line: Line,
    sizes: Vec<u64>,
}

impl Source for Caller {
    fn size_bytes(&self, disk: u16) -> Option<u64> {
        self.sizes.get(usize::from(disk)).copied()
    }

    fn read(&self, disk: u16, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length_bytes = u32::try_from(buffer.len().min(BLOCK_BYTES)).unwrap_or(0);
        self.line.say(&Answer::Need { disk, offset, length_bytes })?;
        let mut lane = self.line.0.borrow_mut();
        let packet = lane.receive().map_err(|_| Fault::Gone)?;
        match Ask::decode(packet) {
            Some(Ask::Bytes(bytes)) if bytes.len() == buffer.len() => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            Some(Ask::Unreadable) => {
                Err(Fault::Unreadable { disk, offset, length_bytes: to_u64(buffer.len()) })
            }
            _ => Err(Fault::Gone),
        }
    }
}

pub(crate) fn run(mut lane: Lane) -> std::result::Result<(), Trouble> {
    let start = Ask::decode(lane.receive()?);
    let Some(Ask::Start { sizes, skip, secrets }) = start else { return Err(Trouble::Lie("no start")) };
    let line = Line(Rc::new(RefCell::new(lane)));
    let count = u16::try_from(sizes.len()).map_err(|_| Trouble::Lie("too many disks"))?;
    let blocks = Blocks::new(Box::new(Caller { line: line.clone(), sizes }));
    let mut trying = |name: &str| {
        let told = line.say(&Answer::Trying(name.to_owned()));
        told.is_ok() && !skip.iter().any(|skipped| skipped == name)
    };
    let mut rooms = disks::explore(&blocks, count, &secrets, &mut trying);
    drop(secrets);
    for room in &rooms {
        line.say(&Answer::Volume(info(room))).map_err(|_| Trouble::Ended)?;
    }
    line.say(&Answer::Done).map_err(|_| Trouble::Ended)?;
    loop {
        let packet = line.0.borrow_mut().receive()?.to_vec();
        let Some(Ask::Of { volume, id, what }) = Ask::decode(&packet) else {
            return Err(Trouble::Lie("no question"));
        };
        let work = || answer(&line, &mut rooms, volume, id, &what);
        // What a parser did not expect costs the answer to one question.
        let answered =
            catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Fault::Corrupt("its reader failed")));
        let told = match answered {
            Ok(()) => Ok(()),
            Err(Fault::Gone) => return Err(Trouble::Ended),
            Err(Fault::Missing) => line.say(&Answer::Missing),
            Err(fault) => line.say(&Answer::Fault(fault.to_string())),
        };
        told.map_err(|_| Trouble::Ended)?;
    }
}

fn info(room: &Room) -> VolumeInfo {
    let content = match &room.content {
        Content::Files(fs) => {
            let identity = fs.identity();
            VolumeContent::Files(FileSystemInfo {
                kind: identity.kind.to_owned(),
                label: identity.label,
                uuid: identity.uuid,
                notes: identity.notes,
                root: fs.root(),
            })
        }
        Content::Known(what) => VolumeContent::Known((*what).to_owned()),
        Content::Broken(why) => VolumeContent::Broken(why.clone()),
        Content::Unknown => VolumeContent::Unknown,
    };
    VolumeInfo {
        name: room.name.clone(),
        disk: room.disk,
        label: room.label.clone(),
        size_bytes: room.size_bytes,
        content,
    }
}

fn answer(line: &Line, rooms: &mut [Room], volume: u16, id: u64, what: &What<'_>) -> Result<()> {
    let (fs, volume) = disks::files(rooms, usize::from(volume))?;
    match what {
        What::FileNode => line.say(&Answer::FileNode(fs.node(id)?)),
        What::List => list(line, fs.as_mut(), id),
        What::ListPlaced(most) => list_placed(line, fs.as_mut(), volume, id, usize::from(*most)),
        What::Find(name) => {
            let found = fs.find(id, name)?;
            line.say(&Answer::FileNode(node_or_broken(fs.as_mut(), found)?))
        }
        What::Runs(stream, range) => {
            if range.is_empty() {
                return Err(Fault::Corrupt("nothing is asked for"));
            }
            let pieces = fs.pieces(id, stream, range.clone())?;
            line.say(&Answer::Runs(runs(volume, &pieces)?))
        }
        What::Bytes(stream, range) => {
            let mut at = range.start;
            while at < range.end {
                let length = range.end.saturating_sub(at).min(to_u64(BYTES_MAX));
                let mut buffer = vec![0; to_usize(length)];
                read(fs.as_mut(), volume, (id, stream), at, &mut buffer)?;
                line.say(&Answer::Bytes(&buffer))?;
                at = at.saturating_add(length);
            }
            line.say(&Answer::Done)
        }
        What::Link => line.say(&Answer::Link(&fs.link(id)?)),
        What::Extras => {
            for extra in fs.extras(id)? {
                line.say(&Answer::Extra(extra))?;
            }
            line.say(&Answer::Done)
        }
    }
}

fn list(line: &Line, fs: &mut dyn FileSystem, id: u64) -> Result<()> {
    let mut names = Vec::new();
    // A fault in one block of a folder costs the names in it and behind it: those before it are told.
    let listed = fs.list(id, &mut |name, id| {
        names.push((name, id));
        Ok(())
    });
    for (name, id) in names {
        let node = node_or_broken(fs, id)?;
        line.say(&Answer::FolderEntry(FolderEntry { name, node }))?;
    }
    listed?;
    line.say(&Answer::Done)
}

/// Bytes of a file, wherever they are: those of an encrypted volume nobody else can read.
fn read(
    fs: &mut dyn FileSystem,
    volume: &Volume,
    (id, stream): (u64, &[u8]),
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let (mut at, mut rest) = (offset, buffer);
    while !rest.is_empty() {
        let pieces = fs.pieces(id, stream, at..at.saturating_add(to_u64(rest.len())))?;
        if pieces.is_empty() {
            return Err(Fault::Corrupt("it has no bytes where it should have some"));
        }
        for piece in pieces {
            let length = to_usize(piece.length_bytes).min(rest.len());
            let (bytes, behind) = std::mem::take(&mut rest).split_at_mut(length);
            match piece.place {
                PiecePlace::Hole => bytes.fill(0),
                PiecePlace::Held => fs.read(id, stream, at, bytes)?,
                PiecePlace::Volume(start) => volume.read(start, bytes)?,
            }
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
    }
    Ok(())
}

/// Files in the order of their numbers, in which their records lie: then few blocks are read twice. Many in one packet.
fn list_placed(line: &Line, fs: &mut dyn FileSystem, volume: &Volume, id: u64, most: usize) -> Result<()> {
    let mut names = Vec::new();
    let listed = fs.list(id, &mut |name, id| {
        names.push((name, id));
        Ok(())
    });
    // The upper bits of a record of NTFS say how often it was used.
    names.sort_by_key(|(_, id)| *id & 0xffff_ffff_ffff);
    let (mut entries, mut filled) = (Vec::new(), 0_usize);
    for (name, id) in names {
        let node = node_or_broken(fs, id)?;
        let runs = match node.kind {
            NodeKind::File => all_runs(fs, volume, &node, most)?,
            _ => None,
        };
        let runs_bytes = runs.as_ref().map_or(0, |runs| runs.len().saturating_mul(RUN_BYTES));
        filled = filled.saturating_add(ENTRY_BYTES).saturating_add(name.len()).saturating_add(runs_bytes);
        entries.push(PlacedEntry { entry: FolderEntry { name, node }, runs });
        if filled > BYTES_MAX / 2 {
            line.say(&Answer::Placed(std::mem::take(&mut entries)))?;
            filled = 0;
        }
    }
    if !entries.is_empty() {
        line.say(&Answer::Placed(entries))?;
    }
    listed?;
    line.say(&Answer::Done)
}

/// Where all bytes of a file are; none where that cannot be told in so many places.
fn all_runs(
    fs: &mut dyn FileSystem,
    volume: &Volume,
    node: &FileNode,
    most: usize,
) -> Result<Option<Vec<FileRun>>> {
    if node.size_bytes == 0 {
        return Ok(Some(Vec::new()));
    }
    let work = || fs.pieces(node.id, b"", 0..node.size_bytes).and_then(|pieces| runs(volume, &pieces));
    // A file that its reader did not expect costs its own places, and no names.
    let found = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Fault::Corrupt("its reader failed")));
    let found = match found {
        Err(Fault::Gone) => return Err(Fault::Gone),
        Err(_) => return Ok(None),
        Ok(found) => found,
    };
    let told = found.iter().try_fold(0_u64, |sum, run| sum.checked_add(run.length_bytes));
    Ok((found.len() <= most && told == Some(node.size_bytes)).then_some(found))
}

/// A name whose file cannot be told is a name all the same.
fn node_or_broken(fs: &mut dyn FileSystem, id: u64) -> Result<FileNode> {
    match fs.node(id) {
        Err(Fault::Gone) => Err(Fault::Gone),
        Err(_) => Ok(FileNode {
            id,
            kind: NodeKind::Broken,
            size_bytes: 0,
            mode: None,
            owner: None,
            modified: None,
            links: 0,
        }),
        node => node,
    }
}

/// Pieces of a volume as places on disks.
fn runs(volume: &Volume, pieces: &[crate::fs::Piece]) -> Result<Vec<FileRun>> {
    let mut runs = Vec::new();
    for piece in pieces {
        let PiecePlace::Volume(start) = piece.place else {
            let place = if piece.place == PiecePlace::Held { RunPlace::Held } else { RunPlace::Hole };
            runs.push(FileRun { length_bytes: piece.length_bytes, place });
            continue;
        };
        let mut done = 0;
        while done < piece.length_bytes && runs.len() < RUNS_MAX {
            let (disk, offset, more) = volume.place(start.saturating_add(done))?;
            let length_bytes = more.min(piece.length_bytes.saturating_sub(done));
            let place = if disk < UNLOCKED { RunPlace::Disk { disk, offset } } else { RunPlace::Held };
            runs.push(FileRun { length_bytes, place });
            done = done.saturating_add(length_bytes);
        }
        if runs.len() >= RUNS_MAX {
            break;
        }
    }
    Ok(runs)
}
