//! Children that lie: each lie ends the child, costs one answer, and reaches nothing else.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sancerre_image::{ChangedError, ReadError};

use sancerre_confine::Helper;
use sancerre_image::confined::{self, Lane};

use super::checks::sanitized;
use super::child::Talk;
use super::*;
use crate::node::{Moment, NodeKind};
use crate::wire::{FileSystemInfo, VolumeContent};

struct Zeros;

impl Disk for Zeros {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _offset: u64, buffer: &mut [u8]) -> std::result::Result<(), ReadError> {
        buffer.fill(0);
        Ok(())
    }

    fn data_ranges(&self, range: Range<u64>) -> std::result::Result<Vec<Range<u64>>, ReadError> {
        Ok(vec![range])
    }

    fn check_unchanged(&self) -> std::result::Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("zeros")
    }
}

/// A guest of one disk whose child says these packets, whatever it is asked.
fn told(packets: Vec<Vec<u8>>) -> Guest {
    let helper = Helper { program: "/nowhere/at-all".into(), arguments: vec![OsString::from("x")] };
    let mut reader = GuestReader::new(helper, true);
    reader.patience = Duration::from_millis(300);
    let (ours, theirs) = confined::pair().unwrap();
    thread::spawn(move || {
        let mut lane = Lane::new(theirs, None).unwrap();
        let _ = lane.receive();
        for packet in packets {
            if lane.send(&packet, None).is_err() {
                return;
            }
        }
        // Until the caller has had enough.
        while lane.receive().is_ok() {}
    });
    let talk = Talk { lane: Lane::new(ours, Some(reader.patience)).unwrap(), process: None };
    let state = ChildState { talk: Some(talk), ..ChildState::default() };
    Guest { reader, disks: vec![Arc::new(Zeros)], state: Mutex::new(state), volumes: Vec::new() }
}

fn run(length_bytes: u64, place: RunPlace) -> FileRun {
    FileRun { length_bytes, place }
}

fn runs(runs: &[FileRun]) -> Vec<u8> {
    Answer::Runs(runs.to_vec()).encode()
}

fn node() -> FileNode {
    let modified = Some(Moment { seconds: 0, nanoseconds: 0 });
    FileNode { id: 1, kind: NodeKind::File, size_bytes: 1, mode: None, owner: None, modified, links: 1 }
}

fn entry(name: &[u8]) -> Vec<u8> {
    Answer::FolderEntry(FolderEntry { name: name.to_vec(), node: node() }).encode()
}

fn need(disk: u16, offset: u64, length_bytes: u32) -> Vec<u8> {
    Answer::Need { disk, offset, length_bytes }.encode()
}

fn asked(guest: &Guest) -> Result<Vec<FileRun>> {
    guest.runs(0, 1, b"", 0..100)
}

#[test]
fn lies_about_places_end_the_child() {
    let disk = |offset, length| run(length, RunPlace::Disk { disk: 0, offset });
    for packets in [
        runs(&[disk(0, 101)]),
        runs(&[disk(0, 50), disk(0, 51)]),
        runs(&[disk((1 << 20) - 9, 10)]),
        runs(&[disk(u64::MAX, 10)]),
        runs(&[run(10, RunPlace::Disk { disk: 1, offset: 0 })]),
        runs(&[run(u64::MAX, RunPlace::Hole)]),
        runs(&[run(101, RunPlace::Held)]),
        b"R".to_vec(),
        [runs(&[disk(0, 1)]), vec![0]].concat(),
        need(0, 0, 0),
        need(0, 0, 65_537),
        need(0, (1 << 20) - 1, 2),
        need(0, u64::MAX, 1),
        need(7, 0, 1),
        b"?".to_vec(),
        Answer::Done.encode(),
        Answer::Bytes(b"x").encode(),
        Answer::FileNode(node()).encode(),
        Answer::Link(b"x").encode(),
        vec![b'N'],
        vec![b'F'; 79 << 10],
    ] {
        let guest = told(vec![packets.clone()]);
        let told = asked(&guest);
        let is_fault = packets.first() == Some(&b'F');
        match told {
            Err(GuestError::Reader(said)) if !is_fault => {
                assert!(said.contains("broke its protocol"), "{said}");
            }
            Err(GuestError::Fault(text)) if is_fault => assert!(text.len() < 80 << 10),
            other => panic!("{packets:?}: {other:?}"),
        }
        assert!(is_fault || guest.state.lock().unwrap().talk.is_none());
    }
}

