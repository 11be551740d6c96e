//! The built program and the place of its repository: one that goes away while a command runs, one that was meant otherwise,
//! one that two want at once, and files that do not belong there.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{FIRST_LINK_WAITS, Loop, MIB, Site, told, walk};

/// Moves the disk of a repository away while `arguments` run, between the moment when their first object is written and
/// the moment when it gets its name. Returns what they said, and what was written into the folder that was left.
fn taken_away_while(site: &Site, arguments: &[&str]) -> (Output, usize) {
    let mut command = site.command_behind(&FIRST_LINK_WAITS, arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let is_staged = || walk(&site.place).iter().any(|path| path.to_string_lossy().contains('#'));
    while !is_staged() {
        let is_slow = started.elapsed() > Duration::from_secs(240);
        if is_slow || child.try_wait().unwrap().is_some() {
            drop(child.kill());
            panic!("{arguments:?} wrote nothing: {}", told(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (disk, away) = (site.path("disk"), site.path("away"));
    std::fs::rename(&disk, &away).unwrap();
    std::fs::create_dir_all(&site.place).unwrap();
    let output = child.wait_with_output().unwrap();
    let strays = walk(&site.place).len();
    std::fs::remove_dir_all(&disk).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    (output, strays)
}

/// No command says that it did something in a repository that is not there any more, and none writes into the folder
/// that is left below a mount.
#[test]
fn no_command_reports_success_in_a_place_that_went_away() {
    if !Site::has_strace() {
        return;
    }
    let site = Site::empty();
    let place = site.path("disk/repository");
    let site = site.at(place).made();
    for seed in 0..3 {
        assert!(site.back_up(seed, 2 * MIB).status.success());
    }
    let listed = told(&site.succeed(&["snapshots", "--json", "--key-file", "w.key"]));
    let id = |rest: &str| rest.chars().take(16).collect::<String>();
    let ids: Vec<String> = listed.split("\"id\":\"").skip(1).map(id).collect();
    assert_eq!(ids.len(), 3, "{listed}");
    // What `check` quarantines.
    let pack = walk(&site.place.join("zones/default/packs"))
        .into_iter()
        .max_by_key(|path| path.metadata().unwrap().len());
    std::fs::write(pack.unwrap(), b"rotten").unwrap();
    let commands: [&[&str]; 12] = [
        &["hold", "--key-file", "k.key", "web01:latest"],
        &["release", "--key-file", "k.key", "web01:latest"],
        &["forget", "--key-file", "k.key", &ids[1]],
        &["undelete", "--key-file", "k.key", &ids[0]],
        &["gc", "--key-file", "k.key", "--wait", "0s", "--max-drop", "100%"],
        &["check", "--read-data", "--quarantine", "--key-file", "w.key"],
        &["index", "rebuild", "--key-file", "w.key"],
        &["key", "add", "writer", "hv3", "--out", "hv3.key"],
        &["key", "approvals", "1"],
        &["key", "rotate"],
        &["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"],
        &["key", "revoke", "writer", "hv1"],
    ];
    for arguments in commands {
        // What there is to take back, as the command before it failed.
        match arguments[0] {
            "undelete" => drop(site.run(&["forget", "--key-file", "k.key", &ids[0]])),
            "release" => drop(site.succeed(&["hold", "--key-file", "k.key", "web01:latest"])),
            _ => {}
        }
        let names = || walk(&site.place).len();
        let before = names();
        let (output, strays) = taken_away_while(&site, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
        assert!(told(&output).contains("unmounted, moved or replaced"), "{arguments:?}: {}", told(&output));
        assert_eq!(strays, 0, "{arguments:?} wrote into the folder that was left");
        // Nothing of what it would have deleted is gone.
        assert!(names() >= before, "{arguments:?}");
        drop(std::fs::remove_file(site.path("hv3.key")));
    }
}

/// A disk that the kernel makes read-only in the middle of a backup: not saved, and said why.
#[test]
fn a_disk_that_becomes_read_only_is_not_a_saved_backup() {
    let site = Site::empty();
    let Some(disk) = Loop::new(site.folder.path(), 128, &[]) else { return };
    let site = site.at(disk.mountpoint.join("repository")).made();
    let arguments =
        ["backup", "--key-file", "w.key", "--vm", "web01", "--stdin", "disk0", "--retry-for", "0s"];
    let mut command = site.command(&arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&crate::support::noise(1, 4 * MIB)).unwrap();
    let log = site.place.join("zones/default/log");
    let started = Instant::now();
    let entries = || walk(&log).iter().filter(|path| !path.to_string_lossy().contains('#')).count();
    while entries() == 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was announced");
        std::thread::sleep(Duration::from_millis(10));
    }
    // While a file is open for writing the kernel refuses.
    std::thread::sleep(Duration::from_millis(300));
    disk.remount("ro");
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("mounted read-only"), "{}", told(&output));
    disk.remount("rw");
    assert!(!told(&site.succeed(&["snapshots", "--json"])).contains("web01"));
}

/// Locations of other programs and names that nothing replaced: refused with what was meant, and nothing is made.
#[test]
fn a_location_that_means_something_else_is_refused() {
    let site = Site::empty();
    let cases = [
        ("sftp:user@host:/srv/x", "sshfs user@host:/srv/x"),
        ("user@host:/srv/x", "sshfs"),
        ("s3:bucket/x", "s3://bucket/x"),
        ("rclone:remote:x", "rclone mount"),
        ("file:rel", "rel"),
        ("~/backup", "./~/backup"),
        ("$HOME/backup", "$HOME"),
        ("%h/backup", "%h"),
        ("//nas/share", "mount -t cifs"),
        ("\\\\nas\\share", "mount -t cifs"),
        ("s3://bucket/x?y", "?"),
        ("s3://key:secret@bucket/x", "***@bucket"),
        ("file:///srv/../x", ".."),
    ];
    for (location, meant) in cases {
        for arguments in [["init", "-r", location].as_slice(), &["snapshots", "-r", location]] {
            let refused = site.run(arguments);
            assert_eq!(refused.status.code(), Some(2), "{location}: {}", told(&refused));
            assert!(told(&refused).contains(meant), "{location}: {}", told(&refused));
            assert!(!told(&refused).contains("secret"), "{}", told(&refused));
        }
    }
    assert_eq!(std::fs::read_dir(&site.folder).unwrap().count(), 0);
    // Whoever means it can say so.
    site.succeed(&["init", "-r", "./~/a:b", "--key-file", "w.key"]);
    site.succeed(&["snapshots", "-r", "./~/a:b"]);
}

#[test]
fn a_folder_with_other_things_in_it_becomes_no_repository_unless_asked() {
    let site = Site::empty();
    std::fs::create_dir_all(site.place.join("lost+found")).unwrap();
    std::fs::write(site.place.join("thesis.odt"), b"x").unwrap();
    let refused = site.run(&["init"]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    for word in ["thesis.odt", "--among-other-files", "Nothing was made"] {
        assert!(told(&refused).contains(word), "{word}: {}", told(&refused));
    }
    assert!(!told(&refused).contains("lost+found") && !site.place.join("config").exists());
    site.succeed(&["init", "--among-other-files"]);
    std::fs::remove_file(site.place.join("thesis.odt")).unwrap();
    assert_eq!(site.run(&["init"]).status.code(), Some(13));
}

/// One of them makes the repository, and its key works; the others say so and leave no key.
#[test]
fn of_several_inits_at_one_place_one_makes_the_repository() {
    let site = Site::empty();
    let inits: Vec<_> = (0..4)
        .map(|number| {
            let key = format!("{number}.key");
            let mut command = site.command(&["init", "--writer", "hv1", "--key-file", &key]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outputs: Vec<Output> = inits.into_iter().map(|init| init.wait_with_output().unwrap()).collect();
    let won: Vec<usize> = (0..4).filter(|number| outputs[*number].status.success()).collect();
    assert_eq!(won.len(), 1, "{:?}", outputs.iter().map(told).collect::<Vec<_>>());
    for number in 0..4 {
        assert_eq!(site.path(format!("{number}.key")).exists(), won == [number], "{number}");
    }
    std::fs::rename(site.path(format!("{}.key", won[0])), site.path("w.key")).unwrap();
    assert!(site.back_up(1, MIB).status.success());
    site.comes_back();
    site.succeed(&["check"]);
}

/// Keys, reports, caches, metrics, sheets and disks do not belong among the objects.
#[test]
fn nothing_else_is_written_into_the_repository() {
    let site = Site::new();
    std::fs::write(site.path("disk.raw"), crate::support::noise(1, MIB)).unwrap();
    assert!(site.back_up(1, MIB).status.success());
    std::os::unix::fs::symlink(&site.place, site.path("link")).unwrap();
    let trust = told(&site.succeed(&["key", "list", "--json"]));
    let trust = trust.split('"').find(|word| word.starts_with("SHA256:")).unwrap().to_owned();
    let before = walk(&site.place);
    let backup = ["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"];
    let with = |more: &[&'static str]| backup.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    let commands: Vec<Vec<&str>> = vec![
        vec!["key", "add", "writer", "x", "--out", "repository/x.key"],
        vec!["key", "add", "keeper", "x", "--out", "link/keys/x.key"],
        vec!["key", "paper", "--svg", "repository/zones/../sheet.svg"],
        vec!["restore", "web01:latest:disk0", "--target", "repository/back.raw"],
        vec!["restore", "web01:latest", "--target", "link/zones/"],
        vec!["audit", "--trust", &trust, "--report", "repository/report.html"],
        vec!["audit", "--trust", &trust, "--state", "repository/state"],
        with(&["--metrics-file", "repository/m.prom"]),
        with(&["--cache-dir", "repository/cache"]),
    ];
    for arguments in commands {
        let refused = site.run(&arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", told(&refused));
        assert!(told(&refused).contains("inside the repository"), "{arguments:?}: {}", told(&refused));
        assert_eq!(walk(&site.place), before, "{arguments:?}");
    }
    let cache = site.command(&backup).env("SANCERRE_CACHE_DIR", site.place.join("cache")).output().unwrap();
    assert_eq!(cache.status.code(), Some(2), "{}", told(&cache));
    let other = Site::empty();
    let refused = other.run(&["init", "--key-file", "repository/w.key"]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(walk(&other.place).is_empty());
}

/// As one is told to try a store before there is a repository.
#[test]
fn a_folder_that_is_not_there_yet_can_be_tried_out() {
    let site = Site::empty();
    let tried = site.run(&["doctor"]);
    assert!(tried.status.success(), "{}", told(&tried));
    assert!(
        told(&tried).contains("create-only is honoured") && told(&tried).contains("removed again"),
        "{}",
        told(&tried)
    );
    assert!(!site.place.exists());
    let site = site.at(Path::new("/no/such/folder/repository"));
    let tried = site.run(&["doctor"]);
    assert!(tried.status.code() == Some(10) && told(&tried).contains("/no/such/folder"), "{}", told(&tried));
}

/// What the variables of a provider say wrongly is found out at once, and said by name.
#[test]
fn a_wrong_endpoint_is_said_at_once() {
    let site = Site::empty();
    let run = |variables: &[(&str, &str)]| {
        let started = Instant::now();
        let mut command =
            site.command(&["snapshots", "--key-file", "none", "--retry-for", "60s", "-r", "s3://box/x"]);
        command
            .args(["--trust", "SHA256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"])
            .env_remove("SANCERRE_KEY_FILE");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert!(started.elapsed() < Duration::from_secs(30), "{variables:?}: {}", told(&output));
        output
    };
    let keys = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "x")];
    for (endpoint, word) in
        [("minio:9000", "http://minio:9000"), ("http://localhost:1/box", "names the bucket")]
    {
        let said = run(&[&keys[..], &[("AWS_ENDPOINT", endpoint)]].concat());
        assert!(said.status.code() == Some(2) && told(&said).contains(word), "{}", told(&said));
    }
}

/// A server without TLS behind `https://` is no outage, and neither is a lack of credentials.
#[test]
fn a_server_without_tls_is_no_outage() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let site = Site::empty();
    let started = Instant::now();
    let mut command: Command = site.command(&["doctor", "--retry-for", "60s", "-r", "s3://box/x"]);
    command.env("AWS_ENDPOINT", format!("https://127.0.0.1:{port}")).env("AWS_REGION", "x");
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
    let output = command.output().unwrap();
    assert!(told(&output).contains("does not speak TLS"), "{}", told(&output));
    assert!(started.elapsed() < Duration::from_secs(30), "{}", told(&output));
}

/// Without credentials nobody waits for a provider that does not answer.
#[test]
fn a_lack_of_credentials_is_said_soon() {
    let site = Site::empty();
    let started = Instant::now();
    let mut command = site.command(&["doctor", "--retry-for", "10m", "-r", "s3://box/x"]);
    // Where nobody listens, as outside of a provider's machines.
    command.env("AWS_REGION", "x").env("AWS_EC2_METADATA_DISABLED", "false");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("no variable has credentials"), "{}", told(&output));
    assert!(started.elapsed() < Duration::from_secs(60), "{}", told(&output));
}
