//! The child: it has secluded itself, and now reads the image.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::Builder;

use super::TEXT_BYTES_MAX;
use super::channel::{Lane, Trouble};
use super::look;
use super::wire::{Answer, Ask, BYTES_MAX, Kind, Passed, PlacedRun, RUNS_MAX, Role};
use crate::foreign::{self, ImageError, ImageFormat, Parts};
use crate::package::read_package;
use crate::positional::length;
use crate::qcow2::{self, Files, Run};
use crate::{Bitmap, Disk, OpenError, Qcow2Disk, RawDisk, ReadError, raw};

/// Ended as it should: the caller is gone, or has what it wanted.
const DONE: i32 = 0;
const FAILED: i32 = 1;

/// What the child does once it is secluded: it answers on its standard input until the caller closes that. Returns the
/// exit code.
pub fn inside() -> i32 {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    match socket.and_then(|socket| Lane::new(socket, None)).map(run) {
        Ok(Ok(()) | Err(Trouble::Ended)) => DONE,
        _ => FAILED,
    }
}

pub(super) fn run(mut control: Lane) -> Result<(), Trouble> {
    let (packet, passed) = control.receive_passed()?;
    let (ask, file) = (Ask::decode(packet), passed.ok_or(Trouble::Lie("no file"))?);
    match ask {
        Some(Ask::Qcow2 { backing, data_file, file: named }) => {
            let top = opened(named, file);
            read_qcow2(control, top, backing, data_file)
        }
        Some(Ask::Whole { format, file: named }) => {
            let top = opened(named, file);
            let format = look::format(format).ok_or(Trouble::Lie("no format"))?;
            tell_whole(control, &top, format)
        }
        Some(Ask::Package { file: named }) => {
            let archive = opened(named, file);
            tell_package(control, &archive)
        }
        _ => Err(Trouble::Lie("no work")),
    }
}

fn opened(named: Passed<'_>, file: OwnedFd) -> RawDisk {
    raw::passed(Path::new(OsStr::from_bytes(named.path)), File::from(file), named.size_bytes)
}

fn read_qcow2(mut control: Lane, top: RawDisk, backing: bool, data_file: bool) -> Result<(), Trouble> {
    let mut asking = Asking { control: &mut control, files: vec![top.path().to_owned()], backing, data_file };
    let disk = qcow2::open_with(Arc::new(top), &mut asking);
    let files = asking.files;
    match disk {
        Ok(disk) => {
            control.send(&Answer::Opened { size_bytes: disk.size_bytes() }.encode(), None)?;
            serve(control, &Arc::new(disk), &files.into())
        }
        Err(error) => {
            let (path, text) = (path_of(&error).to_owned(), reason(&error));
            let answer = match &error {
                OpenError::Io { source, .. } if source.raw_os_error().is_some() => Answer::Unreadable {
                    file: number(&files, &path),
                    offset: 0,
                    length_bytes: 0,
                    errno: source.raw_os_error().unwrap_or(0),
                },
                _ => Answer::Fault { file: number(&files, &path), text: short(&text) },
            };
            control.send(&answer.encode(), None)
        }
    }
}

fn path_of(error: &OpenError) -> &Path {
    match error {
        OpenError::Qcow2 { path, .. } | OpenError::Io { path, .. } => path,
        _ => Path::new(""),
    }
}

