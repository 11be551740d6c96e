//! The client against servers in memory: honest ones of every kind, and liars.

// Lists of ranges with one range in them are meant.
#![allow(clippy::single_range_in_vec_init)]

mod server;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use server::{Asked, Server, chunk, context, data, error, extents, hole, honest, options, reply, simple};

use super::wire::{
    COMMAND_BLOCK_STATUS, COMMAND_READ, FLAG_DF, OPTION_GO, OPTION_SET_META_CONTEXT, OPTION_STRUCTURED_REPLY,
};
use super::{Fault, NbdDisk, NbdOptions};
use crate::{Disk, ReadError};

/// 1 MiB and 5 blocks: data with zero blocks in it.
fn content() -> Vec<u8> {
    let byte = |at: usize| if at / 4096 % 4 == 1 { 0 } else { (at / 97 % 251) as u8 + 1 };
    (0..(1 << 20) + 5 * 4096).map(byte).collect()
}

fn whole(disk: &NbdDisk) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0xaa; disk.size_bytes() as usize];
    disk.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn blocks_where(test: impl Fn(usize) -> bool) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in (0..261).filter(|block| test(*block)) {
        let range = block as u64 * 4096..block as u64 * 4096 + 4096;
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges
}

#[test]
fn an_honest_server_is_read_whatever_it_can_do() {
    let full = Server::new(content());
    let plain = Server { is_structured: false, contexts: vec![], ..full.clone() };
    let old = Server { handshake: 0, blocks: None, ..plain.clone() };
    let no_go =
        plain.clone().replying(|_, option| (option == OPTION_GO).then(|| reply(option, 0x8000_0001, b"")));
    let unaligned = Server { blocks: Some((4096, 4096, 40_000)), ..full.clone() };
    for server in [full, plain, old, no_go, unaligned] {
        let disk = server.open().unwrap();
        assert_eq!(disk.size_bytes(), content().len() as u64);
        assert!(whole(&disk).unwrap() == content());
        for (offset, length) in [(0, 0), (1, 1), (4095, 2), (77, 100_000), (content().len() - 1, 1)] {
            let mut bytes = vec![0xaa; length];
            disk.read_at(offset as u64, &mut bytes).unwrap();
            assert!(bytes == content()[offset..offset + length], "{offset} {length}");
        }
        let wanted = if server.contexts.is_empty() {
            vec![0..content().len() as u64]
        } else {
            blocks_where(|block| block % 4 != 1)
        };
        assert_eq!(disk.data_ranges(0..disk.size_bytes()).unwrap(), wanted);
        assert!(disk.data_ranges(9..9).unwrap().is_empty());
        disk.check_unchanged().unwrap();
    }
}

#[test]
fn requests_honour_the_block_sizes_of_the_server() {
    let server = Server { blocks: Some((4096, 4096, 40_000)), ..Server::new(content()) };
    let disk = server.open().unwrap();
    disk.read_at(5, &mut [0; 200_000]).unwrap();
    disk.data_ranges(1..2).unwrap();
    let asked = server.asked.lock().unwrap();
    assert!(asked.len() > 5);
    for Asked { offset, length, command, .. } in asked.iter() {
        assert!(offset % 4096 == 0 && length % 4096 == 0, "{offset} {length}");
        assert!(*length <= 36_864 || *command == COMMAND_BLOCK_STATUS, "{length}");
    }
}

#[test]
fn many_requests_are_under_way_and_answers_come_in_any_order() {
    // The server keeps four requests back and answers them from the last to the first.
    let held: Mutex<Vec<Asked>> = Mutex::new(Vec::new());
    let server = Server::new(content()).answering(move |server, asked| {
        if asked.command != COMMAND_READ {
            return honest(server, asked);
        }
        let mut held = held.lock().unwrap();
        held.push(asked);
        if held.len() < 4 && asked.offset + u64::from(asked.length) < server.disk.len() as u64 {
            return Vec::new();
        }
        let answers = held.drain(..).rev().map(|asked| {
            let (from, length) = (asked.offset as usize, asked.length as usize);
            let middle = length / 2;
            let second = data(asked, 0, (from + middle) as u64, &server.disk[from + middle..from + length]);
            let first = data(asked, 1, from as u64, &server.disk[from..from + middle]);
            [second, first].concat()
        });
        answers.collect::<Vec<_>>().concat()
    });
    assert!(whole(&server.open().unwrap()).unwrap() == content());
    assert_eq!(server.reads().len(), 17);
}

