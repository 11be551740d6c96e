//! A child that lies: every answer that does not fit costs an error, and no more.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::confined::channel::{Lane, pair};
use crate::confined::wire::{Answer, Ask, Kind, PACKET_BYTES_MAX, PlacedRun, Role};
use crate::confined::{ConfinedDisk, Talk, look, open};
use crate::foreign::ImageError;
use crate::foreign::whole::Named;
use crate::qcow2::Policy;
use crate::{Disk, OpenError, ReadError, open_raw};

const FILE_BYTES: u64 = 1 << 20;
const DISK_BYTES: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_millis(400);

type Packets = Vec<Vec<u8>>;

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(site.image(), vec![b'i'; FILE_BYTES as usize]).unwrap();
        std::fs::write(site.folder.path().join("base"), b"base").unwrap();
        site
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// A child that says these packets, whatever it is asked.
    fn opens(&self, packets: Packets) -> Result<ConfinedDisk, OpenError> {
        let (talk, _liar) = talk(packets);
        open::open(talk, open_raw(&self.image()).unwrap(), Policy::new(None).unwrap())
    }

    /// A child that opens well, and then answers every question with these packets.
    fn disk(&self, packets: Packets) -> (ConfinedDisk, JoinHandle<()>) {
        let (ours, theirs) = pair().unwrap();
        let liar = std::thread::spawn(move || answer_all(theirs, &packets));
        let talk = Talk::new(ours, None, PATIENCE).unwrap();
        let disk = open::open(talk, open_raw(&self.image()).unwrap(), Policy::new(None).unwrap());
        (disk.unwrap(), liar)
    }

    fn looks(&self, packets: Packets) -> Result<(), ImageError> {
        let (talk, _liar) = talk(packets);
        let parts = Named::new(&self.image(), Some(self.folder.path())).unwrap();
        look::look(talk, &open_raw(&self.image()).unwrap(), 0, &parts)
    }
}

fn talk(packets: Packets) -> (Talk, JoinHandle<()>) {
    let (ours, theirs) = pair().unwrap();
    let liar = std::thread::spawn(move || {
        let mut lane = Lane::new(theirs, None).unwrap();
        let _ = lane.receive_passed();
        for packet in packets {
            let _ = lane.send(&packet, None);
        }
        // It neither goes on nor goes away, until the caller does.
        while lane.receive_passed().is_ok() {}
    });
    (Talk::new(ours, None, PATIENCE).unwrap(), liar)
}

