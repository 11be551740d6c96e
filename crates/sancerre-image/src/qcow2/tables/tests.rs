//! Entries by hand and at random.

use proptest::prelude::*;

use super::*;

fn geometry(version: u32, bits: u32, has_subclusters: bool, has_data_file: bool) -> Geometry {
    let cluster_bytes = NonZeroU64::new(1 << bits).unwrap();
    Geometry::new(version, bits, cluster_bytes, has_subclusters, has_data_file)
}

fn cluster(geometry: &Geometry, entry: u64, parts: u64) -> Result<Cluster, Fault> {
    geometry.cluster(&[entry.to_be_bytes(), parts.to_be_bytes()].concat(), 0)
}

#[test]
fn plain_entries_mean_what_the_document_says() {
    let plain = geometry(3, 16, false, false);
    let whole = |entry| {
        cluster(&plain, entry, 0).map(|found| match found {
            Cluster::Whole(place) => place,
            parts @ Cluster::Parts { .. } => panic!("{parts:?}"),
        })
    };
    assert_eq!(whole(0).unwrap(), ClusterPlace::Backing);
    assert_eq!(whole(1).unwrap(), ClusterPlace::Zero);
    assert_eq!(whole(0x5_0001).unwrap(), ClusterPlace::Zero);
    assert_eq!(whole(0x5_0000).unwrap(), ClusterPlace::Data { host: 0x5_0000 });
    assert_eq!(whole(COPIED | 0x5_0000).unwrap(), ClusterPlace::Data { host: 0x5_0000 });
    for wrong in [COPIED, 0x5_0200, 0x5_0002, 1 << 56 | 0x5_0000, COMPRESSED | COPIED | 0x5_0000] {
        assert!(whole(wrong).is_err(), "{wrong:#x}");
    }
    let old = geometry(2, 16, false, false);
    assert!(cluster(&old, 1, 0).is_err(), "version 2 has no zero clusters");
}

#[test]
fn compressed_entries_have_an_offset_and_sectors_by_the_size_of_clusters() {
    for bits in 9..=21 {
        let sizes = geometry(3, bits, false, false);
        let at = 70 - bits;
        let entry = COMPRESSED | 0x1234 | 1 << at;
        let expected = ClusterPlace::Compressed { host: 0x1234, length_bytes: 1024 - 0x34 };
        assert_eq!(cluster(&sizes, entry, 0).unwrap(), Cluster::Whole(expected), "{bits}");
        let most = COMPRESSED | ((1 << 62) - (1u64 << at));
        let Cluster::Whole(ClusterPlace::Compressed { length_bytes, .. }) = cluster(&sizes, most, 0).unwrap()
        else {
            panic!("{bits}");
        };
        assert_eq!(length_bytes, 2 << bits);
    }
    assert!(cluster(&geometry(3, 9, false, false), COMPRESSED | 1 << 57, 0).is_err(), "past 56 bits");
    assert!(cluster(&geometry(3, 16, false, true), COMPRESSED | 0x1234, 0).is_err(), "in a data file");
    assert!(cluster(&geometry(3, 16, true, false), COMPRESSED | 0x1234, 1).is_err(), "with parts");
}

#[test]
fn parts_of_a_cluster_have_places_of_their_own() {
    let sizes = geometry(3, 16, true, false);
    let found = cluster(&sizes, 0x5_0000, 0b10 | 0b100 << 32).unwrap();
    let place = |within| sizes.place(found, within);
    assert_eq!(place(0), (ClusterPlace::Backing, 2048));
    assert_eq!(place(2050), (ClusterPlace::Data { host: 0x5_0802 }, 2046));
    assert_eq!(place(4096), (ClusterPlace::Zero, 2048));
    assert_eq!(place(65_535), (ClusterPlace::Backing, 1));
    assert!(cluster(&sizes, 0x5_0000, 1 | 1 << 32).is_err(), "both at once");
    assert!(cluster(&sizes, 0, 1).is_err(), "allocated nowhere");
    assert!(cluster(&sizes, 1, 0).is_err(), "the zero bit is not for these");
    let zeros = cluster(&sizes, 0, u64::from(u32::MAX) << 32).unwrap();
    assert_eq!(sizes.place(zeros, 10_000).0, ClusterPlace::Zero);
}

#[test]
fn a_data_file_has_clusters_where_the_guest_has_them() {
    let sizes = geometry(3, 16, false, true);
    assert_eq!(cluster(&sizes, COPIED, 0).unwrap(), Cluster::Whole(ClusterPlace::Data { host: 0 }));
    assert_eq!(cluster(&sizes, 0, 0).unwrap(), Cluster::Whole(ClusterPlace::Backing));
    assert!(cluster(&sizes, COPIED | 0x1_0000, 0).is_err());
}

#[test]
fn first_tables_point_to_whole_clusters() {
    let sizes = geometry(3, 16, false, false);
    assert_eq!(sizes.l2_offset(0).unwrap(), None);
    assert_eq!(sizes.l2_offset(COPIED | 0x3_0000).unwrap(), Some(0x3_0000));
    for wrong in [COPIED, 1, 0x3_0200, 1 << 56 | 0x3_0000] {
        assert!(sizes.l2_offset(wrong).is_err(), "{wrong:#x}");
    }
}

proptest! {
    /// Any number is refused, or leads to a place that is aligned and inside what offsets can name.
    #[test]
    fn any_entry_is_refused_or_sound(
        entry in any::<u64>(), parts in any::<u64>(), bits in 14u32..=21, kind in 0u8..8, within in any::<u64>(),
    ) {
        let sizes = geometry(2 + u32::from(kind & 1), bits, kind & 2 != 0, kind & 4 != 0);
        let within = within % (1 << bits);
        if let Ok(found) = cluster(&sizes, entry, parts) {
            let (place, length) = sizes.place(found, within);
            prop_assert!(length > 0 && within + length <= 1 << bits);
            match place {
                ClusterPlace::Data { host } => prop_assert!((host - within) % (1 << bits) == 0 && host < 1 << 56),
                ClusterPlace::Compressed { host, length_bytes } => {
                    prop_assert!(host < 1 << 56 && length_bytes <= 2 << bits && kind & 4 == 0);
                }
                ClusterPlace::Zero | ClusterPlace::Backing => {}
            }
        }
        let _ = sizes.l2_offset(entry);
    }

    #[test]
    fn a_short_table_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), guest in any::<u64>()) {
        let sizes = geometry(3, 16, true, false);
        let _ = sizes.cluster(&bytes, guest);
        prop_assert!(sizes.cluster(&[], guest).is_err());
    }
}