#[test]
fn holes_in_an_answer_are_zeros() {
    let server = Server::new(content()).answering(|server, asked| {
        let mut at = asked.offset as usize;
        let end = at + asked.length as usize;
        let mut answer = Vec::new();
        while at < end {
            let next = (at + 4096).min(end);
            let is_zero = server.disk[at..next].iter().all(|byte| *byte == 0);
            answer.extend(match is_zero {
                true => hole(asked, 0, at as u64, (next - at) as u32),
                false => data(asked, 0, at as u64, &server.disk[at..next]),
            });
            at = next;
        }
        [answer, chunk(asked, 1, 0, &[])].concat()
    });
    assert!(whole(&server.open().unwrap()).unwrap() == content());
    let unfragmented = NbdOptions { unfragmented: true, ..options() };
    server.open_with(&unfragmented).unwrap().read_at(0, &mut [0; 10]).unwrap();
    assert_eq!(server.reads().last().unwrap().flags, FLAG_DF);
}

#[test]
fn a_dirty_bitmap_is_a_change_map_and_a_missing_one_an_error() {
    let server = Server::new(content());
    let with = |name: &str| NbdOptions { bitmap: Some(name.to_owned()), ..options() };
    for single_extents in [false, true] {
        let disk = server.open_with(&NbdOptions { single_extents, ..with("qemu:dirty-bitmap:b") }).unwrap();
        let wanted = blocks_where(|block| block % 3 == 0);
        assert_eq!(disk.changed_ranges(0..disk.size_bytes()).unwrap(), wanted);
        assert_eq!(disk.changed_ranges(1..4097).unwrap(), [1..4096]);
        let map = disk.changes().unwrap();
        assert_eq!((map.ranges(), map.source()), (&wanted[..], "qemu:dirty-bitmap:b"));
        assert_eq!(disk.data_ranges(0..disk.size_bytes()).unwrap(), blocks_where(|block| block % 4 != 1));
    }
    let message = server.open_with(&with("qemu:dirty-bitmap:c")).unwrap_err().to_string();
    assert!(message.contains("not asked for") || message.contains("it has base:allocation"), "{message}");
    let poor = Server { is_structured: false, contexts: vec![], ..server.clone() };
    let message = poor.open_with(&with("qemu:dirty-bitmap:b")).unwrap_err().to_string();
    assert!(message.contains("no context qemu:dirty-bitmap:b: it lists none"), "{message}");
    let without = server.clone().replying(|_, option| {
        (option == OPTION_SET_META_CONTEXT)
            .then(|| [context(option, 1, "base:allocation"), reply(option, 1, &[])].concat())
    });
    let message = without.open_with(&with("qemu:dirty-bitmap:b")).unwrap_err().to_string();
    assert!(message.contains("it has base:allocation, qemu:dirty-bitmap:b"), "{message}");
    let error =
        Server { contexts: vec![(7, "base:allocation")], ..server }.open().unwrap().changes().unwrap_err();
    assert!(error.to_string().contains("no dirty bitmap was asked for"), "{error}");
}

#[test]
fn a_block_that_cannot_be_read_is_named_and_the_connection_goes_on() {
    let bad = 20 * 4096_u64;
    let server = Server::new(content()).answering(move |server, asked| {
        let covers = (asked.offset..asked.offset + u64::from(asked.length)).contains(&bad);
        match asked.command {
            COMMAND_READ if covers => error(asked, 1, 5, "sector lost\u{1b}[2J"),
            _ => honest(server, asked),
        }
    });
    let disk = server.open().unwrap();
    let error = disk.read_at(0, &mut vec![0; 300_000]).unwrap_err();
    let ReadError::Server { offset, length_bytes, .. } = &error else { panic!("{error}") };
    assert_eq!((*offset, *length_bytes), (bad, 4096));
    let message = error.to_string();
    assert!(message.contains("nbd://h.example/vda") && message.contains("EIO"), "{message}");
    assert!(message.contains("sector lost\\u{1b}[2J"), "{message}");
    disk.read_at(bad + 4096, &mut [0; 4096]).unwrap();
}

#[test]
fn an_error_that_goes_away_costs_time_only() {
    let left = AtomicU64::new(2);
    let server = Server::new(content()).answering(move |server, asked| {
        let fails = asked.command == COMMAND_READ
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if fails { simple(asked, 5, &[]) } else { honest(server, asked) }
    });
    assert!(whole(&server.open().unwrap()).unwrap() == content());
}

