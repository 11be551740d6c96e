//! Images that were cut, grown, and changed at every field of every table: an error that says what and what to do, or
//! the right bytes, within a second and 256 MiB.

use std::collections::BTreeMap;
use std::time::Duration;

use super::lab::{KIB, Lab, MIB, whole};
use crate::testing::{is_inner, peak_bytes, repeat_alone, worked};
use crate::{Disk, OpenError, Qcow2Disk, Qcow2Fault, ReadError};

const MEMORY_BYTES_MAX: u64 = 256 << 20;
const TIME_MAX: Duration = Duration::from_secs(1);

/// Fields of the header: where, and how many bytes.
const FIELDS: [(usize, usize); 21] = [
    (0, 4),
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 4),
    (100, 4),
    (104, 1),
    (112, 4),
    (116, 4),
];

fn u64_of(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// One image and all that is done to it.
struct Victim<'a> {
    lab: &'a Lab,
    form: &'static str,
    image: Vec<u8>,
    disk: Vec<u8>,
    /// How each attempt ended, by the first words of the error.
    ends: BTreeMap<String, u32>,
    asked_qemu: u32,
}

impl Victim<'_> {
    fn l1(&self) -> usize {
        u64_of(&self.image, 40) as usize
    }

    fn l2(&self) -> usize {
        (u64_of(&self.image, self.l1()) & 0x00ff_ffff_ffff_fe00) as usize
    }

    fn cluster(&self) -> usize {
        1 << self.image[23]
    }

    /// Puts a number of so many bytes there, and tries.
    fn put(&mut self, at: usize, bytes: usize, number: u64) {
        let mut image = self.image.clone();
        if at + bytes > image.len() {
            return;
        }
        image[at..at + bytes].copy_from_slice(&number.to_be_bytes()[8 - bytes..]);
        self.attempt(&format!("{number:#x} at {at}"), &image);
    }

    fn attempt(&mut self, what: &str, image: &[u8]) {
        let what = format!("{}: {what}", self.form);
        self.lab.write("victim.qcow2", image);
        let started = worked();
        let result = read_all(self.lab);
        let took = worked() - started;
        assert!(took < TIME_MAX, "{what} took {took:?}");
        match result {
            Err(error) => {
                let told = error.split_once("image: ").map_or(error.as_str(), |(_, told)| told);
                assert!(error.contains("victim.qcow2"), "{what}: {error}");
                assert!(told.contains(';') || told.contains("check the path"), "{what}: no advice: {error}");
                let first = told.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
                *self.ends.entry(first).or_default() += 1;
            }
            Ok(bytes) => {
                *self.ends.entry("read".to_owned()).or_default() += 1;
                if bytes.as_ref().is_some_and(|bytes| *bytes != self.disk) {
                    self.agree_with_qemu(&what, &bytes.unwrap());
                }
            }
        }
    }

    /// Bytes other than before must be what QEMU reads, too.
    fn agree_with_qemu(&mut self, what: &str, bytes: &[u8]) {
        self.asked_qemu += 1;
        let theirs = self.lab.by_qemu("victim.qcow2").unwrap_or_else(|error| {
            panic!("{what}: QEMU refuses ({error}), and here {} bytes were read", bytes.len())
        });
        // QEMU drops what is less than a sector.
        assert!(bytes.len() - theirs.len() < 512, "{what}: {} bytes, {}", bytes.len(), theirs.len());
        assert!(bytes[..theirs.len()] == theirs, "{what}: other bytes than QEMU reads");
    }
}

/// All bytes; none when the disk is too large to be read here, and was read in part.
fn read_all(lab: &Lab) -> Result<Option<Vec<u8>>, String> {
    let disk = lab.open("victim.qcow2").map_err(|error| error.to_string())?;
    let text = |error: ReadError| error.to_string();
    let size = disk.size_bytes();
    for bitmap in disk.bitmaps().map_err(text)? {
        disk.bitmap_ranges(&bitmap, 0..size.min(64 * MIB)).map_err(text)?;
    }
    disk.data_ranges(0..size).map_err(text)?;
    if size > 16 * MIB {
        let mut bytes = vec![0; MIB as usize];
        disk.read_at(size - MIB, &mut bytes).map_err(text)?;
        disk.read_at(0, &mut bytes).map_err(text)?;
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    disk.read_at(0, &mut bytes).map_err(text)?;
    Ok(Some(bytes))
}

fn damage_header(victim: &mut Victim<'_>) {
    for (at, bytes) in FIELDS {
        let old = victim
            .image
            .get(at..at + bytes)
            .map_or(0, |old| old.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)));
        let cluster = victim.cluster() as u64;
        let end = victim.image.len() as u64;
        let odd =
            [0, 1, 2, 3, 7, 9, 22, 63, 64, old + 1, old.wrapping_sub(1), old * 2, cluster, end, end - 8];
        odd.into_iter().for_each(|number| victim.put(at, bytes, number));
        (0..bytes as u32 * 8).for_each(|bit| victim.put(at, bytes, old ^ 1 << bit));
        victim.put(at, bytes, u64::MAX);
        victim.put(at, bytes, u64::MAX >> 1);
    }
}

