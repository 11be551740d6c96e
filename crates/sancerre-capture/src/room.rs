//! Room for what a guest overwrites while its picture is read. It is watched: before the file system is full, the backup is
//! given up, for others live from that file system too.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::statvfs;
use sancerre_advice::Setting::Scratch;

/// Between two looks.
const STEP: Duration = Duration::from_millis(200);
/// What is left for others: one part in so many of the file system, at most so much.
const RESERVE_PART: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// Looks at file systems until it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    is_over: Arc<AtomicBool>,
    low: Arc<Mutex<Option<String>>>,
}

impl Room {
    /// Watches these folders; when one has too little room left, `give_up` is called, once.
    pub(crate) fn watch(folders: Vec<PathBuf>, give_up: impl FnOnce() + Send + 'static) -> Self {
        let (is_over, low) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let room = Self { is_over: Arc::clone(&is_over), low: Arc::clone(&low) };
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                if let Some(why) = folders.iter().find_map(|folder| too_little(folder)) {
                    *low.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    give_up();
                    return;
                }
                thread::sleep(STEP);
            }
        });
        room
    }

    /// Why it was given up.
    pub(crate) fn given_up(&self) -> Option<String> {
        self.low.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Why a folder has too little room; none if it has enough, or nobody can tell.
pub(crate) fn too_little(folder: &Path) -> Option<String> {
    let (free, reserve) = room(folder).ok()?;
    (free < reserve).then(|| {
        format!(
            "{} has {} MiB left, which is too little for what the guest overwrites meanwhile; make room there, or name \
             another folder with {Scratch}",
            folder.display(),
            free >> 20
        )
    })
}

/// What is free, and what is to stay so.
fn room(folder: &Path) -> io::Result<(u64, u64)> {
    let found = statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let reserve = bytes(found.f_blocks).checked_div(RESERVE_PART).unwrap_or(0).min(RESERVE_BYTES_MAX);
    Ok((bytes(found.f_bavail), reserve))
}