fn reason(error: &OpenError) -> String {
    match error {
        OpenError::Qcow2 { fault, .. } => fault.to_string(),
        OpenError::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn tell_whole(mut control: Lane, top: &RawDisk, format: ImageFormat) -> Result<(), Trouble> {
    let files = vec![top.path().to_owned()];
    let mut asking = Asking { control: &mut control, files, backing: false, data_file: false };
    let verdict = foreign::look(top, format, &mut asking);
    let files = asking.files;
    let named = |name: &str| number(&files, Path::new(name));
    let packet = match &verdict {
        Ok(()) => Answer::Whole.encode(),
        Err(ImageError::CutShort { file, needed_bytes, .. }) => {
            Answer::CutShort { file: named(file), needed_bytes: *needed_bytes }.encode()
        }
        Err(ImageError::Unmeasured { file, why }) => {
            Answer::Unmeasured { file: named(file), why: short(why) }.encode()
        }
        Err(ImageError::Io { path, source }) => {
            Answer::Fault { file: number(&files, path), text: short(&source.to_string()) }.encode()
        }
        Err(other) => Answer::Fault { file: 0, text: short(&other.to_string()) }.encode(),
    };
    control.send(&packet, None)
}

fn tell_package(mut control: Lane, archive: &RawDisk) -> Result<(), Trouble> {
    let package = match read_package(archive, &|disk| stands_alone(disk)) {
        Ok(package) => package,
        Err(fault) => {
            return control.send(&Answer::Fault { file: 0, text: short(&fault.to_string()) }.encode(), None);
        }
    };
    let has_manifest = package.has_manifest;
    for member in std::iter::once(package.description).chain(package.disks) {
        control.send(&Answer::Member(member).encode(), None)?;
    }
    control.send(&Answer::Packed { has_manifest }.encode(), None)
}

/// Whether a VMDK in an archive is whole, and names no other file.
fn stands_alone(disk: &dyn Disk) -> Result<(), String> {
    struct Nothing;
    impl Parts for Nothing {
        fn named(&mut self, image: &Path, name: &str) -> Result<Option<Arc<dyn Disk>>, ImageError> {
            Err(ImageError::Parts { path: image.to_owned(), name: name.to_owned() })
        }
    }
    foreign::look(disk, ImageFormat::Vmdk, &mut Nothing).map_err(|error| match error {
        ImageError::CutShort { needed_bytes, length_bytes, .. } => format!(
            "it is cut short: by its own tables it has at least {needed_bytes} bytes, and it has {length_bytes}"
        ),
        ImageError::Unmeasured { why, .. } => format!("it cannot be told whether it is whole: {why}"),
        ImageError::Parts { name, .. } => format!("it stands on another file, {name:?}, which is not read"),
        other => other.to_string(),
    })
}

/// The files that the caller gave, by their names, in the order in which they came.
fn number(files: &[PathBuf], path: &Path) -> usize {
    files.iter().rposition(|known| known == path).unwrap_or(0)
}

fn short(text: &str) -> &[u8] {
    text.as_bytes().get(..TEXT_BYTES_MAX).unwrap_or(text.as_bytes())
}

/// Files come from the caller, if it gives them.
struct Asking<'a> {
    control: &'a mut Lane,
    files: Vec<PathBuf>,
    backing: bool,
    data_file: bool,
}

impl Asking<'_> {
    fn ask(&mut self, image: &Path, name: &[u8], role: Role) -> io::Result<Option<RawDisk>> {
        let gone = |_| io::Error::other("the caller does not answer");
        let answer = Answer::Named { file: number(&self.files, image), role, name };
        self.control.send(&answer.encode(), None).map_err(gone)?;
        let (packet, passed) = self.control.receive_passed().map_err(gone)?;
        match (Ask::decode(packet), passed) {
            (Some(Ask::Granted(named)), Some(file)) => {
                let disk = opened(named, file);
                self.files.push(disk.path().to_owned());
                Ok(Some(disk))
            }
            (Some(Ask::Gone), None) => Ok(None),
            _ => Err(io::Error::other("the caller does not answer")),
        }
    }
}