fn damage_entries(victim: &mut Victim<'_>) {
    let (l1, l2, cluster) = (victim.l1(), victim.l2(), victim.cluster());
    let wide = if victim.form == "parts" { 16 } else { 8 };
    let places = [l1, l1 + 8, l2, l2 + wide, l2 + 2 * wide, l2 + 9 * wide, l2 + 8, l2 + cluster - 8];
    for at in places {
        let Some(old) = victim.image.get(at..at + 8).map(|_| u64_of(&victim.image, at)) else { continue };
        let (l1, l2, end) = (l1 as u64, l2 as u64, victim.image.len() as u64);
        let offsets = [0, cluster as u64, l1, l2, l2 + 512, end, end / 512 * 512 - 512, 1 << 40, 1 << 55];
        for number in offsets {
            victim.put(at, 8, number);
            victim.put(at, 8, number | 1 << 63);
            victim.put(at, 8, number | 1 << 62);
            victim.put(at, 8, number | 1);
        }
        (0..64).for_each(|bit| victim.put(at, 8, old ^ 1 << bit));
        victim.put(at, 8, u64::MAX);
    }
}

fn damage_length(victim: &mut Victim<'_>) {
    let image = victim.image.clone();
    let (l1, l2, cluster, end) = (victim.l1(), victim.l2(), victim.cluster(), image.len());
    let mut cuts = vec![0, 1, 3, 4, 8, 24, 71, 72, 103, 104, 105, 111, 112, 113, 120, 511, 512];
    for at in [l1, l2, cluster, end, end / 2, end / 3] {
        cuts.extend([at.saturating_sub(513), at.saturating_sub(1), at, at + 1, at + 7, at + 8, at + 512]);
    }
    cuts.into_iter()
        .filter(|cut| *cut < end)
        .for_each(|cut| victim.attempt(&format!("cut to {cut}"), &image[..cut]));
    for more in [1, 511, 512, 70_000] {
        victim.attempt(&format!("grown by {more}"), &[image.clone(), vec![0xa5; more]].concat());
    }
}

/// Bytes of the clusters: what is compressed must not decompress to something, unless QEMU agrees.
fn damage_data(victim: &mut Victim<'_>) {
    let end = victim.image.len();
    for number in 0..60 {
        let at = end * number / 60;
        let mut image = victim.image.clone();
        image[at] ^= 0x40;
        victim.attempt(&format!("bit of byte {at} flipped"), &image);
    }
}

/// Each form of image has other tables and entries.
fn damage(test: &str, form: &'static str, options: &str) {
    if !is_inner() {
        return repeat_alone(&format!("qcow2::tests::hostile::{test}"));
    }
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", 200 * KIB, 3);
    lab.img(&format!("convert -f raw -O qcow2 {options} disk.raw good.qcow2"));
    let disk = whole(&lab.open("good.qcow2").unwrap());
    let image = lab.read("good.qcow2");
    let mut victim = Victim { lab: &lab, form, image, disk, ends: BTreeMap::new(), asked_qemu: 0 };
    damage_header(&mut victim);
    damage_entries(&mut victim);
    damage_length(&mut victim);
    damage_data(&mut victim);
    let attempts = victim.ends.values().sum::<u32>();
    assert!(victim.ends.len() >= 8, "too few kinds of ends: {:?}", victim.ends);
    assert!(attempts > 1500 && victim.asked_qemu > 10, "{attempts}, QEMU asked {}", victim.asked_qemu);
    assert!(peak_bytes() < MEMORY_BYTES_MAX, "{} MiB", peak_bytes() >> 20);
}

