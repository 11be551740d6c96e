//! What the kernel's call does, and what is done where it is missing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

#[test]
fn without_the_call_no_link_and_no_step_up_is_followed() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("in/deep")).unwrap();
    fs::write(path("in/deep/file"), "inner").unwrap();
    fs::write(path("secret"), "outer").unwrap();
    symlink("deep", path("in/link")).unwrap();
    symlink("../secret", path("in/deep/out")).unwrap();
    let directory = Directory::open(&path("in")).unwrap();
    let read = |name: &str| {
        let mut text = String::new();
        step_by_step(&directory.handle, Path::new(name), FLAGS).map(|mut file| {
            file.read_to_string(&mut text).unwrap();
            text
        })
    };
    assert_eq!(read("deep/file").unwrap(), "inner");
    assert_eq!(read("./deep/./file").unwrap(), "inner");
    assert_eq!(read("../secret").unwrap_err(), Errno::XDEV);
    assert_eq!(read("deep/../../secret").unwrap_err(), Errno::XDEV);
    assert_eq!(read("/etc/passwd").unwrap_err(), Errno::XDEV);
    assert_eq!(read("deep/out").unwrap_err(), Errno::LOOP);
    assert!(read("link/file").is_err());
    assert_eq!(read("deep/none").unwrap_err(), Errno::NOENT);
}

#[test]
fn a_directory_that_gets_another_meaning_later_is_still_the_one_that_was_named() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("images")).unwrap();
    fs::write(path("images/base"), "first").unwrap();
    let directory = Directory::open(&path("images")).unwrap();
    fs::rename(path("images"), path("moved")).unwrap();
    fs::create_dir(path("images")).unwrap();
    fs::write(path("images/base"), "other!").unwrap();
    let disk = directory.open_beneath(&path("images/top"), Path::new("base")).unwrap().unwrap();
    assert_eq!(crate::Disk::size_bytes(&disk), 5);
}