impl Files for Asking<'_> {
    fn allows(&self, role: qcow2::Role) -> bool {
        match role {
            qcow2::Role::Backing => self.backing,
            qcow2::Role::Data => self.data_file,
        }
    }

    fn refer(&mut self, image: &Path, name: &[u8], role: qcow2::Role) -> Result<Arc<dyn Disk>, OpenError> {
        let role = match role {
            qcow2::Role::Backing => Role::Backing,
            qcow2::Role::Data => Role::Data,
        };
        // What no path can be the caller refuses whatever it is.
        let name = name.get(..BYTES_MAX).unwrap_or(name);
        let opened = self.ask(image, name, role).and_then(|file| file.ok_or(io::ErrorKind::NotFound.into()));
        let file = opened.map_err(|source| OpenError::Io { path: image.to_owned(), source })?;
        Ok(Arc::new(file))
    }
}

impl Parts for Asking<'_> {
    fn named(&mut self, image: &Path, name: &str) -> Result<Option<Arc<dyn Disk>>, ImageError> {
        let opened = self.ask(image, name.as_bytes(), Role::Part);
        let opened = opened.map_err(|source| ImageError::Io { path: image.to_owned(), source })?;
        Ok(opened.map(|file| -> Arc<dyn Disk> { Arc::new(file) }))
    }
}

/// Answers on every socket that comes, each with a thread, until the caller closes this one.
fn serve(mut control: Lane, disk: &Arc<Qcow2Disk>, files: &Arc<[PathBuf]>) -> Result<(), Trouble> {
    let system = |error: io::Error| Trouble::System(error.to_string());
    loop {
        let (packet, passed) = control.receive_passed()?;
        let (Some(Ask::Lane), Some(socket)) = (Ask::decode(packet), passed) else {
            return Err(Trouble::Lie("no socket"));
        };
        let lane = Lane::new(socket, None).map_err(system)?;
        let mut teller = Teller { lane, disk: Arc::clone(disk), files: Arc::clone(files), trouble: None };
        let answers = move || while teller.answer().is_ok() {};
        Builder::new().name("lane".to_owned()).spawn(answers).map_err(system)?;
    }
}

/// Answers the questions of one socket.
struct Teller {
    lane: Lane,
    disk: Arc<Qcow2Disk>,
    files: Arc<[PathBuf]>,
    /// Why nothing is told any more: what goes through the disk's runs takes errors of reading alone.
    trouble: Option<Trouble>,
}