macro_rules! damaged {
    ($($test:ident $form:literal $options:literal)*) => {$(
        #[test]
        fn $test() {
            damage(stringify!($test), $form, $options);
        }
    )*};
}

damaged! {
    a_damaged_image_is_refused_or_read_as_qemu_reads_it "plain" "-o cluster_size=64k"
    a_damaged_image_of_version_2_is_refused_or_read_as_qemu_reads_it "old" "-o compat=0.10,cluster_size=4k"
    a_damaged_image_of_small_clusters_is_refused_or_read_as_qemu_reads_it "small" "-o cluster_size=512"
    a_damaged_zlib_image_is_refused_or_read_as_qemu_reads_it "zlib" "-c -o cluster_size=16k"
    a_damaged_zstd_image_is_refused_or_read_as_qemu_reads_it "zstd"
        "-c -o compression_type=zstd,cluster_size=64k"
    a_damaged_image_of_subclusters_is_refused_or_read_as_qemu_reads_it "parts"
        "-o extended_l2=on,cluster_size=16k"
}

#[test]
fn damaged_bitmaps_are_refused_and_the_disk_is_read_all_the_same() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", 700 * KIB, 3);
    lab.img("convert -f raw -O qcow2 -o cluster_size=4k disk.raw good.qcow2");
    for name in ["one", "two"] {
        lab.img(&format!("bitmap --add -g 512 good.qcow2 {name}"));
    }
    lab.io("good.qcow2", &["write -P 1 10k 30k", "write -P 2 300k 1k"]);
    let (image, disk) = (lab.read("good.qcow2"), whole(&lab.open("good.qcow2").unwrap()));
    let extension = image.windows(4).position(|bytes| bytes == [0x23, 0x85, 0x28, 0x75]).unwrap();
    let directory = u64_of(&image, extension + 24) as usize;
    let table = u64_of(&image, directory) as usize;
    let places =
        [(extension + 8, 4), (extension + 16, 8), (extension + 24, 8), (directory, 8), (directory + 8, 4)];
    let more = [
        (directory + 12, 4),
        (directory + 16, 1),
        (directory + 17, 1),
        (directory + 18, 2),
        (directory + 20, 4),
        (table, 8),
    ];
    let mut refused = 0;
    for (at, bytes) in places.into_iter().chain(more) {
        for number in (0..bytes * 8).map(|bit| 1u64 << bit).chain([0, u64::MAX, u64::MAX >> 1]) {
            let mut changed = image.clone();
            changed[at..at + bytes].copy_from_slice(&number.to_be_bytes()[8 - bytes..]);
            lab.write("victim.qcow2", &changed);
            let started = worked();
            let opened = lab.open("victim.qcow2").unwrap();
            assert!(whole(&opened) == disk, "{number:#x} at {at}");
            let listed = opened.bitmaps().and_then(|bitmaps| {
                bitmaps
                    .iter()
                    .try_for_each(|bitmap| opened.bitmap_ranges(bitmap, 0..opened.size_bytes()).map(|_| ()))
            });
            refused += u32::from(listed.is_err());
            assert!(worked() - started < TIME_MAX, "{number:#x} at {at}");
        }
    }
    assert!(refused > 150, "{refused}");
}

/// What must be refused, and the words that say why and what to do.
#[test]
fn each_refusal_says_what_and_what_to_do() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", 700 * KIB, 3);
    let cases: [(&str, u64, &[u8], &str, &str); 16] = [
        ("", 0, b"KDMV", "does not begin as a qcow2 image", "say which format"),
        ("", 7, &[4], "version 4", "qemu-img convert"),
        ("", 77, &[1], "bit 16", "newer version"),
        ("", 79, &[1], "marked dirty", "qemu-img check -r all"),
        ("", 79, &[2], "marked corrupt", "qemu-img check"),
        ("", 35, &[1], "encrypted (AES)", "decrypt"),
        ("", 35, &[2], "encrypted (LUKS)", "decrypt"),
        ("", 23, &[8], "cluster_bits is 8", "qemu-img check"),
        ("", 23, &[22], "cluster_bits is 22", "qemu-img check"),
        ("", 36, &[0xff], "L1 table takes", "larger clusters"),
        ("", 24, &[0xff; 8], "size is 18446744073709551615", "qemu-img check"),
        ("", 40, &[0, 0, 0, 1], "L1 table at offset", "cut short or damaged"),
        ("", 47, &[1], "no multiple of 65536", "qemu-img check"),
        ("", 40, &[0; 8], "lies over its header", "qemu-img check"),
        ("", 104, &[1], "compression_type is 1", "qemu-img check"),
        ("", 103, &[105], "header_length is 105", "qemu-img check"),
    ];
    for (form, at, bytes, what, advice) in cases {
        lab.img(&format!("convert -f raw -O qcow2 {form} disk.raw victim.qcow2"));
        lab.patch("victim.qcow2", at, bytes);
        let error = lab.open("victim.qcow2").unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(advice), "{what}: {error}");
    }
    // The name that the image has for a feature is told, without what a terminal would obey.
    lab.img("convert -f raw -O qcow2 disk.raw victim.qcow2");
    lab.patch("victim.qcow2", 77, &[1]);
    lab.patch("victim.qcow2", 120, b"\0\x10warp \x1b[31mdrive\0");
    let error = lab.open("victim.qcow2").unwrap_err().to_string();
    assert!(error.contains("bit 16 \"warp") && !error.contains('\x1b'), "{error}");
}

