//! Files out of the disks of a snapshot, by the built program: what comes back is what was there, nothing else is touched, and
//! what is lost is said.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Site, has, summary, told};
use serde_json::Value;

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let is_one = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !is_one {
        sancerre_services::skip("file systems are made with root's rights");
    }
    is_one
}

pub(crate) fn shell(site: &Site, script: &str) -> String {
    let script =
        format!("set -e; export PATH=$PATH:/sbin:/usr/sbin; cd {}; {script}", site.folder.path().display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A guest of two disks: on the first a table of partitions with its root and its swap, on the second its data.
pub(crate) fn guest(more: &[&str]) -> Option<Site> {
    if !(has("mke2fs") && has("sfdisk") && is_root()) {
        return None;
    }
    let site = Site::new();
    shell(
        &site,
        r#"truncate -s 32M root.raw; truncate -s 32M data.raw; mkdir m
        printf 'label: gpt\n,24M\n,\n' | sfdisk -q root.raw
        truncate -s 24M p1; mke2fs -q -F -t ext4 -L root p1; mount -o loop p1 m
        mkdir -p m/etc m/srv/share m/home/ada; printf 'UUID=%s / ext4 defaults 0 1\nLABEL=data /srv/share ext4 defaults 0 2\n' "$(blkid -s UUID -o value p1)" > m/etc/fstab
        echo hidden > m/srv/share/hidden; ln -s ../srv/share/plan.txt m/home/plan; ln -s /srv m/shortcut
        ln -s ../../../../../etc/passwd m/home/ada/evil; printf x > "$(printf 'm/home/ada/a\033[31m\n\377')"
        echo one > m/home/ada/one; ln m/home/ada/one m/home/ada/two; chown 1000:1000 m/home/ada/one; chmod 4750 m/home/ada/one
        touch -d 2019-08-07T06:05:04.123 m/home/ada/one; setfattr -n user.note -v important m/home/ada/one 2>/dev/null || true
        truncate -s 5M m/home/ada/sparse; echo end >> m/home/ada/sparse; mkfifo m/home/ada/fifo; mkdir -m 700 m/home/ada/private
        umount m; dd if=p1 of=root.raw bs=1M seek=1 conv=notrunc status=none; rm p1
        mke2fs -q -F -t ext4 -L data data.raw; mount -o loop data.raw m; echo 'the plan' > m/plan.txt; head -c 3000000 /dev/urandom > m/big; mkdir m/deep; echo x > m/deep/x.XLSX
        cp m/big big; umount m"#,
    );
    save(&site, more);
    Some(site)
}

fn save(site: &Site, more: &[&str]) {
    let arguments = ["backup", "--key-file", "w.key", "--vm", "web01", "root=root.raw", "data=data.raw"];
    site.succeed(&[&arguments, more].concat());
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn what_is_on_the_disks_is_listed() {
    let Some(site) = guest(&[]) else { return };
    let all = text(&site.succeed(&["ls", "web01:latest"]));
    assert!(all.contains("root  p1") && all.contains("data  whole") && all.contains("ext4"), "{all}");
    let listed = summary(&site.succeed(&["ls", "web01:latest", "--json"]));
    assert_eq!(listed["volumes"].as_array().unwrap().len(), 3);
    assert_eq!(listed["volumes"][0]["label"], "root");
    for place in ["web01:latest:root:p1/srv", "latest:root:p1/shortcut/../srv/.", "web01:latest:/srv"] {
        assert_eq!(text(&site.succeed(&["ls", place])), "share/\n", "{place}");
    }
    // Through the guest's own table of mounts, and not.
    assert_eq!(text(&site.succeed(&["ls", "latest:root:p1/srv/share"])), "hidden\n");
    let share = text(&site.succeed(&["ls", "latest:/shortcut/share"]));
    assert_eq!(share, "big\ndeep/\nlost+found/\nplan.txt\n");
    assert_eq!(text(&site.succeed(&["ls", "latest:data:/"])), share);
    let long = text(&site.succeed(&["ls", "-l", "latest:/home/ada"]));
    assert!(long.contains("-4750  1000:1000") && long.contains("2019-08-07T06:05:04Z"), "{long}");
    assert!(long.contains("a\\u{1b}[31m\\u{a}\\xff") && !long.contains('\u{1b}'), "{long}");
    assert!(long.contains("evil -> ../../../../../etc/passwd"), "{long}");
    let output = site.run(&["ls", "latest:/nowhere"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("nowhere"), "{}", told(&output));
    let output = site.run(&["ls", "latest:root:p9/"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("it has p1, p2"), "{}", told(&output));
}

#[test]
fn a_file_is_written_to_standard_output_and_links_stay_inside_of_the_guest() {
    let Some(site) = guest(&[]) else { return };
    assert_eq!(site.succeed(&["cat", "latest:/home/plan"]).stdout, b"the plan\n");
    assert_eq!(site.succeed(&["cat", "latest:/srv/share/big"]).stdout, fs::read(site.path("big")).unwrap());
    // The name as it is listed leads to it.
    assert_eq!(site.succeed(&["cat", "latest:/home/ada/a\\u{1b}[31m\\u{a}\\xff"]).stdout, b"x");
    let output = site.run(&["cat", "latest:/home/ada/evil"]);
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{}", told(&output));
    let output = site.run(&["cat", "latest:/home"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("folder"), "{}", told(&output));
}

#[test]
fn a_tree_comes_back_as_it_was_and_what_could_not_be_kept_is_said() {
    let Some(site) = guest(&[]) else { return };
    let output = site.run(&["get", "latest:/home/ada", "--target", "out/", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let said = summary(&output);
    assert_eq!(said["not_kept"][0]["what"], "devices, sockets and pipes, left out", "{said}");
    let ada = site.path("out/ada");
    let one = fs::metadata(ada.join("one")).unwrap();
    assert_eq!((one.mode() & 0o7777, one.uid(), one.gid(), one.nlink()), (0o4750, 1000, 1000, 2));
    assert_eq!((one.mtime(), one.mtime_nsec()), (1_565_157_904, 123_000_000));
    assert_eq!(fs::metadata(ada.join("two")).unwrap().ino(), one.ino());
    assert_eq!(fs::read_link(ada.join("evil")).unwrap(), Path::new("../../../../../etc/passwd"));
    let sparse = fs::metadata(ada.join("sparse")).unwrap();
    assert!(sparse.len() == (5 << 20) + 4 && sparse.blocks() < 64, "{} blocks", sparse.blocks());
    assert_eq!(fs::metadata(ada.join("private")).unwrap().permissions().mode() & 0o777, 0o700);
    let left: Vec<_> = fs::read_dir(&ada).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
    // What is there stays, unless it may be replaced; nothing is followed.
    fs::remove_file(ada.join("two")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", ada.join("two")).unwrap();
    fs::write(ada.join("sparse"), "mine").unwrap();
    let before = fs::read("/etc/hostname").unwrap_or_default();
    let output = site.run(&["get", "latest:/home/ada", "--target", "out/"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert_eq!(fs::read(ada.join("sparse")).unwrap(), b"mine");
    let output = site.run(&["get", "latest:/home/ada", "--target", "out/", "--overwrite"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert_eq!(fs::metadata(ada.join("sparse")).unwrap().len(), (5 << 20) + 4);
    assert!(ada.join("two").is_symlink() && fs::read("/etc/hostname").unwrap_or_default() == before);
}

#[test]
fn one_file_goes_where_it_is_sent() {
    let Some(site) = guest(&[]) else { return };
    site.succeed(&["get", "latest:/srv/share/plan.txt", "--target", "my plan"]);
    assert_eq!(fs::read(site.path("my plan")).unwrap(), b"the plan\n");
    let output = site.run(&["get", "latest:/srv/share/plan.txt", "--target", "my plan"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("--overwrite"), "{}", told(&output));
    site.succeed(&["get", "latest:/srv/share/plan.txt", "--target", "my plan", "--overwrite"]);
    site.succeed(&["get", "latest:/srv/share/plan.txt", "--target", "."]);
    assert_eq!(fs::read(site.path("plan.txt")).unwrap(), b"the plan\n");
    assert_eq!(site.succeed(&["get", "latest:/srv/share/plan.txt", "--target", "-"]).stdout, b"the plan\n");
    let output = site.run(&["get", "latest:/srv/share/plan.txt", "--target", "repository/plan.txt"]);
    assert!(output.status.code() == Some(2), "{}", told(&output));
}

#[test]
fn a_stream_is_what_tar_reads() {
    let Some(site) = guest(&[]) else { return };
    let output = site.run(&["get", "latest:/home", "--format", "tar", "--target", "home.tar"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    shell(
        &site,
        "mkdir x; tar -C x -xpf home.tar --xattrs; test -L x/home/plan; cmp x/home/ada/one x/home/ada/two; cmp <(tail -c 4 x/home/ada/sparse) <(echo end)",
    );
    let one = fs::metadata(site.path("x/home/ada/one")).unwrap();
    assert_eq!((one.mode() & 0o7777, one.uid(), one.mtime(), one.nlink()), (0o4750, 1000, 1_565_157_904, 2));
    assert_eq!(one.mtime_nsec(), 123_000_000);
}

/// LUKS 2 with sectors of 4 KiB: made by cryptsetup, filled by Python's own XTS.
#[test]
fn an_encrypted_volume_is_opened_with_its_passphrase_and_by_nobody_else() {
    let Some(python) = sancerre_services::install::decoder_python() else {
        return sancerre_services::skip("the decoder's Python packages are not installed");
    };
    if !(has("cryptsetup") && has("mke2fs") && is_root()) {
        return;
    }
    let site = Site::new();
    let script = r#"import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key, plain = open('key', 'rb').read(), open('fs.raw', 'rb').read()
with open('p2.raw', 'r+b') as to:
    to.seek(16 << 20)
    for at in range(0, len(plain), 4096):
        cipher = Cipher(algorithms.AES(key), modes.XTS((at // 512).to_bytes(16, 'little'))).encryptor()
        to.write(cipher.update(plain[at : at + 4096]) + cipher.finalize())"#;
    fs::write(site.path("fill.py"), script).unwrap();
    shell(
        &site,
        &format!(
            r#"printf 'correct horse' > pw; echo 'correct horse' > line; echo wrong > wrong; head -c 64 /dev/urandom > key; truncate -s 40M p2.raw
        cryptsetup luksFormat -q --type luks2 --sector-size 4096 --pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32768 --volume-key-file key --key-size 512 --key-file pw p2.raw
        truncate -s 20M fs.raw; mke2fs -q -F -t ext4 fs.raw; mkdir m; mount -o loop fs.raw m; mkdir m/ada; echo secret > m/ada/note; head -c 2000000 /dev/urandom > m/big; cp m/big big; umount m
        {} fill.py; truncate -s 48M disk.raw; printf 'label: gpt
,1M
,
' | sfdisk -q disk.raw; dd if=p2.raw of=disk.raw bs=1M seek=2 conv=notrunc status=none"#,
            python.display()
        ),
    );
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "disk.raw", "--catalogue"]);
    assert!(text(&site.succeed(&["ls", "latest"])).contains("LUKS"));
    let output = site.run(&["ls", "latest:disk0:p2/"]);
    assert!(output.status.code() == Some(23) && told(&output).contains("--unlock"), "{}", told(&output));
    let output = site.run(&["cat", "latest:disk0:p2/ada/note", "--unlock", "wrong"]);
    assert!(
        output.status.code() == Some(20) && told(&output).contains("none of the passphrases"),
        "{}",
        told(&output)
    );
    let unlock = ["--unlock", "wrong", "--unlock", "line"];
    let run = |words: &[&str]| site.succeed(&[words, &unlock].concat());
    assert_eq!(run(&["cat", "latest:disk0:p2/ada/note"]).stdout, b"secret\n");
    assert_eq!(run(&["cat", "latest:/big"]).stdout, fs::read(site.path("big")).unwrap());
    let found = summary(&run(&["find", "note", "latest", "--json"]));
    assert_eq!(found["entries"][0]["place"], "disk0:p2/ada/note");
    run(&["get", "latest:disk0:p2/", "--target", "out/"]);
    assert_eq!(fs::read(site.path("out/big")).unwrap(), fs::read(site.path("big")).unwrap());
}

/// By Info-ZIP, by Python and by libarchive, of which each reads in its own way.
#[test]
fn a_zip_is_what_three_programs_read() {
    let Some(site) = guest(&[]) else { return };
    let output = site.run(&["get", "latest:/home", "--format", "zip", "--target", "home.zip"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(
        told(&output).contains("no text") && told(&output).contains("further names"),
        "{}",
        told(&output)
    );
    let script = r#"import sys, zipfile
z = zipfile.ZipFile(sys.argv[1])
assert z.testzip() is None
i = z.getinfo('home/ada/one')
assert i.external_attr >> 16 == 0o104750 and i.date_time == (2019, 8, 7, 6, 5, 4), i
assert z.read('home/plan') == b'../srv/share/plan.txt' and z.getinfo('home/plan').external_attr >> 16 == 0o120777
assert z.read('home/ada/two') == z.read('home/ada/one') == b'one\n'
assert len(z.read('home/ada/sparse')) == (5 << 20) + 4
print(len(z.namelist()))"#;
    fs::write(site.path("read.py"), script).unwrap();
    assert_eq!(shell(&site, "python3 read.py home.zip"), "9\n");
    if has("unzip") {
        shell(
            &site,
            "unzip -tq home.zip; mkdir u; cd u; unzip -q ../home.zip; test -L home/plan; cmp home/ada/one <(echo one)",
        );
        assert_eq!(fs::metadata(site.path("u/home/ada/one")).unwrap().mtime(), 1_565_157_904);
    }
    // As a stream, from its start on.
    let whole = fs::read(site.path("home.zip")).unwrap();
    let streamed = site.run(&["get", "latest:/home", "--format", "zip", "--target", "-"]).stdout;
    assert_eq!(streamed, whole);
    if has("bsdtar") {
        shell(
            &site,
            "mkdir b; cat home.zip | bsdtar -x -C b -f -; cmp b/home/ada/sparse u/home/ada/sparse || cmp <(tail -c 4 b/home/ada/sparse) <(echo end)",
        );
    }
    let big = site.run(&["get", "latest:/srv/share/big", "--format", "zip", "--target", "big.zip"]);
    assert_eq!(big.status.code(), Some(0), "{}", told(&big));
    shell(
        &site,
        "python3 -c \"import zipfile; open('big2','wb').write(zipfile.ZipFile('big.zip').read('big'))\"; cmp big2 big",
    );
}

#[test]
fn names_are_found_in_all_file_systems() {
    let Some(site) = guest(&[]) else { return };
    let output = summary(&site.succeed(&["find", "*.XLSX", "web01:latest", "--json"]));
    assert_eq!(output["entries"][0]["place"], "data:whole/deep/x.XLSX");
    let place = format!("latest:{}", output["entries"][0]["place"].as_str().unwrap());
    assert_eq!(site.succeed(&["cat", &place]).stdout, b"x\n");
    assert_eq!(text(&site.succeed(&["find", "*.xlsx", "web01:latest"])), "");
    let found = text(&site.succeed(&["find", "h*", "web01:latest:/srv"]));
    assert!(found.ends_with("/srv/share/hidden\n") && found.lines().count() == 1, "{found}");
}

#[test]
fn what_is_lost_of_the_repository_costs_the_files_that_it_held() {
    let Some(site) = guest(&[]) else { return };
    // The largest pack has the large file.
    let packs = crate::support::walk(&site.place)
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/packs/"));
    let largest = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xaa);
    fs::set_permissions(&largest, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&largest, bytes).unwrap();
    let output = site.run(&["get", "latest:data:whole/", "--target", "out/", "--json"]);
    assert_eq!(output.status.code(), Some(20), "{}", told(&output));
    let said = summary(&output);
    assert_eq!(said["failed"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["failed"][0]["name"], "big");
    assert!(!site.path("out/big").exists());
    assert_eq!(fs::read(site.path("out/plan.txt")).unwrap(), b"the plan\n");
}

/// Another night: one file changed, one moved, one was removed.
fn second_night(site: &Site) {
    second_night_with(site, &[]);
}

pub(crate) fn second_night_with(site: &Site, more: &[&str]) {
    shell(
        site,
        "mount -o loop data.raw m; echo 'another plan' > m/plan.txt; mv m/deep/x.XLSX m/deep/y.XLSX; rm m/big; sync -f m; echo new > m/new; umount m",
    );
    save(site, more);
}

#[test]
fn a_file_s_history_is_a_line_a_night_and_unchanged_ones_cost_no_read_of_it() {
    let Some(site) = guest(&[]) else { return };
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "root=root.raw", "data=data.raw"]);
    let states = |output: &Output| -> Vec<String> {
        let told = summary(output);
        let nights = told["snapshots"].as_array().unwrap().clone();
        nights.iter().map(|night| night["content"].as_str().unwrap().to_owned()).collect()
    };
    let big = site.succeed(&["history", "web01:/srv/share/big", "--json"]);
    assert_eq!(states(&big), ["first", "same"]);
    // The file has three megabytes, which nobody needed.
    let fetched = summary(&big)["fetched_bytes"].as_u64().unwrap();
    assert!(fetched < 3_000_000, "{fetched}");
    second_night(&site);
    assert_eq!(
        states(&site.succeed(&["history", "web01:/srv/share/plan.txt", "--json"])),
        ["first", "same", "changed"]
    );
    assert_eq!(
        states(&site.succeed(&["history", "web01:/srv/share/big", "--json"])),
        ["first", "same", "missing"]
    );
    let output = site.run(&["history", "web01:/srv/nothing"]);
    assert!(output.status.code() == Some(2), "{}", told(&output));
}

#[test]
fn what_became_of_files_between_two_nights_is_told() {
    let Some(site) = guest(&[]) else { return };
    second_night(&site);
    let output = text(&site.succeed(&["diff", "--files", "latest~1", "latest"]));
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "+ data:whole/new",
            "- data:whole/big",
            "M data:whole/plan.txt",
            "R data:whole/deep/x.XLSX -> data:whole/deep/y.XLSX"
        ]
    );
    assert_eq!(text(&site.succeed(&["diff", "--files", "latest~1:root", "latest:root"])), "");
}

#[test]
fn ordinary_tools_work_on_a_mount_that_ends_with_a_signal() {
    let Some(site) = guest(&[]) else { return };
    if !Path::new("/dev/fuse").exists() {
        return sancerre_services::skip("no /dev/fuse");
    }
    fs::create_dir(site.path("seen")).unwrap();
    let mut command = site.command(&["mount", "web01:latest", "seen", "--json"]);
    let mut mounted = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let started = std::time::Instant::now();
    while !site.path("seen/root/disk.raw").exists() {
        assert!(
            mounted.try_wait().unwrap().is_none() && started.elapsed().as_secs() < 60,
            "it does not come"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let check = shell(
        &site,
        "cmp seen/root/disk.raw root.raw; cmp seen/data/disk.raw data.raw; cmp seen/data/whole/big big
         ls seen/root/p1/etc; grep -r 'the plan' seen/data/whole | wc -l; cat seen/data/whole/plan.txt
         cp -a seen/root/p1/home copied; test -L copied/plan; cmp copied/ada/one copied/ada/two
         stat -c '%a %u %h %Y' seen/root/p1/home/ada/one; readlink seen/root/p1/home/ada/evil
         ! touch seen/root/p1/x 2>/dev/null; ! test -e seen/root/p1/nothing",
    );
    assert_eq!(check, "fstab\n1\nthe plan\n4750 1000 2 1565157904\n../../../../../etc/passwd\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&mounted), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(mounted.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(site.path("seen")).unwrap().count(), 0);
}

#[test]
fn the_night_in_which_a_name_came_and_the_one_in_which_it_went_are_found() {
    let Some(site) = guest(&[]) else { return };
    second_night(&site);
    let told = summary(&site.succeed(&["find", "*.XLSX", "web01:latest", "--all", "--json"]));
    let entries = told["entries"].as_array().unwrap();
    let line =
        |entry: &Value| format!("{} {}", entry["kind"].as_str().unwrap(), entry["place"].as_str().unwrap());
    let lines: Vec<String> = entries.iter().map(line).collect();
    assert_eq!(
        lines,
        ["file data:whole/deep/x.XLSX", "file data:whole/deep/y.XLSX", "gone data:whole/deep/x.XLSX"]
    );
    assert_ne!(entries[0]["snapshot"], entries[1]["snapshot"]);
}