impl Teller {
    /// Answers one question; an error is the end.
    fn answer(&mut self) -> Result<(), Trouble> {
        let ask = Ask::decode(self.lane.receive()?);
        let told = match ask {
            Some(Ask::Read(range)) => self.runs(range, true),
            Some(Ask::Map(range)) => self.runs(range, false),
            Some(Ask::First(range)) => self.first(range),
            Some(Ask::Bitmaps) => self.bitmaps(),
            Some(Ask::Marked(range, bitmap)) => self.marked(&range, &bitmap),
            _ => return Err(Trouble::Lie("no question")),
        };
        match (self.trouble.take(), told) {
            (Some(trouble), _) => Err(trouble),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &ReadError) -> Result<(), Trouble> {
        let number = |path: &Path| number(&self.files, path);
        let text;
        let answer = match error {
            ReadError::Unreadable { path, offset, length_bytes, source } => Answer::Unreadable {
                file: number(path),
                offset: *offset,
                length_bytes: *length_bytes,
                errno: source.raw_os_error().unwrap_or(0),
            },
            ReadError::Shrank { path, now_bytes, .. } => {
                Answer::Shrank { file: number(path), now_bytes: *now_bytes }
            }
            ReadError::Qcow2 { path, fault } => {
                text = fault.to_string();
                Answer::Fault { file: number(path), text: short(&text) }
            }
            other => {
                text = other.to_string();
                Answer::Fault { file: 0, text: short(&text) }
            }
        };
        let packet = answer.encode();
        self.lane.send(&packet, None)
    }

    fn send(&mut self, packet: &[u8]) -> Result<(), ReadError> {
        self.lane.send(packet, None).map_err(|trouble| {
            self.trouble = Some(trouble);
            ReadError::Reader { path: PathBuf::new(), problem: String::new() }
        })
    }

    /// Where the bytes of `range` are. What is compressed is decompressed when bytes are wanted.
    fn runs(&mut self, range: Range<u64>, wants_bytes: bool) -> Result<(), ReadError> {
        let disk = Arc::clone(&self.disk);
        let end = range.end;
        let mut places = Vec::new();
        let mut cluster = Vec::new();
        disk.runs(range, &mut |guest, run| {
            let kind = match run {
                Run::Zero => Kind::Zero,
                Run::File { file, host, .. } => Kind::File { file, host },
                Run::Packed(packed) if wants_bytes => {
                    self.flush(&mut places, false)?;
                    let length_bytes = guest.end.saturating_sub(guest.start);
                    cluster.resize(usize::try_from(length_bytes).unwrap_or(usize::MAX), 0);
                    disk.unpack(packed, guest.start, &mut cluster)?;
                    return self.bytes(&cluster, guest.end == end);
                }
                Run::Packed(_) => Kind::Data,
            };
            push(&mut places, guest.end.saturating_sub(guest.start), kind);
            let is_full = places.len() >= RUNS_MAX;
            if is_full || guest.end == end { self.flush(&mut places, guest.end == end) } else { Ok(()) }
        })
    }

    fn first(&mut self, range: Range<u64>) -> Result<(), ReadError> {
        let disk = Arc::clone(&self.disk);
        disk.first_run(range, &mut |guest, run| {
            let kind = match run {
                Run::Zero => Kind::Zero,
                Run::File { file, host, .. } => Kind::File { file, host },
                Run::Packed(_) => Kind::Data,
            };
            let mut places = Vec::new();
            push(&mut places, guest.end.saturating_sub(guest.start), kind);
            self.flush(&mut places, true)
        })
    }

    fn flush(&mut self, places: &mut Vec<PlacedRun>, is_last: bool) -> Result<(), ReadError> {
        if places.is_empty() {
            return Ok(());
        }
        let runs = std::mem::take(places);
        self.send(&Answer::Runs { is_last, runs }.encode())
    }

    fn bytes(&mut self, bytes: &[u8], is_end: bool) -> Result<(), ReadError> {
        let mut left = length(bytes);
        for piece in bytes.chunks(BYTES_MAX) {
            left = left.saturating_sub(length(piece));
            self.send(&Answer::Bytes { is_last: is_end && left == 0, bytes: piece }.encode())?;
        }
        Ok(())
    }

    fn bitmaps(&mut self) -> Result<(), ReadError> {
        for bitmap in self.disk.bitmaps()? {
            self.send(&Answer::Bitmap(bitmap).encode())?;
        }
        self.send(&Answer::Done.encode())
    }

    fn marked(&mut self, range: &Range<u64>, bitmap: &Bitmap) -> Result<(), ReadError> {
        let mut places = Vec::new();
        let mut at = range.start;
        for marked in self.disk.bitmap_ranges(bitmap, range.clone())? {
            push(&mut places, marked.start.saturating_sub(at), Kind::Zero);
            push(&mut places, marked.end.saturating_sub(marked.start), Kind::Data);
            at = marked.end;
            if places.len() >= RUNS_MAX {
                self.flush(&mut places, at == range.end)?;
            }
        }
        push(&mut places, range.end.saturating_sub(at), Kind::Zero);
        self.flush(&mut places, true)
    }
}

/// Adds a place, to the last one if that goes on.
fn push(places: &mut Vec<PlacedRun>, length_bytes: u64, kind: Kind) {
    match places.last_mut() {
        _ if length_bytes == 0 => {}
        Some(last) if last.kind == kind && !matches!(kind, Kind::File { .. }) => {
            last.length_bytes = last.length_bytes.saturating_add(length_bytes);
        }
        _ => places.push(PlacedRun { length_bytes, kind }),
    }
}