fn fault(lab: &Lab) -> Qcow2Fault {
    match lab.open("victim.qcow2") {
        Err(OpenError::Qcow2 { fault, .. }) => *fault,
        Err(other) => panic!("{other}"),
        Ok(disk) => match disk.read_at(0, &mut vec![0; disk.size_bytes() as usize]) {
            Err(ReadError::Qcow2 { fault, .. }) => *fault,
            other => panic!("{other:?}"),
        },
    }
}

#[test]
fn tables_and_clusters_that_lie_over_others_are_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", 700 * KIB, 3);
    lab.img("convert -f raw -O qcow2 -o cluster_size=4k disk.raw good.qcow2");
    let image = lab.read("good.qcow2");
    let l1 = u64_of(&image, 40);
    let l2 = u64_of(&image, l1 as usize) & 0x00ff_ffff_ffff_fe00;
    let spoil = |at: u64, number: u64| {
        lab.write("victim.qcow2", &image);
        lab.patch("victim.qcow2", at, &number.to_be_bytes());
        fault(&lab)
    };
    assert!(matches!(spoil(l1, l1), Qcow2Fault::Overlap { table: "L2 table", other: "L1 table", .. }));
    assert!(matches!(
        spoil(l2, l1 | 1 << 63),
        Qcow2Fault::Overlap { table: "cluster", other: "L1 table", .. }
    ));
    assert!(matches!(spoil(l2, 1 << 50 | 1 << 63), Qcow2Fault::DataOutside { guest: 0, .. }));
    assert!(matches!(spoil(l2, 1 << 50 | 1 << 62), Qcow2Fault::DataOutside { guest: 0, .. }));
    assert!(matches!(spoil(l2, l2 + 512), Qcow2Fault::Unaligned { table: "cluster", .. }));
    assert!(matches!(spoil(l2, l2 | 1 << 1), Qcow2Fault::Entry { .. }));
    assert!(matches!(spoil(l1, 1 << 50), Qcow2Fault::Outside { table: "L2 table", .. }));
}

#[test]
fn an_empty_disk_has_no_table_wherever_it_says_that_it_is() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 victim.qcow2 0");
    lab.patch("victim.qcow2", 40, &[0xa5; 8]);
    let disk = lab.open("victim.qcow2").unwrap();
    assert_eq!((disk.size_bytes(), disk.data_ranges(0..0).unwrap().len()), (0, 0));
    disk.read_at(0, &mut []).unwrap();
}

/// A disk of many tebibytes out of one table, named by all entries.
#[test]
fn a_table_that_all_entries_share_is_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 -o cluster_size=64k victim.qcow2 16T");
    lab.io("victim.qcow2", &["write -P 1 0 64k"]);
    let image = lab.read("victim.qcow2");
    let (l1, entries) = (u64_of(&image, 40), u32::from_be_bytes(image[36..40].try_into().unwrap()));
    let entry = u64_of(&image, l1 as usize).to_be_bytes();
    lab.patch("victim.qcow2", l1, &entry.repeat(entries as usize));
    let started = worked();
    assert!(matches!(fault(&lab), Qcow2Fault::Overlap { other: "other L2 table", .. }));
    assert!(worked() - started < TIME_MAX);
}

