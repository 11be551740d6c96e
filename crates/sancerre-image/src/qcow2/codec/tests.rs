//! What is compressed comes back, also for readers with a small window; what is not is refused.

use proptest::prelude::*;

use super::*;

const BOTH: [Codec; 2] = [Codec::Zlib, Codec::Zstd];

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8 ^ (at / 5000) as u8).collect()
}

#[test]
fn what_follows_a_cluster_is_not_looked_at() {
    for codec in BOTH {
        let cluster = text(65_536);
        let mut stored = compress(codec, &cluster).unwrap().unwrap();
        assert!(stored.len() < 20_000);
        let length = stored.len();
        stored.extend_from_slice(&[0xff; 511]);
        let mut read = vec![0; 65_536];
        decompress(codec, &stored, &mut read).unwrap();
        assert!(read == cluster);
        assert!(decompress(codec, &stored[..length - 10], &mut read).is_err(), "cut short");
        assert!(decompress(codec, &[], &mut read).is_err(), "nothing");
        let mut more = vec![0; 65_537];
        assert!(decompress(codec, &stored, &mut more).is_err(), "too little");
    }
}

fn noise(length: usize) -> Vec<u8> {
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 56) as u8)
    };
    std::iter::repeat_n((), length).scan(1u64, |state, ()| next(state)).collect()
}

#[test]
fn what_does_not_get_smaller_is_not_compressed() {
    for codec in BOTH {
        assert!(compress(codec, &noise(65_536)).unwrap().is_none(), "{codec:?}");
    }
}

/// Readers inflate with 4 KiB of window, as QEMU does. zlib's own refuses what looks farther back.
#[test]
fn deflated_clusters_look_back_four_kibibytes_at_most() {
    let stored_bytes = |period: usize| {
        let mut cluster = noise(period).repeat(60_000 / period);
        cluster.resize(65_536, 0);
        compress(Codec::Zlib, &cluster).unwrap().unwrap().len()
    };
    assert!(stored_bytes(3000) < 10_000, "what repeats itself inside the window is found");
    assert!(stored_bytes(5000) > 60_000, "what repeats itself farther back is not");
}

#[test]
fn a_cluster_may_be_several_frames() {
    let cluster = text(65_536);
    let frames: Vec<u8> =
        cluster.chunks(10_000).flat_map(|piece| zstd::bulk::compress(piece, 3).unwrap()).collect();
    let mut read = vec![0; 65_536];
    decompress(Codec::Zstd, &frames, &mut read).unwrap();
    assert!(read == cluster);
    // Frames that are empty, or to be skipped, are passed over and do not go on for ever.
    let empty = zstd::bulk::compress(&[], 3).unwrap();
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
    decompress(Codec::Zstd, &[&empty[..], &skipped, &frames].concat(), &mut read).unwrap();
    assert!(decompress(Codec::Zstd, &empty.repeat(1000), &mut read).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_fill_the_cluster(bytes in prop::collection::vec(any::<u8>(), 0..2000), bits in 9u32..17) {
        let mut cluster = vec![0; 1 << bits];
        for codec in BOTH {
            let _ = decompress(codec, &bytes, &mut cluster);
            let frame = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
            let _ = decompress(codec, &frame, &mut cluster);
        }
    }

    #[test]
    fn clusters_come_back(seed in prop::collection::vec(any::<u8>(), 1..300), bits in 9u32..17) {
        let cluster: Vec<u8> = seed.iter().copied().cycle().take(1 << bits).collect();
        for codec in BOTH {
            if let Some(stored) = compress(codec, &cluster).unwrap() {
                prop_assert!(stored.len() < cluster.len());
                let mut read = vec![0; cluster.len()];
                decompress(codec, &stored, &mut read).unwrap();
                prop_assert!(read == cluster);
            }
        }
    }
}
