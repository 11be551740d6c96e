//! What else lies in a folder: files of writes that died, and room for emergencies.
//!
//! On a disk that is full to the last byte nothing could be forgotten: a record must be written before anything may be
//! deleted. So a few files hold some room, and whoever writes records with which a disk is emptied gives up one after the
//! other. They are several, for a disk can be full of files too.

use std::fs::File;
use std::io::Write;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fstat, fstatvfs, futimens, openat, unlinkat,
};
use rustix::io::Errno;
use sancerre_format::names::Time;

use super::place::FolderPlace;
use super::refused::Refused;

/// Where they lie: nothing that the format knows is there, so nobody lists it.
const RESERVE: &str = "reserve";
/// The bytes of each.
const PIECE_BYTES: usize = 256 << 10;
/// How many there are at least and at most, and which share of a small disk they may take.
const PIECES_MIN: u64 = 4;
const PIECES_MAX: u64 = 32;
const SHARE: u64 = 16;

impl FolderPlace {
    /// Makes what is missing of the room for emergencies. `fill` makes bytes that no file system can shrink.
    ///
    /// Errors: the kernel's, such as that there is no room for it.
    pub(super) fn keep_reserve(&self, fill: impl Fn(&mut [u8])) -> Result<(), Refused> {
        let mut bytes = Vec::new();
        self.make_folders(&format!("{RESERVE}/0"))?;
        for number in 0..self.pieces() {
            let key = format!("{RESERVE}/{number}");
            let is_whole = |stat: rustix::fs::Stat| u64::try_from(stat.st_size) == Ok(PIECE_BYTES as u64);
            if self.stat(&key).is_ok_and(is_whole) {
                continue;
            }
            if bytes.is_empty() {
                bytes = vec![0; PIECE_BYTES];
                fill(&mut bytes);
            }
            if let Err(refused) = self.write_piece(&key, &bytes) {
                let _ = unlinkat(self.root(), &key, AtFlags::empty());
                return Err(refused);
            }
        }
        Ok(())
    }

    fn pieces(&self) -> u64 {
        let total = fstatvfs(self.root()).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
        match total {
            // It does not tell.
            0 => PIECES_MAX,
            total => (total / SHARE / PIECE_BYTES as u64).clamp(PIECES_MIN, PIECES_MAX),
        }
    }

    fn write_piece(&self, key: &str, bytes: &[u8]) -> Result<(), Refused> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(self.root(), key, flags, Mode::from_raw_mode(self.modes.file));
        let mut file =
            File::from(opened.map_err(|errno| Refused::call("create", &self.path_of(key), errno))?);
        let stat = fstat(&file).map_err(|errno| Refused::call("read", &self.path_of(key), errno))?;
        self.fit_mode(&file, &stat);
        file.write_all(bytes).map_err(|error| Refused::call("write", &self.path_of(key), error))
    }

    /// Gives up one piece of the room; whether there was one.
    pub(super) fn spend_piece(&self) -> bool {
        let root = self.root();
        let spend = |number| {
            let key = format!("{RESERVE}/{number}");
            match unlinkat(&root, &key, AtFlags::empty()) {
                Ok(()) => true,
                // Some file systems need room to remove a file, but none to empty it.
                Err(Errno::NOSPC | Errno::DQUOT) => {
                    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    openat(&root, &key, flags, Mode::empty()).is_ok()
                        && unlinkat(&root, &key, AtFlags::empty()).is_ok()
                }
                Err(_) => false,
            }
        };
        let spent = (0..PIECES_MAX).rev().any(spend);
        if spent {
            // What was freed can be used once that is on the disk.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(folder) = openat(&root, RESERVE, flags, Mode::empty()) {
                let _ = File::from(folder).sync_all();
            }
        }
        spent
    }

    /// What time it is by the clock that dates the files here. Needs no room.
    ///
    /// Errors: the kernel's.
    pub(super) fn now(&self) -> Result<Time, Refused> {
        let root = self.root();
        let failed = |errno| Refused::call("date", &self.path, errno);
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        futimens(&root, &Timestamps { last_access: now, last_modification: now }).map_err(failed)?;
        Ok(Time::from_unix_seconds(fstat(&root).map_err(failed)?.st_mtime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_up_piece_by_piece() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderPlace::open_at(folder.path().to_owned(), 0).unwrap();
        let count = || std::fs::read_dir(folder.path().join(RESERVE)).unwrap().count();
        place.keep_reserve(|bytes| bytes.fill(7)).unwrap();
        let all = count();
        assert!((4..=32).contains(&all), "{all}");
        assert!(place.spend_piece() && place.spend_piece());
        assert_eq!(count(), all - 2);
        // One that somebody cut short is made anew.
        std::fs::write(folder.path().join("reserve/0"), b"").unwrap();
        place.keep_reserve(|bytes| bytes.fill(7)).unwrap();
        assert_eq!(
            (count(), std::fs::metadata(folder.path().join("reserve/0")).unwrap().len()),
            (all, 256 << 10)
        );
        while place.spend_piece() {}
        assert_eq!(count(), 0);
    }
}
