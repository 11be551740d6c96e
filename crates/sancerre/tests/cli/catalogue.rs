//! Catalogues of files, by the built program: what they say is what the disks say, a night adds little to the last one's, and
//! nobody needs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;

use crate::guest_files::{guest, second_night_with, shell, text};
use crate::support::{Site, summary, told, walk};

/// A guest with a catalogue of two nights.
fn catalogued() -> Option<Site> {
    let site = guest(&["--catalogue"])?;
    second_night_with(&site, &["--catalogue"]);
    Some(site)
}

/// What a command says, and whether a catalogue told it.
fn both(site: &Site, arguments: &[&str]) -> [(Value, bool); 2] {
    let run = |more: &[&str]| {
        let told = summary(&site.succeed(&[arguments, &["--json"], more].concat()));
        let by = &told["by_catalogue"];
        let is_by = *by == true || by.as_u64().is_some_and(|nights| nights > 0);
        let said = ["entries", "snapshots", "files", "left_out", "exit_code"].map(|key| told[key].clone());
        (Value::from(said.to_vec()), is_by)
    };
    [run(&[]), run(&["--no-catalogue"])]
}

#[test]
fn a_catalogue_says_what_the_disks_say() {
    let Some(site) = catalogued() else { return };
    for arguments in [
        &["find", "*", "web01:latest"][..],
        &["find", "*", "latest:data"],
        &["find", "*", "latest:/srv/share"],
        &["find", "*", "latest:root:p1/home"],
        &["find", "*.XLSX", "latest~1"],
        &["find", "p*", "web01:latest", "--all"],
        &["history", "web01:/srv/share/plan.txt"],
        &["history", "web01:/srv/share/big"],
        &["history", "web01:data:whole/deep"],
        &["history", "web01:root:p1/home/ada/sparse"],
        &["diff", "--files", "latest~1", "latest"],
        &["diff", "--files", "latest~1:root", "latest:root"],
    ] {
        let [(one, by), (other, no)] = both(&site, arguments);
        assert!(by && !no, "{arguments:?}: {by} {no}");
        assert_eq!(one, other, "{arguments:?}");
    }
    // What only the guest's links can tell is asked of the disks.
    let [(one, by), (other, _)] = both(&site, &["find", "*", "latest:/shortcut/share"]);
    assert!(!by && one == other, "{one} {other}");
    let output = site.run(&["find", "*", "latest:/nowhere"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("nowhere"), "{}", told(&output));
}

#[test]
fn a_catalogue_is_sealed_and_comes_back_with_nothing_but_its_name() {
    let Some(site) = catalogued() else { return };
    for path in walk(&site.place).iter().filter(|path| path.is_file()) {
        let bytes = fs::read(path).unwrap();
        for name in [&b"plan.txt"[..], b"y.XLSX", b"shortcut"] {
            assert!(!bytes.windows(name.len()).any(|window| window == name), "{}", path.display());
        }
    }
    // A writer's key opens none.
    let mut command = site.command(&["find", "*", "latest", "--key-file", "w.key"]);
    let output = command.env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", told(&output));
    site.succeed(&["restore", "latest", "--target", "back/"]);
    let mut names: Vec<_> =
        fs::read_dir(site.path("back")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data.raw", "root.raw"]);
    site.succeed(&["check", "--read-data"]);
    let output =
        site.run(&["backup", "--key-file", "w.key", "--vm", "web02", "--catalogue", "catalogue=root.raw"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("catalogue"), "{}", told(&output));
}

fn stored_bytes(output: &Output) -> u64 {
    summary(output)["stored_bytes"].as_u64().unwrap()
}

#[test]
fn a_damaged_catalogue_costs_a_warning() {
    let Some(site) = guest(&[]) else { return };
    let before: Vec<_> = walk(&site.place);
    let saved = site.succeed(&[
        "backup",
        "--key-file",
        "w.key",
        "--vm",
        "web01",
        "root=root.raw",
        "data=data.raw",
        "--catalogue",
        "--json",
    ]);
    assert!(stored_bytes(&saved) < 64 << 10, "a small catalogue: {}", stored_bytes(&saved));
    let [(_, _), (whole, _)] = both(&site, &["find", "*", "latest"]);
    let is_new =
        |path: &std::path::PathBuf| path.to_string_lossy().contains("/packs/") && !before.contains(path);
    // The only content of this night is the catalogue: the one pack of kind 1.
    let mut packs = walk(&site.place).into_iter().filter(is_new);
    let pack = packs.find(|path| fs::read(path).unwrap()[10] == 1).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    // Behind the head, of which the trailer knows the size, is the first frame.
    let trailer = bytes.len() - 64;
    let head = u32::from_le_bytes(bytes[trailer + 4..trailer + 8].try_into().unwrap());
    let frame = usize::try_from(head).unwrap() + 40;
    bytes[frame..frame + 64].fill(0xaa);
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let output = site.succeed(&["find", "*", "latest", "--json"]);
    assert!(told(&output).contains("the disks are looked at in its place"), "{}", told(&output));
    assert_eq!(summary(&output)["entries"], whole[0]);
    let output = site.run(&["check", "--read-data"]);
    assert_eq!(output.status.code(), Some(20), "{}", told(&output));
}

#[test]
fn a_catalogue_can_be_made_later_and_only_identities_open_it() {
    let Some(site) = guest(&[]) else { return };
    second_night_with(&site, &[]);
    site.succeed(&["catalogue", "latest", "latest~1"]);
    let again = site.succeed(&["catalogue", "latest"]);
    assert!(told(&again).contains("already"), "{}", told(&again));
    for arguments in [
        &["find", "*", "latest"][..],
        &["find", "p*", "latest", "--all"],
        &["diff", "--files", "latest~1", "latest"],
    ] {
        let [(one, by), (other, no)] = both(&site, arguments);
        assert!(by && !no && one == other, "{arguments:?}: {by} {no} {one} {other}");
    }
    for path in walk(&site.place).iter().filter(|path| path.is_file()) {
        let bytes = fs::read(path).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"plan.txt"), "{}", path.display());
    }
    // Whoever signs notes needs a role that stores; a keeper and a collector leave it whole, and it goes with its snapshot.
    site.succeed(&["check", "--read-data"]);
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "root=root.raw", "data=data.raw"]);
    site.succeed(&["catalogue", "latest"]);
    site.succeed(&["forget", "latest~2", "--max-drop", "100%"]);
    site.succeed(&["gc"]);
    for arguments in [&["find", "*", "latest"][..], &["diff", "--files", "latest~1", "latest"]] {
        let [(one, by), (other, no)] = both(&site, arguments);
        assert!(by && !no && one == other, "{arguments:?}: {by} {no} {one} {other}");
    }
    site.succeed(&["check", "--read-data"]);
}