/// Opens, asks and reads everything; the first error.
fn try_all(server: &Server) -> Result<Vec<u8>, String> {
    let bitmap = Some("qemu:dirty-bitmap:b".to_owned());
    let disk = server.open_with(&NbdOptions { bitmap, ..options() }).map_err(|error| error.to_string())?;
    let all = 0..disk.size_bytes();
    disk.data_ranges(all.clone()).map_err(|error| error.to_string())?;
    disk.changed_ranges(all).map_err(|error| error.to_string())?;
    whole(&disk).map_err(|error| error.to_string())
}

#[test]
fn a_server_that_lies_in_the_handshake_is_refused() {
    let info = |size: u64, flags: u16| {
        [&0_u16.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
    };
    let blocks = |least: u32, most: u32| {
        [&3_u16.to_be_bytes()[..], &least.to_be_bytes(), &[0; 4], &most.to_be_bytes()].concat()
    };
    let go = |infos: Vec<Vec<u8>>| {
        let infos = infos.into_iter().flat_map(|info| reply(OPTION_GO, 3, &info));
        [infos.collect::<Vec<_>>(), reply(OPTION_GO, 1, &[])].concat()
    };
    let endless = reply(OPTION_GO, 3, b"\0\x01").repeat(5000);
    let set = OPTION_SET_META_CONTEXT;
    let replies: Vec<(u32, Vec<u8>)> = vec![
        (OPTION_GO, go(vec![])),
        (OPTION_GO, go(vec![info(u64::MAX, 1)])),
        (OPTION_GO, go(vec![info(4096, 0)])),
        (OPTION_GO, go(vec![info(4096, 1), blocks(3, 4096)])),
        (OPTION_GO, go(vec![info(4096, 1), blocks(0, 4096)])),
        (OPTION_GO, go(vec![info(1 << 20, 1), blocks(1 << 17, 1 << 18)])),
        (OPTION_GO, go(vec![info(4096, 1), blocks(4096, 512)])),
        (OPTION_GO, go(vec![b"\0\0short".to_vec()])),
        (OPTION_GO, go(vec![vec![0]])),
        (OPTION_GO, go(vec![[info(4096, 1), vec![0]].concat()])),
        (OPTION_GO, reply(OPTION_GO, 2, &[])),
        (OPTION_GO, reply(OPTION_SET_META_CONTEXT, 1, &[])),
        (OPTION_GO, endless),
        (OPTION_GO, [&reply(OPTION_GO, 1, &[])[..16], &u32::MAX.to_be_bytes()].concat()),
        (OPTION_GO, vec![0; 20]),
        (OPTION_STRUCTURED_REPLY, reply(OPTION_STRUCTURED_REPLY, 3, &[])),
        (set, [context(set, 1, "base:allocation"), context(set, 1, "qemu:dirty-bitmap:b")].concat()),
        (set, [context(set, 1, "base:allocation"), context(set, 2, "base:allocation")].concat()),
        (set, context(set, 1, "qemu:dirty-bitmap:other\u{1b}")),
        (set, reply(set, 4, &[1, 2])),
        (set, reply(set, 4, b"\0\0\0\x01\xff\xff")),
    ];
    for (option, answer) in replies {
        let server =
            Server::new(content()).replying(move |_, asked| (asked == option).then(|| answer.clone()));
        let message =
            server.open_with(&NbdOptions { bitmap: Some("qemu:dirty-bitmap:b".into()), ..options() });
        let message = message.unwrap_err().to_string();
        assert!(message.contains("breaks the protocol"), "{message}");
        assert!(message.contains("nbd://h.example/vda") && !message.contains('\u{1b}'), "{message}");
    }
}

#[test]
fn a_server_that_says_no_is_quoted() {
    for (kind, wanted) in [
        (0x8000_0002, "forbidden by its policy: \"go away\""),
        (0x8000_0005, "say nbds:// instead"),
        (0x8000_0006, "no such export"),
        (0x8000_0007, "shutting down"),
        (0x8000_0099, "error 153"),
    ] {
        let server = Server::new(content())
            .replying(move |_, option| (option == OPTION_GO).then(|| reply(option, kind, b"go away")));
        let message = server.open().unwrap_err().to_string();
        assert!(message.contains(wanted) && message.contains("the server refused the export"), "{message}");
    }
    let tls = Server::new(content())
        .replying(|_, option| (option == OPTION_STRUCTURED_REPLY).then(|| reply(option, 0x8000_0005, b"")));
    assert!(tls.open().unwrap_err().to_string().contains("say nbds://"));
    let odd = Server { blocks: Some((8192, 8192, 65536)), ..Server::new(content()) };
    assert!(odd.open().unwrap_err().to_string().contains("end within a block of 8192"));
}

/// Answers to a read that a client must not take for the disk.
fn lies_about_bytes(server: &Server, asked: Asked) -> Vec<Vec<u8>> {
    let (from, length) = (asked.offset, asked.length);
    let bytes = &server.disk[from as usize..from as usize + length as usize];
    let shorter = &bytes[..bytes.len() - 1];
    let mut other = asked;
    other.cookie = asked.cookie.wrapping_add(77);
    vec![
        simple(asked, 0, bytes),
        simple(other, 5, &[]),
        data(other, 1, from, bytes),
        data(asked, 1, from, shorter),
        data(asked, 1, from, &[bytes, &[0]].concat()),
        data(asked, 1, from + 1, bytes),
        data(asked, 1, from.wrapping_sub(1), bytes),
        data(asked, 1, u64::MAX, bytes),
        data(asked, 1, from, &[]),
        [data(asked, 0, from, bytes), data(asked, 1, from, bytes)].concat(),
        [data(asked, 0, from, bytes), hole(asked, 1, from + 5, 1)].concat(),
        hole(asked, 1, from, length - 1),
        hole(asked, 1, from, length + 1),
        hole(asked, 1, from, u32::MAX),
        hole(asked, 1, from, 0),
        [hole(asked, 0, from, 1).repeat(2), chunk(asked, 1, 0, &[])].concat(),
        chunk(asked, 1, 0, &[]),
        chunk(asked, 0, 0, &[]),
        chunk(asked, 1, 0, &[1]),
        chunk(asked, 1, 1, &[1; 8]),
        chunk(asked, 1, 2, &[1; 11]),
        chunk(asked, 1, 3, bytes),
        chunk(asked, 1, 5, &[0; 12]),
        chunk(asked, 1, 0x8001, &[0; 5]),
        chunk(asked, 1, 0x8001, &[0; 6]),
        chunk(asked, 1, 0x8001, &[0, 0, 0, 5, 0, 9, b'x']),
        chunk(asked, 1, 0x8002, &[0, 0, 0, 5, 0, 1, b'x']),
        error(asked, 0, 5, "again").repeat(100),
        vec![0; 16],
        [&chunk(asked, 1, 0x8001, &[])[..16], &u32::MAX.to_be_bytes()].concat(),
        [&data(asked, 1, from, bytes)[..16], &u32::MAX.to_be_bytes(), &from.to_be_bytes()].concat(),
        Vec::new(),
    ]
}

#[test]
fn no_lie_about_bytes_is_taken_for_the_disk() {
    let count = {
        let server = Server::new(content());
        lies_about_bytes(&server, Asked { flags: 0, command: 0, cookie: 1, offset: 0, length: 4096 }).len()
    };
    for lie in 0..count {
        let server = Server::new(content()).answering(move |server, asked| match asked.command {
            COMMAND_READ if asked.offset == 65536 => lies_about_bytes(server, asked).swap_remove(lie),
            _ => honest(server, asked),
        });
        let disk = server.open().unwrap();
        let error = whole(&disk).unwrap_err().to_string();
        let wanted = error.contains("breaks the protocol") || error.contains("broke while");
        assert!(wanted && error.contains("nbd://h.example/vda"), "lie {lie}: {error}");
        let after = disk.read_at(0, &mut [0; 512]).unwrap_err().to_string();
        assert!(after.contains("after an earlier failure"), "lie {lie}: {after}");
    }
}

/// Answers about extents that a client must not take for an answer.
fn lies_about_extents(asked: Asked) -> Vec<Vec<u8>> {
    let length = asked.length;
    let both = |list: &[(u32, u32)]| [extents(asked, 0, 7, list), extents(asked, 1, 9, list)].concat();
    vec![
        both(&[]),
        both(&[(0, 0)]),
        both(&[(length, 0), (1, 0)]),
        both(&[(u32::MAX, 0), (u32::MAX, 0)]),
        extents(asked, 1, 8, &[(length, 0)]),
        extents(asked, 1, 9, &[(length, 0)]).repeat(2),
        extents(asked, 0, 7, &[(length, 0)]).repeat(2),
        extents(asked, 0, 9, &[(length, 0)]).repeat(2),
        chunk(asked, 1, 0, &[]),
        chunk(asked, 0, 0, &[]).repeat(100),
        chunk(asked, 1, 5, &[0, 0, 0, 7]),
        chunk(asked, 1, 5, &[0, 0, 0, 7, 0, 0, 0, 1, 0]),
        [&chunk(asked, 1, 5, &[])[..16], &u32::MAX.to_be_bytes(), &[0, 0, 0, 7]].concat(),
        [&chunk(asked, 1, 5, &[])[..16], &0x8000_0004_u32.to_be_bytes(), &[0, 0, 0, 7]].concat(),
        data(asked, 1, asked.offset, &[0; 10]),
        simple(asked, 0, &[]),
        Vec::new(),
    ]
}

#[test]
fn no_lie_about_extents_is_taken_for_holes() {
    let count = lies_about_extents(Asked { flags: 0, command: 7, cookie: 1, offset: 0, length: 4096 }).len();
    for lie in 0..count {
        let server = Server::new(content()).answering(move |server, asked| match asked.command {
            COMMAND_BLOCK_STATUS => lies_about_extents(asked).swap_remove(lie),
            _ => honest(server, asked),
        });
        let error = try_all(&server).unwrap_err();
        assert!(error.contains("breaks the protocol") || error.contains("broke while"), "lie {lie}: {error}");
    }
    let refusing = Server::new(content()).answering(|server, asked| match asked.command {
        COMMAND_BLOCK_STATUS => error(asked, 1, 22, "no"),
        _ => honest(server, asked),
    });
    assert!(try_all(&refusing).unwrap_err().contains("EINVAL (invalid request): \"no\""));
}

#[test]
fn a_server_that_never_comes_to_the_end_makes_everything_data() {
    let server = Server::new(content()).answering(|server, asked| match asked.command {
        COMMAND_BLOCK_STATUS => [extents(asked, 0, 7, &[(1, 3)]), extents(asked, 1, 9, &[(1, 0)])].concat(),
        _ => honest(server, asked),
    });
    let bitmap = Some("qemu:dirty-bitmap:b".to_owned());
    let disk = server.open_with(&NbdOptions { bitmap, ..options() }).unwrap();
    let steps = disk.size_bytes() / 4096 + 64;
    assert_eq!(disk.data_ranges(0..disk.size_bytes()).unwrap(), [steps..disk.size_bytes()]);
    assert_eq!(disk.changed_ranges(0..disk.size_bytes()).unwrap(), [steps..disk.size_bytes()]);
}

#[test]
fn a_hole_without_zeros_is_data() {
    let server = Server::new(content()).answering(|server, asked| match asked.command {
        COMMAND_BLOCK_STATUS => extents(asked, 1, 7, &[(4096, 1), (4096, 2), (asked.length, 3)]),
        _ => honest(server, asked),
    });
    let server = Server { contexts: vec![(7, "base:allocation")], ..server };
    assert_eq!(server.open().unwrap().data_ranges(0..1 << 20).unwrap(), [0..4096]);
}

#[test]
fn extents_are_asked_for_once() {
    let server = Server::new(content());
    let disk = server.open().unwrap();
    for start in (0..disk.size_bytes() - 65536).step_by(65536) {
        disk.data_ranges(start..start + 65536).unwrap();
    }
    assert_eq!(server.asked.lock().unwrap().len(), 1);
}

#[test]
fn several_readers_use_several_connections_and_another_disk_is_noticed() {
    let server = Server::new(content());
    let disk = server.open().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(whole(&disk).unwrap() == content()));
        }
    });
    let len = content().len() as u64;
    let replaced =
        Server { connections: std::sync::Arc::new(Mutex::new(vec![len, len, len - 4096])), ..server };
    let disk = replaced.open().unwrap();
    let errors: Vec<String> = std::thread::scope(|scope| {
        let reads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..50).find_map(|_| whole(&disk).err()))).collect();
        reads.into_iter().filter_map(|read| read.join().unwrap()).map(|error| error.to_string()).collect()
    });
    let count = replaced.connections.lock().unwrap().len();
    assert!(errors.is_empty() == (count == 2), "{errors:?}");
    assert!(
        errors.is_empty() || errors.iter().any(|error| error.contains("the export was replaced")),
        "{errors:?}"
    );
}

#[test]
fn ranges_outside_of_the_disk_are_refused_here() {
    let server = Server::new(content());
    let disk = server.open().unwrap();
    for (offset, length) in [(disk.size_bytes(), 1), (u64::MAX, 2), (disk.size_bytes() - 1, 2)] {
        let error = disk.read_at(offset, &mut vec![0; length]).unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
    }
    assert!(matches!(disk.data_ranges(0..u64::MAX), Err(ReadError::OutOfRange { .. })));
    assert!(server.reads().is_empty());
    assert!(matches!(
        NbdDisk::contexts(&super::NbdUri::unix("/nowhere".into(), ""), &options()).unwrap_err().fault,
        Fault::Connect(_)
    ));
}