#[test]
fn a_child_that_says_nothing_is_ended() {
    let guest = told(Vec::new());
    let begun = Instant::now();
    assert!(matches!(asked(&guest), Err(GuestError::Reader(said)) if said.contains("no answer")));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_child_that_wants_bytes_for_ever_is_ended() {
    let guest = told(std::iter::repeat_n(need(0, 0, 65_536), 3000).collect());
    // The child never reads: the bytes that it wanted do not fit the socket, and then it is silent.
    assert!(matches!(asked(&guest), Err(GuestError::Reader(_))));
}

#[test]
fn names_that_lead_elsewhere_are_dropped() {
    let names: [&[u8]; 7] = [b"..", b".", b"", b"a/b", b"/etc", b"a\0b", b"good"];
    let mut packets: Vec<Vec<u8>> = names.iter().map(|name| entry(name)).collect();
    packets.push(Answer::Done.encode());
    let mut listed = Vec::new();
    told(packets).list(0, 1, &mut |entry| listed.push(entry.name)).unwrap();
    assert_eq!(listed, [b"good"]);
}

#[test]
fn bytes_that_are_too_many_or_too_few_are_refused() {
    for packets in [
        vec![Answer::Bytes(&[1; 11]).encode()],
        vec![Answer::Bytes(&[1; 9]).encode(), Answer::Done.encode()],
        vec![Answer::Bytes(&[1; 10]).encode(), Answer::Bytes(&[1; 1]).encode()],
        vec![Answer::Bytes(&[]).encode()],
    ] {
        let mut buffer = [0; 10];
        let read = told(packets).held(0, 1, b"", 0, &mut buffer);
        assert!(matches!(read, Err(GuestError::Reader(_))), "{read:?}");
    }
    let mut buffer = [0; 10];
    let packets =
        vec![Answer::Bytes(&[1; 4]).encode(), Answer::Bytes(&[2; 6]).encode(), Answer::Done.encode()];
    told(packets).held(0, 1, b"", 0, &mut buffer).unwrap();
    assert_eq!(buffer, [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
}

#[test]
fn text_of_a_child_is_made_harmless() {
    let guest = told(vec![Answer::Fault("bad \u{1b}[2J\n".to_owned()).encode()]);
    assert!(matches!(asked(&guest), Err(GuestError::Fault(text)) if text == "bad \\u{1b}[2J\\u{a}"));
    let files = FileSystemInfo {
        kind: "\u{1b}".to_owned(),
        label: Vec::new(),
        uuid: String::new(),
        notes: vec!["a\nb".to_owned()],
        root: 1,
    };
    let volume = VolumeInfo {
        name: "../p1:\u{7}".to_owned(),
        disk: Some(0),
        label: Vec::new(),
        size_bytes: 0,
        content: VolumeContent::Files(files),
    };
    let sane = sanitized(volume);
    assert_eq!(sane.name, ".._p1__");
    let VolumeContent::Files(files) = sane.content else { panic!() };
    assert_eq!((files.kind.as_str(), files.notes[0].as_str()), ("\\u{1b}", "a\\u{a}b"));
}

#[test]
fn a_child_that_cannot_be_started_again_is_an_error() {
    let guest = told(vec![b"?".to_vec()]);
    asked(&guest).unwrap_err();
    assert!(matches!(asked(&guest), Err(GuestError::Reader(said)) if said.contains("cannot be started")));
}
