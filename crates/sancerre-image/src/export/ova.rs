//! An OVA: a tar archive of a description, sums, and the disks, in this order. The first two need what is known only when the
//! disks are written, and have a size that is known before: room is left for them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::ovf::{Part, describe};
use super::tar::{BLOCK_BYTES, header, whole_blocks};
use super::vmdk::{VmdkWritten, capacity, write_vmdk};
use super::{ExportError, Watcher};
use crate::Disk;
use crate::positional::length;

/// Bytes that go to the file at once.
const BUFFER: usize = 1 << 20;
/// Two empty blocks end an archive.
const END_BYTES: u64 = 2 * BLOCK_BYTES;
const END: usize = 1024;
/// SHA-256, as digits.
const DIGITS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const NO_NAME: ExportError = ExportError::Bug("a member of an archive has no usable name");
const TOO_LARGE: ExportError =
    ExportError::BeyondFormat { what: "the archive would be larger than any file" };

/// What starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// A BIOS.
    Bios,
    /// UEFI.
    Efi,
}

/// A machine that is to be described.
pub struct Appliance<'a> {
    /// What its files are called, short and of letters that every file system takes.
    pub file_name: &'a str,
    /// What it is called.
    pub machine: &'a str,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory.
    pub memory_mebibytes: u64,
    /// What starts it.
    pub firmware: Firmware,
    /// Seconds of Unix that stand as the time of all members.
    pub time: u64,
    /// Its disks, in order.
    pub disks: Vec<ApplianceDisk<'a>>,
}

/// A disk of it.
pub struct ApplianceDisk<'a> {
    /// What it is called.
    pub label: &'a str,
    /// Its bytes.
    pub disk: &'a dyn Disk,
    /// Tells its content from others.
    pub content: u32,
}

/// What a written archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OvaWritten {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of all disks that are in it.
    pub populated_bytes: u64,
}

/// Writes a machine as an OVA into an empty file.
///
/// # Errors
/// As [`write_vmdk`].
pub fn write_ova(
    file: &File,
    appliance: &Appliance<'_>,
    workers: usize,
    watcher: &Watcher<'_>,
) -> Result<OvaWritten, ExportError> {
    let names: Vec<String> = (1..=appliance.disks.len())
        .map(|number| format!("{}-disk{number}.vmdk", appliance.file_name))
        .collect();
    let descriptor_name = format!("{}.ovf", appliance.file_name);
    let largest = |disk: &ApplianceDisk<'_>| VmdkWritten {
        file_bytes: u64::MAX,
        capacity_bytes: capacity(disk.disk),
        populated_bytes: u64::MAX,
    };
    // With the longest numbers: what it will be at most.
    let longest = describe(appliance, &parts(&names, appliance.disks.iter().map(largest)));
    let sums_before =
        sums(std::iter::once((&*descriptor_name, DIGITS)).chain(names.iter().map(|name| (&**name, DIGITS))));
    let sums_at = member_bytes(length(longest.as_bytes()))?;
    let mut at = sums_at.checked_add(member_bytes(length(sums_before.as_bytes()))?).ok_or(TOO_LARGE)?;
    let mut written = Vec::with_capacity(names.len());
    let mut digests = Vec::with_capacity(names.len());
    for (disk, name) in appliance.disks.iter().zip(&names) {
        let data_at = at.checked_add(BLOCK_BYTES).ok_or(TOO_LARGE)?;
        let mut out =
            BufWriter::with_capacity(BUFFER, HashedWriter { file, at: data_at, sum: Sha256::new() });
        let vmdk = write_vmdk(disk.disk, name, disk.content, workers, watcher, &mut out)?;
        let place = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        digests.push(digits(place.sum));
        file.write_all_at(&header(name, vmdk.file_bytes, appliance.time).ok_or(NO_NAME)?, at)?;
        at = at.checked_add(member_bytes(vmdk.file_bytes)?).ok_or(TOO_LARGE)?;
        written.push(vmdk);
    }
    let mut description = describe(appliance, &parts(&names, written.iter().copied()));
    // White space behind the end means nothing.
    let missing = longest.len().checked_sub(description.len());
    let missing = missing.ok_or(ExportError::Bug("a description is longer than at most"))?;
    description.extend(std::iter::repeat_n('\n', missing));
    let own = digits(Sha256::new_with_prefix(&description));
    let all = std::iter::once((&*descriptor_name, &*own));
    let sums = sums(all.chain(names.iter().map(|name| &**name).zip(digests.iter().map(|sum| &**sum))));
    put(file, 0, &descriptor_name, &description, appliance.time)?;
    put(file, sums_at, &format!("{}.mf", appliance.file_name), &sums, appliance.time)?;
    file.write_all_at(&[0; END], at)?;
    let populated_bytes = written.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.populated_bytes));
    Ok(OvaWritten { file_bytes: at.saturating_add(END_BYTES), populated_bytes })
}

fn parts<'a>(names: &'a [String], written: impl Iterator<Item = VmdkWritten>) -> Vec<Part<'a>> {
    names.iter().zip(written).map(|(file, written)| Part { file, written }).collect()
}

/// The manifest: a line for each file.
fn sums<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    files.map(|(name, sum)| format!("SHA256({name})= {sum}\n")).collect()
}

fn digits(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A header and whole blocks.
fn member_bytes(size_bytes: u64) -> Result<u64, ExportError> {
    whole_blocks(size_bytes).and_then(|blocks| blocks.checked_add(BLOCK_BYTES)).ok_or(TOO_LARGE)
}

fn put(file: &File, at: u64, name: &str, text: &str, time: u64) -> Result<(), ExportError> {
    file.write_all_at(&header(name, length(text.as_bytes()), time).ok_or(NO_NAME)?, at)?;
    file.write_all_at(text.as_bytes(), at.saturating_add(BLOCK_BYTES))?;
    Ok(())
}

/// A place in a file that moves on, and the sum of what went there.
struct HashedWriter<'a> {
    file: &'a File,
    at: u64,
    sum: Sha256,
}

impl Write for HashedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.sum.update(bytes);
        self.at = self.at.saturating_add(length(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