/// The largest tables that are read at all.
#[test]
fn the_largest_l1_table_stays_within_time_and_memory() {
    if !is_inner() {
        return repeat_alone("qcow2::tests::hostile::the_largest_l1_table_stays_within_time_and_memory");
    }
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 -o cluster_size=512 victim.qcow2 128G");
    let image = lab.read("victim.qcow2");
    let l1 = u64_of(&image, 40);
    drop(image);
    // Entries that all differ, in a file that is mostly a hole.
    let entries = 4u64 << 20;
    let tables: Vec<u8> = (0..entries).flat_map(|number| ((1 << 30) + number * 512).to_be_bytes()).collect();
    lab.patch("victim.qcow2", l1, &tables);
    drop(tables);
    lab.patch("victim.qcow2", (1 << 30) + (entries + 1) * 512, &[0]);
    let started = worked();
    let disk = lab.open("victim.qcow2").unwrap();
    let opened = worked() - started;
    assert_eq!(disk.data_ranges(0..32 * MIB).unwrap(), []);
    assert!(opened < TIME_MAX, "{opened:?}");
    assert!(peak_bytes() < MEMORY_BYTES_MAX, "{} MiB", peak_bytes() >> 20);
}

/// A few bytes would be a disk of any size: all entries of a table name one cluster.
#[test]
fn clusters_that_lie_over_each_other_are_refused_at_once() {
    let Some(lab) = Lab::new() else { return };
    let mut text = lab.raw("disk.raw", 256 * KIB, 5);
    // Half of it compresses.
    text.chunks_mut(8).for_each(|word| word[..4].fill(0));
    lab.write("disk.raw", &text);
    for options in ["", "-c"] {
        lab.img(&format!("convert -f raw -O qcow2 {options} disk.raw victim.qcow2"));
        lab.img("resize -q -f qcow2 victim.qcow2 512M");
        let image = lab.read("victim.qcow2");
        let l2 = u64_of(&image, u64_of(&image, 40) as usize) & 0x00ff_ffff_ffff_fe00;
        let entry = &image[l2 as usize..l2 as usize + 8];
        lab.patch("victim.qcow2", l2, &entry.repeat(8192));
        let started = worked();
        let refused = fault(&lab);
        assert!(matches!(refused, Qcow2Fault::Claims { .. }), "{options}: {refused}");
        assert!(worked() - started < TIME_MAX);
    }
}

/// A compressed cluster may claim any size and any window; it gets the room of one cluster.
#[test]
fn a_decompression_bomb_gets_no_more_than_a_cluster() {
    if !is_inner() {
        return repeat_alone("qcow2::tests::hostile::a_decompression_bomb_gets_no_more_than_a_cluster");
    }
    let Some(lab) = Lab::new() else { return };
    lab.write("disk.raw", &vec![7; 256 << 10]);
    lab.img("convert -f raw -O qcow2 -c -o compression_type=zstd disk.raw victim.qcow2");
    let image = lab.read("victim.qcow2");
    let l2 = u64_of(&image, u64_of(&image, 40) as usize) & 0x00ff_ffff_ffff_fe00;
    let entry = u64_of(&image, l2 as usize);
    let host = entry & ((1 << 54) - 1);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    // With room for all its sectors.
    let sectors = 255u64;
    lab.patch("victim.qcow2", l2, &(host | sectors << 54 | 1 << 62).to_be_bytes());
    lab.patch("victim.qcow2", host, &bomb);
    let refused = fault(&lab);
    assert!(matches!(refused, Qcow2Fault::Compressed { guest: 0, .. }), "{refused}");
    // A frame header that asks for a window of two gigabytes.
    lab.patch("victim.qcow2", host, &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x02, 0x00, 0x08, 0xff]);
    let refused = fault(&lab);
    assert!(matches!(refused, Qcow2Fault::Compressed { guest: 0, .. }), "{refused}");
    assert!(peak_bytes() < MEMORY_BYTES_MAX, "{} MiB", peak_bytes() >> 20);
}

#[test]
fn an_image_that_is_cut_while_it_is_read_is_an_error() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", 4 * MIB, 3);
    lab.img("convert -f raw -O qcow2 disk.raw victim.qcow2");
    let disk: Qcow2Disk = lab.open("victim.qcow2").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(lab.path("victim.qcow2")).unwrap();
    file.set_len(MIB).unwrap();
    let mut bytes = vec![0; 4 << 20];
    assert!(matches!(disk.read_at(0, &mut bytes), Err(ReadError::Shrank { .. })));
    assert!(disk.check_unchanged().is_err());
}