/// The largest pack has the large file: a check names it, in each night that has it, by the catalogue.
#[test]
fn a_check_names_the_files_that_a_loss_touches() {
    let Some(site) = guest(&["--catalogue"]) else { return };
    site.succeed(&[
        "backup",
        "--key-file",
        "w.key",
        "--vm",
        "web01",
        "root=root.raw",
        "data=data.raw",
        "--catalogue",
    ]);
    let packs = walk(&site.place).into_iter().filter(|path| path.to_string_lossy().contains("/packs/"));
    let largest = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xaa);
    fs::set_permissions(&largest, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&largest, bytes).unwrap();
    let output = site.run(&["check", "--read-data"]);
    assert_eq!(output.status.code(), Some(20), "{}", told(&output));
    assert_eq!(told(&output).matches("    of data:whole/big\n").count(), 2, "{}", told(&output));
    let said = summary(&site.run(&["check", "--read-data", "--json"]));
    let costs =
        said["findings"].as_array().unwrap().iter().flat_map(|finding| finding["costs"].as_array().unwrap());
    let named: Vec<_> = costs.filter(|cost| cost["files"] == serde_json::json!(["data:whole/big"])).collect();
    assert_eq!(named.len(), 2, "{said}");
    // Who opens no content learns no names.
    let mut command = site.command(&["check", "--read-data", "--key-file", "w.key"]);
    let output = command.env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert!(output.status.code() == Some(20) && !told(&output).contains("big"), "{}", told(&output));
}

/// Ten thousand files in two hundred folders; then a night in which some of them changed.
#[test]
fn a_night_adds_little_to_the_catalogue_of_the_last_one() {
    let Some(site) = guest(&[]) else { return };
    shell(
        &site,
        r#"truncate -s 64M many.raw; mke2fs -q -F -t ext4 -N 20000 many.raw; mount -o loop many.raw m
        for d in $(seq 200); do mkdir m/$d; (cd m/$d; touch $(seq -f "report-%04g.txt" 50)); done; umount m"#,
    );
    let save = || {
        site.succeed(&[
            "backup",
            "--key-file",
            "w.key",
            "--vm",
            "many",
            "many.raw",
            "--catalogue",
            "--no-statistics",
            "--json",
        ])
    };
    let new = |output: &Output| {
        let members = summary(output)["members"].as_array().unwrap().clone();
        let catalogue = members.iter().find(|member| member["name"] == "catalogue").unwrap().clone();
        (catalogue["new_bytes"].as_u64().unwrap(), catalogue["size_bytes"].as_u64().unwrap())
    };
    let (first, size) = new(&save());
    assert!(first > 100_000 && first <= size, "{first} of {size}");
    shell(
        &site,
        "mount -o loop many.raw m; echo x > m/77/report-0003.txt; echo y > m/78/new; rm m/100/report-0050.txt; umount m",
    );
    let (second, _) = new(&save());
    assert!(second > 0 && second * 5 < first, "{second} after {first}");
    let found = text(&site.succeed(&["find", "new", "many:latest", "--all"]));
    assert!(found.ends_with("disk0:whole/78/new\n") && found.lines().count() == 1, "{found}");
}