fn answer_all(control: OwnedFd, packets: &[Vec<u8>]) {
    let mut control = Lane::new(control, None).unwrap();
    control.receive_passed().unwrap();
    control.send(&Answer::Opened { size_bytes: DISK_BYTES }.encode(), None).unwrap();
    std::thread::scope(|scope| {
        while let Ok((packet, socket)) = control.receive_passed() {
            assert_eq!(Ask::decode(packet), Some(Ask::Lane));
            let mut lane = Lane::new(socket.unwrap(), None).unwrap();
            scope.spawn(move || {
                while lane.receive().is_ok() {
                    for packet in packets {
                        if lane.send(packet, None).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
}

fn runs(is_last: bool, places: &[(u64, Kind)]) -> Vec<u8> {
    let place = |(length_bytes, kind): &(u64, Kind)| PlacedRun { length_bytes: *length_bytes, kind: *kind };
    Answer::Runs { is_last, runs: places.iter().map(place).collect() }.encode()
}

fn bytes(is_last: bool, length: usize) -> Vec<u8> {
    Answer::Bytes { is_last, bytes: &vec![b'x'; length] }.encode()
}

fn in_file(file: usize, host: u64) -> Kind {
    Kind::File { file, host }
}

/// A question for 4096 bytes, answered wrongly.
fn lies_about_bytes() -> Vec<(&'static str, Packets)> {
    let fault = |file| Answer::Fault { file, text: b"x" }.encode();
    vec![
        ("nothing", vec![]),
        ("a packet of no kind", vec![vec![0xff; 9]]),
        ("a packet that is too long", vec![vec![b'B'; PACKET_BYTES_MAX + 1]]),
        ("no runs", vec![vec![b'R', 1]]),
        ("half a run", vec![runs(true, &[(4096, Kind::Zero)])[..12].to_vec()]),
        ("a run of nothing", vec![runs(true, &[(0, Kind::Zero), (4096, Kind::Zero)])]),
        ("a run of everything", vec![runs(true, &[(u64::MAX, Kind::Zero)])]),
        ("a run too long", vec![runs(true, &[(4097, Kind::Zero)])]),
        ("a run too short", vec![runs(true, &[(4095, Kind::Zero)])]),
        ("an end without a last", vec![runs(false, &[(4096, Kind::Zero)])]),
        ("a second run behind the end", vec![runs(true, &[(4096, Kind::Zero), (1, Kind::Zero)])]),
        ("lengths that wrap", vec![runs(true, &[(4000, Kind::Zero), (u64::MAX - 3999, Kind::Zero)])]),
        ("a file that is none", vec![runs(true, &[(4096, in_file(1, 0))])]),
        ("the largest file", vec![runs(true, &[(4096, in_file(65_535, 0))])]),
        ("a place behind the file", vec![runs(true, &[(4096, in_file(0, FILE_BYTES - 4095))])]),
        ("a place that wraps", vec![runs(true, &[(4096, in_file(0, u64::MAX - 100))])]),
        ("data without bytes", vec![runs(true, &[(4096, Kind::Data)])]),
        ("bytes too many", vec![bytes(true, 4097)]),
        ("bytes too few", vec![bytes(true, 4095)]),
        ("no bytes", vec![bytes(false, 0), bytes(true, 4096)]),
        ("bytes behind the end", vec![bytes(false, 4000), bytes(true, 97)]),
        ("many small bytes", vec![bytes(false, 1); 4096]),
        ("an answer to another question", vec![Answer::Opened { size_bytes: 1 }.encode()]),
        ("an end of another list", vec![Answer::Done.encode()]),
        ("a name", vec![Answer::Named { file: 0, role: Role::Backing, name: b"base" }.encode()]),
        ("a fault of no file", vec![fault(7)]),
        (
            "an error of no file",
            vec![Answer::Unreadable { file: 9, offset: 0, length_bytes: 0, errno: 5 }.encode()],
        ),
        ("a flag that is none", vec![vec![b'B', 2, 0]]),
        ("words behind the word", vec![[Answer::Done.encode(), vec![0]].concat()]),
    ]
}

#[test]
fn a_child_that_lies_about_bytes_costs_an_error_and_no_more() {
    let site = Site::new();
    let lies = lies_about_bytes();
    assert!(lies.len() >= 20);
    for (lie, packets) in lies {
        let begun = Instant::now();
        let (disk, liar) = site.disk(packets);
        let error = disk.read_at(8192, &mut [0; 4096]).expect_err(lie);
        let said = error.to_string();
        assert!(matches!(error, ReadError::Reader { .. }) && said.contains("image"), "{lie}: {said}");
        // Nothing is asked any more of one that has lied.
        assert_eq!(disk.read_at(0, &mut [0; 4096]).expect_err(lie).to_string(), said, "{lie}");
        assert!(disk.data_ranges(0..4096).is_err() && disk.bitmaps().is_err(), "{lie}");
        drop(disk);
        liar.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{lie}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_child_that_lies_about_places_costs_an_error_and_no_more() {
    let site = Site::new();
    let mut lies = lies_about_bytes();
    // What is a lie about bytes is none about places.
    lies.retain(|(lie, _)| *lie != "data without bytes");
    lies.push(("bytes", vec![bytes(true, 4096)]));
    lies.push(("many small places", vec![runs(false, &[(1, Kind::Zero); 2000]); 3]));
    for (lie, packets) in lies {
        let (disk, liar) = site.disk(packets);
        let error = disk.data_ranges(8192..8192 + 4096).expect_err(lie);
        assert!(matches!(error, ReadError::Reader { .. }), "{lie}: {error}");
        drop(disk);
        liar.join().unwrap();
    }
    // Alternating bytes of a larger range would fill the memory.
    let place = |at: u64| (1, if at.is_multiple_of(2) { Kind::Zero } else { Kind::Data });
    let places: Vec<_> = (0..2000).map(place).collect();
    let (disk, _liar) = site.disk(vec![runs(false, &places); 100]);
    let said = disk.data_ranges(0..DISK_BYTES).unwrap_err().to_string();
    assert!(said.contains("more places than there can be"), "{said}");
}

#[test]
fn a_child_that_lies_about_the_next_data_costs_an_error_and_no_more() {
    let site = Site::new();
    let rest = DISK_BYTES - 8192;
    let of_other_questions = ["a run too long", "a run too short", "data without bytes"];
    let mut lies = lies_about_bytes();
    lies.retain(|(lie, _)| !of_other_questions.contains(lie));
    lies.push(("a run behind the end", vec![runs(true, &[(rest + 1, Kind::Zero)])]));
    lies.push(("two runs", vec![runs(true, &[(512, Kind::Zero), (512, Kind::Zero)])]));
    lies.push(("bytes", vec![bytes(true, 4096)]));
    for (lie, packets) in lies {
        let (disk, liar) = site.disk(packets);
        let error = disk.next_data(8192).expect_err(lie);
        assert!(matches!(error, ReadError::Reader { .. }), "{lie}: {error}");
        drop(disk);
        liar.join().unwrap();
    }
    // Small steps end early, with no data passed over.
    let (disk, _liar) = site.disk(vec![runs(true, &[(1, Kind::Zero)])]);
    let stopped = disk.next_data(8192).unwrap().unwrap();
    assert!(8192 < stopped && stopped < 16_384, "{stopped}");
    assert_eq!(disk.next_data(DISK_BYTES).unwrap(), None);
}

#[test]
fn an_endless_list_of_bitmaps_ends() {
    let site = Site::new();
    let bitmap = crate::Bitmap {
        name: "b".to_owned(),
        granularity_bytes: 0,
        is_in_use: false,
        is_recording: false,
        is_foreign: false,
        table_offset: 0,
        table_entries: 0,
    };
    let (disk, _liar) = site.disk(vec![Answer::Bitmap(bitmap.clone()).encode(); 70_000]);
    assert!(matches!(disk.bitmaps(), Err(ReadError::Reader { .. })));
    // A grain of no bytes is no division by zero.
    let (disk, _liar) = site.disk(vec![runs(true, &[(4096, Kind::Data)])]);
    assert_eq!(disk.bitmap_ranges(&bitmap, 0..4096).unwrap(), [0..4096]);
}

#[test]
fn an_honest_answer_of_any_form_is_taken() {
    let site = Site::new();
    let packets = vec![runs(false, &[(1024, in_file(0, 5)), (512, Kind::Zero)]), bytes(true, 2560)];
    let (disk, _liar) = site.disk(packets);
    let mut buffer = [0xee; 4096];
    disk.read_at(8192, &mut buffer).unwrap();
    assert_eq!((buffer[0], buffer[1023], buffer[1024], buffer[1535]), (b'i', b'i', 0, 0));
    assert!(buffer[1536..].iter().all(|byte| *byte == b'x'));
    disk.read_at(DISK_BYTES, &mut []).unwrap();
    assert!(matches!(disk.read_at(DISK_BYTES, &mut [0]), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn a_child_that_lies_while_it_opens_costs_an_error_and_no_more() {
    let site = Site::new();
    let named = |file, role, name: &'static [u8]| Answer::Named { file, role, name }.encode();
    let lies: Vec<(&str, Packets)> = vec![
        ("nothing", vec![]),
        ("a packet of no kind", vec![vec![0; 3]]),
        ("a disk beyond all sizes", vec![Answer::Opened { size_bytes: u64::MAX }.encode()]),
        ("half a size", vec![vec![b'O', 1, 2]]),
        ("a file that names and is none", vec![named(1, Role::Backing, b"base")]),
        ("a part of another format", vec![named(0, Role::Part, b"base")]),
        ("a role that is none", vec![vec![b'N', 0, 0, 9, b'x']]),
        ("runs", vec![runs(true, &[(512, Kind::Zero)])]),
        ("a verdict", vec![Answer::Whole.encode()]),
        ("a fault of no file", vec![Answer::Fault { file: 3, text: b"x" }.encode()]),
    ];
    for (lie, packets) in lies {
        let error = site.opens(packets).expect_err(lie);
        assert!(matches!(error, OpenError::Reader { .. }), "{lie}: {error}");
        assert!(error.to_string().contains("image"), "{lie}: {error}");
    }
    // It asks for a file that nobody allowed, and for one that is outside.
    let error = site.opens(vec![named(0, Role::Backing, b"base")]).unwrap_err();
    assert!(matches!(error, OpenError::Qcow2 { .. }), "{error}");
    // Its words cannot move the cursor, and are not endless.
    let text = [b"\x1b[2J".to_vec(), vec![b'x'; 20_000]].concat();
    let said = site.opens(vec![Answer::Fault { file: 0, text: &text }.encode()]).unwrap_err().to_string();
    assert!(!said.contains('\x1b') && said.len() < 5000, "{}", said.len());
}

#[test]
fn a_child_that_lies_about_a_whole_image_costs_an_error_and_no_more() {
    let site = Site::new();
    let named = |file, role, name: &'static [u8]| Answer::Named { file, role, name }.encode();
    let lies: Vec<(&str, Packets)> = vec![
        ("nothing", vec![]),
        ("cut short, and long enough", vec![Answer::CutShort { file: 0, needed_bytes: FILE_BYTES }.encode()]),
        ("another file cut short", vec![Answer::CutShort { file: 4, needed_bytes: u64::MAX }.encode()]),
        ("another file unmeasured", vec![Answer::Unmeasured { file: 4, why: b"x" }.encode()]),
        ("a backing file", vec![named(0, Role::Backing, b"base")]),
        ("a name that is no text", vec![named(0, Role::Part, b"\xff")]),
        ("a file that names and is none", vec![named(2, Role::Part, b"base")]),
        ("a disk", vec![Answer::Opened { size_bytes: 0 }.encode()]),
    ];
    for (lie, packets) in lies {
        let error = site.looks(packets).expect_err(lie);
        assert!(matches!(error, ImageError::Reader { .. }), "{lie}: {error}");
    }
    for outside in [&b"/etc/passwd"[..], b"../x", b""] {
        let packet = Answer::Named { file: 0, role: Role::Part, name: outside }.encode();
        let error = site.looks(vec![packet]).unwrap_err();
        assert!(matches!(error, ImageError::Parts { .. }), "{error}");
    }
    // One that asks for files for ever is ended.
    let ask = named(0, Role::Part, b"base");
    let error = site.looks(vec![ask; 30_000]).unwrap_err();
    assert!(matches!(error, ImageError::Reader { .. }), "{error}");
}

/// Packets that come one by one have no more time than one that does not come.
#[test]
fn a_child_that_trickles_is_ended() {
    let (ours, theirs) = pair().unwrap();
    let liar = std::thread::spawn(move || {
        let mut lane = Lane::new(theirs, None).unwrap();
        while lane.send(&bytes(false, 512), None).is_ok() {
            std::thread::sleep(PATIENCE / 4);
        }
    });
    let mut lane = Lane::new(ours, Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    while lane.receive().is_ok() {}
    assert!(begun.elapsed() < PATIENCE * 4);
    drop(lane);
    liar.join().unwrap();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Any packets are an error or an answer of the right length.
    #[test]
    fn no_packets_make_the_caller_panic_or_wait(
        packets in proptest::collection::vec(
            proptest::collection::vec(proptest::num::u8::ANY, 1..60), 1..5),
        kind in proptest::sample::select(b"RBFESDMOWNCU".to_vec()),
    ) {
        let site = Site::new();
        let packets: Packets = packets.into_iter().map(|mut packet| { packet[0] = kind; packet }).collect();
        let (disk, _liar) = site.disk([packets.clone(), vec![Answer::Done.encode()]].concat());
        let _ = disk.read_at(0, &mut [0; 600]);
        let (disk, _liar) = site.disk([packets, vec![Answer::Done.encode()]].concat());
        let _ = disk.data_ranges(0..600);
    }
}
