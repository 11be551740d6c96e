//! Parts of a repository that go away in the middle of a backup: "saved" means that all of it is there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, Site, noise, told, walk};

/// A backup that stops when its first packs are stored, while `change` happens, and then goes on to its end.
fn while_it_saves(site: &Site, change: impl FnOnce()) -> Output {
    let arguments = ["backup", "--key-file", "w.key", "--vm", "web01", "--stdin", "disk0"];
    let mut command = site.command(&arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let packs = site.place.join("zones/default/packs");
    let stored = || {
        let all = || fs::read_dir(&packs).into_iter().flatten().flatten();
        all().flat_map(|one| walk(&one.path())).filter(|path| !path.to_string_lossy().contains('#')).count()
    };
    let (before, started) = (stored(), Instant::now());
    for seed in 0.. {
        pipe.write_all(&noise(seed + 7, 4 * MIB)).unwrap();
        if stored() > before {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(240), "nothing is stored");
    }
    change();
    pipe.write_all(&noise(3, 4 * MIB)).unwrap();
    drop(pipe);
    child.wait_with_output().unwrap()
}

#[test]
fn what_goes_away_in_the_middle_of_a_backup_is_named_and_nothing_counts_as_saved() {
    let site = Site::new();
    let zone = site.place.join("zones/default");
    let (packs, one, other) = (zone.join("packs"), site.path("one"), site.path("other"));
    fs::create_dir_all(&zone).unwrap();
    fs::create_dir(&one).unwrap();
    symlink(&one, &packs).unwrap();
    let refused = |what: &str, output: &Output| {
        assert_eq!(output.status.code(), Some(1), "{what}: {}", told(output));
        assert!(told(output).contains("is not any more"), "{what}: {}", told(output));
    };

    // As when a disk that is mounted there is unmounted.
    let unmounted = while_it_saves(&site, || {
        fs::create_dir(&other).unwrap();
        fs::remove_file(&packs).unwrap();
        symlink(&other, &packs).unwrap();
    });
    refused("another folder", &unmounted);
    fs::remove_file(&packs).unwrap();
    symlink(&one, &packs).unwrap();

    let cleared = while_it_saves(&site, || {
        let folders = fs::read_dir(&one).unwrap().flatten().map(|entry| entry.path());
        // What is just being written is not there any more by then.
        folders.for_each(|folder| walk(&folder).iter().for_each(|pack| drop(fs::remove_file(pack))));
    });
    refused("no packs", &cleared);

    let config = fs::read(site.place.join("config")).unwrap();
    let bare = while_it_saves(&site, || fs::remove_file(site.place.join("config")).unwrap());
    refused("no config", &bare);
    fs::write(site.place.join("config"), config).unwrap();

    let whole = while_it_saves(&site, || {});
    assert!(whole.status.success(), "{}", told(&whole));
}
